//! `report`: size against the limit, growth beside the plan, forecast, biggest sessions.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use betcode_storage::capacity::report;
use betcode_storage::capacity::report::CapacityReport;
use betcode_storage::{Surroundings, belongs_to_database, resolve_links};
use serde::Serialize;

use super::{Context, folder_of};
use crate::daemon::DaemonStatus;
use crate::error::{Exit, Failure, Result};
use crate::output::{Out, format};

/// Show size, growth, forecast and what takes the room
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Footprint is what the database takes (file and write-ahead log) against what the same \
history takes as uncompacted rows. A session-hour is an hour of active time: gaps between \
messages, each counted up to five minutes, and turns of imported streams, as long as their results \
say. The numbers are kept with each commit: the report \
takes the same time whatever the size.")]
pub struct Args {
    /// Write a table for spreadsheets instead: section,name,field,value
    #[arg(long, conflicts_with = "prometheus")]
    csv: bool,
    /// Write metrics for Prometheus instead
    #[arg(long)]
    prometheus: bool,
    /// Also write a page to look at in a browser; it needs no network
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

impl Args {
    /// The option that asks for something else than JSON.
    pub(super) fn not_json(&self) -> Option<&'static str> {
        match (self.csv, self.prometheus) {
            (true, _) => Some("--csv"),
            (_, true) => Some("--prometheus"),
            _ => None,
        }
    }

    /// Refuses a page on stdout beside what a program is to read there: it could read neither.
    fn check_stdout(&self, json: bool) -> Result<()> {
        let there = self.html.as_deref().map(std::fs::metadata);
        if !there.is_some_and(|there| there.as_ref().is_ok_and(is_stdout)) {
            return Ok(());
        }
        match self.not_json().or(json.then_some("--json")) {
            Some(other) => {
                let what = format!("--html cannot write to stdout beside {other}");
                let hint = "name a file for the page, or leave one of the two out";
                Err(Failure::new(Exit::Usage, what).hint(hint))
            }
            None => Ok(()),
        }
    }
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    args.check_stdout(context.global.json)?;
    let mut daemon = context.daemon_status()?;
    let (_, capacity) = context.judge(daemon.as_ref())?;
    if let Some(daemon) = &mut daemon {
        daemon.agree_with(&capacity);
    }
    if let Some(file) = &args.html {
        write_page(file, report::html(&capacity).as_bytes(), context.out)?;
    }
    if args.csv {
        context.out.raw(report::csv(&capacity).as_bytes());
    } else if args.prometheus {
        context.out.raw(report::prometheus(&capacity).as_bytes());
    } else {
        context.out.json(&Reported {
            capacity: &capacity,
            daemon: daemon.as_ref(),
        });
        context.out.text(&report::text(&capacity));
        if let Some(daemon) = &daemon {
            show_daemon(context.out, daemon);
        }
        show_reserve(context.out, &context.global.database()?);
        if capacity.messages == 0 {
            context.out.line("");
            context
                .out
                .line("Record some history with `betcode-db import PATH`");
        }
    }
    if let Some(file) = &args.html {
        context.out.remark(format!("wrote {}", file.display()));
    }
    Ok(Exit::Ok)
}

/// The store's report, and what only its daemon knows.
#[derive(Serialize)]
struct Reported<'a> {
    #[serde(flatten)]
    capacity: &'a CapacityReport,
    daemon: Option<&'a DaemonStatus>,
}

/// What stands beside the database and is in none of the sizes.
fn show_reserve(out: &mut Out, database: &Path) {
    let kept = Surroundings::of(database).reserve_bytes.unwrap_or(0);
    if kept > 0 {
        out.line("");
        out.line(format!(
            "Beside it   {} for a full disk in {}-reserve, given up when needed",
            format::bytes(kept),
            database.file_name().unwrap_or_default().to_string_lossy()
        ));
    }
}

fn show_daemon(out: &mut Out, daemon: &DaemonStatus) {
    out.line("");
    let running = format!("Daemon      process {}", daemon.pid);
    if let Some(why) = &daemon.unreachable {
        out.line(format!("{running}, which cannot be asked: {why}"));
        return;
    }
    let runs = format::counted(daemon.compaction_runs, "run");
    out.line(format!(
        "{running}; compaction {}, {runs}",
        daemon.compaction
    ));
    if let Some(why) = &daemon.compaction_error {
        out.line(format!("            its last compaction failed: {why}"));
    }
    for level in &daemon.levels {
        out.line(format!(
            "  {:<12} {:>9} of {:<9} {}",
            level.resource.replace('_', " "),
            level.amount(level.used),
            level.amount(level.limit),
            level.level
        ));
    }
    for stage in daemon.stages.iter().filter(|stage| stage.count > 0) {
        let budget = match stage.budget_ms > 0.0 {
            true => format!("; budget {:.0} ms at p95", stage.budget_ms),
            false => String::new(),
        };
        let verdict = if stage.is_slow() { ": OVER" } else { "" };
        out.line(format!(
            "  {:<12} p50 {:.1}, p95 {:.1}, p99 {:.1} ms, {} times{budget}{verdict}",
            stage.stage,
            stage.p50_ms,
            stage.p95_ms,
            stage.p99_ms,
            format::count(stage.count)
        ));
    }
}

/// Writes a page that only its owner may read, for it names sessions and directories: whole or not at
/// all. What is no file, such as a pipe, is written to, and so is stdout wherever it leads: replaced
/// by a new file, it would take the rest of what this process writes with it.
fn write_page(path: &Path, page: &[u8], out: &mut Out) -> Result<()> {
    let failed = |error: &std::io::Error| Failure::io("write", path, error);
    let there = std::fs::metadata(path);
    if there.as_ref().is_ok_and(is_stdout) {
        out.raw(page);
        return Ok(());
    }
    // Under the name that was given: the link of an open pipe leads to no path.
    if there.is_ok_and(|there| !there.is_file()) {
        return std::fs::write(path, page).map_err(|e| failed(&e));
    }
    let target = resolve_links(path);
    if belongs_to_database(&target) {
        return Err(Failure::database_in_the_way(path));
    }
    // Such a file is born with mode 0600, and gone if this fails half-way.
    let mut file = tempfile::NamedTempFile::new_in(folder_of(&target)).map_err(|e| failed(&e))?;
    file.write_all(page)
        .and_then(|()| file.as_file().sync_all())
        .map_err(|e| failed(&e))?;
    file.persist(&target).map_err(|e| failed(&e.error))?;
    Ok(())
}

/// Whether it is what this process writes its results to.
fn is_stdout(there: &std::fs::Metadata) -> bool {
    let stdout = std::io::stdout().as_fd().try_clone_to_owned();
    let stdout = stdout.and_then(|stdout| File::from(stdout).metadata());
    stdout.is_ok_and(|stdout| (stdout.dev(), stdout.ino()) == (there.dev(), there.ino()))
}
