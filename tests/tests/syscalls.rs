//! Every system call fails once, and then for good: nothing acknowledged is lost, nothing
//! panics, and after reopening all is sound.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use betcode_storage::{
    Batch, CompactionPolicy, CompactionRequest, ErrorKind, Store, StoreError, StoreOptions, Tier,
};
use betcode_test_support::{Random, seed, setting};
use betcode_tests::faults::{Call, Change, Faults, Operation};
use betcode_tests::history::{Acknowledged, Event, assert_sound, id, options};
use betcode_tests::lines;
use betcode_tests::older::{
    assert_format_2_migrates_whole, assert_migrates_whole, unpack_format_1, unpack_format_2,
};

/// Asks for messages at their place, as a client does that cannot know whether an append that
/// failed before took place all the same.
fn append(
    store: &Store,
    acknowledged: &mut Acknowledged,
    session: &str,
    n: u64,
    messages: u64,
) -> Result<(), String> {
    let payloads = (n..n + messages).map(|n| lines::payload(1, n)).collect();
    let batch = Batch {
        expected_sequence: Some(n + 1),
        ..Batch::new(id(session), payloads)
    };
    let answer = store.append(batch).map_err(|error| error.to_string())?;
    // None of them was acknowledged before, even if a failed attempt left some of them there.
    acknowledged.add(Event::Appended {
        session: session.to_owned(),
        sequence: answer.first_sequence,
        writer: 1,
        n,
        messages,
    });
    Ok(())
}

/// Compacts; what failed in a session counts as an error of the run.
fn compact(store: &Store, tier: Tier) -> Result<(), String> {
    let mut policy = CompactionPolicy {
        quick_segment_bytes_max: 16 << 10,
        deep_segment_bytes_max: 64 << 10,
        ..CompactionPolicy::default()
    };
    policy.quick.level = 1;
    policy.deep.level = 1;
    let request = CompactionRequest {
        tier,
        policy,
        ..CompactionRequest::manual()
    };
    let outcome = store
        .compact(&request, &mut |_| ControlFlow::Continue(()))
        .map_err(|error| error.to_string())?;
    match outcome.failures.first() {
        None => Ok(()),
        Some(failure) => Err(format!("session {}: {}", failure.session, failure.why)),
    }
}

/// Appends to each of the story's two sessions in each of its two chapters.
const APPENDS: u64 = 12;

/// Appends, compacts, appends more, deletes, compacts deeply, closes. What fails is left out; the
/// rest of the story goes on without it.
fn story(store: Store, acknowledged: &mut Acknowledged) -> Vec<String> {
    let mut errors = Vec::new();
    let mut note = |result: Result<(), String>| errors.extend(result.err());
    let mut next: HashMap<&str, u64> = HashMap::new();
    for _chapter in 0..2 {
        for step in 0..APPENDS {
            for session in ["a", "b"] {
                let n = next.entry(session).or_default();
                let result = append(&store, acknowledged, session, *n, 5);
                if result.is_ok() {
                    *n += 5;
                }
                note(result);
            }
            if step == APPENDS / 2 {
                note(compact(&store, Tier::Quick));
            }
        }
        note(compact(&store, Tier::Deep));
    }
    acknowledged.add(Event::Deleting("b".into()));
    match store.delete(&id("b")) {
        Ok(_) => acknowledged.add(Event::Deleted("b".into())),
        Err(error) => note(Err(error.to_string())),
    }
    note(compact(&store, Tier::Deep));
    note(store.close().map_err(|error| error.to_string()));
    errors
}

fn story_options() -> StoreOptions {
    StoreOptions {
        reserve_bytes: 0,
        ..options()
    }
}

/// Runs the story with the `n`-th `call` failing; whether the failure happened.
fn fail_at(faults: &Faults, call: Call, n: i64, lasting: bool) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let mut acknowledged = Acknowledged::default();
    faults.fail(call, n, lasting);
    let opened = Store::open(&path, story_options());
    let errors = match opened {
        Ok(store) => story(store, &mut acknowledged),
        Err(error) => vec![error.to_string()],
    };
    let failed = faults.has_failed(call);
    let seen = faults.seen(call);
    faults.heal();
    let context = format!("{call:?} {n} lasting={lasting} ({seen} calls): {errors:?}");
    eprintln!("{context}");
    // A last word of a store that cannot write any more must not be a success; a single failure
    // may be one that nobody needs to hear of (a checkpoint that is made later).
    acknowledged.assert_kept(&path, options());
    // And the store goes on.
    let store = Store::open(&path, options()).unwrap();
    let next = store.session(&id("a")).map_or(0, |s| s.messages);
    append(&store, &mut acknowledged, "a", next, 5).unwrap();
    store.close().unwrap();
    acknowledged.assert_kept(&path, options());
    failed
}

/// Every position when `positions_max` allows, else evenly spread ones.
fn fail_everywhere(call: Call, lasting: bool, positions_max: i64) {
    let faults = Faults::install();
    // How many calls a whole story makes.
    faults.fail(call, i64::MAX, false);
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("history.db"), story_options()).unwrap();
    let errors = story(store, &mut Acknowledged::default());
    assert!(errors.is_empty(), "{errors:?}");
    let calls = faults.seen(call);
    assert!(calls > 0, "{call:?} is never made: the test tests nothing");
    let stride = (calls / positions_max).max(1);
    let mut n = 1;
    let mut tried = 0;
    while n <= calls {
        let failed = fail_at(&faults, call, n, lasting);
        assert!(failed || n > calls / 2, "{call:?} {n} did not fail");
        tried += 1;
        n += stride;
    }
    eprintln!("{call:?} lasting={lasting}: {tried} of {calls} positions");
}

fn positions() -> i64 {
    setting("BETCODE_FAULT_POSITIONS", 12) as i64
}

#[test]
fn a_failed_write_loses_nothing() {
    fail_everywhere(Call::Write, false, positions());
}

#[test]
fn writes_that_fail_from_some_moment_on_lose_nothing() {
    fail_everywhere(Call::Write, true, positions());
}

/// `.cargo/config.toml` says why, and how SQLite is built for it.
#[test]
fn a_commit_waits_for_its_bytes_and_not_for_a_files_times() {
    let faults = Faults::install();
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("h.db"), options()).unwrap();
    faults.heal();
    store
        .append(Batch::new(id("s"), vec!["a line".into()]))
        .unwrap();
    assert!(faults.data_syncs() > 0);
    assert_eq!(faults.data_syncs(), faults.seen(Call::Sync));
}

#[test]
fn a_failed_sync_loses_nothing() {
    fail_everywhere(Call::Sync, false, positions());
}

#[test]
fn syncs_that_fail_from_some_moment_on_lose_nothing() {
    fail_everywhere(Call::Sync, true, positions());
}

#[test]
fn a_failed_truncation_loses_nothing() {
    fail_everywhere(Call::Truncate, false, positions());
}

#[test]
fn a_failed_opening_of_a_file_loses_nothing() {
    fail_everywhere(Call::Open, false, positions());
}

#[test]
fn a_failed_read_loses_nothing() {
    fail_everywhere(Call::Read, false, positions());
}

/// `BETCODE_FAULT_POSITIONS` bounds the positions of each call.
#[test]
#[ignore = "every position of every call takes minutes"]
fn every_call_at_every_position() {
    let positions = setting("BETCODE_FAULT_POSITIONS", i64::MAX as u64) as i64;
    for lasting in [false, true] {
        for call in Call::ALL {
            fail_everywhere(call, lasting, positions);
        }
    }
}

#[test]
fn a_deletion_on_a_full_disk_says_at_whatever_moment_whether_the_session_is_gone() {
    let faults = Faults::install();
    let (mut there_still, mut gone) = (0, 0);
    for n in 1.. {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let store = Store::open(&path, story_options()).unwrap();
        append(&store, &mut Acknowledged::default(), "a", 0, 5).unwrap();
        append(&store, &mut Acknowledged::default(), "b", 0, 100).unwrap();
        faults.fail(Call::Write, n, true);
        let deleted = store.delete(&id("b"));
        faults.heal();
        let is_there = store.session(&id("b")).is_ok();
        match deleted {
            Ok(deleted) => {
                assert!(deleted && !is_there);
                break;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "write {n}: {error}");
                let is_gone = matches!(error, StoreError::SpaceNotGivenBack { .. });
                assert_eq!(is_gone, !is_there, "write {n}: {error}");
                *(if is_gone { &mut gone } else { &mut there_still }) += 1;
            }
        }
        drop(store);
        let store = Store::open(&path, options()).unwrap();
        assert_eq!(store.session(&id("b")).is_ok(), is_there, "write {n}");
        assert_sound(&store);
    }
    assert!(there_still > 0 && gone > 0, "{there_still} and {gone}");
}

/// What a power cut leaves: of each file what was synced, and of what was written since a random
/// part, in sectors of which the last may be torn.
fn after_power_cut(
    tape: &[Operation],
    start: &HashMap<PathBuf, Vec<u8>>,
    random: &mut Random,
) -> HashMap<PathBuf, Vec<u8>> {
    const SECTOR: usize = 512;
    let mut files = start.clone();
    for (file, bytes) in &mut files {
        let changes: Vec<&Change> = tape
            .iter()
            .filter(|operation| operation.file == *file)
            .map(|operation| &operation.change)
            .collect();
        let synced = changes
            .iter()
            .rposition(|change| **change == Change::Synced)
            .map_or(0, |at| at + 1);
        for (at, change) in changes.into_iter().enumerate() {
            let certain = at < synced;
            match change {
                Change::Synced => {}
                // Lossless: files of a test.
                Change::Length(length) if certain || random.below(2) == 0 => {
                    bytes.resize(*length as usize, 0);
                }
                Change::Length(_) => {}
                Change::Written(offset, data) => {
                    for (index, sector) in data.chunks(SECTOR).enumerate() {
                        if !certain && random.below(2) == 0 {
                            continue;
                        }
                        let from = *offset as usize + index * SECTOR;
                        if bytes.len() < from + sector.len() {
                            bytes.resize(from + sector.len(), 0);
                        }
                        bytes[from..from + sector.len()].copy_from_slice(sector);
                    }
                }
            }
        }
    }
    files
}

fn write_all(files: &HashMap<PathBuf, Vec<u8>>, folder: &Path) {
    for (file, bytes) in files {
        std::fs::write(folder.join(file.file_name().unwrap()), bytes).unwrap();
    }
}

/// The power is cut at many moments of one story: writes since the last sync reach the disk in
/// any order, torn, or not at all.
fn cut_power_at(moments: u64) {
    let faults = Faults::install();
    let mut random = Random::new(seed());
    let folder = tempfile::tempdir().unwrap();
    let folder_path = folder.path().canonicalize().unwrap();
    let path = folder_path.join("history.db");
    let wal = folder_path.join("history.db-wal");
    // Born and checkpointed, and on the device: the birth of a file is another story.
    Store::open(&path, story_options())
        .unwrap()
        .close()
        .unwrap();
    let store = Store::open(&path, story_options()).unwrap();
    let start: HashMap<PathBuf, Vec<u8>> = [&path, &wal]
        .into_iter()
        .map(|file| (file.clone(), std::fs::read(file).unwrap_or_default()))
        .collect();
    faults.start_tape();
    // Length of the tape when each event was acknowledged, so that a cut knows what was promised.
    let mut promises: Vec<(usize, Event)> = Vec::new();
    let mut n = 0;
    for step in 0..120_u64 {
        let messages = random.between(1, 6);
        let payloads = (n..n + messages).map(|n| lines::payload(1, n)).collect();
        let answer = store.append(Batch::new(id("a"), payloads)).unwrap();
        let event = Event::Appended {
            session: "a".into(),
            sequence: answer.first_sequence,
            writer: 1,
            n,
            messages,
        };
        promises.push((faults.tape_length(), event));
        n += messages;
        match step % 20 {
            7 => compact(&store, Tier::Quick).unwrap(),
            19 => compact(&store, Tier::Deep).unwrap(),
            _ => {}
        }
    }
    store.close().unwrap();
    let tape = faults.take_tape();
    faults.heal();
    let (mut kept, mut writes) = (0, 0);
    for _ in 0..moments {
        let cut = random.below(tape.len() as u64 + 1) as usize;
        let files = after_power_cut(&tape[..cut], &start, &mut random);
        let own = tempfile::tempdir().unwrap();
        write_all(&files, own.path());
        let mut acknowledged = Acknowledged::default();
        for (at, event) in &promises {
            if *at <= cut {
                acknowledged.add(event.clone());
            }
        }
        kept += acknowledged.messages();
        writes += cut;
        eprintln!("cut after {cut} of {} operations", tape.len());
        acknowledged.assert_kept(&own.path().join("history.db"), options());
    }
    eprintln!("{moments} cuts, {writes} operations replayed, {kept} messages kept");
}

#[test]
fn torn_and_reordered_writes_of_a_power_cut_lose_nothing() {
    cut_power_at(25);
}

/// `BETCODE_CUTS` sets the number of cuts.
#[test]
#[ignore = "takes minutes"]
fn torn_and_reordered_writes_at_many_moments() {
    cut_power_at(setting("BETCODE_CUTS", 500));
}

/// Migrates a store with each `step`-th call failing, and then asserts that it is migrated whole.
fn fail_migrations_at_each(step: i64, unpack: fn(&Path), assert_migrates_whole: fn(&Path)) {
    let faults = Faults::install();
    for (call, lasting) in Call::ALL
        .into_iter()
        .flat_map(|call| [(call, false), (call, true)])
    {
        // Ends with the first position that is not reached.
        for n in 1.. {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("history.db");
            unpack(&path);
            faults.fail(call, n * step, lasting);
            let opened = Store::open(&path, story_options());
            let failed = faults.has_failed(call);
            faults.heal();
            eprintln!(
                "{call:?} {n} lasting={lasting}: {:?}",
                opened.as_ref().err()
            );
            drop(opened);
            assert_migrates_whole(&path);
            if !failed {
                break;
            }
        }
    }
}

#[test]
fn a_migration_from_format_1_in_which_a_call_fails_loses_nothing() {
    fail_migrations_at_each(8, unpack_format_1, assert_migrates_whole);
}

#[test]
fn a_migration_from_format_2_in_which_a_call_fails_loses_nothing() {
    fail_migrations_at_each(3, unpack_format_2, assert_format_2_migrates_whole);
}

fn cut_power_in_a_migration(format: u32, unpack: fn(&Path), assert_migrates_whole: fn(&Path)) {
    let faults = Faults::install();
    let mut random = Random::new(seed());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().canonicalize().unwrap().join("history.db");
    unpack(&path);
    let wal = path.with_file_name("history.db-wal");
    let start = HashMap::from([
        (path.clone(), std::fs::read(&path).unwrap()),
        (wal, Vec::new()),
    ]);
    faults.start_tape();
    Store::open(&path, story_options())
        .unwrap()
        .close()
        .unwrap();
    let tape = faults.take_tape();
    faults.heal();
    let backup = format!("history.db.v{format}.backup");
    for _ in 0..25 {
        let cut = random.below(tape.len() as u64 + 1) as usize;
        let own = tempfile::tempdir().unwrap();
        write_all(
            &after_power_cut(&tape[..cut], &start, &mut random),
            own.path(),
        );
        eprintln!("cut after {cut} of {} operations", tape.len());
        // The copy was synced before the migration began.
        std::fs::copy(folder.path().join(&backup), own.path().join(&backup)).unwrap();
        assert_migrates_whole(&own.path().join("history.db"));
    }
}

#[test]
fn torn_and_reordered_writes_of_a_power_cut_in_a_migration_lose_nothing() {
    cut_power_in_a_migration(1, unpack_format_1, assert_migrates_whole);
    cut_power_in_a_migration(2, unpack_format_2, assert_format_2_migrates_whole);
}
