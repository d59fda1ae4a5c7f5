use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::message::Batch;
use crate::open_files;
use crate::store::Store;

/// For ever on any machine.
const TEST_WAIT_MAX: Duration = Duration::from_secs(60);

/// A store without a reserve, unless `reserve_bytes` says so.
fn open(folder: &tempfile::TempDir, reserve_bytes: u64) -> Store {
    let options = StoreOptions {
        reserve_bytes,
        ..StoreOptions::default()
    };
    Store::open(&folder.path().join("h.db"), options).unwrap()
}

fn batch(text: &'static str) -> Batch {
    Batch::new(
        "s".parse().unwrap(),
        vec![Bytes::from_static(text.as_bytes())],
    )
}

#[test]
fn a_file_counts_as_open_as_long_as_the_writer_has_it_open() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 0);
    let path = store.path().to_owned();
    let (handle, handed) = mpsc::channel::<Store>();
    let (answer, answered) = mpsc::channel();
    let at = path.clone();
    let done = move |result: Result<Appended>| {
        result.unwrap();
        // The last handle goes on the writer's own thread, which still has its connection.
        drop(handed.recv().unwrap());
        answer.send(open_files::is_open(&at)).unwrap();
    };
    store.append_then(batch("a"), TEST_WAIT_MAX, done).unwrap();
    handle.send(store).unwrap();
    assert!(answered.recv_timeout(TEST_WAIT_MAX).unwrap());
    betcode_test_support::wait_for("closing", || open_files::is_open(&path), |is_open| !is_open);
}

#[test]
fn a_callback_that_panics_while_the_writer_ends_leaves_nobody_without_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 0);
    let (go, gone) = mpsc::channel::<()>();
    let panics = move |_: Result<Appended>| {
        gone.recv().unwrap();
        panic!("the first callback");
    };
    store
        .append_then(batch("a"), TEST_WAIT_MAX, panics)
        .unwrap();
    while store.inner.readers.get().is_ok() && store.totals().unwrap().messages == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let panics = |_: Result<Appended>| panic!("the second callback");
    store
        .append_then(batch("b"), TEST_WAIT_MAX, panics)
        .unwrap();
    let (answer, answered) = mpsc::channel();
    let send = move |result: Result<Appended>| answer.send(result).unwrap();
    store.append_then(batch("c"), TEST_WAIT_MAX, send).unwrap();
    go.send(()).unwrap();
    let refused = answered.recv_timeout(TEST_WAIT_MAX).unwrap().unwrap_err();
    assert!(matches!(refused, StoreError::Closed { .. }), "{refused}");
    assert!(
        refused.to_string().contains("was not recorded"),
        "{refused}"
    );
}

#[test]
fn a_callback_that_calls_the_store_is_refused_instead_of_waiting_for_itself() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 0);
    let (answer, answered) = mpsc::channel();
    let own = store.clone();
    let done = move |_: Result<Appended>| {
        let _ = answer.send(own.append(batch("b")).map(drop));
        let _ = answer.send(own.rename(&"s".parse().unwrap(), "name"));
    };
    store.append_then(batch("a"), TEST_WAIT_MAX, done).unwrap();
    for _ in 0..2 {
        let refused = answered.recv_timeout(Duration::from_secs(10)).unwrap();
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
        assert!(refused.to_string().contains("callback"), "{refused}");
    }
    // To queue something is no waiting.
    let own = store.clone();
    let (answer, answered) = mpsc::channel();
    let done = move |_: Result<Appended>| {
        let send = move |result: Result<Appended>| answer.send(result).unwrap();
        own.append_then(batch("d"), TEST_WAIT_MAX, send).unwrap();
    };
    store.append_then(batch("c"), TEST_WAIT_MAX, done).unwrap();
    answered.recv_timeout(TEST_WAIT_MAX).unwrap().unwrap();
}

#[test]
fn a_refused_append_is_not_taken_for_one_that_compaction_makes_way_for() {
    let folder = tempfile::tempdir().unwrap();
    let began = Instant::now();
    let store = open(&folder, 0);
    let refused = store.append(Batch {
        expected_sequence: Some(7),
        ..batch("a")
    });
    refused.unwrap_err();
    let is_appended_to = || {
        let writer = store.writer().unwrap();
        let asked = writer.run(move |context| Ok(context.is_appended_to_since(began)));
        asked.unwrap()
    };
    assert!(!is_appended_to());
    store.append(batch("a")).unwrap();
    assert!(is_appended_to());
}

#[test]
fn a_log_that_a_reader_holds_is_not_said_to_be_truncated() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 0);
    store.append(batch("a")).unwrap();
    let reader = store.inner.readers.get().unwrap();
    let snapshot = reader.unchecked_transaction().unwrap();
    sql::totals::read(&snapshot).unwrap();
    store.append(batch("b")).unwrap();
    let writer = store.writer().unwrap();
    let truncated = || writer.run(|context| Ok(context.truncate_log())).unwrap();
    assert!(!truncated());
    drop(snapshot);
    assert!(truncated());
}

/// Work that finds no room, whatever is given up for it.
fn find_no_room(_: &Db, _: &Connection) -> Result<()> {
    Err(StoreError::DiskFull {
        path: "h.db".into(),
        why: "a test".into(),
    })
}

#[test]
fn only_work_that_makes_room_gives_the_reserve_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 1 << 20);
    let writer = store.writer().unwrap();
    let held = |context: &mut WriterContext| context.reserve.held_bytes();
    let small = writer.run(move |context| {
        let done = context.write_without_reserve("a test", find_no_room);
        Ok((done.is_err(), held(context)))
    });
    assert_eq!(small.unwrap(), (true, Some(1 << 20)));
    let big = writer.run(move |context| {
        let done = context.maintain("a test", find_no_room);
        Ok((done.is_err(), held(context)))
    });
    assert_eq!(big.unwrap(), (true, Some(0)));
}

#[test]
fn closing_tells_of_a_log_that_could_not_be_moved() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 0);
    store.append(batch("a")).unwrap();
    // SQLite moves no log within a transaction.
    let begin = |context: &mut WriterContext| {
        context.connection.execute_batch("BEGIN IMMEDIATE").unwrap();
        Ok(())
    };
    store.writer().unwrap().run(begin).unwrap();
    let path = store.path().to_owned();
    store.close().unwrap_err();
    let again = Store::open(&path, StoreOptions::default()).unwrap();
    assert_eq!(again.totals().unwrap().messages, 1);
    again.close().unwrap();
}

/// Tidies up as an idle writer does; whether nothing is left to do.
fn tidy(store: &Store) -> bool {
    let writer = store.writer().unwrap();
    writer.run(|context| Ok(context.tidy_when_idle())).unwrap()
}

#[test]
fn an_idle_writer_has_nothing_to_do_once_the_log_is_in_the_main_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 1 << 20);
    store.append(batch("a")).unwrap();
    let reader = rusqlite::Connection::open(store.path()).unwrap();
    reader.execute_batch("BEGIN; SELECT * FROM store").unwrap();
    store.append(batch("b")).unwrap();
    assert!(!tidy(&store), "the reader still needs the log");
    reader.execute_batch("COMMIT").unwrap();
    assert!(tidy(&store));
    store.append(batch("c")).unwrap();
    assert!(tidy(&store));
    std::fs::write(folder.path().join("h.db-reserve"), "").unwrap();
    assert!(tidy(&store), "the reserve that was given up is back");
}

#[test]
fn the_level_follows_a_change_of_the_limits_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder, 0);
    let line = Bytes::from(vec![b'x'; 2 << 20]);
    store
        .append(Batch::new("s".parse().unwrap(), vec![line]))
        .unwrap();
    while !tidy(&store) {}
    std::thread::sleep(Duration::from_millis(2 * crate::limits::WRITER_IDLE_MS_MIN));
    let limits = crate::options::SizeLimits {
        db_bytes_max: 2_000_000,
        ..store.limits()
    };
    store.set_limits(limits).unwrap();
    let due = Instant::now() + Duration::from_millis(crate::limits::WRITER_TIDY_AGAIN_MS / 2);
    while store.level() == crate::capacity::levels::Level::Ok {
        assert!(Instant::now() < due, "it did not follow");
        std::thread::sleep(Duration::from_millis(1));
    }
}
