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
}
