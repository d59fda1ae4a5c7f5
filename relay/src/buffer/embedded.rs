//! The buffer of one relay alone, on the history engine: the same durability as the history.
//!
//! Each request is a session of its own with one message, because requests are removed one by one and the engine removes
//! sessions, not single messages. Outcomes are messages of one session for each day, so that old ones are removed a day
//! at a time. A request is settled by writing its outcome, in one commit. Its session is removed after that; after a
//! crash the next start does it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use betcode_schema_tunnel::MachineId;
use betcode_service::sync::lock;
use betcode_storage::{
    Batch, Clock, ErrorKind, Message, ReadRange, SessionFilter, SessionId, Store, StoreError,
    StoreOptions,
};
use tonic::Code;

use super::index::{Bounds, Entry, Index, Reservation};
use super::record::{self, Outcome};
use super::{
    Buffer, BufferCounts, BufferError, BufferFuture, KeyState, PendingRequest, PutOutcome,
    TakenRequest, Ticket,
};
use crate::limits;

const REQUEST_PREFIX: &str = "w~";
const OUTCOME_PREFIX: &str = "o~";
const DAY_MS: i64 = 24 * 3600 * 1000;

/// How an [`EmbeddedBuffer`] is bounded.
#[derive(Clone)]
pub struct BufferOptions {
    /// Requests that wait for one machine.
    pub requests_per_machine_max: usize,
    /// Requests that wait in all.
    pub requests_max: usize,
    /// Their bytes.
    pub bytes_max: u64,
    /// How long one waits, milliseconds.
    pub age_ms_max: i64,
    /// Source of time.
    pub clock: Arc<dyn Clock>,
}

impl Default for BufferOptions {
    fn default() -> Self {
        Self {
            requests_per_machine_max: limits::BUFFER_REQUESTS_PER_MACHINE_MAX_DEFAULT,
            requests_max: limits::BUFFER_REQUESTS_MAX_DEFAULT,
            bytes_max: limits::BUFFER_BYTES_MAX_DEFAULT,
            age_ms_max: limits::BUFFER_AGE_MS_MAX_DEFAULT,
            clock: Arc::new(betcode_storage::SystemClock),
        }
    }
}

/// Requests on disk in a history store, indexed in memory.
pub struct EmbeddedBuffer {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<Store>,
    options: BufferOptions,
    index: Mutex<Index>,
    order_next: AtomicU64,
    /// Days that have an outcome, and the time from which the age of the day's last one counts.
    outcome_days: Mutex<BTreeMap<i64, i64>>,
    /// The clock's time when it was last read, and when that was by the monotonic clock.
    last_read: Mutex<(i64, Instant)>,
    /// Sessions to be removed, for the thread that does that.
    removals: mpsc::Sender<SessionId>,
}

impl EmbeddedBuffer {
    /// Opens the buffer in a database file, created when there is none, and takes up what waits
    /// in it. Blocks while it reads.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn open(path: &Path, options: BufferOptions) -> Result<Self, StoreError> {
        let store_options = StoreOptions {
            clock: options.clock.clone(),
            // Room for what waits, and for what is gone but not yet given back.
            db_bytes_max: options.bytes_max.saturating_mul(2).max(64_000_000),
            payload_bytes_max: limits::BUFFER_REQUEST_BYTES_MAX,
            ..StoreOptions::default()
        };
        let store = Arc::new(Store::open(path, store_options)?);
        let (removals, sessions) = mpsc::channel();
        let last_read = Mutex::new((options.clock.now_ms(), Instant::now()));
        let inner = Arc::new(Inner {
            index: Mutex::new(Index::new(Bounds {
                requests_per_machine_max: options.requests_per_machine_max,
                requests_max: options.requests_max,
                bytes_max: options.bytes_max,
                outcomes_max: limits::OUTCOMES_MAX,
            })),
            store: store.clone(),
            options,
            order_next: AtomicU64::new(1),
            outcome_days: Mutex::default(),
            last_read,
            removals,
        });
        inner.load()?;
        std::thread::Builder::new()
            .name("buffer-removal".into())
            .spawn(move || {
                let retry_after = Duration::from_millis(limits::BUFFER_SWEEP_MS);
                let remove = |session: &SessionId| match store.delete(session) {
                    Ok(_) | Err(StoreError::SpaceNotGivenBack { .. }) => Ok(()),
                    Err(error) => Err(error),
                };
                remove_sessions(&sessions, retry_after, remove);
            })
            .map_err(|source| StoreError::Io {
                action: "start a thread for",
                path: path.to_owned(),
                source,
            })?;
        Ok(Self { inner })
    }
}

/// Removes sessions until the buffer is dropped. Those that cannot be removed, as on a full disk, are
/// tried again now and then: until then they take space in the store.
fn remove_sessions(
    sessions: &mpsc::Receiver<SessionId>,
    retry_after: Duration,
    remove: impl Fn(&SessionId) -> Result<(), StoreError>,
) {
    let (mut failed, mut retry_at) = (Vec::new(), Instant::now());
    loop {
        let left = retry_at.saturating_duration_since(Instant::now());
        let next = match failed.is_empty() {
            true => sessions.recv().map_err(|_| RecvTimeoutError::Disconnected),
            false if left.is_zero() => Err(RecvTimeoutError::Timeout),
            false => sessions.recv_timeout(left),
        };
        match next {
            Ok(session) => {
                if let Err(error) = remove(&session) {
                    tracing::warn!(%session, %error, "not removed from the buffer; tried again later");
                    if failed.is_empty() {
                        retry_at = Instant::now() + retry_after;
                    }
                    failed.push(session);
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                failed.retain(|session| remove(session).is_err());
                retry_at = Instant::now() + retry_after;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Inner {
    fn load(&self) -> Result<(), StoreError> {
        let listed = self.store.sessions(&SessionFilter::default())?;
        // The number of a request that is not known would be used again.
        if let Some(damaged) = listed.damaged.first() {
            return Err(damaged.error());
        }
        let ids: BTreeSet<SessionId> = listed.sessions.into_iter().map(|s| s.id).collect();
        let (mut settled, mut is_damaged) = (BTreeSet::new(), false);
        for id in &ids {
            let Some(day) = id.as_str().strip_prefix(OUTCOME_PREFIX) else {
                continue;
            };
            if let Ok(day) = day.parse::<i64>() {
                let ended_ms = self.age_from_ms(end_of_day_ms(day), limits::OUTCOME_AGE_MS_MAX);
                lock(&self.outcome_days).insert(day, ended_ms);
            }
            for message in self.store.read(id, ReadRange::all())? {
                match outcome(message)? {
                    Ok(mut outcome) => {
                        settled.insert(outcome.order);
                        let age_ms_max = limits::OUTCOME_AGE_MS_MAX;
                        outcome.settled_ms = self.age_from_ms(outcome.settled_ms, age_ms_max);
                        lock(&self.index).settled(outcome);
                    }
                    Err(why) => {
                        tracing::error!(session = %id, why, "an outcome is damaged");
                        is_damaged = true;
                    }
                }
            }
        }
        if is_damaged {
            // The number in it is not known and must not be used again: that request would be taken for a
            // settled one once the outcome can be read. Numbers begin at 1 and fewer are used than milliseconds
            // pass, so the time is above all of them.
            let above = u64::try_from(self.options.clock.now_ms()).unwrap_or(0);
            self.order_next.fetch_max(above, Ordering::Relaxed);
        }
        let order_settled_last = settled.last().copied().unwrap_or(0);
        self.order_next
            .fetch_max(order_settled_last + 1, Ordering::Relaxed);
        for id in ids {
            if !id.as_str().starts_with(REQUEST_PREFIX) {
                continue;
            }
            let order = id.as_str().rsplit('~').next().and_then(|n| n.parse().ok());
            let Some(order) = order else { continue };
            self.order_next.fetch_max(order + 1, Ordering::Relaxed);
            if settled.contains(&order) {
                // Settled before the last stop, and not yet removed.
                let _ = self.removals.send(id);
                continue;
            }
            if let Err(error) = self.load_request(&id, order) {
                // It stays in the file for a person to look at, and the others are delivered.
                tracing::error!(session = %id, %error, "a request that waits cannot be read");
            }
        }
        Ok(())
    }

    fn load_request(&self, id: &SessionId, order: u64) -> Result<(), BufferError> {
        let (request, bytes, buffered_ms) = self.read(id)?;
        let ticket = Ticket {
            machine: request.machine.clone(),
            priority: request.priority,
            order,
        };
        let entry = Entry {
            digest: record::digest(&request),
            key: request.key,
            bytes,
            buffered_ms: self.age_from_ms(buffered_ms, self.options.age_ms_max),
            written: true,
            delivering: false,
            expiring: false,
        };
        lock(&self.index).insert(&ticket, entry);
        Ok(())
    }

    /// The time from which the age counts of a request or outcome of `time_ms` that is found at the start. How long
    /// the relay was stopped, and whether its clock is right, is not known, so it is kept for some hours at least.
    fn age_from_ms(&self, time_ms: i64, age_ms_max: i64) -> i64 {
        let now_ms = self.options.clock.now_ms();
        let left_ms = limits::BUFFER_FOUND_AGE_LEFT_MS.min(age_ms_max);
        time_ms.clamp(now_ms.saturating_sub(age_ms_max - left_ms), now_ms)
    }

    /// The time now. If the clock was set ahead since it was last read, requests and outcomes do not become older
    /// by that.
    fn read_clock(&self) -> i64 {
        let mut last_read = lock(&self.last_read);
        let (then_ms, then) = *last_read;
        let now_ms = self.options.clock.now_ms();
        *last_read = (now_ms, Instant::now());
        let passed_ms = i64::try_from(then.elapsed().as_millis()).unwrap_or(i64::MAX);
        let jump_ms = now_ms.saturating_sub(then_ms).saturating_sub(passed_ms);
        if jump_ms > limits::BUFFER_CLOCK_JUMP_MS_MAX {
            tracing::warn!(
                jump_ms,
                "the clock jumped ahead; what waits is not older by that"
            );
            lock(&self.index).clock_jumped(jump_ms, now_ms);
            for (&day, ended_ms) in lock(&self.outcome_days).iter_mut() {
                *ended_ms = ended_ms
                    .saturating_add(jump_ms)
                    .min(end_of_day_ms(day).max(now_ms));
            }
        }
        now_ms
    }

    /// A request, its size on disk, and when it was buffered.
    fn read(&self, id: &SessionId) -> Result<(PendingRequest, usize, i64), BufferError> {
        let mut messages = self.store.read(id, ReadRange::all()).map_err(failed)?;
        let message = messages
            .next()
            .ok_or_else(|| record::damaged("it is empty"))?;
        let message = message.map_err(failed)?;
        let bytes = message.payload.len();
        let request = record::decode(message.payload)?;
        Ok((request, bytes, message.received_ms))
    }

    fn put(&self, request: &PendingRequest) -> Result<PutOutcome, BufferError> {
        let record = record::encode(request)?;
        let (bytes, bytes_max) = (record.len(), limits::BUFFER_REQUEST_BYTES_MAX);
        if bytes > bytes_max {
            return Err(BufferError::TooBig { bytes, bytes_max });
        }
        let ticket = Ticket {
            machine: request.machine.clone(),
            priority: request.priority,
            order: self.order_next.fetch_add(1, Ordering::Relaxed),
        };
        let entry = Entry {
            key: request.key.clone(),
            digest: record::digest(request),
            bytes,
            buffered_ms: self.options.clock.now_ms(),
            written: false,
            delivering: false,
            expiring: false,
        };
        match lock(&self.index).reserve(&ticket, entry)? {
            Reservation::Waiting => return Ok(PutOutcome::Buffered),
            Reservation::Settled(code) => return Ok(PutOutcome::Settled(code)),
            Reservation::Reserved => {}
        }
        let appended = session_of(&ticket)
            .and_then(|session| self.store.append(Batch::new(session, vec![record])));
        let mut index = lock(&self.index);
        match appended {
            Ok(_) => {
                index.written(&ticket);
                Ok(PutOutcome::Buffered)
            }
            Err(error) => {
                index.remove(&ticket);
                Err(failed(error))
            }
        }
    }

    fn take_first(&self, machine: &MachineId) -> Result<Option<TakenRequest>, BufferError> {
        loop {
            let Some(ticket) = lock(&self.index).take_first(machine) else {
                return Ok(None);
            };
            let session = session_of(&ticket).map_err(failed)?;
            match self.read(&session) {
                Ok((request, _, buffered_ms)) => {
                    return Ok(Some(TakenRequest {
                        ticket,
                        buffered_ms,
                        request,
                    }));
                }
                Err(error @ BufferError::Damaged { .. }) => {
                    // It stays in the file for a person to look at, and the others are delivered.
                    tracing::error!(%session, %error, "passed over");
                    lock(&self.index).remove(&ticket);
                }
                Err(error) => {
                    lock(&self.index).put_back(&ticket);
                    return Err(error);
                }
            }
        }
    }

    fn settle(&self, ticket: &Ticket, code: Code) -> Result<(), BufferError> {
        let settled_ms = self.options.clock.now_ms();
        let Some(entry) = lock(&self.index).get(ticket).cloned() else {
            return Ok(());
        };
        let outcome = Outcome {
            machine: ticket.machine.clone(),
            key: entry.key,
            order: ticket.order,
            digest: entry.digest,
            code: code as i32,
            settled_ms,
        };
        let day = settled_ms.div_euclid(DAY_MS);
        let line = serde_json::to_vec(&outcome).map_err(record::failed)?;
        let session = SessionId::new(format!("{OUTCOME_PREFIX}{day}")).map_err(failed)?;
        self.store
            .append(Batch::new(session, vec![line.into()]))
            .map_err(failed)?;
        // From here on the request is settled, whatever happens to the rest.
        lock(&self.outcome_days).insert(day, end_of_day_ms(day));
        let mut index = lock(&self.index);
        index.remove(ticket);
        index.settled(outcome);
        drop(index);
        let session = session_of(ticket).map_err(failed)?;
        // It fails only when the removing thread is gone; the next start finds the session.
        let _ = self.removals.send(session);
        Ok(())
    }

    fn expire(&self) -> Result<usize, BufferError> {
        let now_ms = self.read_clock();
        let old = lock(&self.index).take_older_than(now_ms - self.options.age_ms_max);
        for ticket in &old {
            tracing::warn!(machine = %ticket.machine, order = ticket.order, "waited too long");
            if let Err(error) = self.settle(ticket, Code::DeadlineExceeded) {
                let mut index = lock(&self.index);
                old.iter().for_each(|ticket| index.put_back(ticket));
                return Err(error);
            }
        }
        let forget_ms = now_ms - limits::OUTCOME_AGE_MS_MAX;
        lock(&self.index).forget_before(forget_ms);
        // A day's outcomes can go when its last moment is too old.
        lock(&self.outcome_days).retain(|day, ended_ms| {
            let kept = *ended_ms > forget_ms;
            if !kept && let Ok(session) = SessionId::new(format!("{OUTCOME_PREFIX}{day}")) {
                let _ = self.removals.send(session);
            }
            kept
        });
        Ok(old.len())
    }
}

/// Reads an outcome. One that is damaged is an answer of its own, as the next one can be whole;
/// what keeps the store from being read is an error.
fn outcome(message: Result<Message, StoreError>) -> Result<Result<Outcome, String>, StoreError> {
    match message {
        Ok(message) => Ok(serde_json::from_slice(&message.payload).map_err(|e| e.to_string())),
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(Err(error.to_string())),
        Err(error) => Err(error),
    }
}

fn end_of_day_ms(day: i64) -> i64 {
    day.saturating_add(1).saturating_mul(DAY_MS)
}

fn session_of(ticket: &Ticket) -> Result<SessionId, StoreError> {
    let Ticket { machine, order, .. } = ticket;
    SessionId::new(format!("{REQUEST_PREFIX}{machine}~{order:020}"))
}

fn failed(error: StoreError) -> BufferError {
    match error.kind() {
        ErrorKind::Damaged => record::damaged(error),
        ErrorKind::NoSpace => BufferError::NoSpace {
            why: error.to_string(),
        },
        _ => record::failed(error),
    }
}

/// Runs work that waits for the disk on a thread where that is allowed. It runs to its end even if its caller has
/// left, so that the index always agrees with the disk.
fn blocking<'a, T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&Inner) -> Result<T, BufferError> + Send + 'static,
) -> BufferFuture<'a, T> {
    let inner = inner.clone();
    Box::pin(async move {
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(record::failed(error)))
    })
}

impl Buffer for EmbeddedBuffer {
    fn put(&self, request: PendingRequest) -> BufferFuture<'_, PutOutcome> {
        blocking(&self.inner, move |inner| inner.put(&request))
    }

    fn key_state(&self, machine: &MachineId, key: &str) -> Option<KeyState> {
        lock(&self.inner.index).key_state(machine, key)
    }

    fn take_first<'a>(&'a self, machine: &'a MachineId) -> BufferFuture<'a, Option<TakenRequest>> {
        if self.waiting(machine) == 0 {
            return Box::pin(std::future::ready(Ok(None)));
        }
        let machine = machine.clone();
        blocking(&self.inner, move |inner| inner.take_first(&machine))
    }

    fn put_back(&self, ticket: &Ticket) {
        lock(&self.inner.index).put_back(ticket);
    }

    fn settle<'a>(&'a self, ticket: &'a Ticket, code: Code) -> BufferFuture<'a, ()> {
        let ticket = ticket.clone();
        blocking(&self.inner, move |inner| inner.settle(&ticket, code))
    }

    fn expire(&self) -> BufferFuture<'_, usize> {
        blocking(&self.inner, Inner::expire)
    }

    fn waiting(&self, machine: &MachineId) -> usize {
        lock(&self.inner.index).waiting(machine)
    }

    fn counts(&self) -> BufferCounts {
        lock(&self.inner.index).counts()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_removed_is_tried_again() {
        let (removals, sessions) = mpsc::channel();
        let (removed_sender, removed) = mpsc::channel();
        let attempts = std::cell::Cell::new(0);
        let thread = std::thread::spawn(move || {
            remove_sessions(&sessions, Duration::from_millis(5), |session| {
                attempts.set(attempts.get() + 1);
                if attempts.get() < 3 {
                    return Err(StoreError::Closed { why: None });
                }
                removed_sender.send(session.clone()).unwrap();
                Ok(())
            });
        });
        let session = SessionId::new("w~m~1").unwrap();
        removals.send(session.clone()).unwrap();
        let found = removed.recv_timeout(Duration::from_secs(10)).unwrap();
        assert_eq!(found, session);
        drop(removals);
        thread.join().unwrap();
    }

    #[test]
    fn a_full_disk_is_told_apart() {
        let full = failed(StoreError::Io {
            action: "write",
            path: "/somewhere/buffer.db".into(),
            source: std::io::ErrorKind::StorageFull.into(),
        });
        assert!(matches!(full, BufferError::NoSpace { .. }), "{full:?}");
    }
}
