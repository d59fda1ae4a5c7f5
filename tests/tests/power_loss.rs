//! With the power cut, a store keeps what it answered: on a real file system whose device takes
//! nothing more from one moment to the next.
//!
//! Needs root, a loop device and ext4; says so and passes where it has none of them.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use betcode_test_support::{Random, seed, setting};
use betcode_tests::child::Role;
use betcode_tests::faults::cut_power;
use betcode_tests::history::{Acknowledged, Lost, options};
use betcode_tests::mounts::{Mount, skipped};

const WORKER: &str = env!("CARGO_BIN_EXE_worker");
const DEVICE_BYTES: u64 = 256 << 20;

/// Messages acknowledged, and what was lost, over `rounds` rounds; `None` where it cannot be done.
fn cut_rounds(test: &str, durability: &str, rounds: u64) -> Option<(u64, Lost)> {
    let outside = tempfile::tempdir().unwrap();
    let mut device = match Mount::ext4(&outside.path().join("device"), DEVICE_BYTES) {
        Ok(device) => device,
        Err(why) => {
            skipped(test, &why);
            return None;
        }
    };
    let seed = seed();
    let mut random = Random::new(seed);
    let mut acknowledged = Acknowledged::default();
    let (mut acknowledged_messages, mut lost) = (0, Lost::default());
    for round in 0..rounds {
        let db = device.path().join("history.db");
        let acks = outside.path().join(format!("acks-{round}"));
        let mut worker = Role::new(WORKER, "record", &db)
            .with("acks", &acks)
            .with("seed", random.bits().to_string())
            .with("writer", (round * 10_000 + 1).to_string())
            .with("durability", durability)
            .with("churn", "1")
            .start();
        assert_eq!(worker.line().as_deref(), Some("open"));
        std::thread::sleep(Duration::from_millis(random.between(20, 400)));
        // Only what was answered before the cut began has to be there: an fsync that races with the cut may succeed
        // although nothing is on disk. A program of three lines shows that as well.
        let acks_before = std::fs::read_to_string(&acks).unwrap_or_default();
        if let Err(error) = cut_power(&device.path()) {
            skipped(test, &format!("the power cannot be cut here: {error}"));
            return None;
        }
        worker.kill();
        device.unmount().unwrap();
        device.again().unwrap();
        let before = acknowledged.messages();
        acknowledged.read_first(&acks, acks_before.len());
        acknowledged_messages += acknowledged.messages().saturating_sub(before);
        let now = acknowledged.lost(&db, options());
        lost.messages += now.messages;
        lost.deletions += now.deletions;
    }
    eprintln!(
        "{durability}: {rounds} rounds, {acknowledged_messages} messages acknowledged, {lost:?}"
    );
    Some((acknowledged_messages, lost))
}

/// `BETCODE_POWER_ROUNDS` sets the number of rounds.
#[test]
#[ignore = "needs root and a loop device, and takes minutes"]
fn what_was_answered_survives_power_loss() {
    let rounds = setting("BETCODE_POWER_ROUNDS", 20);
    if let Some((acknowledged_messages, lost)) = cut_rounds("power loss", "full", rounds) {
        assert!(
            acknowledged_messages > 0,
            "nothing was acknowledged: the test tests nothing"
        );
        assert_eq!(lost, Lost::default());
    }
}

/// The control: if nothing were lost here either, the test above would prove nothing.
#[test]
#[ignore = "needs root and a loop device, and takes minutes"]
fn durability_normal_gives_up_the_last_messages_and_nothing_else() {
    let rounds = setting("BETCODE_POWER_ROUNDS", 20);
    if let Some((_, lost)) = cut_rounds("power loss, normal", "normal", rounds) {
        assert!(
            lost != Lost::default(),
            "nothing was lost: the power was not cut"
        );
    }
}
