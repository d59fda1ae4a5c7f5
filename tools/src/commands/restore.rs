//! `restore`: a database from a backup.

use std::path::{Path, PathBuf};

use betcode_storage::{ErrorKind, StoreError};
use serde_json::json;

use super::Context;
use crate::error::{Exit, Result};
use crate::output::{Unit, format};

/// Make a database from a backup, verified
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The copy is read back in full before anything is moved. A database that is there is never \
deleted: --replace moves it, with its log, to FILE.replaced. Stop what has it open first (a \
daemon, say): a database in use is not replaced.")]
pub struct Args {
    /// The backup
    file: PathBuf,
    /// Move a database that is there aside; without it, an existing one is left alone
    #[arg(long)]
    replace: bool,
}

/// It is the backup that is read, or the database that is in its way: the usual advice is about a file
/// that may be moved.
fn hint_about_backup(backup: &Path, error: &StoreError) -> Option<String> {
    if let StoreError::FileExists { .. } = error {
        return Some(
            "give --replace: what is there is moved aside, together with its log; or make another \
             database with --db FILE"
                .to_owned(),
        );
    }
    if error.kind() != ErrorKind::Damaged {
        return super::hint_about(backup, "the backup", error);
    }
    Some(format!(
        "restore another backup; `betcode-db --db {} export --salvage --out DIR` writes what can \
         be read of this one",
        backup.display()
    ))
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    let database = context.database()?;
    let progress = context.out.progress("restoring", 0, Unit::Count);
    let report = betcode_storage::restore(&args.file, &database, args.replace, &mut |at| {
        progress.at_of(at.messages_done, at.messages);
        context.interrupt.flow()
    });
    let report = report.map_err(|error| {
        let hint = hint_about_backup(&args.file, &error);
        let failure = super::copy_failure(error, "nothing was changed");
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
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
