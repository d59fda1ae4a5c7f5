//! Numbers, sizes and times as people read them. Sizes are decimal: MB is 10^6 bytes.

use betcode_storage::capacity::text::{acts_on_terminal, percent};
pub use betcode_storage::capacity::text::{bytes, count, date_time, hours};

/// A count and what is counted: `1 session`, `2,000 sessions`.
#[must_use]
pub fn counted(number: u64, singular: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {singular}{plural}", count(number))
}

/// The same for what takes `es`: `1 match`, `20 matches`.
#[must_use]
pub fn counted_es(number: u64, singular: &str) -> String {
    let plural = if number == 1 { "" } else { "es" };
    format!("{} {singular}{plural}", count(number))
}

/// `part` of `whole` as a percentage: `8.4 %`; a dash when there is no whole.
#[must_use]
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "–".to_owned();
    }
    percent(part as f64 / whole as f64)
}

/// A duration: `0.8 s`, `42 s`, `3 min 5 s`, `2 h 10 min`.
#[must_use]
pub fn seconds(seconds: f64) -> String {
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    match whole {
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

/// A size per second; a dash when nothing was measured.
#[must_use]
pub fn rate(bytes: u64, seconds: f64) -> String {
    if seconds <= 0.0 || bytes == 0 {
        return "–".to_owned();
    }
    // Lossless enough: three figures are shown.
    format!("{}/s", self::bytes((bytes as f64 / seconds) as u64))
}

/// Text in which what [acts on a terminal](acts_on_terminal) is written as Rust writes it: what a file is
/// called must not look like a line of ours, nor change what a terminal shows.
#[must_use]
pub fn on_one_line(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if acts_on_terminal(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// At most `width` characters of text on one line, with spaces for what acts on a terminal, and `…` where
/// it was cut.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    let plain: String = text
        .chars()
        .map(|c| if acts_on_terminal(c) { ' ' } else { c })
        .collect();
    let plain = plain.trim();
    if plain.chars().count() <= width {
        return plain.to_owned();
    }
    let mut short: String = plain.chars().take(width.saturating_sub(1)).collect();
    short.truncate(short.trim_end().len());
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(count(number), text);
        }
        assert_eq!(counted(1, "file"), "1 file");
        assert_eq!(counted(0, "file"), "0 files");
    }

    #[test]
    fn durations_read_naturally() {
        for (value, text) in [
            (0.04, "0.0 s"),
            (9.94, "9.9 s"),
            (59.6, "1 min 0 s"),
            (185.0, "3 min 5 s"),
            (7800.0, "2 h 10 min"),
        ] {
            assert_eq!(seconds(value), text);
        }
    }

    #[test]
    fn text_is_cut_at_characters_and_stays_on_one_line() {
        assert_eq!(cut("two\nlines", 20), "two lines");
        assert_eq!(cut("ääääää", 4), "äää…");
        assert_eq!(cut("\u{1b}[31mred\u{202e}", 20), "[31mred");
        assert_eq!(on_one_line("a\u{1b}\n\u{202e}b"), r"a\u{1b}\n\u{202e}b");
    }
}
