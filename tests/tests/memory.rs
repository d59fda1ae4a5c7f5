//! Memory does not grow with the history: big sessions, and big messages.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use betcode_storage::{
    Batch, CompactionPolicy, CompactionRequest, ReadRange, Store, StoreOptions, Tier,
};
use betcode_test_support::Random;
use betcode_test_support::proc;
use betcode_tests::child::Role;
use betcode_tests::history::{assert_sound, id, options};
use betcode_tests::lines;
use bytes::Bytes;

const WORKER: &str = env!("CARGO_BIN_EXE_worker");
const RESIDENT_BYTES_MAX: u64 = 100_000_000;
/// What a step of compaction may have resident, the process around it included.
const STEP_BYTES_MAX: u64 = 256_000_000;
/// What a reader may.
const READER_BYTES_MAX: u64 = 64_000_000;

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
    let recorded = record(&store, bytes);
    for state in ["hot", "compacted"] {
        eprintln!("{state}:");
        let replayed = replay(&db);
        assert_eq!((replayed.messages, replayed.bytes), recorded);
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

/// Runs `betcode-db` on a store, and the most memory it had resident.
fn peak_of_tool(db: &Path, arguments: &[&str]) -> u64 {
    let mut tool = Command::new(WORKER)
        .args(["tool", "--db"])
        .arg(db)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", tool.id());
    let mut peak_kib = 0;
    let ended = loop {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        peak_kib = peak_kib.max(peak.unwrap_or(0));
        if let Some(ended) = tool.try_wait().unwrap() {
            break ended;
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    assert!(ended.success(), "{arguments:?}");
    peak_kib * 1024
}

/// Compacts and reads in processes of their own, with the settings that users have.
fn within_bounds(db: &Path, session: &str) {
    let quick = peak_of_tool(db, &["compact", "--tier", "quick"]);
    let deep = peak_of_tool(db, &["compact"]);
    let whole = peak_of_tool(db, &["cat", session]);
    let last = peak_of_tool(db, &["cat", session, "--last", "1"]);
    let mb = |bytes: u64| bytes as f64 / 1e6;
    eprintln!(
        "peak of resident memory: quick {:.1} MB, deep {:.1} MB, replay {:.1} MB, last message \
         {:.1} MB",
        mb(quick),
        mb(deep),
        mb(whole),
        mb(last)
    );
    assert!(quick.max(deep) <= STEP_BYTES_MAX, "{quick} {deep}");
    assert!(whole.max(last) <= READER_BYTES_MAX, "{whole} {last}");
}

#[test]
fn messages_of_10_mb_are_compacted_and_read_in_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("history.db");
    let store = Store::open(&db, roomy()).unwrap();
    let picture = String::from_utf8(image(10_000_000).to_vec()).unwrap();
    let prose = "a line of prose, \\\"quoted\\\"\\n".repeat(350_000);
    for n in 0..2 {
        let lines = [
            format!(r#"{{"n":{n},"source":{{"type":"base64","data":"{picture}"}}}}"#),
            format!(r#"{{"n":{n},"text":"{prose}"}}"#),
            format!(r#"{{"n":{n},"text":"-{picture}"}}"#),
        ];
        for line in lines {
            store
                .append(Batch::new(id("big"), vec![Bytes::from(line)]))
                .unwrap();
        }
    }
    drop(store);
    within_bounds(&db, "big");
}

#[test]
#[ignore = "needs BETCODE_MEMORY_CORPUS, a folder of sessions"]
fn a_folder_of_sessions_is_compacted_and_read_in_bounded_memory() {
    let sessions = std::env::var("BETCODE_MEMORY_CORPUS").expect("a folder of sessions");
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("history.db");
    peak_of_tool(&db, &["import", &sessions]);
    let store = Store::open(&db, roomy()).unwrap();
    let all = store.sessions(&Default::default()).unwrap().sessions;
    let biggest = all.iter().max_by_key(|s| s.raw_bytes).unwrap();
    drop(store);
    within_bounds(&db, biggest.id.as_str());
}
