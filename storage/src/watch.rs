//! The size limits of an open store, which may change while it runs, and the events as the database nears its
//! limit.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::capacity::levels::{CapacityEvent, Level, LevelTracker, Metric};
use crate::limits::{AT_LIMIT_PERCENT_MIN, EVENTS_KEPT_MAX};
use crate::options::SizeLimits;
use crate::refusals::RefusalLog;

/// A capacity event with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedEvent {
    /// When, Unix milliseconds.
    pub at_ms: i64,
    /// What.
    pub event: CapacityEvent,
}

/// Called with each event. Returns whether it wants further ones.
type Listener = Box<dyn Fn(&TimedEvent) -> bool + Send>;

#[derive(Default)]
struct State {
    tracker: LevelTracker,
    events: VecDeque<TimedEvent>,
    listeners: Vec<Listener>,
}

/// Limits, levels and events of one open store.
pub(crate) struct CapacityWatch {
    /// Both are changed together, so nobody sees one new and one old limit.
    limits: Mutex<SizeLimits>,
    /// Whether each change is logged.
    is_logged: bool,
    /// Appends that were refused for want of space.
    pub(crate) refusals: RefusalLog,
    state: Mutex<State>,
}

impl CapacityWatch {
    pub(crate) fn new(limits: SizeLimits, is_logged: bool) -> Self {
        Self {
            limits: Mutex::new(limits),
            is_logged,
            refusals: RefusalLog::default(),
            state: Mutex::default(),
        }
    }

    pub(crate) fn limits(&self) -> SizeLimits {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn db_bytes_max(&self) -> u64 {
        self.limits().db_bytes_max
    }

    pub(crate) fn set(&self, limits: SizeLimits) {
        *self.limits.lock().unwrap_or_else(PoisonError::into_inner) = limits;
    }

    /// Takes a sample of the database's size, and logs and reports the changes of level. Called by the writer's
    /// thread only.
    pub(crate) fn observe(&self, used_bytes: u64, now_ms: i64) {
        let limit = self.db_bytes_max();
        let mut state = self.lock();
        // A limit of 0 is refused when it is set.
        let events = state
            .tracker
            .observe(Metric::SqliteSize, used_bytes, limit)
            .unwrap_or_default();
        for event in events {
            if !self.is_logged {
                tracing::debug!(%event, "capacity");
            } else if event.is_worse() {
                tracing::warn!(%event, "capacity");
            } else {
                tracing::info!(%event, "capacity");
            }
            let event = TimedEvent {
                at_ms: now_ms,
                event,
            };
            if state.events.len() >= EVENTS_KEPT_MAX {
                state.events.pop_front();
            }
            state.events.push_back(event);
            drop(state);
            self.notify(&event);
            state = self.lock();
        }
    }

    /// Listeners are called without the lock, so they may ask for levels and events, and add listeners, which
    /// are called from the next event on.
    fn notify(&self, event: &TimedEvent) {
        let mut listeners = std::mem::take(&mut self.lock().listeners);
        listeners.retain(|listener| listener(event));
        let mut state = self.lock();
        listeners.append(&mut state.listeners);
        state.listeners = listeners;
    }

    /// Takes a sample after an append was refused at the limit.
    pub(crate) fn observe_refusal(&self, used_bytes: u64, now_ms: i64) {
        let limit = self.db_bytes_max();
        if used_bytes >= limit / 100 * AT_LIMIT_PERCENT_MIN {
            self.observe(used_bytes.max(limit), now_ms);
        }
    }

    pub(crate) fn level(&self) -> Level {
        self.lock().tracker.level(Metric::SqliteSize)
    }

    /// Logs a warning with the capacity level unless it is Ok.
    pub(crate) fn warn_of_capacity(&self) {
        let state = self.lock();
        let mut states = state.tracker.states();
        let Some((metric, now)) = states.find(|(metric, _)| *metric == Metric::SqliteSize) else {
            return;
        };
        if now.level > Level::Ok {
            let event = CapacityEvent::LevelChanged {
                metric,
                from: Level::Ok,
                to: now.level,
                used: now.used,
                limit: now.limit,
            };
            tracing::warn!(%event, "capacity");
        }
    }

    pub(crate) fn events(&self) -> Vec<TimedEvent> {
        self.lock().events.iter().copied().collect()
    }

    pub(crate) fn listen(&self, listener: Listener) {
        self.lock().listeners.push(listener);
    }

    /// Plain data, valid after every statement, so a poisoned lock is harmless.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
