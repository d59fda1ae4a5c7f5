//! Messages that can be made again from their name, so that a test can compare byte for byte
//! what it finds with what was sent, without keeping or passing on what was sent.

use bytes::Bytes;

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
}

/// A seed: the one in `BETCODE_TEST_SEED`, else a new one from the clock. Printed either way.
#[must_use]
pub fn seed() -> u64 {
    let seed = std::env::var("BETCODE_TEST_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or_else(|| {
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .unwrap()
                .as_nanos() as u64
                % 1_000_000_000
        });
    eprintln!("seed: BETCODE_TEST_SEED={seed}");
    seed
}

/// A positive number from the environment, else `default`.
#[must_use]
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}

const WORDS: &[&str] = &[
    "the",
    "store",
    "keeps",
    "every",
    "line",
    "of",
    "an",
    "agent",
    "segment",
    "sequence",
    "commit",
    "fn",
    "let",
    "return",
    "\\n",
    "src/main.rs",
    "error[E0308]",
    "expected",
    "found",
    "cargo",
    "test",
    "tool_use",
    "result",
    "content",
];

/// The `n`-th message of `writer`: a JSON line of some hundred to some thousand bytes, or now
/// and then bytes that are no text at all. It names its writer and its number.
#[must_use]
pub fn payload(writer: u64, n: u64) -> Bytes {
    let mut random = Random::new(writer << 32 ^ n);
    let mut line = match random.below(16) {
        0 => format!("torn {{\"writer\":{writer},\"n\":{n},").into_bytes(),
        _ => format!(
            "{{\"type\":\"assistant\",\"writer\":{writer},\"n\":{n},\"uuid\":\"{:016x}{:016x}\",\"text\":\"",
            random.bits(),
            random.bits()
        )
        .into_bytes(),
    };
    let torn = line.starts_with(b"torn");
    if torn {
        line.extend_from_slice(b"\0\xff\xfe\r");
    }
    // Mostly short lines, a few long ones, as agents write them.
    let words = match random.below(32) {
        0 => random.between(1000, 4000),
        1..8 => random.between(100, 800),
        _ => random.between(5, 100),
    };
    for _ in 0..words {
        // Lossless: below the number of words.
        let word = WORDS[random.below(WORDS.len() as u64) as usize];
        line.extend_from_slice(word.as_bytes());
        line.push(b' ');
    }
    if !torn {
        line.extend_from_slice(b"\"}");
    }
    Bytes::from(line)
}

/// Writer and number that a message of [`payload`] names.
#[must_use]
pub fn name_of(payload: &[u8]) -> Option<(u64, u64)> {
    let number_after = |key: &[u8]| {
        let at = payload
            .windows(key.len())
            .take(200)
            .position(|w| w == key)?
            + key.len();
        let digits = payload[at..].iter().take_while(|c| c.is_ascii_digit());
        let text: String = digits.map(|&c| char::from(c)).collect();
        text.parse().ok()
    };
    Some((number_after(b"\"writer\":")?, number_after(b"\"n\":")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_can_be_made_again_from_its_name() {
        for n in 0..2000 {
            let line = payload(7, n);
            assert_eq!(name_of(&line), Some((7, n)));
            assert_eq!(line, payload(7, n));
        }
    }
}
