//! Everything that `betcode-db` writes: stdout for results, stderr for progress and errors.
//!
//! A reader that goes away (`betcode-db cat … | head`) is no error: what is written after that
//! goes nowhere, and commands that only write stop when [`Out::reader_gone`] says so.

pub mod format;
mod progress;

use std::io::{self, BufWriter, IsTerminal, StdoutLock, Write};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;

use crate::error::{Exit, Failure};
use crate::limits::STDOUT_BUFFER_BYTES;
pub use progress::Progress;

/// What the user asked to see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Text for people.
    Human,
    /// One JSON document on stdout.
    Json,
    /// Errors only.
    Quiet,
}

/// The writer that every command gets.
pub struct Out {
    stdout: BufWriter<StdoutLock<'static>>,
    mode: Mode,
    show_progress: bool,
    reader_gone: bool,
    failed: Option<io::Error>,
    via: Option<Via>,
}

/// How a command reaches the database.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Via {
    /// On the file itself.
    File,
    /// Through the daemon that serves it.
    Daemon,
}

/// A document with its `via`.
#[derive(Serialize)]
struct WithVia<'a, T: Serialize> {
    via: Via,
    #[serde(flatten)]
    document: &'a T,
}

impl Out {
    /// Writes to this process's stdout and stderr.
    #[must_use]
    pub fn new(mode: Mode) -> Self {
        Self {
            stdout: BufWriter::with_capacity(STDOUT_BUFFER_BYTES, io::stdout().lock()),
            mode,
            show_progress: mode == Mode::Human && io::stderr().is_terminal(),
            reader_gone: false,
            failed: None,
            via: None,
        }
    }

    /// Adds `via` to the document.
    pub fn set_via(&mut self, via: Via) {
        self.via = Some(via);
    }

    /// What the user asked to see.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Whether nobody reads stdout any more.
    #[must_use]
    pub fn reader_gone(&self) -> bool {
        self.reader_gone || self.failed.is_some()
    }

    /// Checks whether stdout is still read, which otherwise only the next write shows.
    pub fn check_reader(&mut self) {
        let stdout = io::stdout();
        let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
        let at_once = Timespec::default();
        let answer = poll(&mut polled, Some(&at_once));
        let [stdout] = polled;
        if answer.is_ok() && stdout.revents().contains(PollFlags::ERR) {
            self.reader_gone = true;
        }
    }

    /// Writes exact bytes: the history itself, in any mode.
    pub fn raw(&mut self, bytes: &[u8]) {
        if !self.reader_gone() {
            let written = self.stdout.write_all(bytes);
            self.note(written);
        }
    }

    /// Writes a line for people; nothing with `--json` and `--quiet`. It stays one line whatever a path
    /// in it contains.
    pub fn line(&mut self, line: impl AsRef<str>) {
        if self.mode == Mode::Human {
            self.raw(format::on_one_line(line.as_ref().trim_end()).as_bytes());
            self.raw(b"\n");
        }
    }

    /// Writes whole lines for people, each with its end; nothing with `--json` and `--quiet`.
    pub fn text(&mut self, text: &str) {
        if self.mode == Mode::Human {
            self.raw(text.as_bytes());
        }
    }

    /// Writes the document of `--json`; nothing in other modes.
    pub fn json(&mut self, document: &impl Serialize) {
        if self.mode != Mode::Json || self.reader_gone() {
            return;
        }
        let serialized = match self.via {
            Some(via) => serde_json::to_writer_pretty(&mut self.stdout, &WithVia { via, document }),
            None => serde_json::to_writer_pretty(&mut self.stdout, document),
        };
        let written = serialized
            .map_err(io::Error::from)
            .and_then(|()| self.stdout.write_all(b"\n"));
        self.note(written);
    }

    /// Shows a line on stderr, for people only.
    pub fn remark(&mut self, text: impl AsRef<str>) {
        if self.mode == Mode::Human {
            self.flush();
            to_stderr(&format::on_one_line(text.as_ref()));
        }
    }

    /// Shows on stderr, also with `--quiet`, what went wrong with a part of the work: *what*, *why* and *try*, a line
    /// each. With `--json` the document says it.
    pub fn warn(&mut self, what: impl AsRef<str>, why: Option<&str>, hint: Option<&str>) {
        if self.mode != Mode::Json {
            self.flush();
            to_stderr(&in_words(what.as_ref(), why, &[], hint));
        }
    }

    /// Writes a line about a problem that a check has found: to stdout, and with `--quiet` to stderr.
    pub fn problem(&mut self, line: impl AsRef<str>) {
        if self.mode == Mode::Quiet {
            to_stderr(&format::on_one_line(line.as_ref().trim_end()));
        } else {
            self.line(line);
        }
    }

    /// Shows an error on stderr as *what, why, try*; with `--json` also as the document on stdout.
    pub fn failure(&mut self, failure: &Failure) {
        self.json(&failure.to_json());
        self.failure_in_words(failure);
    }

    /// Shows an error on stderr alone, for a command whose document has it already.
    pub fn failure_in_words(&mut self, failure: &Failure) {
        self.flush();
        let what = format!("error: {}", failure.what);
        let (why, hint) = (failure.why.as_deref(), failure.hint.as_deref());
        to_stderr(&in_words(&what, why, &failure.among, hint));
    }

    /// A progress display that counts to `total`; silent unless a person watches stderr.
    #[must_use]
    pub fn progress(&mut self, what: &'static str, total: u64, unit: progress::Unit) -> Progress {
        self.flush();
        Progress::new(self.show_progress, what, total, unit)
    }

    /// Hands over what is buffered.
    pub fn flush(&mut self) {
        if !self.reader_gone() {
            let flushed = self.stdout.flush();
            self.note(flushed);
        }
    }

    /// Hands over what is buffered and says whether writing failed for a reason that the user
    /// must know, such as a redirection to a full disk. A reader that went away is not an error.
    ///
    /// # Errors
    /// The first write that failed.
    pub fn finish(&mut self) -> Result<(), Failure> {
        self.flush();
        match self.failed.take() {
            Some(error) => Err(Failure::io(
                "write to",
                std::path::Path::new("stdout"),
                &error,
            )),
            None => Ok(()),
        }
    }

    fn note(&mut self, written: io::Result<()>) {
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.reader_gone = true,
            Err(error) => self.failed = Some(error),
        }
    }
}

pub use progress::Unit;

/// *What*, *why*, *among* and *try*, a line each, whatever is in the paths and names in them.
fn in_words(what: &str, why: Option<&str>, among: &[String], hint: Option<&str>) -> String {
    let mut text = format::on_one_line(what);
    let why = why.into_iter().map(|why| ("why:", why));
    let among = among.iter().map(|one| ("    ", one.as_str()));
    let hint = hint.into_iter().map(|hint| ("try:", hint));
    for (label, line) in why.chain(among).chain(hint) {
        text.push_str(&format!("\n  {label} {}", format::on_one_line(line)));
    }
    text
}

/// Writes to stderr; there is nowhere to report that this failed.
pub fn to_stderr(text: &str) {
    let mut stderr = io::stderr().lock();
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.write_all(b"\n"));
}

/// The exit code of a command whose result was also written to stdout.
#[must_use]
pub fn exit_after(out: &mut Out, result: Result<Exit, Failure>) -> Exit {
    let exit = match result {
        Ok(exit) => exit,
        Err(failure) => {
            out.failure(&failure);
            failure.exit
        }
    };
    match out.finish() {
        Ok(()) => exit,
        Err(failure) => {
            out.failure(&failure);
            // The command's own exit code goes before that of a failed write.
            if exit == Exit::Ok { failure.exit } else { exit }
        }
    }
}
