//! Messages to a segment: has the [splitter](super::splitter) take the lines apart, packs and compresses the
//! streams, and decodes the result again to make sure.

use std::borrow::Cow;

use super::body::{self, Streams};
use super::copies::{self, ShortestCopy};
use super::splitter::Splitter;
use super::{Base, Techniques, frame, groups, is_deep, received_times};
use crate::segment::header::{CodecVersion, Header, check_max};
use crate::segment::{DecodeLimits, DecodedSegment, Decoder, Entry, SegmentError};

/// Encodes segments at one level with one base. Creating an encoder takes as long as compressing the
/// base's text, so keep one for a whole run.
pub struct Encoder<'b> {
    base: Option<&'b Base>,
    techniques: Techniques,
    shortest_copy: ShortestCopy,
    /// Of the base's text, which is empty without a base.
    index: copies::Index<'b>,
    /// For the main stream, with the head of the base's text as dictionary.
    main: frame::Compressor,
    blobs: frame::Compressor,
    /// Decodes each segment again.
    decoder: Decoder,
}

/// A segment that was made, and what it decodes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedSegment {
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Its messages.
    pub decoded: DecodedSegment,
    /// The base that it refers to.
    pub base_id: Option<u64>,
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
        Self::with_techniques(level, base, Techniques::ALL)
    }

    /// As [`Encoder::new`], without some of the codec's techniques, to measure what each is worth.
    ///
    /// # Errors
    /// As [`Encoder::new`].
    pub fn with_techniques(
        level: i32,
        base: Option<&'b Base>,
        techniques: Techniques,
    ) -> Result<Self, SegmentError> {
        let (head, text) = match base {
            None => (&[][..], Cow::Borrowed(&[][..])),
            Some(base) => (base.head(), base.text()?),
        };
        Ok(Self {
            base,
            techniques,
            shortest_copy: shortest_copy(level),
            index: copies::Index::new(text, head.len()),
            main: frame::Compressor::new(level, head)?,
            blobs: frame::Compressor::new(super::blob_level(level), &[])?,
            decoder: Decoder::default(),
        })
    }

    /// Encodes messages, at least one, as a segment, and makes sure that it decodes to them.
    ///
    /// # Errors
    /// [`SegmentError::Empty`], [`SegmentError::TooLarge`] beyond the format's bounds, or what
    /// the compressor says.
    pub fn encode(&mut self, entries: &[Entry<'_>]) -> Result<Vec<u8>, SegmentError> {
        self.encode_checked(entries).map(|segment| segment.bytes)
    }

    /// As [`Encoder::encode`], with what the segment decodes to: for callers who compare it with
    /// messages of their own.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn encode_checked(
        &mut self,
        entries: &[Entry<'_>],
    ) -> Result<EncodedSegment, SegmentError> {
        let header = Header::for_entries(CodecVersion::V2, entries)?;
        let attempt = |encoder: &mut Self, techniques| {
            let bytes = encoder.encode_split(header, entries, techniques)?;
            let decoded = encoder.comes_back(&bytes, entries)?;
            Ok(decoded.map(|decoded| EncodedSegment {
                bytes,
                decoded,
                base_id: encoder.base.map(Base::id),
            }))
        };
        // The first attempt may fail because of what is in the lines: a hash collision, or too many columns.
        // The second keeps them whole, which works for all lines.
        match attempt(self, self.techniques) {
            Ok(Some(segment)) => return Ok(segment),
            Err(SegmentError::OutOfMemory) => return Err(SegmentError::OutOfMemory),
            Ok(None) | Err(_) => {}
        }
        attempt(self, Techniques::WHOLE_LINES)?.ok_or(SegmentError::Inconsistent {
            what: "an encoded segment does not come back",
        })
    }

    /// Splits the lines, lays out the streams, packs and compresses them, and writes the segment.
    pub(super) fn encode_split(
        &mut self,
        header: Header,
        entries: &[Entry<'_>],
        techniques: Techniques,
    ) -> Result<Vec<u8>, SegmentError> {
        let streams = split(entries, self.base, techniques)?;
        let main_max = body::main_bytes_max(header.raw_bytes as usize, entries.len());
        check_max("the size of the columns", streams.main.len(), main_max)?;
        let packed = techniques
            .copies
            .then(|| copies::pack(&self.index, &streams.main, self.shortest_copy))
            .flatten();
        let main_frame = self
            .main
            .compress(packed.as_ref().unwrap_or(&streams.main))?;
        let blob_frame = if streams.blobs.is_empty() {
            Vec::new()
        } else {
            self.blobs.compress(&streams.blobs)?
        };
        Ok(header.seal(&body::write(
            &streams,
            &groups::digests(entries),
            self.base,
            packed.map(|packed| packed.len()),
            &main_frame,
            &blob_frame,
        )))
    }

    /// What the segment decodes to, if that is `entries`.
    ///
    /// # Errors
    /// [`SegmentError::OutOfMemory`], which says nothing of the segment.
    pub(super) fn comes_back(
        &mut self,
        segment: &[u8],
        entries: &[Entry<'_>],
    ) -> Result<Option<DecodedSegment>, SegmentError> {
        let limits = DecodeLimits::default();
        let whole = 0..entries.len();
        let decoded = self
            .decoder
            .decode_range(segment, whole, &limits, self.base);
        let decoded = match decoded {
            Ok(decoded) => decoded,
            Err(SegmentError::OutOfMemory) => return Err(SegmentError::OutOfMemory),
            Err(_) => return Ok(None),
        };
        let same = decoded.len() == entries.len()
            && entries.iter().enumerate().all(|(index, entry)| {
                decoded
                    .payload(index)
                    .is_some_and(|payload| payload == entry.payload)
                    && decoded.received_ms(index) == Some(entry.received_ms)
            });
        Ok(same.then_some(decoded))
    }
}

fn shortest_copy(level: i32) -> ShortestCopy {
    if is_deep(level) {
        ShortestCopy::DEEP
    } else {
        ShortestCopy::QUICK
    }
}

/// Takes the messages apart, and lays out the streams of a segment.
pub(super) fn split(
    entries: &[Entry<'_>],
    base: Option<&Base>,
    techniques: Techniques,
) -> Result<Streams, SegmentError> {
    let base_ids = base.and_then(Base::id_positions);
    let raw_bytes = entries.iter().map(|entry| entry.payload.len()).sum();
    let shapes_bytes_max = body::main_bytes_max(raw_bytes, entries.len());
    let base_blobs = base.map(Base::blob_numbers);
    let mut splitter = Splitter::new(base_blobs, base_ids, techniques, shapes_bytes_max);
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
    body::lay_out(splitter, &received_times::write(entries))
}

/// The streams that a base is made from: those of a segment without a base.
pub(super) fn split_for_base(entries: &[Entry<'_>]) -> Result<Streams, SegmentError> {
    Header::for_entries(CodecVersion::V2, entries)?;
    split(entries, None, Techniques::ALL).or_else(|_| split(entries, None, Techniques::WHOLE_LINES))
}
