//! Commands for a conversation, from clients and from its own tasks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::Value;
use tokio::sync::oneshot;

use super::command::Options;
use super::conversation::{Exit, InputKind, Reply, StreamKey};
use super::mailbox::{Mailbox, ReadTimes};
use super::refusal::Refusal;
use super::signals::AgentSignal;

/// What a stream is given in its conversation.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) times: Arc<ReadTimes>,
    /// The model that the agent was started with; empty when none runs, or for its own choice.
    pub(crate) model: String,
}

/// A command for a conversation.
#[derive(Debug)]
pub(crate) enum Command {
    /// A stream is there, and has the lines up to `from`.
    Attach {
        key: StreamKey,
        client: Arc<str>,
        from: u64,
        options: Options,
        mailbox: Arc<Mailbox>,
        attached: oneshot::Sender<Attachment>,
    },
    /// The stream was closed.
    Detach(StreamKey),
    /// The client closed its side of the stream, and listens on.
    HalfClosed(StreamKey),
    /// The user says something.
    Message(StreamKey, Value),
    /// The user said something that cannot be taken.
    MessageRefused(StreamKey, Refusal),
    /// The user replies to what the agent asked, having been sent the lines up to `last_sent`.
    Reply {
        stream: StreamKey,
        last_sent: u64,
        reply: Reply,
        /// When it was read off the client's stream.
        heard: Instant,
    },
    /// Cancel the turn.
    Cancel(Option<oneshot::Sender<bool>>),
    /// A client wants the input lock.
    Lock(Arc<str>, oneshot::Sender<(bool, Option<Arc<str>>)>),
    /// List all grants.
    Grants(oneshot::Sender<BTreeMap<String, bool>>),
    /// Set a grant for a tool.
    SetGrant(String, bool, oneshot::Sender<Result<(), Refusal>>),
    /// Clear the grant of a tool; all of them for an empty name.
    ClearGrants(String, oneshot::Sender<()>),
    /// Lines of the agent are on disk, up to `last`.
    Recorded {
        last: u64,
        /// What of them the conversation must know, each with its sequence.
        signals: Vec<(u64, AgentSignal)>,
    },
    /// Lines cannot be recorded at present.
    RecordingStalled(Refusal),
    /// Recording works again.
    RecordingResumed,
    /// A line that is too long came in pieces.
    LineSplit {
        /// Sequence of its first piece.
        first: u64,
        /// Bytes that a line may have.
        bytes_max: usize,
    },
    /// A line for the agent is on disk, or not.
    InputWritten(InputKind, Result<u64, Refusal>),
    /// A line for the agent did not reach it: it has closed its input, or is gone.
    InputClosed(InputKind),
    /// The agent has ended, and all that it printed is on disk.
    Exited(Exit),
    /// End the agent if it is idle: another session needs its slot.
    YieldSlot,
    /// End the agent now: there is no time left.
    Kill,
    /// The session was deleted: end the agent; output that is not recorded yet is dropped.
    SessionDeleted,
    /// Makes the task panic, for tests.
    #[cfg(test)]
    Panic,
}
