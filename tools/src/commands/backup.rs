//! `backup`: a verified copy, while writing goes on.

use std::path::PathBuf;

use serde_json::json;

use super::Context;
use crate::error::{Exit, Result};
use crate::output::{Unit, format};

/// Copy the database into a file, verified, while writing goes on
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The file to create; one that exists is never overwritten
    file: PathBuf,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    let store = context.open_read_only()?;
    let progress = context.out.progress("backing up", 0, Unit::Count);
    let report = store.backup(&args.file, &mut |at| {
        progress.at_of(at.messages_done, at.messages);
        context.interrupt.flow()
    })?;
    drop(progress);
    context.out.json(&json!({
        "file": args.file.display().to_string(),
        "bytes": report.bytes,
        "sessions": report.sessions,
        "messages": report.messages,
    }));
    context.out.line(format!(
        "Backed up {}, {} to {} ({}), verified",
        format::counted(report.sessions, "session"),
        format::counted(report.messages, "message"),
        args.file.display(),
        format::bytes(report.bytes)
    ));
    Ok(Exit::Ok)
}
