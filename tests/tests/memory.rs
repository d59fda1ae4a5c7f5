//! Memory does not grow with the history: big sessions, and big messages.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use betcode_storage::{
    Batch, CompactionPolicy, CompactionRequest, ReadRange, Store, StoreOptions, Tier,
};
use betcode_tests::child::Role;
use betcode_tests::history::{assert_sound, id, options};
use betcode_tests::lines::{self, Random};
use betcode_tests::proc;
use bytes::Bytes;

const WORKER: &str = env!("CARGO_BIN_EXE_worker");
const RESIDENT_BYTES_MAX: u64 = 100_000_000;

/// Limits that big sessions stay below.
fn roomy() -> StoreOptions {
    StoreOptions {
        payload_bytes_max: 100 << 20,
        db_bytes_max: 8_000_000_000,
        session_bytes_max: 8_000_000_000,
        ..options()
    }
}

/// The deep tier's segments, at a level that does not take all day.
fn request() -> CompactionRequest {
    let mut policy = CompactionPolicy::default();
    policy.deep.level = 3;
    CompactionRequest {
        tier: Tier::Deep,
        policy,
        ..CompactionRequest::manual()
    }
}

/// Records a session of `bytes`; number of messages and bytes.
fn record(store: &Store, bytes: u64) -> (u64, u64) {
    let (mut n, mut sent) = (0, 0);
    while sent < bytes {
        let payloads: Vec<Bytes> = (n..n + 500).map(|n| lines::payload(1, n)).collect();
        n += 500;
        let batch = Batch::new(id("big"), payloads);
        sent += batch.bytes() as u64;
        store.append(batch).unwrap();
    }
    (n, sent)
}

/// What a process of its own says of replaying the session.
struct Replayed {
    messages: u64,
    bytes: u64,
    first_message: Duration,
    whole: Duration,
    peak_bytes: u64,
}

fn replay(db: &Path) -> Replayed {
    let mut worker = Role::new(WORKER, "replay", db)
        .with("session", "big")
        .start();
    let line = worker.line().unwrap();
    let numbers: Vec<u64> = line.split(' ').map(|n| n.parse().unwrap()).collect();
    let replayed = Replayed {
        messages: numbers[0],
        bytes: numbers[1],
        first_message: Duration::from_micros(numbers[2]),
        whole: Duration::from_micros(numbers[3]),
        peak_bytes: numbers[4],
    };
    eprintln!(
        "{} MB in {} messages: first after {:?}, all after {:?} ({:.0} MB/s), peak of resident \
         memory {:.1} MB",
        replayed.bytes / 1_000_000,
        replayed.messages,
        replayed.first_message,
        replayed.whole,
        replayed.bytes as f64 / 1e6 / replayed.whole.as_secs_f64(),
        replayed.peak_bytes as f64 / 1e6,
    );
    replayed
}

fn big_session(bytes: u64) {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("history.db");
    let store = Store::open(&db, roomy()).unwrap();
    let told = record(&store, bytes);
    for state in ["hot", "compacted"] {
        eprintln!("{state}:");
        let replayed = replay(&db);
        assert_eq!((replayed.messages, replayed.bytes), told);
        assert!(
            replayed.peak_bytes < RESIDENT_BYTES_MAX,
            "{state}: {} bytes resident",
            replayed.peak_bytes
        );
        if state == "hot" {
            store
                .compact(&request(), &mut |_| ControlFlow::Continue(()))
                .unwrap();
            eprintln!(
                "this process, having recorded and compacted: peak of {:.1} MB",
                proc::peak_resident_bytes() as f64 / 1e6
            );
        }
    }
}

#[test]
fn a_big_session_replays_in_bounded_memory() {
    big_session(60_000_000);
}

#[test]
#[ignore = "records 1 GB"]
fn a_session_of_1_gb_replays_in_bounded_memory() {
    big_session(1_000_000_000);
}

/// Bytes that compress little, as images in base64 do.
fn image(bytes: usize) -> Bytes {
    let mut random = Random::new(bytes as u64);
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut line = Vec::with_capacity(bytes);
    while line.len() < bytes {
        let mut bits = random.bits();
        for _ in 0..10 {
            // Lossless: below 64.
            line.push(digits[(bits & 63) as usize]);
            bits >>= 6;
        }
    }
    line.truncate(bytes);
    Bytes::from(line)
}

fn long_lines(sizes: &[usize]) {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("history.db");
    let store = Store::open(&db, roomy()).unwrap();
    let mut lines = Vec::new();
    for &size in sizes {
        lines.push(image(size));
        lines.push(lines::payload(2, size as u64));
    }
    for line in &lines {
        store
            .append(Batch::new(id("big"), vec![line.clone()]))
            .unwrap();
    }
    for state in ["hot", "compacted"] {
        let mut read = store.read(&id("big"), ReadRange::all()).unwrap();
        for line in &lines {
            assert!(read.next().unwrap().unwrap().payload == line, "{state}");
        }
        assert!(read.next().is_none());
        if state == "hot" {
            store
                .compact(&request(), &mut |_| ControlFlow::Continue(()))
                .unwrap();
            assert_eq!(store.totals().unwrap().hot_messages, 0);
        }
    }
    assert_sound(&store);
    eprintln!(
        "{sizes:?}: peak of resident memory {:.1} MB",
        proc::peak_resident_bytes() as f64 / 1e6
    );
}

#[test]
fn a_line_of_16_mib_is_history_like_any_other() {
    long_lines(&[16 << 20]);
}

#[test]
#[ignore = "lines of up to 100 MiB"]
fn lines_up_to_the_highest_limit_are_history_like_any_other() {
    long_lines(&[64 << 20, 100 << 20]);
}
