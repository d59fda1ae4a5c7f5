//! What a retention policy would remove, and why: a plan to look at before anything goes.
//!
//! Retention is off until a rule is set. The plan is pure; `Store::retain` carries it out, and archives
//! sessions first when asked.
//!
//! # Safety rules
//! - Rules by age and by size leave sessions alone that were used less than
//!   [`idle_ms_min`](RetentionPolicy::idle_ms_min) ago.
//! - A session's age counts from its last use: the latest of when its last message was said and
//!   when it was last written here. So an import of old sessions is not removed on arrival.
//! - Ages are measured against a clock that is at most [`CLOCK_AHEAD_MS_MAX`] ahead of the
//!   newest session: a clock that jumps years ahead does not age everything at once. A store
//!   that nobody uses does not grow either, so nothing is lost by waiting.

use serde::Serialize;

use super::error::{CapacityError, Result};
use super::text;
use super::text::DAY_MS;
use crate::ids::{SessionId, SessionKey};
use crate::session::Session;

/// How far the clock may be ahead of the newest session before it is not believed.
pub const CLOCK_AHEAD_MS_MAX: i64 = 7 * DAY_MS;
/// How long a session has to be idle before a rule by age or size may remove it.
pub const IDLE_MS_MIN_DEFAULT: i64 = DAY_MS;

/// Which sessions to remove. The default removes none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionPolicy {
    /// Remove sessions last used longer ago than this.
    pub age_ms_max: Option<i64>,
    /// Remove sessions, the longest unused first, until the rest stores no more than this.
    pub stored_bytes_max: Option<u64>,
    /// Remove these sessions, however old.
    pub sessions: Vec<SessionId>,
    /// Age and size leave a session alone that was used less than this ago.
    pub idle_ms_min: i64,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self {
            age_ms_max: None,
            stored_bytes_max: None,
            sessions: Vec::new(),
            idle_ms_min: IDLE_MS_MIN_DEFAULT,
        }
    }
}

impl RetentionPolicy {
    /// Whether it has no rule.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.age_ms_max.is_none() && self.stored_bytes_max.is_none() && self.sessions.is_empty()
    }

    fn validate(&self) -> Result<()> {
        if self.age_ms_max.is_some_and(|age| age < DAY_MS) {
            let why = "an age below one day would remove what was just written".into();
            return Err(CapacityError::Contradiction {
                what: "retention age",
                why,
            });
        }
        if self.stored_bytes_max == Some(0) {
            let why = "it would remove every session; name the sessions instead";
            return Err(CapacityError::Zero {
                what: "retention size",
                why,
            });
        }
        if self.idle_ms_min < 0 {
            let value = self.idle_ms_min as f64;
            return Err(CapacityError::Negative {
                what: "retention idle time",
                value,
            });
        }
        Ok(())
    }
}

/// What retention has to know of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionCandidate {
    /// The session.
    pub id: SessionId,
    /// Its key, which no other session ever has.
    pub key: SessionKey,
    /// Its name.
    pub name: String,
    /// When its last message was said, Unix milliseconds.
    pub last_time_ms: Option<i64>,
    /// When it was last written here.
    pub updated_ms: i64,
    /// Its messages.
    pub messages: u64,
    /// Bytes that it takes in the database.
    pub stored_bytes: u64,
}

impl RetentionCandidate {
    /// What a listed session tells.
    #[must_use]
    pub fn of(session: &Session) -> Self {
        Self {
            id: session.id.clone(),
            key: session.key,
            name: session.meta.name.clone(),
            last_time_ms: session.last_time_ms,
            updated_ms: session.updated_ms,
            messages: session.messages,
            stored_bytes: session.stored_bytes(),
        }
    }

    /// When it was last used, believing no time that lies after `now_ms`.
    fn used_ms(&self, now_ms: i64) -> i64 {
        let said = self.last_time_ms.filter(|said| *said <= now_ms);
        said.unwrap_or(i64::MIN).max(self.updated_ms.min(now_ms))
    }
}

/// Why a session goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum RemovalReason {
    /// Unused for longer than the policy keeps sessions.
    Age {
        /// Days since its last use.
        days: i64,
        /// Days that the policy keeps sessions.
        days_max: i64,
    },
    /// The longest unused while the store was over the policy's size.
    Size {
        /// Bytes stored by all sessions before it goes. Named apart from the session's own.
        #[serde(rename = "stored_bytes_of_all")]
        stored_bytes: u64,
        /// Bytes that the policy keeps.
        stored_bytes_max: u64,
    },
    /// Named.
    Named,
}

impl std::fmt::Display for RemovalReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Age { days, days_max } => {
                write!(f, "last used {days} days ago, kept for {days_max}")
            }
            Self::Size {
                stored_bytes,
                stored_bytes_max,
            } => {
                let (stored, max) = (text::bytes(*stored_bytes), text::bytes(*stored_bytes_max));
                write!(f, "longest unused while {stored} are stored, over {max}")
            }
            Self::Named => f.write_str("named"),
        }
    }
}

/// A session to remove.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// The session.
    pub session_id: SessionId,
    /// Its name.
    pub name: String,
    /// When it was last used, Unix milliseconds.
    pub used_ms: i64,
    /// Its messages.
    pub messages: u64,
    /// Bytes that go with it.
    pub stored_bytes: u64,
    /// Why.
    #[serde(flatten)]
    pub reason: RemovalReason,
    /// Its key: one made anew under its id is another session.
    #[serde(skip)]
    pub key: SessionKey,
    /// When it was last written here.
    #[serde(skip)]
    pub updated_ms: i64,
}

/// A session that was named and stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kept {
    /// The session as named.
    pub session_id: SessionId,
    /// Why it stays.
    pub why: &'static str,
}

/// What a policy would do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct RetentionPlan {
    /// Sessions to remove, in the order of removal.
    pub removals: Vec<Removal>,
    /// Sessions named that stay.
    pub kept: Vec<Kept>,
    /// Bytes stored by all sessions before.
    pub stored_bytes_before: u64,
    /// After.
    pub stored_bytes_after: u64,
    /// Bytes over the policy's size that stay, because the sessions that have them are in use.
    pub over_bytes: u64,
    /// Whether the clock was not believed (see the module's safety rules).
    pub clock_ahead: bool,
}

/// Plans what `policy` removes of `sessions` at `now_ms` (Unix milliseconds).
///
/// # Errors
/// When the policy would remove everything, or what was just written.
pub fn plan(
    policy: &RetentionPolicy,
    sessions: &[RetentionCandidate],
    now_ms: i64,
) -> Result<RetentionPlan> {
    policy.validate()?;
    let stored_bytes_before = sessions
        .iter()
        .map(|s| s.stored_bytes)
        .fold(0, u64::saturating_add);
    let newest_ms = sessions
        .iter()
        .map(|s| s.used_ms(now_ms))
        .max()
        .unwrap_or(now_ms);
    let believed_ms = now_ms.min(newest_ms.saturating_add(CLOCK_AHEAD_MS_MAX));
    let mut plan = RetentionPlan {
        stored_bytes_before,
        stored_bytes_after: stored_bytes_before,
        clock_ahead: believed_ms < now_ms,
        ..RetentionPlan::default()
    };

    for id in &policy.sessions {
        if !sessions.iter().any(|session| session.id == *id) {
            plan.kept.push(Kept {
                session_id: id.clone(),
                why: "there is no such session",
            });
        }
    }

    let mut oldest_first: Vec<_> = sessions
        .iter()
        .map(|session| (session.used_ms(now_ms), session))
        .collect();
    oldest_first.sort_by(|a, b| (a.0, &a.1.id).cmp(&(b.0, &b.1.id)));

    let mut remaining = Vec::new();
    for (used_ms, session) in oldest_first {
        let idle_ms = believed_ms.saturating_sub(used_ms);
        let too_old = policy.age_ms_max.filter(|max| idle_ms > *max);
        if policy.sessions.contains(&session.id) {
            plan.remove(session, used_ms, RemovalReason::Named);
        } else if idle_ms < policy.idle_ms_min {
            // In use: neither age nor size may take it.
        } else if let Some(max) = too_old {
            let reason = RemovalReason::Age {
                days: idle_ms / DAY_MS,
                days_max: max / DAY_MS,
            };
            plan.remove(session, used_ms, reason);
        } else {
            remaining.push((used_ms, session));
        }
    }
    if let Some(stored_bytes_max) = policy.stored_bytes_max {
        for (used_ms, session) in remaining {
            if plan.stored_bytes_after <= stored_bytes_max {
                break;
            }
            let stored_bytes = plan.stored_bytes_after;
            plan.remove(
                session,
                used_ms,
                RemovalReason::Size {
                    stored_bytes,
                    stored_bytes_max,
                },
            );
        }
        plan.over_bytes = plan.stored_bytes_after.saturating_sub(stored_bytes_max);
    }
    Ok(plan)
}

impl RetentionPlan {
    fn remove(&mut self, session: &RetentionCandidate, used_ms: i64, reason: RemovalReason) {
        self.stored_bytes_after = self.stored_bytes_after.saturating_sub(session.stored_bytes);
        self.removals.push(Removal {
            session_id: session.id.clone(),
            name: session.name.clone(),
            used_ms,
            messages: session.messages,
            stored_bytes: session.stored_bytes,
            reason,
            key: session.key,
            updated_ms: session.updated_ms,
        });
    }
}

#[cfg(test)]
mod tests;
