//! Sessions as listed.

use crate::error::StoreError;
use crate::growth::{Rows, SessionTimes};
use crate::ids::{SessionId, SessionKey};
use crate::message::SessionMeta;
use crate::usage::SessionUsage;

/// All that is kept about a session besides its messages.
#[derive(Debug, Clone, PartialEq)]
pub struct Session {
    /// Key in this file.
    pub key: SessionKey,
    /// Public id.
    pub id: SessionId,
    /// Name, model, directories.
    pub meta: SessionMeta,
    /// When it was created here, Unix milliseconds.
    pub created_ms: i64,
    /// When it was last appended to or renamed here.
    pub updated_ms: i64,
    /// Messages; also the last sequence.
    pub messages: u64,
    /// Payload bytes.
    pub raw_bytes: u64,
    /// Bytes the same messages take as rows of their own.
    pub uncompacted_bytes: u64,
    /// Messages that are rows of their own.
    pub hot_messages: u64,
    /// Their payload bytes.
    pub hot_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Their encoded bytes.
    pub segment_bytes: u64,
    /// Time of the first message (its own timestamp, else its arrival); `None` while no line of an imported
    /// session has had a timestamp.
    pub first_time_ms: Option<i64>,
    /// Time of the last message.
    pub last_time_ms: Option<i64>,
    /// Active time: gaps between messages, each capped at five minutes, and turns of imported
    /// streams, as [`growth`](crate::growth) adds them up.
    pub active_ms: i64,
    /// Tokens and cost.
    pub usage: SessionUsage,
    /// Beginning of the last text, for lists.
    pub last_preview: String,
}

impl Session {
    /// Bytes the session takes in the database: segments, and hot messages as rows.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        let rows = Rows {
            messages: self.messages,
            raw_bytes: self.raw_bytes,
            uncompacted_bytes: self.uncompacted_bytes,
        };
        self.segment_bytes
            .saturating_add(rows.hot_bytes(self.hot_messages, self.hot_bytes))
    }

    pub(crate) fn times(&self) -> SessionTimes {
        SessionTimes {
            first_ms: self.first_time_ms,
            last_ms: self.last_time_ms,
            active_ms: self.active_ms,
            turn: self.usage.turn_times,
        }
    }

    pub(crate) fn set_times(&mut self, times: SessionTimes) {
        self.first_time_ms = times.first_ms;
        self.last_time_ms = times.last_ms;
        self.active_ms = times.active_ms;
        self.usage.turn_times = times.turn;
    }
}

/// Which sessions to list, newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Only those of this working directory.
    pub working_directory: Option<String>,
    /// Only those of this worktree.
    pub worktree_id: Option<String>,
    /// At most this many; `None` for all.
    pub limit: Option<u64>,
    /// Leave out this many first.
    pub offset: u64,
}

impl SessionFilter {
    /// Whether a session matches, by the same rules as the list's SQL statement. A trailing slash is ignored; `/` is
    /// not the same as no directory.
    pub(crate) fn matches(&self, meta: &SessionMeta) -> bool {
        let bare = |directory: &str| directory.trim_end_matches('/').to_owned();
        let directory = &meta.working_directory;
        let in_directory = self.working_directory.as_ref().is_none_or(|wanted| {
            wanted == directory || (!bare(wanted).is_empty() && bare(wanted) == bare(directory))
        });
        let in_worktree = self.worktree_id.as_ref();
        in_directory && in_worktree.is_none_or(|wanted| *wanted == meta.worktree_id)
    }
}

/// A page of sessions.
#[derive(Debug, Clone, PartialEq)]
pub struct SessionList {
    /// The page.
    pub sessions: Vec<Session>,
    /// All sessions that match, not only those of the page, and those whose rows are damaged.
    pub total: u64,
    /// Sessions of the page whose rows are damaged. Their messages may well be whole.
    pub damaged: Vec<DamagedSession>,
}

/// A session whose row cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedSession {
    /// Its id, unless that is what is damaged.
    pub id: Option<SessionId>,
    /// What is wrong.
    pub what: String,
}

impl DamagedSession {
    /// The error of an operation that needs the session.
    #[must_use]
    pub fn error(&self) -> StoreError {
        StoreError::damaged(self.id.as_ref().map(SessionId::as_str), self.what.clone())
    }
}
