//! The header that every segment begins with, whatever its codec.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 2 | magic, `BS` |
//! | 2 | 1 | codec version |
//! | 3 | 1 | reserved, 0 |
//! | 4 | 4 | messages, little-endian |
//! | 8 | 4 | raw payload bytes, little-endian |
//! | 12 | 8 | XXH3-64, little-endian, over bytes 0..12 and the body |
//! | 20 | … | body |

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use super::{DecodeLimits, Entry, SegmentError};
use crate::limits::{SEGMENT_BYTES_MAX, SEGMENT_MESSAGES_MAX};

const MAGIC: [u8; 2] = *b"BS";
pub(super) const VERSION_AT: usize = 2;
pub(super) const COUNTS_AT: usize = 4;
const CHECKSUM_AT: usize = 12;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 20;

/// The codecs that have been released. A number, once given, keeps its meaning for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum CodecVersion {
    /// Messages joined, zstd.
    V1 = 1,
    /// Lines taken apart, zstd over the parts.
    V2 = 2,
}

impl CodecVersion {
    fn from_byte(byte: u8) -> Result<Self, SegmentError> {
        match byte {
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            found => Err(SegmentError::UnknownVersion { found }),
        }
    }
}

/// The facts at the front of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Codec of the body.
    pub version: CodecVersion,
    /// Messages, at least one.
    pub messages: u32,
    /// Payload bytes of all messages.
    pub raw_bytes: u32,
}

impl Header {
    /// The header of a segment of these messages, of which there must be at least one.
    pub(super) fn for_entries(
        version: CodecVersion,
        entries: &[Entry<'_>],
    ) -> Result<Self, SegmentError> {
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
        Ok(Self {
            version,
            messages: entries.len() as u32,
            raw_bytes: raw_bytes as u32,
        })
    }

    /// Reads the header and checks counts against `limits` and the checksum against the bytes.
    /// Returns it with the body.
    ///
    /// # Errors
    /// [`SegmentError`] when the bytes are not a whole segment of a known codec.
    pub fn parse<'a>(
        bytes: &'a [u8],
        limits: &DecodeLimits,
    ) -> Result<(Self, &'a [u8]), SegmentError> {
        let Some((front, body)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(SegmentError::Truncated {
                part: "header",
                needed: HEADER_BYTES,
                found: bytes.len(),
            });
        };
        let [
            m0,
            m1,
            version,
            reserved,
            n0,
            n1,
            n2,
            n3,
            r0,
            r1,
            r2,
            r3,
            sum @ ..,
        ] = *front;
        if [m0, m1] != MAGIC {
            return Err(SegmentError::BadMagic { found: [m0, m1] });
        }
        let version = CodecVersion::from_byte(version)?;
        let stored = u64::from_le_bytes(sum);
        let computed = checksum(&front[..CHECKSUM_AT], body);
        if stored != computed {
            return Err(SegmentError::Checksum { stored, computed });
        }
        if reserved != 0 {
            return Err(SegmentError::Inconsistent {
                what: "the reserved byte is not 0",
            });
        }
        let header = Self {
            version,
            messages: u32::from_le_bytes([n0, n1, n2, n3]),
            raw_bytes: u32::from_le_bytes([r0, r1, r2, r3]),
        };
        if header.messages == 0 {
            return Err(SegmentError::Empty);
        }
        check_max(
            "the number of messages",
            header.messages as usize,
            limits.messages_max,
        )?;
        check_max(
            "the size of the messages",
            header.raw_bytes as usize,
            limits.raw_bytes_max,
        )?;
        Ok((header, body))
    }

    /// Writes the header in front of `body`.
    pub(super) fn seal(self, body: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + body.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.push(self.version as u8);
        bytes.push(0);
        debug_assert_eq!(bytes.len(), COUNTS_AT);
        bytes.extend_from_slice(&self.messages.to_le_bytes());
        bytes.extend_from_slice(&self.raw_bytes.to_le_bytes());
        debug_assert_eq!(bytes.len(), CHECKSUM_AT);
        let sum = checksum(&bytes, body);
        bytes.extend_from_slice(&sum.to_le_bytes());
        bytes.extend_from_slice(body);
        bytes
    }
}

pub(super) fn check_max(what: &'static str, found: usize, max: usize) -> Result<(), SegmentError> {
    if found > max {
        return Err(SegmentError::TooLarge {
            what,
            found: found as u64,
            max: max as u64,
        });
    }
    Ok(())
}

/// The digest of messages in a body.
pub(super) fn digest(payload: &[u8]) -> u32 {
    digest_of(xxh3_64(payload))
}

/// The digest of the bytes that have this XXH3-64: its low 32 bits.
pub(super) fn digest_of(hash: u64) -> u32 {
    hash as u32
}

fn checksum(front: &[u8], body: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(front);
    hash.update(body);
    hash.digest()
}
