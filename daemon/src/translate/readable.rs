//! Lines as a reader of JSON takes them that has Unicode text only.
//!
//! A string of JavaScript may hold half of a surrogate pair, where text was cut within a character,
//! and its JSON has it as an escape. Readers that know Unicode only, and protobuf, have no such
//! text: each half is sent as U+FFFD, as is what is not UTF-8. What is recorded stays as it is.

use std::borrow::Cow;

/// How U+FFFD is escaped: as long as what it stands for.
const REPLACEMENT: &str = "\\ufffd";

/// The line, every JSON string in it such that it has a text.
pub(crate) fn readable(line: &[u8]) -> Cow<'_, str> {
    let text = String::from_utf8_lossy(line);
    let halves = halves(&text);
    if halves.is_empty() {
        return text;
    }
    let mut text = text.into_owned();
    for at in halves {
        text.replace_range(at..at + REPLACEMENT.len(), REPLACEMENT);
    }
    Cow::Owned(text)
}

/// Where halves of surrogate pairs are escaped that have no other half.
fn halves(text: &str) -> Vec<usize> {
    let mut halves = Vec::new();
    if !text.contains("\\ud") && !text.contains("\\uD") {
        return halves;
    }
    let mut from = 0;
    while let Some(at) = text.get(from..).and_then(|rest| rest.find('\\')) {
        let at = from + at;
        let half = |at: usize, of: std::ops::RangeInclusive<u32>| {
            unit(text, at).is_some_and(|unit| of.contains(&unit))
        };
        let length = match unit(text, at) {
            // Two bytes at least; the second one may begin a longer character.
            None => {
                1 + text
                    .get(at + 1..)
                    .and_then(|t| t.chars().next())
                    .map_or(0, char::len_utf8)
            }
            Some(0xD800..=0xDBFF) if half(at + 6, 0xDC00..=0xDFFF) => 12,
            Some(0xD800..=0xDFFF) => {
                halves.push(at);
                6
            }
            Some(_) => 6,
        };
        from = at + length;
    }
    halves
}

/// The UTF-16 unit that is escaped there.
fn unit(text: &str, at: usize) -> Option<u32> {
    let digits = text.get(at..at + 6)?.strip_prefix("\\u")?;
    let is_hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_hex.then(|| u32::from_str_radix(digits, 16).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_pairs_are_replaced_and_whole_pairs_are_not() {
        for (line, expected) in [
            (r#""a\ud83d""#, "a\u{fffd}"),
            (r#""\uDE00b""#, "\u{fffd}b"),
            (r#""\ud83d\ud83d\ude00\ude00""#, "\u{fffd}😀\u{fffd}"),
            (r#""\\ud83d \"\ud83dx""#, "\\ud83d \"\u{fffd}x"),
            (r#""\u00e9\ud83d\u00e9""#, "é\u{fffd}é"),
        ] {
            let text: String = serde_json::from_str(&readable(line.as_bytes())).unwrap();
            assert_eq!(text, expected, "{line}");
        }
    }

    #[test]
    fn what_is_whole_or_no_json_is_left_as_it_is() {
        for line in [
            r#"{"a":"\ud83d\ude00"}"#,
            "\\ud83",
            "\\",
            "\\é\\ud",
            "",
            "\\ud8é",
        ] {
            assert_eq!(readable(line.as_bytes()), line);
        }
        assert_eq!(readable(b"{\"a\":\"\xff\"}"), "{\"a\":\"\u{fffd}\"}");
    }
}
