//! `demo`: the project's main job on real sessions, shown step by step.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use betcode_storage::capacity::report;
use betcode_storage::{
    CompactionOutcome, CompactionRequest, SessionFilter, Store, compaction_threads,
};
use chrono::Utc;
use directories::BaseDirs;
use serde_json::json;

use super::import::show_skipped;
use super::{Context, for_a_shell, short_name};
use crate::cli::size;
use crate::error::{Exit, Failure, Result};
use crate::export::content;
use crate::generator;
use crate::import::{ImportOptions, ImportPlan, ImportSummary, ImportTarget, import};
use crate::output::{Out, Unit, format};

/// Sessions generated when there are none to read.
const GENERATED_SESSIONS: usize = 12;

/// See it at work: record, compact, verify, replay and report
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Records PATH, else ~/.claude/projects when it holds sessions, else generated ones. The \
sources are only read. Without --db the store goes to a temporary folder, which stays so \
that you can look around in it; --remove takes it away at the end.")]
pub struct Args {
    /// File or folder of agent lines
    path: Option<PathBuf>,
    /// Generate sessions even when there are real ones
    #[arg(long, conflicts_with = "path")]
    generated: bool,
    /// Seed of generated sessions
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// How much to generate
    #[arg(long, value_name = "SIZE", value_parser = size, default_value = "24MB")]
    size: u64,
    /// Remove the temporary folder at the end
    #[arg(long)]
    remove: bool,
}

/// Where the lines come from.
struct Source {
    plan: ImportPlan,
    /// In words.
    about: String,
    generated: bool,
}

/// How the replay compared with the sources.
#[derive(Default)]
struct Replayed {
    sessions: u64,
    bytes: u64,
    seconds: f64,
    differing: Vec<String>,
}

/// Runs the command.
pub(super) fn run(args: &Args, mut context: Context<'_>) -> Result<Exit> {
    let scratch = tempfile::Builder::new()
        .prefix("betcode-demo-")
        .tempdir()
        .map_err(|e| Failure::io("create a folder in", &std::env::temp_dir(), &e))?;
    let mut result = run_in(args, &mut context, scratch.path());
    if let (Err(failure), Some(database)) = (&mut result, &context.global.db)
        && failure.exit == Exit::Interrupted
        && database.exists()
    {
        failure.hint = Some(format!(
            "{} holds what was recorded until then: look into it, or delete it",
            database.display()
        ));
    }
    // The folder is removed if the demo failed or was stopped, or if its store is elsewhere.
    let finished = matches!(result, Ok(Exit::Ok | Exit::Problems));
    if finished && !args.remove && context.global.db.is_none() {
        let _ = scratch.keep();
    }
    result
}

fn run_in(args: &Args, context: &mut Context<'_>, scratch: &Path) -> Result<Exit> {
    let database = context
        .global
        .db
        .clone()
        .unwrap_or_else(|| scratch.join("history.db"));
    refuse_used(&database, context)?;
    context
        .out
        .line("The BetCode history store at work: record, compact, verify, replay.");
    context.out.line("");
    let interrupt = context.interrupt;
    let mut source = find_source(args, scratch, context.out, &mut || interrupt.flow())?;
    context.out.line(format!("Source      {}", source.about));
    context
        .out
        .line(format!("Database    {}", database.display()));
    context.out.flush();
    let store = Store::open(&database, context.global.options())?;

    // Most of what a tiny history takes is what an empty store takes, log included.
    let empty_bytes = store.space()?.used_bytes();
    let imported = record(&store, std::mem::take(&mut source.plan), context)?;
    if imported.interrupted || context.interrupt.raised() {
        return Err(interrupted());
    }
    let compacted = compact(&store, empty_bytes, context)?;
    let healthy = verify(&store, context)?;
    let replayed = replay(&store, context)?;
    if context.interrupt.raised() {
        return Err(interrupted());
    }
    let report = store.capacity_report()?;
    let biggest = report.biggest_sessions.first();
    let example = biggest.map(|session| short_name(&store, &session.session_id));
    let example = example.transpose()?;
    store.close()?;

    context.out.json(&json!({
        "source": source.about,
        "generated": source.generated,
        "database": database.display().to_string(),
        "kept": context.global.db.is_some() || !args.remove,
        "import": imported,
        "compact": {
            "bytes_before": compacted.bytes_before,
            "bytes_after": compacted.bytes_after,
            "messages": compacted.messages,
            "segments": compacted.segments,
            "seconds": compacted.seconds,
        },
        "verify": {"ok": healthy},
        "replay": {
            "sessions": replayed.sessions,
            "bytes": replayed.bytes,
            "seconds": replayed.seconds,
            "differing": replayed.differing,
        },
        "report": report,
    }));
    context.out.line("");
    context.out.text(&report::main_points(&report));
    show_skipped(context.out, &imported);
    if !args.remove || context.global.db.is_some() {
        next_steps(context, &database, example.as_deref(), source.generated);
    }
    let good = healthy && replayed.differing.is_empty() && imported.skipped.is_empty();
    // Ctrl-C from the last replay on comes too late: everything is shown.
    Ok(if good { Exit::Ok } else { Exit::Problems })
}

/// The demo shows what one import into an empty store does: it does not touch a store in use.
fn refuse_used(database: &Path, context: &Context<'_>) -> Result<()> {
    if !database.exists() {
        return Ok(());
    }
    let totals = Store::open_read_only(database, context.global.options())?.totals()?;
    if totals.sessions == 0 {
        return Ok(());
    }
    let sessions = format::counted(totals.sessions, "session");
    Err(
        Failure::new(Exit::Conflict, format!("{} is in use", database.display()))
            .why(format!(
                "it holds {sessions}, and the demo wants a store of its own"
            ))
            .hint("leave out --db and unset BETCODE_DB to use a temporary one, or name a new file"),
    )
}

fn find_source(
    args: &Args,
    scratch: &Path,
    out: &mut Out,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Source> {
    if let Some(path) = &args.path {
        let plan = ImportPlan::find(std::slice::from_ref(path), go_on)?;
        return Ok(Source {
            plan,
            about: path.display().to_string(),
            generated: false,
        });
    }
    let projects = BaseDirs::new().map(|dirs| dirs.home_dir().join(".claude/projects"));
    if let Some(projects) = projects.filter(|_| !args.generated)
        && let Ok(plan) = ImportPlan::find(std::slice::from_ref(&projects), go_on)
    {
        let about = format!("{}, your own sessions (only read)", projects.display());
        return Ok(Source {
            plan,
            about,
            generated: false,
        });
    }
    let folder = scratch.join("sessions");
    let progress = out.progress("generating", 0, Unit::Count);
    let wanted = generator::Sessions {
        seed: args.seed,
        sessions: GENERATED_SESSIONS,
        target_bytes: args.size,
        // So that the report has weeks of use up to now to go by.
        end_ms: Some(Utc::now().timestamp_millis()),
    };
    let files = generator::write_sessions_while(&folder, wanted, go_on)
        .map_err(|e| Failure::io("write generated sessions to", &folder, &e))?
        .ok_or_else(interrupted)?;
    drop(progress);
    let about = format!(
        "{} generated from seed {}, up to today{}",
        format::counted(files.len() as u64, "session"),
        args.seed,
        if args.generated {
            ""
        } else {
            " (~/.claude/projects holds none)"
        }
    );
    Ok(Source {
        plan: ImportPlan::of(&[folder])?,
        about,
        generated: true,
    })
}

fn record(store: &Store, plan: ImportPlan, context: &mut Context<'_>) -> Result<ImportSummary> {
    let progress = context.out.progress("recording", 0, Unit::Bytes);
    let summary = import(
        store,
        ImportTarget::File(store),
        plan,
        &ImportOptions::default(),
        &mut |at| {
            progress.now(if at.compacting {
                "compacting"
            } else {
                "recording"
            });
            progress.at_of(at.bytes_done, at.bytes);
            context.interrupt.flow()
        },
    )?;
    drop(progress);
    context.out.line(format!(
        "Recorded    {}, {}, {} at {}",
        format::counted(summary.sessions, "session"),
        format::counted(summary.messages, "message"),
        format::bytes(summary.bytes),
        format::rate(summary.bytes, summary.seconds)
    ));
    context.out.flush();
    Ok(summary)
}

fn compact(
    store: &Store,
    empty_bytes: u64,
    context: &mut Context<'_>,
) -> Result<CompactionOutcome> {
    let progress = context.out.progress("compacting", 0, Unit::Bytes);
    let request = CompactionRequest {
        threads_max: compaction_threads(),
        ..CompactionRequest::manual()
    };
    let outcome = store.compact(&request, &mut |at| {
        progress.at_of(at.raw_bytes_done, at.raw_bytes);
        context.interrupt.flow()
    })?;
    drop(progress);
    if outcome.cancelled {
        return Err(interrupted());
    }
    let plain = store.totals()?.uncompacted_bytes;
    let took = format!(
        "in {} ({}), without losing a byte",
        format::seconds(outcome.seconds),
        format::rate(outcome.raw_bytes, outcome.seconds)
    );
    if outcome.bytes_after >= plain {
        context.out.line(format!(
            "Compacted   {} of plain rows {took};",
            format::bytes(plain)
        ));
        context.out.line(format!(
            "            the database takes {}, an empty one {}",
            format::bytes(outcome.bytes_after),
            format::bytes(empty_bytes.min(outcome.bytes_after))
        ));
    } else {
        context.out.line(format!(
            "Compacted   {} of plain rows to {}: {}",
            format::bytes(plain),
            format::bytes(outcome.bytes_after),
            format::share(outcome.bytes_after, plain)
        ));
        context.out.line(format!("            {took}"));
    }
    context.out.flush();
    Ok(outcome)
}

fn verify(store: &Store, context: &mut Context<'_>) -> Result<bool> {
    let progress = context.out.progress("verifying", 0, Unit::Count);
    let report = store.verify(&mut |at| {
        progress.at_of(at.messages_done, at.messages);
        context.interrupt.flow()
    })?;
    drop(progress);
    // With --quiet, only problems count.
    let write: fn(&mut Out, String) = if report.ok() { Out::line } else { Out::problem };
    write(
        context.out,
        format!(
            "Verified    {}: {} in {}",
            if report.ok() {
                "in order".to_owned()
            } else {
                format!("{} PROBLEMS", report.problems.len())
            },
            format::counted(report.messages, "message"),
            format::counted(report.segments, "segment")
        ),
    );
    context.out.flush();
    Ok(report.ok())
}

/// Replays every session and compares it with the file it came from, as an export would write it.
fn replay(store: &Store, context: &mut Context<'_>) -> Result<Replayed> {
    let sessions = store.sessions(&SessionFilter::default())?.sessions;
    let progress = context
        .out
        .progress("replaying", sessions.len() as u64, Unit::Count);
    let mut replayed = Replayed::default();
    for session in &sessions {
        if context.interrupt.raised() {
            break;
        }
        // Timed alone: how fast the store is, not how fast the source's disk.
        let started = Instant::now();
        let written = content::pieces(
            store,
            &session.id,
            betcode_storage::ReadRange::all(),
            &mut |_| Ok(ControlFlow::Continue(())),
        )?;
        replayed.seconds += started.elapsed().as_secs_f64();
        replayed.sessions += 1;
        replayed.bytes += written.bytes;
        if !same_as_source(store, session)? {
            replayed.differing.push(session.id.to_string());
        }
        progress.add(1);
    }
    drop(progress);
    context.out.line(format!(
        "Replayed    {} at {}, {}",
        format::bytes(replayed.bytes),
        format::rate(replayed.bytes, replayed.seconds),
        match replayed.differing.len() {
            0 => "byte for byte what the files hold".to_owned(),
            n => format!(
                "and {} DIFFER from their files",
                format::counted(n as u64, "session")
            ),
        }
    ));
    for id in &replayed.differing {
        context.out.problem(format!("differs from its file: {id}"));
    }
    context.out.flush();
    Ok(replayed)
}

/// Whether the session's file begins with all of the session: a file that somebody writes to may
/// have grown since it was imported.
fn same_as_source(store: &Store, session: &betcode_storage::Session) -> Result<bool> {
    use std::os::unix::ffi::OsStrExt;
    let Some(record) = store.import_of(&session.id)? else {
        return Ok(false);
    };
    let path = Path::new(std::ffi::OsStr::from_bytes(&record.mark.source_path));
    let file = File::open(path).map_err(|e| Failure::io("read", path, &e))?;
    Ok(content::first_difference(store, &session.id, file)?.is_none())
}

fn next_steps(context: &mut Context<'_>, database: &Path, session: Option<&str>, generated: bool) {
    let out = &mut *context.out;
    out.line("");
    out.line("Try next");
    out.line(format!("  export BETCODE_DB={}", for_a_shell(database)));
    out.line("  betcode-db report        the whole of it: growth, forecast, projects");
    if let Some(session) = session {
        out.line(format!("  betcode-db cat {session} --last 3"));
    }
    out.line("  betcode-db search --ignore-case error --limit 5");
    out.line(match generated {
        true => "and with sessions of your own, in a store that stays:",
        false => "and to keep your history in your own store:",
    });
    out.line("  unset BETCODE_DB; betcode-db import ~/.claude/projects && betcode-db compact");
}

/// A story without its end is no document: the error is one.
fn interrupted() -> Failure {
    Failure::new(Exit::Interrupted, "the demo was interrupted before its end")
}
