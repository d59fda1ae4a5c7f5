//! `retain`: sessions that go by age, by size or by name; shown first, archived when asked.

use std::path::{Path, PathBuf};

use betcode_storage::capacity::retention::{IDLE_MS_MIN_DEFAULT, RetentionPlan, RetentionPolicy};
use betcode_storage::{
    RetentionOutcome, RetentionPhase, SessionFilter, SessionId, Store, StoreError, resolve_links,
};
use chrono::Utc;
use serde_json::{Value, json};

use super::{Context, resolve};
use crate::cli::{age, size};
use crate::error::{Exit, Failure, Result};
use crate::limits::LISTED_MAX;
use crate::output::{Out, format};

/// Remove old sessions by age or total size; can archive them first
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shows what would go and why; removes only with --yes. Sessions used during the last day stay, \
unless they are named. Being imported counts as use, however old the lines are. An archive is a \
history store of its own, on which every command works (--db ARCHIVE); each session is compared with \
it byte for byte, with the times its messages were received and what is known of it, before it is \
removed; of one that was imported anew since it was archived, the archive keeps the first times. \
The next import of a file that is still there takes its session again: delete the file, or import \
with --modified-within.")]
pub struct Args {
    /// Remove sessions not used for this long, such as 90d, 12w or 1y
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Option<i64>,
    /// Remove the longest-unused sessions until the rest takes at most this much
    #[arg(long, value_name = "SIZE", value_parser = size)]
    keep_bytes: Option<u64>,
    /// Remove this session: its id, unique part of it, or name (repeatable)
    #[arg(long = "session", short, value_name = "ID")]
    sessions: Vec<String>,
    /// Copy them into this archive first, compressed and compared
    #[arg(long, value_name = "FILE")]
    archive: Option<PathBuf>,
    /// Actually do it; without this, only the plan is shown
    #[arg(long)]
    yes: bool,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    if args.older_than.is_none() && args.keep_bytes.is_none() && args.sessions.is_empty() {
        return Err(
            Failure::new(Exit::Usage, "there is no rule by which to remove sessions")
                .hint("give --older-than 90d, --keep-bytes 500MB or --session ID"),
        );
    }
    let store = if args.yes {
        context.open()?
    } else {
        context.open_read_only()?
    };
    let policy = RetentionPolicy {
        age_ms_max: args.older_than,
        stored_bytes_max: args.keep_bytes,
        sessions: named(&store, &args.sessions)?,
        ..RetentionPolicy::default()
    };
    let plan = store.plan_retention(&policy).map_err(refused)?;
    let staying = match plan.over_bytes {
        0 => None,
        _ => Some(Staying::of(&store, &plan)?),
    };
    if !args.yes {
        context.out.json(&document(&plan, None, args));
        show_plan(context.out, &plan, staying.as_ref());
        if !plan.removals.is_empty() {
            context
                .out
                .line("Nothing was removed. Give --yes to do it.");
        }
        return Ok(Exit::Ok);
    }
    let outcome = carry_out(&store, &plan, args, &context)?;
    store.close()?;
    context.out.json(&document(&plan, Some(&outcome), args));
    show_plan(context.out, &plan, staying.as_ref());
    show_outcome(context.out, &outcome, args);
    if outcome.cancelled {
        let what = "interrupted: what was removed is gone; run the same command again to go on";
        context.out.warn(what, None, None);
    }
    Ok(match (outcome.cancelled, outcome.kept.is_empty()) {
        (true, _) => Exit::Interrupted,
        (false, true) => Exit::Ok,
        (false, false) => Exit::Problems,
    })
}

/// A rule that would remove everything, or what was just written.
fn refused(error: StoreError) -> Failure {
    let is_rule = matches!(error, StoreError::InvalidArgument { .. });
    let failure = Failure::from(error);
    match is_rule {
        true => failure.hint("give --older-than 1d or more, or a --keep-bytes above 0"),
        false => failure,
    }
}

/// All are looked up before anything is done: a misspelt id removes nothing.
fn named(store: &Store, texts: &[String]) -> Result<Vec<SessionId>> {
    texts.iter().map(|text| resolve(store, text)).collect()
}

fn carry_out(
    store: &Store,
    plan: &RetentionPlan,
    args: &Args,
    context: &Context<'_>,
) -> Result<RetentionOutcome> {
    let interrupt = context.interrupt;
    let mut before_removing = true;
    let outcome = store.retain(plan, args.archive.as_deref(), &mut |at| {
        before_removing = at.phase != RetentionPhase::Removing;
        interrupt.flow()
    });
    outcome.map_err(|error| {
        let hint = args
            .archive
            .as_deref()
            .and_then(|archive| hint_about_archive(archive, &error));
        let failure = Failure::from(error);
        let failure = match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        };
        if before_removing {
            failure.during("nothing was removed")
        } else {
            failure
        }
    })
}

fn hint_about_archive(archive: &Path, error: &StoreError) -> Option<String> {
    match error {
        StoreError::DiskFull { path, .. } if *path == resolve_links(archive) => Some(format!(
            "free space on that disk and run the command again: it goes on with what stands in {}; \
             or delete that, it holds only copies, and name an archive on another disk",
            archive.display()
        )),
        _ => super::hint_about(archive, "the archive", error),
    }
}

fn document(plan: &RetentionPlan, outcome: Option<&RetentionOutcome>, args: &Args) -> Value {
    let mut kept: Vec<_> = plan.kept.iter().collect();
    kept.extend(outcome.iter().flat_map(|outcome| &outcome.kept));
    let archive_bytes = outcome.and_then(|outcome| outcome.archive_bytes);
    json!({
        "dry_run": outcome.is_none(),
        "removals": plan.removals,
        "removed": outcome.map(|outcome| &outcome.removed),
        "kept": kept,
        "stored_bytes_before": plan.stored_bytes_before,
        "stored_bytes_after": plan.stored_bytes_after,
        "over_bytes": plan.over_bytes,
        "clock_ahead": plan.clock_ahead,
        // If nothing is to be removed, no archive is created.
        "archive": args.archive.as_ref().filter(|_| archive_bytes.is_some() || outcome.is_none())
            .map(|path| path.display().to_string()),
        "archive_bytes": archive_bytes,
        "archived_before": outcome.map(|outcome| {
            let ids = outcome.archived_before.iter();
            ids.map(SessionId::as_str).collect::<Vec<_>>()
        }),
        "interrupted": outcome.is_some_and(|outcome| outcome.cancelled),
    })
}

fn show_plan(out: &mut Out, plan: &RetentionPlan, staying: Option<&Staying>) {
    if plan.clock_ahead {
        out.line("The clock is far ahead of the newest session and was not believed.");
    }
    if plan.removals.is_empty() {
        out.line("No session is to go.");
    }
    for removal in plan.removals.iter().take(LISTED_MAX) {
        out.line(removal.session_id.as_str());
        out.line(format!(
            "  {:>9} {:>8}  {}",
            format::count(removal.messages),
            format::bytes(removal.stored_bytes),
            removal.reason
        ));
    }
    if plan.removals.len() > LISTED_MAX {
        out.line(format!("and {} more", plan.removals.len() - LISTED_MAX));
    }
    if !plan.removals.is_empty() {
        out.line(format!(
            "{} of {} to go: {} stored before, {} after",
            format::counted(plan.removals.len() as u64, "session"),
            format::bytes(plan.stored_bytes_before - plan.stored_bytes_after),
            format::bytes(plan.stored_bytes_before),
            format::bytes(plan.stored_bytes_after)
        ));
    }
    if let Some(staying) = staying {
        let over = format::bytes(plan.over_bytes);
        out.line(format!("{over} over the size stay: {}", staying.why()));
        out.line("Sessions that are named with --session go all the same.");
    }
}

/// Why sessions stay although the rest stores more than it may.
#[derive(Default)]
struct Staying {
    imported: u64,
    used: u64,
}

impl Staying {
    fn of(store: &Store, plan: &RetentionPlan) -> Result<Self> {
        let recent_ms = Utc::now().timestamp_millis() - IDLE_MS_MIN_DEFAULT;
        let goes = |id: &SessionId| plan.removals.iter().any(|one| one.session_id == *id);
        let mut staying = Self::default();
        for session in store.sessions(&SessionFilter::default())?.sessions {
            if goes(&session.id) {
                continue;
            }
            let said_lately = session.last_time_ms.is_some_and(|said| said > recent_ms);
            match session.updated_ms > recent_ms && !said_lately {
                true => staying.imported += 1,
                false => staying.used += 1,
            }
        }
        Ok(staying)
    }

    fn why(&self) -> String {
        let counts = [
            (self.imported, "imported within the last day"),
            (self.used, "in use"),
        ];
        let counts = counts.into_iter().filter(|(sessions, _)| *sessions > 0);
        let said: Vec<_> = counts
            .map(|(sessions, why)| format!("{} {why}", format::counted(sessions, "session")))
            .collect();
        said.join(", ")
    }
}

fn show_outcome(out: &mut Out, outcome: &RetentionOutcome, args: &Args) {
    if let (Some(path), Some(bytes)) = (&args.archive, outcome.archive_bytes) {
        out.line(format!(
            "Archived    {} ({}), compared byte for byte",
            path.display(),
            format::bytes(bytes)
        ));
    }
    let before = outcome.archived_before.len() as u64;
    if before > 0 {
        let keep = match before {
            1 => "keeps the times of its first import",
            _ => "keep the times of their first import",
        };
        let sessions = format::counted(before, "session");
        out.line(format!(
            "            {sessions} stood there before, and {keep}"
        ));
    }
    out.line(format!(
        "Removed     {}",
        format::counted(outcome.removed.len() as u64, "session")
    ));
    for kept in &outcome.kept {
        out.problem(format!("Kept        {}: {}", kept.session_id, kept.why));
    }
}
