//! Whatever goes in comes out; whatever is damaged says so and nothing else happens.

mod bases;
mod example;
mod fixtures;
mod fuzz;

use betcode_test_support::Random;
use proptest::prelude::*;

use super::body::{Body, Inflated};
use super::encoder::split;
use super::*;
use crate::segment::header::{CodecVersion, Header};
use crate::segment::{DecodeLimits, Entry, SegmentError, decode as decode_segment, decode_range};

const LEVEL: i32 = 3;

fn entries<'a>(lines: &'a [Vec<u8>], times: &[i64]) -> Vec<Entry<'a>> {
    let time = |index: usize| times.get(index).copied().unwrap_or(1_700_000_000_000);
    let numbered = lines.iter().enumerate();
    numbered
        .map(|(index, line)| Entry {
            payload: line,
            received_ms: time(index),
        })
        .collect()
}

/// Encodes, decodes whole and in ranges, and returns the segment. Kept whole, lines come back in any
/// case, which would say nothing of how they are split: so they have to come back as they are split.
fn round_trip(lines: &[Vec<u8>], times: &[i64], base: Option<&Base>) -> Vec<u8> {
    let segment = round_trip_split_or_whole(lines, times, base);
    let entries = entries(lines, times);
    let mut encoder = Encoder::new(LEVEL, base).unwrap();
    let split = encoder.encode_split(
        Header::for_entries(CodecVersion::V2, &entries).unwrap(),
        &entries,
        Techniques::ALL,
    );
    assert!(split == Ok(segment.clone()), "the lines were kept whole");
    segment
}

fn round_trip_split_or_whole(lines: &[Vec<u8>], times: &[i64], base: Option<&Base>) -> Vec<u8> {
    let entries = entries(lines, times);
    let segment = Encoder::new(LEVEL, base).unwrap().encode(&entries).unwrap();
    let limits = DecodeLimits::default();
    let whole = decode_segment(&segment, &limits, base).unwrap();
    assert_eq!(whole.len(), entries.len());
    for (index, entry) in entries.iter().enumerate() {
        assert_eq!(whole.payload(index).unwrap(), entry.payload);
        assert_eq!(whole.received_ms(index), Some(entry.received_ms));
    }
    for (first, last) in [
        (0, 1),
        (1, 3),
        (lines.len() - 1, lines.len()),
        (65, 200),
        (5, 5),
        (9, 2),
    ] {
        let part = decode_range(&segment, first..last, &limits, base).unwrap();
        let expected = entries
            .get(first..last.min(lines.len()))
            .unwrap_or_default();
        assert_eq!(part.len(), expected.len(), "{first}..{last}");
        for (index, entry) in expected.iter().enumerate() {
            assert_eq!(part.payload(index).unwrap(), entry.payload);
            assert_eq!(part.received_ms(index), Some(entry.received_ms));
        }
    }
    segment
}

fn lines(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Lines of the kinds that agents print, and of kinds that they should not.
fn sample() -> Vec<Vec<u8>> {
    let image = "iVBORw0KGgo+/AAANSUhEUgA".repeat(20);
    let uuid = "6ac5efbd-74cf-40db-8619-67efb284593e";
    let mut all = lines(&[
        r#"{"type":"user","uuid":"6ac5efbd-74cf-40db-8619-67efb284593e","parentUuid":null,"timestamp":"2026-02-12T22:27:28.428Z","message":{"role":"user","content":"Hello\n\"world\" \\ \u001b[0m"}}"#,
        r#"{"type":"assistant","uuid":"7f3059a7-48ac-41be-8f54-58efd3242c1d","parentUuid":"6ac5efbd-74cf-40db-8619-67efb284593e","timestamp":"2026-02-12T22:27:29.428Z","message":{"id":"msg_01PKRaTCSYjYfbHU2JrNm8cz","content":[{"type":"tool_use","id":"toolu_01BhjBkayvPcWb1dyvjWfifq","input":{"file_path":"/a/b"}},{"type":"text","text":"x"}],"usage":{"input_tokens":3,"output_tokens":-4,"cost":1.50,"big":123456789012345678901234567890}},"requestId":"req_011CYKLjac7RupD6i6WKiMH6"}"#,
        r#"{"type":"user","message":{"content":[{"tool_use_id":"toolu_01BhjBkayvPcWb1dyvjWfifq","content":"     1→fn main() {\n     2→    body\n     3→}\n"}]},"toolUseResult":{"file":{"content":"fn main() {\n    body\n}\n"},"structuredPatch":[{"oldStart":1,"lines":[" fn main() {","-    body","+    soul"," }","\\ No newline at end of file"]},{"lines":[]},{"lines":["odd"]},{"lines":[ "+spaced" ]}]}}"#,
        r#"{"timestamp":"2026-06-18T07:41:33Z","t2":"2026-06-18T07:41:33.123456+00:00","payload":{"call_id":"call_slR9AaHlKpxPhXnRzCJmjHRy","other":"call_bc24ba064687448a9a129cf2","h":"00112233445566778899aabbccddeeff","v7":"019ed99c-d00d-7613-b2e7-d2f512f78afd"}}"#,
        r#"[[1,2,[3]],[],[ ],{"a":[{"a":[]},"s"]},null,true,"x"]"#,
        r#""just a string""#,
        "17",
        " {\"odd\" :\t[ 1 , -0 , 1E5, 01e+3 ] , \"dup\":1, \"dup\":\"2\" } \r",
        r#"{"slash":"a\/b","upper":"\u001B","esc":"\u0041","pair":"\ud83d\ude00","lone":"\ud800"}"#,
        r#"{"a":1}{"b":2}"#,
        r#"{"torn":"at 8 Ki"#,
        "",
        "prose between JSON",
        r#"{"":"","k":":","type":":","name":"a:b_0011223344556677"}"#,
    ]);
    all.push(
        format!(r#"{{"data":"{image}","again":{{"base64":"{image}"}},"uuid":"{uuid}"}}"#).into(),
    );
    let url_safe = image.replace('+', "-").replace('/', "_");
    all.push(format!(r#"{{"data":"{image}","encrypted_content":"{url_safe}"}}"#).into());
    all.push(format!(r#"{{"encrypted_content":"{url_safe}","a":"{url_safe}"}}"#).into());
    all.push(format!(r#"{{"url":"data:image/png;base64,{image}","b":"data:,{image}"}}"#).into());
    all.push(b"\xff\xfe\0 not UTF-8".to_vec());
    all.push(b"{\"bad\":\"\xff\xfe\", \"nul\":\"\0\"}".to_vec());
    all.push("[".repeat(100_000).into());
    all.push(format!("{}1{}", "[".repeat(64), "]".repeat(64)).into());
    all
}

#[test]
fn every_kind_of_line_comes_back() {
    round_trip(&sample(), &[], None);
    for line in sample() {
        round_trip(&[line], &[i64::MIN], None);
    }
    round_trip(&vec![Vec::new(); 300], &[], None);
    round_trip(
        &vec![br#"{"uuid":"6ac5efbd-74cf-40db-8619-67efb284593e","n":1}"#.to_vec(); 1000],
        &[7, 7, 3, i64::MAX],
        None,
    );
}

#[test]
fn usual_lines_are_split_and_not_kept_whole() {
    let sample: Vec<_> = sample().into_iter().take(7).collect();
    let parts = split(&entries(&sample, &[]), None, Techniques::ALL).unwrap();
    // What a line would leave behind in its column if it were kept whole.
    assert!(!String::from_utf8_lossy(&parts.main).contains("6ac5efbd"));
    assert!(!String::from_utf8_lossy(&parts.main).contains("2→"));
}

#[test]
fn many_keys_and_values_keep_within_bounds() {
    let keys: Vec<String> = (0..20_000).map(|n| format!("\"k{n}\":{n}")).collect();
    let numbers: Vec<String> = (0..50_000).map(|n| n.to_string()).collect();
    round_trip(
        &lines(&[
            &format!("{{{}}}", keys.join(",")),
            &format!("[{}]", numbers.join(",")),
        ]),
        &[],
        None,
    );
    // Few keys with many kinds of values deceive the estimate of columns; verification does not.
    let kinds: Vec<Vec<u8>> = (0..9_000)
        .map(|n| format!("{{\"k{n}\":{n}}}").into_bytes())
        .collect();
    round_trip_split_or_whole(&kinds, &[], None);
}

#[test]
fn a_long_key_before_an_array_costs_no_more_than_its_line() {
    let key = "k".repeat(1 << 20);
    let elements: Vec<String> = (0..2000)
        .map(|n| format!("\"x{n}_0123456789abcdef\""))
        .collect();
    let long_key = format!("{{\"{key}\":[{}]}}", elements.join(",")).into_bytes();
    // As many shapes as elements, each with the key before it.
    let key = "k".repeat(crate::limits::JSON_KEY_BYTES_MAX - 1);
    let many_shapes = format!("{{\"{key}\":[{}]}}", elements.join(",")).into_bytes();
    for (line, is_split) in [(long_key, true), (many_shapes, false)] {
        let lines = [line];
        let entries = entries(&lines, &[]);
        let parts = split(&entries, None, Techniques::ALL);
        assert_eq!(parts.is_ok(), is_split);
        let parts = parts.map_or(0, |parts| parts.main.len());
        assert!(parts <= body::main_bytes_max(lines[0].len(), 1));
        round_trip_split_or_whole(&lines, &[], None);
    }
}

#[test]
fn hostile_shapes_take_neither_memory_nor_time() {
    let mut steps = vec![shape::Kind::Text as u8; (8 << 20) + 1];
    steps.push(shape::END);
    let shapes = vec![shape::END; (8 << 20) + 1];
    let mut long_key = vec![b'k'; 8 << 20];
    long_key.push(shape::CONTEXT);
    // Hashed for each of the values, the key would make this 64 terabytes.
    long_key.resize(16 << 20, shape::Kind::Text as u8);
    long_key.push(shape::END);
    for (text, is_one) in [(steps, false), (shapes, false), (long_key, true)] {
        let compiled = shape::compile(&text, |_, _| {});
        assert_eq!(compiled.is_ok(), is_one);
    }
}

#[test]
fn limits_hold_before_anything_is_allocated() {
    let segment = round_trip(&sample(), &[], None);
    let small = DecodeLimits {
        raw_bytes_max: 1000,
        messages_max: 1000,
    };
    assert!(matches!(
        decode_segment(&segment, &small, None),
        Err(SegmentError::TooLarge { .. })
    ));
    let few = DecodeLimits {
        raw_bytes_max: 1 << 30,
        messages_max: 3,
    };
    assert!(matches!(
        decode_segment(&segment, &few, None),
        Err(SegmentError::TooLarge { .. })
    ));
}

#[test]
fn every_damaged_byte_is_found() {
    let segment = round_trip(&sample(), &[], None);
    for at in 0..segment.len() {
        let mut damaged = segment.clone();
        damaged[at] ^= 0x10;
        assert!(
            decode_segment(&damaged, &DecodeLimits::default(), None).is_err(),
            "byte {at}"
        );
        assert!(decode_segment(&segment[..at], &DecodeLimits::default(), None).is_err());
    }
}

/// Damages bytes in up to five places.
fn mutate(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..=random.index(4) {
        let at = random.index(bytes.len());
        match random.index(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << random.index(8),
            1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][random.index(5)],
            2 => bytes.truncate(at),
            3 => bytes.insert(at.min(bytes.len()), random.index(256) as u8),
            4 if !bytes.is_empty() => drop(bytes.remove(at)),
            5 if !bytes.is_empty() => {
                let to = (at + random.index(40)).min(bytes.len());
                let piece = bytes[at..to].to_vec();
                let into = random.index(bytes.len());
                bytes.splice(into..into, piece);
            }
            _ if !bytes.is_empty() => bytes[at] = random.index(256) as u8,
            _ => bytes.push(0),
        }
    }
}

fn json(depth: u32) -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        "-?[0-9]{1,20}(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
        "\"([a-zA-Z0-9 _:,{}é→]|\\\\[nrtbf\"\\\\/]|\\\\u00[01][0-9a-fA-F]|\\\\u[0-9a-f]{4}){0,40}\"",
        "\"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\"",
        "\"(toolu|msg|req|call)_(01)?[0-9A-Za-z]{22,24}\"",
        "\"20[0-9]{2}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-5][0-9](\\.[0-9]{3}|\\.[0-9]{6})?(Z|\\+00:00)?\"",
        "\"[A-Za-z0-9+/]{124,140}={0,2}\"",
        "\"([ 0-9]{1,6}(→|\\\\t)[a-z]{0,4}\\\\n){0,6}\"",
        "\"([a-z_]{0,8})[0-9a-f]{16,32}\"",
    ];
    leaf.prop_recursive(depth, 64, 8, |inner| {
        let key = prop_oneof!["(type|name|lines|content|id|uuid|:|a\\\\\"b)", "[a-z]{0,3}"];
        let space = "[ \t\n]{0,1}";
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..6), space)
                .prop_map(|(items, space)| format!("[{}]", items.join(&format!("{space},")))),
            (prop::collection::vec((key, inner), 0..6), space).prop_map(|(pairs, space)| {
                let pairs: Vec<String> = pairs
                    .into_iter()
                    .map(|(key, value)| format!("\"{key}\"{space}:{value}"))
                    .collect();
                format!("{{{}}}", pairs.join(","))
            }),
            prop::collection::vec("\"[ +\\-\\\\]?[a-z\\\\]{0,4}\"", 0..5)
                .prop_map(|lines| format!("{{\"lines\":[{}]}}", lines.join(","))),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_come_back(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20), times: Vec<i64>) {
        round_trip(&lines, &times, None);
    }

    #[test]
    fn any_json_comes_back(texts in prop::collection::vec(json(4), 1..150), cut in any::<prop::sample::Index>()) {
        let mut lines: Vec<Vec<u8>> = texts.into_iter().map(String::into_bytes).collect();
        // One line is torn.
        let at = cut.index(lines.len());
        let length = lines[at].len();
        lines[at].truncate(length / 2);
        round_trip(&lines, &[], None);
    }
}

#[test]
fn short_keys_that_differ_in_one_letter_have_columns_of_their_own() {
    let values = [
        r#""509a053c-2d6e-a711-2a5c-a6a74b150bc3""#,
        r#""509a053c2d6ea711""#,
        r#""2026-11-29T22:53:29.123Z""#,
        r#""some text that is none of these""#,
        "17",
        "1.5",
        "[1]",
    ];
    let mut lines = Vec::new();
    for length in 1..=8 {
        let rest = "k".repeat(length - 1);
        for letter in 'a'..='p' {
            for key in [format!("{rest}{letter}"), format!("{letter}{rest}")] {
                let objects = values.map(|value| format!(r#"{{"{key}":{value}}}"#));
                lines.push(format!("[{}]", objects.join(",")).into_bytes());
            }
        }
    }
    round_trip(&lines, &[], None);
}

#[test]
fn every_mixture_of_techniques_comes_back() {
    let sample = sample();
    let times: Vec<i64> = (0..sample.len() as i64).collect();
    let entries = entries(&sample, &times);
    for name in Techniques::names() {
        let techniques = Techniques::without(name).unwrap();
        assert_ne!(techniques, Techniques::ALL, "{name}");
        let mut encoder = Encoder::with_techniques(LEVEL, None, techniques).unwrap();
        let split = encoder.encode_split(
            Header::for_entries(CodecVersion::V2, &entries).unwrap(),
            &entries,
            techniques,
        );
        assert!(
            encoder
                .comes_back(&split.unwrap(), &entries)
                .unwrap()
                .is_some(),
            "{name}"
        );
    }
    assert_eq!(Techniques::without("luck"), None);
}
