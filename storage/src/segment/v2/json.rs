//! Finds the values of a JSON line. What lies between them (keys, punctuation, spacing) is the
//! line's shape and is kept as it is, so nothing here needs to judge spelling: a line is split
//! only if it follows the grammar, and every byte of it is in a value or in the shape.

/// Deeper nesting is kept verbatim; the joiner recurses as deep as arrays nest.
pub(super) const DEPTH_MAX: usize = 64;

/// A line with more values is kept verbatim: its tokens would outweigh it.
pub(super) const TOKENS_MAX: usize = 1 << 20;

/// One place of interest in a line; positions are byte offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A key, without its quotes.
    Key { start: u32, end: u32 },
    /// A string value without its quotes.
    Text {
        start: u32,
        end: u32,
        escaped: bool,
        odd: bool,
    },
    /// A number.
    Number { start: u32, end: u32 },
    /// `[`.
    ArrayOpen { at: u32 },
    /// `,` between elements of an array.
    ArrayComma { at: u32 },
    /// `]`.
    ArrayClose { at: u32 },
}

/// A line with a longer key is kept verbatim: the elements of arrays name the array's key again and
/// again.
pub(super) const KEY_BYTES_MAX: usize = 2 << 10;

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Position, at or after `from`, of the first quote, backslash or control byte; else the length.
pub(super) fn find_special(bytes: &[u8], from: usize) -> usize {
    let Some(rest) = bytes.get(from..) else {
        return bytes.len();
    };
    let (words, tail) = rest.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let found = specials_of_8(*word);
        if found != 0 {
            return from + index * 8 + (found.trailing_zeros() / 8) as usize;
        }
    }
    let tail_at = from + words.len() * 8;
    tail_at
        + tail
            .iter()
            .position(|&b| is_special(b))
            .unwrap_or(tail.len())
}

/// The high bit of the first special byte is set, and of none before it.
fn specials_of_8(word: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(word);
    let quote = word ^ (LOW_BITS * u64::from(b'"'));
    let backslash = word ^ (LOW_BITS * u64::from(b'\\'));
    // The classic zero-byte test; it may err only above a true hit, and the lowest is taken.
    let found = (quote.wrapping_sub(LOW_BITS) & !quote)
        | (backslash.wrapping_sub(LOW_BITS) & !backslash)
        | (word.wrapping_sub(LOW_BITS * 0x20) & !word);
    found & HIGH_BITS
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

enum Expect {
    Value,
    ValueOrClose,
    KeyOrClose,
    Key,
    CommaOrClose,
}

/// Fills `tokens` with the values of `line`; false if it is not one JSON value with nothing
/// around it but JSON's white space, or nests too deep.
pub(super) fn tokenize(line: &[u8], tokens: &mut Vec<Token>) -> bool {
    tokens.clear();
    scan(line, tokens).is_some()
}

fn scan(line: &[u8], tokens: &mut Vec<Token>) -> Option<()> {
    if u32::try_from(line.len()).is_err() {
        return None;
    }
    // True for an object, false for an array.
    let mut open: Vec<bool> = Vec::with_capacity(DEPTH_MAX);
    let mut expect = Expect::Value;
    let mut at = skip_space(line, 0);
    loop {
        if tokens.len() > TOKENS_MAX {
            return None;
        }
        let byte = *line.get(at)?;
        let mut value_done = false;
        match expect {
            Expect::Key | Expect::KeyOrClose if byte == b'"' => {
                let (end, _, odd) = string_end(line, at + 1)?;
                if odd || end - at > KEY_BYTES_MAX {
                    return None;
                }
                tokens.push(Token::Key {
                    start: at as u32 + 1,
                    end: end as u32,
                });
                at = skip_space(line, end + 1);
                if *line.get(at)? != b':' {
                    return None;
                }
                at += 1;
                expect = Expect::Value;
            }
            Expect::KeyOrClose if byte == b'}' => {
                open.pop()?;
                at += 1;
                value_done = true;
            }
            Expect::ValueOrClose if byte == b']' => {
                tokens.push(Token::ArrayClose { at: at as u32 });
                open.pop()?;
                at += 1;
                value_done = true;
            }
            Expect::CommaOrClose => {
                let object = *open.last()?;
                match (byte, object) {
                    (b',', true) => expect = Expect::Key,
                    (b',', false) => {
                        tokens.push(Token::ArrayComma { at: at as u32 });
                        expect = Expect::Value;
                    }
                    (b'}', true) | (b']', false) => {
                        if !object {
                            tokens.push(Token::ArrayClose { at: at as u32 });
                        }
                        open.pop()?;
                        value_done = true;
                    }
                    _ => return None,
                }
                at += 1;
            }
            Expect::Value | Expect::ValueOrClose => match byte {
                b'{' | b'[' => {
                    if open.len() == DEPTH_MAX {
                        return None;
                    }
                    if byte == b'[' {
                        tokens.push(Token::ArrayOpen { at: at as u32 });
                        expect = Expect::ValueOrClose;
                    } else {
                        expect = Expect::KeyOrClose;
                    }
                    open.push(byte == b'{');
                    at += 1;
                }
                b'"' => {
                    let (end, escaped, odd) = string_end(line, at + 1)?;
                    let (start, stop) = (at as u32 + 1, end as u32);
                    tokens.push(Token::Text {
                        start,
                        end: stop,
                        escaped,
                        odd,
                    });
                    at = end + 1;
                    value_done = true;
                }
                b't' | b'f' | b'n' => {
                    let rest = line.get(at..)?;
                    let word = [&b"true"[..], b"false", b"null"]
                        .into_iter()
                        .find(|word| rest.starts_with(word))?;
                    at += word.len();
                    value_done = true;
                }
                b'-' | b'0'..=b'9' => {
                    let end = number_end(line, at);
                    tokens.push(Token::Number {
                        start: at as u32,
                        end: end as u32,
                    });
                    at = end;
                    value_done = true;
                }
                _ => return None,
            },
            Expect::Key | Expect::KeyOrClose => return None,
        }
        at = skip_space(line, at);
        if value_done {
            if open.is_empty() {
                return (at == line.len()).then_some(());
            }
            expect = Expect::CommaOrClose;
        }
    }
}

fn skip_space(line: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\t' | b'\n' | b'\r') = line.get(at) {
        at += 1;
    }
    at
}

fn number_end(line: &[u8], mut at: usize) -> usize {
    while let Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') = line.get(at) {
        at += 1;
    }
    at
}

/// Position of the closing quote, whether there are escapes, and whether there are bare controls.
fn string_end(line: &[u8], from: usize) -> Option<(usize, bool, bool)> {
    let (mut at, mut escaped, mut odd) = (from, false, false);
    loop {
        at = find_special(line, at);
        match *line.get(at)? {
            b'"' => return Some((at, escaped, odd)),
            b'\\' => {
                escaped = true;
                at += 2;
            }
            _ => {
                odd = true;
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specials_are_found_wherever_they_stand() {
        for special in [b'"', b'\\', 0, 0x1f, b'\n'] {
            for at in 0..40 {
                let mut bytes = vec![0x80; 40];
                bytes[at] = special;
                for from in 0..=at {
                    assert_eq!(find_special(&bytes, from), at);
                }
                assert_eq!(find_special(&bytes, at + 1), 40);
            }
        }
        let plain: Vec<u8> = (0x20..=0xff).filter(|b| !is_special(*b)).collect();
        assert_eq!(find_special(&plain, 0), plain.len());
    }

    #[test]
    fn only_single_whole_values_are_split() {
        let mut tokens = Vec::new();
        for good in [
            "{}",
            "[]",
            "\"\"",
            "-1e5",
            "null",
            " {\"a\" : [ ] , \"b\":[{},[1]]}\t",
            "[1,\"x\",true]",
            r#"{"a":"\\\""}"#,
        ] {
            assert!(tokenize(good.as_bytes(), &mut tokens), "{good}");
        }
        for bad in [
            "",
            " ",
            "{",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "[1,]",
            "[,]",
            "{}{}",
            "\"",
            "\"\\",
            "nul",
            "prose",
            "{\"a\n\":1}",
            "]",
            "}",
            "[}",
            "{]",
            "\u{1}",
        ] {
            assert!(!tokenize(bad.as_bytes(), &mut tokens), "{bad}");
        }
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(tokenize(deep(DEPTH_MAX).as_bytes(), &mut tokens));
        assert!(!tokenize(deep(DEPTH_MAX + 1).as_bytes(), &mut tokens));
    }
}
