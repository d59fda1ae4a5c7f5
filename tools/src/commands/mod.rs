//! The verbs, one file each: arguments, the work (done by the library), what is shown.

mod backup;
mod cat;
mod compact;
mod delete;
mod demo;
mod doctor;
mod export;
mod import;
mod inspect;
mod plan;
mod rename;
mod report;
mod restore;
mod retain;
mod search;
mod sessions;
mod verify;

use std::path::{Path, PathBuf};

use betcode_storage::capacity::quantity::{ByteCount, Input, Source};
use betcode_storage::capacity::report::CapacityReport;
use betcode_storage::capacity::text::elide_middle;
use betcode_storage::limits::DB_BYTES_MAX_DEFAULT;
use betcode_storage::{
    DamagedSession, ErrorKind, Session, SessionFilter, SessionId, Store, StoreError, StoreOptions,
    resolve_links,
};
use clap::Subcommand;
use serde_json::{Value, json};

use crate::cli::Global;
use crate::daemon::{Daemon, DaemonStatus};
use crate::error::{Exit, Failure, Result, stop_holder};
use crate::interrupt::Interrupt;
use crate::limits::{CANDIDATES_MAX, SHORT_ID_CHARS_MIN};
use crate::output::{Out, Via, format};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Record files of agent lines; run again, only what is new
    Import(import::Args),
    /// Write sessions back into files, byte for byte
    Export(export::Args),
    /// Write a session's lines to stdout
    Cat(cat::Args),
    /// List sessions
    Sessions(sessions::Args),
    /// Name a session
    Rename(rename::Args),
    /// Delete sessions and their messages, for good
    Delete(delete::Args),
    /// Remove old sessions by age or total size; can archive them first
    Retain(retain::Args),
    /// Find text in messages, compacted or not
    Search(search::Args),
    /// Show how stored bytes split by part and by type of message
    Inspect(inspect::Args),
    /// Compress messages losslessly and give the space back
    Compact(compact::Args),
    /// Show size, growth, forecast and what takes the room
    Report(report::Args),
    /// Estimate memory, disk, relays and machines for a given load
    Plan(plan::Args),
    /// Check the database's surroundings (disk, permissions, limits, daemon) and suggest fixes
    Doctor(doctor::Args),
    /// Read everything and check it
    Verify(verify::Args),
    /// Copy the database into a file, verified, while writing goes on
    Backup(backup::Args),
    /// Make a database from a backup, verified
    Restore(restore::Args),
    /// See it at work: record, compact, verify, replay and report
    Demo(demo::Args),
}

/// What commands work with.
pub struct Context<'a> {
    /// Options of every command.
    pub global: &'a Global,
    /// Where to write.
    pub out: &'a mut Out,
    /// Whether to stop.
    pub interrupt: &'a Interrupt,
}

impl Context<'_> {
    fn database(&self) -> Result<PathBuf> {
        self.global.database()
    }

    /// Opens the database for writing; it must exist.
    fn open(&self) -> Result<Store> {
        let path = self.database()?;
        // Only imports create databases. Opening for reading gives the engine's error for a missing or empty
        // file.
        if std::fs::metadata(&path).map_or(true, |there| there.len() == 0) {
            drop(self.open_read_only()?);
        }
        Ok(Store::open(&path, self.global.options())?)
    }

    /// The daemon that serves the database, unless `--direct` is given. Reports which way the command takes.
    fn daemon(&mut self) -> Result<Option<Daemon>> {
        let daemon = if self.global.direct {
            None
        } else {
            Daemon::find(&self.database()?)?
        };
        match &daemon {
            Some(daemon) => {
                self.out.set_via(Via::Daemon);
                let pid = daemon.pid();
                self.out
                    .remark(format!("through the daemon, process {pid}"));
            }
            None => self.out.set_via(Via::File),
        }
        Ok(daemon)
    }

    /// Opens the database for reading when a daemon does the writing, else for writing.
    fn open_beside(&self, daemon: Option<&Daemon>) -> Result<Store> {
        match daemon {
            Some(_) => self.open_read_only(),
            None => self.open(),
        }
    }

    /// The database's size limit and its source: the limit that was given, else that of the daemon that
    /// writes to it, else the default.
    fn limit(&self, daemon: Option<&DaemonStatus>) -> Input<ByteCount> {
        let of_daemon = || {
            let daemon = daemon.filter(|_| !self.global.direct)?;
            daemon.limit_bytes()
        };
        let (bytes, source) = match (self.global.limit_bytes, of_daemon()) {
            (Some(given), _) => (given, Source::Given),
            (None, Some(in_force)) => (in_force, Source::Measured),
            (None, None) => (DB_BYTES_MAX_DEFAULT, Source::PlanDefault),
        };
        Input {
            value: ByteCount(bytes),
            source,
        }
    }

    /// The status of the daemon that serves the database, unless `--direct` is given.
    fn daemon_status(&self) -> Result<Option<DaemonStatus>> {
        match self.global.direct {
            true => Ok(None),
            false => Ok(DaemonStatus::of(&self.database()?)),
        }
    }

    /// Opens the database for reading, and compares its size with [`limit`](Self::limit). If that is the
    /// daemon's limit, the level continues the daemon's, so that both show the same.
    fn judge(&self, daemon: Option<&DaemonStatus>) -> Result<(Store, CapacityReport)> {
        let limit = self.limit(daemon);
        let options = StoreOptions {
            db_bytes_max: limit.value.0,
            ..self.global.options()
        };
        let store = Store::open_read_only(&self.database()?, options)?;
        let before = daemon.filter(|_| limit.source == Source::Measured);
        let before = before.and_then(DaemonStatus::size_level);
        let report = store.capacity_report_after(before.unwrap_or_default())?;
        Ok((store, report))
    }

    /// Opens the database for reading.
    fn open_read_only(&self) -> Result<Store> {
        Ok(Store::open_read_only(
            &self.database()?,
            self.global.options(),
        )?)
    }
}

/// Refuses `--json` beside an option that asks for other output. clap would see such a pair only where
/// both stand after the command.
fn check_output(command: &Command, global: &Global) -> Result<()> {
    let other = match command {
        Command::Cat(args) => args.not_json(),
        Command::Report(args) => args.not_json(),
        _ => None,
    };
    match other.filter(|_| global.json) {
        Some(other) => {
            let what = format!("--json cannot be used with {other}");
            Err(Failure::new(Exit::Usage, what).hint("leave one of the two out"))
        }
        None => Ok(()),
    }
}

/// Runs a command.
///
/// # Errors
/// What kept it from running to its end.
pub fn run(command: &Command, context: Context<'_>) -> Result<Exit> {
    check_output(command, context.global)?;
    match command {
        Command::Import(args) => import::run(args, context),
        Command::Export(args) => export::run(args, context),
        Command::Cat(args) => cat::run(args, context),
        Command::Sessions(args) => sessions::run(args, context),
        Command::Rename(args) => rename::run(args, context),
        Command::Delete(args) => delete::run(args, context),
        Command::Retain(args) => retain::run(args, context),
        Command::Search(args) => search::run(args, context),
        Command::Inspect(args) => inspect::run(args, context),
        Command::Compact(args) => compact::run(args, context),
        Command::Report(args) => report::run(args, context),
        Command::Plan(args) => plan::run(args, context),
        Command::Doctor(args) => doctor::run(args, context),
        Command::Verify(args) => verify::run(args, context),
        Command::Backup(args) => backup::run(args, context),
        Command::Restore(args) => restore::run(args, context),
        Command::Demo(args) => demo::run(args, context),
    }
}

/// The folder that a file is in, or would be in.
fn folder_of(file: &Path) -> &Path {
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// The path as a shell takes it, from whatever folder.
fn for_a_shell(path: &Path) -> String {
    let absolute = std::path::absolute(path);
    let path = absolute.as_deref().unwrap_or(path).display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    match path.chars().all(is_plain) {
        true => path,
        false => format!("'{}'", path.replace('\'', r"'\''")),
    }
}

/// A hint for an error about a file that an argument names, instead of about the database.
fn hint_about(file: &Path, role: &str, error: &StoreError) -> Option<String> {
    let file = resolve_links(file);
    let is_at_file = |path: &PathBuf| *path == file;
    match error {
        StoreError::Missing { path } if is_at_file(path) => {
            Some(format!("check the path of {role}"))
        }
        StoreError::Foreign { path, .. } if is_at_file(path) => {
            Some(format!("check the path: {role} has to be a history store"))
        }
        _ => None,
    }
}

/// The failure of a copy of the database: hints are about the copy's place, not the database's.
fn copy_failure(error: StoreError, outcome: &str) -> Failure {
    let full = matches!(error, StoreError::DiskFull { .. });
    let held = matches!(error, StoreError::Busy { .. });
    let stop = stop_holder(&error);
    if matches!(error, StoreError::Cancelled) {
        return Failure::new(Exit::Interrupted, format!("interrupted: {outcome}"));
    }
    // These errors already say what was done.
    if let StoreError::CopyNotSynced { .. } | StoreError::LeftAside { .. } = error {
        return error.into();
    }
    let failure = Failure::from(error).during(outcome);
    if full {
        return failure.hint("choose a place on another disk, or free space on that one");
    }
    if held {
        let stop = stop.unwrap_or_else(|| "stop that process".to_owned());
        return failure.hint(format!("{stop}, then run the command again"));
    }
    failure
}

/// Shows the sessions that were left out because their rows are damaged.
fn show_damaged(out: &mut Out, damaged: &[DamagedSession]) {
    for session in damaged {
        let id = session
            .id
            .as_ref()
            .map_or("whose id is damaged", SessionId::as_str);
        let what = format!("not looked at: session {id}");
        let hint = "write what can be read of it with `betcode-db export --salvage`";
        out.warn(what, Some(&session.what), Some(hint));
    }
}

/// The same in JSON.
fn damaged_documents(damaged: &[DamagedSession]) -> Vec<Value> {
    let document = |session: &DamagedSession| {
        let id = session.id.as_ref().map(SessionId::as_str);
        json!({"session": id, "why": session.what})
    };
    damaged.iter().map(document).collect()
}

/// A beginning of a session's id that [`resolve`] takes for it: short, and no other's.
fn short_name(store: &Store, id: &str) -> Result<String> {
    let sessions = store.sessions(&SessionFilter::default())?.sessions;
    let in_common = |other: &str| {
        other
            .chars()
            .zip(id.chars())
            .take_while(|(a, b)| a == b)
            .count()
    };
    let others = sessions.iter().filter(|s| s.id.as_str() != id);
    let shared = others.map(|s| in_common(s.id.as_str())).max();
    let chars = shared.map_or(SHORT_ID_CHARS_MIN, |shared| {
        (shared + 1).max(SHORT_ID_CHARS_MIN)
    });
    Ok(id.chars().take(chars).collect())
}

/// Whether a text may mean a session.
type Fits = fn(&Session, &str) -> bool;

/// The session that `text` names: its id; else the beginning of one, a name, or a part of an id, in this
/// order, that fits no other.
fn resolve(store: &Store, text: &str) -> Result<SessionId> {
    if let Ok(id) = SessionId::new(text) {
        match store.session(&id) {
            Ok(_) => return Ok(id),
            // It exists, and parts of it may be readable.
            Err(error) if error.kind() == ErrorKind::Damaged => return Ok(id),
            Err(_) => {}
        }
    }
    let sessions = match text.is_empty() {
        true => Vec::new(),
        false => store.sessions(&SessionFilter::default())?.sessions,
    };
    let ways: [(&str, Fits); 3] = [
        ("ids begin with it", |s, text| {
            s.id.as_str().starts_with(text)
        }),
        ("have this name", |s, text| s.meta.name == text),
        ("ids contain it", |s, text| s.id.as_str().contains(text)),
    ];
    for (how, fits) in ways {
        let matching: Vec<&Session> = sessions.iter().filter(|s| fits(s, text)).collect();
        match matching[..] {
            [] => {}
            [only] => return Ok(only.id.clone()),
            _ => return Err(ambiguous(text, how, &matching)),
        }
    }
    Err(
        Failure::new(Exit::NotFound, format!("there is no session {text:?}")).hint(
            "run `betcode-db sessions` and use an id from there, a part of it, or the session's name",
        ),
    )
}

fn ambiguous(text: &str, how: &str, matching: &[&Session]) -> Failure {
    let candidate = |session: &&Session| {
        let last_time = session.last_time_ms.map(format::date_time);
        let parts = [
            Some(session.id.to_string()),
            Some(session.meta.name.clone()),
            Some(elide_middle(&session.meta.working_directory, 40)),
            last_time,
        ];
        let parts = parts.into_iter().flatten().filter(|part| !part.is_empty());
        parts.collect::<Vec<_>>().join("  ")
    };
    let mut among: Vec<String> = matching
        .iter()
        .take(CANDIDATES_MAX)
        .map(candidate)
        .collect();
    if matching.len() > CANDIDATES_MAX {
        among.push(format!("and {} more", matching.len() - CANDIDATES_MAX));
    }
    let what = format!("{text:?} names no session alone");
    let failure = Failure::new(Exit::NotFound, what)
        .why(format!("{} {how}", matching.len()))
        .hint("give more of the id");
    Failure { among, ..failure }
}
