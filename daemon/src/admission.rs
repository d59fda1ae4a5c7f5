//! The limits of clients, sessions, streams, bytes in flight and others.
//!
//! Each limit has a name and is counted here. What is beyond it is refused with RESOURCE_EXHAUSTED and that name. All
//! may be changed while the daemon runs.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use betcode_service::sync::lock;
use betcode_storage::SessionId;
use tonic::Status;

use crate::limits::{CONVERSATIONS_MAX, LIMIT_LOG_INTERVAL_MS, SESSION_ACTIVE_MS};
use crate::status;

/// A limit, how much of it is used, and how often it refused.
#[derive(Debug)]
pub struct Limit {
    name: &'static str,
    hint: &'static str,
    used: AtomicU64,
    max: AtomicU64,
    refused: AtomicU64,
    /// When a refusal was last logged.
    logged: Mutex<Option<Instant>>,
}

impl Limit {
    pub(crate) fn new(name: &'static str, hint: &'static str, max: u64) -> Arc<Self> {
        let (used, refused) = (AtomicU64::new(0), AtomicU64::new(0));
        Arc::new(Self {
            name,
            hint,
            used,
            max: AtomicU64::new(max),
            refused,
            logged: Mutex::default(),
        })
    }

    /// Its name, as refusals have it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// How much is used.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// How much there is.
    #[must_use]
    pub fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// Refusals since the start.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Changes the limit. What was admitted already stays.
    pub fn set_max(&self, max: u64) {
        self.max.store(max, Ordering::Relaxed);
    }

    /// Sets how much is used, of what is measured and not acquired, such as memory.
    pub fn observe(&self, used: u64) {
        self.used.store(used, Ordering::Relaxed);
    }

    /// Refuses while all of it is used.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED with the limit's name.
    pub fn check(&self) -> Result<(), Status> {
        let (used, max) = (self.used(), self.max());
        if used < max {
            return Ok(());
        }
        Err(self.refusal(used, max))
    }

    /// Counts a refusal, and logs it unless one was logged a short time ago.
    fn refusal(&self, used: u64, max: u64) -> Status {
        self.count_and_log(used, max);
        status::exhausted(self.name, used, max, self.hint)
    }

    /// The same, where it is known when there is space again at the earliest.
    fn refusal_for(&self, retry_after: Duration) -> Status {
        let (used, max) = (self.used(), self.max());
        self.count_and_log(used, max);
        status::exhausted_for(retry_after, self.name, used, max, self.hint)
    }

    fn count_and_log(&self, used: u64, max: u64) {
        self.note_refused();
        let interval = Duration::from_millis(LIMIT_LOG_INTERVAL_MS);
        let mut logged = lock(&self.logged);
        if logged.is_none_or(|at| at.elapsed() >= interval) {
            *logged = Some(Instant::now());
            let (limit, hint) = (self.name, self.hint);
            tracing::warn!(
                limit,
                used,
                max,
                hint,
                "a limit is reached, and requests are refused"
            );
        }
    }

    /// Counts a refusal that was made elsewhere.
    pub(crate) fn note_refused(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes `amount`, or refuses. A single amount over the whole limit is admitted while nothing else is:
    /// otherwise it never could be.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED with the limit's name.
    pub fn acquire(self: &Arc<Self>, amount: u64) -> Result<LimitGuard, Status> {
        let max = self.max();
        let taken = self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used + amount <= max || (used == 0 && max > 0)).then_some(used + amount)
            });
        match taken {
            Ok(_) => Ok(LimitGuard {
                limit: Arc::clone(self),
                amount,
            }),
            Err(used) => Err(self.refusal(used, max)),
        }
    }
}

/// A part of a limit, given back when it is dropped.
#[derive(Debug)]
pub struct LimitGuard {
    limit: Arc<Limit>,
    amount: u64,
}

impl Drop for LimitGuard {
    fn drop(&mut self) {
        self.limit.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// The daemon's limits.
#[derive(Debug)]
pub struct Admission {
    /// Connections that are served.
    pub clients: Arc<Limit>,
    /// Followers.
    pub followers: Arc<Limit>,
    /// Bytes of appends that are not answered yet, of all clients.
    pub in_flight_bytes: Arc<Limit>,
    /// Sessions that are being appended to.
    pub sessions: Arc<Limit>,
    /// Memory in RAM. When it is used up, what is under way goes on, and nothing is begun that would need more.
    pub memory: Arc<Limit>,
    /// Agents that run.
    pub subprocesses: Arc<Limit>,
    /// Connections, idle ones too.
    pub connections: Arc<Limit>,
    /// Batches that wait for the writer: the store counts them, and refuses.
    pub writer_queue: Arc<Limit>,
    /// Conversations: counted where they are kept.
    pub conversations: Arc<Limit>,
    active: ActiveSessions,
}

/// Values of the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimitValues {
    /// See [`Admission::clients`].
    pub clients: u64,
    /// See [`Admission::followers`].
    pub followers: u64,
    /// See [`Admission::in_flight_bytes`].
    pub in_flight_bytes: u64,
    /// See [`Admission::sessions`].
    pub sessions: u64,
    /// See [`Admission::memory`].
    pub memory_bytes: u64,
    /// See [`Admission::subprocesses`].
    pub subprocesses: u64,
}

impl Admission {
    /// Limits with these values.
    #[must_use]
    pub fn new(max: &LimitValues) -> Self {
        Self {
            clients: Limit::new(
                "clients",
                "close idle connections, or raise max_clients",
                max.clients,
            ),
            followers: Limit::new(
                "followers",
                "end followers that are not needed, or raise max_followers",
                max.followers,
            ),
            in_flight_bytes: Limit::new(
                "in_flight_bytes",
                "wait for answers before sending more",
                max.in_flight_bytes,
            ),
            sessions: Limit::new(
                "sessions",
                "wait until other sessions pause, or raise max_sessions",
                max.sessions,
            ),
            memory: Limit::new(
                "memory",
                "wait until others have ended, or raise max_memory_bytes",
                max.memory_bytes,
            ),
            subprocesses: Limit::new(
                "subprocesses",
                "wait until an agent has ended, or raise max_subprocesses",
                max.subprocesses,
            ),
            // Set when the daemon listens and knows how many files it may open.
            connections: Limit::new("max_connections", "close idle connections", 0),
            writer_queue: Limit::new("writer_queue", "wait until others are recorded", 0),
            conversations: Limit::new(
                "conversations",
                "leave conversations that are not needed, or clear their grants",
                CONVERSATIONS_MAX,
            ),
            active: ActiveSessions::default(),
        }
    }

    /// Changes the values.
    pub fn set(&self, max: &LimitValues) {
        self.clients.set_max(max.clients);
        self.followers.set_max(max.followers);
        self.in_flight_bytes.set_max(max.in_flight_bytes);
        self.sessions.set_max(max.sessions);
        self.memory.set_max(max.memory_bytes);
        self.subprocesses.set_max(max.subprocesses);
    }

    /// All limits.
    #[must_use]
    pub fn all(&self) -> [&Arc<Limit>; 9] {
        [
            &self.clients,
            &self.followers,
            &self.in_flight_bytes,
            &self.sessions,
            &self.memory,
            &self.subprocesses,
            &self.connections,
            &self.writer_queue,
            &self.conversations,
        ]
    }

    /// Admits a batch to a session. The session counts as active until the batch is refused, or
    /// for [`SESSION_ACTIVE_MS`] after one was recorded.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when it is not active, and too many are or memory is used up.
    pub fn admit_session(&self, session: &SessionId) -> Result<AdmittedSession, Status> {
        let mut active = lock(&self.active);
        if !active.contains_key(session) {
            self.memory.check()?;
            if self.sessions.used() >= self.sessions.max() {
                active.retain(|_, session| session.is_active());
            }
            if self.sessions.used() >= self.sessions.max()
                && let Some(pauses_in) = active.values().filter_map(ActiveSession::pauses_in).min()
            {
                return Err(self.sessions.refusal_for(pauses_in));
            }
            let session_active = ActiveSession {
                _place: self.sessions.acquire(1)?,
                under_way: 0,
                recorded: None,
            };
            active.insert(session.clone(), session_active);
        }
        if let Some(session) = active.get_mut(session) {
            session.under_way += 1;
        }
        Ok(AdmittedSession {
            active: Arc::clone(&self.active),
            session: session.clone(),
        })
    }

    /// Counts a session as active because something was recorded in it, unless there are too many.
    pub fn note_recorded(&self, session: &SessionId) {
        if let Ok(admitted) = self.admit_session(session) {
            admitted.recorded();
        }
    }

    /// Forgets sessions that have paused.
    pub fn expire(&self) {
        lock(&self.active).retain(|_, session| session.is_active());
    }
}

type ActiveSessions = Arc<Mutex<HashMap<SessionId, ActiveSession>>>;

/// A session that is appended to.
#[derive(Debug)]
struct ActiveSession {
    _place: LimitGuard,
    /// Batches that were admitted and not answered yet.
    under_way: usize,
    /// When the last batch was recorded.
    recorded: Option<Instant>,
}

impl ActiveSession {
    /// When it is no longer active, if nothing more is appended to it; `None` while a batch is under way.
    fn pauses_in(&self) -> Option<Duration> {
        let active = Duration::from_millis(SESSION_ACTIVE_MS);
        let recorded = self.recorded.filter(|_| self.under_way == 0)?;
        // A client that comes back a moment before that would be refused once more.
        let moment = Duration::from_millis(1);
        Some(active.saturating_sub(recorded.elapsed()) + moment)
    }

    fn is_active(&self) -> bool {
        let active = Duration::from_millis(SESSION_ACTIVE_MS);
        self.under_way > 0 || self.recorded.is_some_and(|at| at.elapsed() < active)
    }
}

/// A batch that was admitted to a session. If it is dropped and nothing of the session was ever recorded, the session
/// is no longer active: refused batches must not keep other sessions out.
#[derive(Debug)]
pub struct AdmittedSession {
    active: ActiveSessions,
    session: SessionId,
}

impl AdmittedSession {
    /// The batch was recorded.
    pub fn recorded(self) {
        if let Some(session) = lock(&self.active).get_mut(&self.session) {
            session.recorded = Some(Instant::now());
        }
    }
}

impl Drop for AdmittedSession {
    fn drop(&mut self) {
        let mut active = lock(&self.active);
        if let Some(session) = active.get_mut(&self.session) {
            session.under_way = session.under_way.saturating_sub(1);
            if session.under_way == 0 && session.recorded.is_none() {
                active.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic_types::StatusExt;

    fn admission() -> Admission {
        Admission::new(&LimitValues {
            clients: 2,
            followers: 1,
            in_flight_bytes: 100,
            sessions: 1,
            memory_bytes: 1000,
            subprocesses: 1,
        })
    }

    #[test]
    fn a_limit_refuses_by_name_and_recovers() {
        let admission = admission();
        let taken = admission.followers.acquire(1).unwrap();
        let refused = admission.followers.acquire(1).unwrap_err();
        let details = refused.get_error_details();
        assert_eq!(
            details.quota_failure().unwrap().violations[0].subject,
            "followers"
        );
        assert!(details.retry_info().is_some());
        drop(taken);
        assert!(admission.followers.acquire(1).is_ok());
        assert_eq!(
            (admission.followers.used(), admission.followers.refused()),
            (0, 1)
        );
    }

    #[test]
    fn one_amount_over_the_whole_limit_passes_alone() {
        let limit = &admission().in_flight_bytes;
        let big = limit.acquire(1000).unwrap();
        assert!(limit.acquire(1).is_err());
        drop(big);
        assert!(limit.acquire(60).is_ok());
    }

    #[test]
    fn used_up_memory_refuses_what_is_new_until_there_is_some() {
        let admission = admission();
        let (old, new) = (
            SessionId::new("old").unwrap(),
            SessionId::new("new").unwrap(),
        );
        admission.note_recorded(&old);
        admission.sessions.set_max(2);
        admission.memory.observe(1000);
        let refused = admission.admit_session(&new).unwrap_err();
        let details = refused.get_error_details();
        assert_eq!(
            details.quota_failure().unwrap().violations[0].subject,
            "memory"
        );
        admission.admit_session(&old).unwrap();
        admission.memory.observe(999);
        admission.admit_session(&new).unwrap();
    }

    #[test]
    fn an_active_session_stays_admitted() {
        let admission = admission();
        let (one, two) = (
            SessionId::new("one").unwrap(),
            SessionId::new("two").unwrap(),
        );
        admission.admit_session(&one).unwrap().recorded();
        let refused = admission.admit_session(&two).unwrap_err();
        assert_eq!(admission.sessions.refused(), 1);
        // Nothing earlier than the end of the first one's minute makes space.
        let details = refused.get_error_details();
        let retry_after = details.retry_info().unwrap().retry_delay.unwrap();
        let active = Duration::from_millis(SESSION_ACTIVE_MS);
        assert!(
            retry_after > active - Duration::from_secs(5),
            "{retry_after:?}"
        );
        assert!(retry_after <= active + Duration::from_secs(1));
        admission.admit_session(&one).unwrap();
    }

    #[test]
    fn a_refused_batch_leaves_its_place_to_other_sessions() {
        let admission = admission();
        let (refused, good) = (
            SessionId::new("refused").unwrap(),
            SessionId::new("good").unwrap(),
        );
        let (first, second) = (
            admission.admit_session(&refused).unwrap(),
            admission.admit_session(&refused).unwrap(),
        );
        drop(first);
        assert!(admission.admit_session(&good).is_err(), "one is under way");
        drop(second);
        let admitted = admission.admit_session(&good).unwrap();
        admitted.recorded();
        // Refused later, it stays active for what was recorded before.
        drop(admission.admit_session(&good).unwrap());
        assert_eq!(admission.sessions.used(), 1);
    }
}
