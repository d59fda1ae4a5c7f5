//! Counts appends that were refused for lack of space, by limit, and whether they are refused now.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{ErrorKind, StoreError};
use crate::limits::SPACE_REFUSED_MS_MAX;

/// The limit on space that an append met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpaceLimit {
    /// The disk is full.
    Disk,
    /// The database may not be larger: `max_db_bytes`.
    Database,
    /// The session may not be larger: `max_session_bytes`.
    Session,
}

impl SpaceLimit {
    /// Its name in refusals.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Database => "max_db_bytes",
            Self::Session => "max_session_bytes",
        }
    }

    /// The limit that an error is about; `None` when it is about something else than space.
    #[must_use]
    pub fn of(error: &StoreError) -> Option<Self> {
        match error {
            StoreError::LimitReached { .. } => Some(Self::Database),
            StoreError::SessionLimitReached { .. } => Some(Self::Session),
            error => (error.kind() == ErrorKind::NoSpace).then_some(Self::Disk),
        }
    }
}

/// Appends refused for lack of space since the store was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SpaceRefusals {
    /// By the disk.
    pub disk: u64,
    /// By the limit of the database.
    pub database: u64,
    /// By the limit of a session.
    pub session: u64,
    /// The limit that refuses appends now; `None` while they are recorded. The limit of one session does not count
    /// here, because it stops no other session.
    pub refusing: Option<SpaceLimit>,
}

/// Appends are refused now.
#[derive(Debug, Clone, Copy)]
struct Refusing {
    limit: SpaceLimit,
    /// Bytes of the smallest append that was refused. That a smaller one fits does not mean that there is space.
    bytes_min: u64,
    last: Instant,
}

#[derive(Debug, Default)]
struct State {
    counted: SpaceRefusals,
    refusing: Option<Refusing>,
}

/// Counts refusals, and logs when appends begin to be refused and when they are recorded again.
#[derive(Debug, Default)]
pub(crate) struct RefusalLog(Mutex<State>);

impl RefusalLog {
    /// Counts an append that was refused. Errors that are not about space are ignored.
    pub(crate) fn refused(&self, error: &StoreError, bytes: u64) {
        let Some(limit) = SpaceLimit::of(error) else {
            return;
        };
        let mut state = self.lock();
        match limit {
            SpaceLimit::Disk => state.counted.disk += 1,
            SpaceLimit::Database => state.counted.database += 1,
            SpaceLimit::Session => {
                state.counted.session += 1;
                return;
            }
        }
        let known = state.refusing;
        state.refusing = Some(Refusing {
            limit,
            bytes_min: known.map_or(bytes, |known| known.bytes_min.min(bytes)),
            last: Instant::now(),
        });
        if known.is_none() {
            tracing::warn!(limit = limit.name(), %error, "appends are refused for want of space");
        }
    }

    /// Notes an append that was recorded.
    pub(crate) fn recorded(&self, bytes: u64) {
        let mut state = self.lock();
        let Some(refusing) = state.refusing else {
            return;
        };
        let long_ago = Duration::from_millis(SPACE_REFUSED_MS_MAX);
        if bytes >= refusing.bytes_min || refusing.last.elapsed() >= long_ago {
            state.refusing = None;
            let limit = refusing.limit.name();
            tracing::info!(limit, "appends go on: there is space again");
        }
    }

    pub(crate) fn now(&self) -> SpaceRefusals {
        let state = self.lock();
        SpaceRefusals {
            refusing: state.refusing.map(|refusing| refusing.limit),
            ..state.counted
        }
    }

    /// Plain data, valid after every statement, so a poisoned lock is harmless.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> StoreError {
        StoreError::DiskFull {
            path: "/x".into(),
            why: "no space".into(),
        }
    }

    #[test]
    fn appends_go_on_when_one_as_large_as_the_smallest_refused_is_recorded() {
        let log = RefusalLog::default();
        log.recorded(1);
        assert_eq!(log.now(), SpaceRefusals::default());
        log.refused(&full(), 100);
        log.refused(&full(), 50);
        log.recorded(49);
        let now = log.now();
        assert_eq!((now.disk, now.refusing), (2, Some(SpaceLimit::Disk)));
        log.recorded(50);
        let now = log.now();
        assert_eq!((now.disk, now.refusing), (2, None));
    }

    #[test]
    fn other_errors_are_not_counted() {
        let log = RefusalLog::default();
        let error = StoreError::not_found(&"s".parse().unwrap());
        log.refused(&error, 1);
        assert_eq!(log.now(), SpaceRefusals::default());
    }
}
