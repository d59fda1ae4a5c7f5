//! One file into one session.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;

use betcode_storage::{
    Appended, Arrival, Batch, ImportMark, ImportRecord, SessionId, SessionMeta, StoreError,
};
use bytes::Bytes;

use super::identity::{self, Candidate, Decision, Prefix};
use super::lines::{LineBatch, Lines, Refusal};
use super::walk::{Found, has_line_ending, path_bytes};
use super::{Run, Skipped, is_about_space, sniff};
use crate::error::{Failure, plain_io};
use crate::export::content;
use crate::output::format;

/// Bytes of a batch; one longer line makes a batch of its own.
const BATCH_BYTES: usize = 1 << 20;
/// Lines of a batch.
const BATCH_LINES: usize = 4096;
/// Bytes read at once.
const READ_BYTES: usize = 256 << 10;

/// What was taken of a file so far.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Whether its session was created now.
    pub(super) is_new: bool,
    /// Messages.
    pub(super) messages: u64,
    /// Bytes, line ends included.
    pub(super) bytes: u64,
}

/// Why a file was not taken to its end.
pub(super) enum Stop {
    /// Something about this file; the others go on.
    Skip(Skipped),
    /// The user asked to stop.
    Interrupted,
    /// Something that would stop the other files as well.
    Fail(Failure),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Fail(error.into())
    }
}

/// Takes what `found` holds beyond what was taken of it before.
pub(super) fn take(run: &mut Run<'_>, found: &Found, taken: &mut Taken) -> Result<(), Stop> {
    let unreadable = |error: &io::Error| {
        let hint = "check its permissions, then import again: only what is new is taken";
        Stop::Skip(Skipped::new(&found.path, plain_io(error), hint))
    };
    let mut file = File::open(&found.path).map_err(|e| unreadable(&e))?;
    // A file that is being written to is taken up to the length it has now.
    let length = file.metadata().map_err(|e| unreadable(&e))?.len();
    if !run.options.binary {
        refuse_binary(&mut file, found).map_err(|e| unreadable(&e))??;
    }
    let place = find_place(run, &mut file, length, found).map_err(|stop| match stop {
        FindStop::Io(error) => unreadable(&error),
        FindStop::Stop(stop) => stop,
    })?;
    taken.is_new = place.is_new;
    file.seek(SeekFrom::Start(place.prefix.bytes))
        .map_err(|e| unreadable(&e))?;
    let _ = run.advance(place.prefix.bytes);
    let rest = length - place.prefix.bytes;
    FileImport {
        run,
        found,
        place,
        taken,
        joins: Vec::new(),
    }
    .take_rest(&mut file.take(rest))
    .map_err(|stop| match stop {
        FindStop::Io(error) => unreadable(&error),
        FindStop::Stop(stop) => stop,
    })
}

/// Where in a file, and in its session, the import goes on.
struct Place {
    session: SessionId,
    is_new: bool,
    /// What was taken of the file.
    prefix: Prefix,
    /// Whether the last line taken had no newline.
    unterminated: bool,
    next_sequence: u64,
    relative_path: Vec<u8>,
    /// Whether the record says something else than what will be written with the next batch.
    record_is_stale: bool,
}

enum FindStop {
    Io(io::Error),
    Stop(Stop),
}

impl From<io::Error> for FindStop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<StoreError> for FindStop {
    fn from(error: StoreError) -> Self {
        Self::Stop(error.into())
    }
}

impl From<Stop> for FindStop {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

fn refuse_binary(file: &mut File, found: &Found) -> io::Result<Result<(), Stop>> {
    let mut head = Vec::with_capacity(sniff::HEAD_BYTES);
    file.by_ref()
        .take(sniff::HEAD_BYTES as u64)
        .read_to_end(&mut head)?;
    let kind = sniff::not_lines(&head, has_line_ending(&found.path));
    Ok(match kind {
        None => Ok(()),
        Some(kind) => {
            let why = format!("it is {kind}, not lines that an agent printed");
            let hint = "unpack or convert it first, or take its bytes as they are with --binary";
            Err(Stop::Skip(Skipped::new(&found.path, why, hint)))
        }
    })
}

/// Finds the session that the file belongs to, and how far it was taken.
fn find_place(
    run: &Run<'_>,
    file: &mut File,
    length: u64,
    found: &Found,
) -> Result<Place, FindStop> {
    let source_path = path_bytes(&found.canonical);
    let relative_path = path_bytes(&found.relative);
    let by_source = run.store.imports_by_source(&source_path)?;
    let by_relative = run.store.imports_by_relative(&relative_path)?;
    let ends = by_source
        .iter()
        .chain(&by_relative)
        .map(|r| r.mark.taken_bytes)
        .collect();
    let prefixes = prefixes(file, length, ends)?;
    let compare = |records: Vec<ImportRecord>| -> Vec<Candidate> {
        records
            .into_iter()
            .map(|record| {
                let prefix = prefixes.iter().find(|p| p.bytes == record.mark.taken_bytes);
                let prefix_matches = prefix.is_some_and(|p| p.digest() == record.mark.taken_digest);
                Candidate {
                    record,
                    prefix_matches,
                }
            })
            .collect()
    };
    match identity::decide(&compare(by_source), &compare(by_relative)) {
        Decision::Continue(record) if !(run.options.as_new && goes_beyond(&record, &prefixes)) => {
            let taken = record.mark.taken_bytes;
            let prefix = prefixes
                .into_iter()
                .find(|p| p.bytes == taken)
                .unwrap_or_default();
            let messages = prefix.messages(record.mark.unterminated, record.mark.joins.len());
            Ok(Place {
                session: record.session,
                is_new: false,
                prefix,
                unterminated: record.mark.unterminated,
                // Counted, not asked from the session: messages beyond the mark (of an import
                // that ran beside this one) are then recognised as the same, not doubled.
                next_sequence: messages + 1,
                record_is_stale: record.mark.source_path != source_path,
                relative_path: record.mark.relative_path,
            })
        }
        Decision::Changed(record) if !run.options.as_new => {
            Err(changed(run, file, found, &record)?.into())
        }
        Decision::New | Decision::Continue(_) | Decision::Changed(_) => Ok(Place {
            session: free_id(run, found, &relative_path)?,
            is_new: true,
            prefix: Prefix::default(),
            unterminated: false,
            next_sequence: 1,
            relative_path,
            record_is_stale: true,
        }),
    }
}

/// Whether the session holds messages that did not come from the file.
fn goes_beyond(record: &ImportRecord, prefixes: &[Prefix]) -> bool {
    let prefix = prefixes.iter().find(|p| p.bytes == record.mark.taken_bytes);
    prefix.is_some_and(|p| {
        record.last_sequence > p.messages(record.mark.unterminated, record.mark.joins.len())
    })
}

/// The file's beginning as it was at each of `ends` that it reaches.
fn prefixes(file: &mut File, length: u64, mut ends: Vec<u64>) -> io::Result<Vec<Prefix>> {
    ends.sort_unstable();
    ends.dedup();
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; READ_BYTES];
    let mut prefix = Prefix::default();
    let mut reached = Vec::new();
    for end in ends.into_iter().filter(|&end| end <= length) {
        while prefix.bytes < end {
            let room =
                usize::try_from(end - prefix.bytes).map_or(READ_BYTES, |r| r.min(READ_BYTES));
            let read = file.read(buffer.get_mut(..room).unwrap_or_default())?;
            if read == 0 {
                return Ok(reached);
            }
            prefix.push(buffer.get(..read).unwrap_or_default());
        }
        reached.push(prefix.clone());
    }
    Ok(reached)
}

fn changed(
    run: &Run<'_>,
    file: &mut File,
    found: &Found,
    record: &ImportRecord,
) -> Result<Stop, FindStop> {
    file.seek(SeekFrom::Start(0))?;
    let difference =
        content::first_difference(run.store, &record.session, file).map_err(Stop::Fail)?;
    let hint = "restore the file, or record it beside the old one with --as-new";
    let session = &record.session;
    let skipped = match difference {
        Some(d) if d.file_ended => {
            let why = format!("it is shorter than what session {session} holds of it");
            Skipped::new(&found.path, why, hint).at_line(d.line)
        }
        Some(d) => {
            let why = format!("its past changed: the line differs from session {session}");
            Skipped::new(&found.path, why, hint).at_line(d.line)
        }
        None => {
            let why = format!("its past differs from the record of session {session}");
            Skipped::new(&found.path, why, hint)
        }
    };
    Ok(Stop::Skip(skipped))
}

fn free_id(run: &Run<'_>, found: &Found, relative: &[u8]) -> Result<SessionId, StoreError> {
    let stem = found.relative.file_stem().unwrap_or_default();
    for id in identity::ids(stem.as_bytes(), relative) {
        match run.store.session(&id) {
            Err(StoreError::SessionNotFound { .. }) => return Ok(id),
            Err(other) => return Err(other),
            Ok(_) => {}
        }
    }
    // The iterator numbers without end.
    Err(StoreError::Closed {
        why: Some("no session id is free".to_owned()),
    })
}

struct FileImport<'a, 'r> {
    run: &'a mut Run<'r>,
    found: &'a Found,
    place: Place,
    taken: &'a mut Taken,
    /// Sequences that the next message continues on the same line.
    joins: Vec<u64>,
}

impl FileImport<'_, '_> {
    fn take_rest(mut self, input: &mut impl Read) -> Result<(), FindStop> {
        let mut lines = Lines::new(self.run.options.payload_bytes_max, BATCH_BYTES, BATCH_LINES);
        let mut buffer = vec![0; READ_BYTES];
        let mut at_start = true;
        loop {
            let read = input.read(&mut buffer)?;
            let mut bytes = buffer.get(..read).unwrap_or_default();
            if at_start && read > 0 {
                bytes = self.continue_last_line(bytes);
                at_start = false;
            }
            lines.push(bytes);
            while read == 0 || lines.is_full() {
                let batch = lines.next_batch().map_err(|r| self.too_long(r))?;
                let Some(batch) = batch else { break };
                self.append(batch)?;
            }
            if read == 0 {
                break;
            }
        }
        if let Some(last) = lines.finish().map_err(|r| self.too_long(r))? {
            self.append(last)?;
        }
        if self.place.record_is_stale {
            self.append_payloads(Vec::new(), 0)?;
        }
        Ok(())
    }

    /// The last line taken had no newline: what comes now either is that newline, or goes on with
    /// the line. Returns what is left to split into lines.
    fn continue_last_line<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        if !self.place.unterminated {
            return bytes;
        }
        self.place.unterminated = false;
        self.place.record_is_stale = true;
        match bytes.split_first() {
            Some((b'\n', rest)) => {
                self.place.prefix.push(b"\n");
                self.taken.bytes += 1;
                rest
            }
            _ => {
                self.joins.push(self.place.next_sequence - 1);
                bytes
            }
        }
    }

    fn append(&mut self, batch: LineBatch) -> Result<(), Stop> {
        self.place.prefix.push(&batch.source);
        self.place.unterminated = batch.unterminated;
        self.append_payloads(batch.lines, batch.source.len() as u64)
    }

    fn append_payloads(&mut self, payloads: Vec<Bytes>, source_bytes: u64) -> Result<(), Stop> {
        let batch = Batch {
            session: self.place.session.clone(),
            payloads,
            meta: SessionMeta::default(),
            expected_sequence: Some(self.place.next_sequence),
            arrival: Arrival::Historical,
            import: Some(ImportMark {
                source_path: path_bytes(&self.found.canonical),
                relative_path: self.place.relative_path.clone(),
                taken_bytes: self.place.prefix.bytes,
                taken_digest: self.place.prefix.digest(),
                unterminated: self.place.unterminated,
                joins: std::mem::take(&mut self.joins),
            }),
        };
        let messages = batch.payloads.len() as u64;
        let appended = self.append_with_room(batch)?;
        self.place.next_sequence += messages;
        self.place.record_is_stale = false;
        self.taken.messages += messages - appended.duplicates.min(messages);
        self.taken.bytes += source_bytes;
        self.run.compact_when_due(source_bytes);
        match self.run.advance(source_bytes) {
            std::ops::ControlFlow::Continue(()) => Ok(()),
            std::ops::ControlFlow::Break(()) => Err(Stop::Interrupted),
        }
    }

    /// Appends; when there is no room, compacts and tries once more.
    fn append_with_room(&mut self, batch: Batch) -> Result<Appended, Stop> {
        let again = batch.clone();
        let appended = match self.run.store.append(batch) {
            Err(error) if is_about_space(&error) => {
                self.run.compact();
                self.run.store.append(again)
            }
            other => other,
        };
        appended.map_err(|error| match error {
            StoreError::SequenceConflict { id, sequence, .. } => {
                let why = format!(
                    "session {id} has other messages from sequence {sequence} on: somebody else appended to it"
                );
                let hint = "record the file beside it with --as-new";
                Stop::Skip(Skipped::new(&self.found.path, why, hint))
            }
            other => other.into(),
        })
    }

    fn too_long(&self, refusal: Refusal) -> Stop {
        let Refusal::LineTooLong { bytes_min } = refusal;
        let max = self.run.options.payload_bytes_max;
        let why = format!(
            "the line has {} or more, over the limit of {}; what stands before it was taken",
            format::bytes(bytes_min as u64),
            format::bytes(max as u64)
        );
        let hint = "import again with a higher --max-payload-bytes (at most 100 MiB)";
        Stop::Skip(
            Skipped::new(&self.found.path, why, hint).at_line(self.place.prefix.newlines + 1),
        )
    }
}
