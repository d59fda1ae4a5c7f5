//! What the tests of all crates share, and no more than any of them may depend on: nothing of the workspace.

// This crate is all test code: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod proc;

use std::fmt::Debug;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A small, fast, seeded generator (SplitMix64). Tests print their seeds; the same seed gives
/// the same run on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator that continues from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end.max(1)
    }

    /// A number from `from` to `to`, both included.
    pub fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// An index of a list with `len` items.
    pub fn index(&mut self, len: usize) -> usize {
        // Lossless: below `len`.
        self.below(len as u64) as usize
    }

    /// One of a list that is not empty.
    pub fn one_of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())].clone()
    }
}

/// Bytes that do not compress.
#[must_use]
pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    (0..bytes).map(|_| random.bits() as u8).collect()
}

/// A seed: the one in `BETCODE_TEST_SEED`, else a new one from the clock. Printed either way.
#[must_use]
pub fn seed() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    seed_or(since_1970.as_nanos() as u64 % 1_000_000_000)
}

/// A seed: the one in `BETCODE_TEST_SEED`, else `default`. Printed either way.
#[must_use]
pub fn seed_or(default: u64) -> u64 {
    let seed = setting("BETCODE_TEST_SEED", default);
    eprintln!("seed: BETCODE_TEST_SEED={seed}");
    seed
}

/// A number from the environment, else `default`.
#[must_use]
pub fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().expect(name),
        Err(_) => default,
    }
}

/// Looks again and again until what it sees is as wanted, and returns that. Fails after a minute, which is long
/// enough on any machine.
pub fn wait_for<T: Debug>(
    what: &str,
    mut look: impl FnMut() -> T,
    is_wanted: impl Fn(&T) -> bool,
) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let seen = look();
        if is_wanted(&seen) {
            return seen;
        }
        assert!(
            Instant::now() < deadline,
            "waited in vain: {what}: {seen:?}"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
}
