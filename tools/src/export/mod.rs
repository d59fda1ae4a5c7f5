//! Sessions back into files, byte for byte.

pub mod content;
pub mod paths;
pub mod salvage;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use betcode_storage::{
    ErrorKind, ReadRange, SessionFilter, SessionId, Store, StoreError, belongs_to_database,
};
use rustix::fs::OFlags;
use serde::Serialize;

use crate::error::{Exit, Failure, Result};
use crate::limits::{FILE_BUFFER_BYTES, UNFINISHED_MS_MIN, UNFINISHED_RANDOM_BYTES};
use crate::output::format;

/// How the names of unfinished files begin.
const UNFINISHED_PREFIX: &str = ".betcode-export-";
/// How to export.
#[derive(Debug, Clone, Default)]
pub struct ExportOptions {
    /// Only these sessions; all when empty.
    pub sessions: Vec<SessionId>,
    /// Replace files that are there with other content.
    pub force: bool,
    /// Write what can be read of damaged sessions, under a name that says so.
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
    /// Where it would stand.
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
    /// Files that stood there already with these bytes.
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
    /// The exit code that tells how it went.
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

/// A session, and where it is written below the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Planned {
    session: SessionId,
    /// About as many bytes as its file has.
    bytes: u64,
    /// All of it, unless it is damaged where that is kept.
    path: Result<PathBuf>,
    /// What can be read of it, if it is damaged.
    salvaged: PathBuf,
}

/// Where each session is written, oldest session first, so that an older one keeps its path when a
/// newer one wants the same; and what of the sessions cannot even be named.
fn plan(store: &Store) -> Result<(Vec<Planned>, Vec<NotExported>)> {
    let list = store.sessions(&SessionFilter::default())?;
    let mut sessions = list.sessions;
    sessions.sort_by_key(|s| s.key);
    let mut paths = paths::Paths::default();
    let mut plan = Vec::with_capacity(sessions.len());
    for session in sessions {
        let of_its_own = PathBuf::from(format!("{}.jsonl", session.id));
        let path = match store.import_of(&session.id) {
            // A session that cannot be looked up keeps no other from being written.
            Err(error) => Err(damaged_at(error.into(), &of_its_own)),
            Ok(None) => Ok(of_its_own),
            Ok(Some(record)) => paths::checked(&record.mark.relative_path).map_err(|unsafe_path| {
                let recorded = String::from_utf8_lossy(&record.mark.relative_path).into_owned();
                Failure::new(
                    Exit::Damaged,
                    format!("the recorded path {recorded:?} is not used"),
                )
                .why(unsafe_path.to_string())
                .hint("write it under a name of its own with --salvage")
            }),
        };
        let bytes = session.raw_bytes + session.messages;
        plan.push((session.id, bytes, path.map(|p| paths.claim(&p))));
    }
    let mut nameless = Vec::new();
    for damaged in list.damaged {
        let failure = Failure::from(damaged.error());
        match damaged.id {
            Some(id) => {
                let path = PathBuf::from(format!("{id}.jsonl"));
                plan.push((id, 0, Err(damaged_at(failure, &path))));
            }
            None => nameless.push(NotExported::of("(its id is damaged)".into(), failure)),
        }
    }
    // Behind all that is whole: no part of a session takes the place of another session.
    let with_salvaged = |(session, bytes, path): (SessionId, u64, Result<PathBuf>)| {
        let wanted = match &path {
            Ok(path) => paths::of_salvaged(path, &session),
            Err(_) => PathBuf::from(format!("{session}.salvaged.jsonl")),
        };
        Planned {
            salvaged: paths.claim(&wanted),
            session,
            bytes,
            path,
        }
    };
    Ok((plan.into_iter().map(with_salvaged).collect(), nameless))
}

/// A session that would stand at `path`, and whose rows are damaged.
fn damaged_at(failure: Failure, path: &Path) -> Failure {
    explain_damage(failure.during(path.display().to_string()))
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
    for id in &options.sessions {
        match store.session(id) {
            Err(error) if error.kind() == ErrorKind::Damaged => {}
            found => drop(found?),
        }
    }
    let (mut plan, nameless) = plan(store)?;
    if !options.sessions.is_empty() {
        plan.retain(|planned| options.sessions.contains(&planned.session));
    }
    make_folder(out).map_err(|e| Failure::io("create the folder", out, &e))?;
    let bytes = plan.iter().map(|planned| planned.bytes).sum();
    let mut summary = ExportSummary {
        out: out.display().to_string(),
        ..Default::default()
    };
    if options.sessions.is_empty() {
        summary.failed = nameless;
    }
    let mut progress = ExportProgress {
        bytes_done: 0,
        bytes,
    };
    let mut swept = HashSet::new();
    for Planned {
        session,
        path,
        salvaged,
        ..
    } in plan
    {
        for path in path.iter().chain([&salvaged]) {
            let below = path.parent().unwrap_or(Path::new(""));
            if !swept.contains(below) {
                swept.insert(below.to_owned());
                if leads_through_folders(out, below) {
                    sweep(&out.join(below));
                }
            }
        }
        let place_of = |path| ExportTarget {
            out,
            path,
            force: options.force,
        };
        let mut watch = |piece: u64| {
            progress.bytes_done += piece;
            observe(progress)
        };
        let mut written = match &path {
            Ok(path) => {
                let place = place_of(path);
                write_session(store, &session, &place, &mut watch)
                    .map_err(|failure| failure.during(place.target().display().to_string()))
            }
            Err(failure) => Err(failure.clone()),
        };
        if let Err(failure) = &written
            && options.salvage
            && failure.exit == Exit::Damaged
        {
            let place = place_of(&salvaged);
            match salvage_session(store, &session, &place, &mut watch) {
                Ok(Some(salvaged)) => summary.salvaged.push(salvaged),
                Ok(None) => written = Ok(None),
                Err(failure) => {
                    written = Err(failure.during(place.target().display().to_string()));
                }
            }
        }
        match written {
            Ok(None) => {
                summary.interrupted = true;
                break;
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
            Err(_) if options.sessions.is_empty() && is_gone(store, &session) => {}
            Err(failure) => {
                let failure = match options.salvage && failure.exit == Exit::Damaged {
                    true => failure.hint(
                        "restore a backup to have all of it; `betcode-db verify` names the damage",
                    ),
                    false => failure,
                };
                let failed = NotExported::of(session.to_string(), failure);
                summary.failed.push(failed);
            }
        }
    }
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

fn is_gone(store: &Store, session: &SessionId) -> bool {
    matches!(
        store.session(session),
        Err(StoreError::SessionNotFound { .. })
    )
}

/// Writes one session; `None` when it was interrupted. Says whether the file was there already.
fn write_session(
    store: &Store,
    id: &SessionId,
    place: &ExportTarget<'_>,
    observe: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<(content::Written, bool)>> {
    let written = write_file(
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
    let written = write_file(
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

/// Where a file is to stand.
#[derive(Clone, Copy)]
struct ExportTarget<'a> {
    out: &'a Path,
    /// Below `out`.
    path: &'a Path,
    force: bool,
}

impl ExportTarget<'_> {
    fn target(&self) -> PathBuf {
        self.out.join(self.path)
    }
}

/// Takes a piece of a file; `Break` ends it.
type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<ControlFlow<()>>;

/// Writes a file whole or not at all; `None` when it was interrupted. Says whether it was there
/// already.
fn write_file(
    place: &ExportTarget<'_>,
    fill: &mut dyn FnMut(Sink<'_>) -> Result<content::Written>,
    observe: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<(content::Written, bool)>> {
    let (out, path, force) = (place.out, place.path, place.force);
    let target = out.join(path);
    let folder = make_folders_below(out, path)?;
    let there = match fs::symlink_metadata(&target) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(
                Failure::new(Exit::Conflict, "something that is no file is in the way")
                    .hint("move it away, or export to an empty folder"),
            );
        }
        Ok(_) => true,
        Err(_) => false,
    };
    // Also where nothing stands: SQLite would take a new file of that name for the database's log.
    if belongs_to_database(&target) {
        return Err(Failure::database_in_the_way(&target));
    }
    // The temporary name ends in nothing that an import would take for history.
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED_PREFIX)
        .rand_bytes(UNFINISHED_RANDOM_BYTES)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(&folder)
        .map_err(|e| Failure::io("write to the folder", &folder, &e))?;
    // Tells a sweep that somebody is at it. Where there are no locks, there is no sweep either.
    let _ = file.as_file().lock();
    let mut writer = BufWriter::with_capacity(FILE_BUFFER_BYTES, file.as_file_mut());
    // Whoever calls names the file.
    let unwritten = |error: io::Error| Failure::io("write", &target, &error).shortened();
    let mut interrupted = false;
    let written = fill(&mut |piece| {
        writer.write_all(piece).map_err(unwritten)?;
        let flow = observe(piece.len() as u64);
        interrupted |= flow.is_break();
        Ok(flow)
    })?;
    if interrupted {
        return Ok(None);
    }
    writer.flush().map_err(unwritten)?;
    drop(writer);
    if there {
        let same = content::same_files(file.path(), &target);
        if same.map_err(|e| Failure::io("read", &target, &e))? {
            return Ok(Some((written, true)));
        }
        if !force {
            return Err(
                Failure::new(Exit::Conflict, "a file with other content is there")
                    .hint("export to an empty folder, or replace it with --force"),
            );
        }
    }
    // On disk before it gets its name: a crash leaves the old file or the new one.
    file.as_file().sync_all().map_err(unwritten)?;
    file.persist(&target).map_err(|e| unwritten(e.error))?;
    Ok(Some((written, false)))
}

fn explain_damage(failure: Failure) -> Failure {
    if failure.exit == Exit::of(ErrorKind::Damaged) {
        return failure.hint(
            "write what can be read of it with --salvage; `betcode-db verify` names the damage",
        );
    }
    failure
}

/// Removes what an export that was killed left in `folder`. One that is under way holds a lock.
fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if is_unfinished(&entry.file_name()) && is_abandoned(&entry.path()) {
            // Left for the next time when it cannot be removed.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether it is a name that an export gives.
fn is_unfinished(name: &OsStr) -> bool {
    let random = name
        .as_encoded_bytes()
        .strip_prefix(UNFINISHED_PREFIX.as_bytes());
    random.is_some_and(|random| {
        random.len() == UNFINISHED_RANDOM_BYTES && random.iter().all(u8::is_ascii_alphanumeric)
    })
}

/// Whether it is a file that nobody holds or has written to for long. Links are not followed, and pipes not waited for.
fn is_abandoned(path: &Path) -> bool {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = File::options()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path);
    opened.is_ok_and(|file| {
        let is_old_file = file.metadata().is_ok_and(|metadata| {
            let written = metadata.modified().ok();
            let age = written.and_then(|written| written.elapsed().ok());
            metadata.is_file()
                && age.is_some_and(|age| age >= Duration::from_millis(UNFINISHED_MS_MIN))
        });
        is_old_file && file.try_lock().is_ok()
    })
}

/// Whether `path` below `out` names folders alone, and no link to one.
fn leads_through_folders(out: &Path, path: &Path) -> bool {
    let mut folder = out.to_path_buf();
    path.components().all(|name| {
        folder.push(name);
        fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir())
    })
}

/// Makes a folder and those above it, for its owner alone; one that is there is left as it is.
fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes the folders of `path` below `out`, and refuses to follow links that stand there.
fn make_folders_below(out: &Path, path: &Path) -> Result<PathBuf> {
    let mut folder = out.to_path_buf();
    for component in path.parent().into_iter().flat_map(Path::components) {
        if let Component::Normal(name) = component {
            folder.push(name);
        }
        match fs::symlink_metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(Failure::new(
                    Exit::Conflict,
                    format!("{} is in the way", folder.display()),
                )
                .why("it is a link or a file, and a folder is needed there")
                .hint("move it away, or export to an empty folder"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folder(&folder).map_err(|e| Failure::io("create the folder", &folder, &e))?;
            }
            Err(error) => return Err(Failure::io("look at", &folder, &error)),
        }
    }
    Ok(folder)
}
