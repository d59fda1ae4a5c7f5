//! Several processes on one file: nothing is lost, and each one's order is kept.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use betcode_storage::{ReadRange, SessionFilter, Store, restore};
use betcode_test_support::{seed, setting};
use betcode_tests::child::Role;
use betcode_tests::history::{Acknowledged, assert_sound, contents, options};

const WORKER: &str = env!("CARGO_BIN_EXE_worker");

#[test]
fn two_writers_a_compactor_and_readers_share_a_file() {
    share(setting("BETCODE_SHARED_MESSAGES", 400));
}

/// `BETCODE_SHARED_MESSAGES` sets the number of messages per thread.
#[test]
#[ignore = "the same for longer"]
fn two_writers_a_compactor_and_readers_share_a_file_for_long() {
    share(setting("BETCODE_SHARED_MESSAGES", 10_000));
}

fn share(messages: u64) {
    let seed = seed();
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("history.db");
    Store::open(&db, options()).unwrap().close().unwrap();
    let acks: Vec<_> = (0..2)
        .map(|n| folder.path().join(format!("acks-{n}")))
        .collect();
    let writers: Vec<_> = (0..2_u64)
        .map(|process| {
            Role::new(WORKER, "record", &db)
                .with("acks", &acks[process as usize])
                .with("seed", (seed + process).to_string())
                .with("writer", (process * 100 + 1).to_string())
                .with("threads", "2")
                .with("sessions", format!("shared,own-{process}"))
                .with("messages", messages.to_string())
                .start()
        })
        .collect();
    let mut compactor = Role::new(WORKER, "compact", &db).start();
    assert_eq!(compactor.line().as_deref(), Some("open"));

    let reader = Store::open_read_only(&db, options()).unwrap();
    let (mut reads, mut backups) = (0, 0);
    let mut writers = writers;
    let deadline = Instant::now() + Duration::from_secs(300);
    while !writers.iter_mut().all(|writer| writer.has_ended()) {
        assert!(
            Instant::now() < deadline,
            "the writers do not come to an end"
        );
        let _ = contents(&reader);
        reads += 1;
        // Each copy is whole and sound, as of one moment of all this.
        let copy = folder.path().join(format!("copy-{backups}.db"));
        let report = reader
            .backup(&copy, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        let of_copy = Store::open_read_only(&copy, options()).unwrap();
        let messages: u64 = contents(&of_copy).values().map(|m| m.len() as u64).sum();
        assert_eq!(messages, report.messages);
        drop(of_copy);
        if backups == 0 {
            let restored = folder.path().join("restored.db");
            restore(&copy, &restored, false, &mut |_| ControlFlow::Continue(())).unwrap();
            assert_sound(&Store::open(&restored, options()).unwrap());
        }
        std::fs::remove_file(&copy).unwrap();
        backups += 1;
    }
    for writer in writers {
        let (status, _) = writer.finish(Duration::from_secs(5));
        assert!(status.success());
    }
    let (status, said) = compactor.finish(Duration::from_secs(60));
    assert!(status.success());
    eprintln!("{reads} full reads, {backups} backups, compactor: {said:?}");
    assert!(backups > 0);
    assert_ne!(said.last().map(String::as_str), Some("segments 0"));
    drop(reader);

    let mut acknowledged = Acknowledged::default();
    for file in &acks {
        acknowledged.read(file);
    }
    assert_eq!(acknowledged.messages(), 4 * messages);
    acknowledged.assert_kept(&db, options());
}

#[test]
fn a_reader_that_came_first_sees_what_another_process_appends() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("history.db");
    Store::open(&db, options()).unwrap().close().unwrap();
    let reader = Store::open_read_only(&db, options()).unwrap();
    let acks = folder.path().join("acks");
    let mut writer = Role::new(WORKER, "record", &db)
        .with("acks", &acks)
        .with("threads", "1")
        .with("messages", "50")
        .start();
    while writer.line().is_some() {}
    let mut acknowledged = Acknowledged::default();
    acknowledged.read(&acks);
    assert_eq!(acknowledged.messages(), 50);
    let list = reader.sessions(&SessionFilter::default()).unwrap();
    assert_eq!(list.sessions[0].messages, acknowledged.messages());
    let read = reader
        .read(&list.sessions[0].id, ReadRange::all())
        .unwrap()
        .map(Result::unwrap)
        .count();
    assert_eq!(read as u64, acknowledged.messages());
}
