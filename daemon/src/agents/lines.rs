//! An agent's output, cut into lines. Pure.
//!
//! A line is what stands before a newline; what follows the last one is a line as well when the
//! output ends. Nothing else is interpreted: blank lines, carriage returns, NUL and invalid UTF-8
//! stay as they are.
//!
//! # Lines longer than a message may be
//!
//! They are recorded in pieces. A message of exactly the bound goes on in the next one, always: a
//! line whose length is a multiple of the bound is followed by an empty piece. So the line can be
//! put together again without knowing more than the bound, and no byte is lost.

use bytes::{Bytes, BytesMut};

/// A line, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OutputLine {
    /// Its bytes, without a newline.
    pub(crate) bytes: Bytes,
    /// Whether the next one goes on with it.
    pub(crate) goes_on: bool,
    /// Whether it is a piece.
    pub(crate) is_piece: bool,
}

/// Cuts bytes into lines, as they come.
#[derive(Debug)]
pub(crate) struct Splitter {
    piece_bytes_max: usize,
    partial: BytesMut,
    /// The line under way had pieces already.
    in_pieces: bool,
}

impl Splitter {
    /// One whose lines are at most so long; longer ones come in pieces.
    pub(crate) fn new(piece_bytes_max: usize) -> Self {
        Self {
            piece_bytes_max: piece_bytes_max.max(1),
            partial: BytesMut::new(),
            in_pieces: false,
        }
    }

    /// Takes in what was read, and gives the lines that are complete now.
    pub(crate) fn push(&mut self, mut bytes: &[u8], lines: &mut Vec<OutputLine>) {
        while let Some(at) = bytes.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = bytes.split_at(at);
            self.take(line, lines);
            self.complete(lines);
            bytes = rest.get(1..).unwrap_or_default();
        }
        self.take(bytes, lines);
    }

    /// The output has ended: what stands after the last newline.
    pub(crate) fn end(&mut self, lines: &mut Vec<OutputLine>) {
        if self.in_pieces || !self.partial.is_empty() {
            self.complete(lines);
        }
    }

    /// Bytes of the line that is not complete yet.
    pub(crate) fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    fn take(&mut self, mut bytes: &[u8], lines: &mut Vec<OutputLine>) {
        while self.partial.len() + bytes.len() >= self.piece_bytes_max {
            let (piece, rest) = bytes.split_at(self.piece_bytes_max - self.partial.len());
            self.partial.extend_from_slice(piece);
            lines.push(OutputLine {
                bytes: self.partial.split().freeze(),
                goes_on: true,
                is_piece: true,
            });
            self.in_pieces = true;
            bytes = rest;
        }
        self.partial.extend_from_slice(bytes);
    }

    fn complete(&mut self, lines: &mut Vec<OutputLine>) {
        lines.push(OutputLine {
            bytes: self.partial.split().freeze(),
            goes_on: false,
            is_piece: self.in_pieces,
        });
        self.in_pieces = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(bytes: &[u8], step: usize, bound: usize) -> Vec<OutputLine> {
        let (mut splitter, mut lines) = (Splitter::new(bound), Vec::new());
        for chunk in bytes.chunks(step) {
            splitter.push(chunk, &mut lines);
        }
        splitter.end(&mut lines);
        lines
    }

    /// As the documentation says that lines are put together.
    fn together(lines: &[OutputLine], bound: usize) -> Vec<Vec<u8>> {
        let mut whole = vec![Vec::new()];
        for line in lines {
            let begins = whole.last().unwrap().is_empty();
            whole.last_mut().unwrap().extend_from_slice(&line.bytes);
            assert_eq!(line.goes_on, line.bytes.len() == bound);
            assert_eq!(line.is_piece, line.goes_on || !begins);
            if !line.goes_on {
                whole.push(Vec::new());
            }
        }
        whole.pop();
        whole
    }

    #[test]
    fn no_byte_is_lost_however_the_output_is_read_and_whatever_the_bound() {
        let output = b"{\"a\":1}\n\n\r\nlong line, longer than most\n\0\xff\n12345678\ntorn";
        let expected: Vec<_> = output.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect();
        for bound in [1, 2, 4, 8, 13, 1000] {
            for step in [1, 2, 3, 7, 1000] {
                let lines = split(output, step, bound);
                assert!(lines.iter().all(|line| line.bytes.len() <= bound));
                assert_eq!(together(&lines, bound), expected, "{bound} {step}");
            }
        }
    }

    #[test]
    fn an_output_that_ends_with_a_newline_has_no_further_line() {
        assert!(split(b"", 1, 10).is_empty());
        assert_eq!(split(b"a\n", 1, 10).len(), 1);
        assert_eq!(split(b"\n", 1, 10).len(), 1);
        // Its length is the bound: an empty piece says that it ends there.
        let lines = split(b"abcd", 1, 4);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].goes_on && lines[1].bytes.is_empty());
    }
}
