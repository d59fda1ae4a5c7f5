//! Copies of a store, and what stands in their way.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use betcode_schema_sql::{APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION};
use betcode_storage::{
    BackupReport, Batch, ErrorKind, ReadRange, SessionId, Store, StoreError, StoreOptions, restore,
};
use bytes::Bytes;

fn open(path: &Path) -> Store {
    let options = StoreOptions {
        reserve_bytes: 64 << 10,
        ..StoreOptions::default()
    };
    Store::open(path, options).unwrap()
}

fn record(store: &Store, session: &str, messages: u64) {
    let id: SessionId = session.parse().unwrap();
    let lines =
        (0..messages).map(|n| Bytes::from(format!("{{\"n\":{n},\"session\":\"{session}\"}}")));
    store.append(Batch::new(id, lines.collect())).unwrap();
}

fn count(store: &Store, session: &str) -> usize {
    let id: SessionId = session.parse().unwrap();
    store
        .read(&id, ReadRange::all())
        .unwrap()
        .map(Result::unwrap)
        .count()
}

fn backup(store: &Store, to: &Path) -> Result<BackupReport, StoreError> {
    store.backup(to, &mut |_| ControlFlow::Continue(()))
}

fn put_back(copy: &Path, to: &Path, replace: bool) -> Result<BackupReport, StoreError> {
    restore(copy, to, replace, &mut |_| ControlFlow::Continue(()))
}

/// A backup of one store, and beside `history.db`, which is not there, the log of another one
/// that was never moved into its main file.
fn backup_and_stray_log(folder: &Path) -> (PathBuf, PathBuf, Vec<u8>) {
    let copy = folder.join("copy.db");
    let source = open(&folder.join("source.db"));
    record(&source, "kept", 100);
    backup(&source, &copy).unwrap();
    let other = folder.join("other.db");
    let store = open(&other);
    record(&store, "lost", 2000);
    let log = fs::read(folder.join("other.db-wal")).unwrap();
    assert!(!log.is_empty());
    // As it is without its log.
    fs::copy(&other, folder.join("other.main")).unwrap();
    let to = folder.join("history.db");
    fs::write(folder.join("history.db-wal"), &log).unwrap();
    (copy, to, log)
}

#[test]
fn the_log_of_a_lost_database_does_not_get_into_what_is_restored_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (copy, to, log) = backup_and_stray_log(folder.path());
    let refused = put_back(&copy, &to, false).unwrap_err();
    assert!(matches!(refused, StoreError::StrayLog { .. }), "{refused}");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(!to.exists());

    let restored = put_back(&copy, &to, true).unwrap();
    let aside = restored.moved_aside.unwrap();
    assert_eq!(fs::read(aside).unwrap(), log);
    let store = open(&to);
    assert_eq!(count(&store, "kept"), 100);
    let report = store.verify(&mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.ok(), "{:?}", report.problems);
}

#[test]
fn a_backup_is_not_put_beside_the_log_of_another_database() {
    let folder = tempfile::tempdir().unwrap();
    let (copy, to, log) = backup_and_stray_log(folder.path());
    let store = open(&copy);
    let refused = backup(&store, &to).unwrap_err();
    assert!(matches!(refused, StoreError::StrayLog { .. }), "{refused}");
    assert_eq!(fs::read(folder.path().join("history.db-wal")).unwrap(), log);
}

#[test]
fn nothing_is_put_where_another_database_has_its_own_files() {
    let folder = tempfile::tempdir().unwrap();
    let (main, copy) = (folder.path().join("s.db"), folder.path().join("copy.db"));
    let store = open(&main);
    record(&store, "s", 10);
    backup(&store, &copy).unwrap();
    for suffix in ["-wal", "-shm", "-journal", "-reserve", "-daemon.lock"] {
        let name = folder.path().join(format!("s.db{suffix}"));
        let before = fs::read(&name).ok();
        let refused = [
            backup(&store, &name).unwrap_err(),
            put_back(&copy, &name, true).unwrap_err(),
            Store::open(&name, StoreOptions::default()).unwrap_err(),
        ];
        for error in refused {
            let refused = error.kind() == ErrorKind::Invalid || before.is_some();
            assert!(refused, "{suffix}: {error}");
        }
        // Reading is refused as well, but changes nothing.
        assert!(Store::open_read_only(&name, StoreOptions::default()).is_err());
        assert!(fs::read(&name).ok() == before, "{suffix} is as it was");
    }
    // Without such a database it is a name like any other.
    record(&open(&folder.path().join("other-wal")), "s", 1);
    assert_eq!(count(&store, "s"), 10);
}

#[test]
fn a_backup_does_not_get_the_name_of_a_copy_under_way_which_the_next_one_would_delete() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("s.db"));
    record(&store, "s", 10);
    let name = folder.path().join("s.db.partial");
    assert_eq!(
        backup(&store, &name).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    let opened = Store::open(&name, StoreOptions::default());
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Invalid);
    assert!(!name.exists());
}

#[test]
fn a_database_is_not_restored_from_itself() {
    let folder = tempfile::tempdir().unwrap();
    let main = folder.path().join("s.db");
    let store = open(&main);
    record(&store, "s", 10);
    drop(store);
    let (dotted, linked) = (
        folder.path().join("./s.db"),
        folder.path().join("linked.db"),
    );
    fs::hard_link(&main, &linked).unwrap();
    for same in [&main, &dotted, &linked] {
        let refused = put_back(same, &main, true).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
    }
    assert_eq!(count(&open(&main), "s"), 10);
}

#[test]
fn a_new_store_does_not_delete_the_log_of_one_that_was_moved_away() {
    let folder = tempfile::tempdir().unwrap();
    let (_, to, log) = backup_and_stray_log(folder.path());
    let refused = Store::open(&to, StoreOptions::default()).unwrap_err();
    assert!(matches!(refused, StoreError::StrayLog { .. }), "{refused}");
    assert_eq!(fs::read(folder.path().join("history.db-wal")).unwrap(), log);
    assert!(!to.exists());
}

#[test]
fn a_database_moved_aside_takes_its_log_along_and_nobody_uses_it_without() {
    let folder = tempfile::tempdir().unwrap();
    let (copy, to, log) = backup_and_stray_log(folder.path());
    let (aside, moved_log) = (
        folder.path().join("history.db.replaced"),
        folder.path().join("history.db.replaced-wal"),
    );
    fs::copy(folder.path().join("other.main"), &to).unwrap();
    assert_eq!(put_back(&copy, &to, true).unwrap().moved_aside, Some(aside));
    assert_eq!(fs::read(&moved_log).unwrap(), log);

    // As a crash in between leaves it: the main file is aside already, the log is not.
    fs::remove_file(&to).unwrap();
    fs::rename(&moved_log, folder.path().join("history.db-wal")).unwrap();
    let refused = Store::open(&to, StoreOptions::default()).unwrap_err();
    assert!(matches!(refused, StoreError::StrayLog { .. }), "{refused}");
    let stray = put_back(&copy, &to, true).unwrap().moved_aside.unwrap();
    assert_eq!(count(&open(&to), "kept"), 100);
    fs::rename(stray, moved_log).unwrap();
    let aside = folder.path().join("history.db.replaced");
    assert_eq!(count(&open(&aside), "lost"), 2000);
}

#[test]
fn a_database_is_not_moved_beside_the_log_of_one_moved_aside_before() {
    let folder = tempfile::tempdir().unwrap();
    let (copy, to, log) = backup_and_stray_log(folder.path());
    // Of a store that was moved aside only the log is left.
    let stray = folder.path().join("history.db.replaced-wal");
    fs::rename(folder.path().join("history.db-wal"), &stray).unwrap();
    fs::copy(folder.path().join("other.main"), &to).unwrap();
    let store = open(&to);
    record(&store, "since", 300);
    store.close().unwrap();
    let aside = put_back(&copy, &to, true).unwrap().moved_aside.unwrap();
    let store = open(&aside);
    assert_eq!(count(&store, "since"), 300);
    let report = store.verify(&mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.ok(), "{:?}", report.problems);
    assert_eq!(fs::read(stray).unwrap(), log);
}

#[test]
fn a_copy_that_is_ended_leaves_nothing_and_what_a_killed_one_left_is_no_obstacle() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("history.db"));
    record(&store, "s", 5000);
    let copy = folder.path().join("copy.db");
    let refused = store
        .backup(&copy, &mut |_| ControlFlow::Break(()))
        .unwrap_err();
    assert!(matches!(refused, StoreError::Cancelled), "{refused}");
    let left: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("copy.db"))
        .collect();
    assert!(left.is_empty(), "{left:?}");

    let whole = folder.path().join("whole.db");
    backup(&store, &whole).unwrap();
    let mut unfinished = fs::read(&whole).unwrap();
    // The first page is written last.
    unfinished[..4096].fill(0);
    for left in [unfinished, fs::read(&whole).unwrap(), Vec::new()] {
        fs::write(folder.path().join("copy.db.partial"), left).unwrap();
        fs::write(folder.path().join("copy.db.partial-journal"), b"half of it").unwrap();
        assert_eq!(backup(&store, &copy).unwrap().messages, 5000);
        assert!(!folder.path().join("copy.db.partial-journal").exists());
        fs::remove_file(&copy).unwrap();
    }
}

#[test]
fn a_file_of_somebody_else_that_stands_where_the_copy_is_made_is_not_removed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("history.db"));
    record(&store, "s", 100);
    let theirs = folder.path().join("movie.partial");
    for content in [
        &b"half of a movie"[..],
        &[0; 100],
        &[0; 3 * 4096],
        &[7; 9000],
    ] {
        fs::write(&theirs, content).unwrap();
        let refused = backup(&store, &folder.path().join("movie")).unwrap_err();
        assert!(
            matches!(&refused, StoreError::FileExists { path } if *path == theirs),
            "{refused}"
        );
        assert_eq!(fs::read(&theirs).unwrap(), content);
    }
}

#[test]
fn a_store_is_copied_to_a_name_that_is_not_utf_8_and_migrated_under_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("history.db"));
    record(&store, "s", 100);
    let to = folder.path().join(OsStr::from_bytes(b"copy-\xff.db"));
    assert_eq!(backup(&store, &to).unwrap().messages, 100);
    assert_eq!(count(&open(&to), "s"), 100);

    let old = folder.path().join(OsStr::from_bytes(b"old-\xff.db"));
    drop(store_of_format_1(&old));
    let store = open(&old);
    record(&store, "new", 5);
    assert_eq!(count(&store, "new"), 5);
    let kept = folder
        .path()
        .join(OsStr::from_bytes(b"old-\xff.db.v1.backup"));
    assert!(kept.exists());
}

#[test]
fn a_second_copy_to_the_same_place_is_refused_and_leaves_the_first_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("history.db"));
    record(&store, "s", 500);
    let to = folder.path().join("copy.db");
    let mut second = None;
    let report = store
        .backup(&to, &mut |_| {
            second.get_or_insert_with(|| backup(&store, &to));
            ControlFlow::Continue(())
        })
        .unwrap();
    let refused = second.unwrap().unwrap_err();
    assert!(matches!(refused, StoreError::Busy { .. }), "{refused}");
    assert_eq!(report.messages, 500);
    assert_eq!(count(&open(&to), "s"), 500);
    assert!(!folder.path().join("copy.db.partial").exists());
}

#[test]
fn a_copy_that_another_process_begins_meanwhile_is_not_taken_for_the_one_that_was_checked() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("history.db"));
    record(&store, "s", 500);
    let to = folder.path().join("copy.db");
    let partial = folder.path().join("copy.db.partial");
    let busy = store
        .backup(&to, &mut |progress| {
            if progress.messages_done > 0 {
                // As a copy begins.
                fs::remove_file(&partial).unwrap();
                fs::write(&partial, "").unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap_err();
    assert!(matches!(busy, StoreError::Busy { .. }), "{busy}");
    assert!(!to.exists());
    assert!(partial.exists(), "it is the other process's");
}

#[test]
fn a_restore_whose_copy_is_taken_away_leaves_the_database_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (copy, to) = (folder.path().join("copy.db"), folder.path().join("h.db"));
    let source = open(&folder.path().join("source.db"));
    record(&source, "kept", 100);
    backup(&source, &copy).unwrap();
    let store = open(&to);
    record(&store, "there", 200);
    store.close().unwrap();
    let refused = restore(&copy, &to, true, &mut |progress| {
        let partial = folder.path().join("h.db.partial");
        if progress.messages_done > 0 && partial.exists() {
            fs::remove_file(partial).unwrap();
        }
        ControlFlow::Continue(())
    })
    .unwrap_err();
    assert!(matches!(refused, StoreError::Busy { .. }), "{refused}");
    assert_eq!(count(&open(&to), "there"), 200);
}

/// A store of format 1 at `path`, with sessions that have no messages.
fn store_of_format_1(path: &Path) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .execute_batch(&format!(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; {}
             PRAGMA application_id = {}; PRAGMA user_version = 1;",
            MIGRATIONS[0].sql, APPLICATION_ID
        ))
        .unwrap();
    add_session(&connection, "first", 1);
    connection
}

fn add_session(connection: &rusqlite::Connection, session: &str, now_ms: i64) {
    let add = "INSERT INTO sessions (session_id, created_ms, updated_ms) VALUES (?1, ?2, ?2)";
    connection
        .execute(add, rusqlite::params![session, now_ms])
        .unwrap();
    connection
        .execute("UPDATE store SET sessions = sessions + 1", [])
        .unwrap();
}

#[test]
fn what_was_written_since_an_earlier_copy_is_copied_before_a_migration_as_well() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let sessions_of = |copy: &str| {
        let connection = rusqlite::Connection::open(folder.path().join(copy)).unwrap();
        let format: u32 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .unwrap();
        let sessions: u32 = connection
            .query_row("SELECT count(*) FROM sessions", [], |row| row.get(0))
            .unwrap();
        (format, sessions)
    };
    let copies = || {
        let entries = fs::read_dir(folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".backup")).count()
    };
    // An attempt that ended before the migration, and after it the older program for a while.
    let connection = store_of_format_1(&path);
    let vacuum = format!("VACUUM INTO '{}.v1.backup'", path.display());
    connection.execute_batch(&vacuum).unwrap();
    add_session(&connection, "since", 2);
    drop(connection);
    drop(open(&path));
    assert_eq!(sessions_of("history.db.v1.backup"), (1, 1));
    assert_eq!(sessions_of("history.db.v1-2.backup"), (1, 2));

    // A copy that has everything is not made again.
    for name in ["history.db", "history.db-wal", "history.db-shm"] {
        let _ = fs::remove_file(folder.path().join(name));
    }
    fs::copy(folder.path().join("history.db.v1-2.backup"), &path).unwrap();
    drop(open(&path));
    assert_eq!((sessions_of("history.db").0, copies()), (SCHEMA_VERSION, 2));
}

#[test]
fn whichever_table_is_damaged_a_check_lists_it_and_comes_to_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let store = open(&path);
    for session in ["a", "b", "c"] {
        record(&store, session, 500);
    }
    store.close().unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    let roots: Vec<(String, u32)> = connection
        .prepare("SELECT name, rootpage FROM sqlite_schema WHERE rootpage > 1")
        .unwrap()
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let page: u32 = connection
        .pragma_query_value(None, "page_size", |row| row.get(0))
        .unwrap();
    drop(connection);
    assert!(roots.len() > 5, "{roots:?}");
    let whole = fs::read(&path).unwrap();
    let damaged = folder.path().join("damaged.db");
    for (name, root) in roots {
        let mut bytes = whole.clone();
        bytes[((root - 1) * page) as usize..][..8].fill(0xff);
        fs::write(&damaged, bytes).unwrap();
        let store = match Store::open_read_only(&damaged, StoreOptions::default()) {
            Ok(store) => store,
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Damaged, "{name}: {error}");
                continue;
            }
        };
        let report = store
            .verify(&mut |_| ControlFlow::Continue(()))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(!report.ok(), "{name}");
    }
}

#[test]
fn a_restored_store_has_its_log_again_and_gives_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    record(&open(&path), "s", 500);
    // As a file that other tools have rewritten may be.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = 0; VACUUM")
        .unwrap();
    drop(connection);
    let settings = Store::open_read_only(&path, StoreOptions::default())
        .and_then(|store| store.file_settings())
        .unwrap();
    assert!(!settings.gives_space_back && !settings.write_ahead_log);

    let copy = folder.path().join("copy.db");
    backup(&open(&path), &copy).unwrap();
    put_back(&copy, &path, true).unwrap();
    let settings = open(&path).file_settings().unwrap();
    assert!(settings.gives_space_back && settings.write_ahead_log);
    assert_eq!(count(&open(&path), "s"), 500);
}
