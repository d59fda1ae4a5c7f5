//! `docs/FORMAT.md` is enough to read history: segments and bases, decoded by a program that was
//! written from it.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod decoder;

use betcode_storage::segment::v2::{BaseBuilder, TakenApart};
use betcode_storage::segment::{Base, CodecVersion, EncodeParams, Entry, encode};

const BASE: &[u8] = include_bytes!("../../src/segment/v2/fixtures/base");
const BASED: &[u8] = include_bytes!("../../src/segment/v2/fixtures/based.segment");
const COPIES: &[u8] = include_bytes!("../../src/segment/v2/fixtures/copies.segment");
const PLAIN: &[u8] = include_bytes!("../../src/segment/v2/fixtures/plain.segment");
const VERSION_1: &[u8] = include_bytes!("../../src/segment/v1/fixtures/segment");
const TAIL_BASE: &[u8] = include_bytes!("../../src/segment/v2/fixtures/tail.base");
const TAIL: &[u8] = include_bytes!("../../src/segment/v2/fixtures/tail.segment");
const MESSAGES: &[u8] = include_bytes!("../../src/segment/v2/fixtures/messages");

/// What the fixtures hold: each message behind its length.
fn messages() -> Vec<decoder::Message> {
    let mut rest = MESSAGES;
    let mut messages = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let (payload, after) = after.split_at(u32::from_le_bytes(*length) as usize);
        let received_ms = 1_700_000_000_000 + messages.len() as i64 / 3;
        messages.push((payload.to_vec(), received_ms));
        rest = after;
    }
    messages
}

fn entries(messages: &[decoder::Message]) -> Vec<Entry<'_>> {
    messages
        .iter()
        .map(|(payload, received_ms)| Entry {
            payload,
            received_ms: *received_ms,
        })
        .collect()
}

#[test]
fn the_document_is_enough_to_read_version_1() {
    assert!(decoder::segment(VERSION_1, None) == messages());
}

#[test]
fn the_document_is_enough_to_read_version_2() {
    assert!(decoder::segment(PLAIN, None) == messages());
}

#[test]
fn the_document_is_enough_to_read_version_2_with_a_base() {
    let base = decoder::base(BASE);
    assert!(decoder::segment(BASED, Some(&base)) == messages());
    assert!(decoder::segment(COPIES, Some(&base)) == messages());
}

#[test]
fn the_document_is_enough_to_read_version_2_with_a_base_that_has_a_tail() {
    let base = decoder::base(TAIL_BASE);
    assert!(decoder::segment(TAIL, Some(&base)) == messages());
}

#[test]
fn what_is_written_today_is_what_the_document_says() {
    // Several groups of digests, times of several days, all in an order of their own.
    let mut messages: Vec<decoder::Message> = (0..40).flat_map(|_| messages()).collect();
    for blob in ["gAAAAABp-_x8", "gAAAAABp+/x8"] {
        let line = format!(r#"{{"encrypted_content":"{}"}}"#, blob.repeat(20));
        messages.push((line.into_bytes(), 0));
    }
    for (index, message) in messages.iter_mut().enumerate() {
        message.1 += index as i64 * 7_919 % 86_400_000;
    }
    let entries = entries(&messages);
    let mut builder = BaseBuilder::new(3);
    builder.observe(TakenApart::of(&entries).unwrap());
    builder.observe(TakenApart::of(&entries).unwrap());
    let mut collector = builder.into_collector(1 << 20).with_head_bytes_max(3_000);
    collector.collect(&TakenApart::of(&entries).unwrap());
    let stored = collector.finish().unwrap().unwrap();
    let (ours, theirs) = (Base::decode(&stored).unwrap(), decoder::base(&stored));
    for version in [CodecVersion::V1, CodecVersion::V2] {
        for level in [3, 17] {
            let params = EncodeParams { version, level };
            let alone = encode(&entries, &params, None).unwrap();
            assert!(decoder::segment(&alone, None) == messages);
            let based = encode(&entries, &params, Some(&ours)).unwrap();
            assert!(decoder::segment(&based, Some(&theirs)) == messages);
        }
    }
}

/// How the fixture of version 1 was made.
#[test]
#[ignore = "writes files"]
fn write_fixture_of_version_1() {
    let messages = messages();
    let params = EncodeParams {
        version: CodecVersion::V1,
        level: 17,
    };
    let segment = encode(&entries(&messages), &params, None).unwrap();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/segment/v1/fixtures");
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(format!("{folder}/segment"), segment).unwrap();
}
