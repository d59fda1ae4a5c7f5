//! Reading a session page by page, and cutting pages into answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use betcode_schema_grpc::history as proto;
use betcode_storage::{
    Message, ReadRange, Replay, Result, Session, SessionId, SessionKey, StoreError,
};
use bytes::BytesMut;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tonic::Status;

use crate::core::Core;
use crate::limits::{
    FRAME_BYTES_MAX, FRAME_MESSAGES_MAX, LINES_TOGETHER_BYTES_MAX, PART_BYTES_MAX, SLOW_CLIENT_MS,
    WARM_PAGES_MAX,
};
use crate::long_lines::{self, LongLinePermit};
use crate::status::from_store;

/// A part of a session, read page by page in turn with others.
///
/// A replay keeps the segment it is in decoded, and is *warm* then. Only a bounded number are warm at once. One whose
/// client is slow ([`Pages::hand_to`]), or that pauses itself ([`Pages::step_aside`]), gives its slot to another and
/// decodes again later. A page is copied out of its segment, so that what waits for a client keeps no segment alive.
#[derive(Debug)]
pub struct Pages {
    core: Arc<Core>,
    session: SessionId,
    /// A session deleted and made anew has another key.
    key: SessionKey,
    /// Sequence to read next, and the last one wanted.
    next: u64,
    last: u64,
    /// `None` while a page is read, and while the client is slow or the replay pauses.
    warm: Option<Warm>,
}

#[derive(Debug)]
struct Warm {
    replay: Replay,
    pages: usize,
    _slot: Option<OwnedSemaphorePermit>,
}

impl Pages {
    /// Finds the part; reads nothing yet.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`].
    pub async fn open(core: Arc<Core>, session: SessionId, range: ReadRange) -> Result<Self> {
        let store = core.store.clone();
        let find = move || store.session(&session);
        let session = core.blocking.read(find).await?;
        Ok(Self::of(core, &session, range))
    }

    /// A part of a session that was found just now.
    #[must_use]
    pub fn of(core: Arc<Core>, session: &Session, range: ReadRange) -> Self {
        let last = range.to.unwrap_or(session.messages).min(session.messages);
        let first_of = |count: u64| (last + 1).saturating_sub(count);
        let next = range.from.max(1).max(range.last.map_or(1, first_of));
        Self {
            core,
            session: session.id.clone(),
            key: session.key,
            next,
            last,
            warm: None,
        }
    }

    /// The next page; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError::NoRoom`] for long lines. Damage is reported once; the next call goes on behind it. [`StoreError::SessionNotFound`] when
    /// the session went, though there be another of its name.
    pub async fn next(&mut self) -> std::result::Result<Option<Page>, ReadError> {
        let mut taken: Option<LongLinePermit> = None;
        loop {
            let first = self.next;
            let Some(messages) = self.read().await? else {
                return Ok(None);
            };
            let needed = long_lines::bytes_needed(&messages);
            if needed == 0 {
                let room = None;
                return Ok(Some(Page { messages, room }));
            }
            let enough = taken.take().filter(|taken| taken.covers(needed));
            let room = enough.or_else(|| self.core.blocking.long_lines().try_take(needed));
            if room.is_some() {
                return Ok(Some(Page { messages, room }));
            }
            // While it waits it holds nothing: the lines are read again when there is room.
            drop(messages);
            self.step_aside();
            self.next = first;
            taken = Some(self.core.blocking.long_lines().take(needed).await?);
        }
    }

    async fn read(&mut self) -> Result<Option<Vec<Message>>> {
        if self.next > self.last {
            return Ok(None);
        }
        let asked = Instant::now();
        let warm = match self.warm.take() {
            Some(warm) => warm,
            None => self.warm_up().await?,
        };
        let read = move || {
            let mut warm = warm;
            let page = warm.replay.next_page().map(|page| page.map(detached));
            Ok((warm, page))
        };
        let (mut warm, page) = self.core.blocking.read(read).await?;
        self.next = warm.replay.position().max(self.next);
        warm.pages += 1;
        let others_wait = self.core.blocking.free_warm_slots() == 0;
        if self.next <= self.last && !(others_wait && warm.pages >= WARM_PAGES_MAX) {
            self.warm = Some(warm);
        }
        self.core.metrics.page.record(asked.elapsed());
        if matches!(page, Ok(None)) {
            self.next = self.last + 1;
        }
        page
    }

    async fn warm_up(&self) -> Result<Warm> {
        let _slot = self.core.blocking.warm_slot().await;
        let (store, id) = (self.core.store.clone(), self.session.clone());
        let range = ReadRange {
            to: Some(self.last),
            ..ReadRange::from(self.next)
        };
        let replay = self
            .core
            .blocking
            .read(move || store.read(&id, range))
            .await?;
        if replay.session_key() != self.key {
            let id = self.session.clone();
            return Err(StoreError::SessionNotFound { id });
        }
        Ok(Warm {
            replay,
            pages: 0,
            _slot,
        })
    }

    /// Hands an answer to a client. If that takes long, the slot goes to another replay.
    ///
    /// # Errors
    /// The client is gone.
    pub async fn hand_to<T>(
        &mut self,
        answers: &mpsc::Sender<T>,
        answer: T,
    ) -> std::result::Result<(), Gone> {
        let slow = Duration::from_millis(SLOW_CLIENT_MS);
        let slot = match timeout(slow, answers.reserve()).await {
            Ok(slot) => slot,
            Err(_) => {
                self.step_aside();
                answers.reserve().await
            }
        };
        slot.map_err(|_| Gone)?.send(answer);
        Ok(())
    }

    /// Gives the slot to another replay before a pause. The next page takes one again.
    pub fn step_aside(&mut self) {
        self.warm = None;
    }

    /// Sequence of the next message that will come.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.next
    }
}

/// Lines, and the room that was taken for the long ones among them.
#[derive(Debug)]
pub struct Page {
    /// The lines.
    pub messages: Vec<Message>,
    /// To be kept as long as the lines, or anything made of them.
    pub(crate) room: Option<LongLinePermit>,
}

/// Why there is no next page.
#[derive(Debug)]
pub enum ReadError {
    /// The store's answer.
    Store(StoreError),
    /// There was no room for long lines, because the clients that have it do not read.
    NoRoom(Status),
}

impl From<StoreError> for ReadError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Status> for ReadError {
    fn from(status: Status) -> Self {
        Self::NoRoom(status)
    }
}

impl From<ReadError> for Status {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => from_store(&error),
            ReadError::NoRoom(status) => status,
        }
    }
}

/// The client has left, so it gets no answer.
#[derive(Debug, Clone, Copy)]
pub struct Gone;

/// A copy of the page in memory of its own.
fn detached(page: Vec<Message>) -> Vec<Message> {
    let mut bytes = BytesMut::with_capacity(page.iter().map(|m| m.payload.len()).sum());
    for message in &page {
        bytes.extend_from_slice(&message.payload);
    }
    let mut bytes = bytes.freeze();
    let own = |message: Message| Message {
        payload: bytes.split_to(message.payload.len()),
        ..message
    };
    page.into_iter().map(own).collect()
}

/// Cuts lines into those that are handed on together.
pub(crate) fn together(lines: &[Message]) -> impl Iterator<Item = &[Message]> {
    let mut bytes = lines.first().map_or(0, |line| line.payload.len());
    let mut fits = move |next: &Message| {
        bytes += next.payload.len();
        let fits = bytes <= LINES_TOGETHER_BYTES_MAX;
        if !fits {
            bytes = next.payload.len();
        }
        fits
    };
    lines.chunk_by(move |_, next| fits(next))
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
    let Message {
        sequence,
        received_ms,
        mut payload,
    } = message;
    let mut first = true;
    std::iter::from_fn(move || {
        if payload.is_empty() && !first {
            return None;
        }
        first = false;
        let part = payload.split_to(payload.len().min(PART_BYTES_MAX));
        let remaining_bytes = payload.len() as u64;
        Some(proto::Message {
            sequence,
            received_ms,
            payload: part,
            remaining_bytes,
        })
    })
}

/// Whether an error leaves the rest of a session readable.
#[must_use]
pub fn is_damage(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Damaged { .. } | StoreError::CutOff { .. } | StoreError::Segment { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn message(sequence: u64, bytes: usize) -> Message {
        Message {
            sequence,
            received_ms: 7,
            payload: Bytes::from(vec![b'x'; bytes]),
        }
    }

    #[test]
    fn frames_are_bounded_and_keep_everything_in_order() {
        let messages: Vec<_> = (1..=3000)
            .map(|n| message(n, if n % 7 == 0 { 0 } else { 300 }))
            .collect();
        let frames: Vec<_> = frames(messages).collect();
        for frame in &frames {
            assert!(frame.len() <= FRAME_MESSAGES_MAX);
            assert!(frame.iter().map(|m| m.payload.len()).sum::<usize>() <= FRAME_BYTES_MAX);
        }
        let sequences: Vec<_> = frames.iter().flatten().map(|m| m.sequence).collect();
        assert_eq!(sequences, (1..=3000).collect::<Vec<_>>());
    }

    #[test]
    fn lines_are_handed_on_together_within_a_bound_and_a_long_one_alone() {
        const MAX: usize = LINES_TOGETHER_BYTES_MAX;
        let cut = |bytes: &[usize]| -> Vec<usize> {
            let lines: Vec<_> = bytes.iter().map(|bytes| message(1, *bytes)).collect();
            together(&lines).map(<[Message]>::len).collect()
        };
        assert_eq!(cut(&[MAX, 1, MAX - 1, 1]), [1, 2, 1]);
        assert_eq!(cut(&[1, 10 * MAX, 1, 1]), [1, 1, 2]);
        assert_eq!(cut(&[]), [0; 0]);
    }

    #[test]
    fn a_long_message_comes_in_parts() {
        let bytes = 2 * PART_BYTES_MAX + 5;
        let frames: Vec<_> = frames(vec![message(1, bytes), message(2, 1)]).collect();
        let parts: Vec<_> = frames
            .iter()
            .flatten()
            .map(|m| (m.sequence, m.payload.len(), m.remaining_bytes))
            .collect();
        let part = PART_BYTES_MAX;
        assert_eq!(
            parts,
            [
                (1, part, part as u64 + 5),
                (1, part, 5),
                (1, 5, 0),
                (2, 1, 0)
            ]
        );
    }
}
