//! `plan`: the capacity plan's tables, with inputs of one's own or measured ones.

use betcode_storage::capacity::CapacityError;
use betcode_storage::capacity::planner::{self, Measured, Plan, PlanInputs, machines};
use betcode_storage::capacity::quantity::{ByteCount, Input, Source};
use betcode_storage::capacity::text::date;
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
    let (mut daemon, mut measured_until_ms) = (None, None);
    if let Some(limit_bytes) = context.global.limit_bytes {
        inputs.storage_growth.limit_bytes = Input::given(ByteCount(limit_bytes));
    }
    if args.measured {
        let status = context.daemon_status()?;
        let (_, report) = context.judge(status.as_ref())?;
        let limit = context.limit(status.as_ref());
        measured_until_ms = report.planned_until_ms();
        // A daemon's limit is a setting of it.
        let limit_source = match limit.source {
            Source::Measured => Source::Given,
            source => source,
        };
        measured = inputs.take_measured(&report, limit_source);
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
        this_machine: args.measured.then(ThisMachine::measured),
    });
    context.out.text(&planner::text(&plan));
    if let Some(until_ms) = measured_until_ms {
        context.out.line("");
        context.out.line(format!(
            "A measured day and month are of the four weeks to {}, the last full day of use",
            date(until_ms)
        ));
    }
    if args.measured {
        show_measured(context.out, daemon.as_ref());
    }
    Ok(Exit::Ok)
}

/// The plan, and what the running daemon measures of it.
#[derive(Serialize)]
struct Planned<'a> {
    #[serde(flatten)]
    plan: &'a Plan,
    daemon_measured: Option<&'a DaemonMeasured>,
    this_machine: Option<ThisMachine>,
}

/// What stands beside the rows of the vertical scaling guide.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct ThisMachine {
    /// Processors that this process may use.
    cpus: Option<usize>,
    /// Memory that the system has.
    ram_bytes: Option<u64>,
    /// Users that the guide gives such a machine's daemon.
    users: Option<u64>,
}

impl ThisMachine {
    fn measured() -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let cpus = std::thread::available_parallelism().ok().map(usize::from);
        let ram_bytes = ram_bytes_of(&memory);
        let both = cpus.zip(ram_bytes);
        Self {
            cpus,
            ram_bytes,
            users: both.map(|(cpus, ram)| machines::users_of_machine(cpus as u64, ram)),
        }
    }

    fn show(self, out: &mut Out) {
        let cpus = self
            .cpus
            .map(|cpus| format::counted(cpus as u64, "processor"));
        let ram = self
            .ram_bytes
            .map(|bytes| format!("{} of RAM", format::bytes(bytes)));
        let known: Vec<_> = cpus.into_iter().chain(ram).collect();
        if !known.is_empty() {
            let users = match self.users {
                Some(0) => ": less than the guide gives any daemon".to_owned(),
                Some(users) => format!(": for {users} users by the guide"),
                None => String::new(),
            };
            out.line(format!(
                "  this machine             {}{users}",
                known.join(", ")
            ));
        }
    }
}

/// `MemTotal` of `/proc/meminfo`.
fn ram_bytes_of(meminfo: &str) -> Option<u64> {
    let mut lines = meminfo.lines();
    let total = lines.find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = total.trim().strip_suffix(" kB")?.parse().ok()?;
    kib.checked_mul(1024)
}

/// What a running daemon measures of the plan's constants.
#[derive(Serialize)]
struct DaemonMeasured {
    /// Memory of the process that is in RAM.
    resident_bytes: u64,
    /// Sessions that are in use.
    sessions: u64,
    /// Clients that have made a request.
    clients: u64,
    /// Agents that run.
    subprocesses: u64,
    /// What the plan's formula gives for so many of each.
    planned_bytes: u64,
    /// From a batch read off the wire to its answer; `null` before the first.
    processing_p95_ms: Option<f64>,
}

impl DaemonMeasured {
    /// `None` of a daemon that could not be asked.
    fn of(status: DaemonStatus) -> Option<Self> {
        let memory = status.memory?;
        let answered = status
            .stages
            .iter()
            .find(|stage| stage.stage == "answer" && stage.count > 0);
        Some(Self {
            resident_bytes: memory.resident_bytes,
            sessions: memory.sessions,
            clients: memory.clients,
            subprocesses: memory.subprocesses,
            planned_bytes: memory.planned_bytes,
            processing_p95_ms: answered.map(|stage| stage.p95_ms),
        })
    }
}

fn show_measured(out: &mut Out, daemon: Option<&DaemonMeasured>) {
    out.line("");
    out.line("Measured on this machine");
    ThisMachine::measured().show(out);
    show_daemon(out, daemon);
}

fn show_daemon(out: &mut Out, daemon: Option<&DaemonMeasured>) {
    let Some(daemon) = daemon else {
        out.line("  no daemon was asked, or none answers for this database");
        return;
    };
    out.line(format!(
        "  daemon's memory          {:>10}  the plan, for {}, {}, {}: {}",
        format::bytes(daemon.resident_bytes),
        format::counted(daemon.sessions, "session"),
        format::counted(daemon.clients, "client"),
        format::counted(daemon.subprocesses, "agent"),
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
        // The list of names is long: once is enough.
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
    fn the_memory_of_the_machine_is_what_the_system_says() {
        let meminfo = "MemTotal:       24685504 kB\nMemFree:         1 kB\n";
        assert_eq!(ram_bytes_of(meminfo), Some(25_277_956_096));
        for odd in ["", "MemTotal: many kB", "MemTotal: 18446744073709551615 kB"] {
            assert_eq!(ram_bytes_of(odd), None, "{odd}");
        }
    }

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
