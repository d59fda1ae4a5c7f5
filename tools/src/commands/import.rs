//! `import`: files of agent lines into sessions.

use std::path::PathBuf;
use std::time::Duration;

use betcode_storage::capacity::report::CapacityReport;
use betcode_storage::limits::{PAYLOAD_BYTES_MAX_CEILING, PAYLOAD_BYTES_MAX_DEFAULT};
use betcode_storage::{Store, StoreOptions, Surroundings};

use super::Context;
use crate::cli::{age, size};
use crate::error::{Exit, Failure, Result};
use crate::import::{ImportOptions, ImportPlan, ImportSummary, ImportTarget, import};
use crate::limits::LISTED_MAX;
use crate::output::{Out, Unit, format};

/// Record files of agent lines; run again, only what is new
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A last line without a newline is imported as it is: the file may never get more. When a later \
import finds the line completed, the rest becomes a message of its own, because recorded messages \
never change. Export joins the two again; search and report see them apart.

A file is recognised by its path and by the bytes that were imported: copies, also older ones, exports \
and folders that were moved or renamed have nothing new. A file that is itself renamed becomes another \
session.

What was deleted, or removed by retain, is imported again as long as its file is there. Delete the file \
too, or leave old files alone with --modified-within.")]
pub struct Args {
    /// Files, or folders that hold *.jsonl and *.ndjson files, such as ~/.claude/projects
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// If the part of a file that was imported before has changed, import the file as a new session
    /// instead of skipping it
    #[arg(long)]
    as_new: bool,
    /// Also import files that look like databases, programs or archives
    #[arg(long)]
    binary: bool,
    /// Only files modified within this time, such as 90d, 12w or 1y, and those that were imported before
    #[arg(long, value_name = "AGE", value_parser = age)]
    modified_within: Option<i64>,
    /// Longest line to import: by default 10MiB, at most 100MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    #[arg(default_value_t = PAYLOAD_BYTES_MAX_DEFAULT as u64, hide_default_value = true)]
    max_payload_bytes: u64,
}

/// Runs the command.
pub(super) fn run(args: &Args, mut context: Context<'_>) -> Result<Exit> {
    let payload_bytes_max = usize::try_from(args.max_payload_bytes).unwrap_or(usize::MAX);
    if !(1..=PAYLOAD_BYTES_MAX_CEILING).contains(&payload_bytes_max) {
        return Err(
            Failure::new(Exit::Usage, "--max-payload-bytes is out of range")
                .why(format!(
                    "{} is not between 1 and 100 MiB",
                    args.max_payload_bytes
                ))
                .hint("give 100MiB or less"),
        );
    }
    let plan = ImportPlan::find(&args.paths, &mut || context.interrupt.flow())?;
    let options = ImportOptions {
        as_new: args.as_new,
        binary: args.binary,
        payload_bytes_max,
        modified_within: args
            .modified_within
            .map(|ms| Duration::from_millis(ms.unsigned_abs())),
    };
    let store_options = StoreOptions {
        payload_bytes_max,
        // It compacts whenever space runs out, so levels come and go. Only the last one is logged.
        logs_levels: false,
        ..context.global.options()
    };
    let daemon = context.daemon()?;
    let store = match &daemon {
        Some(_) => context.open_read_only()?,
        None => Store::open(&context.database()?, store_options)?,
    };
    let target = ImportTarget::of(&store, daemon.as_ref());
    let progress = context.out.progress("importing", 0, Unit::Bytes);
    let summary = import(&store, target, plan, &options, &mut |at| {
        progress.now(if at.compacting {
            "compacting"
        } else {
            "importing"
        });
        progress.at_of(at.bytes_done, at.bytes);
        context.interrupt.flow()
    });
    drop(progress);
    if summary.is_ok() {
        store.warn_of_capacity();
    }
    // A daemon compacts by itself.
    let report = match (&summary, &daemon) {
        (Ok(summary), None) if summary.messages > 0 => store.capacity_report().ok(),
        _ => None,
    };
    let database = store.path().to_owned();
    let closed = store.close();
    let summary = summary?;
    closed?;
    context.out.json(&summary);
    show(context.out, &summary);
    if summary.messages > 0 {
        show_size(context.out, &Surroundings::of(&database), report.as_ref());
    }
    Ok(summary.exit())
}

/// Shows the database's size, and what compacting would save if that is more than a tenth of it.
fn show_size(out: &mut Out, around: &Surroundings, report: Option<&CapacityReport>) {
    let bytes = around.database_bytes + around.wal_bytes;
    let takes = format!("The database takes {}", format::bytes(bytes));
    out.line(match report {
        Some(report) if report.compactable_bytes > bytes / 10 => format!(
            "{takes}; `betcode-db compact` makes that about {} less{}",
            format::bytes(report.compactable_bytes),
            report.by_the_plan()
        ),
        _ => takes,
    });
}

/// Shows what an import did.
fn show(out: &mut Out, summary: &ImportSummary) {
    let took = if summary.messages == 0 && summary.sessions == 0 {
        match summary.resumed {
            0 if summary.unchanged == 0 && !summary.skipped.is_empty() => {
                "Nothing was imported".to_owned()
            }
            0 => {
                let looked_at = summary.files - summary.left_old;
                format!("Nothing new in {}", format::counted(looked_at, "file"))
            }
            // A file that was resumed without a new message has only got the end of its last line.
            ended => format!(
                "Imported the end of the last line of {}, and no new message",
                format::counted(ended, "file")
            ),
        }
    } else {
        format!(
            "Imported {}, {}, {} in {} ({})",
            format::counted(summary.sessions, "session"),
            format::counted(summary.messages, "message"),
            format::bytes(summary.bytes),
            format::seconds(summary.seconds),
            format::rate(summary.bytes, summary.seconds)
        )
    };
    out.line(took);
    if summary.sessions > 0 && (summary.resumed > 0 || summary.unchanged > 0) {
        let counts = [
            (summary.resumed, "had grown"),
            (summary.unchanged, "had nothing new"),
        ];
        let said = counts.into_iter().filter(|(files, _)| *files > 0);
        let said: Vec<_> = said
            .map(|(files, what)| format!("{} {what}", format::counted(files, "file")))
            .collect();
        out.line(format!("  {}", said.join(", ")));
    }
    if summary.left_old > 0 {
        out.line(format!(
            "  {} left alone: not modified within the time given",
            format::counted(summary.left_old, "file")
        ));
    }
    show_skipped(out, summary);
    if summary.interrupted {
        let what = "interrupted: run the same command again to continue";
        out.warn(what, None, None);
    }
}

/// Shows on stderr what was not imported.
pub(super) fn show_skipped(out: &mut Out, summary: &ImportSummary) {
    for skipped in summary.skipped.iter().take(LISTED_MAX) {
        let line = skipped.line.map(|n| format!(":{n}")).unwrap_or_default();
        let what = format!("skipped: {}{line}", skipped.path);
        out.warn(what, Some(&skipped.why), Some(&skipped.hint));
    }
    if summary.skipped.len() > LISTED_MAX {
        let more = (summary.skipped.len() - LISTED_MAX) as u64;
        let what = format!("and {} more; --json lists them all", format::count(more));
        out.warn(what, None, None);
    }
}
