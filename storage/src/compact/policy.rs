//! When a session is due for compaction, and how: pure decisions.

use std::fmt::Display;

use crate::capacity::levels::Level;
use crate::error::{Argument, Result, StoreError};
use crate::limits;
use crate::segment::{CodecVersion, EncodeParams, v2};
use crate::sql::segments::Tier;

/// Settings of compaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionPolicy {
    /// A session in use is compacted quickly when it has this many hot bytes.
    pub quick_hot_bytes_min: u64,
    /// A session that has paused this long is compacted quickly whatever it has.
    pub quick_idle_ms_min: i64,
    /// A session that has been idle this long is compacted deeply.
    pub deep_idle_ms_min: i64,
    /// Raw bytes of a segment of the quick tier.
    pub quick_segment_bytes_max: usize,
    /// Raw bytes of a segment of the deep tier.
    pub deep_segment_bytes_max: usize,
    /// Messages of a segment.
    pub segment_messages_max: usize,
    /// How the quick tier encodes.
    pub quick: EncodeParams,
    /// How the deep tier encodes.
    pub deep: EncodeParams,
}

impl Default for CompactionPolicy {
    fn default() -> Self {
        Self {
            quick_hot_bytes_min: 2 * limits::QUICK_SEGMENT_BYTES_MAX as u64,
            quick_idle_ms_min: limits::QUICK_IDLE_MS_DEFAULT,
            deep_idle_ms_min: limits::DEEP_IDLE_MS_DEFAULT,
            quick_segment_bytes_max: limits::QUICK_SEGMENT_BYTES_MAX,
            deep_segment_bytes_max: limits::DEEP_SEGMENT_BYTES_MAX,
            segment_messages_max: limits::SEGMENT_MESSAGES_MAX,
            quick: EncodeParams {
                version: CodecVersion::V2,
                level: v2::QUICK_LEVEL,
            },
            deep: EncodeParams {
                version: CodecVersion::V2,
                level: v2::DEEP_LEVEL,
            },
        }
    }
}

/// What the policy needs to know of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct SessionState {
    /// Messages that are rows of their own.
    pub(super) hot_messages: u64,
    /// Their payload bytes.
    pub(super) hot_bytes: u64,
    /// Whether it has segments of the quick tier.
    pub(super) has_quick_segments: bool,
    /// When it was last appended to or renamed, Unix milliseconds: to give a session a name is to use it.
    pub(super) updated_ms: i64,
}

impl CompactionPolicy {
    /// Refuses settings with which every session would fail, or none would ever be done.
    ///
    /// # Errors
    /// [`StoreError::InvalidArgument`], which names the setting and its bounds.
    pub fn validate(&self) -> Result<()> {
        let times = [
            ("quick_idle_ms_min", self.quick_idle_ms_min),
            ("deep_idle_ms_min", self.deep_idle_ms_min),
        ];
        for (what, ms) in times {
            check_bounds(what, ms, 0, i64::MAX)?;
        }
        let segments = [
            ("quick_segment_bytes_max", self.quick_segment_bytes_max),
            ("deep_segment_bytes_max", self.deep_segment_bytes_max),
        ];
        for (what, bytes) in segments {
            check_bounds(what, bytes, 1, limits::SEGMENT_BYTES_MAX)?;
        }
        let messages = self.segment_messages_max;
        check_bounds(
            "segment_messages_max",
            messages,
            1,
            limits::SEGMENT_MESSAGES_MAX,
        )?;
        let (least, most) = (limits::ENCODE_LEVEL_MIN, limits::ENCODE_LEVEL_MAX);
        check_bounds("the quick tier's level", self.quick.level, least, most)?;
        check_bounds("the deep tier's level", self.deep.level, least, most)
    }

    /// The tier that is due, if any.
    ///
    /// A clock that jumped back makes a session look as if it were appended to in the future:
    /// it then counts as just appended to.
    pub(super) fn due(&self, session: &SessionState, now_ms: i64) -> Option<Tier> {
        let idle_ms = now_ms.saturating_sub(session.updated_ms).max(0);
        if idle_ms >= self.deep_idle_ms_min
            && (session.hot_messages > 0 || session.has_quick_segments)
        {
            return Some(Tier::Deep);
        }
        let paused = session.hot_messages > 0 && idle_ms >= self.quick_idle_ms_min;
        (paused || session.hot_bytes >= self.quick_hot_bytes_min).then_some(Tier::Quick)
    }

    /// Whether a session that is due keeps its last messages hot until they fill a segment: one
    /// in use does, or it would be cut into many small segments.
    pub(super) fn keeps_remainder(&self, session: &SessionState, now_ms: i64) -> bool {
        now_ms.saturating_sub(session.updated_ms) < self.quick_idle_ms_min
    }

    /// The policy when the database is near its limit: sooner, in the tiers' order.
    pub(super) fn at_level(self, level: Level) -> Self {
        let (quick_ms, deep_ms) = match level {
            Level::Ok => return self,
            Level::Warning => (self.quick_idle_ms_min / 4, self.deep_idle_ms_min / 4),
            Level::Critical => (0, self.quick_idle_ms_min.min(self.deep_idle_ms_min)),
        };
        Self {
            quick_idle_ms_min: quick_ms,
            deep_idle_ms_min: deep_ms,
            quick_hot_bytes_min: self.quick_hot_bytes_min / 4,
            ..self
        }
    }

    /// Raw bytes of a segment of `tier`.
    pub(super) fn segment_bytes_max(&self, tier: Tier) -> usize {
        match tier {
            Tier::Quick => self.quick_segment_bytes_max,
            Tier::Deep => self.deep_segment_bytes_max,
        }
    }

    /// How `tier` encodes.
    pub(super) fn encode_params(&self, tier: Tier) -> EncodeParams {
        match tier {
            Tier::Quick => self.quick,
            Tier::Deep => self.deep,
        }
    }
}

fn check_bounds<T: PartialOrd + Display>(
    what: &'static str,
    value: T,
    least: T,
    most: T,
) -> Result<()> {
    if value >= least && value <= most {
        return Ok(());
    }
    Err(StoreError::InvalidArgument {
        what: Argument::Named(what),
        why: format!("{value} is not within {least} and {most}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn settings_with_which_every_session_would_fail_are_refused() {
        let usual = CompactionPolicy::default();
        usual.validate().unwrap();
        usual.at_level(Level::Critical).validate().unwrap();
        let too_deep = EncodeParams {
            level: 99,
            ..usual.deep
        };
        let refused = [
            CompactionPolicy {
                deep: too_deep,
                ..usual
            },
            CompactionPolicy {
                segment_messages_max: limits::SEGMENT_MESSAGES_MAX + 1,
                ..usual
            },
            CompactionPolicy {
                quick_segment_bytes_max: 0,
                ..usual
            },
            CompactionPolicy {
                deep_idle_ms_min: -1,
                ..usual
            },
        ];
        for policy in refused {
            let error = policy.validate().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
        }
    }

    const NOW_MS: i64 = 1_800_000_000_000;

    fn session(idle_ms: i64) -> SessionState {
        SessionState {
            hot_messages: 1,
            hot_bytes: 100,
            has_quick_segments: false,
            updated_ms: NOW_MS - idle_ms,
        }
    }

    #[test]
    fn a_session_in_use_waits_until_it_has_grown() {
        let policy = CompactionPolicy::default();
        assert_eq!(policy.due(&session(0), NOW_MS), None);
        let grown = SessionState {
            hot_bytes: policy.quick_hot_bytes_min,
            ..session(0)
        };
        assert_eq!(policy.due(&grown, NOW_MS), Some(Tier::Quick));
        assert!(policy.keeps_remainder(&grown, NOW_MS));
    }

    #[test]
    fn a_pause_makes_it_quick_and_idleness_deep() {
        let policy = CompactionPolicy::default();
        assert_eq!(
            policy.due(&session(policy.quick_idle_ms_min), NOW_MS),
            Some(Tier::Quick)
        );
        assert_eq!(
            policy.due(&session(policy.deep_idle_ms_min), NOW_MS),
            Some(Tier::Deep)
        );
        assert!(!policy.keeps_remainder(&session(policy.quick_idle_ms_min), NOW_MS));
    }

    #[test]
    fn a_compacted_session_is_left_alone() {
        let policy = CompactionPolicy::default();
        let done = SessionState {
            hot_messages: 0,
            hot_bytes: 0,
            ..session(i64::MAX / 2)
        };
        assert_eq!(policy.due(&done, NOW_MS), None);
        let quick = SessionState {
            has_quick_segments: true,
            ..done
        };
        assert_eq!(policy.due(&quick, NOW_MS), Some(Tier::Deep));
    }

    #[test]
    fn a_clock_that_jumped_back_makes_nothing_due_by_age() {
        let policy = CompactionPolicy::default();
        assert_eq!(policy.due(&session(-86_400_000), NOW_MS), None);
    }

    #[test]
    fn a_full_database_makes_it_sooner() {
        let policy = CompactionPolicy::default();
        let urgent = policy.at_level(Level::Critical);
        assert_eq!(policy.due(&session(1), NOW_MS), None);
        assert_eq!(urgent.due(&session(1), NOW_MS), Some(Tier::Quick));
        assert_eq!(policy.at_level(Level::Ok), policy);
    }
}
