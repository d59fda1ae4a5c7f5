//! How near its limits the relay is: sampled, judged by the evaluation that all programs share,
//! written to the log when it changes, and to the metrics when they are asked for.

use std::sync::Mutex;
use std::time::Instant;

use betcode_service::process::CpuSampler;
use betcode_service::sync::lock;
use betcode_storage::capacity::levels::{LevelTracker, Metric, level_of};
use betcode_storage::capacity::planner::MetricSample;

use crate::metrics::Gauges;

/// The levels as last sampled.
#[derive(Default)]
pub struct Levels(Mutex<Sampler>);

#[derive(Default)]
struct Sampler {
    tracker: LevelTracker,
    cpu: CpuSampler,
    samples: Vec<MetricSample>,
    rate: CallRate,
}

/// Calls a second, counted from sample to sample.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallRate {
    before: Option<(Instant, u64)>,
    /// Between the last two samples, rounded up.
    pub per_s: u64,
    /// The most between any two.
    pub per_s_max: u64,
}

impl CallRate {
    fn sample(&mut self, now: Instant, calls: u64) {
        if let Some((then, before)) = self.before.replace((now, calls)) {
            let passed_s = now.duration_since(then).as_secs_f64().max(1e-3);
            self.per_s = (calls.saturating_sub(before) as f64 / passed_s).ceil() as u64;
            self.per_s_max = self.per_s_max.max(self.per_s);
        }
    }
}

/// A bound of the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BufferBound {
    /// Requests of all machines.
    Requests,
    /// Requests of the machine that has the most.
    RequestsOfOneMachine,
    /// Bytes of all requests.
    Bytes,
}

impl BufferBound {
    /// The bound that is nearest, what is used of it, and how much there may be. A bound of 0 lets nothing
    /// wait, and is the one that counts.
    #[must_use]
    pub fn nearest(gauges: &Gauges) -> (Self, u64, u64) {
        let bounds = [
            (Self::Bytes, gauges.waiting_bytes, gauges.waiting_bytes_max),
            (
                Self::RequestsOfOneMachine,
                gauges.waiting_of_fullest as u64,
                gauges.waiting_per_machine_max as u64,
            ),
            (
                Self::Requests,
                gauges.waiting as u64,
                gauges.waiting_max as u64,
            ),
        ];
        let is_nearer = |one: &(Self, u64, u64), other: &(Self, u64, u64)| {
            other.2 != 0
                && (one.2 == 0
                    || u128::from(one.1) * u128::from(other.2)
                        > u128::from(other.1) * u128::from(one.2))
        };
        let [bytes, of_one, of_all] = bounds;
        let nearer = |one, other| if is_nearer(&one, &other) { one } else { other };
        nearer(bytes, nearer(of_one, of_all))
    }
}

/// What is used of a metric's limit now; `None` of the processor, whose use is one between two samples.
fn used_now(metric: Metric, gauges: &Gauges) -> Option<(u64, u64)> {
    match metric {
        Metric::Tunnels => Some((gauges.tunnels as u64, gauges.tunnels_max as u64)),
        Metric::BufferSize => {
            let (_, used, limit) = BufferBound::nearest(gauges);
            Some((used, limit))
        }
        Metric::Memory => Some((gauges.resident_bytes, gauges.memory_bytes_max)),
        Metric::Cpu | Metric::Sessions | Metric::SqliteSize | Metric::Disk => None,
    }
}

impl Levels {
    /// Takes a sample of everything, and logs what changed. `calls` are those so far.
    pub fn sample(&self, gauges: &Gauges, calls: u64) {
        let mut sampler = lock(&self.0);
        let cpu = sampler.cpu.sample();
        sampler.rate.sample(Instant::now(), calls);
        sampler.samples.clear();
        for metric in [
            Metric::Tunnels,
            Metric::BufferSize,
            Metric::Memory,
            Metric::Cpu,
        ] {
            let (used, limit) = used_now(metric, gauges).unwrap_or((cpu.used, cpu.limit));
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
            sampler.samples.push(MetricSample {
                metric,
                used,
                limit,
                level,
            });
        }
    }

    /// The levels of what there is now, but for the processor's, which is the last sample's.
    #[must_use]
    pub fn now(&self, gauges: &Gauges) -> Vec<MetricSample> {
        let sampler = lock(&self.0);
        let now = sampler.samples.iter().map(|sample| {
            let Some((used, limit)) = used_now(sample.metric, gauges) else {
                return *sample;
            };
            // A limit of 0 had no sample.
            let level = level_of(sample.metric, used, limit, sample.level);
            MetricSample {
                used,
                limit,
                level: level.unwrap_or(sample.level),
                ..*sample
            }
        });
        now.collect()
    }

    /// Calls a second, as last sampled.
    #[must_use]
    pub fn call_rate(&self) -> CallRate {
        lock(&self.0).rate
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use betcode_storage::capacity::levels::Level;

    use super::*;

    const GAUGES: Gauges = Gauges {
        tunnels: 0,
        tunnels_max: 10,
        clients: 0,
        clients_max: 10,
        calls: 0,
        calls_max: 10,
        waiting: 1,
        waiting_max: 100,
        waiting_of_fullest: 1,
        waiting_per_machine_max: 10,
        waiting_bytes: 0,
        waiting_bytes_max: 1000,
        resident_bytes: 0,
        resident_bytes_max: 0,
        base_bytes: 0,
        planned_bytes: 0,
        memory_bytes_max: 1,
    };

    fn level(levels: &Levels, gauges: &Gauges, metric: Metric) -> Option<Level> {
        let now = levels.now(gauges);
        let found = now.iter().find(|sample| sample.metric == metric);
        found.map(|sample| sample.level)
    }

    #[test]
    fn the_bound_of_the_buffer_that_is_nearest_gives_its_level() {
        let by_bytes = Gauges {
            waiting_bytes: 950,
            ..GAUGES
        };
        let by_machine = Gauges {
            waiting: 9,
            waiting_of_fullest: 9,
            ..GAUGES
        };
        let by_all = Gauges {
            waiting: 90,
            waiting_of_fullest: 8,
            ..GAUGES
        };
        let none_may_wait = Gauges {
            waiting_max: 0,
            ..by_bytes
        };
        for (gauges, nearest) in [
            (by_bytes, (BufferBound::Bytes, 950, 1000)),
            (by_machine, (BufferBound::RequestsOfOneMachine, 9, 10)),
            (by_all, (BufferBound::Requests, 90, 100)),
            (none_may_wait, (BufferBound::Requests, 1, 0)),
        ] {
            assert_eq!(BufferBound::nearest(&gauges), nearest);
        }
        let levels = Levels::default();
        levels.sample(&by_machine, 0);
        let of = |metric| level(&levels, &by_machine, metric);
        assert_eq!(of(Metric::BufferSize), Some(Level::Critical));
        assert_eq!(of(Metric::Tunnels), Some(Level::Ok));
        assert_eq!(of(Metric::Cpu), Some(Level::Ok));
    }

    #[test]
    fn a_level_does_not_lag_behind_the_figure_beside_it() {
        let levels = Levels::default();
        levels.sample(&GAUGES, 0);
        let full = Gauges {
            tunnels: 9,
            ..GAUGES
        };
        assert_eq!(
            level(&levels, &full, Metric::Tunnels),
            Some(Level::Critical)
        );
    }

    #[test]
    fn calls_a_second_are_those_between_two_samples() {
        let mut rate = CallRate::default();
        let begun = Instant::now();
        rate.sample(begun, 100);
        assert_eq!(rate.per_s, 0, "there is nothing to count from");
        rate.sample(begun + Duration::from_secs(10), 350);
        rate.sample(begun + Duration::from_secs(20), 351);
        assert_eq!((rate.per_s, rate.per_s_max), (1, 25));
    }
}
