//! What only the daemon knows: its levels, its latencies, what its compaction is doing.

use std::path::Path;
use std::time::Duration;

use betcode_schema_grpc::history::capacity_service_client::CapacityServiceClient;
use betcode_schema_grpc::history::{
    BudgetRequest, CompactionStatusRequest, PlanRequest, WatchLevelsRequest,
};
use betcode_schema_grpc::locate::{self, Server};
use betcode_storage::capacity::levels::{self, Metric};
use betcode_storage::capacity::planner::{DAEMON_INPUTS, Measured};
use betcode_storage::capacity::report::CapacityReport;
use serde::Serialize;

use super::{Daemon, origin};
use crate::error::Result;
use crate::limits::REPORT_ANSWER_MS_MAX;

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
    /// Each measure against its limit.
    pub levels: Vec<Level>,
    /// Latency of each stage since it started.
    pub stages: Vec<Stage>,
    /// What its compaction is doing: `idle`, `running`, `paused`, `stopped` or `disabled`.
    pub compaction: String,
    /// Runs since it started that did something.
    pub compaction_runs: u64,
    /// Why the last run failed.
    pub compaction_error: Option<String>,
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

impl DaemonStatus {
    /// Asks the daemon of the store at `db`; `None` when there is none. One that does not answer
    /// is told as such: a report does not fail for it.
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
            Ok(Some(daemon)) => daemon.fill(&mut status),
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

    /// Puts its levels and latencies beside the plan's.
    pub fn add_to(&self, measured: &mut Measured) {
        for level in &self.levels {
            measured.take_level(&level.resource, level.used, level.limit, &level.level);
        }
        for stage in &self.stages {
            measured.take_stage(&stage.stage, stage.count, stage.p95_ms);
        }
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
