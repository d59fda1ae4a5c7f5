//! The body of a version 2 segment, before compression and after.
//!
//! [`lay_out`] arranges what the splitter has collected as [`Streams`], and [`write`] puts the body together
//! when these are compressed. The other way, [`Body::parse`] finds a body's parts, [`Body::inflate`]
//! decompresses them, and [`Main::parse`] finds the parts of the main stream. `docs/FORMAT.md` has the bytes.

use super::super::SegmentError;
use super::super::header::check_max;
use super::columns::Columns;
use super::forms::Id;
use super::ids::{IdReader, IdWriter};
use super::joiner::{ColumnReader, Joiner, State};
use super::shape::{Shapes, compile};
use super::splitter::Splitter;
use super::varint::{Cursor, put};
use super::{Base, copies, frame};
use crate::limits::{COPIES_STREAM_BYTES_MAX, MAIN_STREAM_SLACK_BYTES};

/// The main stream refers to a base.
pub(in crate::segment) const FLAG_BASE: u8 = 1;
/// Long repeats were taken out of the main stream.
const FLAG_COPIES: u8 = 2;
/// Identifiers may refer to the base's.
const FLAG_BASE_IDS: u8 = 4;

/// The size, before packing and compression, that the main stream of such a segment may have.
pub(super) fn main_bytes_max(raw_bytes: usize, messages: usize) -> usize {
    raw_bytes
        .saturating_mul(2)
        .saturating_add(messages * 16 + MAIN_STREAM_SLACK_BYTES)
}

/// What a segment consists of before compression.
#[derive(Debug)]
pub(super) struct Streams {
    /// Shapes, columns and text: what is worth compressing.
    pub(super) main: Vec<u8>,
    /// Decoded base64.
    pub(super) blobs: Vec<u8>,
    /// Hash and length of each value in `blobs`, in order.
    pub(super) blob_list: Vec<(u128, usize)>,
    /// New identifiers that are not the base's, in order.
    pub(super) id_list: Vec<Id>,
    has_base_ids: bool,
    pub(super) id_bytes: Vec<u8>,
    pub(super) id_pairs: Vec<u8>,
}

/// Arranges what the splitter has collected. `times` are the received times.
pub(super) fn lay_out(splitter: Splitter<'_>, times: &[u8]) -> Result<Streams, SegmentError> {
    let Splitter {
        mut columns,
        ids,
        lines,
        shapes,
        ..
    } = splitter;
    for column in &mut columns.all {
        column.finish();
    }
    let mut order = Vec::with_capacity(columns.len());
    compile(&shapes, |kind, key| order.push(columns.find(kind, key)))?;

    let mut main = Vec::new();
    for length in [shapes.len(), lines.len(), times.len(), ids.times.len()] {
        put(&mut main, length as u64);
    }
    main.extend_from_slice(&shapes);
    put_directory(&mut main, &columns, &order);
    for stream in [&lines, times, &ids.times] {
        main.extend_from_slice(stream);
    }
    let present = || {
        order
            .iter()
            .flatten()
            .filter_map(|&index| columns.all.get(index))
    };
    for column in present() {
        main.extend_from_slice(&column.codes);
        main.extend_from_slice(&column.aux);
    }
    for column in present() {
        main.extend_from_slice(&column.text);
    }
    let has_base_ids = ids.has_base();
    let IdWriter {
        bytes: id_bytes,
        pairs: id_pairs,
        fresh: id_list,
        ..
    } = ids;
    let Columns {
        blobs, blob_list, ..
    } = columns;
    Ok(Streams {
        main,
        blobs,
        blob_list,
        id_list,
        has_base_ids,
        id_bytes,
        id_pairs,
    })
}

fn put_directory(main: &mut Vec<u8>, columns: &Columns, order: &[Option<usize>]) {
    for index in order {
        let lengths = index
            .and_then(|index| columns.all.get(index))
            .map_or([0; 3], |column| {
                [column.codes.len(), column.aux.len(), column.text.len()]
            });
        for length in lengths {
            put(main, length as u64);
        }
    }
}

/// Writes the body. `packed_bytes` is the size of the packed stream, if that is what `main_frame` holds.
pub(super) fn write(
    streams: &Streams,
    digests: &[u32],
    base: Option<&Base>,
    packed_bytes: Option<usize>,
    main_frame: &[u8],
    blob_frame: &[u8],
) -> Vec<u8> {
    let mut body = Vec::with_capacity(
        main_frame.len() + blob_frame.len() + streams.id_bytes.len() + digests.len() * 4 + 64,
    );
    let has = |flag, present| if present { flag } else { 0 };
    body.push(
        has(FLAG_BASE, base.is_some())
            | has(FLAG_COPIES, packed_bytes.is_some())
            | has(FLAG_BASE_IDS, streams.has_base_ids),
    );
    if let Some(base) = base {
        body.extend_from_slice(&base.id().to_le_bytes());
    }
    for length in [
        digests.len(),
        streams.id_bytes.len(),
        streams.id_pairs.len(),
        streams.blobs.len(),
        blob_frame.len(),
        streams.main.len(),
    ] {
        put(&mut body, length as u64);
    }
    if let Some(packed_bytes) = packed_bytes {
        put(&mut body, packed_bytes as u64);
    }
    for digest in digests {
        body.extend_from_slice(&digest.to_le_bytes());
    }
    for part in [&streams.id_bytes, &streams.id_pairs, blob_frame, main_frame] {
        body.extend_from_slice(part);
    }
    body
}

/// A body taken apart, its frames still compressed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Body<'a> {
    pub(super) base_id: Option<u64>,
    has_base_ids: bool,
    pub(super) digests: &'a [[u8; 4]],
    pub(super) id_bytes: &'a [u8],
    pub(super) id_pairs: &'a [u8],
    pub(super) blob_bytes: usize,
    pub(super) blob_frame: &'a [u8],
    pub(super) main_bytes: usize,
    /// Size of the packed stream, if the main stream is packed.
    pub(super) packed_bytes: Option<usize>,
    pub(super) main_frame: &'a [u8],
}

impl<'a> Body<'a> {
    pub(super) fn parse(
        body: &'a [u8],
        raw_bytes: usize,
        messages: usize,
    ) -> Result<Self, SegmentError> {
        let mut cursor = Cursor::new(body);
        let flags = cursor.byte()?;
        if flags & !(FLAG_BASE | FLAG_COPIES | FLAG_BASE_IDS) != 0 {
            return Err(SegmentError::Inconsistent {
                what: "the body has unknown flags",
            });
        }
        let base_id = match flags & FLAG_BASE {
            0 => None,
            _ => Some(u64::from_le_bytes(cursor.array()?)),
        };
        let digests = cursor.length()?;
        let id_bytes = cursor.length()?;
        let id_pairs = cursor.length()?;
        let blob_bytes = cursor.length()?;
        let blob_frame = cursor.length()?;
        let main_bytes = cursor.length()?;
        check_max("the size of decoded base64", blob_bytes, raw_bytes)?;
        check_max(
            "the size of the columns",
            main_bytes,
            main_bytes_max(raw_bytes, messages),
        )?;
        let packed_bytes = match flags & FLAG_COPIES {
            0 => None,
            _ => {
                let packed_bytes = cursor.length()?;
                check_max(
                    "the size of columns with copies",
                    main_bytes,
                    COPIES_STREAM_BYTES_MAX,
                )?;
                check_max("the size of columns less copies", packed_bytes, main_bytes)?;
                Some(packed_bytes)
            }
        };
        check_max("the number of digests", digests, messages)?;
        Ok(Self {
            base_id,
            has_base_ids: flags & FLAG_BASE_IDS != 0,
            digests: cursor.take(digests * 4)?.as_chunks::<4>().0,
            id_bytes: cursor.take(id_bytes)?,
            id_pairs: cursor.take(id_pairs)?,
            blob_bytes,
            blob_frame: cursor.take(blob_frame)?,
            main_bytes,
            packed_bytes,
            main_frame: cursor.rest(),
        })
    }

    /// Decompresses the main stream and the blobs.
    pub(super) fn inflate(
        &self,
        base: Option<&Base>,
        into: &mut Inflated,
    ) -> Result<(), SegmentError> {
        let dictionary = base.map_or(&[][..], Base::head);
        let Inflated {
            zstd,
            packed,
            main,
            blobs,
        } = into;
        let (stream, stream_bytes) = match self.packed_bytes {
            Some(packed_bytes) => (&mut *packed, packed_bytes),
            None => (&mut *main, self.main_bytes),
        };
        zstd.decompress(self.main_frame, dictionary, stream_bytes, "columns", stream)?;
        if self.packed_bytes.is_some() {
            copies::unpack(packed, &base, self.main_bytes, main)?;
        }
        zstd.decompress(
            self.blob_frame,
            &[],
            self.blob_bytes,
            "decoded base64",
            blobs,
        )
    }
}

/// A segment's streams, decompressed, in buffers that are used for one segment after the other.
#[derive(Default)]
pub(in super::super) struct Inflated {
    zstd: frame::Decompressor,
    /// The packed stream, if the main stream is packed.
    pub(super) packed: Vec<u8>,
    pub(super) main: Vec<u8>,
    pub(super) blobs: Vec<u8>,
}

/// The main stream's streams.
pub(super) struct Main<'a> {
    pub(super) shapes: Shapes,
    pub(super) shape_text: &'a [u8],
    /// The lengths of the columns' streams, as they are stored.
    pub(super) lengths: &'a [u8],
    pub(super) times: &'a [u8],
    pub(super) lines: &'a [u8],
    pub(super) id_times: &'a [u8],
    pub(super) columns: Vec<ColumnReader<'a>>,
}

impl<'a> Main<'a> {
    pub(super) fn parse(main: &'a [u8]) -> Result<Self, SegmentError> {
        let mut cursor = Cursor::new(main);
        let shapes_length = cursor.length()?;
        let lines_length = cursor.length()?;
        let times_length = cursor.length()?;
        let id_times_length = cursor.length()?;
        let shape_text = cursor.take(shapes_length)?;
        let shapes = compile(shape_text, |_, _| {})?;
        let directory = cursor.rest();
        let mut lengths = Vec::with_capacity(shapes.columns());
        for _ in 0..shapes.columns() {
            lengths.push([cursor.length()?, cursor.length()?, cursor.length()?]);
        }
        let directory = &directory[..directory.len() - cursor.rest().len()];
        let lines = cursor.take(lines_length)?;
        let times = cursor.take(times_length)?;
        let id_times = cursor.take(id_times_length)?;
        let mut columns = Vec::with_capacity(lengths.len());
        for [codes, aux, _] in &lengths {
            columns.push(ColumnReader::new(
                cursor.take(*codes)?,
                cursor.take(*aux)?,
                &[],
            ));
        }
        for (column, [_, _, text]) in columns.iter_mut().zip(&lengths) {
            column.text = cursor.take(*text)?;
        }
        Ok(Self {
            shapes,
            shape_text,
            lengths: directory,
            times,
            lines,
            id_times,
            columns,
        })
    }

    pub(super) fn joiner<'m>(
        &'m mut self,
        body: &Body<'m>,
        blobs: &'m [u8],
        base: Option<&'m Base>,
    ) -> Joiner<'m> {
        Joiner {
            shapes: &self.shapes,
            shape_text: self.shape_text,
            lines: Cursor::new(self.lines),
            columns: std::mem::take(&mut self.columns),
            ids: IdReader::new(
                body.id_bytes,
                body.id_pairs,
                self.id_times,
                body.has_base_ids.then(|| base.map_or(&[][..], Base::ids)),
            ),
            blobs,
            base,
            state: State::default(),
        }
    }
}
