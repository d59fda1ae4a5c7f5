//! `delete`: sessions that shall not be kept.

use betcode_storage::{ErrorKind, Session, SessionId, Store};
use serde_json::json;

use super::{Context, resolve};
use crate::error::{Exit, Failure, Result};
use crate::output::format;

/// Delete sessions and their messages, for good
#[derive(Debug, clap::Args)]
#[command(after_help = "\
No command brings them back. Their bytes stay in the file, in pages that are free, until new messages \
take these or `betcode-db compact` gives them back; copies and backups made before keep them. \
The next import of a file that is still there takes its session again: delete the file or its \
lines too, or import with --modified-within.")]
pub struct Args {
    /// Each session's id, unique part of it, or name
    #[arg(required = true)]
    sessions: Vec<String>,
    /// Actually do it; without this, only what would be deleted is shown
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args, mut context: Context<'_>) -> Result<Exit> {
    let daemon = if args.yes { context.daemon()? } else { None };
    let store = if args.yes {
        context.open_beside(daemon.as_ref())?
    } else {
        context.open_read_only()?
    };
    let sessions = doomed(&store, &args.sessions)?;
    if !args.yes {
        let all = Amount::of(&sessions);
        return Err(Failure::new(
            Exit::Usage,
            format!("nothing was deleted: this would delete {all}"),
        )
        .why("deleted messages cannot be brought back")
        .hint("export them first if in doubt; then give --yes"));
    }
    let mut deleted = Vec::new();
    for session in sessions {
        let was_there = match &daemon {
            Some(daemon) => daemon.delete(&session.id, &mut |_| context.interrupt.flow()),
            None => store.delete(&session.id).map_err(Failure::from),
        };
        let was_there = was_there.map_err(|failure| after(deleted.len(), failure))?;
        if was_there {
            deleted.push(session);
        }
        if context.interrupt.raised() {
            break;
        }
    }
    store.close()?;
    let done = Amount::of(&deleted);
    let ids: Vec<_> = deleted.iter().map(|session| session.id.as_str()).collect();
    context.out.json(&json!({
        "deleted": ids,
        "messages": done.messages,
        "raw_bytes": done.raw_bytes,
        "size_unknown": done.sessions_of_unknown_size,
    }));
    context.out.line(format!("Deleted {done}"));
    Ok(if context.interrupt.raised() {
        Exit::Interrupted
    } else {
        Exit::Ok
    })
}

/// A session to delete.
struct Doomed {
    id: SessionId,
    /// What its row says; `None` if the row is damaged.
    row: Option<Session>,
}

/// The sessions that these texts name, each once. All are looked up before the first is deleted: a
/// misspelt id deletes nothing.
fn doomed(store: &Store, texts: &[String]) -> Result<Vec<Doomed>> {
    let mut sessions: Vec<Doomed> = Vec::new();
    for text in texts {
        let id = resolve(store, text)?;
        let row = match store.session(&id) {
            // Damage must not keep a session for ever.
            Err(error) if error.kind() == ErrorKind::Damaged => None,
            found => Some(found?),
        };
        if !sessions.iter().any(|session| session.id == id) {
            sessions.push(Doomed { id, row });
        }
    }
    Ok(sessions)
}

/// How much goes.
struct Amount {
    sessions: u64,
    messages: u64,
    raw_bytes: u64,
    sessions_of_unknown_size: u64,
}

impl Amount {
    fn of(doomed: &[Doomed]) -> Self {
        let rows = || doomed.iter().filter_map(|session| session.row.as_ref());
        Self {
            sessions: doomed.len() as u64,
            messages: rows().map(|row| row.messages).fold(0, u64::saturating_add),
            raw_bytes: rows().map(|row| row.raw_bytes).fold(0, u64::saturating_add),
            sessions_of_unknown_size: doomed.iter().filter(|one| one.row.is_none()).count() as u64,
        }
    }
}

impl std::fmt::Display for Amount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}, {}, {}",
            format::counted(self.sessions, "session"),
            format::counted(self.messages, "message"),
            format::bytes(self.raw_bytes)
        )?;
        match self.sessions_of_unknown_size {
            0 => Ok(()),
            unknown => write!(
                f,
                " (not counting what {} with a damaged row holds)",
                format::counted(unknown, "session")
            ),
        }
    }
}

/// A failure that did not come at the first session says what is gone by then.
fn after(deleted: usize, failure: Failure) -> Failure {
    if deleted == 0 {
        return failure;
    }
    let before = format::counted(deleted as u64, "session");
    failure.during(format!("stopped after deleting {before}"))
}
