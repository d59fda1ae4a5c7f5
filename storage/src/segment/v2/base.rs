//! The base of a project: content that its sessions share, kept once.
//!
//! A base belongs to no session, so that deleting a session never breaks another. It is immutable
//! and names itself by the checksum of its bytes; a segment says which base it needs. It holds a
//! text, to which the segments' streams refer, and blobs (decoded base64, that is, images).
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 2 | magic, `BB` |
//! | 2 | 1 | version, 1 |
//! | 3 | 8 | XXH3-64 of all that follows, little-endian: the base's id |
//! | 11 | varint | length of the text |
//! | | varint | length of the text's frame |
//! | | varint | number of blobs |
//! | | 16, varint, varint | for each blob: XXH3-128, little-endian, length, length of its frame |
//! | | … | the text's frame, then the blobs' |

use std::ops::Range;

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::super::SegmentError;
use super::super::header::check_max;
use super::frame;
use super::splitter::BaseBlobs;
use super::varint::{Cursor, put};
use crate::limits::{
    BASE_BLOB_BYTES_MAX, BASE_BLOBS_BYTES_MAX, BASE_BLOBS_MAX, BASE_TEXT_BYTES_MAX,
};

const MAGIC: [u8; 3] = *b"BB\x01";
const ID_BYTES: usize = 8;

/// A base, its text decoded, its blobs as they are stored until one is asked for. Share it between all segments of a run or a replay.
#[derive(Debug, Clone)]
pub struct Base {
    id: u64,
    text: Vec<u8>,
    blobs: Vec<Blob>,
    /// The blobs' frames: a part of the stored bytes, not a copy.
    frames: Bytes,
    by_hash: BaseBlobs,
}

#[derive(Debug, Clone)]
struct Blob {
    bytes: usize,
    frame: Range<usize>,
}

impl Base {
    /// The id in the first bytes of a stored base, without checking the rest.
    ///
    /// # Errors
    /// [`SegmentError`] when they are not the first bytes of a base.
    pub fn peek_id(bytes: &[u8]) -> Result<u64, SegmentError> {
        let mut cursor = Cursor::new(bytes);
        let magic = cursor.array::<3>()?;
        if magic != MAGIC {
            return Err(SegmentError::BadMagic {
                found: [magic[0], magic[1]],
            });
        }
        Ok(u64::from_le_bytes(cursor.array()?))
    }

    /// Decodes a stored base from a copy of its bytes, see [`Base::from_stored`].
    ///
    /// # Errors
    /// [`SegmentError`] when the bytes are not a whole base.
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentError> {
        Self::from_stored(Bytes::copy_from_slice(bytes))
    }

    /// Decodes a stored base. Keeps `bytes`, and allocates at most [`BASE_TEXT_BYTES_MAX`] and
    /// 48 bytes for each of [`BASE_BLOBS_MAX`] blobs besides.
    ///
    /// # Errors
    /// [`SegmentError`] when the bytes are not a whole base.
    pub fn from_stored(bytes: Bytes) -> Result<Self, SegmentError> {
        let id = Self::peek_id(&bytes)?;
        let rest = bytes.get(MAGIC.len() + ID_BYTES..).unwrap_or_default();
        let computed = xxh3_64(rest);
        if computed != id {
            return Err(SegmentError::Checksum {
                stored: id,
                computed,
            });
        }
        let mut cursor = Cursor::new(rest);
        let text_bytes = cursor.length()?;
        let text_frame = cursor.length()?;
        let count = cursor.length()?;
        check_max(
            "the size of the base's text",
            text_bytes,
            BASE_TEXT_BYTES_MAX,
        )?;
        check_max("the number of the base's blobs", count, BASE_BLOBS_MAX)?;
        let mut blobs = Vec::with_capacity(count);
        let mut by_hash = BaseBlobs::default();
        let (mut at, mut blob_bytes) = (0_usize, 0_usize);
        for number in 0..count {
            by_hash.insert(u128::from_le_bytes(cursor.array()?), number as u32);
            let (bytes, length) = (cursor.length()?, cursor.length()?);
            check_max("the size of a base's blob", bytes, BASE_BLOB_BYTES_MAX)?;
            blob_bytes += bytes;
            check_max(
                "the size of the base's blobs",
                blob_bytes,
                BASE_BLOBS_BYTES_MAX,
            )?;
            let end = at.checked_add(length);
            let end = end.ok_or(SegmentError::Inconsistent {
                what: "a length is out of range",
            })?;
            blobs.push(Blob {
                bytes,
                frame: at..end,
            });
            at = end;
        }
        let text = frame::decompress(cursor.take(text_frame)?, text_bytes, "base text")?;
        let frames = bytes.slice_ref(cursor.take(at)?);
        if !cursor.rest().is_empty() {
            return Err(SegmentError::Inconsistent {
                what: "bytes follow the base",
            });
        }
        Ok(Self {
            id,
            text,
            blobs,
            frames,
            by_hash,
        })
    }

    /// Encodes a base at a zstd level, 1 to 22.
    pub(super) fn encode(
        text: &[u8],
        blobs: &[(u128, Vec<u8>)],
        level: i32,
    ) -> Result<Vec<u8>, SegmentError> {
        let text_frame = frame::Compressor::new(level, &[])?.compress(text)?;
        let mut compressor = frame::Compressor::new(super::blob_level(level), &[])?;
        let mut rest = Vec::with_capacity(text_frame.len() + 64);
        for length in [text.len(), text_frame.len(), blobs.len()] {
            put(&mut rest, length as u64);
        }
        let mut frames = text_frame;
        for (hash, bytes) in blobs {
            let blob_frame = compressor.compress(bytes)?;
            rest.extend_from_slice(&hash.to_le_bytes());
            put(&mut rest, bytes.len() as u64);
            put(&mut rest, blob_frame.len() as u64);
            frames.extend_from_slice(&blob_frame);
        }
        rest.append(&mut frames);
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&xxh3_64(&rest).to_le_bytes());
        bytes.append(&mut rest);
        Ok(bytes)
    }

    /// What segments call the base.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Bytes that decoding any of its segments reads besides the segment's own.
    #[must_use]
    pub fn text(&self) -> &[u8] {
        &self.text
    }

    pub(super) fn blob_numbers(&self) -> &BaseBlobs {
        &self.by_hash
    }

    pub(super) fn blob(&self, number: usize) -> Result<Vec<u8>, SegmentError> {
        const MISSING: SegmentError = SegmentError::Inconsistent {
            what: "the base has no such blob",
        };
        let blob = self.blobs.get(number).ok_or(MISSING)?;
        let frame = self.frames.get(blob.frame.clone()).ok_or(MISSING)?;
        frame::decompress(frame, blob.bytes, "base blob")
    }
}
