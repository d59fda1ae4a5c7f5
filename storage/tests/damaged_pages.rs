//! Pages that SQLite itself finds damaged: what is in the others is read, and the store goes on.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use betcode_storage::{Batch, ReadRange, SessionId, Store, StoreError, StoreOptions};
use bytes::Bytes;

const PAGE_BYTES: u64 = 4096;

fn open(path: &Path) -> Store {
    let options = StoreOptions {
        reserve_bytes: 0,
        ..StoreOptions::default()
    };
    Store::open(path, options).unwrap()
}

fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

/// Messages that do not fit in a page.
fn long_lines(count: u8) -> Vec<Bytes> {
    (0..count).map(|n| Bytes::from(vec![n; 9000])).collect()
}

/// A closed store of a session to be damaged and one that stays whole.
fn store(path: &Path) {
    let store = open(path);
    for session in ["bad", "whole"] {
        let batch = Batch::new(id(session), long_lines(50));
        store.append(batch).unwrap();
    }
    store.close().unwrap();
}

/// Zeroes the beginning of the page that this query gives.
fn damage(path: &Path, page_of: &str) {
    let connection = rusqlite::Connection::open(path).unwrap();
    let page: u32 = connection.query_row(page_of, [], |row| row.get(0)).unwrap();
    drop(connection);
    let mut file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let at = u64::from(page - 1) * PAGE_BYTES;
    file.seek(SeekFrom::Start(at)).unwrap();
    file.write_all(&[0; 8]).unwrap();
}

/// The first page behind the leaf's part of the thirtieth message of all.
const CHAIN_OF_30TH: &str = "SELECT min(pageno) FROM dbstat
    WHERE name = 'hot_messages' AND path LIKE '%+000000'
    GROUP BY path ORDER BY path LIMIT 1 OFFSET 29";

/// A leaf with messages of the first session.
const SECOND_LEAF: &str = "SELECT pageno FROM dbstat
    WHERE name = 'hot_messages' AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 1";

fn good_and_bad(store: &Store, session: &str) -> (Vec<u64>, usize) {
    let read = store.read(&id(session), ReadRange::all()).unwrap();
    let (good, bad): (Vec<_>, Vec<_>) = read.partition(Result::is_ok);
    let good = good.into_iter().map(|m| m.unwrap().sequence).collect();
    (good, bad.len())
}

#[test]
fn only_the_message_on_a_damaged_page_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    store(&path);
    damage(&path, CHAIN_OF_30TH);
    let store = open(&path);
    let others: Vec<u64> = (1..=50).filter(|&sequence| sequence != 30).collect();
    assert_eq!(good_and_bad(&store, "bad"), (others, 1));
    assert_eq!(good_and_bad(&store, "whole").0.len(), 50);
}

#[test]
fn a_damaged_session_that_is_deleted_keeps_no_store_from_being_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    store(&path);
    damage(&path, SECOND_LEAF);
    let store = open(&path);
    store
        .append(Batch::new(id("third"), long_lines(20)))
        .unwrap();
    assert!(store.delete(&id("bad")).is_err(), "its rows cannot all go");
    store.close().unwrap();
    let store = open(&path);
    let left = store.sessions(&betcode_storage::SessionFilter::default());
    assert_eq!(left.unwrap().total, 2);
    // What is deleted later gives its space back.
    let before = store.space().unwrap();
    assert!(store.delete(&id("third")).unwrap());
    let after = store.space().unwrap();
    assert!(after.free_bytes > before.free_bytes + 20 * 9000 / 2);
    store
        .append(Batch::new(id("whole"), long_lines(1)))
        .unwrap();
    assert_eq!(good_and_bad(&store, "whole"), ((1..=51).collect(), 0));
}

#[test]
fn an_append_that_meets_a_damaged_page_says_whose_and_does_not_fail_those_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let line = || vec![Bytes::from_static(b"a line")];
    let store = open(&path);
    let sessions: Vec<String> = (0..1000).map(|n| format!("session-{n:04}")).collect();
    for session in &sessions {
        store.append(Batch::new(id(session), line())).unwrap();
    }
    store.close().unwrap();
    damage(
        &path,
        "SELECT pageno FROM dbstat WHERE name = 'sessions' AND pagetype = 'leaf'
         ORDER BY path LIMIT 1 OFFSET 2",
    );
    let store = open(&path);
    let (tell, told) = std::sync::mpsc::channel();
    for session in &sessions {
        let (tell, name) = (tell.clone(), session.clone());
        let batch = Batch::new(id(session), line());
        let done = move |answer| tell.send((name, answer)).unwrap();
        store
            .append_then(batch, std::time::Duration::from_secs(60), done)
            .unwrap();
    }
    drop(tell);
    let (taken, refused): (Vec<_>, Vec<_>) = told.iter().partition(|(_, answer)| answer.is_ok());
    // Rows that grow move between a page and those beside it, so that these can be concerned too.
    assert!(taken.len() > 700, "{}", taken.len());
    let told = |(session, answer): (String, Result<_, StoreError>)| {
        let told = answer.unwrap_err().to_string();
        told.contains(&session) && told.contains("find the session")
    };
    assert!(refused.into_iter().any(told));
}
