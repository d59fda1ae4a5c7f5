//! Killed at any moment, a store keeps what it answered.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use betcode_db::generator;
use betcode_storage::Store;
use betcode_test_support::{Random, seed, setting};
use betcode_tests::child::Role;
use betcode_tests::history::{Acknowledged, assert_sound, options};

const WORKER: &str = env!("CARGO_BIN_EXE_worker");

/// A new store begins every so many rounds: births are killed as well, and checking stays quick.
const ROUNDS_PER_STORE: u64 = 10;

fn kill_rounds(rounds: u64) {
    let seed = seed();
    let mut random = Random::new(seed);
    let (mut messages, started) = (0, Instant::now());
    let mut folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    for round in 0..rounds {
        if round % ROUNDS_PER_STORE == 0 {
            messages += acknowledged.messages();
            folder = tempfile::tempdir().unwrap();
            acknowledged = Acknowledged::default();
        }
        let db = folder.path().join("history.db");
        let acks = folder.path().join(format!("acks-{round}"));
        eprintln!("round {round}");
        kill_once(&db, &acks, round, &mut random);
        acknowledged.read(&acks);
        acknowledged.assert_kept(&db, options());
    }
    messages += acknowledged.messages();
    eprintln!(
        "{rounds} rounds, {messages} messages kept, in {:?}",
        started.elapsed()
    );
}

fn kill_once(db: &Path, acks: &Path, round: u64, random: &mut Random) {
    let mut worker = Role::new(WORKER, "record", db)
        .with("acks", acks)
        .with("seed", random.bits().to_string())
        // No writer has the same number twice: its messages are numbered from 0 in each session.
        .with("writer", (round * 10_000 + 1).to_string())
        .with("threads", "3")
        .with("churn", "1")
        .start();
    // Now and then while it opens the store, mostly while it works.
    if random.below(8) != 0 {
        assert_eq!(worker.line().as_deref(), Some("open"));
    }
    std::thread::sleep(Duration::from_millis(random.between(5, 150)));
    assert!(!worker.has_ended(), "the worker ended before it was killed");
    worker.kill();
}

#[test]
fn what_was_answered_survives_kill_9() {
    kill_rounds(12);
}

/// `BETCODE_KILL_ROUNDS` sets the number of rounds.
#[test]
#[ignore = "200 rounds take minutes"]
fn what_was_answered_survives_kill_9_at_200_moments() {
    kill_rounds(setting("BETCODE_KILL_ROUNDS", 200));
}

/// `betcode-db ARGUMENT …` on the store at `db`.
fn tool(db: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(WORKER);
    command
        .args(["tool", "--quiet", "--db"])
        .arg(db)
        .args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Relative paths and contents of all files below a folder.
fn files_below(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_string_lossy();
                files.insert(name.into_owned(), fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Imports and compactions of a folder that grows meanwhile are killed again and again; at last
/// one is let through, and every file comes back byte for byte.
fn import_rounds(rounds: u64) {
    let seed = seed();
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("sessions");
    let db = folder.path().join("history.db");
    let names = generator::write_sessions(&source, seed, 12, 6_000_000).unwrap();
    for (n, awkward) in (0..8).map(|n| (n, generator::awkward(seed + n))) {
        fs::write(source.join(format!("awkward-{n}.jsonl")), awkward).unwrap();
    }
    let mut interrupted = 0;
    for round in 0..rounds {
        let arguments: &[&str] = match random.below(4) {
            0 => &["compact"],
            _ => &["import", source.to_str().unwrap()],
        };
        if arguments[0] == "compact" && !db.exists() {
            continue;
        }
        eprintln!("round {round}: {}", arguments[0]);
        let mut child = tool(&db, arguments).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.between(5, 150)));
        if child.try_wait().unwrap().is_none() {
            interrupted += 1;
        }
        // Fails only when it has ended already.
        let _ = child.kill();
        child.wait().unwrap();
        if db.exists() {
            let store = Store::open(&db, options()).unwrap();
            assert_sound(&store);
        }
        // The agents write on meanwhile, and not only whole lines.
        let growing = &names[random.below(names.len() as u64) as usize];
        let mut bytes = fs::read(growing).unwrap();
        bytes.extend_from_slice(&generator::awkward(random.bits() >> 1));
        fs::write(growing, bytes).unwrap();
    }
    for arguments in [
        &["import", source.to_str().unwrap()][..],
        &["compact"],
        &["verify"],
        &[
            "export",
            "--out",
            folder.path().join("out").to_str().unwrap(),
        ],
    ] {
        let status = tool(&db, arguments).status().unwrap();
        assert!(status.success(), "{arguments:?}: {status}");
    }
    let (wanted, found) = (
        files_below(&source),
        files_below(&folder.path().join("out")),
    );
    assert!(
        wanted.keys().eq(found.keys()),
        "{:?}\n{:?}",
        wanted.keys(),
        found.keys()
    );
    for (name, bytes) in &wanted {
        assert!(found[name] == *bytes, "{name} came back otherwise");
    }
    eprintln!(
        "{rounds} rounds, {interrupted} of them killed in the middle, {} files",
        wanted.len()
    );
}

#[test]
fn an_import_killed_again_and_again_is_exact_when_it_gets_through() {
    import_rounds(12);
}

/// `BETCODE_KILL_ROUNDS` sets the number of rounds.
#[test]
#[ignore = "200 rounds take minutes"]
fn an_import_killed_200_times_is_exact_when_it_gets_through() {
    import_rounds(setting("BETCODE_KILL_ROUNDS", 200));
}
