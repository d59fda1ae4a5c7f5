//! What operators see: latencies by stage, counters, logs, traces.

pub mod compaction_runs;
pub mod histogram;
pub mod prometheus;
pub mod trace;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use betcode_schema_grpc::history::StageLatency;
use betcode_storage::capacity::planner::latency::Stage;
use compaction_runs::CompactionRuns;
use histogram::Histogram;

/// What the capacity plan allows the daemon at p95, of 200 ms in all.
const DAEMON_BUDGET_MS: f64 = Stage::Daemon.budget_ms() as f64;
/// What it allows between daemon and agent.
const SUBPROCESS_BUDGET_MS: f64 = Stage::Subprocess.budget_ms() as f64;
/// Our shares of the daemon's: what an answer is made of, the hand-over to its stream left out.
const ACCEPT_BUDGET_MS: f64 = 5.0;
const COMMIT_BUDGET_MS: f64 = 40.0;

const _: () = assert!(ACCEPT_BUDGET_MS + COMMIT_BUDGET_MS < DAEMON_BUDGET_MS);

/// Counters and latencies of the daemon.
#[derive(Debug, Default)]
pub struct Metrics {
    /// From the moment that nothing of its own stream is before a batch, to its place in the writer's
    /// queue: what the limits and a full queue cost, and not what an earlier batch's commit does.
    pub accept: Histogram,
    /// From the queue to the commit.
    pub commit: Histogram,
    /// From a batch read off the wire to its answer.
    pub answer: Histogram,
    /// From a commit to the hand-over of its messages to a follower's stream.
    pub deliver: Histogram,
    /// One page read from the store, its turn included.
    pub page: Histogram,
    /// From an agent's line read off its pipe to the commit: of each batch its oldest line, as in `tell`.
    pub record: Histogram,
    /// From an agent's line read off its pipe to the hand-over of its events to a client's stream.
    pub tell: Histogram,
    /// Lines of agents on disk.
    pub agent_lines: AtomicU64,
    /// Their bytes.
    pub agent_bytes: AtomicU64,
    /// Turns begun.
    pub agent_turns: AtomicU64,
    /// Messages committed for clients.
    pub messages_appended: AtomicU64,
    /// Their payload bytes.
    pub bytes_appended: AtomicU64,
    /// Messages handed to readers.
    pub messages_read: AtomicU64,
    /// Messages handed to followers.
    pub messages_followed: AtomicU64,
    /// Batches refused.
    pub batches_refused: AtomicU64,
    /// Times a follower was too slow for its buffer.
    pub followers_behind: AtomicU64,
    /// Requests begun.
    pub requests: AtomicU64,
    /// Connections dropped before they were served.
    pub connections_refused: AtomicU64,
    /// Requests that came through the tunnel.
    pub tunnel_requests: AtomicU64,
    /// Times the tunnel opened.
    pub tunnels_opened: AtomicU64,
    /// Runs of compaction.
    pub compaction_runs: CompactionRuns,
}

/// Adds to a counter.
pub fn add(counter: &AtomicU64, amount: usize) {
    counter.fetch_add(amount as u64, Ordering::Relaxed);
}

impl Metrics {
    /// The stages by name, with what each may take at p95 in milliseconds.
    #[must_use]
    pub fn stages(&self) -> [(&'static str, &Histogram, f64); 7] {
        [
            ("accept", &self.accept, ACCEPT_BUDGET_MS),
            ("commit", &self.commit, COMMIT_BUDGET_MS),
            ("answer", &self.answer, DAEMON_BUDGET_MS),
            ("deliver", &self.deliver, DAEMON_BUDGET_MS),
            ("page", &self.page, DAEMON_BUDGET_MS),
            ("record", &self.record, SUBPROCESS_BUDGET_MS),
            ("tell", &self.tell, SUBPROCESS_BUDGET_MS + DAEMON_BUDGET_MS),
        ]
    }

    /// The counters by name, with what they count.
    #[must_use]
    pub fn counters(&self) -> [(&'static str, &'static str, u64); 13] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            (
                "messages_appended",
                "Messages committed for clients",
                of(&self.messages_appended),
            ),
            (
                "bytes_appended",
                "Payload bytes committed for clients",
                of(&self.bytes_appended),
            ),
            (
                "messages_read",
                "Messages handed to readers",
                of(&self.messages_read),
            ),
            (
                "messages_followed",
                "Messages handed to followers",
                of(&self.messages_followed),
            ),
            (
                "batches_refused",
                "Batches refused",
                of(&self.batches_refused),
            ),
            (
                "followers_behind",
                "Times a follower fell behind",
                of(&self.followers_behind),
            ),
            ("requests", "Requests begun", of(&self.requests)),
            (
                "connections_refused",
                "Connections dropped unserved",
                of(&self.connections_refused),
            ),
            (
                "tunnel_requests",
                "Requests that came through the tunnel",
                of(&self.tunnel_requests),
            ),
            (
                "tunnels_opened",
                "Times the tunnel to the relay opened",
                of(&self.tunnels_opened),
            ),
            (
                "agent_lines",
                "Lines of agents on disk",
                of(&self.agent_lines),
            ),
            ("agent_bytes", "Their bytes", of(&self.agent_bytes)),
            (
                "agent_turns",
                "Turns of agents begun",
                of(&self.agent_turns),
            ),
        ]
    }

    /// Each stage beside its budget.
    #[must_use]
    pub fn budget(&self) -> Vec<StageLatency> {
        self.stages()
            .map(|(stage, latency, budget_ms)| StageLatency {
                stage: stage.to_owned(),
                count: latency.count(),
                p50_ms: latency.quantile_ms(0.50),
                p95_ms: latency.quantile_ms(0.95),
                p99_ms: latency.quantile_ms(0.99),
                budget_ms,
            })
            .into()
    }
}

/// Milliseconds as a duration.
#[must_use]
pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
