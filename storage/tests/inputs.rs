//! What other sessions hold than those the codec was made with: all of it comes back, and none of
//! it takes more room than it had.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use betcode_storage::segment::{CodecVersion, DecodeLimits, EncodeParams, Entry, decode, encode};
use betcode_test_support::{Random, noise};
use proptest::prelude::*;

/// Beyond the messages' own bytes: the segment's header and the parts' lengths …
const SEGMENT_EXCESS_BYTES: usize = 96;
/// … and for each message its length, its column's code, its share of a digest.
const MESSAGE_EXCESS_BYTES: usize = 6;
/// zstd's block headers.
const BLOCK_BYTES: usize = 4096;

/// Encodes and decodes; the share of their bytes that the messages take.
fn share(messages: &[Vec<u8>], level: i32) -> f64 {
    let entries: Vec<Entry<'_>> = (0..)
        .zip(messages)
        .map(|(n, payload)| Entry {
            payload,
            received_ms: 1_700_000_000_000 + n * n,
        })
        .collect();
    let params = EncodeParams {
        version: CodecVersion::V2,
        level,
    };
    let segment = encode(&entries, &params, None).unwrap();
    let decoded = decode(&segment, &DecodeLimits::default(), None).unwrap();
    assert_eq!(decoded.len(), messages.len());
    for (index, entry) in entries.iter().enumerate() {
        assert!(decoded.payload(index).unwrap() == entry.payload);
        assert_eq!(decoded.received_ms(index), Some(entry.received_ms));
    }
    let raw_bytes: usize = messages.iter().map(Vec::len).sum();
    let bound = raw_bytes
        + raw_bytes / BLOCK_BYTES
        + SEGMENT_EXCESS_BYTES
        + MESSAGE_EXCESS_BYTES * messages.len();
    assert!(
        segment.len() <= bound,
        "{raw_bytes} bytes in {} messages became {}",
        messages.len(),
        segment.len()
    );
    segment.len() as f64 / raw_bytes.max(1) as f64
}

fn both_tiers(messages: &[Vec<u8>]) -> f64 {
    share(messages, 4).max(share(messages, 16))
}

fn base64(bytes: &[u8]) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let threes = bytes.as_chunks::<3>().0.iter();
    threes
        .flat_map(|&[a, b, c]| {
            let bits = u32::from(a) << 16 | u32::from(b) << 8 | u32::from(c);
            [18, 12, 6, 0].map(|shift| char::from(digits[(bits >> shift & 63) as usize]))
        })
        .collect()
}

fn uuid(random: &mut Random) -> String {
    let (high, low) = (random.bits(), random.bits());
    format!(
        "{:08x}-{:04x}-4{:03x}-a{:03x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}

#[test]
fn partial_messages_come_back_and_shrink_to_a_fifth() {
    let mut random = Random::new(7);
    let words = [
        "the ", "store ", "keeps ", "every ", "\\n", "line, ", "byte ", "\\u00e9",
    ];
    let session = uuid(&mut random);
    let messages: Vec<Vec<u8>> = (0..3000)
        .map(|n| {
            let word = random.one_of(&words);
            format!(
                r#"{{"type":"stream_event","event":{{"type":"content_block_delta","index":{},"delta":{{"type":"text_delta","text":"{word}"}}}},"session_id":"{session}","parent_tool_use_id":null,"uuid":"{}"}}"#,
                n / 500,
                uuid(&mut random)
            )
            .into_bytes()
        })
        .collect();
    assert!(both_tiers(&messages) < 0.2);
}

#[test]
fn an_image_that_comes_again_is_stored_once() {
    let image = base64(&noise(1, 90_000));
    let messages: Vec<Vec<u8>> = (0..6)
        .map(|n| {
            format!(
                r#"{{"n":{n},"source":{{"type":"base64","media_type":"image/png","data":"{image}"}}}}"#
            )
            .into_bytes()
        })
        .collect();
    assert!(both_tiers(&messages) < 0.75 / 6.0 + 0.01);
}

#[test]
fn lines_of_other_agents_come_back_and_shrink() {
    let mut random = Random::new(3);
    let messages: Vec<Vec<u8>> = (0..600)
        .map(|n| {
            let text = match n % 4 {
                0 => format!(
                    r#"{{"timestamp":"2025-10-0{}T12:{:02}:{:02}.123Z","type":"response_item","payload":{{"type":"function_call","name":"shell","arguments":"{{\"command\":[\"bash\",\"-lc\",\"sed -n '{n},{}p' src/lib.rs\"]}}","call_id":"call_{:024}"}}}}"#,
                    1 + n % 9,
                    n % 60,
                    n % 59,
                    n + 40,
                    random.bits()
                ),
                1 => format!(
                    r#"{{ "role" : "tool", "ok" : true, "cost" : {:.6}, "tokens" : [ {n}, -{n}, 1e{} ] }}"#,
                    n as f64 / 7.0,
                    n % 30
                ),
                2 => format!("[{n:05}] INFO  agent::run: step {n} of 600 took {} ms", random.below(900)),
                _ => format!(r#"{{"kind":"usage_update","sessionUpdate":{{"used":{},"size":200000}},"at":{}}}"#, random.below(200_000), 1_759_000_000 + n),
            };
            text.into_bytes()
        })
        .collect();
    assert!(both_tiers(&messages) < 0.4);
}

#[test]
fn json_printed_over_several_lines_comes_back() {
    // As lines of their own, and as one message each.
    let value = |n: usize| {
        format!(
            "{{\n  \"type\": \"assistant\",\n  \"n\": {n},\n  \"content\": [\n    {{\n      \
             \"text\": \"line {n}\\n\"\n    }},\n    []\n  ]\n}}"
        )
    };
    let whole: Vec<Vec<u8>> = (0..400).map(|n| value(n).into_bytes()).collect();
    let lines: Vec<Vec<u8>> = (0..400)
        .flat_map(|n| {
            value(n)
                .lines()
                .map(|line| line.as_bytes().to_vec())
                .collect::<Vec<_>>()
        })
        .collect();
    assert!(both_tiers(&whole) < 0.1);
    assert!(both_tiers(&lines) < 0.5);
}

#[test]
fn noise_takes_no_more_room_than_it_had() {
    for (messages, bytes) in [
        (1, 0),
        (1, 1),
        (1, 3_000_000),
        (40, 5_000),
        (5_000, 3),
        (300, 40),
    ] {
        let noise: Vec<Vec<u8>> = (0..messages).map(|n| noise(n + 9, bytes)).collect();
        both_tiers(&noise);
    }
}

#[test]
fn a_line_of_10_mb_comes_back_whatever_it_is() {
    let text = "one line after the other\\n".repeat(400_000);
    let long_string = format!(r#"{{"type":"user","text":"{text}"}}"#);
    let long_array = format!("[{}]", vec![r#"{"a":1,"b":"x"}"#; 600_000].join(","));
    let unclosed = format!(r#"{{"type":"user","text":"{text}"#);
    for line in [long_string, long_array, unclosed] {
        assert!(line.len() > 9_000_000);
        assert!(share(&[line.into_bytes()], 4) < 0.1);
    }
    share(&[noise(5, 10_000_000)], 4);
}

/// Bytes that look like lines of JSON, more or less.
fn jumbled() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        "[{}\\[\\]:,\"\\\\]{1,4}",
        "\"[a-z]{1,5}\":",
        "\"[ -~]{0,20}\"",
        "-?[0-9]{1,20}(\\.[0-9]{1,3})?",
        "2025-01-0[1-9]T1[0-9]:00:00(\\.[0-9]{3}){0,2}Z?",
        "[0-9a-f]{8}-[0-9a-f]{4}-[47][0-9a-f]{3}-[89a-d][0-9a-f]{3}-[0-9a-f]{12}",
        "(toolu_01|msg_01|call_)[A-Za-z0-9]{22,24}",
        "[A-Za-z0-9+/]{40}={0,2}",
        " {1,6}[0-9]{1,4}(→|\t)[a-z ]{0,9}\\\\n",
    ];
    let text = prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat().into_bytes());
    prop_oneof![4 => text, 1 => prop::collection::vec(any::<u8>(), 0..60)]
}

proptest! {
    #[test]
    fn jumbled_lines_come_back_in_no_more_room(
        messages in prop::collection::vec(jumbled(), 1..40),
        repeats in 1_usize..4,
    ) {
        let messages: Vec<Vec<u8>> = (0..repeats).flat_map(|_| messages.clone()).collect();
        share(&messages, 4);
    }
}
