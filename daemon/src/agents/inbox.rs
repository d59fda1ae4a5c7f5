//! What a conversation is told, by clients and by its own tasks.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::oneshot;

use super::command::Options;
use super::conversation::{Exit, Reply, StreamKey, Written};
use super::glance::Glance;
use super::mailbox::{Mailbox, ReadTimes};
use super::refusal::Refusal;

/// What a stream is given in its conversation.
#[derive(Debug)]
pub(crate) struct Attachment {
    pub(crate) times: Arc<ReadTimes>,
    /// The model that the agent was started with; empty when none runs, or for its own choice.
    pub(crate) model: String,
}

/// What a conversation is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// A stream is there, and was told the lines up to `from`.
    Attach {
        key: StreamKey,
        client: Arc<str>,
        from: u64,
        options: Options,
        mailbox: Arc<Mailbox>,
        attached: oneshot::Sender<Attachment>,
    },
    /// It is gone.
    Detach(StreamKey),
    /// The user says something.
    Message(StreamKey, Value),
    /// The user replies to what the agent asked, having been told the lines up to the number.
    Reply(StreamKey, u64, Reply),
    /// The turn is to end.
    Cancel(Option<oneshot::Sender<bool>>),
    /// A client wants the input lock.
    Lock(Arc<str>, oneshot::Sender<(bool, Option<Arc<str>>)>),
    /// All grants.
    Grants(oneshot::Sender<BTreeMap<String, bool>>),
    /// A grant.
    SetGrant(String, bool, oneshot::Sender<Result<(), Refusal>>),
    /// One grant less, or none any more.
    ClearGrants(String, oneshot::Sender<()>),
    /// Lines of the agent are on disk, up to this one.
    Recorded(u64, Vec<(u64, Glance)>),
    /// Lines cannot be recorded at present.
    Stalled(Refusal),
    /// They can again.
    Flows,
    /// A line that is too long came in pieces.
    InPieces(u64, usize),
    /// A line for the agent is on disk, or not.
    Written(Written, Result<u64, Refusal>),
    /// A line for the agent did not reach it: it has closed its input, or is gone.
    Deaf(Written),
    /// The agent is gone.
    Exited(Exit),
    /// The agent is to end if it rests: another session needs its place.
    GiveWay,
    /// It is to go now: there is no time left.
    Kill,
    /// The same, for its session is to go, and what cannot be recorded with it.
    Forsake,
    /// A bug is met.
    #[cfg(test)]
    Panic,
}
