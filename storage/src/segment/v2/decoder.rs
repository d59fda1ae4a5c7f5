//! A segment to messages.

use std::ops::Range;

use bytes::Bytes;

use super::body::{Body, Inflated, Main};
use super::groups::Grouping;
use super::output::Output;
use super::{Base, received_times};
use crate::segment::header::{Header, digest};
use crate::segment::{DecodedSegment, SegmentError};

/// The base that a segment needs, if any. The header is not checked.
pub(in crate::segment) fn base_id(
    header: &Header,
    body: &[u8],
) -> Result<Option<u64>, SegmentError> {
    Ok(Body::parse(body, header.raw_bytes as usize, header.messages as usize)?.base_id)
}

/// The buffers that decoding works in.
#[derive(Default)]
pub(in crate::segment) struct Buffers {
    inflated: Inflated,
    /// Goes out with the messages. Callers who no longer need them give it back.
    pub(in crate::segment) out: Vec<u8>,
}

impl Buffers {
    /// Frees buffers beyond `bytes_max`: one huge message must not hold its memory for ever.
    pub(in crate::segment) fn trim(&mut self, bytes_max: usize) {
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

/// Decodes the messages `wanted`, counted from 0. Those before them are put together too, because later
/// values refer back to theirs, and are dropped. Those after them are not.
pub(in crate::segment) fn decode(
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

/// Puts the messages together from the decompressed streams.
pub(super) fn join(
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
    let mut received_ms = received_times::read(main.times, messages)?;
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

/// The base, if the segment needs one and this is it.
pub(super) fn needed_base(
    id: Option<u64>,
    base: Option<&Base>,
) -> Result<Option<&Base>, SegmentError> {
    match (id, base) {
        (None, _) => Ok(None),
        (Some(id), Some(base)) if base.id() == id => Ok(Some(base)),
        (Some(needed), base) => Err(SegmentError::Base {
            needed,
            given: base.map(Base::id),
        }),
    }
}
