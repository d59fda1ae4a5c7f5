//! How near its limits the relay is: sampled, judged by the evaluation that all programs share,
//! told to the log when it changes and to the metrics when they are asked for.

use std::sync::{Mutex, PoisonError};

use betcode_service::process::CpuSampler;
use betcode_storage::capacity::levels::{Level, LevelTracker, Metric};

use crate::metrics::Gauges;

/// The levels as last sampled.
#[derive(Default)]
pub struct Levels(Mutex<Sampler>);

#[derive(Default)]
struct Sampler {
    tracker: LevelTracker,
    cpu: CpuSampler,
    levels: Vec<(Metric, Level)>,
}

impl Levels {
    /// Takes a sample of everything, and logs what changed.
    pub fn sample(&self, gauges: &Gauges) {
        // Plain data, valid after every statement.
        let mut sampler = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let cpu = sampler.cpu.sample();
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
            (Metric::Cpu, (cpu.used, cpu.limit)),
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
}
