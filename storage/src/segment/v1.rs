//! Codec version 1: the messages joined, compressed by zstd.
//!
//! The body is two zstd frames with their lengths in front:
//!
//! | bytes | what |
//! |---|---|
//! | 4 | length of the index frame, little-endian |
//! | … | index frame: raw size is known from the header's counts |
//! | … | payload frame, to the end |
//!
//! The index holds, column by column for `n` messages: `n` lengths (u32), `n` received times (i64,
//! each as the difference from the one before, the first from 0), `n` digests (the low 32 bits of
//! XXH3-64 of the payload), all little-endian. The digests are not compressible and cost 4 bytes
//! a message.

use bytes::Bytes;
use zstd::zstd_safe::{CCtx, CParameter, DCtx, compress_bound};

use super::anatomy::{Part, Parts};
use super::header::{CodecVersion, Header, digest};
use super::v2::frame::{new_compression, new_decompression, zstd_error};
use super::{DecodedSegment, Entry, SegmentError};

const INDEX_BYTES_PER_MESSAGE: usize = 4 + 8 + 4;
const LENGTH_BYTES: usize = 4;

pub(super) fn encode(entries: &[Entry<'_>], level: i32) -> Result<Vec<u8>, SegmentError> {
    let header = Header::for_entries(CodecVersion::V1, entries)?;
    let mut joined = Vec::with_capacity(header.raw_bytes as usize);
    let mut lengths = Vec::with_capacity(entries.len() * INDEX_BYTES_PER_MESSAGE);
    let mut times = Vec::with_capacity(entries.len() * 8);
    let mut digests = Vec::with_capacity(entries.len() * 4);
    let mut before_ms = 0_i64;
    for entry in entries {
        joined.extend_from_slice(entry.payload);
        // Lossless: bounded by SEGMENT_BYTES_MAX, which the header was checked against.
        lengths.extend_from_slice(&(entry.payload.len() as u32).to_le_bytes());
        times.extend_from_slice(&entry.received_ms.wrapping_sub(before_ms).to_le_bytes());
        digests.extend_from_slice(&digest(entry.payload).to_le_bytes());
        before_ms = entry.received_ms;
    }
    let mut index = lengths;
    index.append(&mut times);
    index.append(&mut digests);

    let mut context = new_compression()?;
    let level = CParameter::CompressionLevel(level);
    context.set_parameter(level).map_err(zstd_error)?;
    let index_frame = deflate(&mut context, &index)?;
    let payload_frame = deflate(&mut context, &joined)?;

    let mut body = Vec::with_capacity(LENGTH_BYTES + index_frame.len() + payload_frame.len());
    body.extend_from_slice(&(index_frame.len() as u32).to_le_bytes());
    body.extend_from_slice(&index_frame);
    body.extend_from_slice(&payload_frame);
    Ok(header.seal(&body))
}

/// The index frame and the payload frame.
fn frames(body: &[u8]) -> Result<(&[u8], &[u8]), SegmentError> {
    let Some((length, rest)) = body.split_first_chunk::<LENGTH_BYTES>() else {
        return Err(SegmentError::Truncated {
            part: "index length",
            needed: LENGTH_BYTES,
            found: body.len(),
        });
    };
    let index_length = u32::from_le_bytes(*length) as usize;
    rest.split_at_checked(index_length)
        .ok_or(SegmentError::Truncated {
            part: "index",
            needed: index_length,
            found: rest.len(),
        })
}

/// Finds the parts of a body.
pub(super) fn anatomy(header: &Header, body: &[u8], parts: &mut Parts) -> Result<(), SegmentError> {
    let (index_frame, payload_frame) = frames(body)?;
    let index_bytes = header.messages as usize * INDEX_BYTES_PER_MESSAGE;
    parts.exact(Part::Frame, LENGTH_BYTES, LENGTH_BYTES);
    parts.exact(Part::Index, index_bytes, index_frame.len());
    parts.exact(
        Part::Verbatim,
        header.raw_bytes as usize,
        payload_frame.len(),
    );
    Ok(())
}

pub(super) fn decode(header: &Header, body: &[u8]) -> Result<DecodedSegment, SegmentError> {
    let messages = header.messages as usize;
    let (index_frame, payload_frame) = frames(body)?;
    let mut context = new_decompression()?;
    let index = inflate(
        &mut context,
        index_frame,
        messages * INDEX_BYTES_PER_MESSAGE,
        "index",
    )?;
    let joined = inflate(
        &mut context,
        payload_frame,
        header.raw_bytes as usize,
        "payloads",
    )?;

    let (lengths, rest) = index.split_at(messages * 4);
    let (times, digests) = rest.split_at(messages * 8);
    let columns = chunks::<4>(lengths)
        .zip(chunks::<8>(times))
        .zip(chunks::<4>(digests));
    let mut decoded = DecodedSegment {
        bytes: Bytes::new(),
        ends: Vec::with_capacity(messages),
        received_ms: Vec::with_capacity(messages),
    };
    let mut start = 0_usize;
    let mut received_ms = 0_i64;
    for (position, ((length, time), stored)) in columns.enumerate() {
        let end = start + u32::from_le_bytes(length) as usize;
        let Some(payload) = joined.get(start..end) else {
            return Err(SegmentError::Inconsistent {
                what: "lengths exceed the payloads",
            });
        };
        if digest(payload) != u32::from_le_bytes(stored) {
            return Err(SegmentError::Digest { index: position });
        }
        received_ms = received_ms.wrapping_add(i64::from_le_bytes(time));
        decoded.ends.push(end as u32);
        decoded.received_ms.push(received_ms);
        start = end;
    }
    if start != joined.len() {
        return Err(SegmentError::Inconsistent {
            what: "payload bytes belong to no message",
        });
    }
    decoded.bytes = Bytes::from(joined);
    Ok(decoded)
}

fn deflate(context: &mut CCtx<'_>, bytes: &[u8]) -> Result<Vec<u8>, SegmentError> {
    let mut frame = Vec::with_capacity(compress_bound(bytes.len()));
    context.compress2(&mut frame, bytes).map_err(zstd_error)?;
    Ok(frame)
}

/// Decompresses a frame that must yield exactly `raw_bytes`; allocates no more, whatever the
/// frame says.
fn inflate(
    context: &mut DCtx<'_>,
    frame: &[u8],
    raw_bytes: usize,
    part: &'static str,
) -> Result<Vec<u8>, SegmentError> {
    let mut raw = Vec::with_capacity(raw_bytes);
    context.decompress(&mut raw, frame).map_err(zstd_error)?;
    if raw.len() != raw_bytes {
        return Err(SegmentError::Truncated {
            part,
            needed: raw_bytes,
            found: raw.len(),
        });
    }
    Ok(raw)
}

fn chunks<const N: usize>(bytes: &[u8]) -> impl Iterator<Item = [u8; N]> + '_ {
    bytes.as_chunks::<N>().0.iter().copied()
}
