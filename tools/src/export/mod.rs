//! Writes sessions back into files, byte for byte.

pub mod content;
pub mod paths;
mod plan;
pub mod salvage;
mod whole_file;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use betcode_storage::{ErrorKind, ReadRange, SessionId, Store, StoreError};
use serde::Serialize;

use self::plan::{Planned, plan};
use self::whole_file::{ExportTarget, leads_through_folders, make_folder, sweep, write_whole_file};
use crate::error::{Exit, Failure, Result};
use crate::output::format;

/// How to export.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// Only these sessions; all when empty.
    pub sessions: Vec<SessionId>,
    /// Replace existing files with other content.
    pub force: bool,
    /// Write what can be read of damaged sessions, as `NAME.salvaged.jsonl`.
    pub salvage: bool,
}

/// A damaged session of which a part was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Salvaged {
    /// The session.
    pub session: String,
    /// The file.
    pub path: String,
    /// Messages in it.
    pub messages: u64,
    /// Its bytes.
    pub bytes: u64,
    /// What could not be read.
    pub missing: Vec<salvage::Missing>,
}

/// A session that was not written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotExported {
    /// The session.
    pub session: String,
    /// The path it would have.
    pub path: String,
    /// The reason.
    pub why: String,
    /// What to try.
    #[serde(rename = "try")]
    pub hint: String,
    /// The exit code that this alone would lead to.
    #[serde(skip)]
    pub exit: Exit,
}

impl NotExported {
    fn of(session: String, failure: Failure) -> Self {
        Self {
            session,
            path: failure.what,
            why: failure.why.unwrap_or_default(),
            hint: failure.hint.unwrap_or_else(|| "export it again".to_owned()),
            exit: failure.exit,
        }
    }
}

/// What an export did. The fields of `export --json`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ExportSummary {
    /// The folder.
    pub out: String,
    /// Sessions whose file is complete now.
    pub sessions: u64,
    /// Messages in those files.
    pub messages: u64,
    /// Bytes of those files.
    pub bytes: u64,
    /// Files that existed already with these bytes.
    pub unchanged: u64,
    /// Sessions not written.
    pub failed: Vec<NotExported>,
    /// Those of them of which a part was written.
    pub salvaged: Vec<Salvaged>,
    /// How long it took.
    pub seconds: f64,
    /// Whether it was stopped before the end.
    pub interrupted: bool,
}

impl ExportSummary {
    /// The exit code for this outcome.
    #[must_use]
    pub fn exit(&self) -> Exit {
        if self.interrupted {
            return Exit::Interrupted;
        }
        match self.failed.as_slice() {
            [] => Exit::Ok,
            [first, rest @ ..] if rest.iter().all(|f| f.exit == first.exit) => first.exit,
            _ => Exit::Problems,
        }
    }
}

/// How far an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExportProgress {
    /// Bytes written.
    pub bytes_done: u64,
    /// Payload bytes of all sessions to write.
    pub bytes: u64,
}

/// Writes sessions below `out`, each file whole or not at all.
///
/// # Errors
/// When the folder cannot be made, a session asked for does not exist, or the disk is full. What
/// concerns one session is listed in the summary, and the others go on.
pub fn export(
    store: &Store,
    out: &Path,
    options: &ExportOptions,
    observe: &mut dyn FnMut(ExportProgress) -> ControlFlow<()>,
) -> Result<ExportSummary> {
    let started = Instant::now();
    check_sessions(store, &options.sessions)?;
    let (mut plan, nameless) = plan(store)?;
    if !options.sessions.is_empty() {
        plan.retain(|planned| options.sessions.contains(&planned.session));
    }
    make_folder(out).map_err(|e| Failure::io("create the folder", out, &e))?;
    let mut run = Run {
        store,
        out,
        options,
        observe,
        progress: ExportProgress {
            bytes_done: 0,
            bytes: plan.iter().map(|planned| planned.bytes).sum(),
        },
        swept: HashSet::new(),
        summary: ExportSummary {
            out: out.display().to_string(),
            ..Default::default()
        },
    };
    if options.sessions.is_empty() {
        run.summary.failed = nameless;
    }
    for planned in &plan {
        let written = run.write(planned);
        if run.note(planned, written)?.is_break() {
            break;
        }
    }
    run.summary.seconds = started.elapsed().as_secs_f64();
    Ok(run.summary)
}

/// Whether all sessions that were asked for are there. What is damaged of them, writing them says.
fn check_sessions(store: &Store, sessions: &[SessionId]) -> Result<()> {
    for id in sessions {
        match store.session(id) {
            Err(error) if error.kind() == ErrorKind::Damaged => {}
            found => drop(found?),
        }
    }
    Ok(())
}

/// A session's file, and whether it existed already with these bytes; `None` when interrupted.
type Outcome = Option<(content::Written, bool)>;

/// An export under way.
struct Run<'a> {
    store: &'a Store,
    out: &'a Path,
    options: &'a ExportOptions,
    observe: &'a mut dyn FnMut(ExportProgress) -> ControlFlow<()>,
    progress: ExportProgress,
    /// Folders that were looked at for what a killed export left.
    swept: HashSet<PathBuf>,
    summary: ExportSummary,
}

impl Run<'_> {
    /// Writes a session, or what can be read of it when that is wanted and it is damaged.
    fn write(&mut self, planned: &Planned) -> Result<Outcome> {
        for path in planned.path.iter().chain([&planned.salvaged]) {
            self.sweep_once(path.parent().unwrap_or(Path::new("")));
        }
        let (store, out, force) = (self.store, self.out, self.options.force);
        let place_of = |path| ExportTarget { out, path, force };
        let mut watch = |piece: u64| {
            self.progress.bytes_done += piece;
            (self.observe)(self.progress)
        };
        let in_place = |place: &ExportTarget<'_>, failure: Failure| {
            failure.during(place.target().display().to_string())
        };
        let written = match &planned.path {
            Ok(path) => {
                let place = place_of(path);
                write_session(store, &planned.session, &place, &mut watch)
                    .map_err(|failure| in_place(&place, failure))
            }
            Err(failure) => Err(failure.clone()),
        };
        let is_damaged = |failure: &Failure| failure.exit == Exit::Damaged;
        if !self.options.salvage || !written.as_ref().is_err_and(is_damaged) {
            return written;
        }
        let place = place_of(&planned.salvaged);
        let salvaged = salvage_session(store, &planned.session, &place, &mut watch)
            .map_err(|failure| in_place(&place, failure))?;
        let Some(salvaged) = salvaged else {
            return Ok(None);
        };
        self.summary.salvaged.push(salvaged);
        written
    }

    /// Removes what a killed export left in a folder below the one that is exported to.
    fn sweep_once(&mut self, below: &Path) {
        if self.swept.contains(below) {
            return;
        }
        self.swept.insert(below.to_owned());
        if leads_through_folders(self.out, below) {
            sweep(&self.out.join(below));
        }
    }

    /// Counts the outcome of a session, and returns whether to continue with the next.
    fn note(&mut self, planned: &Planned, written: Result<Outcome>) -> Result<ControlFlow<()>> {
        let summary = &mut self.summary;
        match written {
            Ok(None) => {
                summary.interrupted = true;
                return Ok(ControlFlow::Break(()));
            }
            Ok(Some((written, unchanged))) => {
                summary.sessions += 1;
                summary.messages += written.messages;
                summary.bytes += written.bytes;
                summary.unchanged += u64::from(unchanged);
            }
            // A full disk fails every session that follows.
            Err(failure) if matches!(failure.exit, Exit::NoSpace | Exit::Busy) => {
                let stopped = format!(
                    "export stopped at {} ({} before it stand complete)",
                    failure.what,
                    format::counted(summary.sessions, "session")
                );
                return Err(Failure {
                    what: stopped,
                    ..failure
                });
            }
            // Deleted since the sessions were listed.
            Err(_) if self.options.sessions.is_empty() && is_gone(self.store, &planned.session) => {
            }
            Err(failure) => {
                let failure = match self.options.salvage && failure.exit == Exit::Damaged {
                    true => failure.hint(
                        "restore a backup to have all of it; `betcode-db verify` names the damage",
                    ),
                    false => failure,
                };
                let failed = NotExported::of(planned.session.to_string(), failure);
                summary.failed.push(failed);
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

fn is_gone(store: &Store, session: &SessionId) -> bool {
    matches!(
        store.session(session),
        Err(StoreError::SessionNotFound { .. })
    )
}

/// Writes one session.
fn write_session(
    store: &Store,
    id: &SessionId,
    place: &ExportTarget<'_>,
    observe: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Outcome> {
    let written = write_whole_file(
        place,
        &mut |sink| content::pieces(store, id, ReadRange::all(), sink),
        observe,
    );
    written.map_err(explain_damage)
}

/// Writes what can be read of a damaged session beside where it would stand; `None` when it was
/// interrupted.
fn salvage_session(
    store: &Store,
    session: &SessionId,
    place: &ExportTarget<'_>,
    observe: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<Salvaged>> {
    let mut missing = Vec::new();
    let written = write_whole_file(
        place,
        &mut |sink| {
            let (written, lost) = salvage::pieces(store, session, sink)?;
            missing = lost;
            Ok(written)
        },
        observe,
    )?;
    Ok(written.map(|(written, _)| Salvaged {
        session: session.to_string(),
        path: place.target().display().to_string(),
        messages: written.messages,
        bytes: written.bytes,
        missing,
    }))
}

fn explain_damage(failure: Failure) -> Failure {
    if failure.exit == Exit::of(ErrorKind::Damaged) {
        return failure.hint(
            "write what can be read of it with --salvage; `betcode-db verify` names the damage",
        );
    }
    failure
}
