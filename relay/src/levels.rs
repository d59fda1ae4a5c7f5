//! How near its limits the relay is: sampled, judged by the evaluation that all programs share,
//! told to the log when it changes and to the metrics when they are asked for.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use betcode_storage::capacity::levels::{Level, LevelTracker, Metric};

use crate::metrics::Gauges;

/// The levels as last sampled.
#[derive(Default)]
pub struct Levels(Mutex<Sampler>);

#[derive(Default)]
struct Sampler {
    tracker: LevelTracker,
    busy_before: Option<(Instant, Duration)>,
    levels: Vec<(Metric, Level)>,
}

impl Levels {
    /// Takes a sample of everything, and logs what changed.
    pub fn sample(&self, gauges: &Gauges) {
        // Plain data, valid after every statement.
        let mut sampler = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (busy, processors) = sampler.busy();
        let (requests, requests_max) = (gauges.waiting as u64, gauges.waiting_max as u64);
        // Whichever bound of the buffer is nearer.
        let by_bytes = u128::from(gauges.waiting_bytes) * u128::from(requests_max)
            > u128::from(requests) * u128::from(gauges.waiting_bytes_max);
        let buffer = match by_bytes {
            true => (gauges.waiting_bytes, gauges.waiting_bytes_max),
            false => (requests, requests_max),
        };
        let tunnels = (gauges.tunnels as u64, gauges.tunnels_max as u64);
        let memory = (gauges.resident_bytes, gauges.memory_bytes_max);
        sampler.levels.clear();
        for (metric, (used, limit)) in [
            (Metric::Tunnels, tunnels),
            (Metric::BufferSize, buffer),
            (Metric::Memory, memory),
            (Metric::Cpu, (busy, processors)),
        ] {
            // Without a limit there is no level.
            let Ok(events) = sampler.tracker.observe(metric, used, limit) else {
                continue;
            };
            for event in events {
                match event.is_worse() {
                    true => tracing::warn!(advice = metric.advice(), "{event}"),
                    false => tracing::info!("{event}"),
                }
            }
            let level = sampler.tracker.level(metric);
            sampler.levels.push((metric, level));
        }
    }

    /// The levels.
    #[must_use]
    pub fn now(&self) -> Vec<(Metric, Level)> {
        let sampler = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sampler.levels.clone()
    }
}

impl Sampler {
    /// Busy thousandths of a processor since the last sample, of those there are.
    fn busy(&mut self) -> (u64, u64) {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let now = (Instant::now(), processor_time());
        let busy = self.busy_before.map_or(0.0, |(then, before)| {
            let passed = now.0.duration_since(then).as_secs_f64().max(1e-3);
            now.1.saturating_sub(before).as_secs_f64() / passed
        });
        self.busy_before = Some(now);
        ((busy * 1000.0) as u64, processors * 1000)
    }
}

/// Processor time of this process.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_bound_of_the_buffer_is_nearer_gives_its_level() {
        let gauges = Gauges {
            tunnels_max: 10,
            waiting: 1,
            waiting_max: 100,
            waiting_bytes: 950,
            waiting_bytes_max: 1000,
            memory_bytes_max: 1,
            ..Gauges::default()
        };
        let levels = Levels::default();
        levels.sample(&gauges);
        let of = |metric| {
            let now = levels.now();
            now.iter().find(|(m, _)| *m == metric).map(|(_, l)| *l)
        };
        assert_eq!(of(Metric::BufferSize), Some(Level::Critical));
        assert_eq!(of(Metric::Tunnels), Some(Level::Ok));
        assert_eq!(of(Metric::Cpu), Some(Level::Ok));
    }

    #[test]
    fn a_process_that_spins_is_busy() {
        let mut sampler = Sampler::default();
        sampler.busy();
        let began = Instant::now();
        while began.elapsed() < Duration::from_millis(50) {
            std::hint::black_box(began);
        }
        let (busy, processors) = sampler.busy();
        assert!(busy > 0 && processors >= 1000, "{busy} of {processors}");
    }
}
