//! What segments share stands once, in their base.

use xxhash_rust::xxh3::xxh3_64;

use super::*;

/// Magic, version and id of a base.
pub(super) const BASE_LABEL_BYTES: usize = 11;

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
    let mut builder = BaseBuilder::new(LEVEL);
    for segment in &segments {
        builder.observe(TakenApart::of(&entries(segment, &[])).unwrap());
    }
    let mut collector = builder.into_collector(1 << 20);
    for segment in &segments {
        collector.collect(&TakenApart::of(&entries(segment, &[])).unwrap());
    }
    let bytes = collector.finish().unwrap().unwrap();
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
pub(super) fn base_with_a_tail(segments: &[Vec<Vec<u8>>]) -> Vec<u8> {
    let mut builder = BaseBuilder::new(LEVEL);
    for segment in segments {
        builder.observe(TakenApart::of(&entries(segment, &[])).unwrap());
    }
    let mut collector = builder.into_collector(8 << 20).with_head_bytes_max(2_000);
    for segment in segments {
        collector.collect(&TakenApart::of(&entries(segment, &[])).unwrap());
    }
    collector.finish().unwrap().unwrap()
}

/// A line of `bytes` of text that repeats nothing.
fn passage(seed: u64, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    let text: String = (0..bytes)
        .map(|_| char::from(b" etaoinshrdlu"[random.index(13)]))
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
    let mut builder = BaseBuilder::new(LEVEL);
    let sample = sample();
    builder.observe(TakenApart::of(&entries(&sample, &[])).unwrap());
    let mut collector = builder.into_collector(1 << 20);
    collector.collect(&TakenApart::of(&entries(&sample, &[])).unwrap());
    assert_eq!(collector.finish(), Ok(None));
}
