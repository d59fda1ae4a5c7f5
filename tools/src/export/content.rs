//! Writes a session as the file it came from: its messages with their line ends.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};
use std::ops::ControlFlow;
use std::path::Path;

use betcode_storage::{ReadRange, SessionId, Store, StoreError};

use crate::error::{Exit, Failure, Result};
use crate::limits::FILE_BUFFER_BYTES;

/// The positions of newlines in a session's file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineEnds {
    /// Messages that the next one continues on the same line.
    joins: BTreeSet<u64>,
    /// The message after which the file ends without a newline.
    unterminated: Option<u64>,
    /// The last message that this holds for: a concurrent import may add messages, and begin with the newline that
    /// is missing here.
    known_to: Option<u64>,
}

impl LineEnds {
    /// Those of an imported session's file; for other sessions a newline after each message.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn of(store: &Store, session: &SessionId) -> Result<Self, StoreError> {
        let record = store.import_of(session)?;
        Ok(record.map_or_else(Self::default, |record| Self {
            joins: record.mark.joins.into_iter().collect(),
            unterminated: record.mark.unterminated.then_some(record.last_sequence),
            known_to: Some(record.last_sequence),
        }))
    }

    /// The part of a range that this holds for.
    #[must_use]
    pub fn known_of(&self, range: ReadRange) -> ReadRange {
        let ends = [range.to, self.known_to];
        ReadRange {
            to: ends.into_iter().flatten().min(),
            ..range
        }
    }

    /// Whether a newline follows the message.
    #[must_use]
    pub fn newline_after(&self, sequence: u64) -> bool {
        !self.joins.contains(&sequence) && self.unterminated != Some(sequence)
    }
}

/// How much of a session was passed to the sink.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Messages.
    pub messages: u64,
    /// Bytes, line ends included.
    pub bytes: u64,
    /// The last of the messages.
    pub last_sequence: Option<u64>,
}

/// Passes a range of a session's file to `sink` piece by piece, with one page of messages in memory. `Break` ends it
/// early.
///
/// # Errors
/// What reading says, or `sink`.
pub fn pieces(
    store: &Store,
    session: &SessionId,
    range: ReadRange,
    sink: &mut dyn FnMut(&[u8]) -> Result<ControlFlow<()>>,
) -> Result<Written> {
    let ends = LineEnds::of(store, session)?;
    pieces_with(store, session, &ends, range, sink)
}

/// As [`pieces`], with given line ends.
///
/// # Errors
/// What reading says, or `sink`.
pub fn pieces_with(
    store: &Store,
    session: &SessionId,
    ends: &LineEnds,
    range: ReadRange,
    sink: &mut dyn FnMut(&[u8]) -> Result<ControlFlow<()>>,
) -> Result<Written> {
    let mut written = Written::default();
    let mut replay = store.read(session, ends.known_of(range))?;
    while let Some(page) = replay.next_page()? {
        for message in page {
            written.messages += 1;
            written.last_sequence = Some(message.sequence);
            written.bytes += message.payload.len() as u64;
            if sink(&message.payload)?.is_break() {
                return Ok(written);
            }
            if ends.newline_after(message.sequence) {
                written.bytes += 1;
                if sink(b"\n")?.is_break() {
                    return Ok(written);
                }
            }
        }
    }
    Ok(written)
}

/// The first difference between a file and a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Difference {
    /// The line, from 1.
    pub line: u64,
    /// Whether the file has no more bytes there.
    pub file_ended: bool,
}

/// Compares a session with the beginning of a file; what the file holds beyond the session does
/// not count. `None` when it begins with all of the session.
///
/// # Errors
/// When one of them cannot be read.
pub fn first_difference(
    store: &Store,
    session: &SessionId,
    file: impl Read,
) -> Result<Option<Difference>> {
    Ok(compare(store, session, file)?.1)
}

/// Compares a session with all of a file. `None` when they are the same bytes.
///
/// # Errors
/// When one of them cannot be read.
pub fn difference(
    store: &Store,
    session: &SessionId,
    file: impl Read,
) -> Result<Option<Difference>> {
    let (mut compared, difference) = compare(store, session, file)?;
    if difference.is_some() || compared.ended().map_err(|e| unreadable(&e))? {
        return Ok(difference);
    }
    Ok(Some(Difference {
        line: compared.line,
        file_ended: false,
    }))
}

fn compare<R: Read>(
    store: &Store,
    session: &SessionId,
    file: R,
) -> Result<(Compared<R>, Option<Difference>)> {
    let mut compared = Compared::new(file);
    let mut difference = None;
    pieces(store, session, ReadRange::all(), &mut |piece| {
        difference = compared.piece(piece).map_err(|e| unreadable(&e))?;
        Ok(if difference.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        })
    })?;
    Ok((compared, difference))
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::new(Exit::Internal, "cannot read the file to compare").why(error.to_string())
}

/// Compares a file with pieces that should be the same bytes.
struct Compared<R> {
    file: BufReader<R>,
    line: u64,
}

impl<R: Read> Compared<R> {
    fn new(file: R) -> Self {
        Self {
            file: BufReader::with_capacity(FILE_BUFFER_BYTES, file),
            line: 1,
        }
    }

    /// Reads as many bytes as `piece` has; where they differ, if they do.
    fn piece(&mut self, mut piece: &[u8]) -> io::Result<Option<Difference>> {
        while !piece.is_empty() {
            let there = self.file.fill_buf()?;
            if there.is_empty() {
                return Ok(Some(Difference {
                    line: self.line,
                    file_ended: true,
                }));
            }
            let both = there.len().min(piece.len());
            let (expected, rest) = piece.split_at(both);
            let found = there.get(..both).unwrap_or_default();
            let same = if found == expected {
                both
            } else {
                found
                    .iter()
                    .zip(expected)
                    .take_while(|(a, b)| a == b)
                    .count()
            };
            self.line +=
                memchr::memchr_iter(b'\n', expected.get(..same).unwrap_or_default()).count() as u64;
            if same < both {
                return Ok(Some(Difference {
                    line: self.line,
                    file_ended: false,
                }));
            }
            self.file.consume(both);
            piece = rest;
        }
        Ok(None)
    }

    fn ended(&mut self) -> io::Result<bool> {
        Ok(self.file.fill_buf()?.is_empty())
    }
}

/// Whether two files hold the same bytes.
///
/// # Errors
/// When one of them cannot be read.
pub fn same_files(a: &Path, b: &Path) -> io::Result<bool> {
    let (a, b) = (std::fs::File::open(a)?, std::fs::File::open(b)?);
    if a.metadata()?.len() != b.metadata()?.len() {
        return Ok(false);
    }
    let mut compared = Compared::new(a);
    let mut b = BufReader::with_capacity(FILE_BUFFER_BYTES, b);
    loop {
        let piece = b.fill_buf()?;
        if piece.is_empty() {
            return compared.ended();
        }
        let length = piece.len();
        if compared.piece(piece)?.is_some() {
            return Ok(false);
        }
        b.consume(length);
    }
}

#[cfg(test)]
mod tests {
    use betcode_storage::{Batch, Durability, ImportMark, StoreOptions};

    use super::*;

    #[test]
    fn a_difference_is_reported_by_its_line() {
        for (file, expected) in [
            (&b"one\ntwo\nthree\n"[..], None),
            (b"one\ntwo\nthree\nfour\n", None),
            (
                b"one\ntwO\nthree\n",
                Some(Difference {
                    line: 2,
                    file_ended: false,
                }),
            ),
            (
                b"one\ntwo\nth",
                Some(Difference {
                    line: 3,
                    file_ended: true,
                }),
            ),
            (
                b"",
                Some(Difference {
                    line: 1,
                    file_ended: true,
                }),
            ),
        ] {
            let mut compared = Compared::new(file);
            let mut found = None;
            for piece in [&b"one"[..], b"\n", b"two", b"\n", b"three", b"\n"] {
                found = compared.piece(piece).unwrap();
                if found.is_some() {
                    break;
                }
            }
            assert_eq!(found, expected, "{file:?}");
        }
    }

    /// A session that an import takes further: from a last line without newline on.
    #[test]
    fn a_session_that_is_imported_meanwhile_comes_out_as_its_file_was_at_one_time() {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            reserve_bytes: 0,
            durability: Durability::Normal,
            ..StoreOptions::default()
        };
        let store = Store::open(&folder.path().join("h.db"), options).unwrap();
        let import = |id: &SessionId, line: &'static str, taken_bytes, unterminated| {
            let mut batch = Batch::new(id.clone(), vec![line.into()]);
            batch.import = Some(ImportMark {
                source_path: b"/s.jsonl".to_vec(),
                relative_path: b"s.jsonl".to_vec(),
                taken_bytes,
                taken_digest: 0,
                unterminated,
                joins: Vec::new(),
            });
            store.append(batch).unwrap();
        };
        let file_of = |id: &SessionId| {
            let mut file = Vec::new();
            let mut sink = |piece: &[u8]| {
                file.extend_from_slice(piece);
                Ok(ControlFlow::Continue(()))
            };
            pieces(&store, id, ReadRange::all(), &mut sink).unwrap();
            String::from_utf8(file).unwrap()
        };
        let after = "one\ntwo\n";
        for n in 0..300 {
            let id: SessionId = format!("s{n}").parse().unwrap();
            import(&id, "one", 3, true);
            std::thread::scope(|scope| {
                scope.spawn(|| import(&id, "two", 8, false));
                loop {
                    let file = file_of(&id);
                    assert!(["one", after].contains(&file.as_str()), "{n}: {file:?}");
                    if file == after {
                        break;
                    }
                }
            });
        }
    }

    #[test]
    fn newlines_stand_where_the_file_had_them() {
        let ends = LineEnds {
            joins: [2].into(),
            unterminated: Some(5),
            known_to: Some(5),
        };
        let newlines: Vec<bool> = (1..=5).map(|n| ends.newline_after(n)).collect();
        assert_eq!(newlines, [true, false, true, true, false]);
        assert!(LineEnds::default().newline_after(1));
    }
}
