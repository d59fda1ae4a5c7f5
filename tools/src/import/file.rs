//! One file into one session.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

use betcode_storage::limits::PAYLOAD_BYTES_MAX_CEILING;
use betcode_storage::{
    Appended, Arrival, Batch, ImportMark, SessionMeta, StoreError, belongs_to_open_store,
};
use bytes::Bytes;

use super::lines::{LineBatch, LineSplitter, LineTooLong};
use super::place::{ResumePoint, find_place};
use super::target::NotRecorded;
use super::walk::{Found, has_line_ending, hint_to_read, path_bytes};
use super::{Run, Skipped, sniff};
use crate::error::{Exit, Failure, plain_io};
use crate::limits::{
    FILE_BUFFER_BYTES, IMPORT_BATCH_BYTES_MAX, IMPORT_BATCH_LINES_MAX, OVERTAKEN_TRIES_MAX,
    SNIFFED_BYTES,
};
use crate::output::format;

/// What was imported of a file so far.
#[derive(Debug, Default)]
pub(super) struct FileProgress {
    /// Whether its session was created now.
    pub(super) is_new: bool,
    /// Messages.
    pub(super) messages: u64,
    /// Bytes, line ends included.
    pub(super) bytes: u64,
    /// Messages that another import had recorded by the time that they were appended.
    pub(super) already_recorded: u64,
}

impl FileProgress {
    /// Whether another import has recorded everything that was new in the file.
    pub(super) fn recorded_by_another(&self) -> bool {
        self.messages == 0 && self.already_recorded > 0
    }
}

/// Why a file was not imported to its end.
pub(super) enum Stop {
    /// Something about this file; the others go on.
    Skip(Skipped),
    /// Another import has begun the file meanwhile, or has split the rest of it into other messages because
    /// it saw less of the last line; or another program appended to the session.
    Overtaken(Skipped),
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

/// Imports what is new in the file.
pub(super) fn import_file(
    run: &mut Run<'_>,
    found: &Found,
    progress: &mut FileProgress,
) -> Result<(), Stop> {
    let done_before = run.progress.bytes_done;
    for _ in 1..OVERTAKEN_TRIES_MAX {
        match import_once(run, found, progress) {
            Err(Stop::Overtaken(_)) => run.progress.bytes_done = done_before,
            ended => return ended,
        }
    }
    import_once(run, found, progress)
}

fn import_once(run: &mut Run<'_>, found: &Found, progress: &mut FileProgress) -> Result<(), Stop> {
    let unreadable = |error: &io::Error| {
        Stop::Skip(Skipped::new(
            &found.path,
            plain_io(error),
            hint_to_read(error),
        ))
    };
    if belongs_to_open_store(&found.canonical) {
        let why = "it is a file of the database that the lines are recorded in";
        let hint = "name the folders and files that hold agent lines";
        return Err(Stop::Skip(Skipped::new(&found.path, why, hint)));
    }
    let mut file = File::open(&found.path).map_err(|e| unreadable(&e))?;
    if !run.options.binary {
        refuse_binary(&mut file, found).map_err(|e| unreadable(&e))??;
    }
    let stopped = |stop| match stop {
        FindStop::Io(error) => unreadable(&error),
        // Damage in one session must not stop the other files.
        FindStop::Stop(Stop::Fail(failure)) if failure.exit == Exit::Damaged => {
            Stop::Skip(Skipped::of_failure(&found.path, failure))
        }
        FindStop::Stop(stop) => stop,
    };
    let place = find_place(run, &mut file, found).map_err(stopped)?;
    let Some(place) = place else {
        let _ = run.advance(found.bytes);
        return Ok(());
    };
    progress.is_new |= place.is_new;
    file.seek(SeekFrom::Start(place.prefix.bytes))
        .map_err(|e| unreadable(&e))?;
    let _ = run.advance(place.prefix.bytes);
    let rest = place.length - place.prefix.bytes;
    FileImport {
        run,
        found,
        place,
        progress,
        joins: Vec::new(),
    }
    .import_rest(&mut file.take(rest))
    .map_err(stopped)
}

/// A [`Stop`], or an I/O error that does not name its file yet.
pub(super) enum FindStop {
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
    let mut head = Vec::with_capacity(SNIFFED_BYTES);
    file.by_ref()
        .take(SNIFFED_BYTES as u64)
        .read_to_end(&mut head)?;
    let kind = sniff::not_lines(&head, has_line_ending(&found.path));
    Ok(match kind {
        None => Ok(()),
        Some(kind) => {
            let why = format!("it is {kind}, not lines that an agent printed");
            let hint = "unpack or convert it first, or import its bytes as they are with --binary";
            Err(Stop::Skip(Skipped::new(&found.path, why, hint)))
        }
    })
}

struct FileImport<'a, 'r> {
    run: &'a mut Run<'r>,
    found: &'a Found,
    place: ResumePoint,
    progress: &'a mut FileProgress,
    /// Sequences that the next message continues on the same line.
    joins: Vec<u64>,
}

impl FileImport<'_, '_> {
    fn import_rest(mut self, input: &mut impl Read) -> Result<(), FindStop> {
        let mut lines = LineSplitter::new(
            self.run.options.payload_bytes_max,
            IMPORT_BATCH_BYTES_MAX,
            IMPORT_BATCH_LINES_MAX,
        );
        let mut buffer = vec![0; FILE_BUFFER_BYTES];
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
                let batch = match lines.next_batch() {
                    Ok(batch) => batch,
                    Err(line) => return Err(self.too_long(line, input)?.into()),
                };
                let Some(batch) = batch else { break };
                self.append(batch)?;
            }
            if read == 0 {
                break;
            }
        }
        match lines.finish() {
            Ok(Some(last)) => self.append(last)?,
            Ok(None) => {}
            Err(line) => return Err(self.too_long(line, input)?.into()),
        }
        if self.place.record_is_stale {
            self.append_payloads(Vec::new(), 0)?;
        }
        Ok(())
    }

    /// If the last line imported had no newline, `bytes` begin with that newline or continue the line.
    /// Returns what is left to split into lines.
    fn continue_last_line<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        if !self.place.unterminated {
            return bytes;
        }
        self.place.unterminated = false;
        self.place.record_is_stale = true;
        match bytes.split_first() {
            Some((b'\n', rest)) => {
                self.place.prefix.push(b"\n");
                self.progress.bytes += 1;
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
        let lines = payloads.clone();
        let batch = Batch {
            session: self.place.session.clone(),
            key: None,
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
        let messages = lines.len() as u64;
        let appended = self.append_with_room(batch)?;
        self.place.next_sequence += messages;
        self.place.record_is_stale = false;
        let duplicates = appended.duplicates.min(messages);
        self.progress.already_recorded += duplicates;
        self.progress.messages += messages - duplicates;
        self.progress.bytes += source_bytes.saturating_sub(source_bytes_of(&lines, duplicates));
        self.run.compact_when_due(source_bytes);
        match self.run.advance(source_bytes) {
            std::ops::ControlFlow::Continue(()) => Ok(()),
            std::ops::ControlFlow::Break(()) => Err(Stop::Interrupted),
        }
    }

    /// Appends; when there is no space, compacts and tries once more.
    fn append_with_room(&mut self, batch: Batch) -> Result<Appended, Stop> {
        let again = batch.clone();
        let sequence = self.place.next_sequence;
        let appended = match self.run.target.append(batch) {
            Err(NotRecorded::NoSpace(_)) => {
                self.run.compact();
                self.run.target.append(again)
            }
            other => other,
        };
        appended.map_err(|reason| match reason {
            NotRecorded::Conflict => {
                let why = format!(
                    "session {} has other messages from sequence {sequence} on: another program appended to it",
                    self.place.session
                );
                let hint = "record the file beside it with --as-new";
                Stop::Overtaken(Skipped::new(&self.found.path, why, hint))
            }
            NotRecorded::TooLarge => {
                let why = "lines from here on are longer than the daemon accepts; the lines before them were imported";
                let hint = "raise the daemon's max_payload_bytes, or import with --direct";
                Stop::Skip(Skipped::new(&self.found.path, why, hint))
            }
            NotRecorded::NoSpace(failure) | NotRecorded::Failed(failure) => Stop::Fail(failure),
        })
    }

    /// Says how long the line is, so that the right bound can be given the next time.
    fn too_long(&self, line: LineTooLong, input: &mut impl Read) -> io::Result<Stop> {
        let LineTooLong { bytes_min, ended } = line;
        let rest = match ended {
            true => 0,
            false => rest_of_line(input, PAYLOAD_BYTES_MAX_CEILING.saturating_sub(bytes_min))?,
        };
        let bytes = bytes_min + rest;
        let why = |has: &str| {
            format!(
                "the line has {has}, over the limit of {}; the lines before it were imported",
                format::bytes(self.run.options.payload_bytes_max as u64)
            )
        };
        let skipped = if bytes > PAYLOAD_BYTES_MAX_CEILING {
            let most = format::bytes(PAYLOAD_BYTES_MAX_CEILING as u64);
            let hint = format!("move the line out of the file: none over {most} can be recorded");
            Skipped::new(&self.found.path, why(&format!("over {most}")), hint)
        } else {
            let megabytes = bytes.div_ceil(1_000_000);
            // The limit itself is no whole number of MB.
            let enough = match megabytes * 1_000_000 > PAYLOAD_BYTES_MAX_CEILING {
                true => "100MiB".to_owned(),
                false => format!("{megabytes}MB"),
            };
            let hint = format!(
                "import again with --max-payload-bytes {enough}: only what is new is imported"
            );
            Skipped::new(&self.found.path, why(&format::bytes(bytes as u64)), hint)
        };
        Ok(Stop::Skip(skipped.at_line(self.place.prefix.newlines + 1)))
    }
}

/// Bytes in the file of the first `count` lines, with their newlines.
fn source_bytes_of(lines: &[Bytes], count: u64) -> u64 {
    // Lossless: not more than there are.
    let counted = lines.iter().take(count as usize);
    counted.map(|line| line.len() as u64 + 1).sum()
}

/// Counts what is left of a line, up to a little over `bytes_max`.
fn rest_of_line(input: &mut impl Read, bytes_max: usize) -> io::Result<usize> {
    let mut buffer = vec![0; FILE_BUFFER_BYTES];
    let mut bytes = 0;
    while bytes <= bytes_max {
        let read = input.read(&mut buffer)?;
        let piece = buffer.get(..read).unwrap_or_default();
        if let Some(end) = memchr::memchr(b'\n', piece) {
            return Ok(bytes + end);
        }
        if read == 0 {
            break;
        }
        bytes += read;
    }
    Ok(bytes)
}
