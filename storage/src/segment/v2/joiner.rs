//! Puts lines together again from shapes and columns: undoes [`super::splitter`].
//!
//! For each line, the joiner goes through the steps of its shape. A literal is copied, and a value is read
//! from its column and written in its kind's form.
//!
//! Every step either writes bytes, of which there are at most as many as the segment's header says, or
//! consumes at least one byte of a stream. So no input keeps the joiner busy for long.

use std::collections::HashMap;

use super::super::SegmentError;
use super::Base;
use super::columns::{CODE_BASE, CODE_NEW, CODE_REPEAT, RECENT_MAX, REPEAT_BYTES_MIN};
use super::forms::{self, Id, Time};
use super::ids::IdReader;
use super::output::{Output, PaddedSlice};
use super::shape::{Kind, Shapes, Step};
use super::text::push_numbered;
use super::varint::{Cursor, unzigzag};
use crate::limits::JSON_DEPTH_MAX;

/// Where a string's bytes are.
#[derive(Debug, Clone, Copy, Default)]
struct StringRef {
    /// The number of the column whose text has them, or [`BLOBS`] or [`BASE_BLOBS`].
    space: u32,
    start: u32,
    length: u32,
}

/// The segment's blobs.
const BLOBS: u32 = u32::MAX;
/// The base's blobs. `start` is the number of the blob, which is meant as a whole.
const BASE_BLOBS: u32 = u32::MAX - 1;

/// A column's streams and what its next value depends on.
#[derive(Debug, Default)]
pub(super) struct ColumnReader<'a> {
    pub(super) codes: Cursor<'a>,
    pub(super) aux: Cursor<'a>,
    pub(super) text: &'a [u8],
    text_at: usize,
    recent: [StringRef; RECENT_MAX],
    recent_count: usize,
    last_id: Id,
    /// Whether integers are differences, once the first one was read.
    differences: Option<bool>,
    last_integer: i64,
}

impl<'a> ColumnReader<'a> {
    pub(super) fn new(codes: &'a [u8], aux: &'a [u8], text: &'a [u8]) -> Self {
        Self {
            codes: Cursor::new(codes),
            aux: Cursor::new(aux),
            text,
            ..Self::default()
        }
    }

    /// Makes a string the most recent one.
    fn remember(&mut self, place: StringRef) {
        self.recent_count = (self.recent_count + 1).min(RECENT_MAX);
        self.recent.copy_within(..RECENT_MAX - 1, 1);
        self.recent[0] = place;
    }

    fn integer(&mut self) -> Result<i64, SegmentError> {
        let differences = match self.differences {
            Some(known) => known,
            None => *self.differences.insert(self.codes.byte()? != 0),
        };
        let value = unzigzag(self.codes.varint()?);
        if !differences {
            return Ok(value);
        }
        self.last_integer = self.last_integer.wrapping_add(value);
        Ok(self.last_integer)
    }
}

/// The streams of a segment while its lines are put together.
pub(super) struct Joiner<'a> {
    pub(super) shapes: &'a Shapes,
    pub(super) shape_text: &'a [u8],
    pub(super) lines: Cursor<'a>,
    pub(super) columns: Vec<ColumnReader<'a>>,
    pub(super) ids: IdReader<'a>,
    pub(super) blobs: &'a [u8],
    pub(super) base: Option<&'a Base>,
    pub(super) state: State,
}

/// What later values may refer back to.
#[derive(Debug, Default)]
pub(super) struct State {
    /// New strings of [`REPEAT_BYTES_MIN`] and more.
    strings: Vec<StringRef>,
    blobs_at: usize,
    /// Blobs of the base that were needed so far.
    base_blobs: HashMap<u32, Vec<u8>>,
    last_ms: i64,
}

const NO_COLUMN: SegmentError = SegmentError::Inconsistent {
    what: "a value has no column",
};
const NO_STRING: SegmentError = SegmentError::Inconsistent {
    what: "a string refers to what is not there",
};
const NO_FORM: SegmentError = SegmentError::Inconsistent {
    what: "a value is out of its form's range",
};

impl<'a> Joiner<'a> {
    /// Appends the next line to `out`.
    pub(super) fn line(&mut self, out: &mut Output) -> Result<(), SegmentError> {
        match self.lines.length()?.checked_sub(1) {
            Some(shape) => self.shape(shape, 0, out),
            None => {
                let place = self.string(Kind::Raw, 0)?;
                out.push_slice(self.bytes(place)?)
            }
        }
    }

    fn shape(&mut self, shape: usize, depth: usize, out: &mut Output) -> Result<(), SegmentError> {
        let steps = self.shapes.steps(shape).ok_or(SegmentError::Inconsistent {
            what: "a line has no such shape",
        })?;
        for step in steps {
            match step {
                Step::Literal { start, bytes } => {
                    let (start, bytes) = (*start as usize, *bytes as usize);
                    let literal = PaddedSlice::new(self.shape_text, start, bytes);
                    out.push_slice(literal.ok_or(NO_STRING)?)?;
                }
                Step::Value { kind, column } => {
                    self.value(*kind, usize::from(*column), depth, out)?;
                }
            }
        }
        Ok(())
    }

    fn value(
        &mut self,
        kind: Kind,
        index: usize,
        depth: usize,
        out: &mut Output,
    ) -> Result<(), SegmentError> {
        match kind {
            Kind::Text
            | Kind::Verbatim
            | Kind::Number
            | Kind::Raw
            | Kind::Numbered
            | Kind::PatchLines
            | Kind::Base64
            | Kind::Base64Url => self.text(kind, index, out),
            Kind::Integer => {
                let value = self.column(index)?.integer()?;
                out.push_short(|text| forms::write_integer(value, text))
            }
            Kind::TimeS | Kind::TimeMs | Kind::TimeUs => self.time(kind, index, out),
            Kind::Array => self.array(index, depth, out),
            Kind::Uuid | Kind::Base58 | Kind::Base62 | Kind::Hex16 | Kind::Hex24 | Kind::Hex32 => {
                self.id(kind, index, out)
            }
        }
    }

    /// Writes the next string of a column in its kind's form.
    fn text(&mut self, kind: Kind, index: usize, out: &mut Output) -> Result<(), SegmentError> {
        let place = self.string(kind, index)?;
        if let Some(alphabet) = kind.base64() {
            let bytes = self.bytes(place)?.bytes();
            return out.with(bytes.len().div_ceil(3) * 4, |out| {
                forms::write_base64(alphabet, bytes, out)
            });
        }
        match kind {
            Kind::Text => out.push_escaped(self.bytes(place)?),
            Kind::Numbered => {
                let mut aux = self.column(index)?.aux;
                push_numbered(self.bytes(place)?, &mut aux, out)?;
                self.column(index)?.aux = aux;
                Ok(())
            }
            Kind::PatchLines => {
                let column = self.column(index)?;
                let count = column.aux.length()?;
                let firsts = column.aux.take(count)?;
                push_patch(firsts, self.bytes(place)?, out)
            }
            _ => out.push_slice(self.bytes(place)?),
        }
    }

    #[inline]
    fn column(&mut self, index: usize) -> Result<&mut ColumnReader<'a>, SegmentError> {
        self.columns.get_mut(index).ok_or(NO_COLUMN)
    }

    fn id(&mut self, kind: Kind, index: usize, out: &mut Output) -> Result<(), SegmentError> {
        let column = self.columns.get_mut(index).ok_or(NO_COLUMN)?;
        let id = self.ids.next(
            kind,
            &mut column.last_id,
            &mut column.codes,
            self.state.last_ms,
        )?;
        match kind {
            Kind::Uuid => out.push_short(|text| forms::write_uuid(id.low, text)),
            Kind::Base58 => out.push_short(|text| forms::write_b58(id.low, text)),
            Kind::Base62 => {
                let mut fits = false;
                out.push_short(|text| {
                    fits = forms::write_b62(id, text);
                    forms::B62_BYTES
                })?;
                if fits { Ok(()) } else { Err(NO_FORM) }
            }
            _ => out.push_short(|text| forms::write_hex(id.low, kind.hex_digits(), text)),
        }
    }

    fn time(&mut self, kind: Kind, index: usize, out: &mut Output) -> Result<(), SegmentError> {
        let column = self.columns.get_mut(index).ok_or(NO_COLUMN)?;
        let ms = self
            .state
            .last_ms
            .wrapping_add(unzigzag(column.codes.varint()?));
        let us = if kind == Kind::TimeUs {
            column.aux.varint()?
        } else {
            0
        };
        let us = u16::try_from(us)
            .ok()
            .filter(|&us| us < 1000)
            .ok_or(NO_FORM)?;
        let digits = match kind {
            Kind::TimeS => 0,
            Kind::TimeMs => 3,
            _ => 6,
        };
        self.state.last_ms = ms;
        let before = out.len();
        out.push_short(|text| forms::write_time(Time { ms, us, digits }, text).unwrap_or(0))?;
        if out.len() > before {
            Ok(())
        } else {
            Err(NO_FORM)
        }
    }

    fn array(&mut self, index: usize, depth: usize, out: &mut Output) -> Result<(), SegmentError> {
        if depth == JSON_DEPTH_MAX {
            return Err(SegmentError::Inconsistent {
                what: "arrays nest too deep",
            });
        }
        let count = self.column(index)?.codes.varint()?;
        // All its elements' shapes come before those of arrays inside: read on after them from here.
        let mut shapes = self.column(index)?.aux;
        let mut rest = shapes;
        for _ in 0..count {
            rest.varint()?;
        }
        self.column(index)?.aux = rest;
        out.push(b"[")?;
        for element in 0..count {
            if element > 0 {
                out.push(b",")?;
            }
            let shape = shapes.length()?;
            self.shape(shape, depth + 1, out)?;
        }
        out.push(b"]")
    }

    /// Reads the next string of a column.
    fn string(&mut self, kind: Kind, index: usize) -> Result<StringRef, SegmentError> {
        let column = self.columns.get_mut(index).ok_or(NO_COLUMN)?;
        let code = column.codes.varint()?;
        if code < CODE_REPEAT {
            let rank = code as usize;
            if rank >= column.recent_count {
                return Err(NO_STRING);
            }
            let place = column.recent[rank];
            column.recent.copy_within(..rank, 1);
            column.recent[0] = place;
            return Ok(place);
        }
        let place = match code {
            CODE_REPEAT => {
                let distance = column.aux.length()?;
                let position = self.state.strings.len().checked_sub(distance);
                *position
                    .and_then(|at| self.state.strings.get(at))
                    .ok_or(NO_STRING)?
            }
            CODE_BASE => {
                let number = u32::try_from(column.aux.varint()?).map_err(|_| NO_STRING)?;
                let base = self.base.ok_or(NO_STRING)?;
                if let std::collections::hash_map::Entry::Vacant(vacant) =
                    self.state.base_blobs.entry(number)
                {
                    vacant.insert(base.blob(number as usize)?);
                }
                StringRef {
                    space: BASE_BLOBS,
                    start: number,
                    length: 0,
                }
            }
            _ => {
                let length = usize::try_from(code - CODE_NEW).map_err(|_| NO_STRING)?;
                let (space, at, all) = if kind.base64().is_some() {
                    (BLOBS, &mut self.state.blobs_at, self.blobs.len())
                } else {
                    (index as u32, &mut column.text_at, column.text.len())
                };
                let start = *at;
                if length > all - start {
                    return Err(NO_STRING);
                }
                *at += length;
                let place = StringRef {
                    space,
                    start: start as u32,
                    length: length as u32,
                };
                if length >= REPEAT_BYTES_MIN {
                    self.state.strings.push(place);
                }
                place
            }
        };
        column.remember(place);
        Ok(place)
    }

    fn bytes(&self, place: StringRef) -> Result<PaddedSlice<'_>, SegmentError> {
        let space = match place.space {
            BASE_BLOBS => {
                let blob = self.state.base_blobs.get(&place.start);
                return blob.map(|blob| PaddedSlice::of(blob)).ok_or(NO_STRING);
            }
            BLOBS => self.blobs,
            column => self.columns.get(column as usize).ok_or(NO_COLUMN)?.text,
        };
        PaddedSlice::new(space, place.start as usize, place.length as usize).ok_or(NO_STRING)
    }
}

/// Writes the array of a patch's lines.
fn push_patch(firsts: &[u8], body: PaddedSlice<'_>, out: &mut Output) -> Result<(), SegmentError> {
    let mut rest = body;
    out.push(b"[")?;
    for (index, first) in firsts.iter().enumerate() {
        let newline = memchr::memchr(b'\n', rest.bytes()).ok_or(NO_STRING)?;
        let (line, after) = rest.split_at(newline).ok_or(NO_STRING)?;
        let (_, after) = after.split_at(1).ok_or(NO_STRING)?;
        rest = after;
        out.push(if index == 0 { b"\"" } else { b",\"" })?;
        out.push_escaped_byte(*first)?;
        out.push_escaped(line)?;
        out.push(b"\"")?;
    }
    if rest.is_empty() {
        out.push(b"]")
    } else {
        Err(NO_STRING)
    }
}
