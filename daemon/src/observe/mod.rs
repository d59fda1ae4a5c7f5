//! What operators see: latencies by stage, counters, [`traffic`] in bytes per second, and how the last
//! [`compaction_runs`] ended. [`prometheus`] serves them as metrics.

pub mod compaction_runs;
pub mod prometheus;
pub mod traffic;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use betcode_schema_grpc::history::{StageLatency, TrafficRate};
use betcode_service::histogram::Histogram;
use betcode_storage::capacity::planner::bandwidth::Traffic;
use betcode_storage::capacity::planner::latency::{RELAY_ROUND_TRIP, RELAY_ROUTING, Stage};
use compaction_runs::CompactionRuns;
use traffic::TrafficBytes;

use crate::tunnel::TunnelFigures;

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
    /// From a client's answer to an agent read off its stream, or from the recorded request that a grant
    /// answers, to the answer written to the agent.
    pub permit: Histogram,
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
    /// What the tunnel measures.
    pub tunnel: Arc<TunnelFigures>,
    /// Payload bytes handed to clients, by kind of traffic.
    pub traffic: TrafficBytes,
    /// Payload bytes handed to readers.
    pub bytes_read: AtomicU64,
    /// Payload bytes handed to followers.
    pub bytes_followed: AtomicU64,
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
    pub fn stages(&self) -> [(&'static str, &Histogram, f64); 8] {
        [
            ("accept", &self.accept, ACCEPT_BUDGET_MS),
            ("commit", &self.commit, COMMIT_BUDGET_MS),
            ("answer", &self.answer, DAEMON_BUDGET_MS),
            ("deliver", &self.deliver, DAEMON_BUDGET_MS),
            ("page", &self.page, DAEMON_BUDGET_MS),
            ("record", &self.record, SUBPROCESS_BUDGET_MS),
            ("tell", &self.tell, SUBPROCESS_BUDGET_MS + DAEMON_BUDGET_MS),
            ("permit", &self.permit, DAEMON_BUDGET_MS),
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

    /// Counters of what goes over the network, by name, with what they count.
    #[must_use]
    pub fn traffic_counters(&self) -> [(&'static str, &'static str, u64); 5] {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            (
                "bytes_read",
                "Payload bytes handed to readers",
                of(&self.bytes_read),
            ),
            (
                "bytes_followed",
                "Payload bytes handed to followers, history that they caught up on included",
                of(&self.bytes_followed),
            ),
            (
                "bytes_replayed",
                "Payload bytes of history handed to clients: read, resumed, or caught up on",
                self.traffic.replayed.bytes(),
            ),
            (
                "tunnel_received_bytes",
                "Bytes from the relay, TLS and probes included",
                self.tunnel.bytes.received(),
            ),
            (
                "tunnel_sent_bytes",
                "Bytes to the relay, TLS and probes included",
                self.tunnel.bytes.sent(),
            ),
        ]
    }

    /// Each stage beside its budget; those of a tunnel only when there is or was one.
    #[must_use]
    pub fn budget(&self) -> Vec<StageLatency> {
        let mut stages = self.own_stages();
        stages.extend(self.tunnel_stages());
        stages
    }

    /// What is known of the way through the relay.
    #[must_use]
    pub fn tunnel_stages(&self) -> Vec<StageLatency> {
        let mut stages = Vec::new();
        let of_us = |us: u64| us as f64 / 1000.0;
        if let Some(routing) = self.tunnel.routing() {
            stages.push(StageLatency {
                stage: RELAY_ROUTING.to_owned(),
                count: routing.calls,
                p50_ms: of_us(routing.p50_us),
                p95_ms: of_us(routing.p95_us),
                p99_ms: of_us(routing.p99_us),
                budget_ms: Stage::Relay.budget_ms() as f64,
            });
        }
        let round_trip = &self.tunnel.round_trip;
        if round_trip.count() > 0 {
            let budget_ms = Stage::Network.budget_ms() as f64;
            stages.push(latency(RELAY_ROUND_TRIP, round_trip, budget_ms));
        }
        stages
    }

    fn own_stages(&self) -> Vec<StageLatency> {
        self.stages()
            .map(|(stage, times, budget_ms)| latency(stage, times, budget_ms))
            .into()
    }

    /// Rates of the capacity plan's kinds of traffic, as far as they were measured.
    #[must_use]
    pub fn traffic_rates(&self) -> Vec<TrafficRate> {
        let rate = |traffic: Traffic, measured: Option<(f64, u64)>| TrafficRate {
            traffic: traffic.programs_name().to_owned(),
            planned_bytes_per_second: traffic.bytes_per_second(),
            measured_bytes_per_second: measured.map(|(rate, _)| rate),
            seconds: measured.map_or(0, |(_, seconds)| seconds),
        };
        let (live, replayed) = (&self.traffic.live, &self.traffic.replayed);
        let idle = self.tunnel.idle_bytes_per_minute();
        let seconds = live.seconds();
        vec![
            rate(
                Traffic::IdleKeepalive,
                idle.map(|(per_minute, seconds)| (per_minute / 60.0, seconds)),
            ),
            rate(
                Traffic::ActiveStreaming,
                live.p95_bytes_per_second().map(|rate| (rate, seconds)),
            ),
            rate(
                Traffic::LargeFileRead,
                live.busiest_second_bytes()
                    .map(|bytes| (bytes as f64, seconds)),
            ),
            rate(
                Traffic::HistoryReplay,
                replayed
                    .p95_bytes_per_second()
                    .map(|rate| (rate, replayed.seconds())),
            ),
        ]
    }
}

fn latency(stage: &str, times: &Histogram, budget_ms: f64) -> StageLatency {
    StageLatency {
        stage: stage.to_owned(),
        count: times.count(),
        p50_ms: times.quantile_ms(0.50),
        p95_ms: times.quantile_ms(0.95),
        p99_ms: times.quantile_ms(0.99),
        budget_ms,
    }
}

/// Milliseconds as a duration.
#[must_use]
pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}
