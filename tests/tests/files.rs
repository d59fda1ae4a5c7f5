//! Files that are not a store, or not ours to change: named, and left as they are.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use betcode_storage::{Batch, ErrorKind, ReadRange, Store, StoreError};
use betcode_tests::child::Role;
use betcode_tests::history::{Acknowledged, id, options};
use betcode_tests::lines;
use betcode_tests::mounts::{Mount, skipped};

const WORKER: &str = env!("CARGO_BIN_EXE_worker");

/// Names and contents of all files in a folder.
fn fingerprint(folder: &Path) -> Vec<(String, u64, u64)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let bytes = fs::read(entry.path()).unwrap_or_default();
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, bytes.len() as u64, xxhash_rust::xxh3::xxh3_64(&bytes))
        })
        .collect();
    files.sort();
    files
}

/// A closed store with some messages.
fn recorded(path: &Path) {
    let store = Store::open(path, options()).unwrap();
    let payloads = (0..500).map(|n| lines::payload(1, n)).collect();
    store.append(Batch::new(id("s"), payloads)).unwrap();
    store.close().unwrap();
}

/// Asserts that opening is refused with `kind`, either way, and that nothing in the folder changed.
fn assert_refused(path: &Path, kind: ErrorKind) -> StoreError {
    let folder = path.parent().unwrap();
    let before = fingerprint(folder);
    let reading = Store::open_read_only(path, options()).unwrap_err();
    assert_eq!(reading.kind(), kind, "for reading: {reading:?}");
    assert_eq!(fingerprint(folder), before, "opening for reading");
    let writing = Store::open(path, options()).unwrap_err();
    assert_eq!(writing.kind(), kind, "for writing: {writing:?}");
    assert_eq!(fingerprint(folder), before, "opening for writing");
    writing
}

#[test]
fn opening_and_closing_changes_no_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    recorded(&path);
    let before = fingerprint(folder.path());
    Store::open(&path, options()).unwrap().close().unwrap();
    assert_eq!(fingerprint(folder.path()), before);
}

#[test]
fn a_foreign_file_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in [
        ("notes.txt", b"some notes\n".repeat(1000)),
        ("one-byte", b"x".to_vec()),
        ("zeros", vec![0; 8192]),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = assert_refused(&path, ErrorKind::Unsupported);
        assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    }
}

#[test]
fn another_program_s_database_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    for (name, application_id, journal) in [
        ("plain.db", 0, "DELETE"),
        ("other.db", 0x1234, "DELETE"),
        ("wal.db", 0, "WAL"),
        ("other-wal.db", 0x1234, "WAL"),
    ] {
        let path = folder.path().join(name);
        let other = rusqlite::Connection::open(&path).unwrap();
        other
            .query_row(&format!("PRAGMA journal_mode = {journal}"), [], |_| Ok(()))
            .unwrap();
        other
            .pragma_update(None, "application_id", application_id)
            .unwrap();
        other
            .execute_batch("CREATE TABLE t (x); INSERT INTO t VALUES ('theirs')")
            .unwrap();
        drop(other);
        let error = assert_refused(&path, ErrorKind::Unsupported);
        assert!(
            matches!(error, StoreError::Foreign { .. }),
            "{name}: {error:?}"
        );
    }
}

#[test]
fn a_newer_store_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    recorded(&path);
    let tomorrow = rusqlite::Connection::open(&path).unwrap();
    tomorrow.pragma_update(None, "user_version", 99).unwrap();
    tomorrow
        .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    drop(tomorrow);
    let error = assert_refused(&path, ErrorKind::Unsupported);
    assert!(
        matches!(error, StoreError::Newer { found: 99, .. }),
        "{error:?}"
    );
}

#[test]
fn a_folder_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    fs::create_dir(&path).unwrap();
    assert_refused(&path, ErrorKind::Unsupported);
}

#[test]
fn an_empty_file_becomes_a_store_when_opened_for_writing_and_is_none_for_reading() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    fs::write(&path, b"").unwrap();
    let refused = Store::open_read_only(&path, options()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused:?}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
    recorded(&path);
}

/// Whatever the cut left is not history any more, but the process lives, the error has a name,
/// and the file is left for `restore` or an expert.
#[test]
fn a_store_cut_short_is_damage_with_a_name() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole.db");
    recorded(&whole);
    let bytes = fs::read(&whole).unwrap();
    for keep in [
        1,
        99,
        100,
        512,
        4096,
        5000,
        bytes.len() / 2,
        bytes.len() - 1,
    ] {
        let own = tempfile::tempdir().unwrap();
        let path = own.path().join("history.db");
        fs::write(&path, &bytes[..keep]).unwrap();
        let outcome = Store::open(&path, options()).and_then(|store| {
            let report = store.verify(&mut |_| std::ops::ControlFlow::Continue(()))?;
            assert!(!report.ok(), "cut to {keep} of {} bytes", bytes.len());
            Ok(())
        });
        if let Err(error) = outcome {
            assert!(
                matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Unsupported),
                "cut to {keep} bytes: {error:?}"
            );
        }
        // SQLite may fill up a torn last page when it closes the file; no byte goes away.
        let after = fs::read(&path).unwrap();
        assert!(
            after.starts_with(&bytes[..keep]) && after.len() < keep + 4096,
            "cut to {keep} bytes: the file was changed"
        );
    }
}

#[test]
fn a_store_on_a_read_only_file_system_is_read_and_refuses_writers() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    recorded(&path);
    let mount = match Mount::read_only(folder.path()) {
        Ok(mount) => mount,
        Err(why) => return skipped("read-only file system", &why),
    };
    let before = fingerprint(folder.path());
    let path = mount.path().join("history.db");
    let refused = Store::open(&path, options()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:?}");
    let store = Store::open_read_only(&path, options()).unwrap();
    let read = store.read(&id("s"), ReadRange::all()).unwrap();
    assert_eq!(read.map(Result::unwrap).count(), 500);
    let refused = store
        .append(Batch::new(id("s"), vec![lines::payload(1, 0)]))
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:?}");
    assert_eq!(fingerprint(folder.path()), before);
}

#[test]
fn a_new_store_on_a_read_only_file_system_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mount = match Mount::read_only(folder.path()) {
        Ok(mount) => mount,
        Err(why) => return skipped("read-only file system", &why),
    };
    let refused = Store::open(&mount.path().join("history.db"), options()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:?}");
    let refused = Store::open(&mount.path().join("new/history.db"), options()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:?}");
}

#[test]
fn a_store_whose_file_system_turns_read_only_refuses_writers_says_so_and_is_read() {
    let images = tempfile::tempdir().unwrap();
    let image = images.path().join("image");
    let mounted = Mount::ext4(&image, 128 << 20);
    let mount = match mounted {
        Ok(mount) => mount,
        Err(why) => return skipped("a file system that turns read-only", &why),
    };
    let path = mount.path().join("history.db");
    recorded(&path);
    let store = Store::open(&path, options()).unwrap();
    if let Err(why) = mount.turn_read_only() {
        return skipped("a file system that turns read-only", &why);
    }
    for n in 0..2 {
        let refused = store.append(Batch::new(id("s"), vec![lines::payload(1, n)]));
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:?}");
        assert!(refused.to_string().contains("read-only"), "{refused}");
        assert!(refused.hint().unwrap().contains("writable"), "{refused}");
    }
    let read = store.read(&id("s"), ReadRange::all()).unwrap();
    assert_eq!(read.map(Result::unwrap).count(), 500);
}

/// Locked for longer than a writer waits: a typed answer, and no message half done. Locked for
/// less: nobody notices but the clock.
#[test]
fn a_lock_held_by_another_process_is_waited_for_and_then_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    recorded(&path);
    let store = Store::open(&path, options()).unwrap();
    let append = |n| store.append(Batch::new(id("s"), vec![lines::payload(1, n)]));

    let mut short = Role::new(WORKER, "lock", &path).with("ms", "300").start();
    assert_eq!(short.line().as_deref(), Some("held"));
    let started = Instant::now();
    append(500).unwrap();
    let waited = started.elapsed();
    assert!(waited >= Duration::from_millis(100), "{waited:?}");
    drop(short);

    let mut long = Role::new(WORKER, "lock", &path).with("ms", "60000").start();
    assert_eq!(long.line().as_deref(), Some("held"));
    let started = Instant::now();
    let refused = append(501).unwrap_err();
    assert!(matches!(refused, StoreError::Busy { .. }), "{refused:?}");
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(30), "{waited:?}");
    // Readers do not care.
    let last = store.read(&id("s"), ReadRange::last(1)).unwrap().next();
    assert_eq!(last.unwrap().unwrap().sequence, 501);
    long.kill();
    assert_eq!(append(501).unwrap().first_sequence, 502);
    store.close().unwrap();
    Acknowledged::default().assert_kept(&path, options());
}

#[test]
fn a_file_locked_for_good_answers_opening_with_busy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    recorded(&path);
    // Exclusive locking keeps everybody out, readers too.
    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .query_row("PRAGMA locking_mode = EXCLUSIVE", [], |_| Ok(()))
        .unwrap();
    other
        .execute_batch("BEGIN EXCLUSIVE; UPDATE store SET created_ms = created_ms; COMMIT")
        .unwrap();
    let started = Instant::now();
    let refused = Store::open(&path, options()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused:?}");
    let refused = Store::open_read_only(&path, options()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Busy, "{refused:?}");
    let waited = started.elapsed();
    assert!(waited < Duration::from_secs(40), "{waited:?}");
    drop(other);
    Store::open(&path, options()).unwrap();
}
