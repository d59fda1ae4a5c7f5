//! How sizes, counts, shares, spans and days are written for people, the same everywhere.

use chrono::DateTime;

use super::quantity::{GB, KB, MB};

/// Milliseconds of a day.
pub const DAY_MS: i64 = 86_400_000;

/// Bytes with three digits and a decimal unit: `950 B`, `1.76 GB`, `300 MB`.
///
/// ```
/// use betcode_storage::capacity::text::bytes;
/// assert_eq!(bytes(1_760_000_000), "1.76 GB");
/// assert_eq!(bytes(999_999), "1.00 MB");
/// ```
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("KB", KB), ("MB", MB), ("GB", GB), ("TB", 1000 * GB)];
    if count < KB {
        return format!("{count} B");
    }
    for (position, (unit, size)) in UNITS.into_iter().enumerate() {
        let value = count as f64 / size as f64;
        // 999.5 and above would be written with four digits: the next unit has it.
        if value < 999.5 || position + 1 == UNITS.len() {
            return format!("{} {unit}", three_digits(value));
        }
    }
    String::new()
}

/// Like [`bytes()`], without digits that say nothing: `2 GB`, `50 MB`, `2.50 GB`.
#[must_use]
pub fn round_bytes(count: u64) -> String {
    bytes(count).replace(".00 ", " ").replace(".0 ", " ")
}

/// Two sizes of which one is more than the other: as [`bytes()`], or to the byte where they would read
/// the same.
///
/// ```
/// use betcode_storage::capacity::text::bytes_apart;
/// assert_eq!(bytes_apart(4_250_000, 3_700_000), ("4.25 MB".into(), "3.70 MB".into()));
/// assert_eq!(bytes_apart(999_999, 1_000_000), ("999,999 B".into(), "1,000,000 B".into()));
/// ```
#[must_use]
pub fn bytes_apart(one: u64, other: u64) -> (String, String) {
    let shown = (bytes(one), bytes(other));
    match shown.0 == shown.1 && one != other {
        true => (format!("{} B", count(one)), format!("{} B", count(other))),
        false => shown,
    }
}

/// A number with three significant digits and no exponent, for measured values.
#[must_use]
pub fn three_digits(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude < 9.995 {
        format!("{value:.2}")
    } else if magnitude < 99.95 {
        format!("{value:.1}")
    } else {
        thousands_signed(value.round())
    }
}

/// A count with its thousands apart: `12,345`.
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn thousands_signed(whole: f64) -> String {
    let sign = if whole < 0.0 { "-" } else { "" };
    format!("{sign}{}", count(whole.abs() as u64))
}

/// A share as a percentage: `8.4 %`, `72 %`, `< 0.1 %`.
#[must_use]
pub fn percent(fraction: f64) -> String {
    let percent = fraction * 100.0;
    if percent > 0.0 && percent < 0.05 {
        "< 0.1 %".into()
    } else if percent.abs() < 9.95 {
        format!("{percent:.1} %")
    } else {
        format!("{} %", thousands_signed(percent.round()))
    }
}

/// The share of a limit that is used as a percentage, rounded down, so that a figure below a threshold
/// never reads as if it had reached it: `69 %` of 69.96.
#[must_use]
pub fn used_percent(used: u64, limit: u64) -> String {
    let per_mille = u128::from(used) * 1000 / u128::from(limit.max(1));
    match per_mille {
        0 if used > 0 => "< 0.1 %".into(),
        0..100 => format!("{}.{} %", per_mille / 10, per_mille % 10),
        _ => format!(
            "{} %",
            count(u64::try_from(per_mille / 10).unwrap_or(u64::MAX))
        ),
    }
}

/// The UTC day of a time: `2026-02-14`. A time beyond the calendar is `-`.
#[must_use]
pub fn date(unix_ms: i64) -> String {
    formatted(unix_ms, "%Y-%m-%d")
}

/// Day and minute in UTC: `2026-02-14 09:30`.
#[must_use]
pub fn date_time(unix_ms: i64) -> String {
    formatted(unix_ms, "%Y-%m-%d %H:%M")
}

fn formatted(unix_ms: i64, pattern: &str) -> String {
    DateTime::from_timestamp_millis(unix_ms)
        .map_or_else(|| "-".into(), |time| time.format(pattern).to_string())
}

/// A span of active or wall-clock time in hours: `3.25 h`, `1,240 h`.
#[must_use]
pub fn hours(hours: f64) -> String {
    format!("{} h", three_digits(hours))
}

/// How far ahead something is: `today`, `in 12 days`, `in 5 months`, `in 3 years`.
#[must_use]
pub fn days_ahead(days: f64) -> String {
    if days < 1.0 {
        "within a day".into()
    } else if days < 60.0 {
        format!("in {} days", days.round())
    } else if days < 730.0 {
        format!("in {} months", (days / 30.44).round())
    } else {
        format!("in {} years", (days / 365.25).round())
    }
}

/// Whether a character can act on a terminal, reorder the line that it stands in, or hide: control
/// characters, line separators, bidirectional overrides and characters without width.
#[must_use]
pub fn acts_on_terminal(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// `text` with a middle dot for each character that [acts on a terminal](acts_on_terminal). Session
/// names and directories are input.
#[must_use]
pub fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| if acts_on_terminal(c) { '·' } else { c })
        .collect()
}

/// `text` in exactly `cells` columns of a terminal: padded, or cut at its end with `…`.
#[must_use]
pub fn fit(text: &str, cells: usize) -> String {
    let text = harmless(text);
    let mut out = String::new();
    let mut used = 0;
    let whole: usize = text.chars().map(cells_of).sum();
    let room = if whole > cells {
        cells.saturating_sub(1)
    } else {
        cells
    };
    for c in text.chars() {
        if used + cells_of(c) > room {
            break;
        }
        used += cells_of(c);
        out.push(c);
    }
    if whole > cells && cells > 0 {
        out.push('…');
        used += 1;
    }
    out.push_str(&" ".repeat(cells.saturating_sub(used)));
    out
}

/// Like [`fit`], but a long `text` is cut at its beginning: the end of a path tells more.
#[must_use]
pub fn fit_end(text: &str, cells: usize) -> String {
    let text = harmless(text);
    if text.chars().map(cells_of).sum::<usize>() <= cells {
        return fit(&text, cells);
    }
    let kept = bytes_within(text.chars().rev(), cells.saturating_sub(1));
    fit(&format!("…{}", &text[text.len() - kept..]), cells)
}

/// `text` in at most `cells` columns of a terminal: of a long one the beginning and the end, with
/// `…` between them. Names that begin alike, as those of a folder's sessions do, differ in their
/// ends.
///
/// ```
/// use betcode_storage::capacity::text::elide_middle;
/// assert_eq!(elide_middle("release-notes-of-monday", 13), "releas…monday");
/// ```
#[must_use]
pub fn elide_middle(text: &str, cells: usize) -> String {
    let text = harmless(text);
    if text.chars().map(cells_of).sum::<usize>() <= cells {
        return text;
    }
    let Some(room) = cells.checked_sub(1) else {
        return String::new();
    };
    let begin = &text[..bytes_within(text.chars(), room.div_ceil(2))];
    let end = &text[text.len() - bytes_within(text.chars().rev(), room / 2)..];
    // A mark whose letter is left out would be put on the `…`.
    let end = end.trim_start_matches(|c| cells_of(c) == 0);
    format!("{begin}…{end}")
}

/// Bytes of the first of `chars`, as many as fit into `cells`.
fn bytes_within(chars: impl Iterator<Item = char>, cells: usize) -> usize {
    let (mut used, mut bytes) = (0, 0);
    for c in chars {
        used += cells_of(c);
        if used > cells {
            break;
        }
        bytes += c.len_utf8();
    }
    bytes
}

/// Columns that a character takes: two for East Asian wide characters and emoji, none for
/// combining marks. Close enough for tables, without a table of Unicode.
fn cells_of(c: char) -> usize {
    match u32::from(c) {
        0x300..=0x36f | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60
        | 0xffe0..=0xffe6
        | 0x1f300..=0x1faff
        | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_show_three_digits_and_never_a_thousand() {
        for (value, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 KB"),
            (9_994, "9.99 KB"),
            (99_960, "100 KB"),
            (999_499, "999 KB"),
            (999_500, "1.00 MB"),
            (300 * MB, "300 MB"),
            (u64::MAX, "18,446,744 TB"),
        ] {
            assert_eq!(bytes(value), text);
        }
    }

    #[test]
    fn counts_have_their_thousands_apart() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
    }

    #[test]
    fn shares_days_and_spans_read_as_written() {
        assert_eq!(percent(0.084), "8.4 %");
        assert_eq!(percent(0.72), "72 %");
        assert_eq!(percent(0.0001), "< 0.1 %");
        assert_eq!(percent(0.0), "0.0 %");
        assert_eq!(date(1_771_027_200_000), "2026-02-14");
        assert_eq!(date(i64::MAX), "-");
        assert_eq!(days_ahead(0.2), "within a day");
        assert_eq!(days_ahead(12.4), "in 12 days");
        assert_eq!(days_ahead(150.0), "in 5 months");
    }

    #[test]
    fn a_share_of_a_limit_does_not_read_as_a_threshold_that_it_has_not_reached() {
        for (used, limit, text) in [
            (6_996, 10_000, "69 %"),
            (7_000, 10_000, "70 %"),
            (8_999, 10_000, "89 %"),
            (29, 100, "29 %"),
            (9_999, 100_000, "9.9 %"),
            (0, 7, "0.0 %"),
            (1, 10_000, "< 0.1 %"),
            (25, 2, "1,250 %"),
        ] {
            assert_eq!(used_percent(used, limit), text, "{used} of {limit}");
        }
    }

    #[test]
    fn names_cannot_act_on_a_terminal() {
        assert_eq!(harmless("a\x1b[31mb\nc\u{202e}d"), "a·[31mb·c·d");
    }

    #[test]
    fn cells_are_filled_exactly() {
        for (text, fitted) in [
            ("ab", "ab   "),
            ("abcdef", "abcd…"),
            ("日本語", "日本…"),
            ("", "     "),
        ] {
            assert_eq!(fit(text, 5), fitted);
        }
        assert_eq!(fit("日本語日", 6), "日本… ");
        assert_eq!(fit_end("/home/me/project", 9), "…/project");
        assert_eq!(fit_end("/home/日本", 5), "…日本");
        assert_eq!(fit_end("ab", 4), "ab  ");
    }

    #[test]
    fn the_middle_of_a_long_name_is_left_out_and_no_character_is_split() {
        for (text, cells, elided) in [
            ("abcdef", 6, "abcdef"),
            ("abcdefg", 6, "abc…fg"),
            ("abcdefg", 5, "ab…fg"),
            ("ääääéééé", 5, "ää…éé"),
            ("日本語日本語", 7, "日…語"),
            ("日本語日本語", 8, "日本…語"),
            ("abcde\u{301}f", 3, "a…f"),
            ("abcde\u{301}\u{301}", 3, "a…e\u{301}\u{301}"),
            ("a\nbcdefg", 5, "a·…fg"),
            ("abc", 1, "…"),
            ("abc", 0, ""),
            ("", 0, ""),
        ] {
            assert_eq!(elide_middle(text, cells), elided, "{text:?} in {cells}");
        }
    }
}
