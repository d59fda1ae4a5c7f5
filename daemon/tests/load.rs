//! Figures of the daemon under load, for people: run by hand, with `--ignored --nocapture`.
//!
//! The driver shares the machine with the daemon, so what it measures is a lower bound.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]
#![allow(clippy::print_stdout, reason = "figures are what it is for")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use betcode_schema_grpc::history::capacity_service_client::CapacityServiceClient;
use betcode_schema_grpc::history::history_service_client::HistoryServiceClient;
use betcode_schema_grpc::history::{
    AppendRequest, BudgetRequest, FollowRequest, ListSessionsRequest, ReadRequest,
    RunCompactionRequest, compaction_service_client::CompactionServiceClient,
};
use bytes::Bytes;
use support::process::Process;
use support::{Appender, batch, connect};
use tonic::transport::Channel;

const SESSIONS: u64 = 20;
const FOLLOWERS: u64 = 50;
const MESSAGE_BYTES: usize = 5_000;
const SECONDS: u64 = 15;
/// Messages of a session on their way at once.
const AHEAD: u64 = 32;

fn seconds() -> Duration {
    let seconds = std::env::var("LOAD_SECONDS")
        .ok()
        .and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}

/// Followers' connections; each follows four sessions.
fn followers_wanted() -> u64 {
    std::env::var("LOAD_FOLLOWERS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(FOLLOWERS)
}

/// Messages a second that the appenders aim at together; 0 for as many as are answered.
fn rate() -> f64 {
    std::env::var("LOAD_RATE")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2_500.0)
}

fn line(at: u64, started: Instant) -> Bytes {
    let head = format!(
        r#"{{"type":"assistant","n":{at},"us":{:020},"text":""#,
        started.elapsed().as_micros()
    );
    let mut text = head.into_bytes();
    let mut noise = at.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    while text.len() < MESSAGE_BYTES - 2 {
        noise ^= noise << 13;
        noise ^= noise >> 7;
        noise ^= noise << 17;
        text.push(b'a' + (noise % 26) as u8);
    }
    text.extend_from_slice(b"\"}");
    text.into()
}

fn sent_us(payload: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(payload);
    let digits = text
        .split("\"us\":")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// Processor time of a process so far, of user and system.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    let ticks = |at: usize| fields[at].parse::<f64>().unwrap();
    (ticks(11) + ticks(12)) / 100.0
}

fn quantile(values: &mut [u64], q: f64) -> f64 {
    values.sort_unstable();
    let at = ((values.len() as f64 * q) as usize).min(values.len().saturating_sub(1));
    values.get(at).copied().unwrap_or(0) as f64 / 1000.0
}

/// Follows a session to its end; how late every sixteenth message was, in microseconds.
async fn follow(
    mut client: HistoryServiceClient<Channel>,
    session: u64,
    started: Instant,
    delivered: Arc<AtomicU64>,
) -> Vec<u64> {
    let request = FollowRequest {
        session_id: format!("s{session}"),
        from_sequence: 2,
    };
    let mut answers = client.follow(request).await.unwrap().into_inner();
    let (mut next, mut late) = (2, Vec::new());
    while let Ok(Some(answer)) = answers.message().await {
        let now_us = started.elapsed().as_micros() as u64;
        for message in answer.messages {
            assert_eq!(message.sequence, next);
            next += 1;
            if message.sequence % 16 == 0 {
                late.push(now_us.saturating_sub(sent_us(&message.payload)));
            }
            delivered.fetch_add(1, Ordering::Relaxed);
        }
    }
    late
}

/// Appends to a session at its share of the rate; the messages that were answered, and how late the
/// answers were, in microseconds.
async fn append(
    mut client: HistoryServiceClient<Channel>,
    session: u64,
    started: Instant,
) -> (u64, Vec<u64>) {
    let began = Instant::now();
    let mut appender = Appender::open(&mut client).await;
    let (mut sent, mut answered, mut late) = (0u64, 0u64, Vec::new());
    let mut times = std::collections::VecDeque::new();
    let gap = SESSIONS as f64 / rate();
    while began.elapsed() < seconds() {
        let due = if rate() > 0.0 {
            (began.elapsed().as_secs_f64() / gap) as u64
        } else {
            u64::MAX
        };
        if sent < due && sent - answered < AHEAD {
            let request = AppendRequest {
                expected_sequence: Some(sent + 2),
                session_id: format!("s{session}"),
                payloads: vec![line(sent, started)],
                ..AppendRequest::default()
            };
            times.push_back(Instant::now());
            appender.requests.send(request).await.unwrap();
            sent += 1;
        } else if answered < sent {
            appender.answer().await.unwrap();
            answered += 1;
            late.push(times.pop_front().unwrap().elapsed().as_micros() as u64);
        } else {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    while answered < sent {
        appender.answer().await.unwrap();
        answered += 1;
    }
    (answered, late)
}

fn print_latency(what: &str, latencies_us: &mut [u64]) {
    let (p50, p95) = (quantile(latencies_us, 0.5), quantile(latencies_us, 0.95));
    println!("{what}: p50 {p50:.1} ms, p95 {p95:.1} ms");
}

async fn print_stages(process: &Process) {
    let channel = connect(&process.socket).await.unwrap();
    let mut capacity = CapacityServiceClient::new(channel);
    let budget = capacity.budget(BudgetRequest {}).await.unwrap();
    for stage in budget.into_inner().stages {
        println!(
            "stage {:8} n {:8} p50 {:7.2} p95 {:7.2} p99 {:7.2} ms, budget {} ms",
            stage.stage, stage.count, stage.p50_ms, stage.p95_ms, stage.p99_ms, stage.budget_ms
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, for people"]
async fn twenty_sessions_and_fifty_followers() {
    let folder = tempfile::tempdir().unwrap();
    let flags = [
        "--max-db-bytes",
        "10000000000",
        "--max-session-bytes",
        "200000000",
        "--max-clients",
        "200",
    ];
    let process = Process::start(folder.path(), &flags).await;
    let cpu_before = cpu_seconds(std::process::id());
    let started = Instant::now();
    let mut client = process.history().await;
    let mut first = Appender::open(&mut client).await;
    for session in 0..SESSIONS {
        let begun = batch(&format!("s{session}"), &["{}"]);
        first.send(begun).await.unwrap();
    }
    drop(first);
    let delivered = Arc::new(AtomicU64::new(0));
    let mut followers = Vec::new();
    for at in 0..followers_wanted() {
        // Every session is followed by two or three; enough in all for the events a second.
        let mut sessions = vec![at % SESSIONS];
        sessions.extend((1..4).map(|more| (at + more * 5) % SESSIONS));
        let client = process.history().await;
        for session in sessions {
            let following = follow(client.clone(), session, started, Arc::clone(&delivered));
            followers.push(tokio::spawn(following));
        }
    }
    let began = Instant::now();
    let mut appenders = Vec::new();
    for session in 0..SESSIONS {
        let appending = append(process.history().await, session, started);
        appenders.push(tokio::spawn(appending));
    }
    let (mut messages, mut answer_us) = (0, Vec::new());
    for appender in appenders {
        let (answered, late) = appender.await.unwrap();
        messages += answered;
        answer_us.extend(late);
    }
    let took = began.elapsed().as_secs_f64();
    let events = delivered.load(Ordering::Relaxed);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let (now, most) = process.resident_bytes();
    let (daemon_cpu, driver_cpu) = (cpu_seconds(process.pid()), cpu_seconds(std::process::id()));
    print_stages(&process).await;
    drop(process);
    let mut deliver_us = Vec::new();
    for follower in followers {
        deliver_us.extend(follower.await.unwrap());
    }
    println!(
        "{messages} messages in {took:.1} s: {:.0} messages/s durable",
        messages as f64 / took
    );
    println!(
        "{events} events delivered by then: {:.0} events/s",
        events as f64 / took
    );
    print_latency("answer as the client sees it", &mut answer_us);
    print_latency("send to delivery as the clients see it", &mut deliver_us);
    println!(
        "processor time a second: daemon {:.2} s, driver {:.2} s",
        daemon_cpu / took,
        (driver_cpu - cpu_before) / took
    );
    let formula = 50 + SESSIONS * 5 + (followers_wanted() + SESSIONS);
    println!(
        "memory {} MB (most {} MB); the plan's formula: {formula} MB",
        now / 1_000_000,
        most / 1_000_000
    );
}

/// The plan's memory constants of the daemon, measured: what one more of each takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, for people"]
async fn memory_of_clients_sessions_and_followers() {
    const MANY: u64 = 500;
    let folder = tempfile::tempdir().unwrap();
    let flags = [
        "--max-clients",
        "2000",
        "--max-sessions",
        "1000",
        "--max-memory-bytes",
        "8000000000",
        "--max-followers",
        "1000",
    ];
    let process = Process::start(folder.path(), &flags).await;
    let mut before = process.resident_bytes().0;
    println!("base: {:.1} MB, the plan's 50", before as f64 / 1e6);
    let mut told = |what: &str, plan: &str| {
        let now = process.resident_bytes().0;
        let each = (now.saturating_sub(before)) as f64 / MANY as f64 / 1e3;
        println!("{what}: {each:.1} KB each of {MANY}, {plan}");
        before = now;
    };
    let mut clients = Vec::new();
    for _ in 0..MANY {
        let mut client = process.history().await;
        let list = ListSessionsRequest::default();
        client.list_sessions(list).await.unwrap();
        clients.push(client);
    }
    told("a client", "the plan's 1000");
    let started = Instant::now();
    let mut appenders = Vec::new();
    for (at, client) in clients.iter_mut().enumerate() {
        let mut appender = Appender::open(client).await;
        let request = AppendRequest {
            payloads: (0..20).map(|n| line(n, started)).collect(),
            ..batch(&format!("s{at}"), &[])
        };
        appender.send(request).await.unwrap();
        appenders.push(appender);
    }
    told("a session with its append stream", "the plan's 5000");
    let mut followers = Vec::new();
    for (at, client) in clients.iter_mut().enumerate() {
        let request = FollowRequest {
            session_id: format!("s{at}"),
            from_sequence: 1,
        };
        let mut answers = client.follow(request).await.unwrap().into_inner();
        answers.message().await.unwrap().unwrap();
        followers.push(answers);
    }
    told("a follower", "the plan says nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "figures, for people"]
async fn replay_of_a_compacted_session() {
    let folder = tempfile::tempdir().unwrap();
    let flags = [
        "--max-db-bytes",
        "10000000000",
        "--max-session-bytes",
        "200000000",
        "--max-clients",
        "200",
        "--compaction",
        "false",
    ];
    let process = Process::start(folder.path(), &flags).await;
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    let started = Instant::now();
    let megabytes = 100;
    let per_batch = 200;
    let mut at = 0;
    while at * (MESSAGE_BYTES as u64) < megabytes * 1_000_000 {
        let payloads = (at..at + per_batch)
            .map(|n| line(n % 997, started))
            .collect();
        let request = AppendRequest {
            session_id: "s".into(),
            payloads,
            ..AppendRequest::default()
        };
        appender.send(request).await.unwrap();
        at += per_batch;
    }
    let channel = connect(&process.socket).await.unwrap();
    let mut compaction = CompactionServiceClient::new(channel);
    let mut run = compaction
        .run(RunCompactionRequest::default())
        .await
        .unwrap()
        .into_inner();
    while run.message().await.unwrap().is_some() {}
    println!("compacted after {:.0} s", started.elapsed().as_secs_f64());
    for readers in [1u64, 1, 10, 50] {
        let began = Instant::now();
        let mut tasks = Vec::new();
        for _ in 0..readers {
            let mut client = process.history().await;
            tasks.push(tokio::spawn(async move {
                let request = ReadRequest {
                    session_id: "s".into(),
                    ..ReadRequest::default()
                };
                let mut answers = client.read(request).await.unwrap().into_inner();
                let (mut bytes, mut next) = (0u64, 1);
                while let Some(answer) = answers.message().await.unwrap() {
                    for message in answer.messages {
                        assert_eq!(message.sequence, next);
                        next += 1;
                        bytes += message.payload.len() as u64;
                    }
                }
                (bytes, began.elapsed())
            }));
        }
        let (mut bytes, mut ends) = (0, Vec::new());
        for task in tasks {
            let (read, end) = task.await.unwrap();
            bytes += read;
            ends.push(end.as_secs_f64());
        }
        let took = began.elapsed().as_secs_f64();
        ends.sort_by(f64::total_cmp);
        let (_, most) = process.resident_bytes();
        println!(
            "{readers:2} readers: {:.0} MB/s in all; first done after {:.2} s, last {:.2} s; \
             daemon's memory at most {} MB",
            bytes as f64 / 1e6 / took,
            ends.first().unwrap(),
            ends.last().unwrap(),
            most / 1_000_000
        );
    }
}
