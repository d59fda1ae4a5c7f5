//! Conversations with the fake agent.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::agent_request::Request as Asked;
use betcode_schema_grpc::v1::agent_service_client::AgentServiceClient;
use betcode_schema_grpc::v1::{AgentEvent, AgentRequest, StartConversation, StatusChange};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::within;

/// What the agents of tests do.
const AGENT: &str = include_str!("../fake_agent.py");

/// The Python that `python3` is, without what stands before it on some machines.
fn python() -> &'static str {
    static PYTHON: OnceLock<String> = OnceLock::new();
    PYTHON.get_or_init(|| {
        let asked = ["-c", "import sys; print(sys.executable)"];
        let output = Command::new("python3").args(asked).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    })
}

/// Settings of a daemon whose agent is the fake one, kept in `folder`.
pub(crate) fn settings(folder: &Path) -> Vec<(&'static str, String)> {
    let script = folder.join("fake_agent.py");
    std::fs::write(&script, AGENT).unwrap();
    let arguments = serde_json::json!(["-S", "-E", script]).to_string();
    vec![
        ("agent_command", python().to_owned()),
        ("agent_arguments", arguments),
    ]
}

/// A served daemon with the fake agent, and the folder where it works.
pub(crate) async fn serve(more: &[(&str, &str)]) -> (super::Served, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let values = settings(folder.path());
    let values: Vec<(&str, &str)> = values
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .chain(more.iter().copied())
        .collect();
    let path = folder.path().to_owned();
    (super::serve_in(folder, &values).await, path)
}

/// One attached stream.
pub(crate) struct Talk {
    pub(crate) requests: mpsc::Sender<AgentRequest>,
    pub(crate) events: Streaming<AgentEvent>,
    /// Everything that was told so far.
    pub(crate) told: Vec<AgentEvent>,
}

pub(crate) fn start(session: &str, folder: &Path) -> StartConversation {
    StartConversation {
        session_id: session.to_owned(),
        working_directory: folder.display().to_string(),
        ..StartConversation::default()
    }
}

pub(crate) fn asked(request: Asked) -> AgentRequest {
    AgentRequest {
        request: Some(request),
    }
}

impl Talk {
    pub(crate) async fn open(channel: &Channel, start: StartConversation) -> Self {
        let mut talk = Self::silent(channel).await;
        talk.ask(Asked::Start(start)).await;
        let first = talk.next().await.unwrap();
        assert!(
            matches!(first.event, Some(Event::SessionInfo(_))),
            "{first:?}"
        );
        talk
    }

    /// A stream on which nothing was said yet.
    pub(crate) async fn silent(channel: &Channel) -> Self {
        let (requests, receiver) = mpsc::channel(64);
        let mut client =
            AgentServiceClient::new(channel.clone()).max_decoding_message_size(32 << 20);
        let events = client.converse(ReceiverStream::new(receiver)).await;
        Self {
            requests,
            events: events.unwrap().into_inner(),
            told: Vec::new(),
        }
    }

    pub(crate) async fn ask(&self, request: Asked) {
        // A stream that the daemon has ended says so when it is read.
        let _ = self.requests.send(asked(request)).await;
    }

    pub(crate) async fn say(&self, content: &str) {
        self.ask(Asked::Message(proto::UserMessage {
            content: content.to_owned(),
            ..proto::UserMessage::default()
        }))
        .await;
    }

    pub(crate) async fn decide(&self, request_id: &str, decision: proto::PermissionDecision) {
        self.ask(Asked::Permission(proto::PermissionResponse {
            request_id: request_id.to_owned(),
            decision: decision.into(),
            ..proto::PermissionResponse::default()
        }))
        .await;
    }

    pub(crate) async fn next(&mut self) -> Result<AgentEvent, Status> {
        let event = within(self.events.message()).await?;
        let event =
            event.ok_or_else(|| Status::from(std::io::Error::other("the stream has ended")))?;
        self.told.push(event.clone());
        Ok(event)
    }

    /// Reads until `wanted` finds something in an event.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(&Event) -> Option<T>) -> T {
        loop {
            let event = self.next().await.unwrap();
            if let Some(found) = event.event.as_ref().and_then(&mut wanted) {
                return found;
            }
        }
    }

    /// Reads until the turn is over; its reason.
    pub(crate) async fn turn_over(&mut self) -> String {
        self.until(|event| match event {
            Event::TurnComplete(turn) => Some(turn.stop_reason.clone()),
            _ => None,
        })
        .await
    }

    /// Reads until the agent rests.
    pub(crate) async fn idle(&mut self) {
        self.status(proto::AgentStatus::Idle).await;
    }

    pub(crate) async fn status(&mut self, wanted: proto::AgentStatus) -> String {
        self.until(|event| match event {
            Event::StatusChange(StatusChange { status, message }) => {
                (*status == i32::from(wanted)).then(|| message.clone())
            }
            _ => None,
        })
        .await
    }

    pub(crate) async fn error(&mut self) -> proto::ErrorEvent {
        self.until(|event| match event {
            Event::Error(error) => Some(error.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn permission(&mut self) -> proto::PermissionRequest {
        self.until(|event| match event {
            Event::PermissionRequest(request) => Some(request.clone()),
            _ => None,
        })
        .await
    }

    /// Reads until some whole text holds this.
    pub(crate) async fn hears(&mut self, part: &str) {
        while !said(&self.told).contains(part) {
            self.next().await.unwrap();
        }
    }

    /// Reads until the daemon ends the stream; why.
    pub(crate) async fn ended(&mut self) -> Status {
        loop {
            if let Err(status) = self.next().await {
                return status;
            }
        }
    }

    /// What comes from lines, and not from the daemon itself.
    pub(crate) fn recorded(&self) -> Vec<AgentEvent> {
        self.told
            .iter()
            .filter(|e| is_of_line(e))
            .cloned()
            .collect()
    }
}

/// Whether an event is of a line: the daemon's own are told on the way only. (Its first SessionInfo
/// is; an agent's own has no count of zero lines.)
pub(crate) fn is_of_line(event: &AgentEvent) -> bool {
    !matches!(
        event.event,
        None | Some(Event::StatusChange(_) | Event::Error(_) | Event::SessionInfo(_))
    )
}

/// All text of the agent.
pub(crate) fn said(events: &[AgentEvent]) -> String {
    let text = |event: &AgentEvent| match &event.event {
        Some(Event::TextDelta(delta)) => Some(delta.text.clone()),
        _ => None,
    };
    events.iter().filter_map(text).collect()
}

/// A word of a prompt: the agent prints this line.
pub(crate) fn printing(line: &str) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut word = "print:".to_owned();
    for three in line.as_bytes().chunks(3) {
        let bits = three
            .iter()
            .fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte))
            << (8 * (3 - three.len()));
        for at in 0..4 {
            let digit = alphabet[bits >> (18 - 6 * at) & 63];
            word.push(if at <= three.len() { digit.into() } else { '=' });
        }
    }
    word
}

/// A session's events from the store, after a sequence.
pub(crate) async fn resume(channel: &Channel, session: &str, from: u64) -> Vec<AgentEvent> {
    let mut client = AgentServiceClient::new(channel.clone()).max_decoding_message_size(32 << 20);
    let request = proto::ResumeSessionRequest {
        session_id: session.to_owned(),
        from_sequence: from,
    };
    let mut answers = client.resume_session(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(event) = within(answers.message()).await.unwrap() {
        events.push(event);
    }
    events
}
