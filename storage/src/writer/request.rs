//! Batches on their way to the writer: checked against the bounds, their lines classified, and each answered even
//! if the writer panics.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use bytes::Bytes;

use super::ENDED;
use super::append::Wrote;
use crate::capacity::text::{bytes_apart, count};
use crate::classify::{self, LineFacts};
use crate::clock::millis;
use crate::error::{Argument, Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::limits::{BATCH_BYTES_MAX, BATCH_MESSAGES_MAX, SESSION_TEXT_BYTES_MAX};
use crate::message::{Appended, Arrival, Batch, Committed, ImportMark, Message, SessionMeta};
use crate::sql;
use crate::watch::CapacityWatch;

/// Answers an append.
pub(crate) type Done = Box<dyn FnOnce(Result<Appended>) + Send>;

/// A payload with everything that is computed on the caller's thread, so that the writer thread only writes.
pub(crate) struct PreparedMessage {
    pub(super) payload: Bytes,
    pub(super) digest: i64,
    pub(super) facts: LineFacts,
    /// When it was received, for a message that comes from another store; else on commit.
    pub(super) received_ms: Option<i64>,
}

/// A checked batch on its way to the writer.
pub(crate) struct AppendRequest {
    pub(super) session: SessionId,
    pub(super) key: Option<SessionKey>,
    pub(super) meta: SessionMeta,
    pub(super) messages: Vec<PreparedMessage>,
    pub(super) expected_sequence: Option<u64>,
    pub(super) arrival: Arrival,
    pub(super) import: Option<ImportMark>,
    pub(super) deadline: Instant,
    pub(super) queued: Instant,
    pub(super) done: Done,
    bytes: usize,
    /// A page where segments of this session would be, if it had any, is damaged.
    pub(super) met_damage: Cell<bool>,
}

impl AppendRequest {
    /// Checks a batch against the bounds and reads its lines. Where another store received the messages,
    /// `received_ms` has the time of each.
    pub(crate) fn prepare(
        batch: Batch,
        received_ms: Option<&[i64]>,
        payload_bytes_max: usize,
        deadline: Instant,
        done: Done,
    ) -> Result<Self> {
        check(&batch, payload_bytes_max)?;
        if let Some(times) = received_ms.filter(|times| times.len() != batch.payloads.len()) {
            let (messages, times) = (batch.payloads.len(), times.len());
            return Err(StoreError::InvalidArgument {
                what: Argument::Named("the batch"),
                why: format!(
                    "{messages} messages and {times} received times for session {}",
                    batch.session
                ),
            });
        }
        let bytes = batch.bytes();
        let messages = batch
            .payloads
            .into_iter()
            .enumerate()
            .map(|(index, payload)| PreparedMessage {
                digest: sql::messages::digest(&payload),
                facts: classify::classify(&payload),
                payload,
                received_ms: received_ms.and_then(|times| times.get(index).copied()),
            })
            .collect();
        Ok(Self {
            session: batch.session,
            key: batch.key,
            meta: batch.meta,
            messages,
            expected_sequence: batch.expected_sequence,
            arrival: batch.arrival,
            import: batch.import,
            deadline,
            queued: Instant::now(),
            done,
            bytes,
            met_damage: Cell::new(false),
        })
    }

    /// Whether it may be written at a second try, which does not look where the first met damage:
    /// SQLite writes nothing more in a transaction that has read a damaged page.
    pub(super) fn passes_damage(&self) -> bool {
        self.met_damage.get()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Answers that its time is over.
    pub(super) fn refuse_late(self) {
        let waited_ms = millis(self.queued.elapsed());
        let id = self.session.clone();
        (self.done)(Err(StoreError::DeadlineExceeded { id, waited_ms }));
    }

    /// The messages that were new, for followers; `None` when there are none.
    pub(super) fn committed(&self, wrote: &Wrote, now_ms: i64) -> Option<Committed> {
        let Wrote { key, appended, .. } = wrote;
        let fresh = self.messages.iter().zip(appended.first_sequence..);
        // Lossless: not more than the batch has.
        let messages: Vec<_> = fresh
            .skip(appended.duplicates as usize)
            .map(|(message, sequence)| Message {
                sequence,
                received_ms: message.received_ms.unwrap_or(now_ms),
                payload: message.payload.clone(),
            })
            .collect();
        (!messages.is_empty()).then(|| Committed {
            session: self.session.clone(),
            key: *key,
            messages,
        })
    }
}

/// Requests that have no answer yet. When a panic ends the writer they get one.
pub(super) struct Unanswered {
    requests: std::vec::IntoIter<AppendRequest>,
    /// What is known of their messages.
    outcome: &'static str,
}

impl Unanswered {
    /// Of requests that the writer has begun with: they may be on disk.
    pub(super) fn of(group: Vec<AppendRequest>) -> Self {
        Self {
            requests: group.into_iter(),
            outcome: "whether this was recorded is not known",
        }
    }

    /// Of requests that were still waiting.
    pub(super) fn not_begun(requests: Vec<AppendRequest>) -> Self {
        Self {
            requests: requests.into_iter(),
            outcome: "this was not recorded",
        }
    }

    pub(super) fn requests(&self) -> &[AppendRequest] {
        self.requests.as_slice()
    }
}

impl Iterator for Unanswered {
    type Item = AppendRequest;

    fn next(&mut self) -> Option<AppendRequest> {
        self.requests.next()
    }
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        for request in self.requests.by_ref() {
            let why = Some(format!("{ENDED}; {}", self.outcome));
            let answer = || (request.done)(Err(StoreError::Closed { why }));
            // A second panic would end the process.
            let _ = catch_unwind(AssertUnwindSafe(answer));
        }
    }
}

fn check(batch: &Batch, payload_bytes_max: usize) -> Result<()> {
    let refuse = |name, why: String| {
        let what = Argument::Named(name);
        Err(StoreError::InvalidArgument { what, why })
    };
    if batch.payloads.len() > BATCH_MESSAGES_MAX {
        return refuse(
            "the batch",
            format!(
                "it has {} messages for session {}, and may have {}",
                count(batch.payloads.len() as u64),
                batch.session,
                count(BATCH_MESSAGES_MAX as u64)
            ),
        );
    }
    for (index, payload) in batch.payloads.iter().enumerate() {
        if payload.len() > payload_bytes_max {
            return Err(StoreError::PayloadTooLarge {
                id: batch.session.clone(),
                index,
                bytes: payload.len(),
                bytes_max: payload_bytes_max,
            });
        }
    }
    if batch.payloads.len() > 1 && batch.bytes() > BATCH_BYTES_MAX {
        let (bytes, max) = bytes_apart(batch.bytes() as u64, BATCH_BYTES_MAX as u64);
        let session = &batch.session;
        let why = format!("it has {bytes} for session {session}, and may have {max}");
        return refuse("the batch", why);
    }
    if batch.expected_sequence == Some(0) {
        return refuse("expected_sequence", "sequences begin at 1".into());
    }
    let meta = &batch.meta;
    let texts = [
        ("name", &meta.name),
        ("model", &meta.model),
        ("working_directory", &meta.working_directory),
        ("worktree_id", &meta.worktree_id),
        ("agent_session_id", &meta.agent_session_id),
    ];
    for (what, text) in texts {
        if text.len() > SESSION_TEXT_BYTES_MAX {
            let (bytes, max) = bytes_apart(text.len() as u64, SESSION_TEXT_BYTES_MAX as u64);
            let why = format!(
                "session {}: it has {bytes}, and may have {max}",
                batch.session
            );
            return refuse(what, why);
        }
    }
    Ok(())
}

/// Counts appends that were refused for lack of space, and notes those that were recorded. A failed group of
/// several is tried again one by one, and counted then.
pub(super) fn note_refusals(
    watch: &CapacityWatch,
    group: &[AppendRequest],
    result: &Result<Vec<Result<Appended>>>,
) {
    match (result, group) {
        (Err(error), [request]) => watch.refusals.refused(error, request.bytes() as u64),
        (Err(_), _) => {}
        (Ok(answers), _) => {
            for (request, answer) in group.iter().zip(answers) {
                let bytes = request.bytes() as u64;
                match answer {
                    Err(error) => watch.refusals.refused(error, bytes),
                    // Messages that were recorded already need no space.
                    Ok(done) if done.duplicates > 0 => {}
                    Ok(_) => watch.refusals.recorded(bytes),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_a_line_take_no_more_memory_than_a_session_keeps() {
        let line = |cwd: &str| {
            format!(r#"{{"type":"system","subtype":"init","cwd":"{cwd}","session_id":"x"}}"#)
        };
        let facts_of = |cwd: &str| {
            let batch = Batch::new("s".parse().unwrap(), vec![line(cwd).into()]);
            let done: Done = Box::new(|_| {});
            let prepared = AppendRequest::prepare(batch, None, 1 << 20, Instant::now(), done);
            let mut request = prepared.unwrap();
            request.messages.remove(0).facts.session.unwrap()
        };
        assert_eq!(facts_of("/here").working_directory, "/here");
        let long = facts_of(&"x".repeat(SESSION_TEXT_BYTES_MAX + 1));
        assert_eq!(long.working_directory, "");
        assert_eq!(long.agent_session_id, "x");
    }
}
