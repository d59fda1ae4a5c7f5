//! The one writer: a thread that owns the only writing connection of this process.
//!
//! It takes all waiting appends, commits them in one transaction (one fsync for all), and answers them. Then it
//! runs one maintenance job, and then it checkpoints the WAL if that is due.
//! Between processes SQLite's write lock arbitrates: every transaction begins by taking it, and
//! what is cached between transactions is dropped when another process has committed.

mod append;
pub(crate) mod context;
mod disk_room;
mod queue;
mod request;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use rusqlite::Connection;

pub(crate) use context::WriterContext;
use context::WriterIdleness;
pub use queue::QueueDepth;
use queue::{Queue, Work};
pub(crate) use request::Done;
use request::{AppendRequest, Unanswered};

use crate::error::{Argument, Result, StoreError};
use crate::limits::{WRITER_IDLE_MS_MIN, WRITER_TIDY_AGAIN_MS};
use crate::message::{Appended, Batch};
use crate::open_files::OpenFile;
use crate::options::StoreOptions;
use crate::reserve::Reserve;
use crate::sql::db::Db;
use crate::watch::CapacityWatch;

/// Thirty years, used for a deadline that `Instant` cannot represent, and where there is none.
const FAR_OFF: Duration = Duration::from_secs(30 * 365 * 24 * 3600);

/// Handle to the writer thread.
pub(crate) struct Writer {
    queue: Arc<Queue>,
    /// `Some` until it was joined.
    thread: Mutex<Option<JoinHandle<Result<()>>>>,
    thread_id: ThreadId,
    payload_bytes_max: usize,
    append_wait: Duration,
}

impl Writer {
    pub(crate) fn start(
        db: Db,
        connection: Connection,
        options: &StoreOptions,
        reserve: Reserve,
        watch: Arc<CapacityWatch>,
        open_file: Arc<OpenFile>,
    ) -> Result<Self> {
        let queue = Arc::new(Queue::new(
            options.queue_requests_max,
            options.queue_bytes_max,
        ));
        let path = db.path().to_owned();
        open_file.note_log();
        let owned = (Arc::clone(&queue), options.clone());
        let thread = std::thread::Builder::new()
            .name("betcode-writer".into())
            .spawn(move || {
                let (queue, options) = owned;
                let context =
                    WriterContext::new(db, connection, options, reserve, watch, open_file);
                run(&queue, context)
            })
            .map_err(|source| StoreError::Io {
                action: "start the writer of",
                path,
                source,
            })?;
        Ok(Self {
            queue,
            thread_id: thread.thread().id(),
            thread: Mutex::new(Some(thread)),
            payload_bytes_max: options.payload_bytes_max,
            append_wait: Duration::from_millis(options.append_wait_ms_max),
        })
    }

    /// Whether the caller is a callback, on the writer's own thread.
    fn is_own_thread(&self) -> bool {
        self.thread_id == std::thread::current().id()
    }

    /// Refuses a callback's call that waits for the writer, which waits for the callback.
    fn refuse_own_thread(&self) -> Result<()> {
        if self.is_own_thread() {
            return Err(StoreError::InvalidArgument {
                what: Argument::Named("the caller's thread"),
                why: "a callback of the store called the store, which waits for that callback"
                    .into(),
            });
        }
        Ok(())
    }

    /// Appends and waits for the answer.
    pub(crate) fn append(&self, batch: Batch) -> Result<Appended> {
        self.refuse_own_thread()?;
        let (answer, answered) = answer_channel();
        self.queue_up(batch, None, None, Box::new(answer))?;
        answered()
    }

    /// Appends messages that another store received, each at its time (Unix milliseconds).
    pub(crate) fn append_received(&self, batch: Batch, received_ms: &[i64]) -> Result<Appended> {
        self.refuse_own_thread()?;
        let (answer, answered) = answer_channel();
        self.queue_up(batch, Some(received_ms), None, Box::new(answer))?;
        answered()
    }

    /// Queues a batch; `done` gets the answer, on the writer's thread. An error here means that
    /// nothing was queued and `done` will not be called. A callback of the store does not wait for room: the
    /// writer, which makes it, waits for the callback.
    pub(crate) fn submit(&self, batch: Batch, wait_max: Duration, done: Done) -> Result<()> {
        self.queue_up(batch, None, Some(wait_max), done)
    }

    /// `received_ms` has the times of messages that another store received; `wait_max` is `None` for the usual wait.
    fn queue_up(
        &self,
        batch: Batch,
        received_ms: Option<&[i64]>,
        wait_max: Option<Duration>,
        done: Done,
    ) -> Result<()> {
        let wait_max = wait_max.unwrap_or(self.append_wait);
        let deadline = match wait_max.is_zero() {
            // It does not wait for room. A deadline would be over before the writer looks at it.
            true => deadline_after(FAR_OFF),
            false => deadline_after(wait_max),
        };
        let may_wait = !wait_max.is_zero() && !self.is_own_thread();
        let bytes_max = self.payload_bytes_max;
        let request = AppendRequest::prepare(batch, received_ms, bytes_max, deadline, done)?;
        self.queue.push(request, may_wait)
    }

    /// Runs `work` on the writer's thread, between two groups of appends, and waits for it.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut WriterContext) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.refuse_own_thread()?;
        let (answer, answered) = answer_channel();
        self.queue
            .push_job(Box::new(move |context| answer(work(context))))?;
        answered()
    }

    /// Lets the writer take a sample of the size soon, as after any job.
    pub(crate) fn observe_size_soon(&self) {
        // A writer that has ended takes no samples any more.
        let _ = self.queue.push_job(Box::new(|_| {}));
    }

    /// What waits for the writer.
    pub(crate) fn waiting(&self) -> QueueDepth {
        self.queue.waiting()
    }

    /// Carries out what waits, then ends the thread. An error says that the log could not be moved into
    /// the main file.
    pub(crate) fn close(&self) -> Result<()> {
        self.queue.close();
        // A callback may close the store on the writer's own thread, which cannot join itself; it ends after the
        // callback returns.
        if self.is_own_thread() {
            return Ok(());
        }
        // Locked while it waits, so that nobody who closes the store as well returns before the writer has ended.
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        match thread.take() {
            Some(thread) => thread.join().unwrap_or_else(|_| Err(ended())),
            None => Ok(()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // The writer logs what it could not do at its end.
        let _ = self.close();
    }
}

/// A function that answers, and one that waits for the answer. If the caller has given up, the answer is dropped.
fn answer_channel<T>() -> (impl FnOnce(Result<T>), impl FnOnce() -> Result<T>) {
    let (answer, answered) = mpsc::sync_channel(1);
    let send = move |result| {
        let _ = answer.send(result);
    };
    (send, move || {
        answered.recv().unwrap_or_else(|_| Err(ended()))
    })
}

/// A wait that `Instant` cannot represent becomes one of [`FAR_OFF`].
fn deadline_after(wait_max: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(wait_max).unwrap_or(now + FAR_OFF)
}

const ENDED: &str = "the writer ended by an internal error";

/// An accepted request goes without an answer only if the writer's thread panicked.
fn ended() -> StoreError {
    StoreError::Closed {
        why: Some(ENDED.to_owned()),
    }
}

fn run(queue: &Queue, mut context: WriterContext) -> Result<()> {
    let worked = catch_unwind(AssertUnwindSafe(|| {
        let mut is_tidy = false;
        loop {
            let idle_after_ms = match is_tidy {
                true => WRITER_TIDY_AGAIN_MS,
                false => WRITER_IDLE_MS_MIN,
            };
            match queue.take(Duration::from_millis(idle_after_ms)) {
                Work::Some { group, job } => {
                    is_tidy = false;
                    context.append(group);
                    if let Some(job) = job {
                        job(&mut context);
                        context.observe_size();
                    }
                    let idleness = match queue.waiting().requests {
                        0 => WriterIdleness::Drained,
                        _ => WriterIdleness::Busy,
                    };
                    context.checkpoint_when_due(idleness);
                }
                Work::Idle => is_tidy = context.tidy_when_idle(),
                Work::Closed => break,
            }
        }
    }));
    if worked.is_err() {
        // A bug. An open transaction rolls back with its connection. Waiting callers get an error, and so do later
        // ones.
        tracing::error!("the writer ended by a panic; the store takes no more messages");
        drop(Unanswered::not_begun(queue.close_and_drain(ENDED)));
    }
    context.finish()
}
