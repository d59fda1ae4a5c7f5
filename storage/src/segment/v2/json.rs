//! Finds the values of a JSON line.
//!
//! A line becomes a list of [`Token`]s: the positions of its keys, strings, numbers and arrays. The
//! [splitter](super::splitter) takes the values out; what lies between them (keys, punctuation, spacing,
//! `true`, `false` and `null`) is the line's shape. Every byte is part of a value or of the shape, and
//! is kept as it is. So the scanner checks the grammar, but neither the spelling of numbers nor UTF-8.

use crate::limits::{JSON_DEPTH_MAX, JSON_KEY_BYTES_MAX, JSON_TOKENS_MAX};

/// A place of interest in a line. Positions are byte offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// A key, without its quotes.
    Key { start: u32, end: u32 },
    /// A string value, without its quotes.
    Text {
        start: u32,
        end: u32,
        /// Whether it has a backslash.
        has_escapes: bool,
        /// Whether it has unescaped control bytes, which JSON forbids.
        has_controls: bool,
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

/// Fills `tokens` (emptied first) with those of `line`. False, and nothing of use, if it is not one
/// JSON value with nothing around it but white space, or exceeds a bound.
pub(super) fn tokenize(line: &[u8], tokens: &mut Vec<Token>) -> bool {
    tokens.clear();
    if u32::try_from(line.len()).is_err() {
        return false;
    }
    let scanner = Scanner {
        line,
        at: 0,
        open: Vec::with_capacity(JSON_DEPTH_MAX),
        expect: Expect::Value,
        tokens,
    };
    scanner.scan().is_some()
}

/// What the grammar allows next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    /// Just after `[`.
    ValueOrClose,
    /// After a comma in an object.
    Key,
    /// Just after `{`.
    KeyOrClose,
    /// After a value, or after the line's only one.
    CommaOrClose,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Container {
    Object,
    Array,
}

/// Walks over a line. Its methods return `None` where the line is not JSON or exceeds a bound.
struct Scanner<'a> {
    line: &'a [u8],
    at: usize,
    /// The objects and arrays around `at`, the innermost last.
    open: Vec<Container>,
    expect: Expect,
    tokens: &'a mut Vec<Token>,
}

impl Scanner<'_> {
    fn scan(mut self) -> Option<()> {
        loop {
            self.skip_space();
            if self.expect == Expect::CommaOrClose && self.open.is_empty() {
                return (self.at == self.line.len()).then_some(());
            }
            if self.tokens.len() > JSON_TOKENS_MAX {
                return None;
            }
            let byte = *self.line.get(self.at)?;
            match (self.expect, byte) {
                (Expect::Key | Expect::KeyOrClose, b'"') => self.key()?,
                (Expect::KeyOrClose, b'}') | (Expect::ValueOrClose, b']') => self.close(byte)?,
                (Expect::Key | Expect::KeyOrClose, _) => return None,
                (Expect::Value | Expect::ValueOrClose, _) => self.value(byte)?,
                (Expect::CommaOrClose, _) => self.after_value(byte)?,
            }
        }
    }

    /// A key with its colon.
    fn key(&mut self) -> Option<()> {
        let string = string_end(self.line, self.at + 1)?;
        if string.has_controls || string.end - self.at > JSON_KEY_BYTES_MAX {
            return None;
        }
        self.tokens.push(Token::Key {
            start: self.at as u32 + 1,
            end: string.end as u32,
        });
        self.at = string.end + 1;
        self.skip_space();
        if *self.line.get(self.at)? != b':' {
            return None;
        }
        self.at += 1;
        self.expect = Expect::Value;
        Some(())
    }

    /// A string, a number or a word, or the beginning of an object or array.
    fn value(&mut self, byte: u8) -> Option<()> {
        match byte {
            b'{' => return self.open(Container::Object),
            b'[' => return self.open(Container::Array),
            b'"' => {
                let string = string_end(self.line, self.at + 1)?;
                self.tokens.push(Token::Text {
                    start: self.at as u32 + 1,
                    end: string.end as u32,
                    has_escapes: string.has_escapes,
                    has_controls: string.has_controls,
                });
                self.at = string.end + 1;
            }
            b't' | b'f' | b'n' => {
                let rest = self.line.get(self.at..)?;
                let word = [&b"true"[..], b"false", b"null"]
                    .into_iter()
                    .find(|word| rest.starts_with(word))?;
                self.at += word.len();
            }
            b'-' | b'0'..=b'9' => {
                let end = number_end(self.line, self.at);
                self.tokens.push(Token::Number {
                    start: self.at as u32,
                    end: end as u32,
                });
                self.at = end;
            }
            _ => return None,
        }
        self.expect = Expect::CommaOrClose;
        Some(())
    }

    fn open(&mut self, container: Container) -> Option<()> {
        if self.open.len() == JSON_DEPTH_MAX {
            return None;
        }
        self.expect = match container {
            Container::Object => Expect::KeyOrClose,
            Container::Array => {
                self.tokens.push(Token::ArrayOpen { at: self.at as u32 });
                Expect::ValueOrClose
            }
        };
        self.open.push(container);
        self.at += 1;
        Some(())
    }

    /// A comma, or the end of the innermost object or array.
    fn after_value(&mut self, byte: u8) -> Option<()> {
        if byte != b',' {
            return self.close(byte);
        }
        self.expect = match self.open.last()? {
            Container::Object => Expect::Key,
            Container::Array => {
                self.tokens.push(Token::ArrayComma { at: self.at as u32 });
                Expect::Value
            }
        };
        self.at += 1;
        Some(())
    }

    /// The end of the innermost object or array, with which a value ends.
    fn close(&mut self, byte: u8) -> Option<()> {
        match (self.open.pop()?, byte) {
            (Container::Object, b'}') => {}
            (Container::Array, b']') => {
                self.tokens.push(Token::ArrayClose { at: self.at as u32 });
            }
            _ => return None,
        }
        self.at += 1;
        self.expect = Expect::CommaOrClose;
        Some(())
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.line.get(self.at) {
            self.at += 1;
        }
    }
}

fn number_end(line: &[u8], mut at: usize) -> usize {
    while let Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E') = line.get(at) {
        at += 1;
    }
    at
}

/// How a string continues after its opening quote.
struct StringEnd {
    /// Position of the closing quote.
    end: usize,
    has_escapes: bool,
    /// Whether it has unescaped control bytes, which JSON forbids.
    has_controls: bool,
}

fn string_end(line: &[u8], from: usize) -> Option<StringEnd> {
    let (mut end, mut has_escapes, mut has_controls) = (from, false, false);
    loop {
        end = find_special(line, end);
        match *line.get(end)? {
            b'"' => {
                return Some(StringEnd {
                    end,
                    has_escapes,
                    has_controls,
                });
            }
            b'\\' => {
                has_escapes = true;
                end += 2;
            }
            _ => {
                has_controls = true;
                end += 1;
            }
        }
    }
}

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
        assert!(tokenize(deep(JSON_DEPTH_MAX).as_bytes(), &mut tokens));
        assert!(!tokenize(deep(JSON_DEPTH_MAX + 1).as_bytes(), &mut tokens));
    }
}
