//! Splits bytes into lines without loss: the lines that [`LineSplitter`] returns, in order and with their ends,
//! are exactly the bytes that were pushed.

use bytes::{Bytes, BytesMut};

/// Lines to append together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineBatch {
    /// The lines without their newlines; a `\r` belongs to the line.
    pub lines: Vec<Bytes>,
    /// The bytes of these lines with their newlines, for the digest.
    pub source: Bytes,
    /// Whether the last line has no newline: the input ended there.
    pub unterminated: bool,
}

/// Why there is no batch: the line at the front is longer than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineTooLong {
    /// Bytes seen of it so far.
    pub bytes_min: usize,
    /// Whether its end has been seen, so that these are all.
    pub ended: bool,
}

/// Collects bytes and returns whole lines.
#[derive(Debug)]
pub struct LineSplitter {
    held: BytesMut,
    /// Bytes at the front of `held` known to contain no newline.
    searched: usize,
    line_bytes_max: usize,
    batch_bytes_max: usize,
    batch_lines_max: usize,
}

impl LineSplitter {
    /// Lines of at most `line_bytes_max`, in batches of at most `batch_lines_max` lines and about
    /// `batch_bytes_max` bytes (one longer line makes a batch of its own).
    #[must_use]
    pub fn new(line_bytes_max: usize, batch_bytes_max: usize, batch_lines_max: usize) -> Self {
        Self {
            held: BytesMut::new(),
            searched: 0,
            line_bytes_max,
            batch_bytes_max,
            batch_lines_max: batch_lines_max.max(1),
        }
    }

    /// Takes in the next bytes of the input.
    pub fn push(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Whether a batch should be taken before more bytes are pushed.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.held.len() >= self.batch_bytes_max
    }

    /// The next batch of whole lines; `None` when more input is needed.
    ///
    /// # Errors
    /// [`LineTooLong`] when the line at the front is over the bound. All lines before it have been returned.
    pub fn next_batch(&mut self) -> Result<Option<LineBatch>, LineTooLong> {
        let mut ends = Vec::new();
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', self.held.get(self.searched..).unwrap_or_default()) {
            let end = end + self.searched;
            let over = end - start > self.line_bytes_max;
            let full = end + 1 > self.batch_bytes_max && !ends.is_empty();
            if over || full || ends.len() == self.batch_lines_max {
                break;
            }
            ends.push(end);
            start = end + 1;
        }
        if ends.is_empty() {
            return self.none_yet();
        }
        let source = self.held.split_to(start).freeze();
        self.searched = 0;
        let mut lines = Vec::with_capacity(ends.len());
        let mut from = 0;
        for end in ends {
            lines.push(source.slice(from..end));
            from = end + 1;
        }
        Ok(Some(LineBatch {
            lines,
            source,
            unterminated: false,
        }))
    }

    /// What is left when the input has ended: a last line without newline, if there is one. Call
    /// it when [`LineSplitter::next_batch`] has nothing more.
    ///
    /// # Errors
    /// As [`LineSplitter::next_batch`].
    pub fn finish(&mut self) -> Result<Option<LineBatch>, LineTooLong> {
        if self.held.is_empty() {
            return Ok(None);
        }
        if self.held.len() > self.line_bytes_max {
            return Err(LineTooLong {
                bytes_min: self.held.len(),
                ended: true,
            });
        }
        let source = self.held.split().freeze();
        self.searched = 0;
        Ok(Some(LineBatch {
            lines: vec![source.clone()],
            source,
            unterminated: true,
        }))
    }

    fn none_yet(&mut self) -> Result<Option<LineBatch>, LineTooLong> {
        // The front line is over the bound whether or not its newline has been seen.
        let end = memchr::memchr(b'\n', self.held.get(self.searched..).unwrap_or_default());
        let front = end.map_or(self.held.len(), |end| end + self.searched);
        if front > self.line_bytes_max {
            return Err(LineTooLong {
                bytes_min: front,
                ended: end.is_some(),
            });
        }
        self.searched = front;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything that comes out when `input` is pushed in pieces of `piece` bytes.
    fn run(input: &[u8], piece: usize, batch_bytes: usize, batch_lines: usize) -> Vec<LineBatch> {
        let mut lines = LineSplitter::new(usize::MAX, batch_bytes, batch_lines);
        let mut batches = Vec::new();
        for part in input.chunks(piece.max(1)) {
            lines.push(part);
            while let Some(batch) = lines.next_batch().unwrap() {
                batches.push(batch);
            }
        }
        batches.extend(lines.finish().unwrap());
        batches
    }

    fn lines_of(batches: &[LineBatch]) -> Vec<Vec<u8>> {
        batches
            .iter()
            .flat_map(|b| &b.lines)
            .map(|line| line.to_vec())
            .collect()
    }

    #[test]
    fn blank_lines_carriage_returns_and_odd_bytes_are_kept() {
        let batches = run(b"a\r\n\n\x00\xff\nlast", 3, 1 << 20, 100);
        assert_eq!(lines_of(&batches), [&b"a\r"[..], b"", b"\x00\xff", b"last"]);
        assert!(batches.last().unwrap().unterminated);
        assert!(!run(b"a\n", 1, 10, 10).last().unwrap().unterminated);
    }

    #[test]
    fn empty_input_has_no_line_and_a_newline_has_one() {
        assert!(run(b"", 1, 10, 10).is_empty());
        assert_eq!(lines_of(&run(b"\n", 1, 10, 10)), [b""]);
    }

    #[test]
    fn a_line_over_the_bound_is_refused_after_the_lines_before_it() {
        for (tail, at_end) in [(&b"123456\nrest\n"[..], false), (b"123456", true)] {
            let mut lines = LineSplitter::new(5, 1 << 20, 100);
            lines.push(b"12345\n");
            lines.push(tail);
            assert_eq!(lines.next_batch().unwrap().unwrap().lines, [&b"12345"[..]]);
            let refused = lines.next_batch();
            assert_eq!(
                refused,
                Err(LineTooLong {
                    bytes_min: 6,
                    ended: !at_end
                }),
                "{at_end}"
            );
        }
    }

    #[test]
    fn a_long_line_still_growing_is_refused_before_it_is_read_whole() {
        let mut lines = LineSplitter::new(5, 1 << 20, 100);
        lines.push(b"123456");
        assert_eq!(
            lines.next_batch(),
            Err(LineTooLong {
                bytes_min: 6,
                ended: false
            })
        );
    }

    #[test]
    fn batches_stay_within_their_bounds() {
        for batch in run(&b"12345678\n".repeat(50), 64, 30, 4) {
            assert!(
                batch.lines.len() <= 4 && batch.source.len() <= 30,
                "{batch:?}"
            );
        }
        assert!(
            run(&b"\n".repeat(100), 100, 1 << 20, 7)
                .iter()
                .all(|b| b.lines.len() <= 7)
        );
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(
            input in proptest::collection::vec(
                prop_oneof![Just(b'\n'), Just(b'\r'), Just(0_u8), any::<u8>()], 0..400),
            piece in 1_usize..64, batch_bytes in 1_usize..128, batch_lines in 1_usize..8,
        ) {
            let batches = run(&input, piece, batch_bytes, batch_lines);
            let source: Vec<u8> = batches.iter().flat_map(|b| b.source.to_vec()).collect();
            prop_assert_eq!(&source, &input);
            let mut joined = lines_of(&batches).join(&b'\n');
            let ended = batches.last().is_some_and(|b| !b.unterminated);
            if ended { joined.push(b'\n'); }
            prop_assert_eq!(joined, input);
        }
    }
}
