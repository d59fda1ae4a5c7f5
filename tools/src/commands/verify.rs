//! `verify`: everything read and checked.

use std::time::Instant;

use betcode_schema_grpc::history;
use betcode_storage::{ProblemKind, VerifyReport};
use serde::Serialize;
use serde_json::json;

use super::Context;
use crate::error::{Exit, Failure, Result};
use crate::output::{Unit, format};

/// Read everything and check it
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Checks the file's structure, the checksum of every segment, the digest of every message, \
that no sequence is missing or double, and that the counters are right. Problems are listed \
and lead to exit code 1; nothing is changed.")]
pub struct Args {}

/// Runs the command.
pub(super) fn run(_args: &Args, mut context: Context<'_>) -> Result<Exit> {
    let started = Instant::now();
    let daemon = context.daemon()?;
    let progress = context.out.progress("verifying", 0, Unit::Count);
    let interrupt = context.interrupt;
    let report = match daemon {
        Some(daemon) => VerifySummary::of_daemon(daemon.verify(&mut |at| {
            if let Some((done, all)) = at {
                progress.at_of(done, all);
            }
            interrupt.flow()
        })?),
        None => {
            let store = context.open_read_only().map_err(unopened)?;
            VerifySummary::of_store(store.verify(&mut |at| {
                progress.at_of(at.messages_done, at.messages);
                interrupt.flow()
            })?)
        }
    };
    drop(progress);
    let seconds = started.elapsed().as_secs_f64();
    context.out.json(&json!({
        "ok": report.ok(),
        "sessions": report.sessions,
        "messages": report.messages,
        "segments": report.segments,
        "raw_bytes": report.raw_bytes,
        "problems": report.problems,
        "problems_total": report.problems_total,
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
        context.out.problem(format!(
            "{}{session}{sequence}: {}",
            problem.kind,
            problem.reason()
        ));
    }
    let messages = format::counted(report.messages, "message");
    let sessions = format::counted(report.sessions, "session");
    let read = format!(
        "{}, {}, in {} ({})",
        format::counted(report.segments, "segment"),
        format::bytes(report.raw_bytes),
        format::seconds(seconds),
        format::rate(report.raw_bytes, seconds)
    );
    if report.ok() {
        let all = format!("{messages} in {sessions}, {read}");
        context.out.line(format!("Everything is in order: {all}"));
        return Ok(Exit::Ok);
    }
    context.out.line(format!(
        "Found {}. Intact: {sessions}, {messages}, {read}",
        format::counted(report.problems_total, "problem")
    ));
    let others = if report.names_all() {
        "sessions not named above are whole"
    } else {
        "not every damaged session is named above: what can be read is written by `export --salvage`"
    };
    context.out.remark(
        "try: restore a backup beside it with `betcode-db restore FILE --db NEW`, and export from both;",
    );
    context.out.remark(format!("     {others}"));
    Ok(Exit::Problems)
}

/// The usual advice against damage is this command.
fn unopened(failure: Failure) -> Failure {
    if failure.exit != Exit::Damaged {
        return failure;
    }
    failure.hint("restore a backup: `betcode-db restore FILE --replace` keeps this file aside")
}

/// The result of a check, made by this process or by the daemon.
struct VerifySummary {
    sessions: u64,
    messages: u64,
    raw_bytes: u64,
    segments: u64,
    problems: Vec<Problem>,
    problems_total: u64,
}

#[derive(Serialize)]
struct Problem {
    kind: String,
    session: Option<String>,
    sequence: Option<u64>,
    what: String,
}

impl Problem {
    /// What is wrong, without the session and sequence, which are shown before it.
    fn reason(&self) -> &str {
        let (Some(session), Some(sequence)) = (&self.session, self.sequence) else {
            return &self.what;
        };
        [
            format!("session {session}, segment at sequence {sequence}: "),
            format!("damaged data in session {session}: "),
        ]
        .iter()
        .find_map(|place| self.what.strip_prefix(place))
        .unwrap_or(&self.what)
    }
}

impl VerifySummary {
    fn ok(&self) -> bool {
        self.problems_total == 0
    }

    /// Whether every session that no problem names was checked and found whole.
    fn names_all(&self) -> bool {
        self.problems_total == self.problems.len() as u64
            && self
                .problems
                .iter()
                .all(|problem| problem.kind != ProblemKind::Listing.name())
    }

    fn of_store(report: VerifyReport) -> Self {
        Self {
            sessions: report.sessions,
            messages: report.messages,
            raw_bytes: report.raw_bytes,
            segments: report.segments,
            problems_total: report.problems.len() as u64,
            problems: report
                .problems
                .into_iter()
                .map(|problem| Problem {
                    kind: problem.kind.name().to_owned(),
                    session: problem.session,
                    sequence: problem.sequence,
                    what: problem.what,
                })
                .collect(),
        }
    }

    fn of_daemon(report: history::VerifyReport) -> Self {
        Self {
            sessions: report.sessions,
            messages: report.messages,
            raw_bytes: report.raw_bytes,
            segments: report.segments,
            problems_total: report.problems_total,
            problems: report
                .problems
                .into_iter()
                .map(|problem| Problem {
                    kind: problem.kind,
                    session: Some(problem.session_id).filter(|id| !id.is_empty()),
                    sequence: Some(problem.sequence).filter(|&sequence| sequence > 0),
                    what: problem.what,
                })
                .collect(),
        }
    }
}
