//! Text inside JSON strings: unescaped when that can be undone, its line numbers taken out.

use super::super::SegmentError;
use super::json::find_special;
use super::output::{Output, PaddedSlice};
use super::varint::{self, Cursor};

/// Numbered lines that make a run worth its description.
const RUN_LINES_MIN: u64 = 3;
/// Digits of a line number; a file with more lines is no file that an agent prints.
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

/// How a run of line numbers is written: the width they are padded to (0: not padded) and what
/// follows them.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Style {
    width: u8,
    tab: bool,
}

/// The line number at the front of `line`: its bytes with what follows it, its value, its style.
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

/// Takes the numbers out of runs of numbered lines (`cat -n` and the like), so that a file's text
/// is the same bytes however it was shown. `body` gets the text without them, `side` what
/// [`push_numbered`] needs to put them back; false, and nothing of use, if there are no runs.
pub(super) fn strip_numbers(text: &[u8], body: &mut Vec<u8>, side: &mut Vec<u8>) -> bool {
    body.clear();
    side.clear();
    let (mut runs, mut at, mut plain_from) = (0_u64, 0, 0);
    while at < text.len() {
        // Numbers begin with a space or a digit; most lines do not.
        let candidate = matches!(text[at], b' ' | b'1'..=b'9');
        if candidate && let Some(run) = numbered_run(&text[at..]) {
            varint::put(side, (at - plain_from) as u64);
            varint::put(side, run.lines);
            varint::put(side, run.first);
            side.push(run.style.width << 1 | u8::from(run.style.tab));
            body.extend_from_slice(&text[plain_from..at]);
            let mut line_at = at;
            for number in run.first..run.first + run.lines {
                line_at += prefix_bytes(number, run.style);
                let end = line_end(text, line_at);
                body.extend_from_slice(&text[line_at..end]);
                line_at = end;
            }
            runs += 1;
            at = line_at;
            plain_from = at;
            continue;
        }
        at = line_end(text, at);
    }
    if runs == 0 {
        return false;
    }
    body.extend_from_slice(&text[plain_from..]);
    // A run of no lines ends the list.
    varint::put(side, (text.len() - plain_from) as u64);
    varint::put(side, 0);
    true
}

struct Run {
    lines: u64,
    first: u64,
    style: Style,
}

fn numbered_run(text: &[u8]) -> Option<Run> {
    let (_, first, style) = line_number(text)?;
    let mut run = Run {
        lines: 0,
        first,
        style,
    };
    let mut at = 0;
    while at < text.len() {
        let expected = first + run.lines;
        let Some((taken, number, found)) = line_number(&text[at..]) else {
            break;
        };
        let as_written = taken == prefix_bytes(expected, style) && found.tab == style.tab;
        if number != expected || !as_written {
            break;
        }
        run.lines += 1;
        at = line_end(text, at + taken);
    }
    (run.lines >= RUN_LINES_MIN).then_some(run)
}

fn prefix_bytes(number: u64, style: Style) -> usize {
    let separator = if style.tab { 1 } else { ARROW.len() };
    digits_of(number).max(usize::from(style.width)) + separator
}

/// The position behind the line's newline, or the end.
fn line_end(text: &[u8], from: usize) -> usize {
    let rest = text.get(from..).unwrap_or_default();
    memchr::memchr(b'\n', rest).map_or(text.len(), |newline| from + newline + 1)
}

/// Appends `body`, escaped, with the line numbers that `side` describes.
pub(super) fn push_numbered(
    body: PaddedSlice<'_>,
    side: &mut Cursor<'_>,
    out: &mut Output,
) -> Result<(), SegmentError> {
    const TOO_SHORT: SegmentError = SegmentError::Inconsistent {
        what: "numbered lines exceed their text",
    };
    let mut rest = body;
    loop {
        let (plain, after) = rest.split_at(side.length()?).ok_or(TOO_SHORT)?;
        out.push_escaped(plain)?;
        rest = after;
        let lines = side.varint()?;
        if lines == 0 {
            break;
        }
        let first = side.varint()?;
        let style = side.byte()?;
        let style = Style {
            width: style >> 1,
            tab: style & 1 == 1,
        };
        for index in 0..lines {
            // Only a last line may be empty and without a newline.
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
    PaddedSlice::new(&prefix, start, length).map_or(Ok(()), |prefix| out.push_stretch(prefix))
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
        let (mut body, mut side) = (Vec::new(), Vec::new());
        let found = strip_numbers(text, &mut body, &mut side);
        if found {
            let mut out = Output::new(text.len() * 6, Vec::new(), 0);
            let mut cursor = Cursor::new(&side);
            push_numbered(PaddedSlice::of(&body), &mut cursor, &mut out).unwrap();
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
        let mut side = Vec::new();
        for value in [0, u64::MAX, 1, 0] {
            varint::put(&mut side, value);
        }
        let mut out = Output::new(1 << 20, Vec::new(), 0);
        assert!(
            push_numbered(
                PaddedSlice::of(b"a\nb\n"),
                &mut Cursor::new(&side),
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
