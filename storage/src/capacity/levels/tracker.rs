//! Samples in, events out, each once.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{Level, Metric, Thresholds, zero_limit};
use crate::capacity::error::Result;
use crate::capacity::text;

/// Room that has to be there again before leaving the limit is announced, in percent of it.
/// Admission has no such margin: room is used as soon as it is there.
const LIMIT_MARGIN_PERCENT: u8 = 1;

/// Something that operators want to know, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum CapacityEvent {
    /// The level rose or fell. A jump over a level is one event.
    LevelChanged {
        /// Of what.
        metric: Metric,
        /// Before.
        from: Level,
        /// Now.
        to: Level,
        /// What is used.
        used: u64,
        /// Of how much.
        limit: u64,
    },
    /// The limit itself was reached: what adds to it is refused.
    LimitReached {
        /// Of what.
        metric: Metric,
        /// What is used.
        used: u64,
        /// Of how much.
        limit: u64,
    },
    /// There is room below the limit again.
    LimitCleared {
        /// Of what.
        metric: Metric,
        /// What is used.
        used: u64,
        /// Of how much.
        limit: u64,
    },
}

impl CapacityEvent {
    /// Whether things got worse.
    #[must_use]
    pub fn is_worse(&self) -> bool {
        match self {
            Self::LevelChanged { from, to, .. } => to > from,
            Self::LimitReached { .. } => true,
            Self::LimitCleared { .. } => false,
        }
    }
}

impl fmt::Display for CapacityEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (metric, used, limit) = match *self {
            Self::LevelChanged {
                metric,
                used,
                limit,
                ..
            }
            | Self::LimitReached {
                metric,
                used,
                limit,
            }
            | Self::LimitCleared {
                metric,
                used,
                limit,
            } => (metric, used, limit),
        };
        #[expect(clippy::cast_precision_loss, reason = "a percentage for people")]
        let share = text::percent(used as f64 / limit.max(1) as f64);
        let (used, limit) = (metric.amount(used), metric.amount(limit));
        write!(f, "{}: {used} of {limit} ({share})", metric.noun())?;
        match self {
            Self::LevelChanged { to: Level::Ok, .. } => write!(f, ", ok again"),
            Self::LevelChanged { from, to, .. } => {
                let was = if to < from {
                    ", no longer critical"
                } else {
                    ""
                };
                write!(f, "{was}, {}: {}", to.name(), metric.advice())
            }
            Self::LimitReached { .. } => {
                write!(f, ", limit reached: {}", metric.advice())
            }
            Self::LimitCleared { .. } => write!(f, ", below its limit again"),
        }
    }
}

/// What is known of one metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct MetricState {
    /// Its level.
    pub level: Level,
    /// Whether its limit is reached (see [`CapacityEvent::LimitReached`]).
    pub at_limit: bool,
    /// Its last sample.
    pub used: u64,
    /// The limit then.
    pub limit: u64,
    #[serde(skip)]
    runs: Runs,
}

/// Lengths of the current runs of samples at or above, and at or below, each level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Runs {
    critical: u32,
    at_least_warning: u32,
    at_most_warning: u32,
    ok: u32,
}

impl Runs {
    fn add(&mut self, sample: Level) {
        let count = |run: &mut u32, holds: bool| {
            *run = if holds { run.saturating_add(1) } else { 0 };
        };
        count(&mut self.critical, sample == Level::Critical);
        count(&mut self.at_least_warning, sample >= Level::Warning);
        count(&mut self.at_most_warning, sample <= Level::Warning);
        count(&mut self.ok, sample == Level::Ok);
    }

    /// The level after these runs, when it was `current`.
    fn settled(self, current: Level, samples_min: u32) -> Level {
        let lasted = |run: u32| run >= samples_min;
        let rises_to = if lasted(self.critical) {
            Level::Critical
        } else if lasted(self.at_least_warning) {
            Level::Warning
        } else {
            Level::Ok
        };
        let falls_to = if lasted(self.ok) {
            Level::Ok
        } else if lasted(self.at_most_warning) {
            Level::Warning
        } else {
            Level::Critical
        };
        current.max(rises_to).min(falls_to)
    }
}

/// Levels of several metrics over time. Give it every sample; it answers with what changed.
#[derive(Debug, Clone, Default)]
pub struct LevelTracker {
    states: BTreeMap<Metric, MetricState>,
    thresholds: BTreeMap<Metric, Thresholds>,
}

impl LevelTracker {
    /// A tracker with the plan's thresholds, everything at [`Level::Ok`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Uses other thresholds than the plan's for `metric`.
    ///
    /// # Errors
    /// See [`Thresholds::validate`].
    pub fn set_thresholds(&mut self, metric: Metric, thresholds: Thresholds) -> Result<()> {
        self.thresholds.insert(metric, thresholds.validate()?);
        Ok(())
    }

    /// Takes a sample; what changed by it, at most a level and the limit.
    ///
    /// # Errors
    /// `CapacityError::Zero` for a limit of 0; the sample is not taken.
    pub fn observe(&mut self, metric: Metric, used: u64, limit: u64) -> Result<Vec<CapacityEvent>> {
        let thresholds = self
            .thresholds
            .get(&metric)
            .copied()
            .unwrap_or_else(|| metric.thresholds());
        if limit == 0 {
            return Err(zero_limit());
        }
        let state = self.states.entry(metric).or_default();
        let sample = thresholds.level_of(used, limit, state.level)?;
        state.runs.add(sample);
        let from = state.level;
        let to = state.runs.settled(from, thresholds.samples_min);
        let mut events = Vec::new();
        if to != from {
            events.push(CapacityEvent::LevelChanged {
                metric,
                from,
                to,
                used,
                limit,
            });
        }
        let room_percent = 100 - u128::from(LIMIT_MARGIN_PERCENT);
        let has_room = u128::from(used) * 100 < u128::from(limit) * room_percent;
        if used >= limit && !state.at_limit {
            events.push(CapacityEvent::LimitReached {
                metric,
                used,
                limit,
            });
            state.at_limit = true;
        } else if has_room && state.at_limit {
            events.push(CapacityEvent::LimitCleared {
                metric,
                used,
                limit,
            });
            state.at_limit = false;
        }
        *state = MetricState {
            level: to,
            used,
            limit,
            ..*state
        };
        Ok(events)
    }

    /// The level of `metric`; [`Level::Ok`] before its first sample.
    #[must_use]
    pub fn level(&self, metric: Metric) -> Level {
        self.states
            .get(&metric)
            .map_or(Level::Ok, |state| state.level)
    }

    /// The worst level of all.
    #[must_use]
    pub fn worst(&self) -> Level {
        self.states
            .values()
            .map(|state| state.level)
            .max()
            .unwrap_or_default()
    }

    /// What is known of each metric that was sampled.
    pub fn states(&self) -> impl Iterator<Item = (Metric, MetricState)> {
        self.states.iter().map(|(metric, state)| (*metric, *state))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::levels::CPU_SUSTAINED_SAMPLES;
    use proptest::prelude::*;

    fn levels(tracker: &mut LevelTracker, metric: Metric, samples: &[u64]) -> Vec<(Level, Level)> {
        let observed = samples
            .iter()
            .flat_map(|used| tracker.observe(metric, *used, 100).unwrap());
        observed
            .filter_map(|event| match event {
                CapacityEvent::LevelChanged { from, to, .. } => Some((from, to)),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_store_driven_past_70_90_and_100_percent_tells_each_once() {
        let mut tracker = LevelTracker::new();
        let events: Vec<_> = (60..=110)
            .flat_map(|used| tracker.observe(Metric::SqliteSize, used, 100).unwrap())
            .collect();
        let metric = Metric::SqliteSize;
        let change = |from, to, used| CapacityEvent::LevelChanged {
            metric,
            from,
            to,
            used,
            limit: 100,
        };
        assert_eq!(
            events,
            [
                change(Level::Ok, Level::Warning, 70),
                change(Level::Warning, Level::Critical, 90),
                CapacityEvent::LimitReached {
                    metric,
                    used: 100,
                    limit: 100
                },
            ]
        );
        let cleared = tracker.observe(metric, 30, 100).unwrap();
        assert_eq!(
            cleared,
            [
                change(Level::Critical, Level::Ok, 30),
                CapacityEvent::LimitCleared {
                    metric,
                    used: 30,
                    limit: 100
                },
            ]
        );
    }

    #[test]
    fn hovering_around_a_threshold_is_one_event() {
        let mut tracker = LevelTracker::new();
        let samples: Vec<u64> = (0..100).map(|i| 70 - i % 2 * 4).collect();
        let changes = levels(&mut tracker, Metric::SqliteSize, &samples);
        assert_eq!(changes, [(Level::Ok, Level::Warning)]);
    }

    #[test]
    fn hovering_at_the_limit_is_one_event() {
        let mut tracker = LevelTracker::new();
        let reached = (0..100)
            .flat_map(|i| {
                tracker
                    .observe(Metric::SqliteSize, 1000 - i % 2 * 9, 1000)
                    .unwrap()
            })
            .filter(|event| !matches!(event, CapacityEvent::LevelChanged { .. }))
            .count();
        assert_eq!(reached, 1);
    }

    #[test]
    fn a_jump_over_a_level_is_one_event() {
        let mut tracker = LevelTracker::new();
        let changes = levels(&mut tracker, Metric::Memory, &[10, 99, 10]);
        assert_eq!(
            changes,
            [(Level::Ok, Level::Critical), (Level::Critical, Level::Ok)]
        );
    }

    #[test]
    fn processor_load_counts_only_when_it_is_sustained() {
        let mut tracker = LevelTracker::new();
        let needed = CPU_SUSTAINED_SAMPLES as usize;
        let mut almost = vec![95; needed - 1];
        almost.push(10);
        assert_eq!(levels(&mut tracker, Metric::Cpu, &almost.repeat(3)), []);
        let sustained = levels(&mut tracker, Metric::Cpu, &vec![95; needed]);
        assert_eq!(sustained, [(Level::Ok, Level::Critical)]);
        let moment = levels(&mut tracker, Metric::Cpu, &[10, 95, 95]);
        assert_eq!(moment, [], "a moment's rest does not end it");
        let rest = levels(&mut tracker, Metric::Cpu, &vec![10; needed]);
        assert_eq!(rest, [(Level::Critical, Level::Ok)]);
    }

    #[test]
    fn sustained_load_between_the_thresholds_is_a_warning() {
        let mut tracker = LevelTracker::new();
        let samples = [95, 80].repeat(CPU_SUSTAINED_SAMPLES as usize);
        assert_eq!(
            levels(&mut tracker, Metric::Cpu, &samples),
            [(Level::Ok, Level::Warning)]
        );
    }

    #[test]
    fn a_raised_limit_counts_at_once() {
        let mut tracker = LevelTracker::new();
        tracker.observe(Metric::SqliteSize, 100, 100).unwrap();
        let events = tracker.observe(Metric::SqliteSize, 100, 1000).unwrap();
        assert_eq!(events.len(), 2, "{events:?}");
        assert!(events.iter().all(|event| !event.is_worse()));
        assert_eq!(tracker.worst(), Level::Ok);
    }

    #[test]
    fn a_refused_sample_changes_nothing() {
        let mut tracker = LevelTracker::new();
        tracker.observe(Metric::Tunnels, 95, 100).unwrap();
        assert!(tracker.observe(Metric::Tunnels, 0, 0).is_err());
        assert_eq!(tracker.level(Metric::Tunnels), Level::Critical);
    }

    #[test]
    fn an_event_reads_as_a_sentence_that_says_what_helps() {
        let mut tracker = LevelTracker::new();
        let events = tracker
            .observe(Metric::SqliteSize, 720_000_000, 1_000_000_000)
            .unwrap();
        assert_eq!(
            events[0].to_string(),
            "the database: 720 MB of 1.00 GB (72 %), warning: compact, delete sessions, or raise max_db_bytes"
        );
    }

    fn metrics() -> impl Strategy<Value = Metric> {
        proptest::sample::select(Metric::ALL.to_vec())
    }

    proptest! {
        /// Events form a chain: each starts at the level where the one before it ended, and
        /// none says that nothing changed.
        #[test]
        fn every_transition_is_told_exactly_once(
            metric in metrics(), samples in prop::collection::vec(0u64..130, 0..200)
        ) {
            let mut tracker = LevelTracker::new();
            let mut level = Level::Ok;
            for used in samples {
                for (from, to) in levels(&mut tracker, metric, &[used]) {
                    prop_assert_eq!(from, level);
                    prop_assert_ne!(from, to);
                    level = to;
                }
                prop_assert_eq!(tracker.level(metric), level);
            }
        }

        /// Wandering within less than the margin may raise a level, but never lowers it again.
        #[test]
        fn no_walk_within_the_margin_flaps(
            metric in metrics(), base in 0u64..1200, steps in prop::collection::vec(0u64..50, 1..300)
        ) {
            let mut tracker = LevelTracker::new();
            let mut before = Level::Ok;
            for step in steps {
                tracker.observe(metric, base + step, 1000).unwrap();
                prop_assert!(tracker.level(metric) >= before);
                before = tracker.level(metric);
            }
        }

        /// Limits are reached and cleared in turns.
        #[test]
        fn reaching_and_leaving_the_limit_alternate(
            samples in prop::collection::vec(80u64..110, 0..200)
        ) {
            let mut tracker = LevelTracker::new();
            let mut at_limit = false;
            for used in samples {
                for event in tracker.observe(Metric::Sessions, used, 100).unwrap() {
                    match event {
                        CapacityEvent::LimitReached { .. } => {
                            prop_assert!(!at_limit);
                            at_limit = true;
                        }
                        CapacityEvent::LimitCleared { .. } => {
                            prop_assert!(at_limit);
                            at_limit = false;
                        }
                        CapacityEvent::LevelChanged { .. } => {}
                    }
                }
            }
        }
    }
}
