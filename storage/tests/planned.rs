//! The plan's constants beside what this machine measures. Run it with
//! `cargo test --release -p betcode-storage --test planned -- --ignored --nocapture --test-threads 1`.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

use betcode_storage::capacity::planner::memory::DAEMON_SESSION_BYTES;
use betcode_storage::capacity::text::{bytes, percent};
use betcode_storage::{Arrival, Batch, CompactionRequest, ReadRange, Store, StoreOptions};
use betcode_test_support::Random;
use betcode_test_support::proc::resident_bytes;
use bytes::Bytes;

/// The plan's message.
const MESSAGE_BYTES: usize = 5_000;
/// The plan's session-hour.
const MESSAGES_PER_HOUR: usize = 200;

/// Records `sessions` session-hours of the plan: lines that share words, as agents' lines do.
fn record(path: &Path, sessions: usize) -> Store {
    let options = StoreOptions {
        db_bytes_max: 10_000_000_000,
        ..StoreOptions::default()
    };
    let store = Store::open(path, options).unwrap();
    let mut random = Random::new(1);
    for session in 0..sessions {
        let lines = (0..MESSAGES_PER_HOUR)
            .map(|n| {
                let (minute, second) = (n * 18 / 60, n * 18 % 60);
                let mut line = format!(
                    r#"{{"type":"user","timestamp":"2026-02-14T09:{minute:02}:{second:02}Z","text":""#
                );
                while line.len() < MESSAGE_BYTES - 2 {
                    line.push_str(&format!("word{} ", random.below(5_000)));
                }
                line.truncate(MESSAGE_BYTES - 2);
                line.push_str("\"}");
                Bytes::from(line)
            })
            .collect();
        let mut batch = Batch::new(format!("s{session}").parse().unwrap(), lines);
        batch.arrival = Arrival::Historical;
        store.append(batch).unwrap();
    }
    store
}

/// The median of 21 reports, in milliseconds.
fn report_ms(store: &Store) -> f64 {
    let mut times: Vec<f64> = (0..21)
        .map(|_| {
            let start = Instant::now();
            store.capacity_report().unwrap();
            start.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

#[test]
#[ignore = "a measurement: it takes seconds and depends on the machine"]
fn the_plans_constants_beside_what_is_measured() {
    let folder = tempfile::tempdir().unwrap();
    let small = record(&folder.path().join("small.db"), 10);
    let store = record(&folder.path().join("history.db"), 100);
    let row = |what: &str, planned: &str, measured: String| {
        println!("{what:<32} {planned:>12} {measured:>12}");
    };
    row("", "plan", "measured".into());
    let growth = store.capacity_report().unwrap().growth;
    // The last message of an hour is said 18 s before it ends.
    let hour = growth.bytes_per_session_hour.unwrap();
    row("growth per session-hour", "1 MB", bytes(hour as u64));
    assert!((hour / 1e6 - 1.0).abs() < 0.01, "{hour}");

    let times = [report_ms(&small), report_ms(&store)];
    row(
        "report, 10 and 100 MB (ms)",
        "50",
        format!("{:.2} {:.2}", times[0], times[1]),
    );
    assert!(times[1] < 50.0, "{times:?}");

    store
        .compact(&CompactionRequest::manual(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    let footprint = store.capacity_report().unwrap().footprint.unwrap();
    row("footprint (random words)", "30 %", percent(footprint));

    let start = Instant::now();
    let mut read = 0;
    for session in 0..100 {
        let id = format!("s{session}").parse().unwrap();
        for message in store.read(&id, ReadRange::all()).unwrap() {
            read += message.unwrap().payload.len() as u64;
        }
    }
    let pace = read as f64 / start.elapsed().as_secs_f64();
    // The plan's bandwidth of one client that replays history.
    row(
        "replay of one reader, a second",
        "500 KB",
        bytes(pace as u64),
    );

    // Sessions open at once, each half-way through a page of its replay: what the store holds of
    // a session that a client follows.
    let before = resident_bytes();
    let replays: Vec<_> = (0..100)
        .map(|session| {
            let id = format!("s{session}").parse().unwrap();
            let mut replay = store.read(&id, ReadRange::all()).unwrap();
            replay.next().unwrap().unwrap();
            replay
        })
        .collect();
    let each = resident_bytes().saturating_sub(before) / replays.len() as u64;
    row(
        "store's memory a session",
        &bytes(DAEMON_SESSION_BYTES.0),
        bytes(each),
    );
}

/// Opening a store and its report, in milliseconds: the median of 41 and the worst.
fn open_and_report_ms(path: &Path) -> (f64, f64) {
    let mut times: Vec<f64> = (0..41)
        .map(|_| {
            let start = Instant::now();
            let store = Store::open_read_only(path, StoreOptions::default()).unwrap();
            store.capacity_report().unwrap();
            start.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[times.len() - 1])
}

/// The whole of `betcode-db report` but the start of the process.
#[test]
#[ignore = "a measurement: it writes 1 GB and depends on the machine"]
fn a_report_of_1_gb_beside_one_of_10_mb() {
    let folder = tempfile::tempdir().unwrap();
    for (name, sessions) in [("10 MB", 10), ("1 GB", 1000)] {
        let path = folder.path().join(format!("{sessions}.db"));
        let store = record(&path, sessions);
        let raw = store.totals().unwrap().raw_bytes;
        store.close().unwrap();
        let (median, worst) = open_and_report_ms(&path);
        println!(
            "report of {name} ({} in {sessions} sessions): median {median:.2} ms, worst {worst:.2} ms",
            bytes(raw)
        );
    }
}
