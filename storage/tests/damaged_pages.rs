//! Pages that SQLite itself finds damaged: what is in the others is read, and the store goes on.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::io::{Seek, SeekFrom, Write};
use std::ops::ControlFlow;
use std::path::Path;

use betcode_storage::{
    Batch, CompactionRequest, ErrorKind, ProblemKind, ReadRange, SessionFilter, SessionId,
    SessionList, SessionMeta, Store, StoreError, StoreOptions, VerifyReport,
};
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
    let (send, answers) = std::sync::mpsc::channel();
    for session in &sessions {
        let (send, name) = (send.clone(), session.clone());
        let batch = Batch::new(id(session), line());
        let done = move |answer| send.send((name, answer)).unwrap();
        store
            .append_then(batch, std::time::Duration::from_secs(60), done)
            .unwrap();
    }
    drop(send);
    let (recorded, refused): (Vec<_>, Vec<_>) =
        answers.iter().partition(|(_, answer)| answer.is_ok());
    // Rows that grow move between a page and those beside it, so that these can be concerned too.
    assert!(recorded.len() > 700, "{}", recorded.len());
    let names_session = |(session, answer): (String, Result<_, StoreError>)| {
        let error = answer.unwrap_err().to_string();
        error.contains(&session) && error.contains("find the session")
    };
    assert!(refused.into_iter().any(names_session));
}

/// The last leaf of the segments, where those of later sessions would stand.
const LAST_SEGMENTS: &str = "SELECT pageno FROM dbstat
    WHERE name = 'segments' AND pagetype = 'leaf' ORDER BY path DESC LIMIT 1";

/// Compacts what can be; to give pages back, SQLite may need the damaged one.
fn compact(store: &Store) {
    let request = CompactionRequest::manual();
    if let Err(error) = store.compact(&request, &mut |_| ControlFlow::Continue(())) {
        let text = error.to_string();
        assert!(text.contains("give free pages back"), "{text}");
    }
}

#[test]
fn a_damaged_page_of_segments_hides_no_message_that_has_a_row_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = open(&path);
    let short = |count: u8| (0..count).map(|n| Bytes::from(vec![n; 40])).collect();
    store.append(Batch::new(id("deep"), short(100))).unwrap();
    compact(&store);
    store.append(Batch::new(id("hot"), short(200))).unwrap();
    store.append(Batch::new(id("deep"), short(100))).unwrap();
    store.close().unwrap();
    damage(&path, LAST_SEGMENTS);
    let store = open(&path);
    assert_eq!(good_and_bad(&store, "hot"), ((1..=200).collect(), 0));
    assert_eq!(
        good_and_bad(&store, "deep").0,
        (101..=200).collect::<Vec<_>>()
    );
    let report = verify(&store);
    assert_eq!(report.messages, 300, "{report:?}");
    // Who has no segments goes on, and so does who is new.
    store.append(Batch::new(id("hot"), short(5))).unwrap();
    store.append(Batch::new(id("new"), short(5))).unwrap();
    assert_eq!(good_and_bad(&store, "hot"), ((1..=205).collect(), 0));
    assert_eq!(good_and_bad(&store, "new"), ((1..=5).collect(), 0));
    let refused = store.append(Batch::new(id("deep"), short(5))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
}

/// A closed store of many sessions, whose rows and ids take several pages.
fn many_sessions(path: &Path) -> Vec<String> {
    let store = open(path);
    let ids: Vec<String> = (0..200)
        .map(|n| format!("session-{n:03}-{}", "x".repeat(60)))
        .collect();
    for (n, session) in ids.iter().enumerate() {
        let meta = SessionMeta {
            name: "n".repeat(100),
            working_directory: format!("/project/{}", n % 7),
            ..SessionMeta::default()
        };
        let lines = long_lines(1).into_iter().cycle().take(2).collect();
        let batch = Batch {
            meta,
            ..Batch::new(id(session), lines)
        };
        store.append(batch).unwrap();
    }
    store.close().unwrap();
    ids
}

/// A page of the rows of sessions, and one of the index by their ids.
const ROWS_OF_SESSIONS: &str = "SELECT pageno FROM dbstat
    WHERE name = 'sessions' AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 3";
const LAST_ROWS_OF_SESSIONS: &str = "SELECT pageno FROM dbstat
    WHERE name = 'sessions' AND pagetype = 'leaf' ORDER BY path DESC LIMIT 1";
const IDS_OF_SESSIONS: &str = "SELECT pageno FROM dbstat
    WHERE name = 'sqlite_autoindex_sessions_1' AND pagetype = 'leaf' ORDER BY path LIMIT 1 OFFSET 1";

fn listed(store: &Store) -> SessionList {
    store.sessions(&SessionFilter::default()).unwrap()
}

fn verify(store: &Store) -> VerifyReport {
    store.verify(&mut |_| ControlFlow::Continue(())).unwrap()
}

#[test]
fn a_damaged_page_of_session_rows_hides_no_session_on_another_and_names_its_own() {
    for page in [ROWS_OF_SESSIONS, LAST_ROWS_OF_SESSIONS] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("h.db");
        let ids = many_sessions(&path);
        damage(&path, page);
        let store = open(&path);
        let list = listed(&store);
        assert!(list.sessions.len() > 150, "{}", list.sessions.len());
        assert!(list.damaged.len() > 3, "{}", list.damaged.len());
        let whole_sessions = list.sessions.len() as u64;
        assert_eq!(list.total, whole_sessions + list.damaged.len() as u64);
        let whole = list.sessions.iter().map(|session| session.id.as_str());
        let lost = list.damaged.iter().map(|s| s.id.as_ref().unwrap().as_str());
        let mut named: Vec<&str> = whole.chain(lost).collect();
        named.sort_unstable();
        assert_eq!(named, ids, "each once");
        for session in &list.sessions {
            assert_eq!(good_and_bad(&store, session.id.as_str()), (vec![1, 2], 0));
        }
        // The messages of the others are all there.
        for session in &list.damaged {
            let id = session.id.as_ref().unwrap();
            assert_eq!(
                store.read(id, ReadRange::all()).unwrap_err().kind(),
                ErrorKind::Damaged
            );
            let replay = store.salvage(id, ReadRange::all()).unwrap();
            let salvaged: Vec<u64> = replay.map(|message| message.unwrap().sequence).collect();
            assert_eq!(salvaged, [1, 2]);
        }
        let report = verify(&store);
        assert_eq!(report.sessions, whole_sessions);
        assert!(
            report
                .problems
                .iter()
                .all(|p| p.kind != ProblemKind::Listing)
        );
        store.capacity_report().unwrap();
        compact(&store);
        assert_eq!(store.totals().unwrap().segments, whole_sessions);
        let in_one = |directory: &str| {
            let filter = SessionFilter {
                working_directory: Some(directory.to_owned()),
                ..SessionFilter::default()
            };
            store.sessions(&filter).unwrap().sessions.len()
        };
        assert!(in_one("/project/3") > 10);
        assert_eq!(in_one("/project/3/"), in_one("/project/3"));
    }
}

#[test]
fn a_damaged_page_of_session_ids_hides_no_session() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let ids = many_sessions(&path);
    damage(&path, IDS_OF_SESSIONS);
    let store = open(&path);
    let list = listed(&store);
    assert_eq!((list.total, list.damaged.len()), (200, 0));
    for session in &ids {
        assert_eq!(good_and_bad(&store, session), (vec![1, 2], 0));
        assert_eq!(store.session(&id(session)).unwrap().messages, 2);
    }
    assert_eq!(verify(&store).sessions, 200);
    compact(&store);
    assert_eq!(store.totals().unwrap().segments, 200);
}

#[test]
fn where_neither_rows_nor_ids_can_be_read_the_check_says_that_not_all_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    many_sessions(&path);
    damage(&path, ROWS_OF_SESSIONS);
    damage(&path, IDS_OF_SESSIONS);
    let store = open(&path);
    let list = listed(&store);
    assert!(list.sessions.len() > 150, "{}", list.sessions.len());
    assert!(list.damaged.iter().any(|session| session.id.is_none()));
    let report = verify(&store);
    assert!(
        report
            .problems
            .iter()
            .any(|p| p.kind == ProblemKind::Listing)
    );
    assert_eq!(report.sessions, list.sessions.len() as u64);
}

#[test]
fn a_session_whose_last_page_is_damaged_is_salvaged_up_to_that() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    store(&path);
    let last_leaf = "SELECT pageno FROM dbstat WHERE name = 'hot_messages' AND pagetype = 'leaf'
        ORDER BY path DESC LIMIT 1";
    damage(&path, last_leaf);
    let store = read_only(&path);
    let (readable, bad) = good_and_bad(&store, "whole");
    assert!(bad > 0 && readable.len() > 25, "{readable:?}");
    let salvaged = store.salvage(&id("whole"), ReadRange::all()).unwrap();
    let salvaged: Vec<_> = salvaged.flatten().map(|m| m.sequence).collect();
    assert_eq!(salvaged, readable);
}

fn read_only(path: &Path) -> Store {
    Store::open_read_only(path, StoreOptions::default()).unwrap()
}

/// Shortens the file by so many bytes, and says what it is then.
fn cut_off(path: &Path, bytes: u64) -> String {
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let whole = file.metadata().unwrap().len();
    file.set_len(whole - bytes).unwrap();
    let (there, pages) = ((whole - bytes) / PAGE_BYTES, whole / PAGE_BYTES);
    format!("the file is cut off: {there} of its {pages} pages are there")
}

#[test]
fn what_is_left_of_a_file_that_is_cut_off_is_read_and_nothing_is_written_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    // A part of a page, one, a few, and a third of all.
    for bytes in [1000, PAGE_BYTES, 7 * PAGE_BYTES, 100 * PAGE_BYTES + 1] {
        let _ = std::fs::remove_file(&path);
        store(&path);
        let what = cut_off(&path, bytes);
        let left = std::fs::read(&path).unwrap();
        let store = read_only(&path);
        let beside = read_only(&path);
        let list = beside.sessions(&SessionFilter::default()).unwrap();
        assert_eq!(list.sessions.len(), 2, "{what}");
        let mut readable = 0;
        for session in ["bad", "whole"] {
            for message in store.read(&id(session), ReadRange::all()).unwrap() {
                match message {
                    Ok(message) => {
                        let at = usize::try_from(message.sequence).unwrap() - 1;
                        assert_eq!(message.payload, long_lines(50)[at], "{what}");
                        readable += 1;
                    }
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{error}"),
                }
            }
        }
        // Each takes three pages.
        let lost_max = usize::try_from(bytes / PAGE_BYTES).unwrap() / 2 + 2;
        assert!(readable + lost_max >= 100, "{readable} after {what}");
        let report = verify(&store);
        let named = |problem: &betcode_storage::Problem| problem.what == what;
        assert!(report.problems.iter().any(named), "{report:?}");
        let copy = folder.path().join("copy.db");
        let copied = store.backup(&copy, &mut |_| ControlFlow::Continue(()));
        assert!(
            matches!(copied, Err(StoreError::CutOff { .. })),
            "{copied:?}"
        );
        let restored =
            betcode_storage::restore(&path, &copy, false, &mut |_| ControlFlow::Continue(()));
        assert!(
            matches!(restored, Err(StoreError::CutOff { .. })),
            "{restored:?}"
        );
        assert!(!copy.exists());
        drop((store, beside));
        let refused = Store::open(&path, StoreOptions::default()).unwrap_err();
        assert!(matches!(refused, StoreError::CutOff { .. }), "{refused}");
        assert_eq!(refused.kind(), ErrorKind::Damaged);
        assert!(refused.to_string().contains(&what), "{refused}");
        assert!(refused.hint().unwrap().contains("salvage"));
        assert!(std::fs::read(&path).unwrap() == left, "{what}, and altered");
        let beside = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(beside, 1, "something was left beside it");
    }
}

#[test]
fn a_file_cut_off_before_its_tables_begin_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    store(&path);
    let whole = std::fs::read(&path).unwrap();
    let mut opened = 0;
    for pages in 1..30 {
        std::fs::write(&path, &whole).unwrap();
        let what = cut_off(&path, whole.len() as u64 - pages * PAGE_BYTES);
        let store = match Store::open_read_only(&path, StoreOptions::default()) {
            Ok(store) => store,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
                assert!(error.to_string().contains(&what), "{error}");
                continue;
            }
        };
        opened += 1;
        if let Err(error) = store.sessions(&SessionFilter::default()) {
            assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        }
        let report = verify(&store);
        assert_eq!(report.problems[0].what, what, "{report:?}");
    }
    assert!(opened > 0, "never opened");
}

/// A process killed amid a checkpoint leaves a file shorter than it says, and the rest in its log.
#[test]
fn a_file_whose_log_has_the_rest_is_not_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("h.db"), folder.path().join("copy.db"));
    let live = open(&path);
    let append = |n| {
        let batch = Batch::new(id(&format!("s{n}")), long_lines(20));
        live.append(batch).unwrap();
    };
    append(0);
    let beside = rusqlite::Connection::open(&path).unwrap();
    let checkpoint = || {
        beside
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .unwrap();
    };
    checkpoint();
    let before = std::fs::metadata(&path).unwrap().len();
    append(1);
    std::fs::copy(
        folder.path().join("h.db-wal"),
        folder.path().join("copy.db-wal"),
    )
    .unwrap();
    checkpoint();
    std::fs::copy(&path, &copy).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&copy).unwrap();
    file.set_len(before).unwrap();
    let store = read_only(&copy);
    let report = verify(&store);
    assert!(report.ok() && report.messages == 40, "{report:?}");
    drop(store);
    let store = open(&copy);
    assert_eq!(good_and_bad(&store, "s1").0.len(), 20);
}
