//! Identifiers: back references to those seen before, and the random bits of new ones.
//!
//! The random bits are kept out of the compressed stream. They do not compress, and within it they would
//! spoil the statistics of what does.

use super::super::SegmentError;
use super::columns::HashMapOf;
use super::forms::Id;
use super::shape::Kind;
use super::varint::{self, Cursor, unzigzag, zigzag};

/// Code of an identifier that is equal to the one before it in its column.
const SAME: u64 = 0;
/// Code of a new random UUID (version 4): 122 bits.
const NEW_V4: u64 = 1;
/// Code of a new UUID with a time (version 7): 74 bits, the time as a difference.
const NEW_V7: u64 = 2;
/// Code of any other new identifier.
const NEW: u64 = 3;
/// Codes from here on are back references: what is left, plus one, is the distance in new identifiers.
const BACK: u64 = 4;
/// If the base has identifiers: code of the one that follows, in the base, the last one taken from it.
const NEXT_OF_BASE: u64 = 4;
/// If the base has identifiers: code of any other of them. Its distance from that position follows.
const OF_BASE: u64 = 5;
/// How much higher the codes of back references are if the base has identifiers.
const BASE_CODES: u64 = 2;

const V4_MASK: u128 = 0xf << 76 | 0b11 << 62;
const V4_BITS: u128 = 4 << 76 | 0b10 << 62;
const V7_BITS: u128 = 7 << 76 | 0b10 << 62;

/// Bytes of a new identifier of which only the kind is known.
fn plain_bytes(kind: Kind) -> usize {
    match kind {
        Kind::Hex16 => 8,
        Kind::Hex24 => 12,
        Kind::Base62 => 18,
        _ => 16,
    }
}

/// The position of each of a base's identifiers.
pub(super) type BaseIds = HashMapOf<Id, u32>;

/// The identifiers of a segment while it is being split.
#[derive(Debug, Default)]
pub(super) struct IdWriter<'b> {
    base: Option<&'b BaseIds>,
    /// The position after that of the last one taken from the base.
    base_next: u32,
    /// For the lower bits of each new identifier, its upper bits and its position among the new ones.
    known: HashMapOf<u128, (u16, u32)>,
    count: u32,
    /// New identifiers that are not the base's.
    pub(super) fresh: Vec<Id>,
    /// Whole bytes of new identifiers.
    pub(super) bytes: Vec<u8>,
    /// Two bits of each version 4 or 7 UUID, four to a byte, lowest first.
    pub(super) pairs: Vec<u8>,
    pair_count: usize,
    /// Times of version 7 UUIDs, as differences from the last time in the lines.
    pub(super) times: Vec<u8>,
}

impl<'b> IdWriter<'b> {
    /// `base` are the identifiers of the segment's base, if that has any.
    pub(super) fn new(base: Option<&'b BaseIds>) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }

    /// Whether the codes are those of a segment whose base has identifiers.
    pub(super) fn has_base(&self) -> bool {
        self.base.is_some()
    }

    /// Writes an identifier of a column, whose last one was `last`.
    pub(super) fn put(
        &mut self,
        kind: Kind,
        id: Id,
        last: &mut Option<Id>,
        codes: &mut Vec<u8>,
        now_ms: i64,
    ) {
        if *last == Some(id) {
            varint::put(codes, SAME);
            return;
        }
        *last = Some(id);
        // Only the last one with these lower bits is known: others with the same are written as new again.
        if let Some(&(high, position)) = self.known.get(&id.low)
            && high == id.high
        {
            let base_codes = if self.has_base() { BASE_CODES } else { 0 };
            let distance = u64::from(self.count - position - 1);
            varint::put(codes, BACK + base_codes + distance);
            return;
        }
        self.known.insert(id.low, (id.high, self.count));
        self.count += 1;
        if let Some(&position) = self.base.and_then(|base| base.get(&id)) {
            if position == self.base_next {
                varint::put(codes, NEXT_OF_BASE);
            } else {
                varint::put(codes, OF_BASE);
                let distance = i64::from(position) - i64::from(self.base_next);
                varint::put(codes, zigzag(distance));
            }
            self.base_next = position + 1;
            return;
        }
        self.fresh.push(id);
        let whole = plain_bytes(kind) == 16;
        if whole && id.low & V4_MASK == V4_BITS {
            varint::put(codes, NEW_V4);
            let random =
                id.low >> 80 << 74 | (id.low >> 64 & 0xfff) << 62 | id.low & ((1 << 62) - 1);
            self.put_bits::<15>(random);
        } else if whole && id.low & V4_MASK == V7_BITS {
            varint::put(codes, NEW_V7);
            varint::put(&mut self.times, zigzag((id.low >> 80) as i64 - now_ms));
            let random = (id.low >> 64 & 0xfff) << 62 | id.low & ((1 << 62) - 1);
            self.put_bits::<9>(random);
        } else {
            varint::put(codes, NEW);
            let mut bytes = [0; 18];
            bytes[..2].copy_from_slice(&id.high.to_be_bytes());
            bytes[2..].copy_from_slice(&id.low.to_be_bytes());
            self.bytes
                .extend_from_slice(&bytes[18 - plain_bytes(kind)..]);
        }
    }

    /// Writes `8 * N + 2` random bits: `N` bytes and a pair.
    fn put_bits<const N: usize>(&mut self, bits: u128) {
        self.bytes.extend_from_slice(&bits.to_be_bytes()[16 - N..]);
        let pair = (bits >> (8 * N)) as u8 & 3;
        let shift = 2 * (self.pair_count % 4);
        match self.pairs.last_mut() {
            Some(last) if shift > 0 => *last |= pair << shift,
            _ => self.pairs.push(pair),
        }
        self.pair_count += 1;
    }
}

/// The identifiers of a segment while it is being joined.
#[derive(Debug)]
pub(super) struct IdReader<'a> {
    base: Option<&'a [Id]>,
    /// The position after that of the last one taken from the base.
    base_next: usize,
    known: Vec<Id>,
    bytes: Cursor<'a>,
    pairs: &'a [u8],
    pair_count: usize,
    times: Cursor<'a>,
}

impl<'a> IdReader<'a> {
    /// `base` are the identifiers of the segment's base, if its codes refer to them.
    pub(super) fn new(
        bytes: &'a [u8],
        pairs: &'a [u8],
        times: &'a [u8],
        base: Option<&'a [Id]>,
    ) -> Self {
        Self {
            base,
            base_next: 0,
            known: Vec::new(),
            bytes: Cursor::new(bytes),
            pairs,
            pair_count: 0,
            times: Cursor::new(times),
        }
    }

    /// Reads the next identifier of a column, whose last one was `last`.
    pub(super) fn next(
        &mut self,
        kind: Kind,
        last: &mut Id,
        codes: &mut Cursor<'_>,
        now_ms: i64,
    ) -> Result<Id, SegmentError> {
        let code = codes.varint()?;
        let id = match (code, self.base) {
            (NEXT_OF_BASE, Some(base)) => self.of_base(base, 0)?,
            (OF_BASE, Some(base)) => self.of_base(base, unzigzag(codes.varint()?))?,
            (SAME, _) => return Ok(*last),
            (NEW_V4, _) => {
                let random = self.bits::<15>()?;
                let low =
                    random >> 74 << 80 | (random >> 62 & 0xfff) << 64 | random & ((1 << 62) - 1);
                Id {
                    high: 0,
                    low: low | V4_BITS,
                }
            }
            (NEW_V7, _) => {
                let ms = now_ms.wrapping_add(unzigzag(self.times.varint()?));
                let random = self.bits::<9>()?;
                let low = (random >> 62 & 0xfff) << 64 | random & ((1 << 62) - 1) | V7_BITS;
                Id {
                    high: 0,
                    low: low | u128::from(ms as u64 & 0xffff_ffff_ffff) << 80,
                }
            }
            (NEW, _) => {
                let mut bytes = [0; 18];
                let count = plain_bytes(kind);
                bytes[18 - count..].copy_from_slice(self.bytes.take(count)?);
                let [high0, high1, low @ ..] = bytes;
                Id {
                    high: u16::from_be_bytes([high0, high1]),
                    low: u128::from_be_bytes(low),
                }
            }
            (back, base) => {
                let first = BACK + base.map_or(0, |_| BASE_CODES);
                let distance = usize::try_from(back - first).unwrap_or(usize::MAX);
                let position = self
                    .known
                    .len()
                    .checked_sub(1)
                    .and_then(|n| n.checked_sub(distance));
                let known = position
                    .and_then(|position| self.known.get(position))
                    .copied();
                let id = known.ok_or(SegmentError::Inconsistent {
                    what: "an identifier refers to before the first",
                })?;
                *last = id;
                return Ok(id);
            }
        };
        self.known.push(id);
        *last = id;
        Ok(id)
    }

    /// The base's identifier at this distance from the position after the last one taken.
    fn of_base(&mut self, base: &[Id], distance: i64) -> Result<Id, SegmentError> {
        let position = i64::try_from(self.base_next)
            .ok()
            .and_then(|next| usize::try_from(next.checked_add(distance)?).ok());
        let found = position.and_then(|position| Some((position, *base.get(position)?)));
        let (position, id) = found.ok_or(SegmentError::Inconsistent {
            what: "the base has no such identifier",
        })?;
        self.base_next = position + 1;
        Ok(id)
    }

    /// Reads `8 * N + 2` random bits.
    fn bits<const N: usize>(&mut self) -> Result<u128, SegmentError> {
        let mut bytes = [0; 16];
        bytes[16 - N..].copy_from_slice(&self.bytes.array::<N>()?);
        let Some(pairs) = self.pairs.get(self.pair_count / 4) else {
            return Err(SegmentError::Inconsistent {
                what: "identifiers lack bits",
            });
        };
        let pair = pairs >> (2 * (self.pair_count % 4)) & 3;
        self.pair_count += 1;
        Ok(u128::from_be_bytes(bytes) | u128::from(pair) << (8 * N))
    }
}
