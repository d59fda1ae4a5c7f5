//! Clients and the daemon as processes: killed and stopped at any moment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]
#![allow(clippy::print_stdout, reason = "figures and seeds are for people")]

#[path = "support/client.rs"]
mod client;
mod support;

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use betcode_schema_grpc::history::history_service_client::HistoryServiceClient;
use betcode_schema_grpc::history::maintenance_service_client::MaintenanceServiceClient;
use betcode_schema_grpc::history::{
    AppendRequest, FollowRequest, ReadRequest, VerifyRequest, verify_response,
};
use betcode_test_support::{Random, seed};
use bytes::Bytes;
use client::{Client, Work, line};
use support::process::Process;
use support::{Appender, batch, connect, within};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

#[tokio::test]
#[ignore = "a client for the other tests here, which start it"]
async fn a_client_process() {
    client::run().await;
}

/// A session with one that appends to it and one that follows it.
struct Pair {
    session: &'static str,
    /// Last sequences that were answered, received, and found on disk by a reader.
    answered: u64,
    received: u64,
    verified: u64,
    appender: Option<Client>,
    follower: Option<Client>,
}

impl Pair {
    fn new(session: &'static str) -> Self {
        Self {
            session,
            answered: 0,
            received: 0,
            verified: 0,
            appender: None,
            follower: None,
        }
    }

    fn start(&mut self, socket: &Path) {
        let (session, from) = (self.session, self.answered + 1);
        self.appender
            .get_or_insert_with(|| Client::start(Work::Append, socket, session, from));
        let from = self.received + 1;
        self.follower
            .get_or_insert_with(|| Client::start(Work::Follow, socket, session, from));
    }

    fn kill_appender(&mut self) {
        let told = self.appender.take().and_then(Client::kill);
        self.answered = self.answered.max(told.unwrap_or(0));
    }

    fn kill_follower(&mut self) {
        let told = self.follower.take().and_then(Client::kill);
        self.received = self.received.max(told.unwrap_or(0));
    }

    /// Reads what is new since the last look, and holds it against what was answered.
    async fn check(&mut self, process: &Process) {
        let request = ReadRequest {
            session_id: self.session.into(),
            from_sequence: self.verified + 1,
            ..ReadRequest::default()
        };
        let mut client = process.history().await;
        let mut answers = client.read(request).await.unwrap().into_inner();
        while let Some(answer) = answers.message().await.unwrap() {
            for message in answer.messages {
                self.verified += 1;
                assert_eq!(message.sequence, self.verified, "{}", self.session);
                assert_eq!(message.payload, line(self.session, self.verified));
            }
        }
        let Self {
            session,
            answered,
            received,
            verified,
            ..
        } = self;
        assert!(
            verified >= answered,
            "{session}: {verified} there, {answered} answered"
        );
        assert!(
            verified >= received,
            "{session}: {verified} there, {received} received"
        );
    }
}

/// Kills the daemon, or one or two of its clients, so many times.
async fn killed_at_random(rounds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--compaction-interval-ms", "20", "--quick-idle-ms", "0"];
    let mut random = Random::new(seed());
    let mut process = Process::start(folder.path(), &flags).await;
    let mut pairs = ["a", "b", "c"].map(Pair::new);
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    for pair in &pairs {
        let request = AppendRequest {
            payloads: vec![line(pair.session, 1)],
            ..batch(pair.session, &[])
        };
        appender.send(request).await.unwrap();
    }
    drop((appender, client));
    let mut daemons = 0;
    for _ in 0..rounds {
        for pair in &mut pairs {
            pair.start(&process.socket);
        }
        tokio::time::sleep(Duration::from_millis(30 + random.below(170))).await;
        if random.below(5) < 2 {
            daemons += 1;
            process.kill();
            for pair in &mut pairs {
                pair.kill_appender();
                pair.kill_follower();
            }
            process = Process::start(folder.path(), &flags).await;
            for pair in &mut pairs {
                pair.check(&process).await;
            }
        } else {
            for _ in 0..=random.below(2) {
                let pair = &mut pairs[random.below(3) as usize];
                match random.below(2) {
                    0 => pair.kill_appender(),
                    _ => pair.kill_follower(),
                }
            }
        }
    }
    for pair in &mut pairs {
        pair.start(&process.socket);
        pair.kill_appender();
        pair.check(&process).await;
        let follower = pair.follower.as_ref().unwrap();
        follower.reaches(pair.verified).await;
        pair.kill_follower();
        pair.verified = 0;
        pair.check(&process).await;
    }
    let lines: u64 = pairs.iter().map(|pair| pair.verified).sum();
    println!("{rounds} rounds, {daemons} of the daemon; {lines} lines there");
    assert!(lines > rounds, "the clients did nothing: {lines} lines");
    verify(&process).await;
}

async fn verify(process: &Process) {
    let mut client = MaintenanceServiceClient::new(connect(&process.socket).await.unwrap());
    let checked = client.verify(VerifyRequest {}).await.unwrap();
    let mut answers = checked.into_inner();
    let mut report = None;
    while let Some(answer) = answers.message().await.unwrap() {
        if let Some(verify_response::Event::Report(last)) = answer.event {
            report = Some(last);
        }
    }
    let report = report.unwrap();
    assert!(report.ok, "{report:?}");
}

#[tokio::test]
async fn what_was_answered_survives_kills_of_daemon_and_clients() {
    killed_at_random(6).await;
}

#[tokio::test]
#[ignore = "long"]
async fn what_was_answered_survives_two_hundred_kills_of_daemon_and_clients() {
    killed_at_random(200).await;
}

const SESSIONS: usize = 20;

/// Latencies in microseconds, since the last look.
#[derive(Debug, Clone, Default)]
struct Latencies(Arc<Mutex<Vec<u64>>>);

impl Latencies {
    fn add(&self, us: u64) {
        self.0.lock().unwrap().push(us);
    }

    fn p95_ms(&self) -> f64 {
        let mut taken = std::mem::take(&mut *self.0.lock().unwrap());
        taken.sort_unstable();
        let at = (taken.len() * 95 / 100).min(taken.len().saturating_sub(1));
        taken.get(at).copied().unwrap_or(0) as f64 / 1000.0
    }
}

/// A line of about 5 KB that says when it was sent.
fn timed(started: Instant) -> Bytes {
    let us = started.elapsed().as_micros();
    format!(r#"{{"us":{us:020},"text":"{}"}}"#, "x".repeat(4_960)).into()
}

fn sent_us(payload: &[u8]) -> u64 {
    let digits = payload.get(6..26).and_then(|d| std::str::from_utf8(d).ok());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// What goes on in all sessions while one follower is stopped.
struct Traffic {
    started: Instant,
    answer: Latencies,
    deliver: Latencies,
    ends: Arc<AtomicBool>,
    /// Of each session its writer, and the last sequence that its follower has seen.
    sessions: Vec<(JoinHandle<u64>, Arc<AtomicU64>)>,
}

impl Traffic {
    fn new() -> Self {
        Self {
            started: Instant::now(),
            answer: Latencies::default(),
            deliver: Latencies::default(),
            ends: Arc::default(),
            sessions: Vec::new(),
        }
    }

    /// Lets a session that has one message be written and followed.
    async fn add(&mut self, process: &Process, session: String, every: Duration) {
        let seen = Arc::new(AtomicU64::new(1));
        let client = process.history().await;
        let deliver = self.deliver.clone();
        let followed = follow_timed(client, session.clone(), self.started, seen.clone(), deliver);
        tokio::spawn(followed);
        let client = process.history().await;
        let (answer, ends) = (self.answer.clone(), self.ends.clone());
        let written = append_timed(client, session, self.started, every, ends, answer);
        self.sessions.push((tokio::spawn(written), seen));
    }

    /// p95 of the answers and of the deliveries of the next `phase`, in milliseconds.
    async fn p95_ms(&self, phase: Duration) -> (f64, f64) {
        for latencies in [&self.answer, &self.deliver] {
            latencies.0.lock().unwrap().clear();
        }
        tokio::time::sleep(phase).await;
        (self.answer.p95_ms(), self.deliver.p95_ms())
    }

    /// Ends the writers, and waits until the followers have seen everything.
    async fn end(self) {
        self.ends.store(true, Ordering::Relaxed);
        for (writer, seen) in self.sessions {
            let last = writer.await.unwrap();
            let all = async {
                while seen.load(Ordering::Relaxed) < last {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            within(all).await;
        }
    }
}

async fn follow_timed(
    mut client: HistoryServiceClient<Channel>,
    session_id: String,
    started: Instant,
    last: Arc<AtomicU64>,
    deliver: Latencies,
) {
    let request = FollowRequest {
        session_id,
        from_sequence: 2,
    };
    let mut answers = client.follow(request).await.unwrap().into_inner();
    while let Ok(Some(answer)) = answers.message().await {
        let now_us = started.elapsed().as_micros() as u64;
        for message in answer.messages {
            let before = last.swap(message.sequence, Ordering::Relaxed);
            assert_eq!(message.sequence, before + 1);
            deliver.add(now_us.saturating_sub(sent_us(&message.payload)));
        }
    }
}

/// Appends until it is to end; the last sequence.
async fn append_timed(
    mut client: HistoryServiceClient<Channel>,
    session: String,
    started: Instant,
    every: Duration,
    ends: Arc<AtomicBool>,
    answer: Latencies,
) -> u64 {
    let mut appender = Appender::open(&mut client).await;
    let mut ticks = tokio::time::interval(every);
    let mut last = 1;
    while !ends.load(Ordering::Relaxed) {
        ticks.tick().await;
        let request = AppendRequest {
            payloads: vec![timed(started)],
            ..batch(&session, &[])
        };
        let sent = Instant::now();
        last = appender.send(request).await.unwrap().last_sequence;
        answer.add(sent.elapsed().as_micros() as u64);
    }
    last
}

/// Twenty sessions are written and followed; then one more follower is stopped for `phase`.
async fn one_stopped(phase: Duration, messages_per_second: u64) {
    let folder = tempfile::tempdir().unwrap();
    let flags = [
        "--max-db-bytes",
        "5000000000",
        "--max-sessions",
        "30",
        "--max-session-bytes",
        "200000000",
    ];
    let process = Process::start(folder.path(), &flags).await;
    // The session of the follower that is stopped: each line is what it must be.
    let mut client = process.history().await;
    let mut first = Appender::open(&mut client).await;
    let request = AppendRequest {
        payloads: vec![line("checked", 1)],
        ..batch("checked", &[])
    };
    first.send(request).await.unwrap();
    let mut traffic = Traffic::new();
    let every = Duration::from_millis(1000 / messages_per_second);
    for at in 0..SESSIONS {
        let session = format!("s{at}");
        first.send(batch(&session, &["{}"])).await.unwrap();
        traffic.add(&process, session, every).await;
    }
    let writer = Client::start(Work::Append, &process.socket, "checked", 2);
    let stopped = Client::start(Work::Follow, &process.socket, "checked", 1);
    stopped.reaches(1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let nobody = traffic.p95_ms(phase).await;
    stopped.stop();
    let one = traffic.p95_ms(phase).await;
    let before = stopped.last().unwrap();
    let last = writer.kill().unwrap();
    stopped.go_on();
    within(stopped.reaches(last)).await;
    traffic.end().await;
    for (who, (answer, deliver)) in [("nobody stopped", nobody), ("one stopped", one)] {
        println!("{who}: p95 answer {answer:.2} ms, p95 send to delivery {deliver:.2} ms");
    }
    println!("the stopped one had {before}, and caught up to {last}");
    assert!(last > before, "it was not stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_follower_is_noticed_by_nobody_and_catches_up() {
    one_stopped(Duration::from_millis(1500), 10).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long, and has figures for people"]
async fn a_follower_stopped_for_a_minute_is_noticed_by_nobody_and_catches_up() {
    one_stopped(Duration::from_secs(60), 25).await;
}
