//! Text in JSON strings: unescaped, and without the numbers of its lines.
//!
//! [`unescape`] accepts a string only if [`Output::push_escaped`] writes the same bytes again; others are
//! kept as they stand. [`strip_numbers`] separates a listing into its text and a description of its line
//! numbers, from which [`push_numbered`] writes it again. Both make the same text look the same, however
//! it was shown, so that repeats of it are found.

use super::super::SegmentError;
use super::json::find_special;
use super::output::{Output, PaddedSlice};
use super::varint::{self, Cursor};

/// Fewer numbered lines in a row keep their numbers: a description would take as much.
const NUMBERED_LINES_MIN: u64 = 3;
/// Digits of a line number. Agents do not print files with more lines.
const NUMBER_DIGITS_MAX: usize = 8;
const ARROW: &[u8] = "→".as_bytes();

/// Unescapes `body` into `out` (emptied first). False if an escape is not the one that
/// [`Output::push_escaped`] would write, or a control character stands bare.
pub(super) fn unescape(body: &[u8], out: &mut Vec<u8>) -> bool {
    out.clear();
    let mut at = 0;
    loop {
        let special = find_special(body, at);
        out.extend_from_slice(&body[at..special]);
        let (Some(b'\\'), Some(&letter)) = (body.get(special), body.get(special + 1)) else {
            return special == body.len();
        };
        at = special + 2;
        out.push(match letter {
            b'"' | b'\\' => letter,
            b'b' => 8,
            b't' => b'\t',
            b'n' => b'\n',
            b'f' => 12,
            b'r' => b'\r',
            b'u' => {
                let Some([b'0', b'0', high @ (b'0' | b'1'), low]) = body.get(at..at + 4) else {
                    return false;
                };
                let low = match low {
                    b'0'..=b'9' => low - b'0',
                    b'a'..=b'f' => low - b'a' + 10,
                    _ => return false,
                };
                let control = (high - b'0') << 4 | low;
                if matches!(control, 8 | 9 | 10 | 12 | 13) {
                    return false;
                }
                at += 4;
                control
            }
            _ => return false,
        });
    }
}

/// How line numbers are written: the width that they are padded to (0: not padded), and whether a
/// tab or an arrow follows.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Style {
    width: u8,
    tab: bool,
}

/// The line number at the front of `line`: how many bytes it takes with the tab or arrow, its value,
/// and its style.
fn line_number(line: &[u8]) -> Option<(usize, u64, Style)> {
    let pad = line
        .iter()
        .take(NUMBER_DIGITS_MAX)
        .take_while(|&&c| c == b' ')
        .count();
    let mut at = pad;
    let mut value = 0_u64;
    while let Some(c @ b'0'..=b'9') = line.get(at) {
        if at - pad == NUMBER_DIGITS_MAX {
            return None;
        }
        value = value * 10 + u64::from(c - b'0');
        at += 1;
    }
    if at == pad || line[pad] == b'0' {
        return None;
    }
    let width = if pad == 0 { 0 } else { at as u8 };
    if line.get(at) == Some(&b'\t') {
        return Some((at + 1, value, Style { width, tab: true }));
    }
    let arrow = line.get(at..)?.starts_with(ARROW);
    arrow.then_some((at + ARROW.len(), value, Style { width, tab: false }))
}

fn digits_of(value: u64) -> usize {
    value.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Takes the numbers out of lines that are numbered one after the other (`cat -n` and the like). `bare`
/// gets the text without them, `numbers` what [`push_numbered`] needs to put them back. False, and
/// nothing of use, if there are no such lines.
pub(super) fn strip_numbers(text: &[u8], bare: &mut Vec<u8>, numbers: &mut Vec<u8>) -> bool {
    bare.clear();
    numbers.clear();
    let (mut is_numbered, mut at, mut plain_from) = (false, 0, 0);
    while at < text.len() {
        // Numbers begin with a space or a digit; most lines do not.
        let candidate = matches!(text[at], b' ' | b'1'..=b'9');
        if candidate && let Some(lines) = numbered_lines(&text[at..]) {
            varint::put(numbers, (at - plain_from) as u64);
            varint::put(numbers, lines.count);
            varint::put(numbers, lines.first);
            numbers.push(lines.style.width << 1 | u8::from(lines.style.tab));
            bare.extend_from_slice(&text[plain_from..at]);
            let mut line_at = at;
            for number in lines.first..lines.first + lines.count {
                line_at += prefix_bytes(number, lines.style);
                let end = line_end(text, line_at);
                bare.extend_from_slice(&text[line_at..end]);
                line_at = end;
            }
            is_numbered = true;
            at = line_at;
            plain_from = at;
            continue;
        }
        at = line_end(text, at);
    }
    if !is_numbered {
        return false;
    }
    bare.extend_from_slice(&text[plain_from..]);
    // A count of 0 lines ends the list.
    varint::put(numbers, (text.len() - plain_from) as u64);
    varint::put(numbers, 0);
    true
}

/// Lines that are numbered one after the other.
struct NumberedLines {
    count: u64,
    first: u64,
    style: Style,
}

/// The numbered lines at the front of `text`.
fn numbered_lines(text: &[u8]) -> Option<NumberedLines> {
    let (_, first, style) = line_number(text)?;
    let mut lines = NumberedLines {
        count: 0,
        first,
        style,
    };
    let mut at = 0;
    while at < text.len() {
        let expected = first + lines.count;
        let Some((taken, number, found)) = line_number(&text[at..]) else {
            break;
        };
        let as_written = taken == prefix_bytes(expected, style) && found.tab == style.tab;
        if number != expected || !as_written {
            break;
        }
        lines.count += 1;
        at = line_end(text, at + taken);
    }
    (lines.count >= NUMBERED_LINES_MIN).then_some(lines)
}

fn prefix_bytes(number: u64, style: Style) -> usize {
    let separator = if style.tab { 1 } else { ARROW.len() };
    digits_of(number).max(usize::from(style.width)) + separator
}

/// The position after the line's newline, or the end.
fn line_end(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    memchr::memchr(b'\n', rest).map_or(text.len(), |newline| from + newline + 1)
}

/// Appends `bare`, escaped, with the line numbers that `numbers` describes.
pub(super) fn push_numbered(
    bare: PaddedSlice<'_>,
    numbers: &mut Cursor<'_>,
    out: &mut Output,
) -> Result<(), SegmentError> {
    const TOO_SHORT: SegmentError = SegmentError::Inconsistent {
        what: "numbered lines exceed their text",
    };
    let mut rest = bare;
    loop {
        let (plain, after) = rest.split_at(numbers.length()?).ok_or(TOO_SHORT)?;
        out.push_escaped(plain)?;
        rest = after;
        let lines = numbers.varint()?;
        if lines == 0 {
            break;
        }
        let first = numbers.varint()?;
        let style = numbers.byte()?;
        let style = Style {
            width: style >> 1,
            tab: style & 1 == 1,
        };
        for index in 0..lines {
            // Only the last line may be empty, so each other one takes bytes of the text.
            if rest.is_empty() && index + 1 < lines {
                return Err(TOO_SHORT);
            }
            let number = first.checked_add(index).ok_or(TOO_SHORT)?;
            push_prefix(number, style, out)?;
            let line_bytes = line_end(rest.bytes(), 0);
            let (line, after) = rest.split_at(line_bytes).ok_or(TOO_SHORT)?;
            out.push_escaped(line)?;
            rest = after;
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(TOO_SHORT)
    }
}

fn push_prefix(number: u64, style: Style, out: &mut Output) -> Result<(), SegmentError> {
    let mut prefix = [b' '; 160];
    let end = 24 + usize::from(style.width);
    let mut at = end;
    let mut value = number;
    loop {
        at -= 1;
        prefix[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    let start = at.min(end - usize::from(style.width));
    let separator = if style.tab { b"\\t".as_slice() } else { ARROW };
    prefix[end..end + separator.len()].copy_from_slice(separator);
    let length = end + separator.len() - start;
    PaddedSlice::new(&prefix, start, length).map_or(Ok(()), |prefix| out.push_slice(prefix))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn escaped(text: &[u8]) -> Vec<u8> {
        let mut out = Output::new(text.len() * 6, Vec::new(), 0);
        out.push_escaped(PaddedSlice::of(text)).unwrap();
        out.into_bytes()
    }

    fn numbers_round_trip(text: &[u8]) -> bool {
        let (mut bare, mut numbers) = (Vec::new(), Vec::new());
        let found = strip_numbers(text, &mut bare, &mut numbers);
        if found {
            let mut out = Output::new(text.len() * 6, Vec::new(), 0);
            let mut cursor = Cursor::new(&numbers);
            push_numbered(PaddedSlice::of(&bare), &mut cursor, &mut out).unwrap();
            assert!(cursor.rest().is_empty());
            assert_eq!(out.into_bytes(), escaped(text));
        }
        found
    }

    #[test]
    fn numbered_listings_lose_their_numbers() {
        for numbered in [
            "1\ta\n2\tb\n3\tc",
            "     1→a\n     2→\n     3→",
            "Output:\n    98\tx\n    99\ty\n   100\tz\n",
            "99998→a\n99999→b\n100000→c\n",
            " 8\ta\n 9\tb\n10\tc\n11\td\nend\n1\ta\n2\tb\n3\tc\nend",
        ] {
            assert!(numbers_round_trip(numbered.as_bytes()), "{numbered}");
        }
        for plain in [
            "",
            "1\ta\n2\tb\n",
            "1\ta\n3\tb\n5\tc\n",
            "0\ta\n1\tb\n",
            "01\ta\n02\tb\n03\tc\n",
        ] {
            assert!(!numbers_round_trip(plain.as_bytes()), "{plain}");
        }
    }

    #[test]
    fn lines_that_are_not_there_end_the_loop() {
        let mut numbers = Vec::new();
        for value in [0, u64::MAX, 1, 0] {
            varint::put(&mut numbers, value);
        }
        let mut out = Output::new(1 << 20, Vec::new(), 0);
        assert!(
            push_numbered(
                PaddedSlice::of(b"a\nb\n"),
                &mut Cursor::new(&numbers),
                &mut out
            )
            .is_err()
        );
    }

    proptest! {
        #[test]
        fn numbers_come_back(parts in prop::collection::vec((0_u64..2000, 0_usize..9, 1_u64..6, any::<bool>(), "[a1\t\n ]{0,6}"), 0..6)) {
            let mut text = String::new();
            for (first, width, lines, tab, rest) in parts {
                for number in first..first + lines {
                    let separator = if tab { '\t' } else { '→' };
                    text.push_str(&format!("{number:width$}{separator}{rest}\n"));
                }
                text.push_str(&rest);
            }
            numbers_round_trip(text.as_bytes());
        }

        #[test]
        fn text_is_unescaped_only_if_it_comes_back(body in "([a\"\\\\/bfnrtu0189cef\\x00-\\x20é]|\\\\u00[01][0-9a-fA-F]|\\\\[\"\\\\/bfnrt]){0,40}") {
            let mut text = Vec::new();
            if unescape(body.as_bytes(), &mut text) {
                prop_assert_eq!(escaped(&text), body.as_bytes());
            }
        }

        #[test]
        fn all_text_escapes_and_unescapes(text: Vec<u8>) {
            let mut back = Vec::new();
            prop_assert!(unescape(&escaped(&text), &mut back));
            prop_assert_eq!(back, text);
        }
    }
}
