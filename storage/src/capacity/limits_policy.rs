//! The limits that users may set: names, defaults and bounds.
//!
//! Defaults stand in the plan (memory, sessions and clients: *Memory Budget*) and in the
//! project's blueprint (sizes). The highest values are *policy*: an operator who knows what
//! they ask for may replace the policy with [`LimitsPolicy::with_ceiling`].

use serde::Serialize;

use super::error::{CapacityError, Result};
use super::planner::memory::{
    DAEMON_BASE_BYTES, DAEMON_CLIENT_BYTES, DAEMON_CLIENTS, DAEMON_MEMORY_LIMIT_BYTES,
    DAEMON_SESSION_BYTES, DAEMON_SESSIONS, DAEMON_SUBPROCESS_BYTES, DaemonMemoryInputs,
    MemoryBudget, MemoryBudgetInputs,
};
use super::quantity::{ByteCount, GB, Input, MB};
use super::text;
use crate::limits::{DB_BYTES_MAX_DEFAULT, DB_BYTES_MAX_FLOOR};

/// The most that `max_db_bytes` may be by default policy.
pub const DB_BYTES_MAX_CEILING: u64 = 10 * GB;
/// Stored bytes of one session: segments and messages of their own.
pub const SESSION_BYTES_MAX_DEFAULT: u64 = 50 * MB;
/// The most that `max_session_bytes` may be by default policy.
pub const SESSION_BYTES_MAX_CEILING: u64 = 200 * MB;
/// The least that it may be.
pub const SESSION_BYTES_MAX_FLOOR: u64 = MB;
/// The least memory that a daemon runs in: the plan's base, one session, one client and one
/// subprocess.
pub const MEMORY_BYTES_MAX_FLOOR: u64 = DAEMON_BASE_BYTES.0
    + DAEMON_SESSION_BYTES.0
    + DAEMON_CLIENT_BYTES.0
    + DAEMON_SUBPROCESS_BYTES.0;
/// The most by default policy: the largest single machine of the plan's vertical scaling guide.
pub const MEMORY_BYTES_MAX_CEILING: u64 = 8 * GB;
/// The most sessions in use by default policy: what the plan's largest single machine could
/// hold in memory (8 GB at 5 MB each), rounded down. Ours: the plan names none.
pub const SESSIONS_MAX_CEILING: u64 = 1_000;
/// The most clients by default policy. Ours: the plan names none.
pub const CLIENTS_MAX_CEILING: u64 = 10_000;

/// A limit that users may set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LimitName {
    /// Bytes of the database file and its WAL.
    MaxDbBytes,
    /// Stored bytes of one session.
    MaxSessionBytes,
    /// Resident bytes of the daemon.
    MaxMemoryBytes,
    /// Sessions in use at the same time.
    MaxSessions,
    /// Clients connected at the same time.
    MaxClients,
}

impl LimitName {
    /// All limits.
    pub const ALL: [Self; 5] = [
        Self::MaxDbBytes,
        Self::MaxSessionBytes,
        Self::MaxMemoryBytes,
        Self::MaxSessions,
        Self::MaxClients,
    ];

    /// Its name in settings, flags and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::MaxDbBytes => "max_db_bytes",
            Self::MaxSessionBytes => "max_session_bytes",
            Self::MaxMemoryBytes => "max_memory_bytes",
            Self::MaxSessions => "max_sessions",
            Self::MaxClients => "max_clients",
        }
    }

    /// What it bounds.
    #[must_use]
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::MaxDbBytes => "size of the database file and its write-ahead log",
            Self::MaxSessionBytes => {
                "size that one session takes in the database, compacted bytes included"
            }
            Self::MaxMemoryBytes => "resident memory of the daemon",
            Self::MaxSessions => "sessions in use at the same time",
            Self::MaxClients => "clients connected at the same time",
        }
    }

    /// Whether it is in bytes; else it is a count.
    #[must_use]
    pub const fn is_bytes(self) -> bool {
        matches!(
            self,
            Self::MaxDbBytes | Self::MaxSessionBytes | Self::MaxMemoryBytes
        )
    }

    fn show(self, value: u64) -> String {
        if self.is_bytes() {
            format!("{value} bytes ({})", text::bytes(value))
        } else {
            text::count(value)
        }
    }
}

/// Default and bounds of one limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LimitBounds {
    /// Which limit.
    pub name: LimitName,
    /// Its value when nobody sets it.
    pub default: u64,
    /// The least it may be.
    pub min: u64,
    /// The most it may be.
    pub max: u64,
}

/// Bounds of all limits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LimitsPolicy {
    bounds: Vec<LimitBounds>,
}

impl Default for LimitsPolicy {
    fn default() -> Self {
        let bounds = |name, default, min, max| LimitBounds {
            name,
            default,
            min,
            max,
        };
        Self {
            bounds: vec![
                bounds(
                    LimitName::MaxDbBytes,
                    DB_BYTES_MAX_DEFAULT,
                    DB_BYTES_MAX_FLOOR,
                    DB_BYTES_MAX_CEILING,
                ),
                bounds(
                    LimitName::MaxSessionBytes,
                    SESSION_BYTES_MAX_DEFAULT,
                    SESSION_BYTES_MAX_FLOOR,
                    SESSION_BYTES_MAX_CEILING,
                ),
                bounds(
                    LimitName::MaxMemoryBytes,
                    DAEMON_MEMORY_LIMIT_BYTES.0,
                    MEMORY_BYTES_MAX_FLOOR,
                    MEMORY_BYTES_MAX_CEILING,
                ),
                bounds(
                    LimitName::MaxSessions,
                    DAEMON_SESSIONS,
                    1,
                    SESSIONS_MAX_CEILING,
                ),
                bounds(
                    LimitName::MaxClients,
                    DAEMON_CLIENTS,
                    1,
                    CLIENTS_MAX_CEILING,
                ),
            ],
        }
    }
}

impl LimitsPolicy {
    /// Bounds of all limits, in the order of [`LimitName::ALL`].
    #[must_use]
    pub fn bounds(&self) -> &[LimitBounds] {
        &self.bounds
    }

    /// The same policy, but `name` may be up to `max`.
    #[must_use]
    pub fn with_ceiling(mut self, name: LimitName, max: u64) -> Self {
        for bounds in &mut self.bounds {
            if bounds.name == name {
                bounds.max = max.max(bounds.min);
            }
        }
        self
    }

    /// Checks one value.
    ///
    /// # Errors
    /// [`CapacityError::OutOfBounds`] with the bounds.
    pub fn check(&self, name: LimitName, value: u64) -> Result<u64> {
        match self.bounds.iter().find(|bounds| bounds.name == name) {
            Some(bounds) if !(bounds.min..=bounds.max).contains(&value) => {
                Err(CapacityError::OutOfBounds {
                    what: name.name(),
                    value: name.show(value),
                    min: name.show(bounds.min),
                    max: name.show(bounds.max),
                })
            }
            _ => Ok(value),
        }
    }

    /// The limit called `name`.
    ///
    /// # Errors
    /// [`CapacityError::UnknownName`] with the names there are.
    pub fn named(name: &str) -> Result<LimitName> {
        LimitName::ALL
            .into_iter()
            .find(|limit| limit.name() == name)
            .ok_or_else(|| {
                let known: Vec<_> = LimitName::ALL.map(LimitName::name).to_vec();
                CapacityError::UnknownName {
                    kind: "limit",
                    name: name.chars().take(80).collect(),
                    known: known.join(", "),
                }
            })
    }
}

/// The limits in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct LimitSettings {
    /// See [`LimitName::MaxDbBytes`].
    pub max_db_bytes: u64,
    /// See [`LimitName::MaxSessionBytes`].
    pub max_session_bytes: u64,
    /// See [`LimitName::MaxMemoryBytes`].
    pub max_memory_bytes: u64,
    /// See [`LimitName::MaxSessions`].
    pub max_sessions: u64,
    /// See [`LimitName::MaxClients`].
    pub max_clients: u64,
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            max_db_bytes: DB_BYTES_MAX_DEFAULT,
            max_session_bytes: SESSION_BYTES_MAX_DEFAULT,
            max_memory_bytes: DAEMON_MEMORY_LIMIT_BYTES.0,
            max_sessions: DAEMON_SESSIONS,
            max_clients: DAEMON_CLIENTS,
        }
    }
}

impl LimitSettings {
    /// The value of a limit.
    #[must_use]
    pub fn get(&self, name: LimitName) -> u64 {
        match name {
            LimitName::MaxDbBytes => self.max_db_bytes,
            LimitName::MaxSessionBytes => self.max_session_bytes,
            LimitName::MaxMemoryBytes => self.max_memory_bytes,
            LimitName::MaxSessions => self.max_sessions,
            LimitName::MaxClients => self.max_clients,
        }
    }

    /// Sets a limit; [`LimitSettings::validate`] checks it.
    pub fn set(&mut self, name: LimitName, value: u64) {
        *match name {
            LimitName::MaxDbBytes => &mut self.max_db_bytes,
            LimitName::MaxSessionBytes => &mut self.max_session_bytes,
            LimitName::MaxMemoryBytes => &mut self.max_memory_bytes,
            LimitName::MaxSessions => &mut self.max_sessions,
            LimitName::MaxClients => &mut self.max_clients,
        } = value;
    }

    /// Checks all limits against `policy` and against each other.
    ///
    /// # Errors
    /// [`CapacityError::OutOfBounds`] for the first that is out of its bounds.
    pub fn validate(self, policy: &LimitsPolicy) -> Result<Self> {
        for name in LimitName::ALL {
            policy.check(name, self.get(name))?;
        }
        Ok(self)
    }

    /// Whether the sessions and clients allowed, with `subprocesses` agents, fit the memory
    /// limit by the plan's formula. Too little is an answer, not an error: not every session
    /// is in use all the time.
    ///
    /// # Errors
    /// `CapacityError::Overflow` beyond 2^64 bytes.
    pub fn memory_budget(&self, subprocesses: u64) -> Result<MemoryBudget> {
        let daemon = DaemonMemoryInputs {
            sessions: Input::given(self.max_sessions),
            clients: Input::given(self.max_clients),
            subprocesses: Input::given(subprocesses),
            ..DaemonMemoryInputs::default()
        };
        let limits = MemoryBudgetInputs {
            limit_bytes: Input::given(ByteCount(self.max_memory_bytes)),
            ..MemoryBudgetInputs::default()
        };
        MemoryBudget::plan(&daemon, &limits, None)
    }
}

/// Whether `adding` more bytes fit when `used` of `limit` bytes are taken. No margin and no
/// memory: room is used as soon as compaction, deletion or a raised limit makes it.
#[must_use]
pub fn admits(used_bytes: u64, adding_bytes: u64, limit_bytes: u64) -> bool {
    used_bytes
        .checked_add(adding_bytes)
        .is_some_and(|sum| sum <= limit_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_1_gb_50_mb_512_mb_20_sessions_50_clients() {
        let settings = LimitSettings::default()
            .validate(&LimitsPolicy::default())
            .unwrap();
        let values = LimitName::ALL.map(|name| settings.get(name));
        assert_eq!(values, [1_000_000_000, 50_000_000, 512_000_000, 20, 50]);
        for bounds in LimitsPolicy::default().bounds() {
            assert_eq!(bounds.default, settings.get(bounds.name));
        }
    }

    #[test]
    fn sizes_beyond_10_gb_and_200_mb_are_refused_by_default_policy() {
        let policy = LimitsPolicy::default();
        for (name, max) in [
            (LimitName::MaxDbBytes, 10_000_000_000),
            (LimitName::MaxSessionBytes, 200_000_000),
        ] {
            assert!(policy.check(name, max).is_ok());
            let error = policy.check(name, max + 1).unwrap_err().to_string();
            assert!(
                error.contains(name.name()) && error.contains(&max.to_string()),
                "{error}"
            );
            assert!(
                policy
                    .clone()
                    .with_ceiling(name, max + 1)
                    .check(name, max + 1)
                    .is_ok()
            );
        }
    }

    #[test]
    fn every_limit_is_refused_outside_its_bounds_and_taken_at_them() {
        let policy = LimitsPolicy::default();
        for bounds in policy.bounds() {
            let with = |value| {
                let mut settings = LimitSettings::default();
                settings.set(bounds.name, value);
                settings.validate(&policy)
            };
            assert!(with(bounds.min).is_ok() && with(bounds.max).is_ok());
            assert!(with(bounds.min - 1).is_err() && with(bounds.max + 1).is_err());
            assert!(with(0).is_err() && with(u64::MAX).is_err());
        }
    }

    #[test]
    fn limits_are_found_by_name_and_unknown_names_are_answered_with_the_list() {
        for name in LimitName::ALL {
            assert_eq!(LimitsPolicy::named(name.name()).unwrap(), name);
        }
        let error = LimitsPolicy::named("max_db_size").unwrap_err().to_string();
        assert!(error.contains("max_db_bytes"), "{error}");
    }

    #[test]
    fn the_default_limits_fit_the_plans_memory_budget() {
        let budget = LimitSettings::default().memory_budget(5).unwrap();
        assert_eq!(budget.headroom_bytes, ByteCount(112 * MB));
    }

    #[test]
    fn admission_uses_the_last_byte_and_not_one_more() {
        assert!(admits(90, 10, 100));
        assert!(!admits(90, 11, 100));
        assert!(!admits(u64::MAX, 1, u64::MAX));
    }
}
