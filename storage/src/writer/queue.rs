//! The bounded queue in front of the writer: appends by count and bytes, and maintenance jobs.
//!
//! Appends come first, but after each group of them one job gets its turn, so that neither waits
//! for ever. A full queue makes appenders wait, up to their deadline; it never drops anything.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::context::WriterContext;
use super::request::AppendRequest;
use crate::clock::millis;
use crate::error::{Result, StoreError};
use crate::limits::{GROUP_BYTES_MAX, GROUP_REQUESTS_MAX, QUEUED_MESSAGE_BYTES};

/// What waits for the writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDepth {
    /// Appends.
    pub requests: usize,
    /// Their bytes: payloads, and [`QUEUED_MESSAGE_BYTES`] for each message.
    pub bytes: usize,
}

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
    /// Appenders that wait for room, in order. Only the first may enter: otherwise a big request would wait for ever
    /// while small ones use the room.
    waiters: VecDeque<Arc<Condvar>>,
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

    /// Wakes the first waiter: there may be room.
    fn wake_first_waiter(&self) {
        if let Some(first) = self.waiters.front() {
            first.notify_one();
        }
    }

    fn wake_all_waiters(&self) {
        self.waiters.iter().for_each(|waiter| waiter.notify_one());
    }
}

pub(super) struct Queue {
    state: Mutex<State>,
    work_came: Condvar,
    requests_max: usize,
    bytes_max: usize,
}

impl Queue {
    pub(super) fn new(requests_max: usize, bytes_max: usize) -> Self {
        Self {
            state: Mutex::default(),
            work_came: Condvar::new(),
            requests_max,
            bytes_max,
        }
    }

    /// The state is plain data, valid after every statement, so a poisoned lock is harmless.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an append. If there is no room and it `may_wait`, it waits until its deadline.
    pub(super) fn push(&self, request: AppendRequest, may_wait: bool) -> Result<()> {
        let started = Instant::now();
        let bytes = queued_bytes(&request);
        let mut state = self.lock();
        if state.closed {
            return Err(state.refusal());
        }
        if !state.waiters.is_empty() || !self.has_room(&state, bytes) {
            let own = Arc::new(Condvar::new());
            state.waiters.push_back(Arc::clone(&own));
            let refusal;
            (state, refusal) = self.wait_for_room(state, &own, bytes, |state| {
                let left = request.deadline.checked_duration_since(Instant::now());
                left.filter(|_| may_wait)
                    .ok_or_else(|| StoreError::QueueFull {
                        waited_ms: millis(started.elapsed()),
                        requests: state.appends.len(),
                        bytes: state.append_bytes,
                    })
            });
            state.waiters.retain(|waiter| !Arc::ptr_eq(waiter, &own));
            if let Some(refusal) = refusal {
                // Those behind it may have been waiting for it alone.
                state.wake_first_waiter();
                return Err(refusal);
            }
        }
        state.append_bytes += bytes;
        state.appends.push_back(request);
        self.work_came.notify_one();
        // There may be room for more than one.
        state.wake_first_waiter();
        Ok(())
    }

    fn has_room(&self, state: &State, bytes: usize) -> bool {
        state.appends.len() < self.requests_max
            && (state.append_bytes + bytes <= self.bytes_max || state.appends.is_empty())
    }

    /// Waits until `own` is the first waiter and there is room for `bytes`. Gives up with the error that
    /// `left` returns; otherwise `left` is how long to wait at most.
    fn wait_for_room<'q>(
        &'q self,
        mut state: MutexGuard<'q, State>,
        own: &Arc<Condvar>,
        bytes: usize,
        left: impl Fn(&State) -> Result<Duration>,
    ) -> (MutexGuard<'q, State>, Option<StoreError>) {
        loop {
            if state.closed {
                let refusal = state.refusal();
                return (state, Some(refusal));
            }
            let is_first = state
                .waiters
                .front()
                .is_some_and(|first| Arc::ptr_eq(first, own));
            if is_first && self.has_room(&state, bytes) {
                return (state, None);
            }
            let left = match left(&state) {
                Ok(left) => left,
                Err(refusal) => return (state, Some(refusal)),
            };
            let waited = own.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
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
                    state.wake_first_waiter();
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

    /// Accepts nothing more; what waits is still carried out.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.wake_all_waiters();
        self.work_came.notify_all();
    }

    /// Closes because of `why`, and returns the waiting requests so that they can be refused.
    pub(super) fn close_and_drain(&self, why: &'static str) -> Vec<AppendRequest> {
        let mut state = self.lock();
        state.closed = true;
        state.why = Some(why);
        state.append_bytes = 0;
        state.jobs.clear();
        state.wake_all_waiters();
        state.appends.drain(..).collect()
    }

    pub(super) fn waiting(&self) -> QueueDepth {
        let state = self.lock();
        QueueDepth {
            requests: state.appends.len(),
            bytes: state.append_bytes,
        }
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

/// What a request takes while it waits: its payloads, and a fixed size for each message.
fn queued_bytes(request: &AppendRequest) -> usize {
    request.bytes() + request.messages.len() * QUEUED_MESSAGE_BYTES
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
        AppendRequest::prepare(batch, None, 1, Instant::now(), Box::new(|_| {})).unwrap()
    }

    fn assert_waiting(queue: &Queue, requests: usize, bytes: usize) {
        assert_eq!(queue.waiting(), QueueDepth { requests, bytes });
    }

    /// Returns once this many requests wait for room.
    fn wait_for_waiters(queue: &Queue, waiters: usize) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while queue.lock().waiters.len() < waiters {
            assert!(Instant::now() < deadline, "they never waited");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_queue_is_filled_by_messages_without_bytes_too_and_has_room_when_they_are_taken() {
        let queue = Queue::new(100, 25 * QUEUED_MESSAGE_BYTES);
        queue.push(empty(10), true).unwrap();
        queue.push(empty(10), true).unwrap();
        let full = queue.push(empty(10), true).unwrap_err();
        assert!(matches!(full, StoreError::QueueFull { .. }), "{full}");
        assert_waiting(&queue, 2, 20 * QUEUED_MESSAGE_BYTES);
        assert!(matches!(queue.take(Duration::ZERO), Work::Some { group, .. } if group.len() == 2));
        assert_waiting(&queue, 0, 0);
        queue.push(empty(10), true).unwrap();
    }

    #[test]
    fn a_big_request_that_waits_is_not_passed_by_small_ones() {
        let queue = Queue::new(100, 25 * QUEUED_MESSAGE_BYTES);
        queue.push(empty(20), true).unwrap();
        std::thread::scope(|scope| {
            let mut big = empty(30);
            big.deadline += Duration::from_secs(60);
            let pushed = scope.spawn(|| queue.push(big, true));
            wait_for_waiters(&queue, 1);
            // There is room for this one, and it is not its turn.
            let passed = queue.push(empty(2), true).unwrap_err();
            assert!(matches!(passed, StoreError::QueueFull { .. }), "{passed}");
            assert!(matches!(queue.take(Duration::ZERO), Work::Some { .. }));
            pushed.join().unwrap().unwrap();
        });
        assert_waiting(&queue, 1, 30 * QUEUED_MESSAGE_BYTES);
        assert!(matches!(queue.take(Duration::ZERO), Work::Some { .. }));
        queue.push(empty(2), true).unwrap();
    }

    #[test]
    fn a_waiter_that_gives_up_does_not_block_those_behind_it() {
        let queue = Queue::new(100, 25 * QUEUED_MESSAGE_BYTES);
        queue.push(empty(20), true).unwrap();
        std::thread::scope(|scope| {
            let (mut first, mut second) = (empty(30), empty(2));
            first.deadline += Duration::from_secs(2);
            second.deadline += Duration::from_secs(60);
            let first = scope.spawn(|| queue.push(first, true));
            wait_for_waiters(&queue, 1);
            let second = scope.spawn(|| queue.push(second, true));
            wait_for_waiters(&queue, 2);
            first.join().unwrap().unwrap_err();
            second.join().unwrap().unwrap();
        });
        assert_waiting(&queue, 2, 22 * QUEUED_MESSAGE_BYTES);
    }
}
