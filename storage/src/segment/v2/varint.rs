//! Variable-length integers (LEB128), and a cursor that never reads past its bytes.

use super::super::SegmentError;

/// Longest varint: ten groups of seven bits hold 64.
const VARINT_BYTES_MAX: usize = 10;

/// Appends `value` in groups of seven bits, lowest first, the high bit meaning "more follows".
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Maps small magnitudes of either sign to small numbers.
pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// Undoes [`zigzag`].
pub(super) fn unzigzag(value: u64) -> i64 {
    ((value >> 1) as i64) ^ -((value & 1) as i64)
}

/// Reads a stream front to back. The default is an empty stream.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, SegmentError> {
        let (&first, rest) = self.rest.split_first().ok_or_else(|| exhausted(1, 0))?;
        self.rest = rest;
        Ok(first)
    }

    // Inlined, because it is called for each value of each line, and most numbers take one byte.
    #[inline(always)]
    pub(super) fn varint(&mut self) -> Result<u64, SegmentError> {
        let (&first, rest) = self.rest.split_first().ok_or_else(|| exhausted(1, 0))?;
        self.rest = rest;
        if first < 0x80 {
            return Ok(u64::from(first));
        }
        self.varint_tail(first)
    }

    #[inline(never)]
    fn varint_tail(&mut self, first: u8) -> Result<u64, SegmentError> {
        let mut value = u64::from(first & 0x7f);
        for group in 1..VARINT_BYTES_MAX {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            let shift = 7 * group;
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(SegmentError::Inconsistent {
            what: "a number is longer than 64 bits",
        })
    }

    /// A varint that is a length, a count or a position.
    #[inline]
    pub(super) fn length(&mut self) -> Result<usize, SegmentError> {
        usize::try_from(self.varint()?).map_err(|_| SegmentError::Inconsistent {
            what: "a length is out of range",
        })
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], SegmentError> {
        let (head, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or(exhausted(count, self.rest.len()))?;
        self.rest = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], SegmentError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(exhausted(N, self.rest.len()))?;
        self.rest = rest;
        Ok(*head)
    }
}

fn exhausted(needed: usize, found: usize) -> SegmentError {
    SegmentError::Truncated {
        part: "stream",
        needed,
        found,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip() {
        for value in [
            0,
            1,
            127,
            128,
            300,
            u64::from(u32::MAX),
            i64::MAX as u64,
            u64::MAX,
        ] {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            let mut cursor = Cursor::new(&bytes);
            assert_eq!(cursor.varint(), Ok(value));
            assert!(cursor.rest().is_empty());
        }
        for value in [0, -1, 1, i64::MIN, i64::MAX] {
            assert_eq!(unzigzag(zigzag(value)), value);
        }
    }

    #[test]
    fn a_number_that_never_ends_is_an_error() {
        assert!(Cursor::new(&[0xff; 64]).varint().is_err());
        assert!(Cursor::new(&[0xff; 3]).varint().is_err());
    }
}
