//! A call's deadline, which gRPC carries as a timeout in `grpc-timeout`.

use std::time::{Duration, Instant};

use http::HeaderMap;

/// When a call that begins now has to end; `None` without a timeout, or with one that cannot be read.
#[must_use]
pub fn deadline(headers: &HeaderMap) -> Option<Instant> {
    let timeout = parse(headers.get("grpc-timeout")?.to_str().ok()?)?;
    Instant::now().checked_add(timeout)
}

/// At most eight digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|c| c.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_the_protocol_writes_them() {
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse("2S"), Some(Duration::from_secs(2)));
        let longest = Duration::from_secs(99_999_999 * 3600);
        assert_eq!(parse("99999999H"), Some(longest));
        for bad in [
            "",
            "m",
            "5",
            "5x",
            "123456789m",
            "-1S",
            "+5S",
            "5mm",
            " 5S",
            "5 S",
            "5ä",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn calls_without_a_timeout_have_none() {
        assert_eq!(deadline(&HeaderMap::new()), None);
    }
}
