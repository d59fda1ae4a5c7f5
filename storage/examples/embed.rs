//! The store inside an asynchronous program: records the lines of stdin, follows them live, compacts in the
//! background, and closes in order at the end of input or on Ctrl-C.
//!
//! ```sh
//! tail -f session.jsonl | cargo run --package betcode-storage --example embed -- history.db my-session
//! ```
//!
//! Started again with the same lines, it records only those that are missing.

use std::error::Error;
use std::io::BufRead;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use betcode_storage::compact::ServiceOptions;
use betcode_storage::{
    Appended, Batch, ErrorKind, Result, SessionId, Store, StoreError, StoreOptions,
};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

/// How long a batch may wait for its turn before it is tried again.
const WAIT_MAX: Duration = Duration::from_secs(5);
/// The pause before a batch is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// How often a follower looks for what other processes appended: the hook tells of this one only.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Lines that are recorded together at most. As many more may wait: then whoever writes them waits as well.
const LINES_MAX: usize = 256;

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let usage = "usage: embed DATABASE SESSION < LINES";
    let path = PathBuf::from(arguments.next().ok_or(usage)?);
    let session: SessionId = arguments.next().ok_or(usage)?.to_string_lossy().parse()?;

    // The hook runs on the writer's thread: it only wakes. What is new is read from the store, so a follower that
    // is slow costs no memory.
    let (commits, committed) = watch::channel(());
    let options = StoreOptions {
        on_commit: Some(Arc::new(move |_| commits.send_replace(()))),
        ..StoreOptions::default()
    };
    let store = blocking(move || Store::open(&path, options)).await?;
    // A database that is nearly full is compacted at once, by itself. What is left to do is to tell somebody.
    store.on_capacity_event(|event| {
        eprintln!("capacity: {}", event.event);
        true
    });
    let compaction = store.start_compaction(ServiceOptions::default())?;

    let (lines, input) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || read_stdin(&lines));
    let mut following = tokio::spawn(follow(store.clone(), session.clone(), committed));
    tokio::select! {
        recorded = record(&store, &session, input) => println!("{} lines recorded", recorded?),
        // It goes on for ever, unless it fails.
        failed = &mut following => failed??,
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    following.abort();

    // Both wait, the one for a step of compaction, the other for what is still queued.
    blocking(move || {
        compaction.stop();
        store.close()
    })
    .await?;
    Ok(())
}

fn read_stdin(lines: &mpsc::Sender<Bytes>) {
    for line in std::io::stdin().lock().split(b'\n') {
        let Ok(line) = line else { return };
        if lines.blocking_send(line.into()).is_err() {
            return;
        }
    }
}

/// Records what comes, and returns how many lines were new.
async fn record(
    store: &Store,
    session: &SessionId,
    mut input: mpsc::Receiver<Bytes>,
) -> Result<u64> {
    let (mut next, mut recorded) = (1, 0);
    let mut lines = Vec::new();
    while input.recv_many(&mut lines, LINES_MAX).await > 0 {
        let mut batch = Batch::new(session.clone(), std::mem::take(&mut lines));
        // With this a batch may be sent again when nobody knows whether it was recorded, even after a crash.
        batch.expected_sequence = Some(next);
        let appended = loop {
            match append(store, batch.clone()).await {
                Err(error) if may_succeed_later(error.kind()) => {
                    eprintln!("{error}: trying again");
                    sleep(RETRY_PAUSE).await;
                }
                done => break done?,
            }
        };
        let last = appended.last_sequence;
        recorded += last + 1 - appended.first_sequence - appended.duplicates;
        next = last + 1;
    }
    Ok(recorded)
}

/// Whether to wait is all that there is to do; for space somebody else must do something as well.
fn may_succeed_later(kind: ErrorKind) -> bool {
    use ErrorKind::{Busy, NoSpace, Overloaded, Timeout};
    matches!(kind, Busy | NoSpace | Overloaded | Timeout)
}

/// Appends without a thread that waits for the disk: only room in the queue is waited for on one.
async fn append(store: &Store, batch: Batch) -> Result<Appended> {
    let (answer, answered) = oneshot::channel();
    let store = store.clone();
    let done = move |result| {
        // Who asked may be gone.
        let _ = answer.send(result);
    };
    blocking(move || store.append_then(batch, WAIT_MAX, done)).await?;
    let closed = StoreError::Closed { why: None };
    answered.await.unwrap_or(Err(closed))
}

/// Prints how long each line is, as it is recorded.
async fn follow(
    store: Store,
    session: SessionId,
    mut committed: watch::Receiver<()>,
) -> Result<()> {
    let begin = move || {
        // Creates the session if there is none yet.
        store.append(Batch::new(session.clone(), Vec::new()))?;
        store.follow(&session, 1)
    };
    let mut replay = blocking(begin).await?;
    loop {
        // Before the store is read: what is committed from here on is not slept through.
        committed.mark_unchanged();
        let page;
        (replay, page) = blocking(move || {
            let page = replay.next_page()?;
            Ok((replay, page))
        })
        .await?;
        let Some(messages) = page else {
            // Whether there was a commit or it was time to look: the store knows what is new.
            let _ = timeout(LOOK_EVERY, committed.changed()).await;
            continue;
        };
        for message in messages {
            println!("{}: {} bytes", message.sequence, message.payload.len());
        }
    }
}

/// Calls the store, which may block, where tasks may wait for it.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match spawn_blocking(call).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
