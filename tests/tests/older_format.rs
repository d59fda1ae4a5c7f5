//! A store that an older build made: read as it is, and migrated by the first that writes.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use betcode_storage::{Batch, CompactionRequest, ErrorKind, ReadRange, Store, restore};
use betcode_test_support::{Random, seed};
use betcode_tests::history::{assert_sound, id, options};
use betcode_tests::mounts::{Mount, skipped};
use betcode_tests::older::{
    Holdings, assert_migrates_whole, current_format, format_of, imports_of_format_1,
    unpack_format_1, unpack_format_2,
};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

const WORKER: &str = env!("CARGO_BIN_EXE_worker");

fn tool(db: &Path, arguments: &[&OsStr]) -> Command {
    let mut command = Command::new(WORKER);
    command
        .args(["tool", "--quiet", "--direct", "--db"])
        .arg(db);
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

#[test]
fn it_is_read_as_it_is_and_restored_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    unpack_format_1(&path);
    let bytes = fs::read(&path).unwrap();
    let store = Store::open_read_only(&path, options()).unwrap();
    let holdings = Holdings::of(&store);
    assert_eq!(holdings.imports(), imports_of_format_1(&path));
    let copy = folder.path().join("copy.db");
    store
        .backup(&copy, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    drop(store);
    assert!(fs::read(&path).unwrap() == bytes, "reading changed it");
    let restored = folder.path().join("restored.db");
    restore(&copy, &restored, false, &mut |_| ControlFlow::Continue(())).unwrap();
    assert_eq!(format_of(&restored), 1);
    assert_migrates_whole(&restored);
}

#[test]
fn on_a_read_only_file_system_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    unpack_format_1(&folder.path().join("history.db"));
    let mount = match Mount::read_only(folder.path()) {
        Ok(mount) => mount,
        Err(why) => return skipped("read-only file system", &why),
    };
    let path = mount.path().join("history.db");
    let refused = Store::open(&path, options()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Denied, "{refused:?}");
    let store = Store::open_read_only(&path, options()).unwrap();
    assert_eq!(Holdings::of(&store).imports().len(), 11);
}

#[test]
fn a_reader_that_has_it_open_reads_on_when_another_migrates_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    unpack_format_1(&path);
    let reader = Store::open_read_only(&path, options()).unwrap();
    let before = Holdings::of(&reader);
    let writer = Store::open(&path, options()).unwrap();
    assert_eq!(Holdings::of(&reader), before);
    assert_eq!(Holdings::of(&writer), before);
}

#[test]
fn it_is_backed_up_and_migrated_with_all_that_it_holds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    unpack_format_1(&path);
    assert_migrates_whole(&path);
}

/// Exported before or after, the files are what was imported; imported again, nothing is new.
#[test]
fn its_files_come_back_and_are_known_when_they_are_imported_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    unpack_format_1(&path);
    let imports = imports_of_format_1(&path);
    let out = folder.path().join("out");
    for _format in ["1", "the current one"] {
        let _ = fs::remove_dir_all(&out);
        let export = ["export".as_ref(), "--out".as_ref(), out.as_os_str()];
        assert!(tool(&path, &export).status().unwrap().success());
        let mut same_name = 0;
        for (session, mark) in &imports {
            let file = out.join(OsStr::from_bytes(&mark.relative_path));
            let bytes = fs::read(&file).unwrap();
            if xxh3_128(&bytes) == mark.taken_digest {
                assert_eq!(bytes.len() as u64, mark.taken_bytes, "{session}");
            } else {
                // Of two files for one name the second gets another.
                same_name += 1;
            }
        }
        assert_eq!(same_name, 1);
        let before = Store::open_read_only(&path, options())
            .map(|store| store.totals().unwrap())
            .unwrap();
        // The second time they are known by their paths, not by where they stood below a folder.
        for _again in 0..2 {
            let import = ["import".as_ref(), out.as_os_str()];
            assert!(tool(&path, &import).status().unwrap().success());
        }
        assert_eq!(format_of(&path), current_format());
        let after = Store::open_read_only(&path, options())
            .map(|store| store.totals().unwrap())
            .unwrap();
        assert_eq!(after.sessions, before.sessions);
        for (session, mark) in &imports {
            let store = Store::open_read_only(&path, options()).unwrap();
            let record = store.import_of(&session.parse().unwrap()).unwrap().unwrap();
            assert_eq!(record.mark.taken_digest, mark.taken_digest, "{session}");
            assert_eq!(record.mark.relative_path, mark.relative_path);
            assert_eq!(record.mark.joins, mark.joins);
        }
    }
}

#[test]
fn a_migration_killed_at_any_moment_is_done_again() {
    let mut random = Random::new(seed());
    let mut interrupted = 0;
    for _ in 0..20 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        unpack_format_1(&path);
        let mut child = tool(&path, &["compact".as_ref()]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.between(2, 40)));
        interrupted += u32::from(child.try_wait().unwrap().is_none());
        // Fails only when it has ended already.
        let _ = child.kill();
        child.wait().unwrap();
        assert_migrates_whole(&path);
    }
    eprintln!("{interrupted} of 20 were killed in the middle");
}

#[test]
fn a_store_of_format_2_holds_the_same_before_and_after_it_is_migrated_and_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    unpack_format_2(&path);
    let reader = Store::open_read_only(&path, options()).unwrap();
    let before = Holdings::of(&reader);
    let store = Store::open(&path, options()).unwrap();
    assert_eq!(format_of(&path), current_format());
    assert_eq!(Holdings::of(&store), before);
    assert_eq!(Holdings::of(&reader), before);
    let live = id("live");
    let more = Batch::new(live.clone(), vec![Bytes::from_static(b"more"); 200]);
    store.append(more).unwrap();
    store
        .compact(&CompactionRequest::manual(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    let read = |store: &Store| -> Vec<Bytes> {
        let messages = store.read(&live, ReadRange::all()).unwrap();
        messages.map(|message| message.unwrap().payload).collect()
    };
    assert_eq!(read(&store).len(), 202);
    assert_eq!(read(&reader), read(&store));
    assert_sound(&reader);
}
