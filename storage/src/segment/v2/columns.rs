//! The columns of a segment that is being split: one for each kind of value and key.
//!
//! A column has three byte streams. *Codes* say for each value what it is, *aux* has what some codes need
//! besides, and *text* has new strings. `docs/FORMAT.md` has the codes.

use std::collections::HashMap;
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};
use std::sync::OnceLock;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed, xxh3_128};

use super::forms::Id;
use super::shape::Kind;
use super::varint::{put, zigzag};

/// How many strings a column remembers, the most recent first. Lower codes are ranks among them.
pub(super) const RECENT_MAX: usize = 16;
/// Code of a string that occurred in another column, or longer ago: its distance is in aux.
pub(super) const CODE_REPEAT: u64 = RECENT_MAX as u64;
/// Code of a blob of the base: its number is in aux.
pub(super) const CODE_BASE: u64 = CODE_REPEAT + 1;
/// Codes from here on are new strings: what is left is their length.
pub(super) const CODE_NEW: u64 = CODE_REPEAT + 2;
/// Shorter strings are referred to within their column only.
pub(super) const REPEAT_BYTES_MIN: usize = 16;

/// A hasher for keys that are hashes or random bits already. It takes one multiplication, with a seed that
/// differs from process to process, so that nobody can choose input that falls into one bucket.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fold(u64);

impl Default for Fold {
    fn default() -> Self {
        static SEED: OnceLock<u64> = OnceLock::new();
        Self(*SEED.get_or_init(|| RandomState::new().hash_one(0_u8) | 1))
    }
}

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        self.write_u64(xxh3_64_with_seed(bytes, self.0));
    }
    fn write_u64(&mut self, value: u64) {
        let product = u128::from(value ^ self.0) * u128::from(self.0 | 1);
        self.0 = (product >> 64) as u64 ^ product as u64;
    }
    fn write_u128(&mut self, value: u128) {
        self.write_u64(value as u64);
        self.write_u64((value >> 64) as u64);
    }
}

pub(super) type HashMapOf<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

/// A column's values so far.
#[derive(Debug)]
pub(super) struct Column {
    pub(super) kind: Kind,
    /// Varints, one or more for each value.
    pub(super) codes: Vec<u8>,
    /// What some codes need besides: distances, shapes of elements, line numbers.
    pub(super) aux: Vec<u8>,
    /// New strings, one after the other.
    pub(super) text: Vec<u8>,
    /// Integers, until [`Column::finish`] writes their codes.
    pub(super) integers: Vec<i64>,
    /// The shapes of each array's elements, until [`Column::finish`] writes their codes.
    pub(super) arrays: Vec<Vec<u32>>,
    pub(super) last_id: Option<Id>,
    /// Hashes of the most recent strings.
    recent: Vec<u128>,
}

impl Column {
    fn new(kind: Kind) -> Self {
        Self {
            kind,
            codes: Vec::new(),
            aux: Vec::new(),
            text: Vec::new(),
            integers: Vec::new(),
            arrays: Vec::new(),
            last_id: None,
            recent: Vec::new(),
        }
    }

    /// Writes the codes of integers and arrays, which depend on all values of the column.
    pub(super) fn finish(&mut self) {
        match self.kind {
            Kind::Integer => self.finish_integers(),
            Kind::Array => {
                for shapes in &self.arrays {
                    put(&mut self.codes, shapes.len() as u64);
                    for &shape in shapes {
                        put(&mut self.aux, u64::from(shape));
                    }
                }
            }
            _ => {}
        }
    }

    /// Writes them as they are or as differences, whichever looks smaller. The first byte says which.
    fn finish_integers(&mut self) {
        let (mut whole, mut differences) = (vec![0], vec![1]);
        let mut before = 0_i64;
        for &value in &self.integers {
            put(&mut whole, zigzag(value));
            put(&mut differences, zigzag(value.wrapping_sub(before)));
            before = value;
        }
        self.codes = if entropy_bits(&differences) < entropy_bits(&whole) {
            differences
        } else {
            whole
        };
    }
}

/// Order-0 entropy of the bytes, in bits: a cheap estimate of what an entropy coder will need.
fn entropy_bits(bytes: &[u8]) -> f64 {
    let mut counts = [0_u32; 256];
    for &byte in bytes {
        counts[usize::from(byte)] += 1;
    }
    let total = bytes.len() as f64;
    let used = counts.iter().filter(|&&count| count > 0);
    used.map(|&count| f64::from(count) * (total / f64::from(count)).log2())
        .sum()
}

/// All columns of a segment, and the strings they share.
#[derive(Debug, Default)]
pub(super) struct Columns {
    pub(super) all: Vec<Column>,
    by_name: HashMapOf<u64, u32>,
    /// The position of each long string among them, by its hash.
    long_strings: HashMapOf<u128, u32>,
    long_count: u32,
    /// Decoded base64, one after the other.
    pub(super) blobs: Vec<u8>,
    /// Hash and length of each of them, in order.
    pub(super) blob_list: Vec<(u128, usize)>,
    /// Whether strings may refer back to equal ones.
    repeats: bool,
}

impl Columns {
    pub(super) fn new(repeats: bool) -> Self {
        Self {
            repeats,
            ..Self::default()
        }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The column of a kind and key. It is found by a 64-bit hash: if two collide, the segment does not decode
    /// to its messages, and the encoder notices.
    pub(super) fn at(&mut self, kind: Kind, key: &[u8]) -> &mut Column {
        let index = self.index(kind, key);
        &mut self.all[index]
    }

    pub(super) fn index(&mut self, kind: Kind, key: &[u8]) -> usize {
        let all = &mut self.all;
        let next = all.len() as u32;
        let index = *self.by_name.entry(name_hash(kind, key)).or_insert_with(|| {
            all.push(Column::new(kind));
            next
        });
        index as usize
    }

    /// The column, if it has values.
    pub(super) fn find(&self, kind: Kind, key: &[u8]) -> Option<usize> {
        self.by_name
            .get(&name_hash(kind, key))
            .map(|&index| index as usize)
    }

    /// Writes a string: as one of the column's recent ones, as one that occurred in any column, as one of the
    /// base's blobs (`in_base` returns its number), or as a new one.
    pub(super) fn put_string(
        &mut self,
        index: usize,
        value: &[u8],
        in_base: impl FnOnce(u128) -> Option<u32>,
    ) {
        let column = &mut self.all[index];
        let hash = xxh3_128(value);
        let recent = column.recent.iter().position(|&known| known == hash);
        if let Some(rank) = recent.filter(|_| self.repeats) {
            column.recent[..=rank].rotate_right(1);
            put(&mut column.codes, rank as u64);
            return;
        }
        if column.recent.len() == RECENT_MAX {
            column.recent.pop();
        }
        column.recent.insert(0, hash);
        if value.len() >= REPEAT_BYTES_MIN {
            if let Some(&position) = self.long_strings.get(&hash)
                && self.repeats
            {
                put(&mut column.codes, CODE_REPEAT);
                put(&mut column.aux, u64::from(self.long_count - position));
                return;
            }
            if let Some(number) = in_base(hash) {
                put(&mut column.codes, CODE_BASE);
                put(&mut column.aux, u64::from(number));
                return;
            }
            self.long_strings.insert(hash, self.long_count);
            self.long_count += 1;
        }
        put(&mut column.codes, CODE_NEW + value.len() as u64);
        if column.kind.base64().is_some() {
            self.blobs.extend_from_slice(value);
            self.blob_list.push((hash, value.len()));
        } else {
            column.text.extend_from_slice(value);
        }
    }
}

/// A hash of both. The kind is not the seed, because XXH3 adds the seed to short inputs: `"rga"` with one
/// seed and `"rgc"` with another would collide.
fn name_hash(kind: Kind, key: &[u8]) -> u64 {
    const GOLDEN_RATIO: u64 = 0x9e37_79b9_7f4a_7c15;
    xxh3_64(key) ^ (kind as u64).wrapping_mul(GOLDEN_RATIO)
}
