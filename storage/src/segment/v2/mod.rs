//! Codec version 2: lines taken apart by what they are, zstd over the parts.
//!
//! Encoding, step by step:
//! 1. Each line that is JSON becomes a *shape* (its keys, punctuation and spacing) and values. The
//!    values go to columns by kind and key: identifiers as bits with references back, times and
//!    integers as differences, text unescaped and without line numbers, base64 as bytes. A line
//!    that is not JSON is kept whole, as is any value that would not come back as it was.
//! 2. The random bits of identifiers are set apart, they do not compress. Decoded base64 is
//!    compressed lightly, it hardly does. Shapes, columns and text are one stream, compressed
//!    with the project's base as dictionary, if there is one.
//! 3. The result is decoded again. If a byte differs, all lines are kept whole.
//!
//! Decoding inflates the stream and puts line after line together. A digest for each group of
//! messages says which of them are damaged.

mod anatomy;
mod base;
mod body;
mod builder;
mod columns;
mod copies;
mod forms;
pub(super) mod frame;
mod ideas;
mod ids;
mod joiner;
mod json;
mod output;
mod shape;
mod splitter;
mod stretch;
#[cfg(test)]
mod tests;
mod text;
mod varint;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

pub(super) use anatomy::anatomy;
pub use base::Base;
pub use builder::{BaseBuilder, BaseCollector, TakenApart};
pub use ideas::Ideas;

pub(super) use self::body::FLAG_BASE;
pub(super) use self::body::Inflated;
use self::body::{Body, Main, Parts};
use self::copies::ShortestCopy;
use self::output::Output;
use self::splitter::Splitter;
use self::varint::{Cursor, put, unzigzag, zigzag};
use super::header::{CodecVersion, Header, check_max};
use super::{DecodeLimits, DecodedSegment, Decoder, Entry, SegmentError};
use crate::limits::{SEGMENT_BYTES_MAX, SEGMENT_MESSAGES_MAX};

/// Messages that share a digest, at most …
const GROUP_MESSAGES_MAX: usize = 64;
/// … and payload bytes after which a group is closed.
const GROUP_BYTES_MIN: usize = 64 << 10;
/// Level for decoded base64 in the quick tier and in bases: there is little to find.
const BLOB_LEVEL: i32 = 3;
/// Level for it in the deep tier. Only zstd's most patient levels find anything in images, up to
/// 8 % of them.
const BLOB_LEVEL_DEEP: i32 = 19;
/// The deep tier's level, tuned for its speed; see `docs/design/codec.md` for what others bring.
pub const DEEP_LEVEL: i32 = 16;
/// Levels from here on are the deep tier's.
const DEEP_LEVEL_MIN: i32 = 13;

/// Encodes segments at one level with one base. Making one costs as much as compressing the
/// base's text, so keep it for a run.
pub struct Encoder<'b> {
    base: Option<&'b Base>,
    ideas: Ideas,
    shortest_copy: ShortestCopy,
    index: copies::Index<'b>,
    main: frame::Compressor,
    blobs: frame::Compressor,
    /// Reads each segment back.
    decoder: Decoder,
}

impl std::fmt::Debug for Encoder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("base", &self.base.map(Base::id))
            .finish_non_exhaustive()
    }
}

impl<'b> Encoder<'b> {
    /// An encoder at a zstd level, 1 to 22.
    ///
    /// # Errors
    /// What the compressor says.
    pub fn new(level: i32, base: Option<&'b Base>) -> Result<Self, SegmentError> {
        Self::with_ideas(level, base, Ideas::ALL)
    }

    /// As [`Encoder::new`], without some of the codec's ideas: for measuring what they bring.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn with_ideas(
        level: i32,
        base: Option<&'b Base>,
        ideas: Ideas,
    ) -> Result<Self, SegmentError> {
        let (head, text) = match base {
            None => (&[][..], Cow::Borrowed(&[][..])),
            Some(base) => (base.head(), base.text()?),
        };
        Ok(Self {
            base,
            ideas,
            shortest_copy: shortest_copy(level),
            index: copies::Index::new(text, head.len()),
            main: frame::Compressor::new(level, head)?,
            blobs: frame::Compressor::new(blob_level(level), &[])?,
            decoder: Decoder::default(),
        })
    }

    /// Encodes messages, at least one, as a segment, and decodes it again to make sure.
    ///
    /// # Errors
    /// [`SegmentError::Empty`], [`SegmentError::TooLarge`] beyond the format's bounds, or what
    /// the compressor says.
    pub fn encode(&mut self, entries: &[Entry<'_>]) -> Result<Vec<u8>, SegmentError> {
        self.encode_checked(entries).map(|(segment, _)| segment)
    }

    /// As [`Encoder::encode`], with what the segment decodes to: for callers who compare it with
    /// messages of their own.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_checked(
        &mut self,
        entries: &[Entry<'_>],
    ) -> Result<(Vec<u8>, DecodedSegment), SegmentError> {
        let header = header_of(entries)?;
        // What goes wrong in the first attempt goes wrong for the lines' sake: an unlucky hash,
        // columns without number. Kept whole, any line comes back.
        if let Ok(segment) = self.encode_split(header, entries, self.ideas)
            && let Some(decoded) = self.comes_back(&segment, entries)
        {
            return Ok((segment, decoded));
        }
        let segment = self.encode_split(header, entries, Ideas::WHOLE_LINES)?;
        match self.comes_back(&segment, entries) {
            Some(decoded) => Ok((segment, decoded)),
            None => Err(SegmentError::Inconsistent {
                what: "an encoded segment does not come back",
            }),
        }
    }

    fn encode_split(
        &mut self,
        header: Header,
        entries: &[Entry<'_>],
        ideas: Ideas,
    ) -> Result<Vec<u8>, SegmentError> {
        let parts = split(entries, self.base, ideas)?;
        let (raw_bytes, messages) = (header.raw_bytes as usize, entries.len());
        let main_max = body::main_bytes_max(raw_bytes, messages);
        check_max("the size of the columns", parts.main.len(), main_max)?;
        let packed = ideas
            .copies
            .then(|| copies::take_out(&self.index, &parts.main, self.shortest_copy))
            .flatten();
        let main_frame = self.main.compress(packed.as_ref().unwrap_or(&parts.main))?;
        let blob_frame = if parts.blobs.is_empty() {
            Vec::new()
        } else {
            self.blobs.compress(&parts.blobs)?
        };
        let digests = digests(entries);
        Ok(header.seal(&body::seal(
            &parts,
            &digests,
            self.base,
            packed.map(|packed| packed.len()),
            &main_frame,
            &blob_frame,
        )))
    }

    /// What the segment decodes to, if that is `entries`.
    fn comes_back(&mut self, segment: &[u8], entries: &[Entry<'_>]) -> Option<DecodedSegment> {
        let limits = DecodeLimits::default();
        let whole = 0..entries.len();
        let decoded = self
            .decoder
            .decode_range(segment, whole, &limits, self.base);
        let decoded = decoded.ok()?;
        let same = decoded.len() == entries.len()
            && entries.iter().enumerate().all(|(index, entry)| {
                decoded
                    .payload(index)
                    .is_some_and(|payload| payload == entry.payload)
                    && decoded.received_ms(index) == Some(entry.received_ms)
            });
        same.then_some(decoded)
    }
}

fn shortest_copy(level: i32) -> ShortestCopy {
    if is_deep(level) {
        ShortestCopy::DEEP
    } else {
        ShortestCopy::QUICK
    }
}

fn is_deep(level: i32) -> bool {
    level >= DEEP_LEVEL_MIN
}

fn blob_level(level: i32) -> i32 {
    if is_deep(level) {
        level.max(BLOB_LEVEL_DEEP)
    } else {
        level.min(BLOB_LEVEL)
    }
}

fn header_of(entries: &[Entry<'_>]) -> Result<Header, SegmentError> {
    if entries.is_empty() {
        return Err(SegmentError::Empty);
    }
    check_max(
        "the number of messages",
        entries.len(),
        SEGMENT_MESSAGES_MAX,
    )?;
    let raw_bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
    check_max("the size of the messages", raw_bytes, SEGMENT_BYTES_MAX)?;
    Ok(Header {
        version: CodecVersion::V2,
        messages: entries.len() as u32,
        raw_bytes: raw_bytes as u32,
    })
}

fn split(entries: &[Entry<'_>], base: Option<&Base>, ideas: Ideas) -> Result<Parts, SegmentError> {
    let base_ids = base.and_then(Base::id_positions);
    let raw_bytes = entries.iter().map(|entry| entry.payload.len()).sum();
    let shapes_bytes_max = body::main_bytes_max(raw_bytes, entries.len());
    let base_blobs = base.map(Base::blob_numbers);
    let mut splitter = Splitter::new(base_blobs, base_ids, ideas, shapes_bytes_max);
    for entry in entries {
        splitter.line(entry.payload);
    }
    if splitter.shapes_overflow {
        return Err(SegmentError::TooLarge {
            what: "the size of the shapes",
            found: splitter.shapes.len() as u64,
            max: shapes_bytes_max as u64,
        });
    }
    body::lay_out(splitter, &received_times(entries))
}

/// What a base is made from: the parts as they are without one.
fn split_for_base(entries: &[Entry<'_>]) -> Result<Parts, SegmentError> {
    header_of(entries)?;
    split(entries, None, Ideas::ALL).or_else(|_| split(entries, None, Ideas::WHOLE_LINES))
}

/// Received times as runs: how many messages, and how much later than those before.
fn received_times(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut times = Vec::new();
    let mut before_ms = 0_i64;
    for run in entries.chunk_by(|a, b| a.received_ms == b.received_ms) {
        let Some(first) = run.first() else { continue };
        put(&mut times, run.len() as u64);
        put(
            &mut times,
            zigzag(first.received_ms.wrapping_sub(before_ms)),
        );
        before_ms = first.received_ms;
    }
    times
}

fn read_received_times(times: &[u8], messages: usize) -> Result<Vec<i64>, SegmentError> {
    let mut cursor = Cursor::new(times);
    let mut received_ms = Vec::with_capacity(messages);
    let mut now_ms = 0_i64;
    while received_ms.len() < messages {
        let count = cursor.length()?;
        now_ms = now_ms.wrapping_add(unzigzag(cursor.varint()?));
        if count == 0 || count > messages - received_ms.len() {
            return Err(SegmentError::Inconsistent {
                what: "times do not fit the messages",
            });
        }
        received_ms.resize(received_ms.len() + count, now_ms);
    }
    Ok(received_ms)
}

/// Decides after which messages a digest is due. Both sides see the same lengths.
#[derive(Debug, Default)]
struct Grouping {
    messages: usize,
    bytes: usize,
}

impl Grouping {
    fn closes_after(&mut self, payload_bytes: usize) -> bool {
        self.messages += 1;
        self.bytes += payload_bytes;
        let closes = self.messages == GROUP_MESSAGES_MAX || self.bytes >= GROUP_BYTES_MIN;
        if closes {
            *self = Self::default();
        }
        closes
    }
}

fn digest(bytes: &[u8]) -> u32 {
    (xxh3_64(bytes) & 0xffff_ffff) as u32
}

fn digests(entries: &[Entry<'_>]) -> Vec<u32> {
    let mut grouping = Grouping::default();
    let mut digests = Vec::new();
    let mut group = Vec::new();
    for (index, entry) in entries.iter().enumerate() {
        group.extend_from_slice(entry.payload);
        if grouping.closes_after(entry.payload.len()) || index + 1 == entries.len() {
            digests.push(digest(&group));
            group.clear();
        }
    }
    digests
}

/// The base that a segment needs, if any. The header is not checked.
pub(super) fn base_id(header: &Header, body: &[u8]) -> Result<Option<u64>, SegmentError> {
    Ok(Body::parse(body, header.raw_bytes as usize, header.messages as usize)?.base_id)
}

/// What decoding works in.
#[derive(Default)]
pub(super) struct Buffers {
    inflated: Inflated,
    /// Given away with the messages, and given back by callers who are done with them.
    pub(super) out: Vec<u8>,
}

impl Buffers {
    /// Lets go of buffers beyond `bytes_max`: one huge message must not hold its memory for ever.
    pub(super) fn trim(&mut self, bytes_max: usize) {
        let Inflated {
            packed,
            main,
            blobs,
            ..
        } = &mut self.inflated;
        for buffer in [packed, main, blobs, &mut self.out] {
            if buffer.capacity() > bytes_max {
                *buffer = Vec::new();
            }
        }
    }
}

/// Decodes messages `wanted` (from 0) and nothing behind them; those before are passed over.
pub(super) fn decode(
    header: &Header,
    body: &[u8],
    base: Option<&Base>,
    wanted: Range<usize>,
    buffers: &mut Buffers,
) -> Result<DecodedSegment, SegmentError> {
    let (raw_bytes, messages) = (header.raw_bytes as usize, header.messages as usize);
    let body = Body::parse(body, raw_bytes, messages)?;
    let base = needed_base(body.base_id, base)?;
    body.inflate(base, &mut buffers.inflated)?;
    let out = std::mem::take(&mut buffers.out);
    let Inflated { main, blobs, .. } = &buffers.inflated;
    join(header, &body, (main, blobs), base, wanted, out)
}

/// The second half of [`decode`]: all but decompression.
fn join(
    header: &Header,
    body: &Body<'_>,
    (main, blobs): (&[u8], &[u8]),
    base: Option<&Base>,
    wanted: Range<usize>,
    out: Vec<u8>,
) -> Result<DecodedSegment, SegmentError> {
    let (raw_bytes, messages) = (header.raw_bytes as usize, header.messages as usize);
    let wanted = wanted.start.min(messages)..wanted.end.min(messages);
    let mut main = Main::parse(main)?;
    let mut received_ms = read_received_times(main.times, messages)?;
    let mut joiner = main.joiner(body, blobs, base);

    let whole = wanted == (0..messages);
    let mut out = Output::new(raw_bytes, out, if whole { raw_bytes } else { 0 });
    let mut ends = Vec::with_capacity(wanted.len());
    let mut digests = body.digests.iter();
    let mut grouping = Grouping::default();
    let (mut group_start, mut message_start, mut first_byte) = (0, 0, 0);
    for index in 0..messages {
        if index == wanted.start {
            first_byte = message_start;
        }
        joiner.line(&mut out)?;
        if wanted.contains(&index) {
            ends.push((out.len() - first_byte) as u32);
        }
        let closes = grouping.closes_after(out.len() - message_start);
        message_start = out.len();
        if !closes && index + 1 < messages {
            continue;
        }
        let group = out.as_slice().get(group_start..).unwrap_or_default();
        let stored = digests.next().map(|stored| u32::from_le_bytes(*stored));
        if stored != Some(digest(group)) {
            return Err(SegmentError::Digest { index });
        }
        if index + 1 >= wanted.end {
            break;
        }
        if index < wanted.start {
            out.discard();
            message_start = 0;
        }
        group_start = message_start;
    }
    if whole && (out.len() != raw_bytes || digests.next().is_some()) {
        return Err(SegmentError::Inconsistent {
            what: "messages fall short of the header",
        });
    }
    let last_byte = first_byte + ends.last().map_or(0, |&end| end as usize);
    let bytes = Bytes::from(out.into_bytes()).slice(first_byte..last_byte);
    received_ms.truncate(wanted.end);
    received_ms.drain(..wanted.start.min(received_ms.len()));
    Ok(DecodedSegment {
        bytes,
        ends,
        received_ms,
    })
}

fn needed_base(id: Option<u64>, base: Option<&Base>) -> Result<Option<&Base>, SegmentError> {
    match (id, base) {
        (None, _) => Ok(None),
        (Some(id), Some(base)) if base.id() == id => Ok(Some(base)),
        (Some(needed), base) => Err(SegmentError::Base {
            needed,
            given: base.map(Base::id),
        }),
    }
}
