//! Reading a session page by page, and cutting pages into answers.

use std::sync::Arc;
use std::time::Instant;

use betcode_schema_grpc::history as proto;
use betcode_storage::{Message, ReadRange, Replay, Result, SessionId, StoreError};

use crate::core::Core;
use crate::limits::{FRAME_BYTES_MAX, FRAME_MESSAGES_MAX, PART_BYTES_MAX};

/// A replay whose pages are read in turn with those of others.
#[derive(Debug)]
pub struct Pages {
    core: Arc<Core>,
    /// Away while a page is read.
    replay: Option<Replay>,
}

impl Pages {
    /// Opens a replay.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`].
    pub async fn open(core: Arc<Core>, session: SessionId, range: ReadRange) -> Result<Self> {
        let store = core.store.clone();
        let replay = core.blocking.read(move || store.read(&session, range)).await?;
        Ok(Self { core, replay: Some(replay) })
    }

    /// The next page; `None` at the end.
    ///
    /// # Errors
    /// Damage is reported once; the next call goes on behind it.
    pub async fn next(&mut self) -> Result<Option<Vec<Message>>> {
        let Some(mut replay) = self.replay.take() else { return Ok(None) };
        let asked = Instant::now();
        let (replay, page) = self
            .core
            .blocking
            .read(move || {
                let page = replay.next_page();
                Ok((replay, page))
            })
            .await?;
        self.replay = Some(replay);
        self.core.metrics.page.record(asked.elapsed());
        page
    }

    /// Sequence of the next message that will come.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.replay.as_ref().map_or(0, Replay::position)
    }
}

/// Cuts messages into answers of bounded size; a long message into parts of its own.
pub fn frames(messages: Vec<Message>) -> impl Iterator<Item = Vec<proto::Message>> + Send {
    let mut parts = messages.into_iter().flat_map(parts).peekable();
    std::iter::from_fn(move || {
        let mut frame = vec![parts.next()?];
        let mut bytes = frame.first().map_or(0, |part| part.payload.len());
        while frame.len() < FRAME_MESSAGES_MAX
            && let Some(part) = parts.next_if(|next| bytes + next.payload.len() <= FRAME_BYTES_MAX)
        {
            bytes += part.payload.len();
            frame.push(part);
        }
        Some(frame)
    })
}

fn parts(message: Message) -> impl Iterator<Item = proto::Message> + Send {
    let Message { sequence, received_ms, mut payload } = message;
    let mut first = true;
    std::iter::from_fn(move || {
        if payload.is_empty() && !first {
            return None;
        }
        first = false;
        let part = payload.split_to(payload.len().min(PART_BYTES_MAX));
        let remaining_bytes = payload.len() as u64;
        Some(proto::Message { sequence, received_ms, payload: part, remaining_bytes })
    })
}

/// Whether an error leaves the rest of a session readable.
#[must_use]
pub fn is_damage(error: &StoreError) -> bool {
    matches!(error, StoreError::Damaged { .. } | StoreError::Segment { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(sequence: u64, bytes: usize) -> Message {
        Message { sequence, received_ms: 7, payload: Bytes::from(vec![b'x'; bytes]) }
    }

    #[test]
    fn frames_are_bounded_and_keep_everything_in_order() {
        let messages: Vec<_> = (1..=3000).map(|n| message(n, if n % 7 == 0 { 0 } else { 300 })).collect();
        let frames: Vec<_> = frames(messages).collect();
        for frame in &frames {
            assert!(frame.len() <= FRAME_MESSAGES_MAX);
            assert!(frame.iter().map(|m| m.payload.len()).sum::<usize>() <= FRAME_BYTES_MAX);
        }
        let sequences: Vec<_> = frames.iter().flatten().map(|m| m.sequence).collect();
        assert_eq!(sequences, (1..=3000).collect::<Vec<_>>());
    }

    #[test]
    fn a_long_message_comes_in_parts() {
        let bytes = 2 * PART_BYTES_MAX + 5;
        let frames: Vec<_> = frames(vec![message(1, bytes), message(2, 1)]).collect();
        let parts: Vec<_> = frames.iter().flatten().map(|m| (m.sequence, m.payload.len(), m.remaining_bytes)).collect();
        let part = PART_BYTES_MAX;
        assert_eq!(
            parts,
            [(1, part, part as u64 + 5), (1, part, 5), (1, 5, 0), (2, 1, 0)]
        );
    }
}
