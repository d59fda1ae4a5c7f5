//! `plan`: the capacity plan's tables, with inputs of one's own or measured ones.

use betcode_storage::capacity::CapacityError;
use betcode_storage::capacity::planner::memory::{DAEMON_BASE_BYTES, DAEMON_SESSION_BYTES};
use betcode_storage::capacity::planner::{self, Measured, Plan, PlanInputs};
use betcode_storage::capacity::quantity::{ByteCount, Input, Source};
use serde::Serialize;

use super::Context;
use crate::cli::size;
use crate::daemon::{DaemonStatus, plan_inputs};
use crate::error::{Exit, Failure, Result};
use crate::output::{Out, format};

/// Estimate memory, disk, relays and machines for a given load
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without options it computes the capacity plan's own examples. The inputs, their names and where \
each comes from stand at the end. --measured takes growth, days in use, size and what compaction leaves from \
the database: a day and a month are those of `betcode-db report`, of all sessions together. It takes its limit, the sessions, clients and subprocesses that there may be, memory, levels and latencies from \
the daemon that serves it; --set goes over both.")]
pub struct Args {
    /// Replace an input, such as daemon_memory.sessions=40 or
    /// storage_growth.limit_bytes=10GB
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, f64)>,
    /// Take what the database has measured
    #[arg(long)]
    measured: bool,
    /// Mark the machines that this many users need
    #[arg(long, value_name = "N")]
    users: Option<u64>,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    let mut inputs = PlanInputs::default();
    let mut measured = Measured::default();
    let mut daemon = None;
    if let Some(limit_bytes) = context.global.limit_bytes {
        inputs.storage_growth.limit_bytes = Input::given(ByteCount(limit_bytes));
    }
    if args.measured {
        let status = context.daemon_status()?;
        let (_, report) = context.judge(status.as_ref())?;
        let limit = context.limit(status.as_ref());
        measured = inputs.take_measured(&report, limit.source);
        if let Some(status) = status.filter(|status| status.unreachable.is_none()) {
            status.add_to(&mut measured);
            for (name, value) in plan_inputs(&context.database()?) {
                inputs.set(&name, value, Source::Given).map_err(refused)?;
            }
            daemon = DaemonMeasured::of(status);
        }
    }
    for (name, value) in &args.set {
        inputs.set(name, *value, Source::Given).map_err(refused)?;
    }
    let plan = Plan::compute(&inputs, &measured, args.users).map_err(refused)?;
    context.out.json(&Planned {
        plan: &plan,
        daemon_measured: daemon.as_ref(),
    });
    context.out.text(&planner::text(&plan));
    if args.measured {
        show_daemon(context.out, daemon.as_ref());
    }
    Ok(Exit::Ok)
}

/// The plan, and what the running daemon measures of it.
#[derive(Serialize)]
struct Planned<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    daemon_measured: Option<&'a DaemonMeasured>,
}

/// What a running daemon measures of the plan's constants.
#[derive(Serialize)]
struct DaemonMeasured {
    /// Memory of the process that is in RAM.
    resident_bytes: u64,
    /// Sessions that are in use.
    sessions: u64,
    /// What the plan's formula gives for so many sessions, without clients and subprocesses.
    planned_bytes: u64,
    /// From a batch read off the wire to its answer; `null` before the first.
    processing_p95_ms: Option<f64>,
}

impl DaemonMeasured {
    /// `None` of a daemon that could not be asked.
    fn of(status: DaemonStatus) -> Option<Self> {
        let used = |resource: &str| {
            let mut levels = status.levels.iter();
            levels
                .find(|level| level.resource == resource)
                .map(|level| level.used)
        };
        let sessions = used("sessions")?;
        let answered = status
            .stages
            .iter()
            .find(|stage| stage.stage == "answer" && stage.count > 0);
        Some(Self {
            resident_bytes: used("memory")?,
            sessions,
            planned_bytes: DAEMON_BASE_BYTES.0 + sessions * DAEMON_SESSION_BYTES.0,
            processing_p95_ms: answered.map(|stage| stage.p95_ms),
        })
    }
}

fn show_daemon(out: &mut Out, daemon: Option<&DaemonMeasured>) {
    out.line("");
    out.line("Measured by the daemon");
    let Some(daemon) = daemon else {
        out.line("  not measured here: no daemon was asked, or none answers for this database");
        return;
    };
    out.line(format!(
        "  memory                   {:>10}  the plan, for {} in use: {}",
        format::bytes(daemon.resident_bytes),
        format::counted(daemon.sessions, "session"),
        format::bytes(daemon.planned_bytes)
    ));
    match daemon.processing_p95_ms {
        Some(ms) => out.line(format!(
            "  processing               {ms:>7.1} ms  P95, see the latency budget"
        )),
        None => {
            out.line("  processing               not measured yet: nothing was appended through it")
        }
    }
}

fn refused(error: CapacityError) -> Failure {
    let hint = match &error {
        CapacityError::UnknownName { known, .. } => format!("use one of {known}"),
        // Not an input, but an option of its own.
        other if other.what() == "users" => "choose another value with --users".to_owned(),
        _ => "choose another value with --set".to_owned(),
    };
    let what = match &error {
        // The names are long enough to be told once.
        CapacityError::UnknownName { kind, name, .. } => format!("there is no {kind} {name:?}"),
        other => other.to_string(),
    };
    Failure::new(Exit::Usage, what).hint(hint)
}

/// `NAME=VALUE`; a value is a number, or a size with its unit.
fn assignment(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("it is written NAME=VALUE, such as daemon_memory.sessions=40")?;
    let number = match value.trim().parse::<f64>() {
        Ok(number) => number,
        Err(_) => size(value).map_err(|_| "a value is a number, or a size such as 10GB")? as f64,
    };
    Ok((name.trim().to_owned(), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbers_or_sizes() {
        for (text, value) in [("a.b=40", 40.0), ("a.b = 0.5", 0.5), ("a.b=10GB", 1e10)] {
            assert_eq!(assignment(text), Ok(("a.b".to_owned(), value)));
        }
        for bad in ["a.b", "a.b=", "a.b=many"] {
            assert!(assignment(bad).is_err(), "{bad}");
        }
    }
}
