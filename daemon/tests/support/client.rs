//! Clients as processes of their own, so that they can be killed and stopped: the test binary
//! started again, with what to do in its environment. The binary needs a test named
//! `a_client_process` that calls [`run`].

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use betcode_schema_grpc::history::append_response::Result as Answer;
use betcode_schema_grpc::history::history_service_client::HistoryServiceClient;
use betcode_schema_grpc::history::{AppendRequest, FollowRequest};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use tokio_stream::wrappers::ReceiverStream;

use crate::support::connect;

const WORK: &str = "TEST_CLIENT_WORK";
/// Begins each line that is meant for the parent: the test harness prints lines of its own.
const MARK: &str = "@ ";

/// What a client does until it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Appends [`line`]s and tells the last sequence that was answered.
    Append,
    /// Follows, checks each line, and tells the last sequence.
    Follow,
}

/// Line `sequence` of a session: everybody knows what it must be.
pub(crate) fn line(session: &str, sequence: u64) -> Bytes {
    let mut noise = sequence.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let words = if sequence.is_multiple_of(97) {
        1500
    } else {
        noise % 40
    };
    let mut text = format!(r#"{{"type":"assistant","session":"{session}","n":{sequence},"text":""#);
    for _ in 0..words {
        noise ^= noise >> 7;
        noise ^= noise << 9;
        text.push_str(&format!("{:x} ", noise & 0xFFFF));
    }
    text.push_str("\"}");
    text.into()
}

/// A client of the daemon at a socket.
pub(crate) struct Client {
    child: Child,
    told: Arc<Mutex<Vec<String>>>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Client {
    pub(crate) fn start(work: Work, socket: &Path, session: &str, from: u64) -> Self {
        let verb = match work {
            Work::Append => "append",
            Work::Follow => "follow",
        };
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["a_client_process", "--exact", "--ignored", "--nocapture"])
            .env(
                WORK,
                format!("{verb} {session} {from} {}", socket.display()),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let told = Arc::new(Mutex::new(Vec::new()));
        let (output, sink) = (child.stdout.take().unwrap(), Arc::clone(&told));
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let Ok(line) = line else { return };
                if let Some(line) = line.strip_prefix(MARK) {
                    sink.lock().unwrap().push(line.to_owned());
                }
            }
        });
        let reader = Some(reader);
        Self {
            child,
            told,
            reader,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// SIGSTOP: it is there and does nothing.
    pub(crate) fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub(crate) fn go_on(&self) {
        self.signal(Signal::CONT);
    }

    /// The last sequence it told so far.
    pub(crate) fn last(&self) -> Option<u64> {
        let told = self.told.lock().unwrap();
        told.last().map(|line| {
            line.parse()
                .unwrap_or_else(|_| panic!("a client complains: {line}"))
        })
    }

    /// Waits until it has told `sequence`.
    pub(crate) async fn reaches(&self, sequence: u64) {
        let deadline = Instant::now() + Duration::from_secs(120);
        while self.last().is_none_or(|last| last < sequence) {
            assert!(
                Instant::now() < deadline,
                "a client is stuck: {:?}",
                self.last()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// SIGKILL; the last sequence it told.
    pub(crate) fn kill(mut self) -> Option<u64> {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        self.last()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tell(what: &str) {
    // One write: a kill leaves all of it or nothing. The empty line ends what the harness began.
    let text = format!("\n{MARK}{what}\n");
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    let _ = std::io::stdout().flush();
}

/// The client's side. Returns at once in a run of tests that did not ask for it.
pub(crate) async fn run() {
    let Ok(work) = std::env::var(WORK) else {
        return;
    };
    let mut words = work.splitn(4, ' ');
    let mut word = || words.next().unwrap().to_owned();
    let (verb, session, from, socket) = (word(), word(), word().parse().unwrap(), word());
    let socket = Path::new(&socket);
    if verb == "follow" {
        return follow(socket, session, from).await;
    }
    if let Ok(channel) = connect(socket).await {
        append(HistoryServiceClient::new(channel), session, from).await;
    }
}

type History = HistoryServiceClient<tonic::transport::Channel>;

async fn append(mut client: History, session: String, from: u64) {
    let (requests, receiver) = tokio::sync::mpsc::channel(16);
    let id = session.clone();
    tokio::spawn(async move {
        let mut next = from;
        loop {
            let count = 1 + next % 8;
            let request = AppendRequest {
                session_id: id.clone(),
                expected_sequence: Some(next),
                payloads: (next..next + count).map(|at| line(&id, at)).collect(),
                ..AppendRequest::default()
            };
            next += count;
            if requests.send(request).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(4)).await;
        }
    });
    let Ok(answers) = client.append(ReceiverStream::new(receiver)).await else {
        return;
    };
    let mut answers = answers.into_inner();
    while let Ok(Some(answer)) = answers.message().await {
        match answer.result {
            Some(Answer::Appended(done)) => tell(&done.last_sequence.to_string()),
            other => tell(&format!("not appended: {other:?}")),
        }
    }
}

/// Follows for ever: a client that was stopped for long finds its connection closed, for it answered
/// no ping, and goes on behind what it has.
async fn follow(socket: &Path, session: String, from: u64) {
    let mut next = from;
    loop {
        if let Ok(channel) = connect(socket).await {
            let client = HistoryServiceClient::new(channel);
            follow_once(client, &session, &mut next).await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn follow_once(mut client: History, session: &str, next: &mut u64) {
    let request = FollowRequest {
        session_id: session.to_owned(),
        from_sequence: *next,
    };
    let Ok(answers) = client.follow(request).await else {
        return;
    };
    let mut answers = answers.into_inner();
    while let Ok(Some(answer)) = answers.message().await {
        for message in answer.messages {
            if message.sequence != *next || message.payload != line(session, *next) {
                let (at, bytes) = (message.sequence, message.payload.len());
                tell(&format!(
                    "{next} was to come, and {at} came, of {bytes} bytes"
                ));
                std::process::exit(1);
            }
            *next += 1;
        }
        // Also when there was nothing to send: it has all there is.
        tell(&(*next - 1).to_string());
    }
}
