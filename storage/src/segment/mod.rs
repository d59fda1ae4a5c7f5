//! The segment codec: consecutive messages of one session to bytes, and back. Pure: no SQL, no I/O.
//!
//! [`encode`] and [`v2::Encoder`] turn messages into a segment. [`decode`], [`decode_range`] and [`Decoder`]
//! turn it into messages again. A [`Base`] holds what the segments of a project share.
//!
//! A segment is a fixed header (see [`header`]), then the body of its codec version. The header has
//! the counts that bound what the decoder allocates, and a checksum over all bytes. Stored bytes are input
//! like any other: a damaged segment is a [`SegmentError`], never a panic. New segments are written by codec
//! 2, and [`v2`] is where to read on. `docs/FORMAT.md` describes the bytes.

mod anatomy;
pub mod header;
mod v1;
pub mod v2;

use std::ops::Range;

use bytes::Bytes;

pub use anatomy::{Anatomy, KindBytes, Part, PartBytes, anatomy, by_kind};
use header::{COUNTS_AT, HEADER_BYTES, VERSION_AT};
pub use header::{CodecVersion, Header};

use crate::limits::DECODER_BUFFER_BYTES_MAX;
pub use v2::Base;

/// One message to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The exact bytes.
    pub payload: &'a [u8],
    /// When the store received it, Unix milliseconds.
    pub received_ms: i64,
}

/// How to encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodeParams {
    /// Codec to use.
    pub version: CodecVersion,
    /// zstd level, 1 to 22.
    pub level: i32,
}

/// Bounds of what a decoder may allocate, whatever the bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeLimits {
    /// Raw payload bytes of the segment.
    pub raw_bytes_max: usize,
    /// Messages of the segment.
    pub messages_max: usize,
}

impl Default for DecodeLimits {
    fn default() -> Self {
        Self {
            raw_bytes_max: crate::limits::SEGMENT_BYTES_MAX,
            messages_max: crate::limits::SEGMENT_MESSAGES_MAX,
        }
    }
}

/// Why bytes are not a segment, or messages cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// Fewer bytes than the header or a part of the body needs.
    #[error("truncated: {part} needs {needed} bytes, {found} are there")]
    Truncated {
        /// Which part.
        part: &'static str,
        /// Bytes it needs.
        needed: usize,
        /// Bytes that are there.
        found: usize,
    },
    /// The first bytes are not those of a segment.
    #[error("not a segment: it begins with {found:02x?}")]
    BadMagic {
        /// The bytes there.
        found: [u8; 2],
    },
    /// A codec that this build does not know.
    #[error("codec version {found} is not known to this build")]
    UnknownVersion {
        /// The version there.
        found: u8,
    },
    /// The checksum over the encoded bytes does not fit them.
    #[error("checksum mismatch: stored {stored:016x}, computed {computed:016x}")]
    Checksum {
        /// The one stored.
        stored: u64,
        /// The one the bytes have.
        computed: u64,
    },
    /// A decoded message does not have its digest.
    #[error("message {index} (from 0) does not have its digest")]
    Digest {
        /// Position in the segment, from 0.
        index: usize,
    },
    /// A count or size beyond the limits.
    #[error("{what} is {found}, over the limit of {max}")]
    TooLarge {
        /// Which one.
        what: &'static str,
        /// The value.
        found: u64,
        /// The limit.
        max: u64,
    },
    /// Parts that contradict each other.
    #[error("inconsistent: {what}")]
    Inconsistent {
        /// Which ones.
        what: &'static str,
    },
    /// There was not enough memory. It says nothing of the bytes.
    #[error("there is not enough memory")]
    OutOfMemory,
    /// zstd refused.
    #[error("zstd: {what}")]
    Zstd {
        /// Its message.
        what: String,
    },
    /// The segment refers to a base that was not given.
    #[error("the segment needs base {needed:016x}, given was {given:x?}")]
    Base {
        /// The base it needs.
        needed: u64,
        /// The one given.
        given: Option<u64>,
    },
    /// There is nothing to encode.
    #[error("a segment needs at least one message")]
    Empty,
}

/// A segment's messages, decoded. The payloads share one allocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecodedSegment {
    bytes: Bytes,
    /// End of each message in `bytes`; each begins where the one before ends.
    ends: Vec<u32>,
    received_ms: Vec<i64>,
}

impl DecodedSegment {
    /// Number of messages, at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none, which no decoded segment is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Payload bytes in all.
    #[must_use]
    pub fn raw_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Message `index` (from 0): its bytes, shared with the segment, not copied.
    #[must_use]
    pub fn payload(&self, index: usize) -> Option<Bytes> {
        let end = *self.ends.get(index)? as usize;
        let start = if index == 0 {
            0
        } else {
            *self.ends.get(index - 1)? as usize
        };
        (start <= end && end <= self.bytes.len()).then(|| self.bytes.slice(start..end))
    }

    /// Only the messages in `wanted`.
    fn narrowed(mut self, wanted: Range<usize>) -> Self {
        let end = wanted.end.min(self.len());
        let start = wanted.start.min(end);
        let first_byte = start.checked_sub(1).map_or(0, |before| self.ends[before]);
        let last_byte = end
            .checked_sub(1)
            .map_or(0, |last| self.ends[last])
            .max(first_byte);
        self.bytes = self.bytes.slice(first_byte as usize..last_byte as usize);
        self.ends = self.ends[start..end]
            .iter()
            .map(|at| at - first_byte)
            .collect();
        self.received_ms = self.received_ms[start..end].to_vec();
        self
    }

    /// When the store received message `index`, Unix milliseconds.
    #[must_use]
    pub fn received_ms(&self, index: usize) -> Option<i64> {
        self.received_ms.get(index).copied()
    }
}

/// Encodes messages, at least one, as a segment. Codec 1 has no use for a base.
///
/// For many segments with the same base, [`v2::Encoder`] does the base's share of the work once.
///
/// # Errors
/// [`SegmentError::Empty`], [`SegmentError::TooLarge`] beyond the format's bounds, or what the
/// codec's compressor says.
pub fn encode(
    entries: &[Entry<'_>],
    params: &EncodeParams,
    base: Option<&Base>,
) -> Result<Vec<u8>, SegmentError> {
    match params.version {
        CodecVersion::V1 => v1::encode(entries, params.level),
        CodecVersion::V2 => v2::Encoder::new(params.level, base)?.encode(entries),
    }
}

/// Decodes a segment whole, checking its checksum and its digests. `base` must be the one that
/// [`base_id`] names, if it names one.
///
/// # Errors
/// [`SegmentError`] for bytes that are not what [`encode`] made; nothing beyond `limits` is
/// allocated on their word.
pub fn decode(
    bytes: &[u8],
    limits: &DecodeLimits,
    base: Option<&Base>,
) -> Result<DecodedSegment, SegmentError> {
    decode_range(bytes, 0..usize::MAX, limits, base)
}

/// Decodes messages `wanted` of a segment, counted from 0; those it does not have are left out.
/// What comes out holds only them: message `wanted.start` is its first.
///
/// # Errors
/// As for [`decode`]; digests are checked up to the last message decoded.
pub fn decode_range(
    bytes: &[u8],
    wanted: Range<usize>,
    limits: &DecodeLimits,
    base: Option<&Base>,
) -> Result<DecodedSegment, SegmentError> {
    decode_in(bytes, wanted, limits, base, &mut v2::Buffers::default())
}

fn decode_in(
    bytes: &[u8],
    wanted: Range<usize>,
    limits: &DecodeLimits,
    base: Option<&Base>,
    buffers: &mut v2::Buffers,
) -> Result<DecodedSegment, SegmentError> {
    let (header, body) = Header::parse(bytes, limits)?;
    match header.version {
        CodecVersion::V1 => Ok(v1::decode(&header, body)?.narrowed(wanted)),
        CodecVersion::V2 => v2::decode(&header, body, base, wanted, buffers),
    }
}

/// Decodes segment after segment in the same buffers, which saves allocations and page faults.
#[derive(Default)]
pub struct Decoder {
    buffers: v2::Buffers,
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

impl Decoder {
    /// As [`decode_range`].
    ///
    /// # Errors
    /// As for [`decode_range`].
    pub fn decode_range(
        &mut self,
        bytes: &[u8],
        wanted: Range<usize>,
        limits: &DecodeLimits,
        base: Option<&Base>,
    ) -> Result<DecodedSegment, SegmentError> {
        let decoded = decode_in(bytes, wanted, limits, base, &mut self.buffers);
        self.buffers.trim(DECODER_BUFFER_BYTES_MAX);
        decoded
    }

    /// Takes back the memory of messages, if nobody else holds them, for the segments decoded next.
    pub fn recycle(&mut self, messages: DecodedSegment) {
        let bytes = messages.bytes.len();
        let is_better = bytes <= DECODER_BUFFER_BYTES_MAX && bytes > self.buffers.out.capacity();
        if is_better && messages.bytes.is_unique() {
            self.buffers.out = messages.bytes.into();
        }
    }
}

/// How many messages a segment has by its header, whose checksum is not looked at.
pub(crate) fn messages_in_head(bytes: &[u8]) -> Option<u64> {
    let (_, counts) = bytes.split_at_checked(COUNTS_AT)?;
    let messages = counts.first_chunk()?;
    Some(u64::from(u32::from_le_bytes(*messages)))
}

/// Bytes of a segment's beginning that say which base it needs.
pub(crate) const BASE_HEAD_BYTES: usize = HEADER_BYTES + 1 + 8;

/// The base that a segment needs which begins like this. The rest of it may be missing.
pub(crate) fn base_id_in_head(head: &[u8]) -> Option<u64> {
    let body = head.get(HEADER_BYTES..BASE_HEAD_BYTES)?;
    let (flags, id) = body.split_first()?;
    let needs_base = flags & v2::FLAG_BASE != 0;
    let is_v2 = head.get(VERSION_AT) == Some(&(CodecVersion::V2 as u8));
    (is_v2 && needs_base).then(|| id.try_into().map(u64::from_le_bytes).ok())?
}

/// The base that a segment needs, if it needs one.
///
/// # Errors
/// As for [`decode`].
pub fn base_id(bytes: &[u8], limits: &DecodeLimits) -> Result<Option<u64>, SegmentError> {
    let (header, body) = Header::parse(bytes, limits)?;
    match header.version {
        CodecVersion::V1 => Ok(None),
        CodecVersion::V2 => v2::base_id(&header, body),
    }
}
