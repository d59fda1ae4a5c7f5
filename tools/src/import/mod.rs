//! Files of agent lines into sessions, byte for byte, and again whenever they have grown.
//!
//! One file is one session; a message is what stands between two newlines. How far a file was
//! taken is written in the transaction that takes its lines, so an import that was killed goes on
//! where it stopped. A file is recognised by its path and by the digest of the part that was
//! taken, see [`identity`].

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
    /// Take files that look like no lines at all.
    pub binary: bool,
    /// Bytes of one line.
    pub payload_bytes_max: usize,
    /// Leave alone what was last modified longer ago than this, unless some of it was taken before.
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

/// A file, or the rest of one, that was not taken.
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
    /// Messages taken.
    pub messages: u64,
    /// Bytes of the files taken, line ends included.
    pub bytes: u64,
    /// Files with nothing new.
    pub unchanged: u64,
    /// Files of which an earlier import had taken the beginning.
    pub resumed: u64,
    /// Files left alone, see [`ImportOptions::modified_within`].
    pub left_old: u64,
    /// Files not taken, or not to their end.
    pub skipped: Vec<Skipped>,
    /// How long it took.
    pub seconds: f64,
    /// Whether it was stopped before the end; the next run goes on there.
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

/// Imports the files of `plan`: `store` says what was taken before, `target` takes the rest.
///
/// # Errors
/// When the store refuses to go on. What was taken before stays, and is not taken again.
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
        let mut taken = FileProgress::default();
        let ended = file::take(&mut run, found, &mut taken);
        // A file of which nothing could be taken has made no session.
        let made = taken.is_new && ended.is_ok() && !taken.recorded_by_another();
        summary.sessions += u64::from(made || taken.messages > 0);
        summary.resumed += u64::from(!taken.is_new && taken.bytes > 0);
        summary.messages += taken.messages;
        summary.bytes += taken.bytes;
        match ended {
            Ok(()) => {
                let nothing_new = !taken.is_new && taken.bytes == 0;
                summary.unchanged += u64::from(nothing_new || taken.recorded_by_another());
            }
            Err(Stop::Skip(skipped) | Stop::Overtaken(skipped)) => summary.skipped.push(skipped),
            Err(Stop::Interrupted) => {
                summary.interrupted = true;
                break;
            }
            Err(Stop::Fail(failure)) => {
                let done = format!(
                    "import stopped at {} ({} taken before; the next run goes on there)",
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

/// Whether a file was last modified too long ago, and nothing of it was taken. What is known of it says
/// whether it has grown, whatever its time says.
fn is_left_old(store: &Store, found: &walk::Found, within: Option<Duration>) -> Result<bool> {
    let age = found.modified.and_then(|at| at.elapsed().ok());
    let is_old = within.is_some_and(|within| age.is_some_and(|age| age > within));
    if !is_old {
        return Ok(false);
    }
    match store.imports_by_source_path(&walk::path_bytes(&found.canonical)) {
        Ok(known) => Ok(known.is_empty()),
        // Taking it says what is damaged, and goes on with the others.
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
    /// Reports `bytes` more as done; says whether to go on.
    fn advance(&mut self, bytes: u64) -> ControlFlow<()> {
        self.progress.bytes_done += bytes;
        (self.observe)(self.progress)
    }

    /// Compacts what was imported when it has become much.
    fn compact_when_due(&mut self, bytes: u64) {
        self.uncompacted_bytes += bytes;
        if self.uncompacted_bytes >= IMPORT_COMPACT_EVERY_BYTES {
            self.compact();
        }
    }

    /// Compacts, so that there is space again, as far as that is possible.
    fn compact(&mut self) {
        self.uncompacted_bytes = 0;
        let progress = ImportProgress {
            compacting: true,
            ..self.progress
        };
        let observe = &mut self.observe;
        // A bar says so from the beginning: it stands still until this ends. Whether to go on, the
        // compaction asks itself.
        let _ = observe(progress);
        self.target.compact(&mut || observe(progress));
    }
}
