//! Identifiers: references to those seen before, and the random bits of new ones.
//!
//! The random bits are kept out of the compressed stream: they do not compress, and in its midst
//! they would spoil the statistics of what does.

use super::super::SegmentError;
use super::columns::HashMapOf;
use super::forms::Id;
use super::shape::Kind;
use super::varint::{self, Cursor, unzigzag, zigzag};

/// Code of an identifier equal to the one before in its column.
const SAME: u64 = 0;
/// Code of a new random UUID (version 4): 122 bits.
const NEW_V4: u64 = 1;
/// Code of a new UUID with a time (version 7): 74 bits, the time as a difference.
const NEW_V7: u64 = 2;
/// Code of any other new identifier.
const NEW: u64 = 3;
/// Codes from here on refer back: the rest, plus one, is the distance in new identifiers.
const BACK: u64 = 4;

const V4_MASK: u128 = 0xf << 76 | 0b11 << 62;
const V4_BITS: u128 = 4 << 76 | 0b10 << 62;
const V7_BITS: u128 = 7 << 76 | 0b10 << 62;

/// Bytes that a new identifier of `kind` takes when nothing is known of its bits.
fn plain_bytes(kind: Kind) -> usize {
    match kind {
        Kind::Hex16 => 8,
        Kind::Hex24 => 12,
        Kind::Base62 => 18,
        _ => 16,
    }
}

/// The identifiers of a segment while it is being split.
#[derive(Debug, Default)]
pub(super) struct IdWriter {
    known: HashMapOf<u128, (u16, u32)>,
    count: u32,
    /// Whole bytes of new identifiers.
    pub(super) bytes: Vec<u8>,
    /// Two bits of each version 4 or 7 UUID, four to a byte, lowest first.
    pub(super) pairs: Vec<u8>,
    pair_count: usize,
    /// Times of version 7 UUIDs, from the last time of the lines.
    pub(super) times: Vec<u8>,
}

impl IdWriter {
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
        // Identifiers that share the lower bits but not the upper are new each time.
        if let Some(&(high, position)) = self.known.get(&id.low)
            && high == id.high
        {
            varint::put(codes, BACK + u64::from(self.count - position - 1));
            return;
        }
        self.known.insert(id.low, (id.high, self.count));
        self.count += 1;
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

    /// Keeps `8 * N + 2` bits.
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
    known: Vec<Id>,
    bytes: Cursor<'a>,
    pairs: &'a [u8],
    pair_count: usize,
    times: Cursor<'a>,
}

impl<'a> IdReader<'a> {
    pub(super) fn new(bytes: &'a [u8], pairs: &'a [u8], times: &'a [u8]) -> Self {
        Self {
            known: Vec::new(),
            bytes: Cursor::new(bytes),
            pairs,
            pair_count: 0,
            times: Cursor::new(times),
        }
    }

    pub(super) fn next(
        &mut self,
        kind: Kind,
        last: &mut Id,
        codes: &mut Cursor<'_>,
        now_ms: i64,
    ) -> Result<Id, SegmentError> {
        let id = match codes.varint()? {
            SAME => return Ok(*last),
            NEW_V4 => {
                let random = self.bits::<15>()?;
                let low =
                    random >> 74 << 80 | (random >> 62 & 0xfff) << 64 | random & ((1 << 62) - 1);
                Id {
                    high: 0,
                    low: low | V4_BITS,
                }
            }
            NEW_V7 => {
                let ms = now_ms.wrapping_add(unzigzag(self.times.varint()?));
                let random = self.bits::<9>()?;
                let low = (random >> 62 & 0xfff) << 64 | random & ((1 << 62) - 1) | V7_BITS;
                Id {
                    high: 0,
                    low: low | u128::from(ms as u64 & 0xffff_ffff_ffff) << 80,
                }
            }
            NEW => {
                let mut bytes = [0; 18];
                let count = plain_bytes(kind);
                bytes[18 - count..].copy_from_slice(self.bytes.take(count)?);
                let [high0, high1, low @ ..] = bytes;
                Id {
                    high: u16::from_be_bytes([high0, high1]),
                    low: u128::from_be_bytes(low),
                }
            }
            back => {
                let distance = usize::try_from(back - BACK).unwrap_or(usize::MAX);
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
