//! Shapes: what is left of a line when its values are taken out.
//!
//! A shape is the line's own bytes with one marker byte in the place of each value. Markers are control
//! bytes, which JSON allows nowhere outside strings except as white space. The column of a value follows from
//! its marker and from the key before it, so a shape needs no column numbers and is the same in every
//! segment. An array's element has a shape of its own. If it has a value before any key, its shape begins
//! with its *context*, the array's key, and [`CONTEXT`]; these bytes are not written back.
//!
//! The splitter writes shapes. [`compile`] reads them for the joiner, as lists of steps.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::ops::Range;

use xxhash_rust::xxh3::Xxh3Default;

use super::super::SegmentError;
use super::super::header::check_max;
use super::columns::HashMapOf;
use super::forms::Base64;
use crate::limits::{SEGMENT_COLUMNS_MAX, SHAPE_STEPS_MAX};

/// Ends a shape.
pub(super) const END: u8 = 0x00;
/// Ends the context that an element's shape may begin with.
pub(super) const CONTEXT: u8 = 0x17;

/// What a column's values are. The number is the marker in shapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// A string, unescaped.
    Text = 0x01,
    /// A string whose spelling is not canonical, as it stands.
    Verbatim = 0x02,
    /// A UUID.
    Uuid = 0x03,
    /// A time in seconds, the zone being part of the shape.
    TimeS = 0x04,
    /// A time in milliseconds.
    TimeMs = 0x05,
    /// A time in microseconds.
    TimeUs = 0x06,
    /// 22 base-58 digits after a prefix: `toolu_01…`, `msg_01…`, `req_01…`.
    Base58 = 0x07,
    /// 24 base-62 digits after a prefix: `call_…`.
    Base62 = 0x08,
    /// A string, unescaped and without the numbers of its lines.
    Numbered = 0x0b,
    /// An array of a patch's lines: their first characters, and the rest of all lines as one text.
    PatchLines = 0x0c,
    /// Base64, decoded.
    Base64 = 0x0e,
    /// An integer.
    Integer = 0x0f,
    /// Another number, as it stands.
    Number = 0x10,
    /// An array: its length, and the shape of each element.
    Array = 0x11,
    /// A whole line. In no shape: such lines have none.
    Raw = 0x12,
    /// 16 hex digits.
    Hex16 = 0x13,
    /// 24 hex digits.
    Hex24 = 0x14,
    /// 32 hex digits.
    Hex32 = 0x15,
    /// Base64 of the URL-safe alphabet, decoded.
    Base64Url = 0x16,
}

impl Kind {
    fn from_marker(byte: u8) -> Option<Self> {
        Some(match byte {
            0x01 => Self::Text,
            0x02 => Self::Verbatim,
            0x03 => Self::Uuid,
            0x04 => Self::TimeS,
            0x05 => Self::TimeMs,
            0x06 => Self::TimeUs,
            0x07 => Self::Base58,
            0x08 => Self::Base62,
            0x0b => Self::Numbered,
            0x0c => Self::PatchLines,
            0x0e => Self::Base64,
            0x0f => Self::Integer,
            0x10 => Self::Number,
            0x11 => Self::Array,
            0x13 => Self::Hex16,
            0x14 => Self::Hex24,
            0x15 => Self::Hex32,
            0x16 => Self::Base64Url,
            _ => return None,
        })
    }

    /// The alphabet, if this is base64. Its decoded bytes are among the blobs.
    pub(super) fn base64(self) -> Option<Base64> {
        match self {
            Self::Base64 => Some(Base64::Standard),
            Self::Base64Url => Some(Base64::Url),
            _ => None,
        }
    }

    /// Hex digits of a value.
    pub(super) fn hex_digits(self) -> usize {
        match self {
            Self::Hex16 => 16,
            Self::Hex24 => 24,
            _ => 32,
        }
    }
}

/// A step of writing a line back.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// These bytes of the shapes.
    Literal { start: u32, bytes: u32 },
    /// The next value of this column.
    Value { kind: Kind, column: u16 },
}

/// The shapes of a segment, ready to write lines back.
#[derive(Debug, Default)]
pub(super) struct Shapes {
    steps: Vec<Step>,
    /// Where each shape's steps end.
    ends: Vec<u32>,
    columns: usize,
}

impl Shapes {
    /// The steps of a shape, if there is one of this number.
    pub(super) fn steps(&self, shape: usize) -> Option<&[Step]> {
        let end = *self.ends.get(shape)? as usize;
        let start = match shape.checked_sub(1) {
            Some(before) => *self.ends.get(before)? as usize,
            None => 0,
        };
        self.steps.get(start..end)
    }

    /// Number of columns, the one for lines without a shape included.
    pub(super) fn columns(&self) -> usize {
        self.columns
    }

    fn push(&mut self, step: Step) -> Result<(), SegmentError> {
        check_max("the steps of shapes", self.steps.len(), SHAPE_STEPS_MAX - 1)?;
        self.steps.push(step);
        Ok(())
    }

    fn push_literal(&mut self, Range { start, end }: Range<usize>) -> Result<(), SegmentError> {
        const TOO_LONG: SegmentError = SegmentError::Inconsistent {
            what: "shapes of gigabytes",
        };
        let bytes = u32::try_from(end - start).map_err(|_| TOO_LONG)?;
        let start = u32::try_from(start).map_err(|_| TOO_LONG)?;
        self.push(Step::Literal { start, bytes })
    }

    fn end_shape(&mut self) -> Result<(), SegmentError> {
        check_max("the number of shapes", self.ends.len(), SHAPE_STEPS_MAX - 1)?;
        self.ends.push(self.steps.len() as u32);
        Ok(())
    }
}

/// Numbers keys, and columns, in the order in which they first occur.
#[derive(Default)]
struct ColumnNumbers<'a> {
    keys: HashMap<&'a [u8], u32, BuildHasherDefault<Xxh3Default>>,
    columns: HashMapOf<u64, u16>,
}

impl<'a> ColumnNumbers<'a> {
    /// The number of a key. It is looked up once where the key changes, not for each value: a hostile shape
    /// may have a key of megabytes before as many values.
    fn key(&mut self, key: &'a [u8]) -> u32 {
        let next = self.keys.len() as u32;
        *self.keys.entry(key).or_insert(next)
    }

    /// The column of a kind and the number of a key, and whether it is a new one.
    fn column(&mut self, kind: Kind, key: u32) -> Result<(u16, bool), SegmentError> {
        let next = self.columns.len();
        let column = *self
            .columns
            .entry(u64::from(key) << 8 | kind as u64)
            .or_insert(next as u16);
        if self.columns.len() > SEGMENT_COLUMNS_MAX {
            return Err(SegmentError::TooLarge {
                what: "the number of columns",
                found: self.columns.len() as u64,
                max: SEGMENT_COLUMNS_MAX as u64,
            });
        }
        Ok((column, self.columns.len() > next))
    }
}

/// Reads shapes, each ended by [`END`]. Calls `name_column(kind, key)` once for each column, in the order
/// of their numbers, first for `(Raw, "")`.
pub(super) fn compile<'a>(
    text: &'a [u8],
    mut name_column: impl FnMut(Kind, &'a [u8]),
) -> Result<Shapes, SegmentError> {
    let mut shapes = Shapes::default();
    let mut numbers = ColumnNumbers::default();
    let nameless = numbers.key(b"");
    numbers.column(Kind::Raw, nameless)?;
    name_column(Kind::Raw, b"");
    let mut start = 0;
    while start < text.len() {
        let length = memchr::memchr(END, &text[start..]).ok_or(SegmentError::Inconsistent {
            what: "a shape has no end",
        })?;
        let end = start + length;
        let shape = &text[start..end];
        let (mut key, mut key_number, mut at): (&[u8], u32, usize) =
            match memchr::memchr(CONTEXT, shape) {
                Some(context) => {
                    let key = &shape[..context];
                    (key, numbers.key(key), start + context + 1)
                }
                None => (b"", nameless, start),
            };
        let mut literal_from = at;
        while at < end {
            let byte = text[at];
            if byte >= 0x20 || matches!(byte, b'\t' | b'\n' | b'\r') {
                at += 1;
                continue;
            }
            let kind = Kind::from_marker(byte).ok_or(SegmentError::Inconsistent {
                what: "a shape has an unknown marker",
            })?;
            if literal_from < at {
                shapes.push_literal(literal_from..at)?;
                if let Some(found) = last_key(&text[literal_from..at]) {
                    (key, key_number) = (found, numbers.key(found));
                }
            }
            let (column, is_new) = numbers.column(kind, key_number)?;
            if is_new {
                name_column(kind, key);
            }
            shapes.push(Step::Value { kind, column })?;
            at += 1;
            literal_from = at;
        }
        if literal_from < end {
            shapes.push_literal(literal_from..end)?;
        }
        shapes.end_shape()?;
        start = end + 1;
    }
    shapes.columns = numbers.columns.len();
    Ok(shapes)
}

/// The last key in a piece of a shape: what is in quotes before the last `":`, white space aside. A value
/// that stayed in the shape may look like a key. That does no harm: the splitter uses this function too.
pub(super) fn last_key(literal: &[u8]) -> Option<&[u8]> {
    let mut end = literal.len();
    loop {
        let colon = memchr::memrchr(b':', &literal[..end])?;
        let before = literal[..colon].trim_ascii_end();
        if let Some((b'"', inner)) = before.split_last() {
            return match memchr::memrchr(b'"', inner) {
                Some(open) => inner.get(open + 1..),
                None => Some(inner),
            };
        }
        end = colon;
    }
}
