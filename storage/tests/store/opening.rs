//! Which files are opened as stores, and what opening does to them.

use super::*;

#[test]
fn what_a_store_has_beside_its_file_is_beside_the_file_and_not_beside_a_link_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let disk = folder.path().join("disk");
    std::fs::create_dir(&disk).unwrap();
    let (file, link) = (disk.join("h.db"), folder.path().join("link.db"));
    std::os::unix::fs::symlink("between.db", &link).unwrap();
    std::os::unix::fs::symlink("disk/h.db", folder.path().join("between.db")).unwrap();

    let store = Store::open(&link, StoreOptions::default()).unwrap();
    store.append(batch("s", &[b"one"])).unwrap();
    assert_eq!(store.path(), file);
    let mut beside_the_link: Vec<_> = std::fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    beside_the_link.sort();
    assert_eq!(beside_the_link, ["between.db", "disk", "link.db"]);
    assert!(disk.join("h.db-wal").exists() && disk.join("h.db-reserve").exists());

    // The log counts, also where it cannot be written.
    let reader = Store::open_read_only(&link, small_reserve()).unwrap();
    assert!(reader.space().unwrap().wal_bytes > 0);
    assert_eq!(contents(&reader, "s"), ["one"]);
}

#[test]
fn foreign_files_are_refused_and_left_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    for content in [&b"just some notes"[..], &[b'x'; 4096]] {
        std::fs::write(&path, content).unwrap();
        let refused = Store::open(&path, small_reserve()).unwrap_err();
        assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), content);
    }
    assert_eq!(
        std::fs::read_dir(folder.path()).unwrap().count(),
        1,
        "nothing was left beside it"
    );
}

#[test]
fn a_database_of_another_program_is_refused_before_anything_in_it_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .execute_batch(
            "PRAGMA auto_vacuum = FULL; PRAGMA journal_mode = WAL; CREATE TABLE t (x);
             PRAGMA wal_checkpoint(TRUNCATE); INSERT INTO t VALUES ('in the log');",
        )
        .unwrap();
    let log = folder.path().join("other.db-wal");
    // As it is when that program is killed.
    let (main, logged) = (std::fs::read(&path).unwrap(), std::fs::read(&log).unwrap());
    drop(other);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, &main).unwrap();
    std::fs::write(&log, &logged).unwrap();
    for _ in 0..2 {
        let refused = Store::open(&path, small_reserve()).unwrap_err();
        assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
        assert!(std::fs::read(&path).unwrap() == main);
        assert!(std::fs::read(&log).unwrap() == logged);
    }
}

#[test]
fn a_missing_store_cannot_be_opened_for_reading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.db");
    let refused = Store::open_read_only(&path, small_reserve()).unwrap_err();
    assert!(matches!(refused, StoreError::Missing { .. }), "{refused}");
    assert!(!path.exists());
}

#[cfg(unix)]
#[test]
fn files_are_private_from_birth() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sub/history.db");
    let store = Store::open(&path, StoreOptions::default()).unwrap();
    store.append(batch("s", &[b"secret"])).unwrap();
    let mode =
        |path: &std::path::Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for entry in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[test]
fn a_reader_changes_nothing_of_what_a_killed_writer_left() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.append(batch("s", &[b"one", b"two"])).unwrap();
    // While the log has not been moved, the files are as a kill leaves them.
    let at = |name: &str| folder.path().join(name);
    let (main, log) = (at("left.db"), at("left.db-wal"));
    std::fs::copy(at("history.db"), &main).unwrap();
    std::fs::copy(at("history.db-wal"), &log).unwrap();
    let left = || [&main, &log].map(|file| std::fs::read(file).unwrap());
    let before = left();
    assert!(!before[1].is_empty());
    let reader = Store::open_read_only(&main, small_reserve()).unwrap();
    assert_eq!(contents(&reader, "s"), ["one", "two"]);
    let verified = reader.verify(&mut |_| std::ops::ControlFlow::Continue(()));
    assert!(verified.unwrap().ok());
    drop(reader);
    assert!(left() == before, "the file and its log are as they were");

    let writer = Store::open(&main, small_reserve()).unwrap();
    writer.append(batch("s", &[b"three"])).unwrap();
    assert_eq!(contents(&writer, "s"), ["one", "two", "three"]);
}

#[test]
fn a_reader_that_ended_leaves_no_file_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.append(batch("s", &[b"one", b"two"])).unwrap();
    store.close().unwrap();
    let path = folder.path().join("history.db");
    // What a thread in the background still had to close would stay now and then.
    for round in 0..200 {
        let reader = Store::open_read_only(&path, small_reserve()).unwrap();
        assert_eq!(contents(&reader, "s"), ["one", "two"]);
        drop(reader);
        for suffix in ["-wal", "-shm"] {
            let left = folder.path().join(format!("history.db{suffix}"));
            assert!(!left.exists(), "{suffix} is there after reader {round}");
        }
    }
}

#[test]
fn a_file_in_which_no_store_has_been_made_yet_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    // As an opening leaves it that has come no further.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA page_size = 4096; PRAGMA auto_vacuum = 2; PRAGMA journal_mode = WAL")
        .unwrap();
    drop(connection);
    let opened = Store::open_read_only(&path, StoreOptions::default());
    assert!(
        matches!(opened, Err(StoreError::Missing { .. })),
        "{opened:?}"
    );
}

#[test]
fn a_new_store_says_by_its_own_clock_when_it_was_created() {
    let folder = tempfile::tempdir().unwrap();
    let options = StoreOptions {
        clock: Arc::new(ManualClock::at(1_234_567_890)),
        ..small_reserve()
    };
    let store = Store::open(&folder.path().join("h.db"), options).unwrap();
    assert_eq!(store.totals().unwrap().created_ms, 1_234_567_890);
}

#[test]
fn a_store_whose_pages_another_program_has_made_smaller_is_refused_for_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = Store::open(&path, small_reserve()).unwrap();
    store.append(batch("s", &[b"one"])).unwrap();
    store.close().unwrap();
    let set_page_bytes = |bytes: u32| {
        let connection = rusqlite::Connection::open(&path).unwrap();
        let sql = format!("PRAGMA journal_mode = DELETE; PRAGMA page_size = {bytes}; VACUUM");
        connection.execute_batch(&sql).unwrap();
    };
    for (bytes, shown) in [(1024, "1,024 bytes"), (65_536, "65,536 bytes")] {
        set_page_bytes(bytes);
        let before = std::fs::read(&path).unwrap();
        for open in [Store::open, Store::open_read_only] {
            let refused = open(&path, small_reserve()).unwrap_err();
            assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
            assert!(refused.to_string().contains(shown), "{refused}");
        }
        assert_eq!(std::fs::read(&path).unwrap(), before);
    }
    set_page_bytes(4096);
    let store = Store::open(&path, small_reserve()).unwrap();
    assert_eq!(contents(&store, "s"), ["one"]);
}

#[test]
fn a_store_that_a_newer_build_migrates_meanwhile_is_read_and_not_written_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    store.append(batch("s", &[b"one"])).unwrap();
    let other = rusqlite::Connection::open(store.path()).unwrap();
    let known: i64 = other
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .unwrap();
    let set_format = |format: i64| other.pragma_update(None, "user_version", format).unwrap();
    set_format(known + 1);
    let refusals = [
        store.append(batch("s", &[b"two"])).err(),
        store.rename(&id("s"), "named").err(),
        store.delete(&id("s")).err(),
        store.probe().err(),
    ];
    for refused in refusals {
        let refused = refused.unwrap();
        assert!(
            matches!(&refused, StoreError::Newer { found, .. } if *found == known + 1),
            "{refused}"
        );
    }
    assert_eq!(contents(&store, "s"), ["one"]);
    set_format(known);
    store.append(batch("s", &[b"two"])).unwrap();
    assert_eq!(contents(&store, "s"), ["one", "two"]);
}
