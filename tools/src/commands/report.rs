//! `report`: size, footprint and growth.

use super::Context;
use crate::error::{Exit, Result};
use crate::report::{Report, render};

/// Show size, footprint and growth
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Footprint is what the database takes (file and write-ahead log) against what the same \
history takes as uncompacted rows. A session-hour is an hour of active time: gaps between \
messages, each counted up to five minutes. The numbers are kept with each commit: the report \
takes the same time whatever the size.")]
pub struct Args {
    /// Biggest sessions to list
    #[arg(long, value_name = "N", default_value_t = 5)]
    top: usize,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    let store = context.open_read_only()?;
    let report = Report::of(&store, args.top)?;
    context.out.json(&report);
    for line in render::lines(&report) {
        context.out.line(line);
    }
    Ok(Exit::Ok)
}
