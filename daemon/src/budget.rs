//! `betcode-daemon budget`: asks the running daemon how busy it is, and shows each figure beside
//! what the capacity plan gives it.

use std::path::Path;
use std::time::Duration;

use betcode_daemon::limits::BUDGET_ANSWER_MS_MAX;
use betcode_schema_grpc::history::capacity_service_client::CapacityServiceClient;
use betcode_schema_grpc::history::{
    BudgetRequest, BudgetResponse, MemoryUse, StageLatency, TrafficRate,
};
use betcode_schema_grpc::locate::{self, Holder, Server};
use betcode_storage::capacity::planner::bandwidth::Traffic;
use betcode_storage::capacity::planner::memory::SQLITE_CACHE_BYTES;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::Endpoint;

use crate::cli;

const MB: f64 = 1e6;
const KB: f64 = 1e3;

/// Asks the daemon of the store at `db` and prints what it says.
///
/// # Errors
/// When none runs, or it does not answer.
pub(crate) fn show(db: &Path, json: bool) -> Result<(), String> {
    let holder = match locate::server_of(db) {
        Server::Running(holder) => holder,
        Server::Starting => {
            let db = db.display();
            return Err(format!(
                "the daemon of {db} is just starting; ask again in a moment"
            ));
        }
        Server::None => {
            let db = db.display();
            return Err(format!(
                "no daemon serves {db}; start one with `betcode-daemon serve`"
            ));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let asked = async {
        let answer =
            tokio::time::timeout(Duration::from_millis(BUDGET_ANSWER_MS_MAX), ask(&holder)).await;
        answer.unwrap_or_else(|_| Err("it does not answer; see its log, or restart it".to_owned()))
    };
    let answer = runtime.block_on(asked).map_err(|why| {
        format!(
            "process {} at {}: {why}",
            holder.pid,
            holder.socket.display()
        )
    })?;
    let text = if json {
        format!("{}\n", as_json(&holder, &answer))
    } else {
        as_text(&answer)
    };
    cli::say(&text)
}

async fn ask(holder: &Holder) -> Result<BudgetResponse, String> {
    let socket = holder.socket.clone();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://daemon")
        .connect_with_connector(connector)
        .await
        .map_err(|error| error.to_string())?;
    let answer = CapacityServiceClient::new(channel)
        .budget(BudgetRequest {})
        .await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| status.message().to_owned())
}

fn within(stage: &StageLatency) -> bool {
    stage.p95_ms <= stage.budget_ms
}

fn as_json(holder: &Holder, answer: &BudgetResponse) -> serde_json::Value {
    let stages: Vec<_> = answer
        .stages
        .iter()
        .map(|stage| {
            serde_json::json!({
                "stage": stage.stage,
                "count": stage.count,
                "p50_ms": stage.p50_ms,
                "p95_ms": stage.p95_ms,
                "p99_ms": stage.p99_ms,
                "budget_ms": stage.budget_ms,
                "within": (stage.count > 0).then(|| within(stage)),
            })
        })
        .collect();
    let traffic: Vec<_> = answer
        .traffic
        .iter()
        .map(|rate| {
            serde_json::json!({
                "traffic": rate.traffic,
                "planned_bytes_per_second": rate.planned_bytes_per_second,
                "measured_bytes_per_second": rate.measured_bytes_per_second,
                "seconds": rate.seconds,
            })
        })
        .collect();
    let memory = answer.memory.unwrap_or_default();
    serde_json::json!({
        "pid": holder.pid,
        "socket": holder.socket,
        "stages": stages,
        "traffic": traffic,
        "memory": {
            "resident_bytes": memory.resident_bytes,
            "resident_bytes_max": memory.resident_bytes_max,
            "base_bytes": memory.base_bytes,
            "base_bytes_planned": memory.base_bytes_planned,
            "sessions": memory.sessions,
            "session_bytes_planned": memory.session_bytes_planned,
            "clients": memory.clients,
            "client_bytes_planned": memory.client_bytes_planned,
            "subprocesses": memory.subprocesses,
            "subprocess_bytes_planned": memory.subprocess_bytes_planned,
            "sqlite_cache_bytes": memory.sqlite_cache_bytes,
            "planned_bytes": memory.planned_bytes,
            "limit_bytes": memory.limit_bytes,
        },
    })
}

fn as_text(answer: &BudgetResponse) -> String {
    let mut text = String::from(
        "Latency since the start, ms           p50       p95       p99    budget (p95)\n",
    );
    for stage in &answer.stages {
        let verdict = match stage.count {
            0 => "nothing yet",
            _ if within(stage) => "within",
            _ => "OVER",
        };
        let StageLatency {
            stage,
            count,
            p50_ms,
            p95_ms,
            p99_ms,
            budget_ms,
        } = stage;
        text.push_str(&format!(
            "  {stage:<16} {count:>5} times {p50_ms:>9.2} {p95_ms:>9.2} {p99_ms:>9.2} \
             {budget_ms:>7} {verdict}\n"
        ));
    }
    let MemoryUse {
        resident_bytes,
        resident_bytes_max,
        base_bytes,
        base_bytes_planned,
        sessions,
        session_bytes_planned,
        clients,
        client_bytes_planned,
        subprocesses,
        subprocess_bytes_planned,
        planned_bytes,
        limit_bytes,
        sqlite_cache_bytes,
    } = answer.memory.unwrap_or_default();
    let mb = |bytes: u64| bytes as f64 / MB;
    text.push_str(&format!(
        "Memory, MB                       measured      plan\n  \
           base                         {:>10.1} {:>9.1}\n  \
           now                          {:>10.1} {:>9.1}  {sessions} sessions x {}, \
                                                          {clients} clients x {}, \
                                                          {subprocesses} agents x {}\n  \
           at most                      {:>10.1} {:>9.1}  limit\n",
        mb(base_bytes),
        mb(base_bytes_planned),
        mb(resident_bytes),
        mb(planned_bytes),
        mb(session_bytes_planned),
        mb(client_bytes_planned),
        mb(subprocess_bytes_planned),
        mb(resident_bytes_max),
        mb(limit_bytes),
    ));
    text.push_str(&format!(
        "  SQLite's caches       configured {:>10.1} {:>9.1}  at most\n",
        mb(sqlite_cache_bytes),
        mb(SQLITE_CACHE_BYTES.0),
    ));
    traffic(&mut text, &answer.traffic);
    text
}

/// The plan's kinds of traffic, each beside what was measured.
fn traffic(text: &mut String, rates: &[TrafficRate]) {
    if rates.is_empty() {
        return;
    }
    text.push_str("Traffic, KB/s                    measured      plan\n");
    for rate in rates {
        let mut known = Traffic::ALL.into_iter();
        let known = known.find(|traffic| traffic.programs_name() == rate.traffic);
        let name = known.map_or(rate.traffic.as_str(), |traffic| traffic.name());
        let kb = |bytes: f64| format!("{:.2}", bytes / KB);
        let (measured, how) = match rate.measured_bytes_per_second {
            Some(bytes) => {
                let how = known.map_or("", Traffic::measured_how);
                (kb(bytes), format!("{} s, {how}", rate.seconds))
            }
            None => ("-".to_owned(), "not measured yet".to_owned()),
        };
        let planned = kb(rate.planned_bytes_per_second);
        text.push_str(&format!(
            "  {name:<26} {measured:>10} {planned:>9}  {how}\n"
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(count: u64, p95_ms: f64) -> StageLatency {
        StageLatency {
            stage: "answer".to_owned(),
            count,
            p95_ms,
            budget_ms: 50.0,
            ..StageLatency::default()
        }
    }

    #[test]
    fn a_stage_that_nothing_has_passed_is_neither_within_its_budget_nor_over() {
        let holder = Holder {
            pid: 1,
            socket: "/run/s".into(),
        };
        let within = |stage| {
            let answer = BudgetResponse {
                stages: vec![stage],
                ..BudgetResponse::default()
            };
            as_json(&holder, &answer)["stages"][0]["within"].clone()
        };
        assert_eq!(within(stage(0, 0.0)), serde_json::Value::Null);
        assert_eq!(within(stage(1, 50.0)), true);
        assert_eq!(within(stage(1, 50.1)), false);
    }

    #[test]
    fn a_stage_over_its_budget_is_marked() {
        for (stage, verdict) in [
            (stage(1, 50.0), "within"),
            (stage(1, 50.1), "OVER"),
            (stage(0, 0.0), "nothing yet"),
        ] {
            let answer = BudgetResponse {
                stages: vec![stage],
                ..BudgetResponse::default()
            };
            assert!(as_text(&answer).contains(verdict), "{}", as_text(&answer));
        }
    }
}
