//! Where the bytes of a version 2 body are, by part.

use std::collections::BTreeMap;

use super::super::anatomy::{Part, Parts};
use super::super::{Header, SegmentError};
use super::Base;
use super::body::{Body, Inflated, Main};
use super::decoder::needed_base;
use super::shape::{Kind, compile};

/// Finds the parts of a body. Returns the id of the base that it needs.
pub(in super::super) fn anatomy(
    header: &Header,
    bytes: &[u8],
    base: Option<&Base>,
    parts: &mut Parts,
) -> Result<Option<u64>, SegmentError> {
    let body = Body::parse(bytes, header.raw_bytes as usize, header.messages as usize)?;
    let base = needed_base(body.base_id, base)?;
    let mut inflated = Inflated::default();
    body.inflate(base, &mut inflated)?;
    let Inflated { main, blobs, .. } = &inflated;

    let digests = body.digests.len() * 4;
    let ids = body.id_bytes.len() + body.id_pairs.len();
    let frames = body.main_frame.len() + body.blob_frame.len();
    let front = bytes.len() - digests - ids - frames;
    parts.exact(Part::Frame, front, front);
    parts.exact(Part::Digests, digests, digests);
    if ids > 0 {
        parts.exact(Part::Ids, ids, ids);
    }
    if !body.blob_frame.is_empty() {
        parts.exact(Part::Blobs, blobs.len(), body.blob_frame.len());
    }

    let shared = shared_parts(main)?;
    let dictionary = base.map_or(&[][..], Base::head);
    parts.shared(&shared, dictionary, body.main_frame.len())?;
    Ok(body.base_id)
}

/// The parts of the main stream.
fn shared_parts(stream: &[u8]) -> Result<BTreeMap<Part, Vec<u8>>, SegmentError> {
    let main = Main::parse(stream)?;
    let mut kinds = Vec::with_capacity(main.columns.len());
    compile(main.shape_text, |kind, _| kinds.push(kind))?;
    let mut shared: BTreeMap<Part, Vec<u8>> = BTreeMap::new();
    let mut put = |part: Part, bytes: &[u8]| {
        if !bytes.is_empty() {
            shared.entry(part).or_default().extend_from_slice(bytes);
        }
    };
    put(Part::Frame, main.lengths);
    put(Part::Shapes, main.shape_text);
    put(Part::Shapes, main.lines);
    put(Part::Times, main.times);
    put(Part::Ids, main.id_times);
    for (column, kind) in main.columns.iter().zip(kinds) {
        let (codes, text) = parts_of(kind);
        put(codes, column.codes.rest());
        put(codes, column.aux.rest());
        put(text, column.text);
    }
    Ok(shared)
}

/// The parts that a column's codes and its text belong to.
fn parts_of(kind: Kind) -> (Part, Part) {
    let codes = match kind {
        Kind::Uuid | Kind::Base58 | Kind::Base62 | Kind::Hex16 | Kind::Hex24 | Kind::Hex32 => {
            Part::Ids
        }
        Kind::TimeS | Kind::TimeMs | Kind::TimeUs => Part::Times,
        Kind::Integer | Kind::Array => Part::Integers,
        Kind::Text
        | Kind::Verbatim
        | Kind::Numbered
        | Kind::PatchLines
        | Kind::Base64
        | Kind::Base64Url
        | Kind::Number
        | Kind::Raw => Part::StringCodes,
    };
    let text = match kind {
        Kind::Verbatim | Kind::Number | Kind::Raw => Part::Verbatim,
        _ => Part::Text,
    };
    (codes, text)
}
