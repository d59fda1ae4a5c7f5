//! Messages on their way in and out.

use bytes::Bytes;

use crate::ids::{SessionId, SessionKey};

/// A message as read: its place, when the store received it, and its exact bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Number in its session, from 1, gapless.
    pub sequence: u64,
    /// When the store received it, Unix milliseconds.
    pub received_ms: i64,
    /// The exact bytes that were appended, without a line end. Those that were read may keep their whole segment in
    /// memory, usually a MiB: copy what is kept for long.
    pub payload: Bytes,
}

/// What is known of a session when it is created or first appended to. Empty means unknown;
/// a later append fills what is still empty and never overwrites.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionMeta {
    /// Name for people; renaming changes it.
    pub name: String,
    /// Model of the agent.
    pub model: String,
    /// Directory that the agent works in; sessions of one directory form a project.
    pub working_directory: String,
    /// Git worktree, when the client names one.
    pub worktree_id: String,
    /// The agent's own id of the conversation.
    pub agent_session_id: String,
}

/// How a message without a timestamp gets its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Arrival {
    /// Received as they were written: a message without a timestamp has the time of its arrival.
    #[default]
    Live,
    /// Old messages: one without a timestamp has the time of the message before it.
    Historical,
}

/// Messages to append to one session, all or none.
///
/// An append whose answer was lost may be repeated, if the batch has its expected sequence. After a crash, a caller
/// that still has the lines sends all of them again, or continues after [`Session::messages`](crate::Session::messages).
///
/// ```
/// use betcode_storage::{Batch, SessionId, Store, StoreOptions};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let path = folder.path().join("history.db");
/// let store = Store::open(&path, StoreOptions::default())?;
/// let mut batch = Batch::new(SessionId::new("s")?, vec!["a line".into()]);
/// batch.expected_sequence = Some(1);
/// assert_eq!(store.append(batch.clone())?.duplicates, 0);
/// assert_eq!(store.append(batch)?.duplicates, 1);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Batch {
    /// The session; created when it does not exist.
    pub session: SessionId,
    /// If set, only the session with this key is appended to. Once that session is deleted the append fails
    /// with [`StoreError::SessionNotFound`](crate::StoreError::SessionNotFound), even if a new session has
    /// the same id.
    pub key: Option<SessionKey>,
    /// The exact payloads, in order.
    pub payloads: Vec<Bytes>,
    /// What is known of the session.
    pub meta: SessionMeta,
    /// The sequence that the first payload must get. When the session is further already, the
    /// append succeeds if the bytes there are the same (a retry), and conflicts if they differ.
    pub expected_sequence: Option<u64>,
    /// Whether the messages are new or old.
    pub arrival: Arrival,
    /// Source bookkeeping that must change together with the messages, for importers.
    pub import: Option<ImportMark>,
}

impl Batch {
    /// A batch of live messages with nothing else set.
    #[must_use]
    pub fn new(session: SessionId, payloads: Vec<Bytes>) -> Self {
        Self {
            session,
            key: None,
            payloads,
            meta: SessionMeta::default(),
            expected_sequence: None,
            arrival: Arrival::Live,
            import: None,
        }
    }

    /// Payload bytes in all.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.payloads.iter().map(Bytes::len).sum()
    }
}

/// The answer to an append: these sequences are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Sequence of the batch's first message.
    pub first_sequence: u64,
    /// Sequence of its last message; `first_sequence - 1` for an empty batch.
    pub last_sequence: u64,
    /// Messages of the batch that were there already, byte for byte (a retry).
    pub duplicates: u64,
}

/// New messages of one batch that are on disk now, for live followers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Their session.
    pub session: SessionId,
    /// Its key. A session that was deleted and created again has another.
    pub key: SessionKey,
    /// The messages, in order, at least one.
    pub messages: Vec<Message>,
}

/// How far a file was imported, stored in the transaction that records its lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportMark {
    /// Absolute path of the file, as the system's bytes.
    pub source_path: Vec<u8>,
    /// Path below the imported folder: where an export writes it.
    pub relative_path: Vec<u8>,
    /// Bytes of the file imported so far, this batch included.
    pub taken_bytes: u64,
    /// XXH3-128 over them.
    pub taken_digest: u128,
    /// Whether the last line imported has no newline.
    pub unterminated: bool,
    /// Sequences (of this batch or the one before it) that the next message continues on the
    /// same line.
    pub joins: Vec<u64>,
}

/// An [`ImportMark`] as kept, with the session it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportRecord {
    /// The session that holds the file's lines.
    pub session: SessionId,
    /// Messages that the session has.
    pub last_sequence: u64,
    /// How far the file was imported; `joins` holds all of the session.
    pub mark: ImportMark,
}
