//! When a level is reached, and when it is left.

use serde::Serialize;

use super::{Level, zero_limit};
use crate::capacity::error::{CapacityError, Result};

/// A level is left when the value is this many points of the limit below its threshold.
/// Ours: the plan names thresholds only.
pub const LEVEL_MARGIN_PERCENT: u8 = 5;
/// How often the processor is sampled, milliseconds. Who samples it more often makes *sustained*
/// shorter than a minute.
pub const CPU_SAMPLE_INTERVAL_MS: u64 = 10_000;
/// Samples in a row that make processor load *sustained*: a minute of them. Ours: the plan does
/// not say how long.
pub const CPU_SUSTAINED_SAMPLES: u32 = 6;

const _: () = assert!(CPU_SAMPLE_INTERVAL_MS * CPU_SUSTAINED_SAMPLES as u64 == 60_000);

/// When a metric's levels are reached and left, in percent of its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Thresholds {
    /// At this share it is a warning …
    pub warning_percent: u8,
    /// … and at this one critical.
    pub critical_percent: u8,
    /// A level is left this many points below its threshold.
    pub margin_percent: u8,
    /// Samples in a row that it takes to change the level, up or down.
    pub samples_min: u32,
}

impl Thresholds {
    /// Checks thresholds that are not the plan's.
    ///
    /// # Errors
    /// When they are out of order, the margin swallows a level, or no sample would be needed.
    pub fn validate(self) -> Result<Self> {
        let refuse = |why: String| {
            Err(CapacityError::Contradiction {
                what: "thresholds",
                why,
            })
        };
        let Self {
            warning_percent: warning,
            critical_percent: critical,
            margin_percent,
            ..
        } = self;
        if warning == 0 || warning >= critical || critical > 100 {
            return refuse(format!(
                "warning at {warning} % and critical at {critical} % are not in order between 1 and 100"
            ));
        }
        if margin_percent >= warning || margin_percent > critical - warning {
            return refuse(format!(
                "a margin of {margin_percent} points is more than lies below or between the levels"
            ));
        }
        if self.samples_min == 0 {
            return refuse("at least one sample is needed to change a level".into());
        }
        Ok(self)
    }

    /// The level of one sample; see [`level_of`](super::level_of).
    ///
    /// # Errors
    /// [`CapacityError::Zero`] for a limit of 0.
    pub fn level_of(self, used: u64, limit: u64, previous: Level) -> Result<Level> {
        if limit == 0 {
            return Err(zero_limit());
        }
        let at_least =
            |percent: u8| u128::from(used) * 100 >= u128::from(limit) * u128::from(percent);
        let holds = |level: Level, percent: u8| {
            let margin = if previous >= level {
                self.margin_percent
            } else {
                0
            };
            at_least(percent.saturating_sub(margin))
        };
        Ok(if holds(Level::Critical, self.critical_percent) {
            Level::Critical
        } else if holds(Level::Warning, self.warning_percent) {
            Level::Warning
        } else {
            Level::Ok
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::levels::Metric;
    use proptest::prelude::*;

    #[test]
    fn the_plans_thresholds_are_valid() {
        for metric in Metric::ALL {
            metric.thresholds().validate().unwrap();
        }
    }

    #[test]
    fn thresholds_out_of_order_are_refused() {
        let good = Metric::Sessions.thresholds();
        for bad in [
            Thresholds {
                warning_percent: 0,
                ..good
            },
            Thresholds {
                warning_percent: 95,
                ..good
            },
            Thresholds {
                critical_percent: 101,
                ..good
            },
            Thresholds {
                margin_percent: 80,
                ..good
            },
            Thresholds {
                margin_percent: 16,
                ..good
            },
            Thresholds {
                samples_min: 0,
                ..good
            },
        ] {
            assert!(bad.validate().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn each_level_is_left_five_points_below_its_threshold() {
        let size = |used, previous| {
            Metric::SqliteSize
                .thresholds()
                .level_of(used, 100, previous)
                .unwrap()
        };
        assert_eq!(size(85, Level::Critical), Level::Critical);
        assert_eq!(size(84, Level::Critical), Level::Warning);
        assert_eq!(size(65, Level::Critical), Level::Warning);
        assert_eq!(size(64, Level::Critical), Level::Ok);
        assert_eq!(size(65, Level::Warning), Level::Warning);
        assert_eq!(size(64, Level::Warning), Level::Ok);
        assert_eq!(size(69, Level::Ok), Level::Ok);
    }

    fn any_level() -> impl Strategy<Value = Level> {
        prop_oneof![Just(Level::Ok), Just(Level::Warning), Just(Level::Critical)]
    }

    proptest! {
        #[test]
        fn more_use_never_lowers_the_level(
            used in 0u64..2000, more in 0u64..2000, previous in any_level()
        ) {
            for metric in Metric::ALL {
                let of = |used| metric.thresholds().level_of(used, 1000, previous).unwrap();
                prop_assert!(of(used + more) >= of(used));
            }
        }

        #[test]
        fn the_level_before_only_ever_holds_it_up(used in 0u64..2000, previous in any_level()) {
            for metric in Metric::ALL {
                let of = |previous| metric.thresholds().level_of(used, 1000, previous).unwrap();
                prop_assert!(of(previous) >= of(Level::Ok));
                prop_assert!(of(previous) <= previous.max(of(Level::Ok)));
            }
        }

        #[test]
        fn evaluating_the_same_value_again_changes_nothing(
            used in 0u64..2000, previous in any_level()
        ) {
            for metric in Metric::ALL {
                let of = |previous| metric.thresholds().level_of(used, 1000, previous).unwrap();
                prop_assert_eq!(of(of(previous)), of(previous));
            }
        }
    }
}
