//! Figures: how they are summed up and shown.

use std::time::{Duration, Instant};

/// Durations, for percentiles.
#[derive(Debug, Clone, Default)]
pub struct Durations(Vec<Duration>);

impl Durations {
    /// Adds one.
    pub fn push(&mut self, duration: Duration) {
        self.0.push(duration);
    }

    /// Adds all of another.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The one below which `percent` of them are, in milliseconds.
    #[must_use]
    pub fn percentile_ms(&mut self, percent: f64) -> f64 {
        self.0.sort_unstable();
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0
            .get(rank.clamp(1, self.0.len().max(1)) - 1)
            .map_or(f64::NAN, |duration| duration.as_secs_f64() * 1e3)
    }

    /// p50, p95, p99 and the longest, for people.
    #[must_use]
    pub fn summary(&mut self) -> String {
        format!(
            "p50 {:.2} p95 {:.2} p99 {:.2} max {:.2} ms",
            self.percentile_ms(50.0),
            self.percentile_ms(95.0),
            self.percentile_ms(99.0),
            self.percentile_ms(100.0)
        )
    }
}

/// The middle one.
#[must_use]
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// How long `work` takes.
pub fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let started = Instant::now();
    let value = work();
    (started.elapsed(), value)
}

/// How busy the machine is with other things: figures mean little on a busy one.
#[must_use]
pub fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let minute = load.split(' ').next().unwrap_or("?").to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("load of the last minute {minute} on {cores} cores")
}

/// Bytes that this process has passed to the system to write, to any file.
#[must_use]
pub fn written_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/io")
        .unwrap()
        .lines()
        .find_map(|line| line.strip_prefix("wchar: ")?.parse().ok())
        .unwrap()
}

/// How often a measurement is repeated: `BETCODE_BENCH_RUNS`, else `default`.
#[must_use]
pub fn runs(default: usize) -> usize {
    setting("BETCODE_BENCH_RUNS", default)
}

/// A number from the environment, else `default`.
#[must_use]
pub fn setting(name: &str, default: usize) -> usize {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
