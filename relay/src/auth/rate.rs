//! How often one user or one address may call: a bucket of tokens each, refilled by time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use betcode_service::sync::lock;

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
        let mut buckets = lock(&self.buckets);
        if buckets.len() >= limits::RATE_KEYS_MAX && !buckets.contains_key(key) {
            self.drop_idle(&mut buckets, now);
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

    /// Drops the buckets that are full again, as they say nothing, and if that is not enough those
    /// that were idle the longest: never one that is being emptied. Many at once, so that not
    /// every new key looks through all of them.
    fn drop_idle(&self, buckets: &mut HashMap<K, Bucket>, now: Instant) {
        buckets.retain(|_, bucket| bucket.tokens_at(self.rate, now) < self.rate.burst);
        let most = limits::RATE_KEYS_MAX - limits::RATE_KEYS_DROPPED;
        let Some(last) = buckets.len().checked_sub(most + 1) else {
            return;
        };
        let mut used: Vec<Instant> = buckets.values().map(|bucket| bucket.filled_at).collect();
        let (_, &mut until, _) = used.select_nth_unstable(last);
        let mut left = last + 1;
        buckets.retain(|_, bucket| {
            let goes = bucket.filled_at <= until && left > 0;
            left -= usize::from(goes);
            !goes
        });
    }
}

impl Bucket {
    fn tokens_at(&self, rate: Rate, now: Instant) -> f64 {
        let passed_s = now.saturating_duration_since(self.filled_at).as_secs_f64();
        (self.tokens + passed_s * rate.per_s).min(rate.burst)
    }

    fn fill(&mut self, rate: Rate, now: Instant) {
        self.tokens = self.tokens_at(rate, now);
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
    #[test]
    fn a_flood_of_other_keys_frees_no_key_that_is_over_its_rate() {
        let limiter = RateLimiter::new(Rate {
            per_s: 1e-6,
            burst: 1.0,
        });
        let start = Instant::now();
        let flooder = limits::RATE_KEYS_MAX * 10;
        assert!(limiter.take(&flooder, start).is_ok());
        for key in 0..limits::RATE_KEYS_MAX * 2 {
            let now = start + Duration::from_micros(key as u64);
            let _ = limiter.take(&key, now);
            if key % 1_000 == 0 {
                assert!(limiter.take(&flooder, now).is_err(), "after {key} others");
            }
        }
    }
}
