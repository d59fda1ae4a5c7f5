//! Whatever goes in comes out; whatever is damaged says so and nothing else happens.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::segment::{decode as decode_segment, decode_range};

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

/// Encodes, decodes whole and in ranges, and returns the segment.
fn round_trip(lines: &[Vec<u8>], times: &[i64], base: Option<&Base>) -> Vec<u8> {
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
    let image = "iVBORw0KGgoAAAANSUhEUgAA".repeat(20);
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
    let parts = split(&entries(&sample, &[]), None, Ideas::ALL).unwrap();
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
    round_trip(&kinds, &[], None);
}

#[test]
fn a_base_is_needed_and_must_be_the_right_one() {
    let shared: String = (0..2000)
        .map(|n| format!("shared line {} of a file\\n", n * n % 9973))
        .collect();
    let image = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo="
        .replace('=', "A")
        .repeat(100);
    let make = |n: usize| {
        lines(&[
            &format!(r#"{{"n":{n},"content":"{shared}"}}"#),
            &format!(r#"{{"n":{n},"data":"{image}"}}"#),
        ])
    };
    let segments = [make(1), make(2), make(3)];
    let mut builder = BaseBuilder::new();
    for segment in &segments {
        builder.observe(&entries(segment, &[])).unwrap();
    }
    let mut collector = builder.into_collector(1 << 20);
    for segment in &segments {
        collector.collect(&entries(segment, &[])).unwrap();
    }
    let bytes = collector.finish(LEVEL).unwrap().unwrap();
    let base = Base::decode(&bytes).unwrap();
    assert_eq!(Base::peek_id(&bytes), Ok(base.id()));
    let alone = round_trip(&segments[0], &[], None);
    let based = round_trip(&segments[0], &[], Some(&base));
    assert!(
        based.len() * 5 < alone.len(),
        "{} of {}",
        based.len(),
        alone.len()
    );
    let limits = DecodeLimits::default();
    assert_eq!(
        crate::segment::base_id(&based, &limits),
        Ok(Some(base.id()))
    );
    assert_eq!(crate::segment::base_id(&alone, &limits), Ok(None));
    assert!(matches!(
        decode_segment(&based, &limits, None),
        Err(SegmentError::Base { .. })
    ));
    // A segment that needs no base takes any.
    assert!(decode_segment(&alone, &limits, Some(&base)).is_ok());
    for at in 0..bytes.len() {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(Base::decode(&damaged).is_err(), "byte {at}");
        assert!(Base::decode(&bytes[..at]).is_err(), "first {at} bytes");
    }
}

/// A base of what `segments` share, with a head so short that it has a tail.
fn base_with_a_tail(segments: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut builder = BaseBuilder::new();
    for segment in segments {
        builder.observe(&entries(segment, &[])).unwrap();
    }
    let mut collector = builder.into_collector(8 << 20).with_head_bytes_max(2_000);
    for segment in segments {
        collector.collect(&entries(segment, &[])).unwrap();
    }
    collector.finish(LEVEL).unwrap().unwrap()
}

/// A line of `bytes` of text that repeats nothing.
fn passage(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random(seed);
    let text: String = (0..bytes)
        .map(|_| char::from(b" etaoinshrdlu"[random.below(13)]))
        .collect();
    format!(r#"{{"text":"{text}"}}"#).into_bytes()
}

#[test]
fn a_reader_decodes_those_chunks_of_a_bases_tail_that_its_segment_copies_from() {
    // Each passage in two segments, neighbours in the base, together more than three chunks.
    let passages: Vec<Vec<u8>> = (1..=9).map(|seed| passage(seed, 100_000)).collect();
    let segments = [passages.clone(), passages.clone()];
    let bytes = base_with_a_tail(&segments);
    let base = || Base::decode(&bytes).unwrap();
    let chunks = base().chunks_needed().0;
    assert!(chunks > 3, "{chunks}");

    let whole = round_trip(&passages, &[], Some(&base()));
    assert!(whole.len() < 1_000, "{}", whole.len());
    // One passage lies in one chunk or across the border of two.
    for passage in &passages {
        let segment = round_trip(std::slice::from_ref(passage), &[], Some(&base()));
        assert!(segment.len() < 300, "{}", segment.len());
        let fresh = base();
        let decoded = decode_segment(&segment, &DecodeLimits::default(), Some(&fresh)).unwrap();
        assert_eq!(decoded.payload(0).unwrap(), passage.as_slice());
        let needed = fresh.chunks_needed().1;
        assert!((1..=2).contains(&needed), "{needed} of {chunks}");
    }
}

#[test]
fn identifiers_that_segments_share_are_spelled_out_in_their_base_only() {
    let line = |n: u128| {
        let digits = format!(
            "{:032x}",
            n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835)
        );
        let cuts = [0..8, 8..12, 12..16, 16..20, 20..32];
        let uuid = cuts.map(|cut| &digits[cut]).join("-");
        let tool = format!("{:022}", n * 7_919).replace('0', "x");
        format!(r#"{{"uuid":"{uuid}","id":"toolu_01{tool}"}}"#).into_bytes()
    };
    let all: Vec<Vec<u8>> = (1..=500).map(line).collect();
    let bytes = base_with_a_tail(&[all.clone(), all.clone()]);
    let base = Base::decode(&bytes).unwrap();
    let alone = round_trip(&all, &[], None);
    let based = round_trip(&all, &[], Some(&base));
    assert!(
        based.len() * 20 < alone.len(),
        "{} of {}",
        based.len(),
        alone.len()
    );
    // In another order, with others between, and the same again.
    let mut mixed: Vec<Vec<u8>> = all.iter().rev().step_by(3).cloned().collect();
    mixed.extend((900..950).map(line));
    mixed.extend_from_slice(&all[100..200]);
    round_trip(&mixed, &[], Some(&base));
    // Without its base a segment is not guessed at.
    let limits = DecodeLimits::default();
    assert!(decode_segment(&based, &limits, None).is_err());
}

#[test]
fn a_damaged_tail_is_told_and_never_read() {
    let passages: Vec<Vec<u8>> = (1..=4).map(|seed| passage(seed, 100_000)).collect();
    let bytes = base_with_a_tail(&[passages.clone(), passages.clone()]);
    let segment = round_trip(&passages, &[], Some(&Base::decode(&bytes).unwrap()));
    let sealed_again = |mut bytes: Vec<u8>| {
        let id = xxh3_64(&bytes[BASE_LABEL_BYTES..]);
        bytes[3..BASE_LABEL_BYTES].copy_from_slice(&id.to_le_bytes());
        (id, bytes)
    };
    for at in (0..bytes.len()).step_by(997) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        assert!(Base::decode(&damaged).is_err(), "byte {at}");
        assert!(Base::decode(&bytes[..at]).is_err(), "first {at} bytes");
        // Even if the base says that it is whole, for a segment that believes it.
        if at < BASE_LABEL_BYTES {
            continue;
        }
        let (id, damaged) = sealed_again(damaged);
        let (header, body) = Header::parse(&segment, &DecodeLimits::default()).unwrap();
        let mut body = body.to_vec();
        body[1..9].copy_from_slice(&id.to_le_bytes());
        let segment = header.seal(&body);
        if let Ok(base) = Base::decode(&damaged) {
            let limits = DecodeLimits::default();
            if let Ok(decoded) = decode_segment(&segment, &limits, Some(&base)) {
                let same = passages.iter().enumerate().all(|(index, passage)| {
                    decoded
                        .payload(index)
                        .is_some_and(|p| p == passage.as_slice())
                });
                assert!(same, "byte {at}");
            }
        }
    }
}

#[test]
fn segments_that_share_nothing_make_no_base() {
    let mut builder = BaseBuilder::new();
    let sample = sample();
    builder.observe(&entries(&sample, &[])).unwrap();
    let mut collector = builder.into_collector(1 << 20);
    collector.collect(&entries(&sample, &[])).unwrap();
    assert_eq!(collector.finish(LEVEL), Ok(None));
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

/// A generator of its own, so that a failure is repeated from the seed it prints.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % bound.max(1) as u64) as usize
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            match self.below(7) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => bytes.truncate(at),
                3 => bytes.insert(at.min(bytes.len()), self.below(256) as u8),
                4 if !bytes.is_empty() => drop(bytes.remove(at)),
                5 if !bytes.is_empty() => {
                    let to = (at + self.below(40)).min(bytes.len());
                    let piece = bytes[at..to].to_vec();
                    let into = self.below(bytes.len());
                    bytes.splice(into..into, piece);
                }
                _ if !bytes.is_empty() => bytes[at] = self.below(256) as u8,
                _ => bytes.push(0),
            }
        }
    }
}

/// Segments as the decoder takes them apart: damage past the checksum and past zstd.
struct Target {
    header: Header,
    base: Option<Arc<Base>>,
    /// The main stream less its long repeats, if it has any.
    packed: Option<Vec<u8>>,
    main: Vec<u8>,
    blobs: Vec<u8>,
    body: Vec<u8>,
}

fn short_sample() -> Vec<Vec<u8>> {
    let sample = sample().into_iter();
    sample.filter(|line| line.len() < 2000).collect()
}

/// Text said again in other lines: a stream with copies.
fn repeated() -> Vec<Vec<u8>> {
    let said: Vec<String> = (0..300)
        .map(|n| format!("{} of a file", n * n % 9973))
        .collect();
    (0..6)
        .map(|n| format!(r#"{{"n":{n},"text":"{}"}}"#, said[n * 7..].join("\\n")).into_bytes())
        .collect()
}

/// A base with a tail, identifiers and a blob, for the targets that have one.
fn fuzzed_base() -> Vec<u8> {
    let shared = [short_sample(), repeated()].concat();
    base_with_a_tail(&[shared.clone(), shared])
}

/// Magic, version and id of a base.
const BASE_LABEL_BYTES: usize = 11;

fn targets() -> Vec<Target> {
    let (sample, repeated) = (short_sample(), repeated());
    let halves = sample.split_at(sample.len() / 2);
    let base = Arc::new(Base::decode(&fuzzed_base()).unwrap());
    [
        (&sample[..], None),
        (halves.0, None),
        (halves.1, None),
        (&sample[..3], None),
        (&repeated, None),
        (&sample, Some(&base)),
        (&repeated, Some(&base)),
    ]
    .into_iter()
    .map(|(lines, base)| {
        let segment = round_trip(lines, &[1, 2, 3], base.map(Arc::as_ref));
        let (header, body) = Header::parse(&segment, &DecodeLimits::default()).unwrap();
        let parsed =
            Body::parse(body, header.raw_bytes as usize, header.messages as usize).unwrap();
        let mut inflated = Inflated::default();
        parsed
            .inflate(base.map(Arc::as_ref), &mut inflated)
            .unwrap();
        Target {
            header,
            base: base.cloned(),
            packed: parsed.packed_bytes.map(|_| inflated.packed),
            main: inflated.main,
            blobs: inflated.blobs,
            body: body.to_vec(),
        }
    })
    .collect()
}

/// Decodes damaged segments; what matters is that it returns, with room for what it promised.
fn fuzz(seed: u64, executions: usize) -> usize {
    let (targets, base_bytes) = (targets(), fuzzed_base());
    let mut accepted = 0;
    for execution in 0..executions {
        let mut random = Random(seed ^ (execution as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let target = &targets[random.below(targets.len())];
        let base = target.base.as_deref();
        let mut header = target.header;
        if random.below(8) == 0 {
            header.raw_bytes = random.below(1 << 16) as u32;
            header.messages = 1 + random.below(100) as u32;
        }
        let (raw_bytes, messages) = (header.raw_bytes as usize, header.messages as usize);
        let first = random.below(messages + 1);
        let wanted = if random.below(2) == 0 {
            0..usize::MAX
        } else {
            first..first + 1
        };
        let decoded = if random.below(16) == 0 {
            let mut body = target.body.clone();
            random.mutate(&mut body);
            decode_segment_range(&header.seal(&body), wanted, base)
        } else if base.is_some() && random.below(8) == 0 {
            // A base that says that it is whole, and a segment that believes it.
            let mut bytes = base_bytes.clone();
            let mut rest = bytes.split_off(BASE_LABEL_BYTES);
            random.mutate(&mut rest);
            let id = xxh3_64(&rest).to_le_bytes();
            bytes[3..].copy_from_slice(&id);
            bytes.append(&mut rest);
            let Ok(base) = Base::decode(&bytes) else {
                continue;
            };
            let mut body = target.body.clone();
            body[1..9].copy_from_slice(&id);
            decode_segment_range(&header.seal(&body), wanted, Some(&base))
        } else {
            let (mut main, mut blobs) = (target.main.clone(), target.blobs.clone());
            match &target.packed {
                Some(packed) if random.below(2) == 0 => {
                    let mut packed = packed.clone();
                    random.mutate(&mut packed);
                    let main_bytes = target.main.len();
                    if copies::put_back(&packed, &base, main_bytes, &mut main).is_err() {
                        continue;
                    }
                    assert!(main.len() == main_bytes && main.capacity() <= main_bytes + 64);
                }
                _ => random.mutate(&mut main),
            }
            if random.below(8) == 0 {
                random.mutate(&mut blobs);
            }
            let Ok(body) = Body::parse(&target.body, raw_bytes, messages) else {
                continue;
            };
            join(&header, &body, (&main, &blobs), base, wanted, Vec::new())
        };
        if let Ok(decoded) = decoded {
            assert!(decoded.raw_bytes() <= raw_bytes && decoded.len() <= messages);
            accepted += 1;
        }
    }
    accepted
}

fn decode_segment_range(
    segment: &[u8],
    wanted: Range<usize>,
    base: Option<&Base>,
) -> Result<DecodedSegment, SegmentError> {
    decode_range(segment, wanted, &DecodeLimits::default(), base)
}

#[test]
fn damaged_segments_never_panic() {
    fuzz(20_261_123, 20_000);
}

/// `cargo test --release -p betcode-storage -- --ignored ten_million --nocapture`
#[test]
#[ignore = "takes minutes"]
fn ten_million_damaged_segments_never_panic() {
    let seed = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |elapsed| elapsed.as_nanos() as u64);
    let start = std::time::Instant::now();
    for part in 0..100_u64 {
        let accepted = fuzz(seed.wrapping_add(part << 40), 100_000);
        println!(
            "seed {seed}, part {part}: 100000 executions, {accepted} accepted, {:?}",
            start.elapsed()
        );
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
fn every_mixture_of_ideas_comes_back() {
    let sample = sample();
    let times: Vec<i64> = (0..sample.len() as i64).collect();
    let entries = entries(&sample, &times);
    for name in Ideas::names() {
        let ideas = Ideas::without(name).unwrap();
        assert_ne!(ideas, Ideas::ALL, "{name}");
        let mut encoder = Encoder::with_ideas(LEVEL, None, ideas).unwrap();
        let (_, decoded) = encoder.encode_checked(&entries).unwrap();
        assert_eq!(decoded.len(), sample.len());
    }
    assert_eq!(Ideas::without("luck"), None);
}

/// Files written by the first releases of this codec. They decode for ever; they are never
/// written anew.
mod fixtures {
    use super::*;

    const BASE: &[u8] = include_bytes!("fixtures/base");
    const PLAIN: &[u8] = include_bytes!("fixtures/plain.segment");
    const BASED: &[u8] = include_bytes!("fixtures/based.segment");
    /// The same messages, by the encoder that takes long repeats out.
    const COPIES: &[u8] = include_bytes!("fixtures/copies.segment");
    /// The same messages, with a base that has a tail and identifiers.
    const TAIL_BASE: &[u8] = include_bytes!("fixtures/tail.base");
    const TAIL: &[u8] = include_bytes!("fixtures/tail.segment");
    /// For each message: length as four bytes, little-endian, then its bytes.
    const MESSAGES: &[u8] = include_bytes!("fixtures/messages");

    #[test]
    fn the_first_release_is_still_read() {
        let base = Base::decode(BASE).unwrap();
        let with_tail = Base::decode(TAIL_BASE).unwrap();
        assert!(with_tail.chunks_needed().0 > 0 && !with_tail.ids().is_empty());
        let fixtures = [
            (PLAIN, &base),
            (BASED, &base),
            (COPIES, &base),
            (TAIL, &with_tail),
        ];
        for (segment, base) in fixtures {
            let decoded = decode_segment(segment, &DecodeLimits::default(), Some(base)).unwrap();
            let mut rest = MESSAGES;
            for index in 0..decoded.len() {
                let (length, after) = rest.split_first_chunk::<4>().unwrap();
                let (payload, after) = after.split_at(u32::from_le_bytes(*length) as usize);
                assert_eq!(decoded.payload(index).unwrap(), payload);
                assert_eq!(
                    decoded.received_ms(index),
                    Some(1_700_000_000_000 + index as i64 / 3)
                );
                rest = after;
            }
            assert!(rest.is_empty());
        }
        assert_eq!(
            crate::segment::base_id(BASED, &DecodeLimits::default()),
            Ok(Some(base.id()))
        );
    }

    #[test]
    fn the_fixture_with_copies_has_copies() {
        let (header, body) = Header::parse(COPIES, &DecodeLimits::default()).unwrap();
        let body = Body::parse(body, header.raw_bytes as usize, header.messages as usize);
        assert!(body.unwrap().packed_bytes.is_some());
    }

    #[test]
    #[ignore = "writes files"]
    fn write_fixtures_with_a_tail() {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/segment/v2/fixtures");
        let (mut lines, mut rest) = (Vec::new(), MESSAGES);
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (line, after) = after.split_at(u32::from_le_bytes(*length) as usize);
            lines.push(line.to_vec());
            rest = after;
        }
        let times: Vec<i64> = (0..lines.len() as i64)
            .map(|n| 1_700_000_000_000 + n / 3)
            .collect();
        let base = base_with_a_tail(&[lines.clone(), lines.clone()]);
        let segment = round_trip(&lines, &times, Some(&Base::decode(&base).unwrap()));
        std::fs::write(folder.join("tail.base"), base).unwrap();
        std::fs::write(folder.join("tail.segment"), segment).unwrap();
    }

    /// How they were made, for the next codec's.
    #[test]
    #[ignore = "writes files"]
    fn write_fixtures() {
        let folder =
            std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/segment/v2/fixtures");
        let mut lines: Vec<_> = sample()
            .into_iter()
            .filter(|line| line.len() < 2000)
            .collect();
        let shared: String = (0..400)
            .map(|n| format!("{} of a file\\n", n * n % 9973))
            .collect();
        let image = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVpB".repeat(60);
        lines.push(format!(r#"{{"content":"{shared}","data":"{image}"}}"#).into_bytes());
        let times: Vec<i64> = (0..lines.len() as i64)
            .map(|n| 1_700_000_000_000 + n / 3)
            .collect();
        let entries = entries(&lines, &times);
        let mut builder = BaseBuilder::new();
        builder.observe(&entries).unwrap();
        builder.observe(&entries).unwrap();
        let mut collector = builder.into_collector(1 << 20);
        collector.collect(&entries).unwrap();
        let base_bytes = collector.finish(LEVEL).unwrap().unwrap();
        let base = Base::decode(&base_bytes).unwrap();
        let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).unwrap();
        write("base", &base_bytes);
        write("plain.segment", &round_trip(&lines, &times, None));
        write("based.segment", &round_trip(&lines, &times, Some(&base)));
        write("copies.segment", &round_trip(&lines, &times, Some(&base)));
        let framed = |line: &Vec<u8>| [&(line.len() as u32).to_le_bytes()[..], line].concat();
        write(
            "messages",
            &lines.iter().flat_map(framed).collect::<Vec<u8>>(),
        );
    }
}
