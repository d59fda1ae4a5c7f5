//! The state of a conversation with an agent. Pure: what happens goes in, what is to be done comes out.
//!
//! `clients` has what clients do, `agent` what the agent does, and `time` what time does.
//!
//! ```text
//!             message           started / written        result
//!   idle ─────────────▶ turn ───────────────────▶ turn ─────────▶ idle ──(a while)──▶ agent ends
//!                         │ control_request ▶ waiting for somebody ▶ answered
//!                         └ exit ▶ clients are sent an error, idle; the next message starts the agent again
//! ```
//!
//! One turn at a time: messages that come meanwhile wait, and a cancellation drops them. The caller gives the time,
//! in milliseconds of a clock that never goes back.

mod agent;
mod clients;
mod time;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::{AgentStatus, PermissionDecision, PlanModeChange, StatusChange};
use bytes::Bytes;
use serde_json::Value;

use super::command::{Options, Reported};
use super::refusal::Refusal;
use super::requests::Requests;
use crate::limits::AGENT_PLACE_ASK_MS;

/// One attached stream.
pub(crate) type StreamKey = u64;

/// Something that the conversation's task is to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Start the agent so.
    Start(Arc<Options>),
    /// Record a line, then write it to the agent.
    Write(Bytes, InputKind),
    /// Interrupt its turn.
    Interrupt,
    /// Close its input: it is to end.
    EndInput,
    /// End it now.
    Kill,
    /// Send clients an event, once they were sent the lines up to a sequence.
    Tell(Recipients, u64, Event),
    /// End a stream, once it was sent the lines up to a sequence.
    EndStream(StreamKey, u64),
}

/// Who gets an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recipients {
    All,
    One(StreamKey),
}

/// What a line for the agent is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InputKind {
    Prompt,
    Answer,
}

/// How an agent ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Exit {
    /// It ended by itself and said that all is well.
    pub(crate) success: bool,
    /// In words: `exit status: 3`, `signal: 9 (SIGKILL)`.
    pub(crate) how: String,
    /// The last lines of its standard error.
    pub(crate) stderr: Vec<String>,
}

/// What a session is doing, as lists of sessions show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Activity {
    Idle,
    Active,
    Waiting,
}

/// Times, in milliseconds, that settings have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// An agent without a turn is kept so long.
    pub(crate) idle_ms: u64,
    /// A request waits so long while nobody is attached.
    pub(crate) unattended_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    Away,
    Running,
    /// Its input is closed, so that it ends.
    Ending,
}

/// The slot of an agent, which another session's agent is giving up.
#[derive(Debug)]
struct AwaitedPlace {
    /// When to look whether it is there; none while somebody looks.
    look_ms: Option<u64>,
    /// When to ask another agent at rest.
    ask_ms: u64,
    until_ms: u64,
}

#[derive(Debug)]
struct Turn {
    /// The prompt, until it is handed to the writer.
    prompt: Option<Value>,
    /// How the agent runs if the prompt starts it.
    options: Arc<Options>,
    /// The stream that it came on.
    stream: StreamKey,
    /// The agent has it.
    written: bool,
    cancelled: bool,
}

impl Turn {
    /// A turn that the agent does not know of yet.
    fn of(said: &QueuedPrompt) -> Self {
        Self {
            prompt: Some(said.content.clone()),
            options: Arc::clone(&said.options),
            stream: said.stream,
            written: false,
            cancelled: false,
        }
    }
}

#[derive(Debug)]
struct Stream {
    client: Arc<str>,
    /// How the agent runs that one of its messages starts.
    options: Arc<Options>,
    /// It gets the lines behind this one.
    from: u64,
    /// Its client has said something to the agent.
    has_spoken: bool,
    /// Its client says nothing more: neither messages nor answers.
    half_closed: bool,
    /// It is to end.
    ends: bool,
}

/// What a user says, and how the agent runs if that starts it. Its stream may have left by then.
#[derive(Debug)]
struct QueuedPrompt {
    content: Value,
    options: Arc<Options>,
    stream: StreamKey,
}

/// What a user says to something that the agent asked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reply {
    /// To a request for permission.
    Decision {
        request_id: String,
        decision: PermissionDecision,
        updated_input: Option<String>,
        message: String,
    },
    /// To questions.
    Answers {
        question_id: String,
        answers: HashMap<String, String>,
    },
}

/// A reply to a request that this conversation has not seen yet: clients get a line at its commit, which
/// may be before the recorder has reported it here.
#[derive(Debug)]
struct EarlyReply {
    key: StreamKey,
    reply: Reply,
    /// The last line that the client had been sent.
    last_sent: u64,
    until_ms: u64,
}

/// The state of a conversation.
#[derive(Debug)]
pub(crate) struct Conversation {
    timeouts: Timeouts,
    agent: Agent,
    /// How the last agent was started.
    agent_options: Arc<Options>,
    /// What that one says of itself.
    reported: Reported,
    /// It has had no prompt yet.
    is_fresh: bool,
    /// Whether the last agent of which clients heard planned only.
    shown_plan_mode: bool,
    /// The session's, for agents that are asked for without one.
    session_model: String,
    agent_session_id: String,
    turn: Option<Turn>,
    /// The turn's tool calls that have no result yet.
    tools: BTreeSet<String>,
    /// The agent compacts what its model reads.
    compacts: bool,
    waiting: VecDeque<QueuedPrompt>,
    requests: Requests,
    streams: BTreeMap<StreamKey, Stream>,
    holder: Option<Arc<str>>,
    /// Why nothing can be recorded at present.
    stalled: Option<Refusal>,
    /// How many recording tasks are stalled: output and input are recorded separately.
    stalls: usize,
    /// The last sequence that is known to be on disk.
    recorded: u64,
    /// The last of the agent's lines that we have heard of.
    heard: u64,
    /// Answers that came before the lines that they are about.
    early: VecDeque<EarlyReply>,
    unattended_since_ms: u64,
    idle_until_ms: Option<u64>,
    /// The slot that the turn's agent waits for.
    place: Option<AwaitedPlace>,
    kill_at_ms: Option<u64>,
    /// Nothing new is begun: the daemon stops, or the session is to go.
    closing: bool,
    effects: Vec<Effect>,
}

impl Conversation {
    /// One without an agent, whose session ends at `recorded` and has lines of at most
    /// `line_bytes_max`.
    pub(crate) fn new(
        timeouts: Timeouts,
        line_bytes_max: usize,
        agent_session_id: String,
        recorded: u64,
        now_ms: u64,
    ) -> Self {
        Self {
            timeouts,
            agent: Agent::Away,
            agent_options: Arc::default(),
            reported: Reported::default(),
            is_fresh: false,
            shown_plan_mode: false,
            session_model: String::new(),
            agent_session_id,
            turn: None,
            tools: BTreeSet::new(),
            compacts: false,
            waiting: VecDeque::new(),
            requests: Requests::new(line_bytes_max),
            streams: BTreeMap::new(),
            holder: None,
            stalled: None,
            stalls: 0,
            recorded,
            heard: recorded,
            early: VecDeque::new(),
            unattended_since_ms: now_ms,
            idle_until_ms: None,
            place: None,
            kill_at_ms: None,
            closing: false,
            effects: Vec::new(),
        }
    }

    /// The same, of a session that has a model.
    pub(crate) fn with_model(mut self, session_model: String) -> Self {
        self.session_model = session_model;
        self
    }

    /// What is to be done now, in order.
    pub(crate) fn take_effects(&mut self) -> Vec<Effect> {
        self.end_streams();
        std::mem::take(&mut self.effects)
    }

    /// The agent's own name for the conversation; empty before it named one.
    pub(crate) fn agent_session_id(&self) -> &str {
        &self.agent_session_id
    }

    /// The model that the agent was started with, the session's where none was asked for; empty while there
    /// is no agent, or for its own choice.
    pub(crate) fn model(&self) -> &str {
        match self.agent {
            Agent::Running => &self.agent_options.model,
            Agent::Away | Agent::Ending => "",
        }
    }

    /// Whether nothing would be forgotten with it.
    pub(crate) fn is_over(&self) -> bool {
        let nobody = self.streams.is_empty() && self.requests.grants().is_empty();
        self.agent == Agent::Away && self.turn.is_none() && (self.closing || nobody)
    }

    /// Whether its agent has nothing to do, and may make room for another session's.
    pub(crate) fn is_idle(&self) -> bool {
        let is_idle = self.turn.is_none() && !self.requests.waits();
        is_idle && self.agent == Agent::Running && !self.closing
    }

    /// Until when it waits for a place for its agent, if it does.
    pub(crate) fn awaits_place_until_ms(&self) -> Option<u64> {
        self.place.as_ref().map(|place| place.until_ms)
    }

    /// Whether another agent at rest is to be asked for its place: the one that was asked before may be at work
    /// again, or its place was taken for another message.
    pub(crate) fn asks_again_for_place(&mut self, now_ms: u64) -> bool {
        let Some(place) = self.place.as_mut().filter(|place| place.ask_ms <= now_ms) else {
            return false;
        };
        place.ask_ms = now_ms + AGENT_PLACE_ASK_MS;
        true
    }

    pub(crate) fn activity(&self) -> Activity {
        match (&self.turn, self.requests.waits()) {
            (_, true) => Activity::Waiting,
            (Some(_), false) => Activity::Active,
            (None, false) => Activity::Idle,
        }
    }

    fn tell(&mut self, to: Recipients, event: Event) {
        self.effects.push(Effect::Tell(to, self.recorded, event));
    }

    fn tell_status(&mut self, message: &str) {
        let status = self.status(message);
        self.tell(Recipients::All, status);
    }

    fn tell_plan_mode(&mut self, to: Recipients, active: bool) {
        let plan = String::new();
        self.tell(to, Event::PlanMode(PlanModeChange { active, plan }));
    }

    fn agent_status(&self) -> AgentStatus {
        match self.activity() {
            _ if self.stalled.is_some() => AgentStatus::Error,
            Activity::Waiting => AgentStatus::WaitingForUser,
            Activity::Active if self.compacts => AgentStatus::Compacting,
            Activity::Active if !self.tools.is_empty() => AgentStatus::ExecutingTool,
            Activity::Active => AgentStatus::Thinking,
            Activity::Idle => AgentStatus::Idle,
        }
    }

    fn status(&self, message: &str) -> Event {
        Event::StatusChange(StatusChange {
            status: self.agent_status().into(),
            message: message.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests;
