//! Copies: long repeats are taken out of the main stream before zstd sees it, and put back after it.
//!
//! This is LZ77 with long matches only. [`pack`] turns a main stream into *literals*, the bytes that are
//! left, and *back references* to earlier bytes of the base's text or of the stream itself. [`unpack`]
//! undoes it. `docs/FORMAT.md`, *Packed*, has the bytes.
//!
//! zstd finds long repeats as well, but its slow levels search for each of their bytes, and its fast levels
//! miss most of what is in the base. Agents print the same files again and again, so most of a usual main
//! stream is in the base or earlier in the stream. `docs/design/codec.md` says what copies bring each
//! tier, and what they cost.
//!
//! How repeats are found: a rolling hash covers the last 32 bytes before each position (see
//! [`super::stretch`]). Positions whose hash falls into a sample, one in [`SAMPLE`], are remembered and
//! looked up. The sample depends on these bytes alone, so a passage is found wherever it begins. A match
//! is then extended in both directions. The bytes of a match are not looked up again.

use std::borrow::Cow;

use super::super::SegmentError;
use super::stretch::{STRETCH_BYTES, Sampled, each_sampled};
use super::varint::{Cursor, put, unzigzag, zigzag};
use crate::limits::COPIES_STREAM_BYTES_MAX;

/// The shortest repeat that becomes a back reference. Shorter ones are left to zstd: a back reference
/// costs about five bytes, and separates the text before it from the text after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShortestCopy {
    bytes: usize,
}

impl ShortestCopy {
    /// For the quick tier, whose zstd level finds few of them.
    pub(super) const QUICK: Self = Self { bytes: 96 };
    /// For the deep tier, whose zstd level encodes shorter ones in fewer bytes.
    pub(super) const DEEP: Self = Self { bytes: 256 };
    /// For sources in a base's tail, which zstd does not see, whatever the tier.
    pub(super) const FROM_TAIL: Self = Self {
        bytes: FROM_TAIL_BYTES_MIN,
    };
}

/// A passage in a base's tail that is shorter than this would never be copied.
pub(super) const FROM_TAIL_BYTES_MIN: usize = 96;

/// Stored lengths are counted from here.
const LENGTH_MIN: u64 = 32;
/// One position in this many is sampled, on average.
const SAMPLE: u64 = 16;
/// A packed stream must be shorter than the stream by one byte in this many, or it is not worth reading.
const SPARED_MIN: usize = 32;
/// Sizes of the tables, as powers of two.
const TABLE_BITS_MIN: u32 = 10;
const TABLE_BITS_MAX: u32 = 20;

/// The last position for each hash; hashes that share a slot replace each other.
#[derive(Debug, Clone)]
struct Table {
    /// A position plus one; 0 is none.
    positions: Vec<u32>,
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
            positions: vec![0; 1 << bits],
            shift: u64::BITS - bits,
        }
    }

    fn slot(&self, hash: u64) -> usize {
        // The high bits of all sampled hashes are alike; the multiplication brings the low ones there.
        (hash.wrapping_mul(0x9e37_79b1_85eb_ca87) >> self.shift) as usize
    }

    fn get(&self, hash: u64) -> Option<usize> {
        (self.positions[self.slot(hash)] as usize).checked_sub(1)
    }

    /// Notes a position, and returns the one noted before.
    fn replace(&mut self, hash: u64, position: usize) -> Option<usize> {
        let slot = self.slot(hash);
        let before = std::mem::replace(&mut self.positions[slot], position as u32 + 1);
        (before as usize).checked_sub(1)
    }
}

/// What back references may copy from, besides the stream itself.
pub(super) trait CopySource {
    fn bytes(&self) -> usize;

    /// Appends exactly `bytes` bytes, from `from` on, to `into`, or says why not.
    fn copy(&self, from: usize, bytes: usize, into: &mut Vec<u8>) -> Result<(), SegmentError>;
}

/// Where the sampled positions of a base's text are. Made once for all segments that refer to it.
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
        each_sampled(&text, SAMPLE, |start, hash| {
            table.replace(hash, start + STRETCH_BYTES);
        });
        Self {
            text,
            head_bytes,
            table,
        }
    }
}

/// The `bytes` bytes at `start` of the stream are also at `source` of the base's text followed by the
/// stream.
#[derive(Clone, Copy)]
struct BackReference {
    start: usize,
    bytes: usize,
    source: usize,
}

/// A packed stream that is being written: a list for each column of the back references, and the literals.
#[derive(Default)]
struct Packed {
    literal_counts: Vec<u8>,
    lengths: Vec<u8>,
    sources: Vec<u8>,
    literals: Vec<u8>,
    /// The source that the next back reference has if it continues where the one before ended.
    expected_source: i64,
}

impl Packed {
    fn push(&mut self, literals: &[u8], reference: BackReference) {
        self.literals.extend_from_slice(literals);
        put(&mut self.literal_counts, literals.len() as u64);
        put(&mut self.lengths, reference.bytes as u64 - LENGTH_MIN);
        self.expected_source += literals.len() as i64;
        put(
            &mut self.sources,
            zigzag(reference.source as i64 - self.expected_source),
        );
        self.expected_source = (reference.source + reference.bytes) as i64;
    }

    fn into_bytes(self, last_literals: &[u8]) -> Vec<u8> {
        let Self {
            literal_counts,
            lengths,
            sources,
            literals,
            ..
        } = self;
        let lists = [&literal_counts, &lengths, &sources];
        let listed: usize = lists.iter().map(|list| list.len()).sum();
        let mut bytes = Vec::with_capacity(listed + literals.len() + last_literals.len() + 16);
        for list in lists {
            put(&mut bytes, list.len() as u64);
        }
        for list in lists {
            bytes.extend_from_slice(list);
        }
        bytes.extend_from_slice(&literals);
        bytes.extend_from_slice(last_literals);
        bytes
    }
}

/// Takes the long repeats out of `main`. `None` if that spares too little, or if `main` is so
/// long that a reader could not afford to hold it twice.
pub(super) fn pack(base: &Index<'_>, main: &[u8], shortest: ShortestCopy) -> Option<Vec<u8>> {
    if main.len() > COPIES_STREAM_BYTES_MAX {
        return None;
    }
    let mut seen = Table::new(main.len());
    let mut packed = Packed::default();
    let mut sampled = Sampled::new();
    // Up to `done` the stream is packed already. A stretch that begins before it is not looked up.
    let (mut done, mut at, mut hash) = (0, 0, 0);
    while at < main.len() {
        let block = at;
        at += sampled.list(&main[block..], SAMPLE, &mut hash);
        for (end, hash) in sampled.ends() {
            let end = block + end;
            if end < done + STRETCH_BYTES {
                continue;
            }
            let earlier = seen.replace(hash, end);
            let Some(best) = base.longest(main, done, end, hash, earlier) else {
                continue;
            };
            if best.bytes >= base.shortest_from(best.source, shortest).bytes {
                packed.push(&main[done..best.start], best);
                done = best.start + best.bytes;
            }
        }
        // A match that is longer than the block is not hashed. What of the hash is from before it has been
        // shifted out before it counts.
        at = at.max(done);
    }
    let packed = packed.into_bytes(&main[done..]);
    (packed.len() + main.len() / SPARED_MIN < main.len()).then_some(packed)
}

impl Index<'_> {
    /// The longest repeat around position `at` of `main`, not beginning before `done`. Its source is in
    /// the base's text, or around `earlier`, where the stream had the same hash before.
    #[inline]
    fn longest(
        &self,
        main: &[u8],
        done: usize,
        at: usize,
        hash: u64,
        earlier: Option<usize>,
    ) -> Option<BackReference> {
        let from_base = self
            .table
            .get(hash)
            .map(|from| repeat(main, done, at, &self.text, from));
        let from_stream = earlier.map(|from| {
            // A source must end before the place that it is copied to. And without this bound a run of one
            // byte would be compared with itself for each of its bytes.
            let bytes_max = at - from;
            let front = done.max(at.saturating_sub(bytes_max));
            let mut found = repeat(main, front, at, &main[..at], from);
            found.bytes = found.bytes.min(bytes_max);
            found.source += self.text.len();
            found
        });
        match (from_base, from_stream) {
            (Some(base), Some(stream)) if stream.bytes > base.bytes => Some(stream),
            (None, stream) => stream,
            (base, _) => base,
        }
    }

    fn shortest_from(&self, source: usize, of_tier: ShortestCopy) -> ShortestCopy {
        if (self.head_bytes..self.text.len()).contains(&source) {
            ShortestCopy::FROM_TAIL
        } else {
            of_tier
        }
    }
}

/// The longest repeat around `at`, not beginning before `front`, whose source is around `from`.
fn repeat(main: &[u8], front: usize, at: usize, source: &[u8], from: usize) -> BackReference {
    let before = common_bytes_before(&main[front..at], &source[..from]);
    BackReference {
        start: at - before,
        bytes: before + common_bytes(&main[at..], &source[from..]),
        source: from - before,
    }
}

/// How many bytes at the front of both are the same.
fn common_bytes(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0);
    let same = words.take_while(|(a, b)| a == b).count() * 8;
    let rest = a[same..].iter().zip(&b[same..]);
    same + rest.take_while(|(a, b)| a == b).count()
}

/// How many bytes at the end of both are the same.
fn common_bytes_before(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_rchunks::<8>().1.iter().rev();
    let words = words.zip(b.as_rchunks::<8>().1.iter().rev());
    let same = words.take_while(|(a, b)| a == b).count() * 8;
    let rest = a[..a.len() - same].iter().rev();
    let rest = rest.zip(b[..b.len() - same].iter().rev());
    same + rest.take_while(|(a, b)| a == b).count()
}

/// Undoes [`pack`]: fills `main` (emptied first) with exactly `main_bytes`.
pub(super) fn unpack(
    packed: &[u8],
    base: &(impl CopySource + ?Sized),
    main_bytes: usize,
    main: &mut Vec<u8>,
) -> Result<(), SegmentError> {
    const MISFIT: SegmentError = SegmentError::Inconsistent {
        what: "copies do not fit their stream",
    };
    main.clear();
    main.reserve_exact(main_bytes);
    let mut literals = Cursor::new(packed);
    let list_bytes = [literals.length()?, literals.length()?, literals.length()?];
    let mut literal_counts = Cursor::new(literals.take(list_bytes[0])?);
    let mut lengths = Cursor::new(literals.take(list_bytes[1])?);
    let mut sources = Cursor::new(literals.take(list_bytes[2])?);
    let mut expected_source = 0_i64;
    while !literal_counts.rest().is_empty() {
        let before = literals.take(literal_counts.length()?)?;
        let bytes = lengths.varint()?.checked_add(LENGTH_MIN).ok_or(MISFIT)?;
        let bytes = usize::try_from(bytes).map_err(|_| MISFIT)?;
        let source = expected_source
            .checked_add(before.len() as i64)
            .and_then(|expected| expected.checked_add(unzigzag(sources.varint().ok()?)))
            .ok_or(MISFIT)?;
        let from = usize::try_from(source).map_err(|_| MISFIT)?;
        let space = main_bytes - main.len();
        if before.len() > space || bytes > space - before.len() {
            return Err(MISFIT);
        }
        main.extend_from_slice(before);
        let to = from.checked_add(bytes).ok_or(MISFIT)?;
        if let Some(earlier) = from.checked_sub(base.bytes()) {
            let end = earlier + bytes;
            if end > main.len() {
                return Err(MISFIT);
            }
            main.extend_from_within(earlier..end);
        } else if to > base.bytes() {
            return Err(MISFIT);
        } else {
            base.copy(from, bytes, main)?;
        }
        expected_source = to as i64;
    }
    let last_literals = literals.rest();
    let lists_end = lengths.rest().is_empty() && sources.rest().is_empty();
    if !lists_end || last_literals.len() != main_bytes - main.len() {
        return Err(MISFIT);
    }
    main.extend_from_slice(last_literals);
    Ok(())
}

#[cfg(test)]
mod tests {
    use betcode_test_support::noise;
    use proptest::prelude::*;

    use super::*;

    impl CopySource for [u8] {
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
            let packed = pack(&index(base), main, shortest)?;
            let mut back = Vec::new();
            unpack(&packed, base, main.len(), &mut back).unwrap();
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
            let copies = |shortest| pack(&index(&base), &main, shortest).is_some();
            assert_eq!(
                (copies(ShortestCopy::QUICK), copies(ShortestCopy::DEEP)),
                (true, deep_copies),
                "{bytes}"
            );
        }
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
                let after_base = comes_back(&[byte; 300], &run);
                assert_eq!(after_base.is_some(), length >= 96, "{length} times {byte}");
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
        let packed_of = |before: u64, length: u64, source: i64, literals: &[u8]| {
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
        let mut read = |bytes: &[u8]| unpack(bytes, &base[..], 40, &mut main);
        assert!(read(&packed_of(4, 4, 0, &[9; 4])).is_ok());
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
            let bytes = packed_of(before, length, source, &[9; 4]);
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
            if unpack(&packed, &[5; 700][..], main_bytes, &mut main).is_ok() {
                prop_assert_eq!(main.len(), main_bytes);
            }
        }
    }
}
