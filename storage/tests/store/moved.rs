//! Files that are moved, deleted or replaced beneath an open store.

use std::fs;
use std::path::{Path, PathBuf};

use betcode_storage::{ErrorKind, Store, StoreError};

use super::{batch, contents, id, open};

fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Everything that writes is refused, for `file`; what is there is read.
fn assert_records_nothing(store: &Store, file: &Path, what: &str) {
    let error = store.append(batch("s", &[b"lost"])).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Moved, "{what}: {error}");
    assert!(
        matches!(&error, StoreError::FileMoved { path, .. } if path == file),
        "{what}: {error}"
    );
    assert!(error.hint().is_some(), "{what}");
    for refused in [
        store.probe(),
        store.check_in_place(),
        store.rename(&id("s"), "name"),
        store.delete(&id("s")).map(drop),
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Moved, "{what}: {error}");
    }
}

#[test]
fn a_store_whose_file_is_deleted_moved_or_replaced_acknowledges_nothing_more() {
    type Change = fn(&Path, &Path);
    let changes: [(&str, Change); 3] = [
        ("deleted", |path, _| fs::remove_file(path).unwrap()),
        ("moved", |path, aside| fs::rename(path, aside).unwrap()),
        ("replaced", |path, aside| {
            fs::rename(path, aside).unwrap();
            fs::write(path, "another file").unwrap();
        }),
    ];
    for (what, change) in changes {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let store = open(&folder);
        store.append(batch("s", &[b"one"])).unwrap();
        assert_eq!(contents(&store, "s"), ["one"]);
        change(&path, &folder.path().join("aside.db"));
        assert_records_nothing(&store, &path, what);
        assert_eq!(contents(&store, "s"), ["one"], "{what}");
    }
}

#[test]
fn a_store_goes_on_when_its_file_is_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let (path, aside) = (
        folder.path().join("history.db"),
        folder.path().join("aside.db"),
    );
    let store = open(&folder);
    store.append(batch("s", &[b"one"])).unwrap();
    fs::rename(&path, &aside).unwrap();
    assert_records_nothing(&store, &path, "moved");
    fs::rename(&aside, &path).unwrap();
    store.append(batch("s", &[b"two"])).unwrap();
    store.close().unwrap();
    assert_eq!(contents(&open(&folder), "s"), ["one", "two"]);
}

#[test]
fn a_store_whose_log_is_deleted_acknowledges_nothing_more_and_saves_it_when_it_closes() {
    for suffix in ["-wal", "-shm"] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let store = open(&folder);
        store.append(batch("s", &[b"one"])).unwrap();
        let file = suffixed(&path, suffix);
        fs::remove_file(&file).unwrap();
        assert_records_nothing(&store, &file, suffix);
        store.close().unwrap();
        // Nobody else wrote meanwhile.
        assert_eq!(contents(&open(&folder), "s"), ["one"], "{suffix}");
    }
}
