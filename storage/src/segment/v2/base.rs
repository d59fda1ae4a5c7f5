//! The base of a project: content that its sessions share, stored once.
//!
//! A base belongs to no session, so deleting a session never breaks another. It is immutable. Its id is
//! the checksum of its bytes, and a segment names the base that it needs by this id. A base has
//!
//! - a **text**, which the main streams of segments refer to;
//! - **identifiers**, which segments refer to by their position;
//! - **blobs**: decoded base64, that is, images.
//!
//! The text has two parts. Its *head* is the zstd dictionary of every segment, so a reader decompresses
//! it before any segment. From its *tail*, segments only copy long passages (see [`super::copies`]). It is
//! stored in chunks, and a reader decompresses a chunk when a segment copies from it. So a project may
//! share much text, and a single message is still read in little time.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 2 | magic, `BB` |
//! | 2 | 1 | version, 1; 2 with a tail or identifiers |
//! | 3 | 8 | XXH3-64 of all that follows, little-endian: the base's id |
//! | 11 | varint | length of the head |
//! | | varint | length of the head's frame |
//! | | varint | only in version 2: length of the tail |
//! | | varint … | and for each of its chunks the length of its frame |
//! | | varint | and the number of identifiers |
//! | | varint | number of blobs |
//! | | 16, varint, varint | for each blob: XXH3-128, little-endian, length, length of its frame |
//! | | 1 each | only in version 2: width of each identifier, a bit, lowest first: 1 = 18 bytes, else 16 |
//! | | … | the identifiers, big-endian |
//! | | … | the head's frame, then the chunks', with the head as dictionary, then the blobs' |

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_64;

use super::super::SegmentError;
use super::super::header::check_max;
use super::copies::CopySource;
use super::forms::Id;
use super::frame;
use super::ids::BaseIds;
use super::splitter::BaseBlobs;
use super::varint::{Cursor, put};
use crate::limits::{
    BASE_BLOB_BYTES_MAX, BASE_BLOBS_BYTES_MAX, BASE_BLOBS_MAX, BASE_HEAD_BYTES_MAX, BASE_IDS_MAX,
    BASE_TAIL_BYTES_MAX, BASE_TAIL_CHUNK_BYTES,
};

const MAGIC: [u8; 2] = *b"BB";
const VERSION_1: u8 = 1;
const VERSION_2: u8 = 2;
/// Before the id.
const LABEL_BYTES: usize = 3;
const ID_BYTES: usize = 8;

/// A base whose head is decompressed; the rest is decompressed when it is asked for. Share one between
/// all segments of a run or a replay.
#[derive(Debug)]
pub struct Base {
    id: u64,
    head: Vec<u8>,
    tail_bytes: usize,
    chunks: Vec<Chunk>,
    ids: Vec<Id>,
    /// The position of each identifier. Made when the base is first used for encoding.
    id_positions: OnceLock<BaseIds>,
    /// Decompresses chunks, one at a time, so that readers who wait for the same chunk do its work once.
    unpacker: Mutex<frame::Decompressor>,
    blobs: Vec<Blob>,
    /// The chunks' and the blobs' frames: a slice of the stored bytes, not a copy.
    frames: Bytes,
    /// The number of each blob, by its hash.
    by_hash: BaseBlobs,
}

/// A piece of the tail.
#[derive(Debug)]
struct Chunk {
    frame: Range<usize>,
    text: OnceLock<Vec<u8>>,
}

#[derive(Debug, Clone)]
struct Blob {
    bytes: usize,
    frame: Range<usize>,
}

/// The lengths and counts at the front of a base, checked against their bounds.
struct Layout {
    head_bytes: usize,
    head_frame_bytes: usize,
    tail_bytes: usize,
    chunks: Vec<Chunk>,
    id_count: usize,
    blobs: Vec<Blob>,
    by_hash: BaseBlobs,
    /// Bytes of the chunks' and the blobs' frames together.
    frames_bytes: usize,
}

impl Layout {
    fn parse(cursor: &mut Cursor<'_>, is_version_2: bool) -> Result<Self, SegmentError> {
        let head_bytes = cursor.length()?;
        let head_frame_bytes = cursor.length()?;
        check_max(
            "the size of the base's head",
            head_bytes,
            BASE_HEAD_BYTES_MAX,
        )?;
        let mut frames = FrameRanges::default();
        let (mut tail_bytes, mut chunks, mut id_count) = (0, Vec::new(), 0);
        if is_version_2 {
            tail_bytes = cursor.length()?;
            check_max(
                "the size of the base's tail",
                tail_bytes,
                BASE_TAIL_BYTES_MAX,
            )?;
            chunks = read_chunks(cursor, tail_bytes, &mut frames)?;
            id_count = cursor.length()?;
            check_max(
                "the number of the base's identifiers",
                id_count,
                BASE_IDS_MAX,
            )?;
        }
        let (blobs, by_hash) = read_blobs(cursor, &mut frames)?;
        Ok(Self {
            head_bytes,
            head_frame_bytes,
            tail_bytes,
            chunks,
            id_count,
            blobs,
            by_hash,
            frames_bytes: frames.end,
        })
    }
}

/// Where each frame is among a base's frames, which follow one another.
#[derive(Default)]
struct FrameRanges {
    end: usize,
}

impl FrameRanges {
    fn next(&mut self, length: usize) -> Result<Range<usize>, SegmentError> {
        let start = self.end;
        self.end = start
            .checked_add(length)
            .ok_or(SegmentError::Inconsistent {
                what: "a length is out of range",
            })?;
        Ok(start..self.end)
    }
}

fn read_chunks(
    cursor: &mut Cursor<'_>,
    tail_bytes: usize,
    frames: &mut FrameRanges,
) -> Result<Vec<Chunk>, SegmentError> {
    let count = tail_bytes.div_ceil(BASE_TAIL_CHUNK_BYTES);
    let mut chunks = Vec::with_capacity(count);
    for _ in 0..count {
        chunks.push(Chunk {
            frame: frames.next(cursor.length()?)?,
            text: OnceLock::new(),
        });
    }
    Ok(chunks)
}

fn read_blobs(
    cursor: &mut Cursor<'_>,
    frames: &mut FrameRanges,
) -> Result<(Vec<Blob>, BaseBlobs), SegmentError> {
    let count = cursor.length()?;
    check_max("the number of the base's blobs", count, BASE_BLOBS_MAX)?;
    let mut blobs = Vec::with_capacity(count);
    let mut by_hash = BaseBlobs::default();
    let mut bytes_of_all = 0_usize;
    for number in 0..count {
        by_hash.insert(u128::from_le_bytes(cursor.array()?), number as u32);
        let (bytes, frame_bytes) = (cursor.length()?, cursor.length()?);
        check_max("the size of a base's blob", bytes, BASE_BLOB_BYTES_MAX)?;
        bytes_of_all += bytes;
        check_max(
            "the size of the base's blobs",
            bytes_of_all,
            BASE_BLOBS_BYTES_MAX,
        )?;
        let frame = frames.next(frame_bytes)?;
        blobs.push(Blob { bytes, frame });
    }
    Ok((blobs, by_hash))
}

impl Base {
    /// The id in the first bytes of a stored base, without checking the rest.
    ///
    /// # Errors
    /// [`SegmentError`] when they are not the first bytes of a base.
    pub fn peek_id(bytes: &[u8]) -> Result<u64, SegmentError> {
        let mut cursor = Cursor::new(bytes);
        let found = cursor.array()?;
        let version = cursor.byte()?;
        if found != MAGIC || !(VERSION_1..=VERSION_2).contains(&version) {
            return Err(SegmentError::BadMagic { found });
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

    /// Decodes a stored base. Keeps `bytes`, and allocates at most [`BASE_HEAD_BYTES_MAX`], 48 bytes
    /// for each of [`BASE_BLOBS_MAX`] blobs and 32 for each of [`BASE_IDS_MAX`] identifiers besides;
    /// later, as segments copy from it, the rest of [`crate::limits::BASE_TEXT_BYTES_MAX`].
    ///
    /// # Errors
    /// [`SegmentError`] when the bytes are not a whole base.
    pub fn from_stored(bytes: Bytes) -> Result<Self, SegmentError> {
        let id = Self::peek_id(&bytes)?;
        let rest = bytes.get(LABEL_BYTES + ID_BYTES..).unwrap_or_default();
        let computed = xxh3_64(rest);
        if computed != id {
            return Err(SegmentError::Checksum {
                stored: id,
                computed,
            });
        }
        let mut cursor = Cursor::new(rest);
        let is_version_2 = bytes.get(MAGIC.len()) == Some(&VERSION_2);
        let layout = Layout::parse(&mut cursor, is_version_2)?;
        let ids = read_ids(&mut cursor, layout.id_count)?;
        let head_frame = cursor.take(layout.head_frame_bytes)?;
        let head = frame::decompress(head_frame, &[], layout.head_bytes, "base head")?;
        let frames = bytes.slice_ref(cursor.take(layout.frames_bytes)?);
        if !cursor.rest().is_empty() {
            return Err(SegmentError::Inconsistent {
                what: "bytes follow the base",
            });
        }
        Ok(Self {
            id,
            head,
            tail_bytes: layout.tail_bytes,
            chunks: layout.chunks,
            ids,
            id_positions: OnceLock::new(),
            unpacker: Mutex::default(),
            blobs: layout.blobs,
            frames,
            by_hash: layout.by_hash,
        })
    }

    /// Encodes a base at a zstd level, 1 to 22.
    pub(super) fn encode(
        head: &[u8],
        tail: &[u8],
        ids: &[Id],
        blobs: &[(u128, Vec<u8>)],
        level: i32,
    ) -> Result<Vec<u8>, SegmentError> {
        let mut frames = frame::Compressor::new(level, &[])?.compress(head)?;
        let mut rest = Vec::with_capacity(frames.len() + 64);
        put(&mut rest, head.len() as u64);
        put(&mut rest, frames.len() as u64);
        let is_plain = tail.is_empty() && ids.is_empty();
        if !is_plain {
            put(&mut rest, tail.len() as u64);
            let mut compressor = frame::Compressor::new(level, head)?;
            for chunk in tail.chunks(BASE_TAIL_CHUNK_BYTES) {
                let frame = compressor.compress(chunk)?;
                put(&mut rest, frame.len() as u64);
                frames.extend_from_slice(&frame);
            }
            put(&mut rest, ids.len() as u64);
        }
        put(&mut rest, blobs.len() as u64);
        let mut compressor = frame::Compressor::new(super::blob_level(level), &[])?;
        for (hash, bytes) in blobs {
            let blob_frame = compressor.compress(bytes)?;
            rest.extend_from_slice(&hash.to_le_bytes());
            put(&mut rest, bytes.len() as u64);
            put(&mut rest, blob_frame.len() as u64);
            frames.extend_from_slice(&blob_frame);
        }
        put_ids(&mut rest, ids);
        rest.append(&mut frames);
        let mut bytes = MAGIC.to_vec();
        bytes.push(if is_plain { VERSION_1 } else { VERSION_2 });
        bytes.extend_from_slice(&xxh3_64(&rest).to_le_bytes());
        bytes.append(&mut rest);
        Ok(bytes)
    }

    /// What segments call the base.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The beginning of the text: the dictionary of its segments.
    #[must_use]
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// All of the text, in one piece.
    ///
    /// # Errors
    /// [`SegmentError`] when a chunk of the tail cannot be decoded.
    pub fn text(&self) -> Result<Cow<'_, [u8]>, SegmentError> {
        if self.chunks.is_empty() {
            return Ok(Cow::Borrowed(&self.head));
        }
        let mut text = Vec::with_capacity(self.head.len() + self.tail_bytes);
        text.extend_from_slice(&self.head);
        for number in 0..self.chunks.len() {
            text.extend_from_slice(self.chunk(number)?);
        }
        Ok(Cow::Owned(text))
    }

    /// How many chunks the tail has, and how many of them have been decompressed.
    #[cfg(test)]
    pub(super) fn chunks_needed(&self) -> (usize, usize) {
        let needed = |chunk: &&Chunk| chunk.text.get().is_some();
        (self.chunks.len(), self.chunks.iter().filter(needed).count())
    }

    fn chunk(&self, number: usize) -> Result<&[u8], SegmentError> {
        const MISSING: SegmentError = SegmentError::Inconsistent {
            what: "the base has no such chunk",
        };
        let chunk = self.chunks.get(number).ok_or(MISSING)?;
        if let Some(text) = chunk.text.get() {
            return Ok(text);
        }
        let frame = self.frames.get(chunk.frame.clone()).ok_or(MISSING)?;
        let bytes = (self.tail_bytes - number * BASE_TAIL_CHUNK_BYTES).min(BASE_TAIL_CHUNK_BYTES);
        // The decompressor is reset for each frame, so a poisoned lock is harmless.
        let mut unpacker = self.unpacker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(text) = chunk.text.get() {
            return Ok(text);
        }
        let mut text = Vec::new();
        unpacker.decompress(frame, &self.head, bytes, "base tail", &mut text)?;
        Ok(chunk.text.get_or_init(|| text))
    }

    /// Identifiers that segments may refer to.
    pub(super) fn ids(&self) -> &[Id] {
        &self.ids
    }

    /// The position of each identifier; `None` if there are none.
    pub(super) fn id_positions(&self) -> Option<&BaseIds> {
        if self.ids.is_empty() {
            return None;
        }
        let positions = || self.ids.iter().copied().zip(0..).collect();
        Some(self.id_positions.get_or_init(positions))
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
        frame::decompress(frame, &[], blob.bytes, "base blob")
    }
}

/// Bytes of an identifier's lower 128 bits.
const ID_LOW_BYTES: usize = 16;

fn put_ids(bytes: &mut Vec<u8>, ids: &[Id]) {
    for eight in ids.chunks(8) {
        let bits = eight.iter().enumerate();
        bytes.push(bits.fold(0, |byte, (at, id)| byte | u8::from(id.high > 0) << at));
    }
    for id in ids {
        if id.high > 0 {
            bytes.extend_from_slice(&id.high.to_be_bytes());
        }
        bytes.extend_from_slice(&id.low.to_be_bytes());
    }
}

fn read_ids(cursor: &mut Cursor<'_>, count: usize) -> Result<Vec<Id>, SegmentError> {
    let widths = cursor.take(count.div_ceil(8))?;
    let mut ids = Vec::with_capacity(count);
    for number in 0..count {
        let is_wide = widths
            .get(number / 8)
            .is_some_and(|byte| byte >> (number % 8) & 1 == 1);
        let high = if is_wide {
            u16::from_be_bytes(cursor.array()?)
        } else {
            0
        };
        let low = u128::from_be_bytes(cursor.array::<ID_LOW_BYTES>()?);
        ids.push(Id { high, low });
    }
    Ok(ids)
}

impl CopySource for Option<&Base> {
    fn bytes(&self) -> usize {
        self.map_or(0, |base| base.head.len() + base.tail_bytes)
    }

    fn copy(
        &self,
        mut from: usize,
        mut bytes: usize,
        into: &mut Vec<u8>,
    ) -> Result<(), SegmentError> {
        const NOT_THERE: SegmentError = SegmentError::Inconsistent {
            what: "a copy is not from the base's text",
        };
        let base = self.ok_or(NOT_THERE)?;
        while bytes > 0 {
            let piece = match from.checked_sub(base.head.len()) {
                None => &base.head[from..],
                Some(at) => base
                    .chunk(at / BASE_TAIL_CHUNK_BYTES)?
                    .get(at % BASE_TAIL_CHUNK_BYTES..)
                    .ok_or(NOT_THERE)?,
            };
            let taken = piece.get(..bytes.min(piece.len())).unwrap_or_default();
            if taken.is_empty() {
                return Err(NOT_THERE);
            }
            into.extend_from_slice(taken);
            from += taken.len();
            bytes -= taken.len();
        }
        Ok(())
    }
}
