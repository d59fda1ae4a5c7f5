//! `verify`: everything read and checked.

use std::time::Instant;

use serde_json::json;

use super::Context;
use crate::error::{Exit, Result};
use crate::output::{Unit, format};

/// Read everything and check it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Checks the file's structure, the checksum of every segment, the digest of every message, \
that no sequence is missing or double, and that the counters are right. Problems are listed \
and lead to exit code 1; nothing is changed.")]
pub struct Args {}

/// Runs the command.
pub(super) fn run(_args: &Args, context: Context<'_>) -> Result<Exit> {
    let started = Instant::now();
    let store = context.open_read_only()?;
    let progress = context.out.progress("verifying", 0, Unit::Count);
    let report = store.verify(&mut |at| {
        progress.at_of(at.messages_done, at.messages);
        context.interrupt.flow()
    })?;
    drop(progress);
    let seconds = started.elapsed().as_secs_f64();
    let problems: Vec<_> = report
        .problems
        .iter()
        .map(|p| json!({"kind": p.kind, "session": p.session, "sequence": p.sequence, "what": p.what}))
        .collect();
    context.out.json(&json!({
        "ok": report.ok(),
        "sessions": report.sessions,
        "messages": report.messages,
        "segments": report.segments,
        "raw_bytes": report.raw_bytes,
        "problems": problems,
        "seconds": seconds,
    }));
    for problem in &report.problems {
        let session = problem
            .session
            .as_deref()
            .map(|s| format!(", session {s}"))
            .unwrap_or_default();
        let sequence = problem
            .sequence
            .map(|n| format!(", sequence {n}"))
            .unwrap_or_default();
        context.out.line(format!(
            "{}{session}{sequence}: {}",
            problem.kind, problem.what
        ));
    }
    let read = format!(
        "{} in {}, {}, {}, in {} ({})",
        format::counted(report.messages, "message"),
        format::counted(report.sessions, "session"),
        format::counted(report.segments, "segment"),
        format::bytes(report.raw_bytes),
        format::seconds(seconds),
        format::rate(report.raw_bytes, seconds)
    );
    if report.ok() {
        context.out.line(format!("Everything is in order: {read}"));
        return Ok(Exit::Ok);
    }
    context.out.line(format!(
        "{} in {read}",
        format::counted(problems.len() as u64, "problem")
    ));
    context.out.remark(
        "try: restore a backup beside it with `betcode-db restore FILE --db NEW`, and export from both;\n     sessions not named above are whole",
    );
    Ok(Exit::Problems)
}
