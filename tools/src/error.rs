//! What went wrong, as a person reads it: what, why, try; and as a script sees it: an exit code.

use std::io;
use std::path::Path;

use betcode_storage::{Argument, ErrorKind, Holder, StoreError};
use rustix::io::Errno;
use serde_json::{Value, json};

/// Result of a command's steps.
pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// The exit codes of `betcode-db`. `--help` and `docs/CLI_JSON.md` list them; they do not change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Everything was done.
    Ok = 0,
    /// The command ran to its end, and something needs a look: files were skipped, `verify`
    /// found problems.
    Problems = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A file, a session or the database is not there, or nothing matches.
    NotFound = 3,
    /// Something else is there already.
    Conflict = 4,
    /// Another process has it; the same command may succeed later.
    Busy = 5,
    /// The disk is full, or the database has reached its limit.
    NoSpace = 6,
    /// The file is not a history store, or a newer one.
    Unsupported = 7,
    /// Permissions, or a read-only file system.
    Denied = 8,
    /// Stored bytes are damaged.
    Damaged = 9,
    /// Anything else; worth a bug report.
    Internal = 70,
    /// Ended by Ctrl-C or SIGTERM; what was done stays done.
    Interrupted = 130,
}

impl Exit {
    /// The code's name, as `error.kind` in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Problems => "problems",
            Self::Usage => "usage",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::Busy => "busy",
            Self::NoSpace => "no_space",
            Self::Unsupported => "unsupported",
            Self::Denied => "denied",
            Self::Damaged => "damaged",
            Self::Internal => "internal",
            Self::Interrupted => "interrupted",
        }
    }

    /// The one place where an error of the engine becomes an exit code.
    #[must_use]
    pub fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Invalid => Self::Usage,
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::Conflict | ErrorKind::Moved => Self::Conflict,
            ErrorKind::Overloaded | ErrorKind::Timeout | ErrorKind::Busy => Self::Busy,
            ErrorKind::NoSpace => Self::NoSpace,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::Denied => Self::Denied,
            ErrorKind::Damaged => Self::Damaged,
            ErrorKind::Cancelled => Self::Interrupted,
            _ => Self::Internal,
        }
    }

    fn of_io(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::InvalidFilename => Self::NotFound,
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::NoSpace,
            io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory => Self::Conflict,
            // A link that leads to itself leads to nothing.
            _ if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => Self::NotFound,
            _ => Self::Internal,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error as it is shown: *what* happened, *why*, and what to *try*.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The exit code it leads to.
    pub exit: Exit,
    /// What could not be done.
    pub what: String,
    /// The reason, when it says more than `what`.
    pub why: Option<String>,
    /// What a person may try.
    pub hint: Option<String>,
    /// What was meant may be one of these, a line each.
    pub among: Vec<String>,
}

impl Failure {
    /// An error without more.
    pub fn new(exit: Exit, what: impl Into<String>) -> Self {
        Self {
            exit,
            what: what.into(),
            why: None,
            hint: None,
            among: Vec::new(),
        }
    }

    /// Adds the reason.
    #[must_use]
    pub fn why(mut self, why: impl Into<String>) -> Self {
        self.why = Some(why.into());
        self
    }

    /// Adds what to try.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Puts `what` in front: what was there becomes the reason.
    #[must_use]
    pub fn during(self, what: impl Into<String>) -> Self {
        let why = match self.why {
            Some(why) => format!("{}: {why}", self.what),
            None => self.what,
        };
        Self {
            exit: self.exit,
            what: what.into(),
            why: Some(why),
            hint: self.hint,
            among: self.among,
        }
    }

    /// The reason alone, for what names its object already.
    #[must_use]
    pub fn shortened(self) -> Self {
        match self.why {
            Some(why) => Self {
                what: why,
                why: None,
                ..self
            },
            None => self,
        }
    }

    /// An operation on a file that the system refused.
    pub fn io(action: &str, path: &Path, error: &io::Error) -> Self {
        let exit = Exit::of_io(error);
        Self {
            exit,
            what: format!("cannot {action} {}", path.display()),
            why: Some(plain_io(error)),
            hint: usual_hint(exit).map(str::to_owned),
            among: Vec::new(),
        }
    }

    /// Something is to be written where a database stands, or a file that belongs to one.
    #[must_use]
    pub fn database_in_the_way(path: &Path) -> Self {
        Self::new(
            Exit::Conflict,
            format!("{} is a database, or belongs to one", path.display()),
        )
        .why("writing there would take the history that is in it")
        .hint("name another place")
    }

    /// The JSON document of an error.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let mut document = json!({"error": {
            "kind": self.exit.name(),
            "exit_code": self.exit as u8,
            "what": self.what,
            "why": self.why,
            "try": self.hint,
        }});
        if !self.among.is_empty() {
            document["error"]["among"] = json!(self.among);
        }
        document
    }
}

/// What helps against damage in one session.
const DAMAGED_SESSION_HINT: &str = "run `betcode-db verify` to see how far it goes, and restore a backup; other sessions stay readable";
/// What helps against damage that may be in the way of any session, or of all.
pub(crate) const DAMAGED_STORE_HINT: &str = "run `betcode-db verify` to see how far it goes, and restore a backup; `betcode-db export --salvage --out DIR` writes what can be read";

/// What helps against most errors of a kind.
fn usual_hint(exit: Exit) -> Option<&'static str> {
    match exit {
        Exit::NotFound => Some("check the path"),
        Exit::Denied => {
            Some("check the permissions of the file and of its folder, or choose another place")
        }
        Exit::NoSpace => Some("free space on that disk and run the same command again"),
        Exit::Conflict => Some("choose another name, or move away what is there"),
        _ => None,
    }
}

/// The system's words without the number that Rust adds.
#[must_use]
pub fn plain_io(error: &io::Error) -> String {
    let text = error.to_string();
    let plain = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = plain.chars();
    match (chars.next(), chars.next()) {
        // "Permission denied" continues a sentence here; "IO error" must stay as it is.
        (Some(first), Some(second)) if second.is_lowercase() => {
            first.to_lowercase().chain([second]).chain(chars).collect()
        }
        _ => plain.to_owned(),
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.what)?;
        if let Some(why) = &self.why {
            write!(f, ": {why}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Failure {}

/// What to try, in the words of this tool's commands and options: the engine knows neither.
fn hint_of(error: &StoreError, exit: Exit) -> Option<&'static str> {
    match error {
        StoreError::SessionNotFound { .. } | StoreError::InvalidSessionId { .. } => {
            Some("run `betcode-db sessions` and use an id from there")
        }
        StoreError::Missing { .. } => {
            Some("check --db, or create it with `betcode-db import PATH`")
        }
        StoreError::PayloadTooLarge { .. } => Some("raise --max-payload-bytes (at most 100 MiB)"),
        StoreError::DiskFull { .. } => {
            Some("free space on that disk, then run `betcode-db compact`; nothing is lost")
        }
        StoreError::SpaceNotGivenBack { .. } if exit == Exit::NoSpace => Some(
            "free space on that disk, then run `betcode-db compact`: it begins by giving that space back",
        ),
        StoreError::LimitReached { .. } | StoreError::SessionLimitReached { .. } => {
            Some("run `betcode-db compact`, delete sessions, or raise --limit-bytes")
        }
        StoreError::StrayLog { .. } => Some(
            "put it back beside its database, under the same name and -wal, or delete it if that database is gone for good; `restore --replace` moves it aside",
        ),
        StoreError::InvalidArgument {
            what: Argument::DatabasePath | Argument::CopyPath | Argument::Backup,
            ..
        } => Some("name another file"),
        StoreError::InvalidArgument {
            what: Argument::DbBytesMax | Argument::SessionBytesMax,
            ..
        } => Some("give a larger --limit-bytes, such as 500MB, or leave it out for 1 GB"),
        StoreError::Busy {
            holder: Holder::Process(_) | Holder::AnotherProcess | Holder::AnotherConnection,
            ..
        } => Some("wait for the other process and run the command again"),
        StoreError::Foreign { .. } => Some(
            "check the path: --db must name a history store, or a file that does not exist yet",
        ),
        StoreError::Damaged {
            session: Some(_), ..
        }
        | StoreError::Segment { .. } => Some(DAMAGED_SESSION_HINT),
        StoreError::Damaged { session: None, .. } => Some(DAMAGED_STORE_HINT),
        StoreError::CutOff { .. } => Some(
            "restore a backup; `betcode-db export --salvage --out DIR` writes what is left, and `betcode-db verify` says what is missing",
        ),
        other => other.hint().or(usual_hint(exit)),
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let exit = Exit::of(error.kind());
        let hint = hint_of(&error, exit);
        let stop = stop_holder(&error)
            .map(|stop| format!("wait for it, or {stop}, and run the command again"));
        // A held lease is reported without waiting.
        let mut what = error.to_string().replace(" (waited 0 ms)", "");
        let mut why = None;
        if let StoreError::Missing { path } = &error
            && path.metadata().is_ok_and(|there| there.is_file())
        {
            what = format!("{} is empty: it is no database yet", path.display());
        }
        if let StoreError::InvalidArgument {
            what: Argument::DbBytesMax | Argument::SessionBytesMax,
            why: bound,
        } = &error
        {
            what = format!("--limit-bytes is not valid: {bound}");
        }
        if let StoreError::SpaceNotGivenBack { id, source } = &error {
            what = format!("session {id} is deleted, but its space could not be given back yet");
            why = Some(source.to_string());
        }
        if matches!(error, StoreError::Cancelled) {
            what = "interrupted before the end; what was done stays done".to_owned();
        }
        if let StoreError::Io {
            action,
            path,
            source,
        } = &error
        {
            what = format!("cannot {action} {}", path.display());
            why = Some(plain_io(source));
        }
        Self {
            exit,
            what,
            why,
            hint: stop.or(hint.map(str::to_owned)),
            among: Vec::new(),
        }
    }
}

/// How to stop what holds a store, where its process is known.
#[must_use]
pub fn stop_holder(error: &StoreError) -> Option<String> {
    match error {
        StoreError::Busy {
            holder: Holder::Process(pid),
            ..
        } => Some(format!("stop it with `kill {pid}`")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_store_error_has_its_own_exit_code_or_shares_it_on_purpose() {
        assert_eq!(Exit::of(ErrorKind::Invalid) as u8, 2);
        assert_eq!(Exit::of(ErrorKind::NotFound) as u8, 3);
        assert_eq!(Exit::of(ErrorKind::Conflict) as u8, 4);
        for kind in [ErrorKind::Overloaded, ErrorKind::Timeout, ErrorKind::Busy] {
            assert_eq!(Exit::of(kind) as u8, 5);
        }
        assert_eq!(Exit::of(ErrorKind::NoSpace) as u8, 6);
        assert_eq!(Exit::of(ErrorKind::Unsupported) as u8, 7);
        assert_eq!(Exit::of(ErrorKind::Denied) as u8, 8);
        assert_eq!(Exit::of(ErrorKind::Damaged) as u8, 9);
        assert_eq!(Exit::of(ErrorKind::Internal) as u8, 70);
        assert_eq!(Exit::of(ErrorKind::Cancelled) as u8, 130);
    }

    #[test]
    fn a_failure_put_in_context_keeps_its_reason_and_advice() {
        let inner = Failure::new(Exit::NoSpace, "disk full")
            .why("0 bytes left")
            .hint("free some");
        let outer = inner.during("cannot import a.jsonl");
        assert_eq!(
            outer.to_string(),
            "cannot import a.jsonl: disk full: 0 bytes left"
        );
        assert_eq!(
            (outer.exit, outer.hint.as_deref()),
            (Exit::NoSpace, Some("free some"))
        );
    }

    #[test]
    fn a_deletion_that_met_a_full_disk_says_that_the_session_is_gone() {
        let failure = Failure::from(StoreError::SpaceNotGivenBack {
            id: "s".parse().unwrap(),
            source: Box::new(StoreError::DiskFull {
                path: "/h.db".into(),
                why: "delete messages: database or disk is full".to_owned(),
            }),
        });
        assert_eq!(failure.exit, Exit::NoSpace);
        assert_eq!(
            failure.what,
            "session s is deleted, but its space could not be given back yet"
        );
        assert_eq!(
            failure.why.as_deref(),
            Some("/h.db: no room to write: delete messages: database or disk is full")
        );
        let hint = failure.hint.unwrap();
        assert!(hint.contains("free space"), "{hint}");
        assert!(!hint.contains("nothing is lost"), "{hint}");
    }

    #[test]
    fn system_errors_read_as_the_middle_of_a_sentence() {
        let error = io::Error::from_raw_os_error(13);
        assert_eq!(plain_io(&error), "permission denied");
    }
}
