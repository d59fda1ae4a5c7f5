//! A store that an older build made: read as it is, and migrated by the first that writes.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::ffi::OsStr;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use betcode_storage::{
    Batch, CompactionRequest, ErrorKind, ImportMark, ReadRange, SessionFilter, SessionMeta, Store,
    Tier, restore,
};
use betcode_test_support::{Random, noise, seed};
use betcode_tests::history::{assert_sound, id, options};
use betcode_tests::mounts::{Mount, skipped};
use betcode_tests::older::{
    Holdings, assert_format_2_migrates_whole, assert_migrates_whole, current_format, format_of,
    imports_of_format_1, unpack_format_1, unpack_format_2,
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

/// The copies that were made beside the store at `path` before it was migrated.
fn copies_beside(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path.parent().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut copies: Vec<_> = paths
        .filter(|path| path.extension() == Some("backup".as_ref()))
        .collect();
    copies.sort();
    copies
}

#[test]
fn an_agents_id_is_the_same_before_and_after_a_migration_whatever_it_is() {
    for unpack in [unpack_format_1, unpack_format_2] {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        unpack(&path);
        let connection = rusqlite::Connection::open(&path).unwrap();
        let odd = ["", "=", "==", "===", "= ", "=a", "a=", "\u{0}=", "é", "\n"];
        let keys: Vec<i64> = connection
            .prepare("SELECT session_key FROM sessions ORDER BY session_key")
            .unwrap()
            .query_map([], |row| row.get(0))
            .unwrap()
            .collect::<rusqlite::Result<_>>()
            .unwrap();
        let mut set: Vec<(String, &str)> = Vec::new();
        for (key, agent_id) in keys.iter().zip(odd.iter().cycle()) {
            let sql = "UPDATE sessions SET agent_session_id = ?2 WHERE session_key = ?1
                RETURNING session_id";
            let id = connection.query_row(sql, (key, agent_id), |row| row.get(0));
            set.push((id.unwrap(), *agent_id));
        }
        connection.close().unwrap();
        let store = Store::open(&path, options()).unwrap();
        for (session, agent_id) in set {
            let found = store.session(&id(&session)).unwrap().meta.agent_session_id;
            assert_eq!(found, agent_id, "{session}");
        }
    }
}

/// Makes a store of format 2 at `path` whose tables have several pages each.
fn make_large_format_2(path: &Path) {
    let store = Store::open(path, options()).unwrap();
    for n in 0..300_u64 {
        let text = |part: u64| format!("{:x?}", noise(n * 10 + part, 100));
        let batch = Batch {
            meta: SessionMeta {
                name: text(0),
                working_directory: format!("/projects/{}", n % 9),
                ..SessionMeta::default()
            },
            import: Some(ImportMark {
                source_path: format!("/folder/{n}/{}", text(1)).into(),
                relative_path: format!("{n}/{}", text(1)).into(),
                taken_bytes: 7,
                taken_digest: 7,
                unterminated: false,
                joins: vec![1],
            }),
            ..Batch::new(
                id(&format!("session-{n}-{}", "x".repeat(60))),
                (2..6).map(|part| Bytes::from(text(part))).collect(),
            )
        };
        store.append(batch).unwrap();
        if n == 150 {
            let quick = CompactionRequest {
                tier: Tier::Quick,
                ..CompactionRequest::manual()
            };
            let go_on = &mut |_: &_| ControlFlow::Continue(());
            assert!(store.compact(&quick, go_on).unwrap().segments > 100);
        }
    }
    store.close().unwrap();
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .execute_batch("DROP TABLE segment_tails; PRAGMA user_version = 2")
        .unwrap();
}

/// A page of each table and index of the file at `path` that is no tree's first.
fn leaves(path: &Path) -> Vec<(String, usize)> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut statement = connection
        .prepare(
            "SELECT name, max(pageno) FROM dbstat WHERE pagetype = 'leaf'
                AND pageno > 1 AND pageno NOT IN (SELECT rootpage FROM sqlite_schema)
                AND name <> 'sqlite_schema'
             GROUP BY name ORDER BY name",
        )
        .unwrap();
    let rows = statement
        .query_map([], |row| Ok((row.get(0)?, row.get::<_, u32>(1)? as usize)))
        .unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}

/// How many messages of the sessions that are listed can be read.
fn readable(store: &Store) -> usize {
    let listed = store.sessions(&SessionFilter::default()).unwrap();
    let messages = listed.sessions.iter().map(|session| {
        let messages = store.read(&session.id, ReadRange::all()).unwrap();
        messages.filter(Result::is_ok).count()
    });
    messages.sum()
}

#[test]
fn a_damaged_page_keeps_no_store_from_being_migrated() {
    let pristine = tempfile::tempdir().unwrap();
    let large = pristine.path().join("large.db");
    make_large_format_2(&large);
    let damaged = leaves(&large);
    assert!(damaged.len() > 5, "{damaged:?}");
    let whole = fs::read(&large).unwrap();
    let mut messages = 0;
    for (table, page) in &damaged {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let mut bytes = whole.clone();
        bytes[(page - 1) * 4096..][..8].fill(0);
        fs::write(&path, bytes).unwrap();
        let before = readable(&Store::open_read_only(&path, options()).unwrap());
        let store =
            Store::open(&path, options()).unwrap_or_else(|error| panic!("{table}: {error}"));
        assert_eq!(readable(&store), before, "{table}");
        store.close().unwrap();
        assert_eq!(format_of(&path), current_format());
        // The copy has what the store had.
        let [copy] = &copies_beside(&path)[..] else {
            panic!("{table}: {:?}", copies_beside(&path));
        };
        let copy = Store::open_read_only(copy, options()).unwrap();
        assert_eq!(copy.file_settings().unwrap().format, 2);
        assert_eq!(readable(&copy), before, "{table}");
        messages += before;
    }
    assert!(messages > damaged.len() * 1000);
}

#[test]
fn what_stands_at_the_name_of_the_copy_stays_and_is_taken_for_it_only_if_it_is_one() {
    let originals = tempfile::tempdir().unwrap();
    let copy = originals.path().join("copy.db");
    unpack_format_2(&copy);
    let half = originals.path().join("half.db");
    let bytes = fs::read(&copy).unwrap();
    fs::write(&half, &bytes[..bytes.len() / 2]).unwrap();
    let other = originals.path().join("other.db");
    unpack_format_1(&other);
    type Put<'a> = &'a dyn Fn(&Path);
    fn put_copy(from: &Path, at: &Path) {
        fs::copy(from, at).unwrap();
    }
    let cases: [(&str, Put<'_>, usize); 7] = [
        ("a whole copy", &|at| put_copy(&copy, at), 1),
        (
            "a link to a whole copy",
            &|at| std::os::unix::fs::symlink(&copy, at).unwrap(),
            1,
        ),
        ("half a copy", &|at| put_copy(&half, at), 2),
        ("another store", &|at| put_copy(&other, at), 2),
        ("a text", &|at| fs::write(at, "notes").unwrap(), 2),
        ("nothing", &|at| fs::write(at, "").unwrap(), 2),
        (
            "a link to nothing",
            &|at| std::os::unix::fs::symlink("nowhere", at).unwrap(),
            2,
        ),
    ];
    for (what, put, copies) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        unpack_format_2(&path);
        let place = folder.path().join("history.db.v2.backup");
        put(&place);
        let before = fs::read(&place).ok();
        let store = Store::open(&path, options()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_sound(&store);
        assert_eq!(fs::read(&place).ok(), before, "{what}");
        let made = copies_beside(&path);
        assert_eq!(made.len(), copies, "{what}: {made:?}");
        let last = Store::open_read_only(made.last().unwrap(), options());
        if copies == 2 {
            assert!(made[0].ends_with("history.db.v2-2.backup"), "{made:?}");
            drop(last);
            assert_eq!(format_of(&made[0]), 2);
        }
    }
}

#[test]
fn of_many_that_migrate_it_at_once_each_opens_it_or_is_told_who_does() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    unpack_format_1(&path);
    let children: Vec<_> = (0..6)
        .map(|_| {
            tool(&path, &["compact".as_ref()])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut succeeded = 0;
    for child in children {
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        eprintln!("{:?}: {stderr}", output.status.code());
        succeeded += u32::from(output.status.success());
    }
    assert!(succeeded > 0);
    assert_eq!(copies_beside(&path).len(), 1);
    assert_migrates_whole(&path);
}

#[test]
fn a_full_disk_is_named_with_what_a_migration_takes_and_a_copy_elsewhere_will_do() {
    const DISK_BYTES: u64 = 1 << 20;
    let mount = match Mount::in_memory(DISK_BYTES) {
        Ok(mount) => mount,
        Err(why) => return skipped("full disk", &why),
    };
    let path = mount.path().join("history.db");
    let rest = mount.path().join("rest");
    let (mut refused, mut migrated) = (0, 0);
    for left_bytes in (0..DISK_BYTES / 2).step_by(16 << 10) {
        for file in fs::read_dir(mount.path()).unwrap() {
            fs::remove_file(file.unwrap().path()).unwrap();
        }
        unpack_format_2(&path);
        let used_bytes = fs::metadata(&path).unwrap().len();
        let taken_bytes = DISK_BYTES - used_bytes - left_bytes;
        fs::write(&rest, vec![0; taken_bytes as usize]).unwrap();
        match Store::open(&path, options()) {
            Ok(store) => {
                migrated += 1;
                store.close().unwrap();
                assert_eq!(format_of(&path), current_format());
            }
            Err(error) => {
                refused += 1;
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{left_bytes}: {error}");
                let reads = Store::open_read_only(&path, options());
                assert!(
                    left_bytes < 128 << 10 || reads.is_ok(),
                    "{left_bytes}: {reads:?}"
                );
                drop(reads);
                fs::remove_file(&rest).unwrap();
                assert_format_2_migrates_whole(&path);
            }
        }
    }
    assert!(refused > 2 && migrated > 2, "{refused} {migrated}");

    // No room for a copy, but for a link to one.
    for file in fs::read_dir(mount.path()).unwrap() {
        fs::remove_file(file.unwrap().path()).unwrap();
    }
    unpack_format_2(&path);
    let used_bytes = fs::metadata(&path).unwrap().len();
    let taken_bytes = DISK_BYTES - used_bytes - used_bytes * 2 / 3;
    fs::write(&rest, vec![0; taken_bytes as usize]).unwrap();
    let refused = Store::open(&path, options()).unwrap_err();
    assert!(
        refused
            .to_string()
            .contains("history.db.v2.backup is a link"),
        "{refused}"
    );
    let elsewhere = tempfile::tempdir().unwrap();
    let copy = elsewhere.path().join("copy.db");
    Store::open_read_only(&path, options())
        .unwrap()
        .backup(&copy, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    std::os::unix::fs::symlink(&copy, mount.path().join("history.db.v2.backup")).unwrap();
    Store::open(&path, options()).unwrap().close().unwrap();
    assert_eq!((format_of(&path), format_of(&copy)), (current_format(), 2));
}
