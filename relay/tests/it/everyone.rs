//! kill -9 of relay, daemon and client at random moments: all three are processes of their own,
//! with nothing between them but sockets.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use betcode_schema_grpc::history::append_response::Result as Answer;
use betcode_schema_grpc::history::history_service_client::HistoryServiceClient;
use betcode_schema_grpc::history::{AppendRequest, FollowRequest, ReadRequest};
use betcode_schema_tunnel::metadata;
use betcode_test_support::Random;
use bytes::Bytes;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use super::program::{Folder, NAME, Running};

const MACHINE: &str = "m-1";
/// Appended to by a stream, as the daemon answers.
const LIVE: &str = "live";
/// Appended to by single requests that may wait.
const WAITS: &str = "waits";
/// What a client process is told by.
const WORK: &str = "TEST_RELAY_CLIENT";
/// Begins each line that is meant for the parent.
const MARK: &str = "@ ";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_or_applied_twice_whoever_is_killed() {
    rounds(4, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: 100 rounds"]
async fn nothing_acknowledged_is_lost_or_applied_twice_in_100_rounds_of_kills() {
    rounds(100, 7).await;
}

fn line(session: &str, sequence: u64) -> Bytes {
    format!(r#"{{"type":"user","session":"{session}","n":{sequence}}}"#).into()
}

async fn rounds(rounds: u64, seed: u64) {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let folder = Folder::init();
    let home = tempfile::tempdir().unwrap();
    let mut relay = Some(Running::start(&folder, (0, 0), &[]));
    let ports = relay.as_ref().unwrap().ports();
    enrol(&folder, home.path(), relay.as_ref().unwrap());
    let mut daemon = Some(Daemon::start(home.path()));
    let told = Arc::new(Mutex::new(Told::default()));
    let token = ["token", "issue", "--user", "ann", "--machine", MACHINE];
    let token = folder.run(&[&token[..], &["--life-s", "80000"]].concat());
    let authority = folder.file("authority.pem");
    let start = || Client::start(&told, ports.0, &authority, &token);
    let mut client = Some(start());
    let mut kills = [0; 3];
    for round in 0..rounds {
        let before = told.lock().unwrap().clone();
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        // One of them, and now and then another one as well.
        let victims = [random.below(3), random.below(12)];
        for victim in victims {
            match victim {
                0 => relay.take().into_iter().for_each(Running::kill),
                1 => drop(daemon.take()),
                2 => drop(client.take()),
                _ => continue,
            }
            tokio::time::sleep(Duration::from_millis(random.below(300))).await;
        }
        let dead = [relay.is_none(), daemon.is_none(), client.is_none()];
        for (kills, dead) in kills.iter_mut().zip(dead) {
            *kills += u64::from(dead);
        }
        relay.get_or_insert_with(|| Running::start(&folder, ports, &[]));
        daemon.get_or_insert_with(|| Daemon::start(home.path()));
        client.get_or_insert_with(start);
        // All three find each other again.
        let began = Instant::now();
        loop {
            let now = told.lock().unwrap().clone();
            assert!(now.wrong.is_none(), "round {round}: {:?}", now.wrong);
            if now.live > before.live && now.waits > before.waits && now.follow > before.follow {
                break;
            }
            let waited = began.elapsed();
            assert!(waited < Duration::from_secs(60), "round {round}: {now:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    drop(client);
    let told = told.lock().unwrap().clone();
    let mut history = HistoryServiceClient::new(channel(ports.0, &authority));
    for (session, acknowledged) in [(LIVE, told.live), (WAITS, told.waits)] {
        let there = lines_of(&mut history, &token, session, acknowledged).await;
        println!("{session}: {acknowledged} acknowledged, {there} there");
    }
    let [relays, daemons, clients] = kills;
    println!(
        "{rounds} rounds: relay killed {relays} times, daemon {daemons}, client {clients}; {} \
         were told to wait, {} were found settled on a repeat, followed to {}",
        told.buffered, told.repeated, told.follow
    );
    assert!(told.buffered > 0, "no request had to wait");
}

/// Waits until what was acknowledged is there, checks every line, and returns their number.
async fn lines_of(
    history: &mut HistoryServiceClient<Channel>,
    token: &str,
    session: &str,
    acknowledged: u64,
) -> u64 {
    let began = Instant::now();
    loop {
        let request = ReadRequest {
            session_id: session.into(),
            ..ReadRequest::default()
        };
        let mut next = 1;
        if let Ok(answers) = history.read(addressed(request, token)).await {
            let mut answers = answers.into_inner();
            while let Ok(Some(answer)) = answers.message().await {
                for message in answer.messages {
                    assert_eq!(message.sequence, next);
                    assert_eq!(message.payload, line(session, next), "{session}");
                    next += 1;
                }
            }
        }
        if next > acknowledged {
            return next - 1;
        }
        let waited = began.elapsed();
        assert!(
            waited < Duration::from_secs(60),
            "{session}: {acknowledged} acknowledged, {} there",
            next - 1
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The daemon's program, beside the relay's. A workspace's test run builds both.
fn daemon_program() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_betcode-relay")).with_file_name("betcode-daemon");
    if !program.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--package", "betcode-daemon"]);
        if program.iter().any(|part| part == "release") {
            build.arg("--release");
        }
        assert!(build.status().unwrap().success());
    }
    program
}

/// Enrols the machine as an operator does.
fn enrol(folder: &Folder, home: &Path, relay: &Running) {
    let code = folder.run(&["enrol", MACHINE]);
    let enrolled = Command::new(daemon_program())
        .args(["enrol", "--machine", MACHINE, "--relay-name", NAME])
        .args(["--relay-address", &relay.tunnels.to_string()])
        .arg("--db")
        .arg(home.join("history.db"))
        .arg(code)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&enrolled.stderr);
    assert!(enrolled.status.success(), "{errors}");
}

/// A daemon in a process of its own, killed when dropped.
struct Daemon(Child);

impl Daemon {
    fn start(home: &Path) -> Self {
        let child = Command::new(daemon_program())
            .args(["serve", "--log-filter", "error", "--db"])
            .arg(home.join("history.db"))
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// What clients have told so far: the last sequence of each kind.
#[derive(Debug, Default, Clone)]
struct Told {
    live: u64,
    waits: u64,
    follow: u64,
    buffered: u64,
    repeated: u64,
    wrong: Option<String>,
}

impl Told {
    fn take(&mut self, line: &str) {
        let mut words = line.split(' ');
        let what = words.next().unwrap_or_default();
        let Some(number) = words.next().and_then(|number| number.parse::<u64>().ok()) else {
            // A kill may cut a line short; anything else is said to be wrong.
            if what == "wrong" {
                self.wrong = Some(line.to_owned());
            }
            return;
        };
        match what {
            "live" => self.live = number,
            "follow" => self.follow = number,
            "waits" => {
                self.waits = number;
                match words.next() {
                    Some("buffered") => self.buffered += 1,
                    Some("repeated") => self.repeated += 1,
                    _ => {}
                }
            }
            _ => self.wrong = Some(line.to_owned()),
        }
    }
}

/// A client in a process of its own, killed when dropped: this test binary once more.
struct Client {
    child: Child,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Client {
    fn start(told: &Arc<Mutex<Told>>, port: u16, authority: &Path, token: &str) -> Self {
        let from = told.lock().unwrap().clone();
        let work = format!(
            "{port} {} {} {} {token} {}",
            from.live,
            from.waits,
            from.follow,
            authority.display()
        );
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "everyone::a_client_process",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(WORK, work)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (output, told) = (child.stdout.take().unwrap(), told.clone());
        let reader = std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            let mut line = String::new();
            // A line without its end was cut short by the kill.
            while output.read_line(&mut line).is_ok_and(|bytes| bytes > 0) && line.ends_with('\n') {
                if let Some(line) = line.trim_end().strip_prefix(MARK) {
                    told.lock().unwrap().take(line);
                }
                line.clear();
            }
        });
        Self {
            child,
            reader: Some(reader),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader
            .take()
            .into_iter()
            .for_each(|reader| reader.join().unwrap());
    }
}

fn channel(port: u16, authority: &Path) -> Channel {
    let trusted = Certificate::from_pem(std::fs::read(authority).unwrap());
    let tls = ClientTlsConfig::new()
        .ca_certificate(trusted)
        .domain_name(NAME);
    let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
    endpoint.tls_config(tls).unwrap().connect_lazy()
}

fn addressed<T>(message: T, token: &str) -> Request<T> {
    let mut request = Request::new(message);
    let sent = request.metadata_mut();
    sent.insert(metadata::MACHINE_ID, MACHINE.parse().unwrap());
    sent.insert("authorization", format!("Bearer {token}").parse().unwrap());
    request
}

fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    // Without its parent it has nobody to work for.
    if writeln!(out, "{MARK}{text}")
        .and_then(|()| out.flush())
        .is_err()
    {
        std::process::exit(0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by other tests as a process"]
async fn a_client_process() {
    let Ok(work) = std::env::var(WORK) else {
        return;
    };
    let words: Vec<&str> = work.splitn(6, ' ').collect();
    let number = |at: usize| words[at].parse::<u64>().unwrap();
    let [live, waits, follow] = [1, 2, 3].map(number);
    let caller = Caller {
        history: HistoryServiceClient::new(channel(words[0].parse().unwrap(), words[5].as_ref())),
        token: words[4].to_owned(),
    };
    tokio::join!(
        caller.clone().append(live + 1),
        caller.clone().append_or_wait(waits + 1),
        caller.follow(follow + 1),
    );
}

#[derive(Clone)]
struct Caller {
    history: HistoryServiceClient<Channel>,
    token: String,
}

fn request(session: &str, sequence: u64) -> AppendRequest {
    AppendRequest {
        session_id: session.into(),
        expected_sequence: Some(sequence),
        payloads: vec![line(session, sequence)],
        ..AppendRequest::default()
    }
}

/// Rests after something broke; far below the daemon's own pauses.
async fn rest() {
    tokio::time::sleep(Duration::from_millis(10)).await;
}

impl Caller {
    /// Streams, up to 64 batches ahead of their answers; begins again behind the last answer.
    async fn append(mut self, mut next: u64) {
        loop {
            let (send, receive) = tokio::sync::mpsc::channel(64);
            let from = next;
            let sending = tokio::spawn(async move {
                for sequence in from.. {
                    if send.send(request(LIVE, sequence)).await.is_err() {
                        return;
                    }
                }
            });
            let stream = addressed(ReceiverStream::new(receive), &self.token);
            if let Ok(answers) = self.history.append(stream).await {
                let mut answers = answers.into_inner();
                while let Ok(Some(answer)) = answers.message().await {
                    match answer.result {
                        Some(Answer::Appended(done)) if done.last_sequence == next => {
                            say(&format!("live {next}"));
                            next += 1;
                        }
                        other if retriable(&other) => break,
                        other => say(&format!("wrong {next} {other:?}")),
                    }
                }
            }
            sending.abort();
            rest().await;
        }
    }

    /// Single requests that may wait, each until it is stored or buffered.
    async fn append_or_wait(mut self, mut next: u64) {
        loop {
            let mut asked = addressed(tokio_stream::once(request(WAITS, next)), &self.token);
            let sent = asked.metadata_mut();
            sent.insert(metadata::MAY_WAIT, "true".parse().unwrap());
            sent.insert(metadata::IDEMPOTENCY_KEY, next.to_string().parse().unwrap());
            let done = match self.history.append(asked).await {
                Ok(answers) => self.one_answer(next, answers.into_inner()).await,
                Err(status) => told(&status),
            };
            match done {
                Some(how) => {
                    say(&format!("waits {next} {how}"));
                    next += 1;
                    if how == "buffered" {
                        // Else there would always be some that wait, and none would go directly.
                        rest().await;
                    }
                }
                None => rest().await,
            }
        }
    }

    async fn one_answer(
        &self,
        next: u64,
        mut answers: tonic::Streaming<betcode_schema_grpc::history::AppendResponse>,
    ) -> Option<&'static str> {
        match answers.next().await {
            Some(Ok(answer)) => match answer.result {
                Some(Answer::Appended(done)) if done.last_sequence == next => Some("stored"),
                other if retriable(&other) => None,
                other => {
                    say(&format!("wrong {next} {other:?}"));
                    None
                }
            },
            Some(Err(status)) => told(&status),
            None => None,
        }
    }

    async fn follow(mut self, mut next: u64) {
        loop {
            let asked = FollowRequest {
                session_id: LIVE.into(),
                from_sequence: next,
            };
            if let Ok(answers) = self.history.follow(addressed(asked, &self.token)).await {
                let mut answers = answers.into_inner();
                while let Ok(Some(answer)) = answers.message().await {
                    for message in answer.messages {
                        if message.sequence != next || message.payload != line(LIVE, next) {
                            say(&format!("wrong {next} followed {}", message.sequence));
                        }
                        next += 1;
                    }
                    say(&format!("follow {}", next - 1));
                }
            }
            rest().await;
        }
    }
}

/// Whether a refusal is of the moment: the daemon stops, or is busy.
fn retriable(answer: &Option<Answer>) -> bool {
    let Some(Answer::Refused(refused)) = answer else {
        return answer.is_none();
    };
    let codes = [Code::Unavailable, Code::ResourceExhausted, Code::Aborted];
    codes.contains(&Code::from_i32(refused.code))
}

/// What a status says of a request that might have waited; `None` when it must be sent again.
fn told(status: &Status) -> Option<&'static str> {
    if super::waiting::is_buffered(status) {
        return Some("buffered");
    }
    let code = status.metadata().get(metadata::DELIVERED_CODE);
    (code.is_some_and(|code| code == "0")).then_some("repeated")
}
