//! `export`: sessions back into files.

use std::path::PathBuf;

use super::{Context, resolve};
use crate::error::{Exit, Result};
use crate::export::{ExportOptions, export};
use crate::output::{Unit, format};

/// Write sessions back into files, byte for byte
#[derive(Debug, clap::Args)]
#[command(after_help = "\
An imported session is written under the path it had below the imported folder, any other as \
ID.jsonl. Files are written whole or not at all; one that stands there with the same bytes \
is left alone.")]
pub struct Args {
    /// Folder to write to; created when missing
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// Export only this session: its id, unique part of it, or name (repeatable)
    #[arg(long, short, value_name = "ID")]
    session: Vec<String>,
    /// Replace files that hold something else
    #[arg(long)]
    force: bool,
    /// Of a damaged session, write what can be read, as NAME.salvaged.jsonl
    #[arg(long)]
    salvage: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    let store = context.open_read_only()?;
    let sessions = args
        .session
        .iter()
        .map(|s| resolve(&store, s))
        .collect::<Result<_>>()?;
    let options = ExportOptions {
        sessions,
        force: args.force,
        salvage: args.salvage,
    };
    let progress = context.out.progress("exporting", 0, Unit::Bytes);
    let summary = export(&store, &args.out, &options, &mut |at| {
        progress.at_of(at.bytes_done, at.bytes);
        context.interrupt.flow()
    })?;
    drop(progress);
    context.out.json(&summary);
    context.out.line(format!(
        "Exported {}, {}, {} in {} ({}) to {}",
        format::counted(summary.sessions, "session"),
        format::counted(summary.messages, "message"),
        format::bytes(summary.bytes),
        format::seconds(summary.seconds),
        format::rate(summary.bytes, summary.seconds),
        summary.out
    ));
    if summary.unchanged > 0 {
        context.out.line(format!(
            "  {} stood there already, the same bytes",
            format::counted(summary.unchanged, "file")
        ));
    }
    for failed in &summary.failed {
        let what = format!("not exported: {} to {}", failed.session, failed.path);
        let out = &mut *context.out;
        out.warn(what, Some(&failed.why), Some(&failed.hint));
    }
    for salvaged in &summary.salvaged {
        let missing: Vec<_> = salvaged
            .missing
            .iter()
            .map(|run| match run.first_sequence == run.last_sequence {
                true => run.first_sequence.to_string(),
                false => format!("{}–{}", run.first_sequence, run.last_sequence),
            })
            .collect();
        context.out.line(format!(
            "Salvaged {} of {} to {}; missing: {}",
            format::counted(salvaged.messages, "message"),
            salvaged.session,
            salvaged.path,
            missing.join(", ")
        ));
    }
    if summary.interrupted {
        let what = "interrupted: the files written are whole; export again to go on";
        context.out.warn(what, None, None);
    }
    Ok(summary.exit())
}
