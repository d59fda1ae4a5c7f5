//! Callbacks that run inside the engine: listeners and clocks that call the store, or panic.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use betcode_storage::capacity::levels::{CapacityEvent, Level};
use betcode_storage::compact::{ServiceOptions, ServiceState, ServiceStatus};
use betcode_storage::{
    Batch, Clock, CompactionRequest, CompactionService, ErrorKind, ManualClock, RunOutcome,
    SessionId, Store, StoreError, StoreOptions,
};
use bytes::Bytes;

/// Longer than anything takes on any machine.
const WAIT_MAX: Duration = Duration::from_secs(60);

fn options() -> StoreOptions {
    StoreOptions {
        reserve_bytes: 0,
        ..StoreOptions::default()
    }
}

fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

fn batch(session: &str, messages: usize) -> Batch {
    let line = Bytes::from(format!("{{\"text\":\"{}\"}}", "as before ".repeat(100)));
    Batch::new(id(session), vec![line; messages])
}

/// Panics on the threads that encode while `panics` is set.
struct PanickingClock {
    clock: ManualClock,
    panics: Arc<AtomicBool>,
}

impl Clock for PanickingClock {
    fn now_ms(&self) -> i64 {
        let encodes = std::thread::current().name() == Some("betcode-encode");
        assert!(!encodes || !self.panics.load(Ordering::SeqCst), "unlucky");
        self.clock.now_ms()
    }
}

/// A store whose only session is due to be compacted, whether that panics, and its clock.
fn open_with_panicking_clock(path: &Path) -> (Store, Arc<AtomicBool>, Arc<PanickingClock>) {
    let panics = Arc::new(AtomicBool::new(true));
    let clock = Arc::new(PanickingClock {
        clock: ManualClock::at(1_800_000_000_000),
        panics: Arc::clone(&panics),
    });
    let handle = Arc::clone(&clock);
    let clock: Arc<dyn Clock> = clock;
    let store = Store::open(path, StoreOptions { clock, ..options() }).unwrap();
    store.append(batch("s", 100)).unwrap();
    handle.clock.advance(7 * 24 * 3_600_000);
    (store, panics, handle)
}

fn wait_for(service: &CompactionService, what: &str, is: impl Fn(&ServiceStatus) -> bool) {
    betcode_test_support::wait_for(what, || service.status(), is);
}

#[test]
fn background_compaction_reports_a_panic_and_leaves_that_session_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (store, panics, clock) = open_with_panicking_clock(&folder.path().join("h.db"));
    let options = ServiceOptions {
        interval_ms: 10,
        ..ServiceOptions::default()
    };
    let service = store.start_compaction(options).unwrap();
    wait_for(&service, "an error", |status| status.last_error.is_some());
    let error = service.status().last_error.unwrap();
    assert!(error.contains("internal error"), "{error}");
    // Later runs leave the session alone and keep the error.
    wait_for(&service, "the session in the error", |status| {
        let error = status.last_error.as_deref().unwrap_or_default();
        error.starts_with("session s: ")
    });
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(store.compaction_runs(10).unwrap().len(), 1);
    let runs = store.compaction_runs(1).unwrap();
    assert_eq!(runs[0].outcome, RunOutcome::Failed);
    assert!(runs[0].detail.contains("internal error"), "{runs:?}");
    assert_eq!(store.totals().unwrap().hot_messages, 100);

    panics.store(false, Ordering::SeqCst);
    store.append(batch("s", 1)).unwrap();
    clock.clock.advance(7 * 24 * 3_600_000);
    wait_for(&service, "compacted", |status| status.runs == 1);
    wait_for(&service, "in order", |status| {
        status.last_error.is_none() && status.state == ServiceState::Idle
    });
    assert_eq!(store.totals().unwrap().hot_messages, 0);
    service.stop();
}

#[test]
fn background_compaction_reports_a_lock_that_is_not_compactions() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let (store, panics, _) = open_with_panicking_clock(&path);
    panics.store(false, Ordering::SeqCst);
    let other = rusqlite::Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let options = ServiceOptions {
        interval_ms: 10,
        ..ServiceOptions::default()
    };
    let service = store.start_compaction(options).unwrap();
    wait_for(&service, "an error", |status| status.last_error.is_some());
    other.execute_batch("ROLLBACK").unwrap();
    wait_for(&service, "in order", |status| {
        status.runs == 1 && status.last_error.is_none()
    });
    service.stop();
}

#[test]
fn a_panic_in_a_run_of_compaction_is_its_error() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, _) = open_with_panicking_clock(&folder.path().join("h.db"));
    let go_on = &mut |_: &_| ControlFlow::Continue(());
    let error = store
        .compact(&CompactionRequest::manual(), go_on)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Internal, "{error}");
    assert!(error.hint().is_some());
    assert_eq!(store.totals().unwrap().hot_messages, 100);
    store.append(batch("s", 1)).unwrap();
}

#[test]
fn a_capacity_listener_may_ask_the_store_and_add_listeners() {
    let folder = tempfile::tempdir().unwrap();
    let limited = StoreOptions {
        db_bytes_max: 4_000_000,
        ..options()
    };
    let store = Store::open(&folder.path().join("h.db"), limited).unwrap();
    let (send, received) = mpsc::channel();
    let asked = store.clone();
    store.on_capacity_event(move |event| {
        let send_also = send.clone();
        asked.on_capacity_event(move |event| {
            let _ = send_also.send(("added", event.event, Level::Ok, 0));
            false
        });
        let (level, events) = (asked.level(), asked.capacity_events().len());
        let _ = send.send(("first", event.event, level, events));
        true
    });
    let (filled, ended) = mpsc::channel();
    let writes = store.clone();
    std::thread::spawn(move || {
        let refused =
            std::iter::from_fn(|| Some(writes.append(batch("s", 16)))).find_map(Result::err);
        let _ = filled.send(refused);
    });
    let refused = ended.recv_timeout(WAIT_MAX).unwrap().unwrap();
    assert!(
        matches!(refused, StoreError::LimitReached { .. }),
        "{refused}"
    );
    let heard: Vec<_> = received.try_iter().collect();
    let by = |who| heard.iter().filter(move |heard| heard.0 == who);
    let levels: Vec<Level> = by("first").map(|heard| heard.2).collect();
    assert_eq!(levels, [Level::Warning, Level::Critical, Level::Critical]);
    let kept: Vec<usize> = by("first").map(|heard| heard.3).collect();
    assert_eq!(kept, [1, 2, 3]);
    // One is added by each event and hears the next one.
    let added: Vec<CapacityEvent> = by("added").map(|heard| heard.1).collect();
    let first: Vec<CapacityEvent> = by("first").map(|heard| heard.1).collect();
    assert_eq!(added, first[1..]);
}

#[test]
fn closing_waits_for_the_writer_although_a_callback_has_closed_the_store_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("history.db"), options()).unwrap();
    let (closed, is_closed) = mpsc::channel();
    let has_returned = Arc::new(AtomicBool::new(false));
    let (clone, returns) = (store.clone(), Arc::clone(&has_returned));
    let done = move |_| {
        clone.close().unwrap();
        closed.send(()).unwrap();
        // A close that does not wait returns before this is over.
        std::thread::sleep(Duration::from_millis(300));
        returns.store(true, Ordering::SeqCst);
    };
    store.append_then(batch("s", 1), WAIT_MAX, done).unwrap();
    is_closed.recv_timeout(WAIT_MAX).unwrap();
    store.close().unwrap();
    assert!(has_returned.load(Ordering::SeqCst));
}

/// The reason in the error of a closed store.
fn why(error: &StoreError) -> &str {
    match error {
        StoreError::Closed { why: Some(why) } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn after_a_panic_of_a_callback_everybody_is_answered_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("h.db"), options()).unwrap();
    let (begun, has_begun) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let (send, received) = mpsc::channel();
    let wait = move |_| {
        begun.send(()).unwrap();
        may_go_on.recv().unwrap();
    };
    // While the first is answered the others come together in one group.
    store.append_then(batch("s", 1), WAIT_MAX, wait).unwrap();
    has_begun.recv_timeout(WAIT_MAX).unwrap();
    let unlucky = |_| panic!("unlucky");
    store.append_then(batch("s", 1), WAIT_MAX, unlucky).unwrap();
    let done = move |answer| send.send(answer).unwrap();
    store.append_then(batch("s", 1), WAIT_MAX, done).unwrap();
    go_on.send(()).unwrap();

    let answer = received.recv_timeout(WAIT_MAX).unwrap().unwrap_err();
    assert!(why(&answer).contains("not known"), "{answer}");
    let later = store.append(batch("s", 1)).unwrap_err();
    assert!(why(&later).contains("internal error"), "{later}");
    let later = store.rename(&id("s"), "name").unwrap_err();
    assert!(why(&later).contains("internal error"), "{later}");
    let store = {
        let path = store.path().to_owned();
        drop(store);
        Store::open(&path, options()).unwrap()
    };
    assert_eq!(store.totals().unwrap().messages, 3);
}

#[test]
fn background_compaction_refuses_to_look_all_the_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("h.db"), options()).unwrap();
    for options in [
        ServiceOptions {
            interval_ms: 0,
            ..ServiceOptions::default()
        },
        ServiceOptions {
            cpu_fraction_max: f64::NAN,
            ..ServiceOptions::default()
        },
    ] {
        let refused = store.start_compaction(options).map(drop).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    }
}
