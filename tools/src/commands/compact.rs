//! `compact`: messages into compressed segments, and the space back to the disk.

use std::time::Duration;

use betcode_storage::capacity::report::CapacityReport;
use betcode_storage::limits::{COMPACTION_THREADS_MAX, FOOTPRINT_TARGET};
use betcode_storage::{
    CompactionOutcome, CompactionPlan, CompactionRequest, SessionFailure, SessionId, Tier,
    compaction_threads,
};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::json;

use super::{Context, resolve};
use crate::error::{Exit, Result};
use crate::limits::{self, LISTED_MAX};
use crate::output::{Out, Unit, Via, format};

/// Compress messages losslessly and give the space back
#[derive(Debug, clap::Args)]
#[command(after_help = "\
What is compressed is decompressed again and compared byte for byte before the original rows \
go. Stopping at any moment, even by kill -9, loses nothing.")]
pub struct Args {
    /// Compact only this session: its id, unique part of it, or name
    #[arg(long, short, value_name = "ID")]
    session: Option<String>,
    /// How much effort: `quick` is several times faster, `deep` smaller
    #[arg(long, value_enum, default_value_t = TierArg::Deep)]
    tier: TierArg,
    /// Threads that compress; by default one for each core but one, at most 4. What they make is
    /// the same. A daemon that compacts for this command uses one
    #[arg(long, value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=COMPACTION_THREADS_MAX as i64))]
    threads: Option<u32>,
    /// Show what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TierArg {
    Quick,
    Deep,
}

/// Runs the command.
pub(super) fn run(args: &Args, mut context: Context<'_>) -> Result<Exit> {
    // A plan is a read, which needs no daemon.
    let daemon = if args.dry_run {
        context.out.set_via(Via::File);
        None
    } else {
        context.daemon()?
    };
    let store = if args.dry_run {
        context.open_read_only()?
    } else {
        context.open_beside(daemon.as_ref())?
    };
    let tier = match args.tier {
        TierArg::Quick => Tier::Quick,
        TierArg::Deep => Tier::Deep,
    };
    let session = args
        .session
        .as_deref()
        .map(|s| resolve(&store, s))
        .transpose()?;
    let request = CompactionRequest {
        session,
        tier,
        threads_max: args
            .threads
            .map_or_else(compaction_threads, |threads| threads as usize),
        ..CompactionRequest::manual()
    };
    if args.dry_run {
        let plan = store.plan_compaction(&request)?;
        let report = store.capacity_report()?;
        let saved = Saved {
            bytes: saves_bytes(&plan, request.session.as_ref(), &report),
            basis: report.by_the_plan(),
        };
        let free_bytes = store.space()?.free_bytes;
        show_plan(context.out, &plan, free_bytes, &saved);
        return Ok(Exit::Ok);
    }
    let progress = context.out.progress("compacting", 0, Unit::Bytes);
    let interrupt = context.interrupt;
    let compacted = match daemon {
        Some(daemon) => {
            let session = request.session.as_ref();
            daemon.compact_in_turn(
                session,
                tier,
                Duration::from_millis(limits::COMPACT_WAIT_MS_MAX),
                &mut |at| {
                    if let Some((done, all)) = at {
                        progress.at_of(done, all);
                    }
                    interrupt.flow()
                },
            )?
        }
        None => store.compact(&request, &mut |at| {
            progress.at_of(at.raw_bytes_done, at.raw_bytes);
            interrupt.flow()
        })?,
    };
    drop(progress);
    store.close()?;
    let outcome = Outcome::from(compacted);
    context.out.json(&outcome);
    show(context.out, &outcome);
    Ok(match (outcome.interrupted, outcome.failures.is_empty()) {
        (true, _) => Exit::Interrupted,
        (false, true) => Exit::Ok,
        (false, false) => Exit::Problems,
    })
}

/// The result of a compaction, made by this process or by the daemon. The fields of `compact --json`.
#[derive(Serialize)]
struct Outcome {
    bytes_before: u64,
    bytes_after: u64,
    messages: u64,
    segments: u64,
    raw_bytes: u64,
    segments_replaced: u64,
    seconds: f64,
    failures: Vec<NotCompacted>,
    interrupted: bool,
}

/// A session left as it is.
#[derive(Serialize)]
struct NotCompacted {
    session: String,
    why: String,
}

impl From<CompactionOutcome> for Outcome {
    fn from(outcome: CompactionOutcome) -> Self {
        let not_compacted = |failure: SessionFailure| NotCompacted {
            session: failure.session.to_string(),
            why: failure.why,
        };
        Self {
            bytes_before: outcome.bytes_before,
            bytes_after: outcome.bytes_after,
            messages: outcome.messages,
            segments: outcome.segments,
            raw_bytes: outcome.raw_bytes,
            segments_replaced: outcome.segments_replaced,
            seconds: outcome.seconds,
            failures: outcome.failures.into_iter().map(not_compacted).collect(),
            interrupted: outcome.cancelled,
        }
    }
}

/// Shows what a compaction did.
fn show(out: &mut Out, outcome: &Outcome) {
    let took = format!(
        "took {} and takes {} now",
        format::bytes(outcome.bytes_before),
        format::bytes(outcome.bytes_after)
    );
    let nothing = match (outcome.interrupted, outcome.failures.is_empty()) {
        (false, true) => "Nothing to compact",
        _ => "Nothing was compacted",
    };
    if outcome.messages == 0 && outcome.bytes_after < outcome.bytes_before {
        out.line(format!(
            "{nothing}; space was given back: the database {took}"
        ));
    } else if outcome.messages == 0 {
        out.line(format!(
            "{nothing}; the database takes {}",
            format::bytes(outcome.bytes_after)
        ));
    } else {
        out.line(format!(
            "Compacted {} ({}) into {} in {} ({})",
            format::counted(outcome.messages, "message"),
            format::bytes(outcome.raw_bytes),
            format::counted(outcome.segments, "segment"),
            format::seconds(outcome.seconds),
            format::rate(outcome.raw_bytes, outcome.seconds)
        ));
        out.line(format!("The database {took}"));
    }
    for NotCompacted { session, why } in &outcome.failures {
        let what = format!("not compacted: {session}, left as it is");
        out.warn(what, Some(why), Some("betcode-db verify"));
    }
    if outcome.interrupted {
        let what = "interrupted: what was compacted stays; compact again to continue";
        out.warn(what, None, None);
    }
}

/// What the steps would save, about: of the whole store what `report` and `doctor` say, of a session what
/// its history would take at the same ratio. What recompressing segments saves is not known in advance.
fn saves_bytes(plan: &CompactionPlan, session: Option<&SessionId>, report: &CapacityReport) -> u64 {
    if plan.batches.is_empty() {
        return 0;
    }
    if session.is_none() {
        return report.compactable_bytes;
    }
    let raw_bytes: u64 = plan.steps().map(|step| step.raw_bytes).sum();
    let stored_bytes: u64 = plan.steps().map(|step| step.stored_bytes).sum();
    let left = report.compacted_ratio().unwrap_or(FOOTPRINT_TARGET);
    stored_bytes.saturating_sub((raw_bytes as f64 * left) as u64)
}

/// What a compaction would save, about.
struct Saved {
    bytes: u64,
    /// What follows the figure, if it is not by what was measured.
    basis: String,
}

fn show_plan(out: &mut Out, plan: &CompactionPlan, free_bytes: u64, saved: &Saved) {
    let steps: Vec<_> = plan
        .steps()
        .map(|step| {
            json!({
                "session": step.session.as_str(),
                "first_sequence": step.first_sequence,
                "last_sequence": step.last_sequence,
                "raw_bytes": step.raw_bytes,
                "stored_bytes": step.stored_bytes,
                "tier": step.tier.name(),
                "replaces_segments": step.replaces_segments,
                "hot_messages": step.hot_messages,
            })
        })
        .collect();
    let raw_bytes: u64 = plan.steps().map(|s| s.raw_bytes).sum();
    let stored_bytes: u64 = plan.steps().map(|s| s.stored_bytes).sum();
    let document = json!({
        "dry_run": true, "raw_bytes": raw_bytes, "stored_bytes": stored_bytes, "steps": steps,
        "free_bytes": free_bytes, "saves_bytes_estimate": saved.bytes,
    });
    out.json(&document);
    if plan.batches.is_empty() {
        out.line("Nothing to compact");
    }
    if free_bytes > 0 {
        out.line(format!(
            "Would give {} of free pages back to the disk",
            format::bytes(free_bytes)
        ));
    }
    if plan.batches.is_empty() {
        return;
    }
    out.line(format!(
        "Would write {} from {} that take {} now",
        format::counted(plan.steps().count() as u64, "segment"),
        format::bytes(raw_bytes),
        format::bytes(stored_bytes)
    ));
    if saved.bytes > 0 {
        let anew = plan.steps().any(|step| step.replaces_segments > 0);
        out.line(format!(
            "Would save about {}{}{}",
            format::bytes(saved.bytes),
            saved.basis,
            if anew {
                ", and more by compressing segments anew"
            } else {
                ""
            }
        ));
    }
    for step in plan.steps().take(LISTED_MAX) {
        out.line(format!(
            "  {:<6} {:>9}  {} {}–{}",
            step.tier.name(),
            format::bytes(step.raw_bytes),
            step.session,
            step.first_sequence,
            step.last_sequence
        ));
    }
    let more = plan.steps().count().saturating_sub(LISTED_MAX) as u64;
    if more > 0 {
        out.line(format!("  … and {} more", format::count(more)));
    }
}
