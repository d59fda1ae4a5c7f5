//! The bounded queue in front of the writer: appends by count and bytes, and maintenance jobs.
//!
//! Appends come first, but after each group of them one job gets its turn, so that neither waits
//! for ever. A full queue makes appenders wait, up to their deadline; it never drops anything.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::context::WriterContext;
use super::request::AppendRequest;
use crate::error::{Result, StoreError};
use crate::limits::{GROUP_BYTES_MAX, GROUP_REQUESTS_MAX, QUEUED_MESSAGE_BYTES};

/// A piece of maintenance that runs on the writer thread, between two groups of appends.
pub(super) type Job = Box<dyn FnOnce(&mut WriterContext) + Send>;

/// What the writer does next.
pub(super) enum Work {
    /// Appends to commit together, and perhaps a job after them.
    Some {
        group: Vec<AppendRequest>,
        job: Option<Job>,
    },
    /// Nothing came within the time to wait.
    Idle,
    /// The store is closing and the queue is empty.
    Closed,
}

#[derive(Default)]
struct State {
    appends: VecDeque<AppendRequest>,
    /// What they take, as [`queued_bytes`] counts it.
    append_bytes: usize,
    jobs: VecDeque<Job>,
    closed: bool,
    /// Why, when it was not asked for.
    why: Option<&'static str>,
}

impl State {
    fn refusal(&self) -> StoreError {
        StoreError::Closed {
            why: self.why.map(str::to_owned),
        }
    }
}

pub(super) struct Queue {
    state: Mutex<State>,
    work_came: Condvar,
    room_came: Condvar,
    requests_max: usize,
    bytes_max: usize,
}

impl Queue {
    pub(super) fn new(requests_max: usize, bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            work_came: Condvar::new(),
            room_came: Condvar::new(),
            requests_max,
            bytes_max,
        }
    }

    /// The state is plain data, valid after every statement: a panic elsewhere does not spoil it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an append, waiting for room until its deadline.
    pub(super) fn push(&self, request: AppendRequest) -> Result<()> {
        let started = Instant::now();
        let bytes = queued_bytes(&request);
        let mut state = self.lock();
        loop {
            if state.closed {
                return Err(state.refusal());
            }
            let fits = state.appends.len() < self.requests_max
                && (state.append_bytes + bytes <= self.bytes_max || state.appends.is_empty());
            if fits {
                state.append_bytes += bytes;
                state.appends.push_back(request);
                self.work_came.notify_one();
                return Ok(());
            }
            let Some(left) = request.deadline.checked_duration_since(Instant::now()) else {
                return Err(StoreError::QueueFull {
                    waited_ms: millis(started.elapsed()),
                    requests: state.appends.len(),
                    bytes: state.append_bytes,
                });
            };
            state = self
                .room_came
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    pub(super) fn push_job(&self, job: Job) -> Result<()> {
        let mut state = self.lock();
        if state.closed {
            return Err(state.refusal());
        }
        state.jobs.push_back(job);
        self.work_came.notify_one();
        Ok(())
    }

    /// Takes what comes next, waiting up to `idle_after` for it.
    pub(super) fn take(&self, idle_after: Duration) -> Work {
        let deadline = Instant::now() + idle_after;
        let mut state = self.lock();
        loop {
            if !state.appends.is_empty() || !state.jobs.is_empty() {
                let group = take_group(&mut state);
                let job = state.jobs.pop_front();
                if !group.is_empty() {
                    self.room_came.notify_all();
                }
                return Work::Some { group, job };
            }
            if state.closed {
                return Work::Closed;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Work::Idle;
            }
            state = self
                .work_came
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Lets nothing more in; what waits is still carried out.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.work_came.notify_all();
        self.room_came.notify_all();
    }

    /// Closes because of `why`, and hands out what waits so that it can be refused.
    pub(super) fn close_and_drain(&self, why: &'static str) -> Vec<AppendRequest> {
        let mut state = self.lock();
        state.closed = true;
        state.why = Some(why);
        state.append_bytes = 0;
        state.jobs.clear();
        self.room_came.notify_all();
        state.appends.drain(..).collect()
    }

    /// Requests that wait, and the bytes that they take.
    pub(super) fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.appends.len(), state.append_bytes)
    }
}

fn take_group(state: &mut State) -> Vec<AppendRequest> {
    let mut group = Vec::new();
    let (mut bytes, mut queued) = (0, 0);
    while let Some(next) = state.appends.front() {
        let full = group.len() >= GROUP_REQUESTS_MAX || bytes + next.bytes() > GROUP_BYTES_MAX;
        if full && !group.is_empty() {
            break;
        }
        if let Some(request) = state.appends.pop_front() {
            bytes += request.bytes();
            queued += queued_bytes(&request);
            group.push(request);
        }
    }
    state.append_bytes -= queued;
    group
}

/// What a request takes while it waits: its payloads, and what is known of each.
fn queued_bytes(request: &AppendRequest) -> usize {
    request.bytes() + request.messages.len() * QUEUED_MESSAGE_BYTES
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::ids::SessionId;
    use crate::message::Batch;

    /// A request of empty messages that waits for nobody.
    fn empty(messages: usize) -> AppendRequest {
        let session = SessionId::new("s").unwrap();
        let batch = Batch::new(session, vec![Bytes::new(); messages]);
        let prepared = AppendRequest::prepare(batch, 1, Instant::now(), Box::new(|_| {}));
        prepared.map_err(|(error, _)| error).unwrap()
    }

    #[test]
    fn a_queue_is_filled_by_messages_without_bytes_too_and_has_room_when_they_are_taken() {
        let queue = Queue::new(100, 25 * QUEUED_MESSAGE_BYTES);
        queue.push(empty(10)).unwrap();
        queue.push(empty(10)).unwrap();
        let full = queue.push(empty(10)).unwrap_err();
        assert!(matches!(full, StoreError::QueueFull { .. }), "{full}");
        assert_eq!(queue.waiting(), (2, 20 * QUEUED_MESSAGE_BYTES));
        assert!(matches!(queue.take(Duration::ZERO), Work::Some { group, .. } if group.len() == 2));
        assert_eq!(queue.waiting(), (0, 0));
        queue.push(empty(10)).unwrap();
    }
}
