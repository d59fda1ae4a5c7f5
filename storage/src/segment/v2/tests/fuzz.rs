//! Damage past the checksums: typed errors, whatever is said.

use std::ops::Range;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::super::decoder::join;
use super::bases::{BASE_LABEL_BYTES, base_with_a_tail};
use super::*;
use crate::segment::DecodedSegment;

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
        let mut random = Random::new(seed ^ (execution as u64).wrapping_mul(0x2545_f491_4f6c_dd1d));
        let target = &targets[random.index(targets.len())];
        let base = target.base.as_deref();
        let mut header = target.header;
        if random.index(8) == 0 {
            header.raw_bytes = random.index(1 << 16) as u32;
            header.messages = 1 + random.index(100) as u32;
        }
        let (raw_bytes, messages) = (header.raw_bytes as usize, header.messages as usize);
        let first = random.index(messages + 1);
        let wanted = if random.index(2) == 0 {
            0..usize::MAX
        } else {
            first..first + 1
        };
        let decoded = if random.index(16) == 0 {
            let mut body = target.body.clone();
            mutate(&mut random, &mut body);
            decode_segment_range(&header.seal(&body), wanted, base)
        } else if base.is_some() && random.index(8) == 0 {
            // A base that says that it is whole, and a segment that believes it.
            let mut bytes = base_bytes.clone();
            let mut rest = bytes.split_off(BASE_LABEL_BYTES);
            mutate(&mut random, &mut rest);
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
                Some(packed) if random.index(2) == 0 => {
                    let mut packed = packed.clone();
                    mutate(&mut random, &mut packed);
                    let main_bytes = target.main.len();
                    if copies::unpack(&packed, &base, main_bytes, &mut main).is_err() {
                        continue;
                    }
                    assert!(main.len() == main_bytes && main.capacity() <= main_bytes + 64);
                }
                _ => mutate(&mut random, &mut main),
            }
            if random.index(8) == 0 {
                mutate(&mut random, &mut blobs);
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
