//! Bits of the index of session ids that changed: no session is taken for another one, or for gone.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use betcode_storage::{
    Batch, ErrorKind, ReadRange, SessionFilter, SessionId, Store, StoreError, StoreOptions,
};
use bytes::Bytes;

const PAGE_BYTES: usize = 4096;
/// Their keys are 1, 2 and 3.
const SESSIONS: [&str; 3] = ["s-aa", "s-bb", "s-cc"];

fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

fn line_of(session: &str) -> Vec<Bytes> {
    vec![Bytes::from(format!("a line of {session}"))]
}

fn open(path: &Path) -> Store {
    let options = StoreOptions {
        reserve_bytes: 0,
        ..StoreOptions::default()
    };
    Store::open(path, options).unwrap()
}

/// A closed store in whose index the entry of `s-bb` has another bit, in a byte from its beginning on.
fn with_flipped_bit(folder: &tempfile::TempDir, byte: usize, bit: u8) -> PathBuf {
    let path = folder.path().join("h.db");
    let store = open(&path);
    for session in SESSIONS {
        store
            .append(Batch::new(id(session), line_of(session)))
            .unwrap();
    }
    store.close().unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_sessions_1'";
    let page: u32 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
    drop(connection);
    let page = page as usize;
    let mut bytes = std::fs::read(&path).unwrap();
    let index = &mut bytes[(page - 1) * PAGE_BYTES..page * PAGE_BYTES];
    let at = index.windows(4).position(|found| found == b"s-bb");
    index[at.unwrap() + byte] ^= 1 << bit;
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The key of the session behind its id, which is another one's or nobody's then, and the id itself.
const FLIPS: [(usize, u8); 3] = [(4, 0), (4, 2), (3, 2)];

fn read(store: &Store, session: &str) -> Vec<Bytes> {
    let read = store.read(&id(session), ReadRange::all()).unwrap();
    read.map(|message| message.unwrap().payload).collect()
}

#[test]
fn each_session_is_read_by_its_id() {
    for (byte, bit) in FLIPS {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&with_flipped_bit(&folder, byte, bit));
        for session in SESSIONS {
            assert_eq!(store.session(&id(session)).unwrap().id, id(session));
            assert_eq!(read(&store, session), line_of(session), "{byte} {bit}");
            assert_eq!(store.inspect(&id(session)).unwrap().hot_messages, 1);
        }
        let listed = store.sessions(&SessionFilter::default()).unwrap();
        assert_eq!((listed.total, listed.damaged.len()), (3, 0));
        let none = store.session(&id("s-zz")).unwrap_err();
        assert!(matches!(none, StoreError::SessionNotFound { .. }), "{none}");
    }
}

#[test]
fn nothing_is_deleted_through_an_entry_that_leads_elsewhere() {
    for (byte, bit) in FLIPS {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&with_flipped_bit(&folder, byte, bit));
        let refused = store.delete(&id("s-bb")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
        assert!(refused.to_string().contains("s-bb"), "{refused}");
        for session in SESSIONS {
            assert_eq!(read(&store, session), line_of(session), "{byte} {bit}");
        }
        // The others are not touched by it.
        assert!(store.delete(&id("s-cc")).unwrap());
        assert!(!store.delete(&id("s-cc")).unwrap());
        assert_eq!(read(&store, "s-bb"), line_of("s-bb"));
    }
}

#[test]
fn nothing_is_appended_through_an_entry_that_leads_elsewhere() {
    // With another id in it, the entry is that session's.
    for (session, (byte, bit)) in ["s-bb", "s-bb", "s-bf"].into_iter().zip(FLIPS) {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&with_flipped_bit(&folder, byte, bit));
        let batch = Batch::new(id(session), vec![Bytes::from_static(b"new")]);
        let refused = store.append(batch).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
        assert!(refused.to_string().contains(session), "{refused}");
        for session in SESSIONS {
            assert_eq!(read(&store, session), line_of(session), "{byte} {bit}");
        }
    }
}

#[test]
fn a_session_gets_its_name_and_no_other_one_does() {
    for (byte, bit) in FLIPS {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&with_flipped_bit(&folder, byte, bit));
        store.rename(&id("s-bb"), "its name").unwrap();
        let name_of = |session| store.session(&id(session)).unwrap().meta.name;
        assert_eq!(SESSIONS.map(name_of), ["", "its name", ""], "{byte} {bit}");
    }
}

#[test]
fn a_check_names_the_session_that_is_not_found_by_its_id() {
    for (byte, bit) in FLIPS {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&with_flipped_bit(&folder, byte, bit));
        let report = store.verify(&mut |_| ControlFlow::Continue(())).unwrap();
        let named = report.problems.iter().filter_map(|p| p.session.as_deref());
        assert_eq!(named.collect::<Vec<_>>(), ["s-bb"], "{report:?}");
        assert_eq!(report.sessions, 2);
    }
}

#[test]
fn a_session_that_is_not_there_is_neither_renamed_nor_deleted_and_no_writer_waits_for_that() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = open(&path);
    store.append(Batch::new(id("s"), line_of("s"))).unwrap();
    let elsewhere = rusqlite::Connection::open(&path).unwrap();
    elsewhere.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = store.rename(&id("t"), "its name").unwrap_err();
    assert!(
        matches!(refused, StoreError::SessionNotFound { .. }),
        "{refused}"
    );
    assert!(!store.delete(&id("t")).unwrap());
    elsewhere.execute_batch("ROLLBACK").unwrap();
}
