//! `delete`: sessions that shall not be kept.

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
    // All are looked up before the first is deleted: a misspelt id deletes nothing.
    let mut sessions = Vec::new();
    for text in &args.sessions {
        let session = store.session(&resolve(&store, text)?)?;
        if !sessions
            .iter()
            .any(|s: &betcode_storage::Session| s.id == session.id)
        {
            sessions.push(session);
        }
    }
    let messages: u64 = sessions.iter().map(|s| s.messages).sum();
    let raw_bytes: u64 = sessions.iter().map(|s| s.raw_bytes).sum();
    let all = counted(sessions.len(), messages, raw_bytes);
    if !args.yes {
        return Err(Failure::new(
            Exit::Usage,
            format!("nothing was deleted: this would delete {all}"),
        )
        .why("deleted messages cannot be brought back")
        .hint("export them first if in doubt; then give --yes"));
    }
    let mut deleted = Vec::new();
    let (mut messages, mut raw_bytes) = (0, 0);
    for session in &sessions {
        let was_there = match &daemon {
            Some(daemon) => daemon.delete(&session.id, &mut |_| context.interrupt.flow()),
            None => store.delete(&session.id).map_err(Failure::from),
        };
        let was_there = was_there.map_err(|failure| after(deleted.len(), failure))?;
        if was_there {
            deleted.push(session.id.to_string());
            messages += session.messages;
            raw_bytes += session.raw_bytes;
        }
        if context.interrupt.raised() {
            break;
        }
    }
    store.close()?;
    let document = json!({"deleted": deleted, "messages": messages, "raw_bytes": raw_bytes});
    context.out.json(&document);
    let done = counted(deleted.len(), messages, raw_bytes);
    context.out.line(format!("Deleted {done}"));
    Ok(if context.interrupt.raised() {
        Exit::Interrupted
    } else {
        Exit::Ok
    })
}

fn counted(sessions: usize, messages: u64, raw_bytes: u64) -> String {
    format!(
        "{}, {}, {}",
        format::counted(sessions as u64, "session"),
        format::counted(messages, "message"),
        format::bytes(raw_bytes)
    )
}

/// A failure that did not come at the first session says what is gone by then.
fn after(deleted: usize, failure: Failure) -> Failure {
    if deleted == 0 {
        return failure;
    }
    let before = format::counted(deleted as u64, "session");
    failure.during(format!("stopped after deleting {before}"))
}
