//! `backup`: a verified copy, while writing goes on.

use std::path::PathBuf;

use betcode_storage::BackupReport;
use serde_json::json;

use super::{Context, for_a_shell};
use crate::error::{Exit, Failure, Result};
use crate::output::{Unit, format};

/// Copy the database into a file, verified, while writing goes on
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The copy is as of one moment, compact, and read back in full before it gets its name. It needs \
as much room as the database without its free bytes. It is a database like any other: \
`betcode-db --db FILE sessions` looks into it, `betcode-db restore FILE` brings it back.")]
pub struct Args {
    /// The file to create; one that exists is never overwritten
    file: PathBuf,
}

/// Runs the command.
pub(super) fn run(args: &Args, mut context: Context<'_>) -> Result<Exit> {
    let file = std::path::absolute(&args.file)
        .map_err(|error| Failure::io("find the folder of", &args.file, &error))?;
    if file.is_dir() {
        let what = format!("{} is a folder", args.file.display());
        let inside = args.file.join("history.db");
        return Err(Failure::new(Exit::Conflict, what).hint(format!(
            "name the file to create, such as {}",
            inside.display()
        )));
    }
    // A path that is mistyped, or whose disk is not there, would put the copy beside its original.
    if let Some(folder) = file.parent().filter(|folder| !folder.exists()) {
        return Err(Failure::new(Exit::NotFound, "no backup was made")
            .why(format!("there is no folder {}", folder.display()))
            .hint(format!(
                "check the path, and whether its disk is mounted; or make the folder: mkdir -p {}",
                for_a_shell(folder)
            )));
    }
    let daemon = context.daemon()?;
    let progress = context.out.progress("backing up", 0, Unit::Count);
    let interrupt = context.interrupt;
    let report = match daemon {
        Some(daemon) => {
            let file = file.to_str().ok_or_else(|| {
                Failure::new(Exit::Usage, "a daemon takes no such path")
                    .why(format!("{} is not UTF-8", file.display()))
                    .hint("choose another name, or give --direct")
            })?;
            let done = daemon.backup(file, &mut |at| {
                if let Some((done, all)) = at {
                    progress.at_of(done, all);
                }
                interrupt.flow()
            })?;
            BackupReport {
                bytes: done.bytes,
                sessions: done.sessions,
                messages: done.messages,
                raw_bytes: done.raw_bytes,
                moved_aside: None,
            }
        }
        None => {
            let store = context.open_read_only()?;
            let done = store.backup(&args.file, &mut |at| {
                progress.at_of(at.messages_done, at.messages);
                interrupt.flow()
            });
            done.map_err(|error| super::copy_failure(error, "no backup was made"))?
        }
    };
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
