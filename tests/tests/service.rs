//! Compaction in the background, under a clock that does as it likes.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use betcode_storage::compact::{ServiceOptions, ServiceState, ServiceStatus};
use betcode_storage::{
    Batch, Clock, CompactionPolicy, CompactionService, ManualClock, ReadRange, Store, StoreOptions,
};
use betcode_tests::history::{assert_sound, contents, id, options};
use betcode_tests::lines;

const NOW_MS: i64 = 1_800_000_000_000;
const HOUR_MS: i64 = 3_600_000;

fn open(path: &Path, clock: &Arc<ManualClock>) -> Store {
    let clock = Arc::clone(clock);
    Store::open(path, StoreOptions { clock, ..options() }).unwrap()
}

fn append(store: &Store, session: &str, from: u64, to: u64) {
    let payloads = (from..to).map(|n| lines::payload(1, n)).collect();
    store.append(Batch::new(id(session), payloads)).unwrap();
}

/// Looks all the time, with nothing held back, at levels that cost little.
fn eager() -> ServiceOptions {
    let mut policy = CompactionPolicy {
        quick_segment_bytes_max: 64 << 10,
        ..CompactionPolicy::default()
    };
    policy.deep.level = 3;
    ServiceOptions {
        policy,
        interval_ms: 10,
        cpu_fraction_max: 1.0,
    }
}

/// Waits until the service is as it should be; a minute is for ever on any machine.
fn wait_for(service: &CompactionService, what: &str, is: impl Fn(&ServiceStatus) -> bool) {
    betcode_test_support::wait_for(what, || service.status(), is);
}

/// Lets the service look at the store at least twice.
fn let_it_look() {
    std::thread::sleep(Duration::from_millis(100));
}

#[test]
fn a_session_is_left_alone_while_in_use_made_small_when_it_pauses_and_smaller_when_idle() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let store = open(&folder.path().join("history.db"), &clock);
    append(&store, "s", 0, 300);
    let service = store.start_compaction(eager()).unwrap();
    let_it_look();
    assert_eq!(store.totals().unwrap().segments, 0);
    let policy = eager().policy;
    clock.advance(policy.quick_idle_ms_min);
    wait_for(&service, "quick", |s| s.runs == 1 && s.progress.is_none());
    let quick = store.totals().unwrap();
    assert_eq!(quick.hot_messages, 0);
    clock.advance(policy.deep_idle_ms_min);
    wait_for(&service, "deep", |s| s.runs == 2 && s.progress.is_none());
    assert!(store.totals().unwrap().segments < quick.segments);
    let_it_look();
    let status = service.status();
    assert_eq!((status.runs, status.last_error), (2, None));
    assert_sound(&store);
    assert_eq!(contents(&store)["s"].len(), 300);
}

#[test]
fn a_paused_service_does_nothing_until_resumed_and_a_stopped_one_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let store = open(&folder.path().join("history.db"), &clock);
    let service = store.start_compaction(eager()).unwrap();
    service.pause();
    wait_for(&service, "pausing", |s| s.state == ServiceState::Paused);
    append(&store, "s", 0, 100);
    clock.advance(HOUR_MS);
    service.run_now();
    let_it_look();
    assert_eq!(store.totals().unwrap().segments, 0);
    assert_eq!(service.status().state, ServiceState::Paused);
    service.resume();
    wait_for(&service, "resuming", |s| s.runs == 1);
    let outcome = service.status().last_outcome.unwrap();
    assert_eq!((outcome.messages, outcome.failures.len()), (100, 0));
    assert_eq!(store.compaction_runs(10).unwrap()[0].trigger, "background");
    service.stop();
    append(&store, "t", 0, 100);
    clock.advance(HOUR_MS);
    let_it_look();
    assert_eq!(store.totals().unwrap().hot_messages, 100);
}

#[test]
fn a_service_asked_to_stop_in_the_middle_of_a_run_leaves_a_sound_store() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let store = open(&folder.path().join("history.db"), &clock);
    for session in 0..20 {
        append(&store, &format!("s{session}"), 0, 200);
    }
    clock.advance(HOUR_MS);
    let service = store.start_compaction(eager()).unwrap();
    wait_for(&service, "running", |s| s.progress.is_some() || s.runs > 0);
    let asked = Instant::now();
    service.stop();
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    assert_sound(&store);
    assert_eq!(contents(&store).len(), 20);
}

#[test]
fn appends_and_reads_go_on_while_the_service_works() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let store = open(&folder.path().join("history.db"), &clock);
    let mut options = eager();
    options.policy.quick_hot_bytes_min = 100_000;
    let service = store.start_compaction(options).unwrap();
    for round in 0..200_u64 {
        append(&store, "s", round * 10, round * 10 + 10);
        clock.advance(1000);
        let last = store.read(&id("s"), ReadRange::last(1)).unwrap().next();
        assert_eq!(last.unwrap().unwrap().sequence, round * 10 + 10);
    }
    clock.advance(HOUR_MS);
    wait_for(&service, "coming to rest", |s| {
        s.state == ServiceState::Idle && store.totals().unwrap().hot_messages == 0
    });
    assert!(service.status().runs > 1, "{:?}", service.status());
    assert_eq!(contents(&store)["s"].len(), 2000);
    assert_sound(&store);
}

/// Clock jumps decide what is due, never what is kept.
#[test]
fn a_clock_that_jumps_loses_nothing_and_keeps_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let store = open(&path, &clock);
    let service = store.start_compaction(eager()).unwrap();
    let jumps = [
        -10 * 365 * 24 * HOUR_MS,
        HOUR_MS,
        -NOW_MS,
        100 * 365 * 24 * HOUR_MS,
        -1,
        i64::MAX / 2,
        -i64::MAX / 2,
        0,
    ];
    for (round, jump) in (0_u64..).zip(jumps) {
        append(&store, "s", round * 50, round * 50 + 50);
        clock.advance(jump);
        service.run_now();
        std::thread::sleep(Duration::from_millis(10));
    }
    clock.set(NOW_MS + 1000 * 365 * 24 * HOUR_MS);
    wait_for(&service, "coming to rest", |s| {
        s.state == ServiceState::Idle && store.totals().unwrap().hot_messages == 0
    });
    assert_eq!(service.status().last_error, None);
    service.stop();
    assert_sound(&store);
    assert_eq!(contents(&store)["s"].len(), 400);
    let active_ms = store.session(&id("s")).unwrap().active_ms;
    assert!((0..=HOUR_MS).contains(&active_ms), "{active_ms} ms active");
    assert!(clock.now_ms() > 0);
}

#[test]
fn a_session_that_cannot_be_compacted_is_named_and_the_others_are_done() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let clock = Arc::new(ManualClock::at(NOW_MS));
    let store = open(&path, &clock);
    append(&store, "damaged", 0, 50);
    append(&store, "whole", 0, 50);
    // A bit of a stored payload flips: SQLite does not notice.
    let other = rusqlite::Connection::open(&path).unwrap();
    let changed = other
        .execute(
            "UPDATE hot_messages SET payload = CAST('X' || substr(payload, 2) AS BLOB)
             WHERE message_key = (SELECT min(message_key) + 10 FROM hot_messages)",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    drop(other);
    clock.advance(HOUR_MS);
    let service = store.start_compaction(eager()).unwrap();
    wait_for(&service, "compacting", |s| s.runs > 0);
    let error = service.status().last_error.unwrap();
    assert!(error.contains("damaged") && error.contains("11"), "{error}");
    assert_eq!(store.session(&id("whole")).unwrap().hot_messages, 0);
    // It is left alone until it has more messages, and reported all the time.
    append(&store, "whole", 50, 60);
    clock.advance(HOUR_MS);
    wait_for(&service, "compacting again", |s| s.runs > 1);
    let runs = store.compaction_runs(10).unwrap();
    let outcomes: Vec<_> = runs.iter().map(|run| run.outcome.name()).collect();
    assert_eq!(outcomes, ["done", "failed"]);
    assert!(service.status().last_error.unwrap().contains("damaged"));
    // Reading and writing go on, of that session too.
    append(&store, "damaged", 50, 60);
    let read = store.read(&id("damaged"), ReadRange::all()).unwrap();
    let (good, bad): (Vec<_>, Vec<_>) = read.partition(Result::is_ok);
    assert_eq!((good.len(), bad.len()), (59, 1));
    let report = store.verify(&mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(report.problems.len(), 1, "{:#?}", report.problems);
    assert_eq!(report.problems[0].sequence, Some(11));
}
