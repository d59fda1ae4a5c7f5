//! Long repeats of the main stream, taken out before zstd sees it and put back behind it.
//!
//! zstd finds long repeats as well, but its patient levels search for each byte of them, and its
//! fast levels miss most of what lies in the base. Agents print the same files again and again, so
//! much of a usual main stream stands in the base or earlier in the stream. What it brings each
//! tier, and costs it, is measured in `docs/design/codec.md`.
//!
//! Which positions are remembered and looked up is decided by the bytes before them alone, so a
//! passage is found wherever it begins. One in [`SAMPLE`] is; what is copied is not looked at
//! again, for its source is known already.

use std::borrow::Cow;

use super::super::SegmentError;
use super::stretch::{STRETCH_BYTES, is_sampled, rolled};
use super::varint::{Cursor, put, unzigzag, zigzag};
use crate::limits::COPIES_STREAM_BYTES_MAX;

/// The shortest repeat that is taken out. Shorter ones are left to zstd: naming one costs five
/// bytes, and tears its surroundings apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShortestCopy {
    bytes: usize,
}

impl ShortestCopy {
    /// For the quick tier, whose zstd finds few of them.
    pub(super) const QUICK: Self = Self { bytes: 96 };
    /// For the deep tier, whose zstd says them for less.
    pub(super) const DEEP: Self = Self { bytes: 256 };
    /// For what stands in a base behind its head, of which zstd sees nothing, whatever the tier.
    pub(super) const FROM_TAIL: Self = Self {
        bytes: FROM_TAIL_BYTES_MIN,
    };
}

/// Shorter passages in the tail of a base would serve nobody.
pub(super) const FROM_TAIL_BYTES_MIN: usize = 96;

/// What the lengths in the list count from.
const LENGTH_MIN: u64 = 32;
/// One position in so many is sampled, on average.
const SAMPLE: u64 = 16;
/// A list of copies must spare one byte in so many to be worth reading it.
const SPARED_MIN: usize = 32;
/// Sizes of the tables, as powers of two.
const TABLE_BITS_MIN: u32 = 10;
const TABLE_BITS_MAX: u32 = 20;

/// Positions by hash, the latest wins.
#[derive(Debug, Clone)]
struct Table {
    /// A position plus one; 0 is none.
    places: Vec<u32>,
    shift: u32,
}

impl Table {
    /// A table for the sampled positions of so many bytes.
    fn new(bytes: usize) -> Self {
        let bits = (bytes / SAMPLE as usize * 2)
            .checked_ilog2()
            .map_or(0, |log| log + 1)
            .clamp(TABLE_BITS_MIN, TABLE_BITS_MAX);
        Self {
            places: vec![0; 1 << bits],
            shift: u64::BITS - bits,
        }
    }

    fn place(&mut self, hash: u64) -> &mut u32 {
        // The samples' high bits are all alike; a multiplication brings the low ones there.
        let slot = hash.wrapping_mul(0x9e37_79b1_85eb_ca87) >> self.shift;
        &mut self.places[slot as usize]
    }

    fn get(&self, hash: u64) -> Option<usize> {
        let slot = hash.wrapping_mul(0x9e37_79b1_85eb_ca87) >> self.shift;
        (self.places[slot as usize] as usize).checked_sub(1)
    }
}

/// What copies may be from, besides the stream itself.
pub(super) trait Text {
    fn bytes(&self) -> usize;

    /// Appends `bytes` from `from` on to `into`, at most as many, or says why not.
    fn copy(&self, from: usize, bytes: usize, into: &mut Vec<u8>) -> Result<(), SegmentError>;
}

/// Where the stretches of a base's text are. Made once for all segments that refer to it.
#[derive(Debug, Clone)]
pub(super) struct Index<'b> {
    text: Cow<'b, [u8]>,
    head_bytes: usize,
    table: Table,
}

impl<'b> Index<'b> {
    /// Of a text of which zstd sees the first `head_bytes`.
    pub(super) fn new(text: Cow<'b, [u8]>, head_bytes: usize) -> Self {
        let mut table = Table::new(text.len());
        let mut hash = 0;
        for (at, &byte) in text.iter().enumerate() {
            hash = rolled(hash, byte);
            if is_sampled(hash, SAMPLE) && at + 1 >= STRETCH_BYTES {
                *table.place(hash) = at as u32 + 2;
            }
        }
        Self {
            text,
            head_bytes,
            table,
        }
    }
}

/// A repeat: `bytes` at `start` stand at `source` as well, which counts from the base's text on.
#[derive(Clone, Copy)]
struct Copy {
    start: usize,
    bytes: usize,
    source: usize,
}

/// The list of copies, a stream for each of its columns, and what is left.
#[derive(Default)]
struct Packed {
    befores: Vec<u8>,
    lengths: Vec<u8>,
    sources: Vec<u8>,
    literals: Vec<u8>,
    /// Where the next copy's source is if it goes on as the one before.
    expected: i64,
}

impl Packed {
    fn copy(&mut self, literals: &[u8], copy: Copy) {
        self.literals.extend_from_slice(literals);
        put(&mut self.befores, literals.len() as u64);
        put(&mut self.lengths, copy.bytes as u64 - LENGTH_MIN);
        self.expected += literals.len() as i64;
        put(
            &mut self.sources,
            zigzag(copy.source as i64 - self.expected),
        );
        self.expected = (copy.source + copy.bytes) as i64;
    }

    fn into_bytes(self, rest: &[u8]) -> Vec<u8> {
        let Self {
            befores,
            lengths,
            sources,
            literals,
            ..
        } = self;
        let streams = [&befores, &lengths, &sources];
        let listed: usize = streams.iter().map(|stream| stream.len()).sum();
        let mut bytes = Vec::with_capacity(listed + literals.len() + rest.len() + 16);
        for stream in streams {
            put(&mut bytes, stream.len() as u64);
        }
        for stream in streams {
            bytes.extend_from_slice(stream);
        }
        bytes.extend_from_slice(&literals);
        bytes.extend_from_slice(rest);
        bytes
    }
}

/// Takes the long repeats out of `main`. `None` if that spares too little, or if `main` is so
/// long that a reader could not afford to have it twice.
pub(super) fn take_out(base: &Index<'_>, main: &[u8], shortest: ShortestCopy) -> Option<Vec<u8>> {
    if main.len() > COPIES_STREAM_BYTES_MAX {
        return None;
    }
    let mut seen = Table::new(main.len());
    let mut packed = Packed::default();
    let (mut taken, mut at) = (0, 0);
    let (mut hash, mut known_bytes) = (0, 0);
    while let Some(&byte) = main.get(at) {
        hash = rolled(hash, byte);
        at += 1;
        known_bytes += 1;
        if !is_sampled(hash, SAMPLE) || known_bytes < STRETCH_BYTES {
            continue;
        }
        let earlier = std::mem::replace(seen.place(hash), at as u32 + 1);
        let mut best = base
            .table
            .get(hash)
            .map(|from| repeat(main, taken, at, &base.text, from));
        if let Some(from) = (earlier as usize).checked_sub(1) {
            // What is copied must end before the place that it is copied to. And without this
            // bound a run of one byte would be compared with itself for each of its bytes.
            let bytes_max = at - from;
            let front = taken.max(at.saturating_sub(bytes_max));
            let mut own = repeat(main, front, at, &main[..at], from);
            own.bytes = own.bytes.min(bytes_max);
            own.source += base.text.len();
            if best.is_none_or(|best| best.bytes < own.bytes) {
                best = Some(own);
            }
        }
        let is_worth_it = |copy: &Copy| {
            let from_tail = (base.head_bytes..base.text.len()).contains(&copy.source);
            let shortest = if from_tail {
                ShortestCopy::FROM_TAIL
            } else {
                shortest
            };
            copy.bytes >= shortest.bytes
        };
        if let Some(best) = best.filter(is_worth_it) {
            packed.copy(&main[taken..best.start], best);
            taken = best.start + best.bytes;
            at = taken;
            (hash, known_bytes) = (0, 0);
        }
    }
    let packed = packed.into_bytes(&main[taken..]);
    (packed.len() + main.len() / SPARED_MIN < main.len()).then_some(packed)
}

/// The longest stretch around `at`, not before `front`, that stands around `from` in `source`.
fn repeat(main: &[u8], front: usize, at: usize, source: &[u8], from: usize) -> Copy {
    let before = main[front..at]
        .iter()
        .rev()
        .zip(source[..from].iter().rev())
        .take_while(|(a, b)| a == b)
        .count();
    Copy {
        start: at - before,
        bytes: before + common_bytes(&main[at..], &source[from..]),
        source: from - before,
    }
}

/// How many first bytes are the same.
fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    let same = words.take_while(|(a, b)| a == b).count() * 8;
    let rest = a[same..].iter().zip(&b[same..]);
    same + rest.take_while(|(a, b)| a == b).count()
}

/// Undoes [`take_out`]: fills `main` (emptied first) with exactly `main_bytes`.
pub(super) fn put_back(
    packed: &[u8],
    base: &(impl Text + ?Sized),
    main_bytes: usize,
    main: &mut Vec<u8>,
) -> Result<(), SegmentError> {
    const ODD: SegmentError = SegmentError::Inconsistent {
        what: "copies do not fit their stream",
    };
    main.clear();
    main.reserve_exact(main_bytes);
    let mut cursor = Cursor::new(packed);
    let lengths = [cursor.length()?, cursor.length()?, cursor.length()?];
    let mut befores = Cursor::new(cursor.take(lengths[0])?);
    let mut copied = Cursor::new(cursor.take(lengths[1])?);
    let mut sources = Cursor::new(cursor.take(lengths[2])?);
    let mut expected = 0_i64;
    while !befores.rest().is_empty() {
        let literals = cursor.take(befores.length()?)?;
        let bytes = copied.varint()?.checked_add(LENGTH_MIN).ok_or(ODD)?;
        let bytes = usize::try_from(bytes).map_err(|_| ODD)?;
        let source = expected
            .checked_add(literals.len() as i64)
            .and_then(|expected| expected.checked_add(unzigzag(sources.varint().ok()?)))
            .ok_or(ODD)?;
        let from = usize::try_from(source).map_err(|_| ODD)?;
        let room = main_bytes - main.len();
        if literals.len() > room || bytes > room - literals.len() {
            return Err(ODD);
        }
        main.extend_from_slice(literals);
        let to = from.checked_add(bytes).ok_or(ODD)?;
        if let Some(earlier) = from.checked_sub(base.bytes()) {
            let end = earlier + bytes;
            if end > main.len() {
                return Err(ODD);
            }
            main.extend_from_within(earlier..end);
        } else if to > base.bytes() {
            return Err(ODD);
        } else {
            base.copy(from, bytes, main)?;
        }
        expected = to as i64;
    }
    let rest = cursor.rest();
    let ends = copied.rest().is_empty() && sources.rest().is_empty();
    if !ends || rest.len() != main_bytes - main.len() {
        return Err(ODD);
    }
    main.extend_from_slice(rest);
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    impl Text for [u8] {
        fn bytes(&self) -> usize {
            self.len()
        }

        fn copy(&self, from: usize, bytes: usize, into: &mut Vec<u8>) -> Result<(), SegmentError> {
            into.extend_from_slice(&self[from..from + bytes]);
            Ok(())
        }
    }

    fn index(base: &[u8]) -> Index<'_> {
        Index::new(base.into(), base.len())
    }

    fn comes_back(base: &[u8], main: &[u8]) -> Option<usize> {
        let [quick, _] = [ShortestCopy::QUICK, ShortestCopy::DEEP].map(|shortest| {
            let packed = take_out(&index(base), main, shortest)?;
            let mut back = Vec::new();
            put_back(&packed, base, main.len(), &mut back).unwrap();
            assert_eq!(back, main);
            Some(packed.len())
        });
        quick
    }

    #[test]
    fn the_deep_tier_leaves_to_zstd_what_the_quick_tier_copies() {
        let base = noise(8, 2_000);
        for (bytes, deep_copies) in [(200, false), (400, true)] {
            let main = [&noise(9, 50), &base[700..700 + bytes], &noise(10, 50)].concat();
            let copies = |shortest| take_out(&index(&base), &main, shortest).is_some();
            assert_eq!(
                (copies(ShortestCopy::QUICK), copies(ShortestCopy::DEEP)),
                (true, deep_copies),
                "{bytes}"
            );
        }
    }

    fn noise(seed: u64, bytes: usize) -> Vec<u8> {
        let mut state = seed;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        };
        (0..bytes).map(|_| next()).collect()
    }

    #[test]
    fn a_passage_of_the_base_is_found_wherever_it_stands() {
        let base = noise(1, 20_000);
        for shift in 0..40 {
            let main = [&noise(2, 100 + shift), &base[3_000..9_000], &noise(3, 77)].concat();
            let packed = comes_back(&base, &main).unwrap();
            assert!(packed < 250 + shift, "{packed}");
        }
    }

    #[test]
    fn a_passage_said_twice_is_kept_once() {
        let passage = noise(4, 5_000);
        let main = [&passage[..], &noise(5, 50), &passage].concat();
        assert!(comes_back(&[], &main).unwrap() < 5_100);
    }

    #[test]
    fn one_byte_over_and_over_comes_back_and_only_a_base_is_copied_from() {
        // Bytes whose runs are sampled: of others nothing is ever copied.
        for byte in [0, 3] {
            for length in [1_usize, 95, 96, 500, 70_000] {
                let run = vec![byte; length];
                assert_eq!(comes_back(&[], &run), None, "{length} times {byte}");
                let behind_base = comes_back(&[byte; 300], &run);
                assert_eq!(behind_base.is_some(), length >= 96, "{length} times {byte}");
            }
        }
    }

    #[test]
    fn noise_is_left_alone() {
        assert_eq!(comes_back(&noise(6, 50_000), &noise(7, 50_000)), None);
        assert_eq!(comes_back(&[], &[]), None);
    }

    #[test]
    fn a_copy_from_where_nothing_stands_is_refused() {
        let packed = |before: u64, length: u64, source: i64, literals: &[u8]| {
            let mut bytes = Vec::new();
            let streams = [before, length, zigzag(source)].map(|value| {
                let mut stream = Vec::new();
                put(&mut stream, value);
                stream
            });
            for stream in &streams {
                put(&mut bytes, stream.len() as u64);
            }
            bytes.extend(streams.concat());
            bytes.extend_from_slice(literals);
            bytes
        };
        let base = [1; 64];
        let mut main = Vec::new();
        let mut read = |bytes: &[u8]| put_back(bytes, &base[..], 40, &mut main);
        assert!(read(&packed(4, 4, 0, &[9; 4])).is_ok());
        for (before, length, source) in [
            (4, 5, 0),             // longer than the stream
            (4, 3, 0),             // shorter
            (5, 4, 0),             // literals that are not there
            (4, 4, 29),            // over the end of the base
            (4, 4, 60),            // of the copy itself
            (4, 4, -5),            // before the base
            (4, 4, i64::MIN),      // far before it
            (4, u64::MAX - 8, 0),  // longer than any memory
            (u64::MAX >> 1, 4, 0), // more literals than any memory
        ] {
            let bytes = packed(before, length, source, &[9; 4]);
            assert!(read(&bytes).is_err(), "{before} {length} {source}");
        }
    }

    proptest! {
        #[test]
        fn any_stream_comes_back(
            base in prop::collection::vec(0_u8..3, 0..2_000),
            pieces in prop::collection::vec((any::<bool>(), 0_usize..2_000, 0_usize..600), 0..20),
            seed: u64,
        ) {
            let mut main = noise(seed, 40);
            for (from_base, start, length) in pieces {
                let source = if from_base { base.clone() } else { main.clone() };
                let start = start.min(source.len());
                main.extend_from_slice(&source[start..(start + length).min(source.len())]);
                main.push(seed as u8);
            }
            comes_back(&base, &main);
        }

        #[test]
        fn any_bytes_are_refused_or_fit(
            packed in prop::collection::vec(any::<u8>(), 0..200),
            main_bytes in 0_usize..4_096,
        ) {
            let mut main = Vec::new();
            if put_back(&packed, &[5; 700][..], main_bytes, &mut main).is_ok() {
                prop_assert_eq!(main.len(), main_bytes);
            }
        }
    }
}
