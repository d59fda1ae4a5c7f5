//! `restore`: a database from a backup.

use std::path::PathBuf;

use serde_json::json;

use super::Context;
use crate::error::{Exit, Result};
use crate::output::{Unit, format};

/// Make a database from a backup, verified
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The backup
    file: PathBuf,
    /// Move a database that is there aside; without it, an existing one is left alone
    #[arg(long)]
    replace: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    let database = context.database()?;
    let progress = context.out.progress("restoring", 0, Unit::Count);
    let report = betcode_storage::restore(&args.file, &database, args.replace, &mut |at| {
        progress.at_of(at.messages_done, at.messages);
        context.interrupt.flow()
    })?;
    drop(progress);
    context.out.json(&json!({
        "database": database.display().to_string(),
        "bytes": report.bytes,
        "sessions": report.sessions,
        "messages": report.messages,
        "moved_aside": report.moved_aside.as_ref().map(|p| p.display().to_string()),
    }));
    context.out.line(format!(
        "Restored {}, {} to {} ({}), verified",
        format::counted(report.sessions, "session"),
        format::counted(report.messages, "message"),
        database.display(),
        format::bytes(report.bytes)
    ));
    if let Some(aside) = &report.moved_aside {
        context.out.line(format!(
            "The database that was there is {} now",
            aside.display()
        ));
    }
    Ok(Exit::Ok)
}
