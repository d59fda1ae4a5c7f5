//! Samples in, events out, each once.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::{Level, Metric, zero_limit};
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
        let share = text::used_percent(used, limit);
        let used_of = metric.used_of(used, limit);
        write!(f, "{}: {used_of} ({share})", metric.noun())?;
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
}

impl LevelTracker {
    /// A tracker with the plan's thresholds, everything at [`Level::Ok`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a sample; what changed by it, at most a level and the limit.
    ///
    /// # Errors
    /// `CapacityError::Zero` for a limit of 0; the sample is not taken.
    pub fn observe(&mut self, metric: Metric, used: u64, limit: u64) -> Result<Vec<CapacityEvent>> {
        let thresholds = metric.thresholds();
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
mod tests;
