//! What only the daemon knows: its levels, its latencies, what its compaction is doing.

use std::path::Path;
use std::time::Duration;

use betcode_schema_grpc::history::capacity_service_client::CapacityServiceClient;
use betcode_schema_grpc::history::{
    BudgetRequest, CompactionStatusRequest, PlanRequest, WatchLevelsRequest,
};
use betcode_schema_grpc::locate::{self, Server};
use betcode_storage::capacity::levels::{self, Metric};
use betcode_storage::capacity::planner::{DAEMON_INPUTS, Measured, MemoryNow};
use betcode_storage::capacity::report::CapacityReport;
use serde::Serialize;

use super::{Daemon, origin};
use crate::error::Result;
use crate::limits::REPORT_ANSWER_MS_MAX;
use crate::output::format;

const WAIT_MAX: Duration = Duration::from_millis(REPORT_ANSWER_MS_MAX);

/// A running daemon as a report shows it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DaemonStatus {
    /// Its process id.
    pub pid: u32,
    /// Its Unix socket.
    pub socket: String,
    /// Why it could not be asked; the rest is empty then.
    pub unreachable: Option<String>,
    /// What to try, where it answered why it cannot be asked.
    #[serde(skip)]
    pub hint: Option<String>,
    /// Memory, and what the plan's formula gives.
    pub memory: Option<Memory>,
    /// Each measure against its limit.
    pub levels: Vec<Level>,
    /// Latency of each stage since it started.
    pub stages: Vec<Stage>,
    /// The capacity plan's kinds of traffic; none of a daemon of an earlier version.
    pub traffic: Vec<Traffic>,
    /// What its compaction is doing: `idle`, `running`, `paused`, `stopped` or `disabled`.
    pub compaction: String,
    /// Runs since it started that did something.
    pub compaction_runs: u64,
    /// Why the last run failed.
    pub compaction_error: Option<String>,
}

/// Memory of the process, and what the capacity plan's formula gives for what it serves.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Memory {
    /// In RAM now.
    pub resident_bytes: u64,
    /// In RAM when it began to serve.
    pub base_bytes: u64,
    /// What SQLite's page caches may take as they are configured.
    pub sqlite_cache_bytes: u64,
    /// Sessions that are in use.
    pub sessions: u64,
    /// Connections that have made a request.
    pub clients: u64,
    /// Agents that run.
    pub subprocesses: u64,
    /// The formula for so many of each.
    pub planned_bytes: u64,
}

/// A measure against its limit.
#[derive(Debug, Clone, Serialize)]
pub struct Level {
    /// As the capacity plan calls it.
    pub resource: String,
    /// How much is used.
    pub used: u64,
    /// Of how much.
    pub limit: u64,
    /// `bytes`, `count` or `milliprocessors`.
    pub unit: String,
    /// `ok`, `warning` or `critical`.
    pub level: String,
}

/// Latency of a stage.
#[derive(Debug, Clone, Serialize)]
pub struct Stage {
    /// Its name.
    pub stage: String,
    /// How often it was passed.
    pub count: u64,
    /// Median.
    pub p50_ms: f64,
    /// 95 of 100 are faster.
    pub p95_ms: f64,
    /// 99 of 100 are faster.
    pub p99_ms: f64,
    /// What it may take at p95: the capacity plan's budget, or our share of it; 0 where there is none.
    pub budget_ms: f64,
}

/// What one of a kind of traffic takes.
#[derive(Debug, Clone, Serialize)]
pub struct Traffic {
    /// Its name, as the plan's JSON has it.
    pub traffic: String,
    /// By the plan.
    pub planned_bytes_per_second: f64,
    /// Measured; `null` when there was nothing to measure.
    pub measured_bytes_per_second: Option<f64>,
    /// Seconds that it was measured in.
    pub seconds: u64,
}

impl Level {
    /// A value of the measure, in its unit.
    #[must_use]
    pub fn amount(&self, value: u64) -> String {
        match self.unit.as_str() {
            "bytes" => format::bytes(value),
            "milliprocessors" => format!("{:.2}", value as f64 / 1000.0),
            _ => format::count(value),
        }
    }
}

impl Stage {
    /// Whether it took longer than its budget, at p95.
    #[must_use]
    pub fn is_slow(&self) -> bool {
        self.count > 0 && self.budget_ms > 0.0 && self.p95_ms > self.budget_ms
    }
}

impl DaemonStatus {
    /// Asks the daemon of the store at `db`; `None` when there is none. If it does not answer, the status
    /// says so: a report does not fail for it.
    #[must_use]
    pub fn of(db: &Path) -> Option<Self> {
        let Server::Running(holder) = locate::server_of(db) else {
            return None;
        };
        let mut status = Self {
            pid: holder.pid,
            socket: holder.socket.display().to_string(),
            ..Self::default()
        };
        let asked = match Daemon::find_within(db, WAIT_MAX) {
            Ok(None) => return None,
            Ok(Some(daemon)) => {
                let filled = daemon.fill(&mut status);
                // Its own advice, when it refused: it knows which limit was reached.
                status.hint = filled
                    .as_ref()
                    .err()
                    .and_then(|refused| refused.hint.clone());
                filled
            }
            Err(failure) => Err(failure),
        };
        if let Err(failure) = asked {
            status.unreachable = Some(failure.why.unwrap_or(failure.what));
        }
        Some(status)
    }

    /// What it lets the database reach; `None` of one that could not be asked.
    #[must_use]
    pub fn limit_bytes(&self) -> Option<u64> {
        self.size().map(|level| level.limit)
    }

    /// The level that it has the database at; `None` of one that could not be asked.
    #[must_use]
    pub fn size_level(&self) -> Option<levels::Level> {
        self.size()?.level.parse().ok()
    }

    /// Takes the database's size and level from a report of it against the same limit: the two stand
    /// beside each other, and were looked at one after the other.
    pub fn agree_with(&mut self, report: &CapacityReport) {
        let size = Metric::SqliteSize.name();
        let mut levels = self.levels.iter_mut();
        let level =
            levels.find(|level| level.resource == size && level.limit == report.limit_bytes);
        if let Some(level) = level {
            level.used = report.used_bytes();
            level.level = report.level.name().to_owned();
        }
    }

    /// Adds its levels and latencies to the report.
    pub fn add_to(&self, measured: &mut Measured) {
        for level in &self.levels {
            measured.take_level(&level.resource, level.used, level.limit, &level.level);
        }
        for stage in &self.stages {
            measured.take_stage(&stage.stage, stage.count, stage.p95_ms);
        }
        for rate in &self.traffic {
            measured.take_traffic(&rate.traffic, rate.measured_bytes_per_second);
        }
        measured.memory = self.memory.map(|memory| MemoryNow {
            resident_bytes: memory.resident_bytes,
            base_bytes: memory.base_bytes,
            sessions: memory.sessions,
            clients: memory.clients,
            subprocesses: memory.subprocesses,
            sqlite_cache_bytes: memory.sqlite_cache_bytes,
        });
    }

    /// The levels that are not ok, but for the database's size, which a report of it judges.
    pub fn raised_levels(&self) -> impl Iterator<Item = &Level> {
        let is_raised = |level: &&Level| level.level != levels::Level::Ok.name();
        let levels = self.levels.iter().filter(is_raised);
        levels.filter(|level| level.resource != Metric::SqliteSize.name())
    }

    /// The stages that took longer than their budget, at p95.
    pub fn slow_stages(&self) -> impl Iterator<Item = &Stage> {
        self.stages.iter().filter(|stage| stage.is_slow())
    }

    fn size(&self) -> Option<&Level> {
        let size = Metric::SqliteSize.name();
        let mut levels = self.levels.iter();
        levels.find(|level| level.resource == size)
    }
}

/// What the daemon of the store at `db` has in its settings for the plan's [`DAEMON_INPUTS`]; nothing
/// of one that cannot be asked.
#[must_use]
pub fn plan_inputs(db: &Path) -> Vec<(String, f64)> {
    let Ok(Some(daemon)) = Daemon::find_within(db, WAIT_MAX) else {
        return Vec::new();
    };
    let request = PlanRequest {
        measured: true,
        ..PlanRequest::default()
    };
    let connection = daemon.connection.clone();
    let mut capacity = CapacityServiceClient::with_origin(connection, origin());
    let plan = daemon.answer_within(WAIT_MAX, capacity.plan(request));
    let rows = plan.unwrap_or_default().inputs.into_iter();
    rows.filter(|row| DAEMON_INPUTS.contains(&row.name.as_str()))
        .map(|row| (row.name, row.value))
        .collect()
}

impl Daemon {
    /// Asks for each part; what was answered before a failure stays.
    fn fill(&self, status: &mut DaemonStatus) -> Result<()> {
        let connection = self.connection.clone();
        let mut capacity = CapacityServiceClient::with_origin(connection, origin());
        let first = async {
            let mut levels = capacity
                .watch_levels(WatchLevelsRequest {})
                .await?
                .into_inner();
            let message = levels.message().await?.unwrap_or_default();
            Ok(tonic::Response::new(message))
        };
        status.levels = self
            .answer_within(WAIT_MAX, first)?
            .levels
            .into_iter()
            .map(|level| Level {
                resource: level.resource,
                used: level.used,
                limit: level.limit,
                unit: level.unit,
                level: level.level,
            })
            .collect();
        let budget = self.answer_within(WAIT_MAX, capacity.budget(BudgetRequest {}))?;
        status.memory = budget.memory.map(|memory| Memory {
            resident_bytes: memory.resident_bytes,
            base_bytes: memory.base_bytes,
            sqlite_cache_bytes: memory.sqlite_cache_bytes,
            sessions: memory.sessions,
            clients: memory.clients,
            subprocesses: memory.subprocesses,
            planned_bytes: memory.planned_bytes,
        });
        status.traffic = budget
            .traffic
            .into_iter()
            .map(|rate| Traffic {
                traffic: rate.traffic,
                planned_bytes_per_second: rate.planned_bytes_per_second,
                measured_bytes_per_second: rate.measured_bytes_per_second,
                seconds: rate.seconds,
            })
            .collect();
        status.stages = budget
            .stages
            .into_iter()
            .map(|stage| Stage {
                stage: stage.stage,
                count: stage.count,
                p50_ms: stage.p50_ms,
                p95_ms: stage.p95_ms,
                p99_ms: stage.p99_ms,
                budget_ms: stage.budget_ms,
            })
            .collect();
        let mut client = self.compaction();
        let compaction = self.answer_within(WAIT_MAX, client.status(CompactionStatusRequest {}))?;
        status.compaction = compaction.state;
        status.compaction_runs = compaction.runs;
        status.compaction_error = Some(compaction.last_error).filter(|why| !why.is_empty());
        Ok(())
    }
}
