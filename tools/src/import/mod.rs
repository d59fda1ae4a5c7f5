//! Files of agent lines into sessions, byte for byte, and again whenever they have grown.
//!
//! One file is one session, and a message is a line. How far a file was imported is written in the
//! transaction that records its lines, so an import that was killed continues where it stopped. A file is
//! recognised by its path and by the digest of the part that was imported, see [`identity`].

mod elsewhere;
mod file;
pub mod identity;
pub mod lines;
mod place;
pub mod sniff;
mod target;
#[cfg(test)]
mod tests;
pub mod walk;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use betcode_storage::{ErrorKind, Store, limits};
use serde::Serialize;

use crate::error::{Exit, Failure, Result};
use crate::limits::IMPORT_COMPACT_EVERY_BYTES;
use crate::output::format;
use file::{FileProgress, Stop};
pub use target::ImportTarget;

/// How to import.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// Record a file whose past changed as a new session, beside the one recorded.
    pub as_new: bool,
    /// Import files that do not look like lines, too.
    pub binary: bool,
    /// Bytes of one line.
    pub payload_bytes_max: usize,
    /// Leave alone what was last modified longer ago than this, unless a part of it was imported before.
    pub modified_within: Option<Duration>,
}

impl Default for ImportOptions {
    fn default() -> Self {
        let payload_bytes_max = limits::PAYLOAD_BYTES_MAX_DEFAULT;
        Self {
            as_new: false,
            binary: false,
            payload_bytes_max,
            modified_within: None,
        }
    }
}

/// A file, or the rest of one, that was not imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// The file.
    pub path: String,
    /// The line it is about, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The reason.
    pub why: String,
    /// What to try.
    #[serde(rename = "try")]
    pub hint: String,
    /// The exit code that this alone would lead to.
    #[serde(skip)]
    pub exit: Exit,
}

impl Skipped {
    fn new(path: &Path, why: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            path: path.display().to_string(),
            line: None,
            why: why.into(),
            hint: hint.into(),
            exit: Exit::Problems,
        }
    }

    fn at_line(self, line: u64) -> Self {
        Self {
            line: Some(line),
            ..self
        }
    }

    fn of_failure(path: &Path, failure: Failure) -> Self {
        let hint = failure.hint.unwrap_or_else(|| "import it again".to_owned());
        let exit = match failure.exit {
            Exit::Damaged => Exit::Damaged,
            _ => Exit::Problems,
        };
        Self {
            exit,
            ..Self::new(path, failure.why.unwrap_or(failure.what), hint)
        }
    }
}

/// What an import did. The fields of `import --json`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ImportSummary {
    /// Files looked at.
    pub files: u64,
    /// Sessions that got messages, or are new.
    pub sessions: u64,
    /// Messages imported.
    pub messages: u64,
    /// Bytes imported, line ends included.
    pub bytes: u64,
    /// Files with nothing new.
    pub unchanged: u64,
    /// Files that had grown since an earlier import.
    pub resumed: u64,
    /// Files left alone, see [`ImportOptions::modified_within`].
    pub left_old: u64,
    /// Files not imported, or not to their end.
    pub skipped: Vec<Skipped>,
    /// How long it took.
    pub seconds: f64,
    /// Whether it was stopped before the end; the next run continues there.
    pub interrupted: bool,
}

impl ImportSummary {
    /// The exit code for this outcome.
    #[must_use]
    pub fn exit(&self) -> Exit {
        let is_damaged = self.skipped.iter().any(|s| s.exit == Exit::Damaged);
        match (self.interrupted, self.skipped.is_empty()) {
            (true, _) => Exit::Interrupted,
            (false, true) => Exit::Ok,
            (false, false) if is_damaged => Exit::Damaged,
            (false, false) => Exit::Problems,
        }
    }
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportProgress {
    /// Bytes of files done with.
    pub bytes_done: u64,
    /// Bytes of all files.
    pub bytes: u64,
    /// Whether it compacts at the moment, and records nothing.
    pub compacting: bool,
}

/// Watches an import; `Break` stops it between two batches.
pub type Observer<'a> = &'a mut dyn FnMut(ImportProgress) -> ControlFlow<()>;

/// The files that an import will look at. Found before a database is opened, so that a misspelt
/// path leaves none behind.
#[derive(Debug, Clone, Default)]
pub struct ImportPlan {
    /// The files, in order.
    pub files: Vec<walk::Found>,
    /// What could not be looked at.
    pub skipped: Vec<Skipped>,
}

impl ImportPlan {
    /// Finds the files that `paths` name.
    ///
    /// # Errors
    /// When a path does not exist, or a folder holds no sessions.
    pub fn of(paths: &[PathBuf]) -> Result<Self> {
        Self::find(paths, &mut || ControlFlow::Continue(()))
    }

    /// As [`ImportPlan::of`], asking at each file and folder whether to go on: links can make a walk
    /// as good as endless.
    ///
    /// # Errors
    /// As [`ImportPlan::of`], and of kind `interrupted` when asked to stop.
    pub fn find(paths: &[PathBuf], go_on: &mut dyn FnMut() -> ControlFlow<()>) -> Result<Self> {
        let mut skipped = Vec::new();
        let files = walk::find(paths, &mut skipped, go_on)?;
        Ok(Self { files, skipped })
    }
}

/// Imports the files of `plan`: `store` says what was imported before, `target` records the rest.
///
/// # Errors
/// When the store fails. What was imported until then stays, and is not imported again.
pub fn import(
    store: &Store,
    target: ImportTarget<'_>,
    plan: ImportPlan,
    options: &ImportOptions,
    observe: Observer<'_>,
) -> Result<ImportSummary> {
    let started = Instant::now();
    let mut summary = ImportSummary {
        skipped: plan.skipped,
        ..ImportSummary::default()
    };
    let bytes = plan.files.iter().map(|f| f.bytes).sum();
    let mut run = Run {
        store,
        target,
        options,
        observe,
        progress: ImportProgress {
            bytes_done: 0,
            bytes,
            compacting: false,
        },
        uncompacted_bytes: 0,
    };
    for found in &plan.files {
        let done_before = run.progress.bytes_done;
        summary.files += 1;
        if is_left_old(store, found, options.modified_within)? {
            summary.left_old += 1;
            if run.advance(found.bytes).is_break() {
                summary.interrupted = true;
                break;
            }
            continue;
        }
        let mut progress = FileProgress::default();
        let ended = file::import_file(&mut run, found, &mut progress);
        // A file of which nothing could be imported has created no session.
        let created = progress.is_new && ended.is_ok() && !progress.recorded_by_another();
        summary.sessions += u64::from(created || progress.messages > 0);
        summary.resumed += u64::from(!progress.is_new && progress.bytes > 0);
        summary.messages += progress.messages;
        summary.bytes += progress.bytes;
        match ended {
            Ok(()) => {
                let nothing_new = !progress.is_new && progress.bytes == 0;
                summary.unchanged += u64::from(nothing_new || progress.recorded_by_another());
            }
            Err(Stop::Skip(skipped) | Stop::Overtaken(skipped)) => summary.skipped.push(skipped),
            Err(Stop::Interrupted) => {
                summary.interrupted = true;
                break;
            }
            Err(Stop::Fail(failure)) => {
                let done = format!(
                    "import stopped at {} ({} imported before; the next run continues there)",
                    found.path.display(),
                    format::counted(summary.messages, "message")
                );
                return Err(failure.during(done));
            }
        }
        run.progress.bytes_done = done_before + found.bytes;
    }
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

/// Whether a file was last modified too long ago, and was never imported. A file that was imported before is
/// always looked at: it may have grown whatever its modification time.
fn is_left_old(store: &Store, found: &walk::Found, within: Option<Duration>) -> Result<bool> {
    let age = found.modified.and_then(|at| at.elapsed().ok());
    let is_old = within.is_some_and(|within| age.is_some_and(|age| age > within));
    if !is_old {
        return Ok(false);
    }
    match store.imports_by_source_path(&walk::path_bytes(&found.canonical)) {
        Ok(known) => Ok(known.is_empty()),
        // Importing it reports the damage and continues with the others.
        Err(error) if error.kind() == ErrorKind::Damaged => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What the files of one import share.
struct Run<'a> {
    store: &'a Store,
    target: ImportTarget<'a>,
    options: &'a ImportOptions,
    observe: Observer<'a>,
    progress: ImportProgress,
    /// Bytes imported since the last quick compaction.
    uncompacted_bytes: u64,
}

impl Run<'_> {
    /// Counts `bytes` more as done, reports it, and returns whether to continue.
    fn advance(&mut self, bytes: u64) -> ControlFlow<()> {
        self.progress.bytes_done += bytes;
        (self.observe)(self.progress)
    }

    /// Compacts once enough was imported since the last time.
    fn compact_when_due(&mut self, bytes: u64) {
        self.uncompacted_bytes += bytes;
        if self.uncompacted_bytes >= IMPORT_COMPACT_EVERY_BYTES {
            self.compact();
        }
    }

    /// Compacts to free space, as far as possible.
    fn compact(&mut self) {
        self.uncompacted_bytes = 0;
        let progress = ImportProgress {
            compacting: true,
            ..self.progress
        };
        let observe = &mut self.observe;
        // The progress bar shows this from the beginning, because it does not move until the compaction ends. The
        // compaction itself asks whether to continue.
        let _ = observe(progress);
        self.target.compact(&mut || observe(progress));
    }
}
