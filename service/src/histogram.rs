//! A histogram of latencies or of rates: lock-free to record, quantiles within a few per cent.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Buckets per doubling: the error of a quantile is at most 2^(1/8) - 1 = 9 %.
const PER_DOUBLING: usize = 8;
/// From 1 over 30 doublings to a thousand million: of latencies in µs, 18 minutes.
const BUCKETS: usize = PER_DOUBLING * 30;

/// Latencies since the start, in microseconds; or other whole numbers in their own unit.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
    count: AtomicU64,
    sum: AtomicU64,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(),
            count: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            max: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    /// Adds one latency.
    pub fn record(&self, latency: Duration) {
        self.add(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
    }

    /// Adds one number; 0 counts as 1.
    pub fn add(&self, value: u64) {
        let value = value.max(1);
        let index = ((value as f64).log2() * PER_DOUBLING as f64) as usize;
        if let Some(bucket) = self.buckets.get(index.min(BUCKETS - 1)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
        self.max.fetch_max(value, Ordering::Relaxed);
    }

    /// The largest number; 0 if there is none.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Their sum in seconds.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        self.sum.load(Ordering::Relaxed) as f64 / 1e6
    }

    /// The latency, in milliseconds, that a share `q` of all stays below; 0 when there is none.
    #[must_use]
    pub fn quantile_ms(&self, q: f64) -> f64 {
        self.quantile(q) / 1000.0
    }

    /// The number that a share `q` of all stays below; 0 when there is none.
    #[must_use]
    pub fn quantile(&self, q: f64) -> f64 {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|b| b.load(Ordering::Relaxed))
            .collect();
        let total: u64 = counts.iter().sum();
        let rank = (q * total as f64).ceil() as u64;
        let mut seen = 0;
        for (index, count) in counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return 2f64.powf((index + 1) as f64 / PER_DOUBLING as f64);
            }
        }
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_within_a_bucket() {
        let histogram = Histogram::default();
        for ms in 1..=1000 {
            histogram.record(Duration::from_millis(ms));
        }
        for (q, expected) in [(0.5, 500.0), (0.95, 950.0), (0.99, 990.0)] {
            let found = histogram.quantile_ms(q);
            assert!((found / expected - 1.0).abs() < 0.1, "{q}: {found}");
        }
        assert_eq!(histogram.count(), 1000);
        assert_eq!(histogram.max(), 1_000_000, "microseconds");
    }

    #[test]
    fn an_empty_one_has_quantiles_of_zero() {
        assert_eq!(Histogram::default().quantile_ms(0.95), 0.0);
    }
}
