//! Recording and replaying through the façade, on real files.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, as tests do"
)]

mod follow;
mod moved;
mod opening;

use std::ops::ControlFlow;
use std::sync::Arc;

use betcode_storage::limits::MESSAGE_TYPES_MAX;
use betcode_storage::{
    Batch, ErrorKind, ImportMark, ManualClock, ReadRange, SessionFilter, SessionId, SessionMeta,
    Store, StoreError, StoreOptions,
};
use bytes::Bytes;

fn small_reserve() -> StoreOptions {
    StoreOptions {
        reserve_bytes: 0,
        ..StoreOptions::default()
    }
}

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(&folder.path().join("history.db"), small_reserve()).unwrap()
}

fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

fn batch(session: &str, payloads: &[&'static [u8]]) -> Batch {
    Batch::new(
        id(session),
        payloads.iter().map(|p| Bytes::from_static(p)).collect(),
    )
}

fn import_mark(taken_bytes: u64, unterminated: bool) -> ImportMark {
    ImportMark {
        source_path: b"/src/s.jsonl".to_vec(),
        relative_path: b"s.jsonl".to_vec(),
        taken_bytes,
        taken_digest: u128::from(taken_bytes),
        unterminated,
        joins: Vec::new(),
    }
}

fn contents(store: &Store, session: &str) -> Vec<Bytes> {
    store
        .read(&id(session), ReadRange::all())
        .unwrap()
        .map(|m| m.unwrap().payload)
        .collect()
}

#[test]
fn what_was_answered_is_read_back_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let payloads: &[&[u8]] = &[
        b"{\"type\":\"user\"}",
        b"",
        b"\0\xff\xfe",
        b"prose\r",
        b"{}{}",
    ];
    let store = open(&folder);
    let appended = store.append(batch("s", payloads)).unwrap();
    assert_eq!(
        (
            appended.first_sequence,
            appended.last_sequence,
            appended.duplicates
        ),
        (1, 5, 0)
    );
    store.close().unwrap();
    assert_eq!(contents(&open(&folder), "s"), payloads);
}

#[test]
fn a_retry_with_the_same_bytes_succeeds_and_other_bytes_conflict() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let first = Batch {
        expected_sequence: Some(1),
        ..batch("s", &[b"a", b"b"])
    };
    store.append(first.clone()).unwrap();
    let again = store.append(first).unwrap();
    assert_eq!(
        (again.first_sequence, again.last_sequence, again.duplicates),
        (1, 2, 2)
    );
    let longer = Batch {
        expected_sequence: Some(2),
        ..batch("s", &[b"b", b"c"])
    };
    assert_eq!(store.append(longer).unwrap().duplicates, 1);
    let other = Batch {
        expected_sequence: Some(3),
        ..batch("s", &[b"X"])
    };
    assert!(matches!(
        store.append(other).unwrap_err(),
        StoreError::SequenceConflict {
            sequence: 3,
            next: 4,
            ..
        }
    ));
    let ahead = Batch {
        expected_sequence: Some(9),
        ..batch("s", &[b"X"])
    };
    assert!(matches!(
        store.append(ahead).unwrap_err(),
        StoreError::SequenceConflict { .. }
    ));
    assert_eq!(contents(&store, "s"), [&b"a"[..], b"b", b"c"]);
}

#[test]
fn an_import_that_comes_late_does_not_reset_how_far_a_file_was_imported() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let import = |payloads: &[&'static [u8]], mark| Batch {
        expected_sequence: Some(1),
        import: Some(mark),
        ..batch("s", payloads)
    };
    let kept = || store.import_of(&id("s")).unwrap().unwrap().mark;

    // Two imports of a file that grows: the one that found it shorter comes last.
    store
        .append(import(&[b"a", b"b", b"c"], import_mark(6, false)))
        .unwrap();
    let late = store
        .append(import(&[b"a", b"b"], import_mark(3, true)))
        .unwrap();
    assert_eq!(late.duplicates, 2);
    assert_eq!(kept(), import_mark(6, false));
    // The same with the newline of the last line as all that the other one has not seen.
    store
        .append(import(&[b"a", b"b", b"c"], import_mark(5, true)))
        .unwrap();
    assert_eq!(kept(), import_mark(6, false));
    // What goes on from there is noted.
    store
        .append(import(&[b"a", b"b", b"c", b"d"], import_mark(7, true)))
        .unwrap();
    assert_eq!(kept(), import_mark(7, true));
    assert_eq!(contents(&store, "s"), ["a", "b", "c", "d"]);
}

#[test]
fn ranges_select_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store
        .append(batch("s", &[b"1", b"2", b"3", b"4", b"5"]))
        .unwrap();
    let read = |range| -> Vec<u64> {
        store
            .read(&id("s"), range)
            .unwrap()
            .map(|m| m.unwrap().sequence)
            .collect()
    };
    assert_eq!(read(ReadRange::from(4)), [4, 5]);
    assert_eq!(read(ReadRange::from(0)), [1, 2, 3, 4, 5]);
    assert_eq!(read(ReadRange::from(6)), [] as [u64; 0]);
    assert_eq!(read(ReadRange::last(2)), [4, 5]);
    assert_eq!(read(ReadRange::last(9)), [1, 2, 3, 4, 5]);
    assert_eq!(
        read(ReadRange {
            from: 2,
            to: Some(3),
            last: None
        }),
        [2, 3]
    );
    assert_eq!(
        read(ReadRange {
            from: 1,
            to: Some(3),
            last: Some(1)
        }),
        [3]
    );
    assert_eq!(
        read(ReadRange {
            from: 4,
            to: Some(2),
            last: None
        }),
        [] as [u64; 0]
    );
}

#[test]
fn a_session_is_named_by_the_title_in_its_lines_until_it_is_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let named_after = |line: &str| {
        let line = Bytes::copy_from_slice(line.as_bytes());
        store.append(Batch::new(id("a"), vec![line])).unwrap();
        store.session(&id("a")).unwrap().meta.name
    };
    let made = |title| format!(r#"{{"type":"ai-title","aiTitle":"{title}"}}"#);
    assert_eq!(named_after(&made("first")), "first");
    assert_eq!(named_after(&made("second")), "second");
    let given = r#"{"type":"custom-title","customTitle":"given"}"#;
    assert_eq!(named_after(given), "given");
    assert_eq!(named_after(&made("third")), "given");
    store.rename(&id("a"), "mine").unwrap();
    assert_eq!(named_after(given), "mine");
}

#[test]
fn sessions_are_listed_renamed_and_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let meta = SessionMeta {
        working_directory: "/p".into(),
        ..SessionMeta::default()
    };
    store
        .append(Batch {
            meta,
            ..batch("a", &[b"1"])
        })
        .unwrap();
    store.append(batch("b", &[b"22", b"3"])).unwrap();
    let list = store
        .sessions(&SessionFilter {
            limit: Some(1),
            ..SessionFilter::default()
        })
        .unwrap();
    assert_eq!((list.total, list.sessions.len()), (2, 1));
    let of_project = SessionFilter {
        working_directory: Some("/p".into()),
        ..SessionFilter::default()
    };
    assert_eq!(store.sessions(&of_project).unwrap().sessions[0].id, id("a"));
    for (named, found) in [("/p/", 1), ("/", 0), ("p", 0)] {
        let filter = SessionFilter {
            working_directory: Some(named.into()),
            ..SessionFilter::default()
        };
        assert_eq!(store.sessions(&filter).unwrap().total, found, "{named}");
    }
    store.rename(&id("a"), "first").unwrap();
    assert_eq!(store.session(&id("a")).unwrap().meta.name, "first");
    assert_eq!(
        store.rename(&id("x"), "n").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    assert!(store.delete(&id("b")).unwrap());
    assert!(!store.delete(&id("b")).unwrap());
    assert_eq!(
        store.read(&id("b"), ReadRange::all()).unwrap_err().kind(),
        ErrorKind::NotFound
    );
    let totals = store.totals().unwrap();
    assert_eq!(
        (totals.sessions, totals.messages, totals.raw_bytes),
        (1, 1, 1)
    );
    assert_eq!(store.growth_by_type().unwrap()[0].messages, 1);
}

#[test]
fn types_of_lines_of_a_deleted_session_make_room_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = Store::open(&path, StoreOptions::default()).unwrap();
    let beside = Store::open(&path, StoreOptions::default()).unwrap();
    let of_types = |session: &str, count: usize| {
        let line = |n| Bytes::from(format!(r#"{{"type":"{session}-{n}"}}"#));
        Batch::new(id(session), (0..count).map(line).collect())
    };
    store
        .append(of_types("noisy", MESSAGE_TYPES_MAX + 10))
        .unwrap();
    beside.append(of_types("kept", 1)).unwrap();
    assert!(store.delete(&id("noisy")).unwrap());
    for store in [&beside, &store] {
        store.append(of_types("noisy", 3)).unwrap();
        store.append(of_types("new", 3)).unwrap();
    }
    let found = store.growth_by_type().unwrap();
    let counted = |name: &str| {
        let found = found.iter().find(|found| found.message_type == name);
        found.map_or(0, |found| found.messages)
    };
    assert_eq!((counted("new-0"), counted("noisy-2")), (2, 2), "{found:?}");
    assert_eq!(counted("(other)"), 1, "{found:?}");
    let report = store.verify(&mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.ok(), "{:?}", report.problems);
}

#[test]
fn two_stores_on_one_file_append_in_turn() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (open(&folder), open(&folder));
    for round in 0..50_u64 {
        let store = if round % 2 == 0 { &one } else { &two };
        assert_eq!(
            store.append(batch("s", &[b"x"])).unwrap().first_sequence,
            round + 1
        );
    }
    assert_eq!(contents(&one, "s").len(), 50);
    assert_eq!(one.totals().unwrap().messages, 50);
}

#[test]
fn an_append_that_means_one_session_is_refused_by_another_of_its_name_and_makes_none() {
    let folder = tempfile::tempdir().unwrap();
    let (store, other) = (open(&folder), open(&folder));
    store.append(batch("s", &[b"old"])).unwrap();
    let meant = Batch {
        key: Some(store.session(&id("s")).unwrap().key),
        ..batch("s", &[b"more"])
    };
    store.append(meant.clone()).unwrap();
    let refused = || {
        let error = store.append(meant.clone()).unwrap_err();
        assert!(
            matches!(error, StoreError::SessionNotFound { .. }),
            "{error}"
        );
    };
    assert!(other.delete(&id("s")).unwrap());
    refused();
    assert!(store.session(&id("s")).is_err());
    other.append(batch("s", &[b"new"])).unwrap();
    refused();
    assert_eq!(contents(&store, "s"), [&b"new"[..]]);
}

#[test]
fn a_payload_over_the_limit_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        payload_bytes_max: 4,
        ..small_reserve()
    };
    let store = Store::open(&folder.path().join("h.db"), options).unwrap();
    assert!(matches!(
        store.append(batch("s", &[b"1234", b"12345"])).unwrap_err(),
        StoreError::PayloadTooLarge {
            index: 1,
            bytes: 5,
            bytes_max: 4,
            ..
        }
    ));
    assert_eq!(store.totals().unwrap().sessions, 0);
}

#[test]
fn a_probe_writes_and_a_write_of_what_stands_there_already_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s.db");
    let store = Store::open(&path, small_reserve()).unwrap();
    let other = rusqlite::Connection::open(&path).unwrap();
    let commits = || -> i64 {
        other
            .query_row("PRAGMA data_version", [], |row| row.get(0))
            .unwrap()
    };
    let before = commits();
    store.probe().unwrap();
    assert_ne!(commits(), before);
}

#[test]
fn a_replay_that_ends_with_an_error_still_stands_at_the_message_that_did_not_come() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.append(batch("s", &[b"a", b"b"])).unwrap();
    let mut replay = store.read(&id("s"), ReadRange::from(2)).unwrap();
    store.delete(&id("s")).unwrap();
    let error = replay.next().unwrap().unwrap_err();
    assert!(
        matches!(error, StoreError::SessionNotFound { .. }),
        "{error}"
    );
    assert!(replay.next().is_none());
    assert_eq!(replay.position(), 2);
}

#[test]
fn followers_get_new_messages_once_and_in_order() {
    use std::sync::{Arc, Mutex};
    let folder = tempfile::tempdir().unwrap();
    let committed = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&committed);
    let options = StoreOptions {
        on_commit: Some(Arc::new(move |news| {
            seen.lock().unwrap().extend(
                news.messages
                    .iter()
                    .map(|m| (m.sequence, m.payload.clone())),
            );
        })),
        ..small_reserve()
    };
    let store = Store::open(&folder.path().join("h.db"), options).unwrap();
    store.append(batch("s", &[b"a", b"b"])).unwrap();
    store
        .append(Batch {
            expected_sequence: Some(2),
            ..batch("s", &[b"b", b"c"])
        })
        .unwrap();
    store
        .append(Batch {
            expected_sequence: Some(1),
            ..batch("s", &[b"a"])
        })
        .unwrap();
    store
        .append(Batch {
            expected_sequence: Some(2),
            ..batch("s", &[b"x"])
        })
        .unwrap_err();
    let expected: Vec<_> = [(1, "a"), (2, "b"), (3, "c")]
        .map(|(n, p)| (n, Bytes::from(p)))
        .into();
    assert_eq!(*committed.lock().unwrap(), expected);
}

/// Puts a value into a session's row as SQLite's own shell could, whatever the column's type.
fn set_in_session_row(path: &std::path::Path, column: &str, value: &str) {
    let connection = rusqlite::Connection::open(path).unwrap();
    let change = format!(
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = replace(sql, 'STRICT', '') WHERE name = 'sessions';
         PRAGMA writable_schema = RESET;
         UPDATE sessions SET {column} = {value} WHERE session_id = 's';"
    );
    connection.execute_batch(&change).unwrap();
}

#[test]
fn a_row_with_a_value_that_nobody_of_us_writes_is_damage_and_names_column_and_file() {
    for (column, value) in [
        ("updated_ms", "'yesterday'"),
        ("raw_bytes", "-1"),
        ("session_id", "''"),
        ("name", "CAST(x'ff' AS TEXT)"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let store = open(&folder);
        store.append(batch("s", &[b"a"])).unwrap();
        store.append(batch("other", &[b"b"])).unwrap();
        store.close().unwrap();
        set_in_session_row(&folder.path().join("history.db"), column, value);
        let store = open(&folder);
        let listed = store.sessions(&SessionFilter::default()).unwrap();
        assert_eq!(listed.sessions.len(), 1, "{column}");
        let error = listed.damaged[0].error();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{column}: {error}");
        assert!(error.hint().unwrap().contains("verify"), "{error}");
        if column != "session_id" {
            let error = store.session(&id("s")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Damaged, "{column}: {error}");
            assert!(error.to_string().contains("history.db"), "{error}");
        }
        let report = store.verify(&mut |_| std::ops::ControlFlow::Continue(()));
        assert!(!report.unwrap().ok(), "{column}");
        assert_eq!(contents(&store, "other"), ["b"], "{column}");
    }
}

#[test]
fn an_append_to_a_session_whose_row_is_damaged_is_refused_and_fails_no_other_of_its_group() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.append(batch("s", &[b"a"])).unwrap();
    store.close().unwrap();
    set_in_session_row(&folder.path().join("history.db"), "raw_bytes", "-1");
    let store = open(&folder);
    let refused = store.append(batch("s", &[b"b"])).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
    store.append(batch("other", &[b"c"])).unwrap();
    assert_eq!(contents(&store, "other"), ["c"]);
}

#[test]
fn handles_replays_and_errors_go_from_thread_to_thread() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send + 'static>() {}
    shared::<Store>();
    shared::<StoreOptions>();
    shared::<StoreError>();
    shared::<betcode_storage::CompactionService>();
    sent::<betcode_storage::Replay>();
}

#[test]
fn an_append_may_wait_for_as_long_as_it_takes() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        append_wait_ms_max: u64::MAX,
        ..small_reserve()
    };
    let store = Store::open(&folder.path().join("history.db"), options).unwrap();
    store.append(batch("s", &[b"a"])).unwrap();
    assert_eq!(contents(&store, "s"), ["a"]);
}

#[test]
fn an_append_that_may_not_wait_is_recorded_where_there_is_room_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        append_wait_ms_max: 0,
        queue_requests_max: 1,
        ..small_reserve()
    };
    let store = Store::open(&folder.path().join("history.db"), options).unwrap();
    for sequence in 1..=20 {
        let appended = store.append(batch("s", &[b"a"])).unwrap();
        assert_eq!(appended.last_sequence, sequence);
    }

    // While the writer is held up, one gets in and the next does not.
    let (began, has_begun) = std::sync::mpsc::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let (send, answered) = std::sync::mpsc::channel();
    let hold = move |appended: betcode_storage::Result<_>| {
        began.send(()).unwrap();
        may_go_on.recv().unwrap();
        appended.unwrap();
    };
    let answer = move |appended| send.send(appended).unwrap();
    let no_wait = std::time::Duration::ZERO;
    store
        .append_then(batch("s", &[b"b"]), no_wait, hold)
        .unwrap();
    has_begun.recv().unwrap();
    store
        .append_then(batch("s", &[b"c"]), no_wait, answer)
        .unwrap();
    let full = store.append(batch("s", &[b"d"])).unwrap_err();
    assert!(matches!(full, StoreError::QueueFull { .. }), "{full}");
    go_on.send(()).unwrap();
    assert_eq!(answered.recv().unwrap().unwrap().last_sequence, 22);
}

#[test]
fn a_store_that_is_let_go_by_its_last_callback_carries_out_what_waits() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let wait_max = std::time::Duration::from_secs(60);
    let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
    let (send, answered) = std::sync::mpsc::channel();
    let last = store.clone();
    let done = move |appended: betcode_storage::Result<_>| {
        may_go_on.recv().unwrap();
        appended.unwrap();
        drop(last);
    };
    store
        .append_then(batch("s", &[b"a"]), wait_max, done)
        .unwrap();
    let answer = move |appended| send.send(appended).unwrap();
    store
        .append_then(batch("s", &[b"b"]), wait_max, answer)
        .unwrap();
    drop(store);
    go_on.send(()).unwrap();
    answered.recv().unwrap().unwrap();
}
