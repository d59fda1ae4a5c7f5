//! The buffer in which messages are put together: no more bytes than the segment's header promised.
//!
//! Most of the time of a replay is spent here. The pieces of a line are short, and a call that copies a
//! variable number of bytes takes longer than the copying. So the buffer always has [`SLACK_BYTES`] more
//! than is filled, and short pieces are copied in blocks of one fixed size. What is copied too much is
//! overwritten by the next piece.

use wide::u8x32;

use super::super::SegmentError;

/// Bytes copied, and searched for what needs escaping, at once.
const BLOCK_BYTES: usize = 32;
/// Longest escape, `\u001f`.
const ESCAPE_BYTES_MAX: usize = 6;
/// Space after what is filled: for a block whose every byte is escaped, and for the surplus of the last
/// copies.
const SLACK_BYTES: usize = (ESCAPE_BYTES_MAX + 2) * BLOCK_BYTES;
/// The most bytes that a time, a number or an identifier takes.
pub(super) const SHORT_BYTES_MAX: usize = 64;
/// Bytes allocated at first at most, whatever a header says. The buffer grows as it is filled.
const FIRST_BYTES_MAX: usize = 4 << 20;

/// A slice of a larger one. A whole block may be read where it begins, beyond its end, and the surplus not
/// used.
#[derive(Debug, Clone, Copy)]
pub(super) struct PaddedSlice<'a> {
    space: &'a [u8],
    start: usize,
    end: usize,
}

impl<'a> PaddedSlice<'a> {
    /// `length` bytes of `space` from `start` on, if it has them.
    #[inline]
    pub(super) fn new(space: &'a [u8], start: usize, length: usize) -> Option<Self> {
        let end = start.checked_add(length)?;
        (end <= space.len()).then_some(Self { space, start, end })
    }

    /// All of `bytes`.
    #[inline]
    pub(super) fn of(bytes: &'a [u8]) -> Self {
        Self {
            space: bytes,
            start: 0,
            end: bytes.len(),
        }
    }

    #[inline]
    pub(super) fn bytes(&self) -> &'a [u8] {
        self.space.get(self.start..self.end).unwrap_or_default()
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The first `length` bytes and the rest, if there are so many.
    #[inline]
    pub(super) fn split_at(self, length: usize) -> Option<(Self, Self)> {
        let middle = self.start.checked_add(length)?;
        (middle <= self.end).then_some((
            Self {
                end: middle,
                ..self
            },
            Self {
                start: middle,
                ..self
            },
        ))
    }

    /// The `N` bytes from `at` on, with zeros for those that are not there.
    #[inline(never)]
    fn padded<const N: usize>(&self, at: usize) -> [u8; N] {
        let rest = self.space.get(at..).unwrap_or_default();
        let count = rest.len().min(N);
        let mut block = [0; N];
        block[..count].copy_from_slice(&rest[..count]);
        block
    }
}

/// Messages being put together. They must not be longer than the segment's header promised.
#[derive(Debug)]
pub(super) struct Output {
    /// Filled up to `filled`. What comes after is left from before.
    bytes: Vec<u8>,
    filled: usize,
    bytes_max: usize,
}

impl Output {
    /// At most `bytes_max` bytes, in the memory of `buffer`.
    pub(super) fn new(bytes_max: usize, buffer: Vec<u8>, bytes: usize) -> Self {
        let mut output = Self {
            bytes: buffer,
            filled: 0,
            bytes_max,
        };
        output.make_room(bytes.min(FIRST_BYTES_MAX));
        output
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        self.filled
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    pub(super) fn into_bytes(mut self) -> Vec<u8> {
        self.bytes.truncate(self.filled);
        self.bytes
    }

    /// Drops what is there. It still counts towards what the header promised.
    pub(super) fn discard(&mut self) {
        self.bytes_max -= self.filled;
        self.filled = 0;
    }

    /// Makes space for `count` bytes more and the slack.
    #[inline]
    fn make_room(&mut self, count: usize) {
        if self.bytes.len() - self.filled < count + SLACK_BYTES {
            self.grow(count);
        }
    }

    #[cold]
    fn grow(&mut self, count: usize) {
        // Doubling, but not beyond what may ever be needed.
        let needed = self.filled + count + SLACK_BYTES;
        let enough = self.bytes_max.saturating_add(SLACK_BYTES);
        let bytes = needed.max(enough.min(self.bytes.len().saturating_mul(2)));
        self.bytes.reserve_exact(bytes - self.bytes.len());
        self.bytes.resize(bytes, 0);
    }

    /// Checks that `count` bytes more are allowed, and makes space for them.
    #[inline]
    fn admit(&mut self, count: usize) -> Result<(), SegmentError> {
        if count > self.bytes_max - self.filled {
            return Err(SegmentError::Inconsistent {
                what: "messages exceed the header's size",
            });
        }
        self.make_room(count);
        Ok(())
    }

    /// Appends bytes. Fast if the compiler knows how many.
    #[inline]
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), SegmentError> {
        self.admit(bytes.len())?;
        let end = self.filled + bytes.len();
        self.bytes[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
        Ok(())
    }

    /// Appends a slice.
    #[inline]
    pub(super) fn push_slice(&mut self, slice: PaddedSlice<'_>) -> Result<(), SegmentError> {
        let count = slice.len();
        if count > BLOCK_BYTES {
            return self.push(slice.bytes());
        }
        self.admit(count)?;
        let found: Option<&[u8; BLOCK_BYTES]> =
            slice.space.get(slice.start..).and_then(<[u8]>::first_chunk);
        match found {
            Some(block) => self.put(*block),
            None => self.put(slice.padded::<BLOCK_BYTES>(slice.start)),
        }
        self.filled += count;
        Ok(())
    }

    /// Lets `write` fill exactly `count` bytes.
    pub(super) fn with<T>(
        &mut self,
        count: usize,
        write: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T, SegmentError> {
        self.admit(count)?;
        let end = self.filled + count;
        let result = write(&mut self.bytes[self.filled..end]);
        self.filled = end;
        Ok(result)
    }

    /// Lets `write` fill the front of the space for a short text, and return how many bytes it wrote.
    #[inline]
    pub(super) fn push_short(
        &mut self,
        write: impl FnOnce(&mut [u8; SHORT_BYTES_MAX]) -> usize,
    ) -> Result<(), SegmentError> {
        // It is written where it belongs. If it were written byte by byte elsewhere and then copied as a block,
        // the processor would have to wait for the writes.
        self.make_room(SHORT_BYTES_MAX);
        let rest = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let count = rest.first_chunk_mut().map_or(0, write);
        self.admit(count)?;
        self.filled += count;
        Ok(())
    }

    /// Writes after what is filled, without filling it. The slack has space for it.
    #[inline]
    fn put<const N: usize>(&mut self, bytes: [u8; N]) {
        self.bytes[self.filled..self.filled + N].copy_from_slice(&bytes);
    }

    /// Appends text escaped as `JSON.stringify`, serde and Python's `json` agree on.
    pub(super) fn push_escaped(&mut self, text: PaddedSlice<'_>) -> Result<(), SegmentError> {
        // It takes at least as many bytes as it has, and the escapes of one block fit into the slack.
        self.admit(text.len())?;
        let mut at = text.start;
        while at < text.end {
            let count = BLOCK_BYTES.min(text.end - at);
            // Two blocks, so that a whole block can be read from any position in the first.
            match text.space.get(at..).and_then(<[u8]>::first_chunk) {
                Some(blocks) => self.push_block(blocks, count),
                None => self.push_block(&text.padded(at), count),
            }
            at += count;
            if self.filled > self.bytes_max {
                self.filled = self.bytes_max;
                return Err(SegmentError::Inconsistent {
                    what: "messages exceed the header's size",
                });
            }
        }
        Ok(())
    }

    /// Appends one byte, escaped.
    pub(super) fn push_escaped_byte(&mut self, byte: u8) -> Result<(), SegmentError> {
        match ESCAPES[usize::from(byte)] {
            0 => self.push(&[byte]),
            escape => self.push_slice(PaddedSlice {
                space: &escape.to_le_bytes(),
                start: 0,
                end: escape_length(escape),
            }),
        }
    }

    /// Appends the first `count` bytes, at most a block, escaped.
    #[inline]
    fn push_block(&mut self, blocks: &[u8; 2 * BLOCK_BYTES], count: usize) {
        let block_at = |at: usize| -> [u8; BLOCK_BYTES] {
            let block = blocks.get(at..).and_then(<[u8]>::first_chunk);
            block.copied().unwrap_or_default()
        };
        let block = block_at(0);
        self.make_room(0);
        self.put(block);
        let mut specials = special_bits(block) & (u32::MAX >> (BLOCK_BYTES - count));
        // The whole block is written already. At each byte that needs it, write the escape over it, and then
        // what follows the byte once more.
        let mut done = 0;
        while specials != 0 {
            let special = specials.trailing_zeros() as usize;
            self.filled += special - done;
            let escape = ESCAPES[usize::from(blocks[special])];
            self.put(escape.to_le_bytes());
            self.filled += escape_length(escape);
            done = special + 1;
            self.put(block_at(done));
            specials &= specials - 1;
        }
        self.filled += count - done;
    }
}

/// The escape of each byte that needs one: up to six bytes of text, and their number in the last byte.
static ESCAPES: [u64; 256] = escapes();

#[inline]
const fn escape_length(escape: u64) -> usize {
    (escape >> 56) as usize
}

const fn escapes() -> [u64; 256] {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let letter = match byte as u8 {
            b'"' | b'\\' => byte as u8,
            b'\n' => b'n',
            b'\t' => b't',
            b'\r' => b'r',
            8 => b'b',
            12 => b'f',
            _ => 0,
        };
        table[byte] = u64::from_le_bytes(if letter != 0 {
            [b'\\', letter, 0, 0, 0, 0, 0, 2]
        } else if byte < 0x20 {
            let (high, low) = (HEX[byte >> 4], HEX[byte & 15]);
            [b'\\', b'u', b'0', b'0', high, low, 0, 6]
        } else {
            [0; 8]
        });
        byte += 1;
    }
    table
}

/// A bit for each byte that JSON escapes: quote, backslash, below 0x20.
#[inline]
fn special_bits(block: [u8; BLOCK_BYTES]) -> u32 {
    let bytes = u8x32::new(block);
    let control = bytes.min(u8x32::splat(0x1f)).simd_eq(bytes);
    let quote = bytes.simd_eq(u8x32::splat(b'"'));
    let backslash = bytes.simd_eq(u8x32::splat(b'\\'));
    (control | quote | backslash).to_bitmask()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn slowly_escaped(text: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        for &byte in text {
            let escape = ESCAPES[usize::from(byte)];
            match escape_length(escape) {
                0 => out.push(byte),
                length => out.extend_from_slice(&escape.to_le_bytes()[..length]),
            }
        }
        out
    }

    #[test]
    fn escapes_are_those_of_json() {
        for byte in 0..0x80_u8 {
            let text = char::from(byte).to_string();
            let json = serde_json::to_string(&text).unwrap();
            let inner = &json.as_bytes()[1..json.len() - 1];
            assert_eq!(slowly_escaped(text.as_bytes()), inner, "{byte}");
        }
    }

    #[test]
    fn nothing_goes_beyond_what_was_promised() {
        let mut out = Output::new(10, Vec::new(), 10);
        assert!(out.push_escaped(PaddedSlice::of(b"\"\"\"\"\"\"")).is_err());
        assert!(out.len() <= 10);
        let mut out = Output::new(40, Vec::new(), 0);
        assert!(out.push_slice(PaddedSlice::of(&[b'a'; 41])).is_err());
        assert!(out.push_slice(PaddedSlice::of(&[b'a'; 40])).is_ok());
        assert!(out.push(b"b").is_err());
        assert!(out.push_escaped(PaddedSlice::of(b"b")).is_err());
        assert!(out.push_escaped(PaddedSlice::of(b"")).is_ok());
        assert!(out.with(1, |_| ()).is_err());
        assert_eq!(out.into_bytes(), [b'a'; 40]);
    }

    proptest! {
        #[test]
        fn special_bytes_are_found(block: [u8; BLOCK_BYTES], specials in prop::collection::vec((0..BLOCK_BYTES, prop::sample::select(b"\"\\\x00\x1f\x20!#[]\xa2\xdc\x9f".to_vec())), 0..9)) {
            let mut block = block;
            for (at, byte) in specials {
                block[at] = byte;
            }
            let expected = block.iter().enumerate().fold(0_u32, |bits, (at, &byte)| {
                bits | u32::from(ESCAPES[usize::from(byte)] > 0) << at
            });
            prop_assert_eq!(special_bits(block), expected);
        }

        #[test]
        fn what_is_pushed_stands_there(
            pieces in prop::collection::vec((prop::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'a')], 0..200), 0_usize..64, any::<bool>()), 0..12),
            left_over in 0_usize..400,
            room: bool,
        ) {
            let expected: Vec<u8> = pieces
                .iter()
                .flat_map(|(text, _, escaped)| if *escaped { slowly_escaped(text) } else { text.clone() })
                .collect();
            let first = if room { expected.len() } else { 0 };
            let mut out = Output::new(expected.len(), vec![b'x'; left_over], first);
            for (text, behind, escaped) in &pieces {
                // Each piece stands amid others, to be read along and not used.
                let mut space = text.clone();
                space.splice(0..0, *b"before");
                space.extend(std::iter::repeat_n(b'"', *behind));
                let stretch = PaddedSlice::new(&space, 6, text.len()).unwrap();
                if *escaped {
                    out.push_escaped(stretch).unwrap();
                } else {
                    out.push_slice(stretch).unwrap();
                }
            }
            prop_assert_eq!(out.into_bytes(), expected);
        }
    }
}
