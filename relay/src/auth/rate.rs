//! How often one user or one address may call: a bucket of tokens each, refilled by time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::limits;

/// A rate: so many a second, and so many at once after a pause.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Refilled per second.
    pub per_s: f64,
    /// Held at most.
    pub burst: f64,
}

/// Counts calls by key.
pub struct RateLimiter<K> {
    rate: Rate,
    buckets: Mutex<HashMap<K, Bucket>>,
}

struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl<K: Hash + Eq + Clone> RateLimiter<K> {
    /// A limiter at this rate.
    #[must_use]
    pub fn new(rate: Rate) -> Self {
        Self {
            rate,
            buckets: Mutex::new(HashMap::new()),
        }
    }

    /// Takes one token of `key`'s.
    ///
    /// # Errors
    /// The time after which there is one again.
    pub fn take(&self, key: &K, now: Instant) -> Result<(), Duration> {
        // No code panics while it holds the lock, so a poisoned one is still whole.
        let mut buckets = self.buckets.lock().unwrap_or_else(|e| e.into_inner());
        if buckets.len() >= limits::RATE_KEYS_MAX && !buckets.contains_key(key) {
            self.forget_full(&mut buckets, now);
        }
        let bucket = buckets.entry(key.clone()).or_insert(Bucket {
            tokens: self.rate.burst,
            filled_at: now,
        });
        bucket.fill(self.rate, now);
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        let missing_s = (1.0 - bucket.tokens) / self.rate.per_s.max(f64::MIN_POSITIVE);
        Err(Duration::try_from_secs_f64(missing_s).unwrap_or(Duration::MAX))
    }

    /// Drops the buckets that are full again: they say nothing. If all are in use, all are
    /// dropped: letting a few calls too many through is better than growing without bound.
    fn forget_full(&self, buckets: &mut HashMap<K, Bucket>, now: Instant) {
        buckets.retain(|_, bucket| {
            bucket.fill(self.rate, now);
            bucket.tokens < self.rate.burst
        });
        if buckets.len() >= limits::RATE_KEYS_MAX {
            buckets.clear();
        }
    }
}

impl Bucket {
    fn fill(&mut self, rate: Rate, now: Instant) {
        let passed_s = now.saturating_duration_since(self.filled_at).as_secs_f64();
        self.tokens = (self.tokens + passed_s * rate.per_s).min(rate.burst);
        self.filled_at = self.filled_at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_then_the_rate_and_keys_do_not_share() {
        let limiter = RateLimiter::new(Rate {
            per_s: 10.0,
            burst: 3.0,
        });
        let start = Instant::now();
        let taken = (0..5).filter(|_| limiter.take(&"a", start).is_ok()).count();
        assert_eq!(taken, 3);
        let wait = limiter.take(&"a", start).unwrap_err();
        assert!(wait <= Duration::from_millis(100));
        assert!(limiter.take(&"b", start).is_ok());
        assert!(limiter.take(&"a", start + wait).is_ok());
        assert!(limiter.take(&"a", start + wait).is_err());
    }

    #[test]
    fn keys_are_bounded() {
        let limiter = RateLimiter::new(Rate {
            per_s: 1.0,
            burst: 1.0,
        });
        let now = Instant::now();
        for key in 0..limits::RATE_KEYS_MAX * 2 {
            let _ = limiter.take(&key, now);
        }
        assert!(limiter.buckets.lock().unwrap().len() <= limits::RATE_KEYS_MAX);
    }
}
