//! Messages that can be made again from their name, so that a test can compare byte for byte
//! what it finds with what was sent, without keeping or passing on what was sent.

use betcode_test_support::Random;
use bytes::Bytes;

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
