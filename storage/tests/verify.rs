//! What a check of a damaged store lists, and what it says of the rest.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::ops::ControlFlow;
use std::path::Path;

use betcode_storage::{
    Batch, CompactionRequest, Problem, ProblemKind, Store, StoreError, StoreOptions,
};
use bytes::Bytes;

fn open(path: &Path) -> Store {
    let options = StoreOptions {
        reserve_bytes: 0,
        ..StoreOptions::default()
    };
    Store::open(path, options).unwrap()
}

fn record(store: &Store, messages: usize) {
    let line = |n| Bytes::from(format!("{{\"n\":{n}}}"));
    let lines = (0..messages).map(line).collect();
    store
        .append(Batch::new("s".parse().unwrap(), lines))
        .unwrap();
}

/// Damages a closed store, and checks it.
fn problems_after(path: &Path, sql: &str) -> Vec<Problem> {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection.execute_batch(sql).unwrap();
    assert!(connection.changes() > 0, "{sql}");
    drop(connection);
    let go_on = &mut |_: &_| ControlFlow::Continue(());
    open(path).verify(go_on).unwrap().problems
}

#[test]
fn a_check_says_how_many_damaged_places_it_does_not_list() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    record(&open(&path), 1010);
    let problems = problems_after(&path, "UPDATE hot_messages SET digest = digest + 1");
    assert_eq!(problems.len(), 1001);
    let last = problems.last().unwrap();
    assert_eq!(
        (last.kind, last.sequence),
        (ProblemKind::Message, Some(1001))
    );
    assert!(last.what.starts_with("10 more"), "{}", last.what);
}

#[test]
fn gaps_and_overlaps_among_segments_and_hot_messages_are_found_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = open(&path);
    record(&store, 10);
    let go_on = &mut |_: &_| ControlFlow::Continue(());
    store.compact(&CompactionRequest::manual(), go_on).unwrap();
    assert_eq!(store.totals().unwrap().segments, 1);
    record(&store, 6);
    drop(store);
    let problems = problems_after(
        &path,
        "DELETE FROM hot_messages WHERE message_key & 0xffffffff IN (13, 16);
         UPDATE hot_messages SET message_key = message_key - 11 + 5
             WHERE message_key & 0xffffffff = 11;",
    );
    let is_of_place =
        |problem: &&Problem| [ProblemKind::Gap, ProblemKind::Overlap].contains(&problem.kind);
    let found: Vec<_> = problems
        .iter()
        .filter(is_of_place)
        .map(|p| p.what.as_str())
        .collect();
    assert_eq!(
        found,
        [
            "5 to 5 stand in two places",
            "11 to 11 are missing",
            "13 to 13 are missing",
            "16 to 16 are missing",
        ]
    );
}

#[test]
fn a_check_asks_whether_to_go_on_before_it_reads_anything() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    let stopped = store.verify(&mut |_| ControlFlow::Break(())).unwrap_err();
    assert!(matches!(stopped, StoreError::Cancelled), "{stopped}");
}
