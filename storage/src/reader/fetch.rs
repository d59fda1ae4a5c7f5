//! One page of a session's messages from one connection: where the next message is, in a
//! segment or in a row of its own, and the run of messages that begins there.

use std::sync::Arc;

use rusqlite::Connection;

use crate::error::{Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::limits::{READ_PAGE_BYTES_MAX_DEFAULT, READ_PAGE_MESSAGES_MAX_DEFAULT};
use crate::message::Message;
use crate::segment::{self, Base, DecodeLimits, DecodedSegment};
use crate::sql::db::Db;
use crate::sql::segments::SegmentInfo;
use crate::sql::{self};

/// What was decoded last. Messages never change, so it stays true whatever compaction does.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    decoded: Option<Decoded>,
    base: Option<Arc<Base>>,
}

#[derive(Debug)]
struct Decoded {
    first_sequence: u64,
    messages: DecodedSegment,
}

impl Decoded {
    fn last_sequence(&self) -> u64 {
        self.first_sequence + self.messages.len() as u64 - 1
    }
}

/// A request for so few messages has only them put together, not the whole segment.
const PARTIAL_MESSAGES_MAX: u64 = 64;

/// Where a page comes from.
enum Found {
    Hot(Vec<Message>),
    Segment(SegmentInfo, Vec<u8>, Option<Arc<Base>>),
}

/// Messages `from..=to` of a session, as many as one page holds, at least one.
///
/// The caller knows that the session has them: a missing one is damage. Each call reads in one
/// short transaction, which ends before a segment is decoded.
pub(crate) fn page(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    id: &SessionId,
    from: u64,
    to: u64,
    cursor: &mut Cursor,
) -> Result<Vec<Message>> {
    if let Some(decoded) = &cursor.decoded
        && (decoded.first_sequence..=decoded.last_sequence()).contains(&from)
    {
        return cut(id, decoded, from, to);
    }
    match locate(db, connection, key, id, from, to, cursor.base.as_ref())? {
        Found::Hot(messages) => Ok(messages),
        Found::Segment(info, encoded, base) => {
            // Frees the one before while the next is decoded.
            cursor.decoded = None;
            let decoded = decode(id, &info, &encoded, base.as_deref(), from, to)?;
            let page = cut(id, &decoded, from, to);
            cursor.decoded = Some(decoded);
            cursor.base = base.or(cursor.base.take());
            page
        }
    }
}

/// Where to go on after damage at `sequence`: behind the segment that holds it, or at the next
/// message.
pub(crate) fn behind(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    sequence: u64,
) -> Result<u64> {
    let segment = db.named(
        "find a segment",
        sql::segments::at_or_after(connection, key, sequence),
    )?;
    Ok(match segment {
        Some(info) if info.first_sequence <= sequence => info.last_sequence + 1,
        _ => sequence + 1,
    })
}

/// Decodes a segment, or the few messages of it that are asked for, and holds it against its row.
fn decode(
    id: &SessionId,
    info: &SegmentInfo,
    encoded: &[u8],
    base: Option<&Base>,
    from: u64,
    to: u64,
) -> Result<Decoded> {
    let to = to.min(info.last_sequence);
    let few = to - from < PARTIAL_MESSAGES_MAX;
    let (first, last) = if few {
        (from, to)
    } else {
        (info.first_sequence, info.last_sequence)
    };
    // Lossless: a segment holds at most SEGMENT_MESSAGES_MAX messages.
    let index = |sequence: u64| (sequence - info.first_sequence) as usize;
    let wanted = index(first)..index(last) + 1;
    let messages = segment::decode_range(encoded, wanted, &DecodeLimits::default(), base).map_err(
        |source| StoreError::Segment {
            id: id.to_string(),
            first_sequence: info.first_sequence,
            source,
        },
    )?;
    let complete = messages.len() as u64 == last - first + 1;
    if !complete || (!few && messages.raw_bytes() as u64 != info.raw_bytes) {
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
        first_sequence: first,
        messages,
    })
}

/// The base that a segment needs: the one at hand, or from the file.
pub(crate) fn base_of(
    db: &Db,
    connection: &Connection,
    base_id: u64,
    at_hand: Option<&Arc<Base>>,
) -> Result<Arc<Base>> {
    if let Some(base) = at_hand.filter(|base| base.id() == base_id) {
        return Ok(Arc::clone(base));
    }
    let encoded = db.named("read a base", sql::bases::encoded(connection, base_id))?;
    let damaged = |what: String| StoreError::damaged(None, format!("base {base_id:016x}: {what}"));
    let encoded = encoded.ok_or_else(|| damaged("it is not there".into()))?;
    Base::from_stored(encoded.into())
        .map(Arc::new)
        .map_err(|error| damaged(error.to_string()))
}

fn locate(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    id: &SessionId,
    from: u64,
    to: u64,
    base: Option<&Arc<Base>>,
) -> Result<Found> {
    // One snapshot for both tables: a compaction between the two look-ups would hide messages.
    let snapshot = if connection.is_autocommit() {
        Some(db.named("begin to read", connection.unchecked_transaction())?)
    } else {
        None
    };
    let segment = db.named(
        "find a segment",
        sql::segments::at_or_after(connection, key, from),
    )?;
    let found = match segment {
        Some(info) if info.first_sequence <= from => {
            let encoded = db.named(
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
                Some(base_id) => Some(base_of(db, connection, base_id, base)?),
                None => None,
            };
            Found::Segment(info, encoded, base)
        }
        next => {
            let to = next.map_or(to, |info| to.min(info.first_sequence - 1));
            Found::Hot(hot_page(db, connection, key, id, from, to)?)
        }
    };
    drop(snapshot);
    Ok(found)
}

fn hot_page(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    id: &SessionId,
    from: u64,
    to: u64,
) -> Result<Vec<Message>> {
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
        bytes < READ_PAGE_BYTES_MAX_DEFAULT && messages.len() < READ_PAGE_MESSAGES_MAX_DEFAULT
    });
    db.named("read messages", scanned)?;
    if messages.is_empty() {
        let (sequence, what) = damage.unwrap_or((from, "is missing"));
        return Err(StoreError::damaged(
            Some(id.as_str()),
            format!("message {sequence} {what}"),
        ));
    }
    // Damage after a good run is met by the next page, which begins with it.
    Ok(messages)
}

fn cut(id: &SessionId, decoded: &Decoded, from: u64, to: u64) -> Result<Vec<Message>> {
    let to = to.min(decoded.last_sequence());
    let mut messages = Vec::new();
    let mut bytes = 0;
    for sequence in from..=to {
        // Lossless: a segment holds at most SEGMENT_MESSAGES_MAX messages.
        let index = (sequence - decoded.first_sequence) as usize;
        let found = decoded
            .messages
            .payload(index)
            .zip(decoded.messages.received_ms(index));
        let Some((payload, received_ms)) = found else {
            return Err(StoreError::damaged(
                Some(id.as_str()),
                format!("message {sequence} is not in its segment"),
            ));
        };
        bytes += payload.len();
        messages.push(Message {
            sequence,
            received_ms,
            payload,
        });
        if bytes >= READ_PAGE_BYTES_MAX_DEFAULT || messages.len() >= READ_PAGE_MESSAGES_MAX_DEFAULT
        {
            break;
        }
    }
    Ok(messages)
}
