//! Where a segment's bytes are: by part, and by kind of message.
//!
//! Parts that are not compressed, or have a frame of their own, have exact sizes. The parts of codec 2 that
//! share a frame have none. The frame's size is apportioned to them, in proportion to what each takes when
//! it is compressed alone, at level 3 with the segment's base. So these figures say where the bytes are, not
//! what would be saved without a part.

use std::collections::BTreeMap;

use super::header::HEADER_BYTES;
use super::v2::frame;
use super::{
    Base, CodecVersion, DecodeLimits, DecodedSegment, Header, SegmentError, decode, v1, v2,
};

/// Level at which parts are compressed alone.
const WEIGHING_LEVEL: i32 = 3;

/// A part of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Header, flags, lengths, and where columns begin.
    Frame,
    /// Digests of groups of messages.
    Digests,
    /// What is left of lines when their values are taken out, and which line has which.
    Shapes,
    /// Identifiers: the bits of new ones, and references to those seen before.
    Ids,
    /// Times, of lines and of arrival.
    Times,
    /// Whole numbers, and the lengths and shapes of arrays.
    Integers,
    /// Lengths of strings, references to earlier ones, and line numbers.
    StringCodes,
    /// Strings, unescaped.
    Text,
    /// Lines, strings and numbers kept as they stand.
    Verbatim,
    /// Images and other base64, decoded.
    Blobs,
    /// Codec 1: lengths, times and digests of messages.
    Index,
}

impl Part {
    /// The part's name in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Frame => "frame",
            Self::Digests => "digests",
            Self::Shapes => "shapes",
            Self::Ids => "ids",
            Self::Times => "times",
            Self::Integers => "integers",
            Self::StringCodes => "string_codes",
            Self::Text => "text",
            Self::Verbatim => "verbatim",
            Self::Blobs => "blobs",
            Self::Index => "index",
        }
    }
}

/// What one part takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartBytes {
    /// Before compression.
    pub raw_bytes: u64,
    /// In the segment.
    pub stored_bytes: u64,
    /// How many of `stored_bytes` are apportioned, not counted.
    pub apportioned_bytes: u64,
}

impl PartBytes {
    /// Adds another part's bytes.
    pub fn add(&mut self, other: &Self) {
        self.raw_bytes += other.raw_bytes;
        self.stored_bytes += other.stored_bytes;
        self.apportioned_bytes += other.apportioned_bytes;
    }
}

/// What the messages of one kind take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KindBytes {
    /// How many there are.
    pub messages: u64,
    /// Their payloads.
    pub raw_bytes: u64,
    /// Their share of the segment, apportioned as for parts: by what the payloads of each kind,
    /// joined, take when compressed alone.
    pub apportioned_bytes: u64,
}

/// Where a segment's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anatomy {
    /// Its codec.
    pub version: CodecVersion,
    /// Messages in it.
    pub messages: u64,
    /// Their payload bytes.
    pub raw_bytes: u64,
    /// Bytes of the segment. The parts' stored bytes add up to it.
    pub stored_bytes: u64,
    /// The base that it needs.
    pub base_id: Option<u64>,
    /// Parts that it has.
    pub parts: BTreeMap<Part, PartBytes>,
}

/// Takes a segment apart and says where its bytes are. Decompresses, puts no message together.
///
/// # Errors
/// As for [`decode`], whose bounds hold.
pub fn anatomy(
    bytes: &[u8],
    limits: &DecodeLimits,
    base: Option<&Base>,
) -> Result<Anatomy, SegmentError> {
    let (header, body) = Header::parse(bytes, limits)?;
    let mut parts = Parts::default();
    parts.exact(Part::Frame, HEADER_BYTES, HEADER_BYTES);
    let base_id = match header.version {
        CodecVersion::V1 => {
            v1::anatomy(&header, body, &mut parts)?;
            None
        }
        CodecVersion::V2 => v2::anatomy(&header, body, base, &mut parts)?,
    };
    Ok(Anatomy {
        version: header.version,
        messages: u64::from(header.messages),
        raw_bytes: u64::from(header.raw_bytes),
        stored_bytes: bytes.len() as u64,
        base_id,
        parts: parts.0,
    })
}

/// What the messages of each kind take in a segment. `kind_of` names a payload's kind.
///
/// # Errors
/// As for [`decode`].
pub fn by_kind(
    bytes: &[u8],
    limits: &DecodeLimits,
    base: Option<&Base>,
    kind_of: &mut dyn FnMut(&[u8]) -> String,
) -> Result<BTreeMap<String, KindBytes>, SegmentError> {
    let decoded: DecodedSegment = decode(bytes, limits, base)?;
    let mut joined: BTreeMap<String, (u64, Vec<u8>)> = BTreeMap::new();
    for payload in (0..decoded.len()).filter_map(|index| decoded.payload(index)) {
        let (messages, all) = joined.entry(kind_of(&payload)).or_default();
        *messages += 1;
        all.extend_from_slice(&payload);
    }
    let dictionary = base.map_or(&[][..], Base::head);
    let shares = apportion(
        joined.values().map(|(_, all)| all.as_slice()),
        dictionary,
        bytes.len() as u64,
    )?;
    Ok(joined
        .into_iter()
        .zip(shares)
        .map(|((kind, (messages, all)), apportioned_bytes)| {
            let bytes = KindBytes {
                messages,
                raw_bytes: all.len() as u64,
                apportioned_bytes,
            };
            (kind, bytes)
        })
        .collect())
}

/// Parts while they are being found.
#[derive(Debug, Default)]
pub(super) struct Parts(BTreeMap<Part, PartBytes>);

impl Parts {
    /// A part with bytes of its own.
    pub(super) fn exact(&mut self, part: Part, raw_bytes: usize, stored_bytes: usize) {
        self.0.entry(part).or_default().add(&PartBytes {
            raw_bytes: raw_bytes as u64,
            stored_bytes: stored_bytes as u64,
            apportioned_bytes: 0,
        });
    }

    /// Parts that share `stored_bytes`.
    pub(super) fn shared(
        &mut self,
        parts: &BTreeMap<Part, Vec<u8>>,
        dictionary: &[u8],
        stored_bytes: usize,
    ) -> Result<(), SegmentError> {
        let contents = parts.values().map(Vec::as_slice);
        let shares = apportion(contents, dictionary, stored_bytes as u64)?;
        for ((part, raw), share) in parts.iter().zip(shares) {
            self.0.entry(*part).or_default().add(&PartBytes {
                raw_bytes: raw.len() as u64,
                stored_bytes: share,
                apportioned_bytes: share,
            });
        }
        Ok(())
    }
}

/// Shares of `total`, in proportion to what each takes when compressed alone. They add up to it,
/// unless there is nothing to share it between.
fn apportion<'a>(
    contents: impl Iterator<Item = &'a [u8]>,
    dictionary: &[u8],
    total: u64,
) -> Result<Vec<u64>, SegmentError> {
    let mut compressor = frame::Compressor::new(WEIGHING_LEVEL, dictionary)?;
    let weights = contents
        .map(|bytes| {
            if bytes.is_empty() {
                return Ok(0);
            }
            Ok(u128::from(compressor.compress(bytes)?.len() as u64))
        })
        .collect::<Result<Vec<_>, SegmentError>>()?;
    let all: u128 = weights.iter().sum();
    // Each share ends where the running sum of weights does: rounding loses nothing.
    let (mut sum, mut before) = (0, 0);
    Ok(weights
        .into_iter()
        .map(|weight| {
            sum += weight;
            let end = (u128::from(total) * sum).checked_div(all).unwrap_or(0) as u64;
            let share = end - before;
            before = end;
            share
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::super::{EncodeParams, Entry, encode};
    use super::*;

    fn segment(version: CodecVersion) -> Vec<u8> {
        let lines: Vec<String> = (0..200)
            .map(|n| {
                format!(
                    r#"{{"type":"user","uuid":"0c2f1b1e-9d3a-4b7c-8f00-{:012x}","timestamp":"2026-01-02T03:04:{:02}.678Z","n":{n},"text":"line {n} of \"many\""}}"#,
                    n * 0x1234_5678_u64,
                    n % 60
                )
            })
            .chain(["not json".to_owned()])
            .collect();
        let entries: Vec<_> = lines
            .iter()
            .map(|line| Entry {
                payload: line.as_bytes(),
                received_ms: 1_700_000_000_000,
            })
            .collect();
        encode(&entries, &EncodeParams { version, level: 3 }, None).unwrap()
    }

    #[test]
    fn parts_add_up_to_the_segment() {
        for version in [CodecVersion::V1, CodecVersion::V2] {
            let bytes = segment(version);
            let found = anatomy(&bytes, &DecodeLimits::default(), None).unwrap();
            assert_eq!((found.version, found.messages), (version, 201));
            let stored: u64 = found.parts.values().map(|part| part.stored_bytes).sum();
            assert_eq!(stored, bytes.len() as u64, "{found:?}");
        }
    }

    #[test]
    fn what_a_line_consists_of_is_found_in_its_part() {
        let found = anatomy(&segment(CodecVersion::V2), &DecodeLimits::default(), None).unwrap();
        assert!(found.parts[&Part::Ids].stored_bytes >= 200 * 15);
        assert_eq!(found.parts[&Part::Verbatim].raw_bytes, 8);
        assert!(found.parts[&Part::Text].raw_bytes >= 200 * 16);
        assert!(found.parts[&Part::Text].stored_bytes > 0);
        assert_eq!(found.parts.get(&Part::Blobs), None);
    }

    #[test]
    fn kinds_add_up_to_the_segment() {
        let bytes = segment(CodecVersion::V2);
        let mut kind_of = |line: &[u8]| line.starts_with(b"{").to_string();
        let kinds = by_kind(&bytes, &DecodeLimits::default(), None, &mut kind_of).unwrap();
        assert_eq!((kinds["true"].messages, kinds["false"].messages), (200, 1));
        assert_eq!(kinds["false"].raw_bytes, 8);
        let sum: u64 = kinds.values().map(|kind| kind.apportioned_bytes).sum();
        assert_eq!(sum, bytes.len() as u64);
    }

    #[test]
    fn a_damaged_segment_is_an_error() {
        for version in [CodecVersion::V1, CodecVersion::V2] {
            let bytes = segment(version);
            for length in 0..bytes.len() {
                assert!(anatomy(&bytes[..length], &DecodeLimits::default(), None).is_err());
            }
        }
    }
}
