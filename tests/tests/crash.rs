//! Killed at any moment, a store keeps what it answered.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::Path;
use std::time::{Duration, Instant};

use betcode_tests::child::Role;
use betcode_tests::history::{Acknowledged, options};
use betcode_tests::lines::{Random, seed, setting};

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
