//! Files written by the first releases of this codec. They decode for ever; they are never
//! written anew.

use super::bases::base_with_a_tail;
use super::*;

const BASE: &[u8] = include_bytes!("../fixtures/base");
const PLAIN: &[u8] = include_bytes!("../fixtures/plain.segment");
const BASED: &[u8] = include_bytes!("../fixtures/based.segment");
/// The same messages, by the encoder that takes long repeats out.
const COPIES: &[u8] = include_bytes!("../fixtures/copies.segment");
/// The same messages, with a base that has a tail and identifiers.
const TAIL_BASE: &[u8] = include_bytes!("../fixtures/tail.base");
const TAIL: &[u8] = include_bytes!("../fixtures/tail.segment");
/// For each message: length as four bytes, little-endian, then its bytes.
const MESSAGES: &[u8] = include_bytes!("../fixtures/messages");

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
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/segment/v2/fixtures");
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
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/segment/v2/fixtures");
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
    let mut builder = BaseBuilder::new(LEVEL);
    builder.observe(TakenApart::of(&entries).unwrap());
    builder.observe(TakenApart::of(&entries).unwrap());
    let mut collector = builder.into_collector(1 << 20);
    collector.collect(&TakenApart::of(&entries).unwrap());
    let base_bytes = collector.finish().unwrap().unwrap();
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
