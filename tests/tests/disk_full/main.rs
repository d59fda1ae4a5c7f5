//! A full disk and a reached limit: refused with a name, nothing lost, and going on by itself
//! once there is room.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod log;

use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;

use betcode_storage::{
    Batch, CompactionRequest, ErrorKind, ReadRange, Store, StoreError, StoreOptions, Tier,
};
use betcode_test_support::Random;
use betcode_tests::history::{Acknowledged, Event, assert_sound, contents, id, options};
use betcode_tests::lines;
use betcode_tests::mounts::{Mount, skipped};

const WORKER: &str = env!("CARGO_BIN_EXE_worker");

/// A recorder that knows what was answered.
struct Recorder {
    acknowledged: Acknowledged,
    n: u64,
}

impl Recorder {
    fn new() -> Self {
        Self {
            acknowledged: Acknowledged::default(),
            n: 0,
        }
    }

    fn append(&mut self, store: &Store) -> Result<(), StoreError> {
        let messages = 16;
        let payloads = (self.n..self.n + messages)
            .map(|n| lines::payload(1, n))
            .collect();
        let answer = store.append(Batch::new(id("s"), payloads))?;
        self.acknowledged.add(Event::Appended {
            session: "s".into(),
            sequence: answer.first_sequence,
            writer: 1,
            n: self.n,
            messages,
        });
        self.n += messages;
        Ok(())
    }

    /// Appends until the store refuses.
    fn fill(&mut self, store: &Store) -> StoreError {
        for _ in 0..100_000 {
            if let Err(error) = self.append(store) {
                return error;
            }
        }
        panic!("the disk never got full");
    }

    fn assert_all_is_there(&self, store: &Store) {
        assert_eq!(contents(store)["s"].len() as u64, self.n);
    }
}

fn compact(store: &Store) -> Result<betcode_storage::CompactionOutcome, StoreError> {
    let mut request = CompactionRequest {
        tier: Tier::Quick,
        ..CompactionRequest::manual()
    };
    request.policy.quick.level = 3;
    store.compact(&request, &mut |_| ControlFlow::Continue(()))
}

fn full_disk(test: &str, disk_bytes: u64, reserve_bytes: u64) {
    let disk = match Mount::in_memory(disk_bytes) {
        Ok(disk) => disk,
        Err(why) => return skipped(test, &why),
    };
    let path = disk.path().join("history.db");
    let options = StoreOptions {
        reserve_bytes,
        ..options()
    };
    let store = Store::open(&path, options.clone()).unwrap();
    let mut recorder = Recorder::new();
    for round in 0..3 {
        let refused = recorder.fill(&store);
        assert!(
            matches!(refused, StoreError::DiskFull { .. }),
            "round {round}: {refused:?}"
        );
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
        // A small message may find a last gap; a full disk stays one all the same.
        recorder.fill(&store);
        recorder.assert_all_is_there(&store);
        let outcome = compact(&store).unwrap_or_else(|e| panic!("round {round}: {e}"));
        eprintln!(
            "round {round}: full at {} messages; {} bytes became {}",
            recorder.n, outcome.bytes_before, outcome.bytes_after
        );
        assert!(outcome.bytes_after < outcome.bytes_before / 2);
        recorder.append(&store).unwrap();
        assert_sound(&store);
    }
    store.close().unwrap();
    recorder.acknowledged.assert_kept(&path, options);
}

#[test]
fn a_full_disk_is_named_and_the_reserve_lets_compaction_make_room() {
    full_disk("disk full", 48 << 20, 8 << 20);
}

#[test]
fn on_a_tiny_disk_new_messages_do_not_use_up_what_compaction_needs() {
    full_disk(
        "disk full, tiny disk",
        14 << 20,
        StoreOptions::default().reserve_bytes,
    );
}

#[test]
fn a_small_disk_gets_a_smaller_reserve_that_serves_as_well() {
    full_disk(
        "disk full, small disk",
        40 << 20,
        StoreOptions::default().reserve_bytes,
    );
}

/// The same with the sizes that a user has.
#[test]
#[ignore = "writes 128 MB"]
fn a_full_disk_with_the_default_reserve() {
    full_disk(
        "disk full, default reserve",
        128 << 20,
        StoreOptions::default().reserve_bytes,
    );
}

#[test]
fn a_full_disk_can_be_helped_by_deleting_a_session() {
    let disk = match Mount::in_memory(32 << 20) {
        Ok(disk) => disk,
        Err(why) => return skipped("disk full, delete", &why),
    };
    let path = disk.path().join("history.db");
    let options = StoreOptions {
        reserve_bytes: 6 << 20,
        ..options()
    };
    let store = Store::open(&path, options).unwrap();
    let mut recorder = Recorder::new();
    let refused = recorder.fill(&store);
    assert!(
        matches!(refused, StoreError::DiskFull { .. }),
        "{refused:?}"
    );
    assert!(store.delete(&id("s")).unwrap());
    let mut other = Recorder::new();
    for _ in 0..50 {
        other.append(&store).unwrap();
    }
    other.assert_all_is_there(&store);
    assert_sound(&store);
}

/// A file of 100 lines that hardly compress, as images and encrypted text do not.
fn write_dense_lines(file: &Path, seed: u64) {
    let mut random = Random::new(seed);
    let mut text = String::new();
    for _ in 0..100 {
        text.push_str("{\"type\":\"user\",\"data\":\"");
        // Printable, and neither a quote nor a backslash.
        text.extend((0..7_450).map(|_| (b'#' + random.below(57) as u8) as char));
        text.push_str("\"}\n");
    }
    std::fs::write(file, text).unwrap();
}

#[test]
fn a_small_disk_full_of_what_hardly_compresses_can_still_be_compacted_and_deleted_from() {
    let files = tempfile::tempdir().unwrap();
    for n in 0..60 {
        write_dense_lines(&files.path().join(format!("s{n:02}.jsonl")), n);
    }
    for disk_mib in [8, 12, 24] {
        let disk = match Mount::in_memory(disk_mib << 20) {
            Ok(disk) => disk,
            Err(why) => return skipped("disk full, dense", &why),
        };
        let path = disk.path().join("history.db");
        let tool = |arguments: &[&str]| {
            let mut command = Command::new(WORKER);
            command
                .args(["tool", "--limit-bytes", "1GB", "--db"])
                .arg(&path);
            command.args(arguments).output().unwrap()
        };
        let size = || std::fs::metadata(&path).unwrap().len();
        for round in 0..2 {
            let at = format!("{disk_mib} MiB, round {round}");
            let import = tool(&["import", files.path().to_str().unwrap()]);
            assert_eq!(import.status.code(), Some(6), "{at}: {import:?}");
            for arguments in [
                &["compact"][..],
                &["delete", "--yes", &format!("s{round:02}")],
                &["compact"],
            ] {
                let done = tool(arguments);
                assert!(done.status.success(), "{at}: {arguments:?} {done:?}");
            }
        }
        let full = size();
        let last = tool(&["delete", "--yes", "s03"]);
        assert!(last.status.success(), "{last:?}");
        let compact = tool(&["compact"]);
        assert!(compact.status.success() && size() < full, "{compact:?}");
        let verify = tool(&["verify"]);
        assert!(verify.status.success(), "{verify:?}");
    }
}

/// Lets the file `filler` take all that is free, except `room` bytes.
fn leave_room(filler: &Path, room: u64) {
    fill_with_file(filler);
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(filler)
        .unwrap();
    let bytes = file.metadata().unwrap().len();
    file.set_len(bytes.saturating_sub(room)).unwrap();
}

fn deletions_pending(path: &Path) -> i64 {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .query_row("SELECT count(*) FROM deletions", [], |row| row.get(0))
        .unwrap()
}

#[test]
fn a_deletion_that_a_full_disk_cuts_short_is_reported_and_keeps_no_store_from_opening() {
    const PAGE_BYTES: u64 = 16 << 10;
    /// The shared memory beside an open file.
    const SHARED_BYTES: u64 = 32 << 10;
    let disk = match Mount::in_memory(32 << 20) {
        Ok(disk) => disk,
        Err(why) => return skipped("disk full, deletion cut short", &why),
    };
    let path = disk.path().join("history.db");
    let filler = disk.path().join("other");
    let store = Store::open(&path, options()).unwrap();
    let mut recorder = Recorder::new();
    for _ in 0..600 {
        recorder.append(&store).unwrap();
    }
    store
        .append(Batch::new(id("kept"), vec![lines::payload(2, 0)]))
        .unwrap();
    store.close().unwrap();

    // Where the session's row finds room to go, and its messages do not.
    let shown = (0..100)
        .find_map(|pages| {
            leave_room(&filler, SHARED_BYTES + pages * PAGE_BYTES);
            let ran = Command::new(WORKER)
                .args(["tool", "--limit-bytes", "1GB", "--db"])
                .arg(&path)
                .args(["delete", "--yes", "s"])
                .output()
                .unwrap();
            assert_eq!(ran.status.code(), Some(6), "{ran:?}");
            let shown = String::from_utf8(ran.stderr).unwrap();
            let is_there = session_is_there(&path);
            assert_eq!(shown.contains("nothing is lost"), is_there, "{shown}");
            (!is_there).then_some(shown)
        })
        .expect("the deletion was never cut short");
    assert!(
        shown.contains("session s is deleted, but its space could not be given back yet"),
        "{shown}"
    );

    leave_room(&filler, SHARED_BYTES);
    let store = Store::open(&path, options()).unwrap();
    assert_eq!(contents(&store).keys().collect::<Vec<_>>(), ["kept"]);
    assert_eq!(deletions_pending(&path), 1);

    // Once there is room, nobody has to open the store anew.
    std::fs::remove_file(&filler).unwrap();
    let request = CompactionRequest::manual();
    store
        .compact(&request, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(deletions_pending(&path), 0);
    assert_sound(&store);
}

/// Looked up without opening the store, which would go on with the deletion.
fn session_is_there(path: &Path) -> bool {
    let connection = rusqlite::Connection::open(path).unwrap();
    connection
        .query_row(
            "SELECT count(*) FROM sessions WHERE session_id = 's'",
            [],
            |row| row.get(0),
        )
        .unwrap()
}

/// Settings with a reserve that a disk of 32 MB has room for.
fn with_reserve() -> StoreOptions {
    StoreOptions {
        reserve_bytes: 6 << 20,
        ..options()
    }
}

#[test]
fn a_store_on_a_full_disk_still_opens_and_reads_thanks_to_its_reserve() {
    for read_only in [false, true] {
        let disk = match Mount::in_memory(32 << 20) {
            Ok(disk) => disk,
            Err(why) => return skipped("disk full, open", &why),
        };
        let (path, options) = (disk.path().join("history.db"), with_reserve());
        let store = Store::open(&path, options.clone()).unwrap();
        let mut recorder = Recorder::new();
        recorder.fill(&store);
        fill_with_file(&disk.path().join("other"));
        recorder.assert_all_is_there(&store);
        drop(store);
        // Nobody has the file open any more: the shared memory has to be made anew.
        let store = if read_only {
            Store::open_read_only(&path, options.clone()).unwrap()
        } else {
            Store::open(&path, options.clone()).unwrap()
        };
        recorder.assert_all_is_there(&store);
        drop(store);
        std::fs::remove_file(disk.path().join("other")).unwrap();
        recorder.acknowledged.assert_kept(&path, options.clone());
        let store = Store::open(&path, options).unwrap();
        compact(&store).unwrap();
        recorder.append(&store).unwrap();
    }
}

#[test]
fn a_store_on_a_full_disk_is_read_without_its_reserve() {
    let disk = match Mount::in_memory(32 << 20) {
        Ok(disk) => disk,
        Err(why) => return skipped("disk full, read", &why),
    };
    let (path, options) = (disk.path().join("history.db"), with_reserve());
    let store = Store::open(&path, options.clone()).unwrap();
    let mut recorder = Recorder::new();
    recorder.append(&store).unwrap();
    drop(store);
    fill_with_file(&disk.path().join("other"));
    let reserve = path.with_extension("db-reserve");
    let reserve_bytes = std::fs::metadata(&reserve).unwrap().len();
    for with_reserve in [true, false] {
        let store = Store::open_read_only(&path, options.clone()).unwrap();
        recorder.assert_all_is_there(&store);
        drop(store);
        if with_reserve {
            assert_eq!(std::fs::metadata(&reserve).unwrap().len(), reserve_bytes);
            std::fs::remove_file(&reserve).unwrap();
            fill_with_file(&disk.path().join("more"));
        }
    }
}

#[test]
fn a_full_disk_without_a_reserve_is_named_and_goes_on_when_there_is_room() {
    let disk = match Mount::in_memory(16 << 20) {
        Ok(disk) => disk,
        Err(why) => return skipped("disk full, no reserve", &why),
    };
    let path = disk.path().join("history.db");
    let other = disk.path().join("other");
    std::fs::write(&other, vec![0; 4 << 20]).unwrap();
    let store = Store::open(&path, options()).unwrap();
    let mut recorder = Recorder::new();
    recorder.fill(&store);
    let refused = recorder.fill(&store);
    assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused:?}");
    let refused = compact(&store).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused:?}");
    recorder.assert_all_is_there(&store);
    std::fs::remove_file(other).unwrap();
    recorder.append(&store).unwrap();
    compact(&store).unwrap();
    recorder.assert_all_is_there(&store);
    assert_sound(&store);
}

/// Takes the last of the room.
fn fill_with_file(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::create(path).unwrap();
    let chunk = [0_u8; 4096];
    while file.write_all(&chunk).is_ok() {}
}

#[test]
fn a_reached_limit_is_named_and_compaction_makes_room_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let limited = StoreOptions {
        db_bytes_max: 8_000_000,
        ..options()
    };
    let store = Store::open(&path, limited).unwrap();
    let mut recorder = Recorder::new();
    for _ in 0..3 {
        let refused = recorder.fill(&store);
        assert!(
            matches!(
                refused,
                StoreError::LimitReached {
                    limit_bytes: 8_000_000,
                    ..
                }
            ),
            "{refused:?}"
        );
        assert_eq!(refused.kind(), ErrorKind::NoSpace);
        let on_disk = std::fs::metadata(&path).unwrap().len();
        assert!(on_disk <= 8_000_000, "{on_disk} bytes on disk");
        // Reading goes on.
        let last = store.read(&id("s"), ReadRange::last(1)).unwrap().next();
        assert_eq!(last.unwrap().unwrap().sequence, recorder.n);
        compact(&store).unwrap();
        recorder.append(&store).unwrap();
    }
    recorder.assert_all_is_there(&store);
    recorder.fill(&store);
    assert!(store.delete(&id("s")).unwrap());
    Recorder::new().append(&store).unwrap();
    assert_sound(&store);
}

#[test]
fn a_copy_for_which_there_is_no_room_is_refused_at_once_and_names_its_own_place() {
    let disk = match Mount::in_memory(256 << 10) {
        Ok(disk) => disk,
        Err(why) => return skipped("a_copy_for_which_there_is_no_room", &why),
    };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("history.db"), options()).unwrap();
    let mut recorder = Recorder::new();
    for _ in 0..100 {
        recorder.append(&store).unwrap();
    }
    let copy = disk.path().join("copy.db");
    let refused = store
        .backup(&copy, &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused:?}");
    assert!(refused.to_string().contains("copy.db"), "{refused}");
    assert_eq!(std::fs::read_dir(disk.path()).unwrap().count(), 0);
}

#[test]
fn a_disk_that_does_not_report_its_size_is_not_full() {
    let disk = match Mount::in_memory(0) {
        Ok(disk) => disk,
        Err(why) => return skipped("disk full, untold size", &why),
    };
    let path = disk.path().join("history.db");
    // As it comes from a full disk, with all that belongs to a store.
    std::fs::write(disk.path().join("history.db-reserve"), "").unwrap();
    let options = StoreOptions {
        reserve_bytes: 1 << 20,
        ..options()
    };
    let store = Store::open(&path, options).unwrap();
    let mut recorder = Recorder::new();
    recorder.append(&store).unwrap();
    recorder.assert_all_is_there(&store);
}
