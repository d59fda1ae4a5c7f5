//! One page of a session's messages from one connection: where the next message is, in a
//! segment or in a row of its own, and the run of messages that begins there.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use rusqlite::Connection;

use crate::error::{ErrorKind, Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::limits::{
    PARTIAL_MESSAGES_MAX, READ_AHEAD_BYTES_MAX, READ_PAGE_BYTES_MAX, READ_PAGE_MESSAGES_MAX,
};
use crate::message::Message;
use crate::segment::{self, Base, DecodeLimits, DecodedSegment, SegmentError};
use crate::sql::db::{Db, is_damage};
use crate::sql::segments::SegmentInfo;
use crate::sql::{self};

use super::shared::{ReadAheadPermit, Shared};

/// The segment decoded last, and what decoding the next one needs. It stays valid while compaction moves
/// messages, because messages never change. One reader may read several sessions after each other.
#[derive(Debug, Default)]
pub(crate) struct PageReader {
    decoded: Option<Decoded>,
    /// The segment after it, if it is being decoded ahead.
    ahead: Option<ReadAhead>,
    base: Option<Arc<Base>>,
    shared: Arc<Shared>,
    /// Whether to decode ahead.
    is_replay: bool,
}

impl PageReader {
    /// For a replay, whose bases need not be read from the file each time.
    pub(crate) fn of_replay(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            is_replay: true,
            ..Self::default()
        }
    }

    /// One more for the same work, which shares bases and buffers with it.
    pub(crate) fn sibling(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            ..Self::default()
        }
    }

    /// Makes the segment that was decoded ahead the current one, if it holds `sequence` of session `key`.
    fn advance(&mut self, key: SessionKey, sequence: u64) {
        let holds = |decoded: &Decoded| decoded.holds(key, sequence);
        if !self.decoded.as_ref().is_some_and(holds) {
            // Before the next is decoded: one segment less at a time.
            if let Some(passed) = self.decoded.take() {
                self.shared
                    .with_decoder(|decoder| decoder.recycle(passed.messages));
            }
            let ahead = self
                .ahead
                .take_if(|ahead| ahead.key == key && ahead.sequences.contains(&sequence));
            self.decoded = ahead.and_then(ReadAhead::wait);
        }
    }

    fn base(&self, base_id: u64) -> Option<Arc<Base>> {
        let own = self.base.as_ref().filter(|base| base.id() == base_id);
        own.cloned().or_else(|| self.shared.base(base_id))
    }

    fn keep_base(&mut self, base: Option<&Arc<Base>>) {
        let Some(base) = base else { return };
        self.shared.keep_base(base);
        self.base = Some(Arc::clone(base));
    }
}

#[derive(Debug)]
struct Decoded {
    key: SessionKey,
    first_sequence: u64,
    messages: DecodedSegment,
}

impl Decoded {
    fn holds(&self, key: SessionKey, sequence: u64) -> bool {
        self.key == key && (self.first_sequence..=self.last_sequence()).contains(&sequence)
    }

    fn last_sequence(&self) -> u64 {
        self.first_sequence + self.messages.len() as u64 - 1
    }

    fn message(&self, id: &SessionId, sequence: u64) -> Result<Message> {
        // Lossless: a segment holds at most SEGMENT_MESSAGES_MAX messages.
        let index = (sequence - self.first_sequence) as usize;
        let payload = self.messages.payload(index);
        let Some((payload, received_ms)) = payload.zip(self.messages.received_ms(index)) else {
            return Err(StoreError::damaged(
                Some(id.as_str()),
                format!("message {sequence} is not in its segment"),
            ));
        };
        Ok(Message {
            sequence,
            received_ms,
            payload,
        })
    }
}

/// A segment that another thread decodes. If this is dropped, the thread ends without its result being used.
#[derive(Debug)]
struct ReadAhead {
    key: SessionKey,
    sequences: RangeInclusive<u64>,
    thread: JoinHandle<Result<Decoded>>,
}

impl ReadAhead {
    /// Begins to decode all of `stored`, if a thread can be had.
    fn begin(
        shared: &Arc<Shared>,
        permit: ReadAheadPermit,
        key: SessionKey,
        id: &SessionId,
        stored: Stored,
    ) -> Option<Self> {
        let (shared, id) = (Arc::clone(shared), id.clone());
        let sequences = stored.info.first_sequence..=stored.info.last_sequence;
        let thread = std::thread::Builder::new()
            .name("read-ahead".to_owned())
            .spawn(move || {
                let decoded = decode(&shared, &whole_segment(key, &id, &stored.info), &stored);
                drop(permit);
                decoded
            })
            .ok()?;
        Some(Self {
            key,
            sequences,
            thread,
        })
    }

    /// The decoded segment; `None` if that failed. The segment is then decoded again, which reports the error.
    fn wait(self) -> Option<Decoded> {
        self.thread.join().ok()?.ok()
    }
}

/// Where a page comes from.
enum PageSource {
    /// Messages that are rows of their own.
    Rows(Vec<Message>),
    /// A segment, and the next one if it is to be decoded ahead.
    Segment {
        stored: Stored,
        next: Option<Stored>,
    },
}

/// A segment as the file has it, and what is needed to decode it.
pub(crate) struct Stored {
    info: SegmentInfo,
    pub(crate) encoded: Vec<u8>,
    pub(crate) base: Option<Arc<Base>>,
}

/// One session's messages, as a connection sees them.
#[derive(Clone, Copy)]
pub(crate) struct SessionSource<'a> {
    pub(crate) db: &'a Db,
    pub(crate) connection: &'a Connection,
    pub(crate) key: SessionKey,
    pub(crate) id: &'a SessionId,
}

impl<'a> SessionSource<'a> {
    /// Messages `from..=to`, as many as one page holds, at least one.
    ///
    /// The caller knows that the session has them: a missing one is damage. Each call reads in one
    /// short transaction, which ends before a segment is decoded.
    pub(crate) fn page(&self, from: u64, to: u64, reader: &mut PageReader) -> Result<Vec<Message>> {
        reader.advance(self.key, from);
        if let Some(decoded) = &reader.decoded {
            return page_of(self.id, decoded, from, to);
        }
        let shared = Arc::clone(&reader.shared);
        let permit = reader.is_replay.then(|| shared.try_read_ahead()).flatten();
        let range = self.range(from, to);
        match self.locate(&range, reader, permit.is_some())? {
            PageSource::Rows(messages) => Ok(messages),
            PageSource::Segment { stored, next } => {
                reader.keep_base(stored.base.as_ref());
                reader.ahead = next.zip(permit).and_then(|(next, permit)| {
                    ReadAhead::begin(&shared, permit, self.key, self.id, next)
                });
                let decoded = decode(&shared, &range, &stored)?;
                page_of(self.id, reader.decoded.insert(decoded), from, to)
            }
        }
    }

    /// All of a segment: its bytes in the file, and its messages.
    pub(crate) fn segment(
        &self,
        info: &SegmentInfo,
        reader: &mut PageReader,
    ) -> Result<(Vec<u8>, Vec<Message>)> {
        let stored = self.stored(*info, None, reader)?;
        reader.keep_base(stored.base.as_ref());
        let range = whole_segment(self.key, self.id, info);
        let decoded = decode(&reader.shared, &range, &stored)?;
        let messages = (range.from..=range.to).map(|sequence| decoded.message(self.id, sequence));
        Ok((stored.encoded, messages.collect::<Result<_>>()?))
    }

    /// The bytes of the segment that `info` is of, and its base; `None` when it is not there any more.
    pub(crate) fn stored_if(
        &self,
        info: &SegmentInfo,
        reader: &mut PageReader,
    ) -> Result<Option<Stored>> {
        let snapshot = self.connection.unchecked_transaction();
        let _snapshot = self.db.context("begin to read", snapshot)?;
        let there = sql::segments::at_or_after(self.connection, self.key, info.first_sequence);
        if self.db.context("find a segment", there)?.as_ref() != Some(info) {
            return Ok(None);
        }
        let stored = self.stored(*info, None, reader)?;
        reader.keep_base(stored.base.as_ref());
        Ok(Some(stored))
    }

    fn range(&self, from: u64, to: u64) -> MessageRange<'a> {
        MessageRange {
            key: self.key,
            id: self.id,
            from,
            to,
        }
    }

    fn locate(
        &self,
        range: &MessageRange<'_>,
        reader: &PageReader,
        read_ahead: bool,
    ) -> Result<PageSource> {
        let &Self {
            db,
            connection,
            key,
            ..
        } = self;
        let &MessageRange { from, to, .. } = range;
        // One snapshot for both tables: a compaction between the two look-ups would hide messages.
        let snapshot = if connection.is_autocommit() {
            Some(db.context("begin to read", connection.unchecked_transaction())?)
        } else {
            None
        };
        let segment = match sql::segments::at_or_after(connection, key, from) {
            // Damage among the segments must not hide a message with a row of its own. The run of rows ends at a gap,
            // which is where the next segment begins.
            Err(error) if is_damage(&error) && self.is_hot(from)? => {
                return self.hot_page(from, to).map(PageSource::Rows);
            }
            segment => db.context("find a segment", segment)?,
        };
        let found = match segment {
            Some(info) if info.first_sequence <= from => {
                let stored = self.stored(info, None, reader)?;
                let long = !is_partial(&info, from, to) && info.raw_bytes <= READ_AHEAD_BYTES_MAX;
                let next = if read_ahead && long {
                    self.next_whole(to, &stored, reader)
                } else {
                    None
                };
                PageSource::Segment { stored, next }
            }
            next => {
                let to = next.map_or(to, |info| to.min(info.first_sequence - 1));
                PageSource::Rows(self.hot_page(from, to)?)
            }
        };
        drop(snapshot);
        Ok(found)
    }

    fn is_hot(&self, sequence: u64) -> Result<bool> {
        let next = sql::messages::next_after(self.connection, self.key, sequence - 1);
        Ok(self.db.context("find a message", next)? == Some(sequence))
    }

    /// The segment after `before`, if all of it is wanted up to `to` and it is not too big to be decoded ahead.
    /// An error is ignored here, and reported when the replay reaches the segment.
    fn next_whole(&self, to: u64, before: &Stored, reader: &PageReader) -> Option<Stored> {
        let first = before.info.last_sequence + 1;
        if first > to {
            return None;
        }
        let info = sql::segments::at_or_after(self.connection, self.key, first).ok()??;
        let wanted = info.first_sequence == first
            && !is_partial(&info, first, to)
            && info.raw_bytes <= READ_AHEAD_BYTES_MAX;
        if !wanted {
            return None;
        }
        self.stored(info, before.base.as_ref(), reader).ok()
    }

    fn stored(
        &self,
        info: SegmentInfo,
        cached_base: Option<&Arc<Base>>,
        reader: &PageReader,
    ) -> Result<Stored> {
        let &Self {
            db,
            connection,
            key,
            id,
        } = self;
        let encoded = db.context(
            "read a segment",
            sql::segments::encoded(connection, key, info.first_sequence),
        )?;
        let encoded = encoded.ok_or_else(|| {
            StoreError::damaged(
                Some(id.as_str()),
                format!(
                    "the segment at sequence {} has no bytes",
                    info.first_sequence
                ),
            )
        })?;
        let base = match info.base_id {
            Some(base_id) => {
                let is_it = |base: &&Arc<Base>| base.id() == base_id;
                let cached_base = cached_base.filter(is_it).cloned();
                let cached_base = cached_base.or_else(|| reader.base(base_id));
                Some(base_of(db, connection, base_id, cached_base.as_ref())?)
            }
            None => None,
        };
        Ok(Stored {
            info,
            encoded,
            base,
        })
    }

    fn hot_page(&self, from: u64, to: u64) -> Result<Vec<Message>> {
        let &Self {
            db,
            connection,
            key,
            id,
        } = self;
        let mut messages: Vec<Message> = Vec::new();
        let mut bytes = 0;
        let mut damage = None;
        let scanned = sql::messages::scan(connection, key, from, to, |row| {
            let expected = messages.last().map_or(from, |m| m.sequence + 1);
            if row.sequence != expected {
                damage = Some((expected, "is missing"));
                return false;
            }
            if !row.is_intact() {
                damage = Some((expected, "does not have its digest"));
                return false;
            }
            bytes += row.payload.len();
            messages.push(Message {
                sequence: row.sequence,
                received_ms: row.received_ms,
                payload: row.payload,
            });
            bytes < READ_PAGE_BYTES_MAX && messages.len() < READ_PAGE_MESSAGES_MAX
        });
        match db.context("read messages", scanned) {
            Err(error) if messages.is_empty() || error.kind() != ErrorKind::Damaged => {
                return Err(error);
            }
            _ => {}
        }
        if messages.is_empty() {
            let (sequence, what) = damage.unwrap_or((from, "is missing"));
            return Err(StoreError::damaged(
                Some(id.as_str()),
                format!("message {sequence} {what}"),
            ));
        }
        // Damage after a good run is reported by the next page, which begins with it.
        Ok(messages)
    }
}

/// What is asked for.
struct MessageRange<'a> {
    key: SessionKey,
    id: &'a SessionId,
    from: u64,
    to: u64,
}

fn whole_segment<'a>(key: SessionKey, id: &'a SessionId, info: &SegmentInfo) -> MessageRange<'a> {
    MessageRange {
        key,
        id,
        from: info.first_sequence,
        to: info.last_sequence,
    }
}

/// Whether so few messages of a segment are wanted that only these are decoded.
fn is_partial(info: &SegmentInfo, from: u64, to: u64) -> bool {
    let all = from <= info.first_sequence && to >= info.last_sequence;
    !all && to.min(info.last_sequence) - from < PARTIAL_MESSAGES_MAX
}

/// The sequence to go on from after damage at `sequence`: after the damaged segment, or the next message or
/// segment; `None` if nothing is left.
pub(crate) fn next_sequence_after_damage(
    connection: &Connection,
    key: SessionKey,
    sequence: u64,
) -> Option<u64> {
    // Never go back: a damaged tree may return rows that were not asked for.
    let further = |next: u64| next.max(sequence + 1);
    let segment = sql::segments::at_or_after(connection, key, sequence);
    if let Ok(Some(info)) = &segment
        && info.first_sequence <= sequence
    {
        return Some(further(info.last_sequence + 1));
    }
    // By their keys alone: what else the rows say may be what is damaged.
    let starts = [
        sql::messages::next_after(connection, key, sequence),
        sql::segments::next_start(connection, key, sequence),
    ];
    let next = starts
        .into_iter()
        .filter_map(|start| start.unwrap_or(Some(sequence + 1)));
    next.min().map(further)
}

/// Decodes a segment, or the few messages of it that are wanted, and compares it with its row.
fn decode(shared: &Shared, range: &MessageRange<'_>, stored: &Stored) -> Result<Decoded> {
    let &MessageRange { key, id, from, to } = range;
    let Stored { info, encoded, .. } = stored;
    let base = stored.base.as_deref();
    let to = to.min(info.last_sequence);
    let partial = is_partial(info, from, to);
    let (first, last) = if partial {
        (from, to)
    } else {
        (info.first_sequence, info.last_sequence)
    };
    // Lossless: a segment holds at most SEGMENT_MESSAGES_MAX messages.
    let index = |sequence: u64| (sequence - info.first_sequence) as usize;
    let wanted = index(first)..index(last) + 1;
    let messages = shared
        .with_decoder(|decoder| {
            decoder.decode_range(encoded, wanted, &DecodeLimits::default(), base)
        })
        .map_err(|source| StoreError::of_segment(id, info.first_sequence, source))?;
    // A row with another first sequence would give its messages the places of others.
    let is_of_row = segment::messages_in_head(encoded) == Some(info.messages());
    let is_complete = messages.len() as u64 == last - first + 1;
    if !is_of_row || !is_complete || (!partial && messages.raw_bytes() as u64 != info.raw_bytes) {
        return Err(StoreError::damaged(
            Some(id.as_str()),
            format!(
                "the segment at sequence {} gives {} messages of {} bytes for {first} to {last}, \
                 and its row says {} messages of {} bytes in all",
                info.first_sequence,
                messages.len(),
                messages.raw_bytes(),
                info.messages(),
                info.raw_bytes
            ),
        ));
    }
    Ok(Decoded {
        key,
        first_sequence: first,
        messages,
    })
}

/// The base that a segment needs: the cached one, or from the file.
pub(crate) fn base_of(
    db: &Db,
    connection: &Connection,
    base_id: u64,
    cached_base: Option<&Arc<Base>>,
) -> Result<Arc<Base>> {
    if let Some(base) = cached_base.filter(|base| base.id() == base_id) {
        return Ok(Arc::clone(base));
    }
    let encoded = stored_base(db, connection, base_id)?;
    decode_base(db, base_id, encoded).map(Arc::new)
}

/// The bytes of a base.
pub(crate) fn stored_base(db: &Db, connection: &Connection, base_id: u64) -> Result<Bytes> {
    let encoded = db.context("read a base", sql::bases::encoded(connection, base_id))?;
    encoded
        .map(Bytes::from)
        .ok_or_else(|| damaged_base(db, base_id, "it is not there"))
}

/// The base that these bytes of the file are.
pub(crate) fn decode_base(db: &Db, base_id: u64, encoded: Bytes) -> Result<Base> {
    let base = Base::from_stored(encoded).map_err(|error| match error {
        SegmentError::OutOfMemory => StoreError::OutOfMemory {
            action: "decode",
            what: format!("base {base_id:016x}"),
        },
        error => damaged_base(db, base_id, &error.to_string()),
    })?;
    // Segments refer to a base by the id that its bytes have, so a row with another id would make them unreadable.
    if base.id() != base_id {
        let what = format!("in its row stands base {:016x}", base.id());
        return Err(damaged_base(db, base_id, &what));
    }
    Ok(base)
}

pub(crate) fn damaged_base(db: &Db, base_id: u64, what: &str) -> StoreError {
    let path = db.path().display();
    StoreError::damaged(None, format!("{path}: base {base_id:016x}: {what}"))
}

fn page_of(id: &SessionId, decoded: &Decoded, from: u64, to: u64) -> Result<Vec<Message>> {
    let to = to.min(decoded.last_sequence());
    let mut messages = Vec::new();
    let mut bytes = 0;
    for sequence in from..=to {
        let message = decoded.message(id, sequence)?;
        bytes += message.payload.len();
        messages.push(message);
        if bytes >= READ_PAGE_BYTES_MAX || messages.len() >= READ_PAGE_MESSAGES_MAX {
            break;
        }
    }
    Ok(messages)
}

#[cfg(test)]
mod tests;
