//! Pauses between attempts.

use std::time::Duration;

/// Pauses whose bounds double from the first to the last. Each is drawn at random between zero and its
/// bound, so that many who wait for the same thing do not all come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Bound of the first pause.
    pub first: Duration,
    /// Bound of the last.
    pub last: Duration,
}

impl Backoff {
    /// The bound of the pause after so many failures in a row.
    #[must_use]
    pub fn bound(&self, failures: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(31));
        self.first.saturating_mul(doubled).min(self.last)
    }

    /// A pause below the bound, by a random number.
    #[must_use]
    pub fn pause(&self, failures: u32, random: u64) -> Duration {
        // The upper 53 bits: as many as a fraction between 0 and 1 has.
        let fraction = (random >> 11) as f64 / (1_u64 << 53) as f64;
        self.bound(failures).mul_f64(fraction)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_last_and_are_spread() {
        let backoff = Backoff {
            first: Duration::from_millis(200),
            last: Duration::from_secs(30),
        };
        let bounds = [1, 2, 3, 8, 9, 100].map(|failures| backoff.bound(failures).as_millis());
        assert_eq!(bounds, [200, 400, 800, 25_600, 30_000, 30_000]);
        assert_eq!(backoff.pause(9, 0), Duration::ZERO);
        assert!(backoff.pause(9, u64::MAX / 2) < Duration::from_millis(15_001));
        assert!(backoff.pause(9, u64::MAX) <= Duration::from_secs(30));
    }
}
