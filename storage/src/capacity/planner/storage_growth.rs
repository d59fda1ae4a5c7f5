//! Growth of the database (plan: *SQLite Database Growth*, *Compaction Impact*).

use serde::Serialize;

use super::inputs::inputs;
use crate::capacity::error::{CapacityError, Result};
use crate::capacity::quantity::{
    Amount, ByteCount, DaysPerMonth, HoursPerDay, Input, KB, MeanBytes,
};
use crate::limits::{DB_BYTES_MAX_DEFAULT, FOOTPRINT_TARGET};

/// Messages of a session in an hour.
pub const MESSAGES_PER_SESSION_HOUR: Amount = Amount(200.0);
/// Size of a message on average.
pub const MESSAGE_BYTES: MeanBytes = MeanBytes(5.0 * KB as f64);
/// Hours of a day in which a session is in use.
pub const SESSION_HOURS_PER_DAY: HoursPerDay = HoursPerDay(8.0);
/// Workdays of a month.
pub const WORKDAYS_PER_MONTH: DaysPerMonth = DaysPerMonth(22.0);
/// Sessions of the plan's example.
pub const SESSIONS: u64 = 10;

inputs! {
    /// Inputs of *SQLite Database Growth* and *Compaction Impact*.
    storage_growth => pub struct StorageGrowthInputs {
        /// Sessions in use at the same time
        sessions: u64 = SESSIONS, PlanExample;
        /// Messages of a session in an hour
        messages_per_session_hour: Amount = MESSAGES_PER_SESSION_HOUR, PlanDefault;
        /// A message, on average
        message_bytes: MeanBytes = MESSAGE_BYTES, PlanDefault;
        /// Hours of a day in which each session is in use
        session_hours_per_day: HoursPerDay = SESSION_HOURS_PER_DAY, PlanDefault;
        /// Workdays of a month
        workdays_per_month: DaysPerMonth = WORKDAYS_PER_MONTH, PlanDefault;
        /// Share of its size that history takes after compaction
        compaction_footprint: Amount = Amount(FOOTPRINT_TARGET), PlanDefault;
        /// Size that the database has already
        used_bytes: ByteCount = ByteCount(0), PlanDefault;
        /// Part of it that compaction would still make free
        compactable_bytes: ByteCount = ByteCount(0), PlanDefault;
        /// Size that the database may reach
        limit_bytes: ByteCount = ByteCount(DB_BYTES_MAX_DEFAULT), PlanDefault;
    }
}

/// Growth with one footprint.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct CompactedGrowth {
    /// Share of its size that history takes after compaction, and where that comes from.
    pub footprint: Input<Amount>,
    /// Bytes added in a day of use.
    pub daily_bytes: ByteCount,
    /// Bytes added in a month.
    pub monthly_bytes: ByteCount,
    /// Months until the database reaches its limit, 0 when it has; `None` when it never does.
    pub months_to_limit: Option<f64>,
}

/// How the database grows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StorageGrowth {
    /// Bytes that one session adds in an hour, before compaction.
    pub bytes_per_session_hour: ByteCount,
    /// Bytes that all sessions add in a day, before compaction.
    pub daily_bytes: ByteCount,
    /// Bytes that all sessions add in a month, before compaction.
    pub monthly_bytes: ByteCount,
    /// Months until the database reaches its limit without compaction, 0 when it has; `None` when
    /// it never does.
    pub months_to_limit: Option<f64>,
    /// After compaction: with the plan's footprint or the one given in its place, then with the
    /// measured one, when there is one.
    pub compacted: Vec<CompactedGrowth>,
}

impl StorageGrowth {
    /// Computes `sessions × messages/h × size × h/day × workdays`, then what compaction leaves.
    /// `measured_footprint` is that of compacted history in a real store.
    ///
    /// # Errors
    /// [`CapacityError::Overflow`] beyond 2^64 bytes, [`CapacityError::Zero`] for a limit of 0.
    pub fn plan(inputs: &StorageGrowthInputs, measured_footprint: Option<Amount>) -> Result<Self> {
        const WHAT: &str = "storage growth";
        let limit_bytes = inputs.limit_bytes.value;
        if limit_bytes.0 == 0 {
            let why = "nothing fits in a database of 0 bytes";
            return Err(CapacityError::Zero {
                what: "storage_growth.limit_bytes",
                why,
            });
        }
        let messages_per_hour = inputs.messages_per_session_hour.value.get();
        let per_hour = inputs.message_bytes.value.scaled(WHAT, messages_per_hour)?;
        let daily = per_hour
            .times(WHAT, inputs.sessions.value)?
            .scaled(WHAT, inputs.session_hours_per_day.value.0)?;
        let monthly = daily.scaled(WHAT, inputs.workdays_per_month.value.0)?;
        let used_bytes = inputs.used_bytes.value.0;
        let room_beside = |used_bytes: u64| ByteCount(limit_bytes.0.saturating_sub(used_bytes));
        let room = room_beside(used_bytes);
        let compactable_bytes = inputs.compactable_bytes.value.0;
        let room_compacted = room_beside(used_bytes.saturating_sub(compactable_bytes));
        let measured = measured_footprint.map(Input::measured);
        let compacted = [Some(inputs.compaction_footprint), measured]
            .into_iter()
            .flatten()
            .map(|footprint| {
                let monthly_bytes = monthly.scaled(WHAT, footprint.value.get())?;
                Ok(CompactedGrowth {
                    footprint,
                    daily_bytes: daily.scaled(WHAT, footprint.value.get())?,
                    monthly_bytes,
                    months_to_limit: months(room_compacted, monthly_bytes),
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self {
            bytes_per_session_hour: per_hour,
            daily_bytes: daily,
            monthly_bytes: monthly,
            months_to_limit: months(room, monthly),
            compacted,
        })
    }
}

fn months(room: ByteCount, monthly: ByteCount) -> Option<f64> {
    match (room.0, monthly.0) {
        (0, _) => Some(0.0),
        (_, 0) => None,
        _ => Some(room.mb() / monthly.mb()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capacity::quantity::{MB, Source};

    fn planned() -> StorageGrowth {
        StorageGrowth::plan(&StorageGrowthInputs::default(), None).unwrap()
    }

    fn with_sessions(sessions: u64) -> StorageGrowth {
        let inputs = StorageGrowthInputs {
            sessions: Input::given(sessions),
            ..StorageGrowthInputs::default()
        };
        StorageGrowth::plan(&inputs, None).unwrap()
    }

    #[test]
    fn plan_example_10_sessions_grow_1_76_gb_a_month_before_compaction() {
        assert_eq!(planned().monthly_bytes, ByteCount(1_760 * MB));
    }

    #[test]
    fn plan_formula_one_session_grows_1_mb_an_hour_8_mb_a_day_176_mb_a_month() {
        let growth = with_sessions(1);
        assert_eq!(growth.bytes_per_session_hour, ByteCount(MB));
        assert_eq!(growth.daily_bytes, ByteCount(8 * MB));
        assert_eq!(growth.monthly_bytes, ByteCount(176 * MB));
    }

    #[test]
    fn plan_compaction_impact_leaves_0_3() {
        let compacted = planned().compacted;
        assert_eq!(compacted.len(), 1);
        assert_eq!(compacted[0].footprint.source, Source::PlanDefault);
        assert_eq!(compacted[0].monthly_bytes, ByteCount(528 * MB));
        assert_eq!(compacted[0].daily_bytes, ByteCount(24 * MB));
    }

    #[test]
    fn a_measured_footprint_stands_beside_the_plans() {
        let growth =
            StorageGrowth::plan(&StorageGrowthInputs::default(), Some(Amount(0.1))).unwrap();
        assert_eq!(growth.compacted[1].footprint.source, Source::Measured);
        assert_eq!(growth.compacted[1].monthly_bytes, ByteCount(176 * MB));
        assert!((growth.compacted[1].months_to_limit.unwrap() - 1000.0 / 176.0).abs() < 1e-9);
    }

    #[test]
    fn what_the_database_takes_already_is_no_room() {
        let with_used = |used_bytes: u64| {
            let inputs = StorageGrowthInputs {
                used_bytes: Input::given(ByteCount(used_bytes)),
                ..StorageGrowthInputs::default()
            };
            StorageGrowth::plan(&inputs, None).unwrap()
        };
        let growth = with_used(560 * MB);
        assert!((growth.months_to_limit.unwrap() - 440.0 / 1760.0).abs() < 1e-9);
        let compacted = growth.compacted[0].months_to_limit.unwrap();
        assert!((compacted - 440.0 / 528.0).abs() < 1e-9);
        for used_bytes in [1_000 * MB, 1_200 * MB] {
            assert_eq!(with_used(used_bytes).months_to_limit, Some(0.0));
        }
    }

    #[test]
    fn no_sessions_never_reach_the_limit() {
        assert_eq!(with_sessions(0).months_to_limit, None);
        assert_eq!(with_sessions(0).monthly_bytes, ByteCount(0));
    }

    #[test]
    fn growth_beyond_2_64_bytes_is_refused_not_wrapped() {
        let inputs = StorageGrowthInputs {
            sessions: Input::given(u64::MAX),
            ..StorageGrowthInputs::default()
        };
        let error = StorageGrowth::plan(&inputs, None).unwrap_err();
        assert!(matches!(error, CapacityError::Overflow { .. }), "{error}");
    }

    #[test]
    fn a_size_limit_of_zero_is_refused() {
        let inputs = StorageGrowthInputs {
            limit_bytes: Input::given(ByteCount(0)),
            ..StorageGrowthInputs::default()
        };
        let error = StorageGrowth::plan(&inputs, None).unwrap_err();
        assert!(matches!(error, CapacityError::Zero { .. }), "{error}");
    }
}
