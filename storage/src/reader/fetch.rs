//! One page of a session's messages from one connection: where the next message is, in a
//! segment or in a row of its own, and the run of messages that begins there.

use rusqlite::Connection;

use crate::error::{Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::limits::{READ_PAGE_BYTES_MAX_DEFAULT, READ_PAGE_MESSAGES_MAX_DEFAULT};
use crate::message::Message;
use crate::segment::{self, DecodeLimits, DecodedSegment};
use crate::sql::db::Db;
use crate::sql::segments::SegmentInfo;
use crate::sql::{self};

/// The segment decoded last. Messages never change, so it stays true whatever compaction does.
#[derive(Debug, Default)]
pub(crate) struct Cursor {
    decoded: Option<(SegmentInfo, DecodedSegment)>,
}

/// Where a page comes from.
enum Found {
    Hot(Vec<Message>),
    Segment(SegmentInfo, Vec<u8>),
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
    if let Some((info, decoded)) = &cursor.decoded
        && (info.first_sequence..=info.last_sequence).contains(&from)
    {
        return cut(id, info, decoded, from, to);
    }
    match locate(db, connection, key, id, from, to)? {
        Found::Hot(messages) => Ok(messages),
        Found::Segment(info, encoded) => {
            // Frees the one before while the next is decoded.
            cursor.decoded = None;
            let decoded = decode(id, &info, &encoded)?;
            let page = cut(id, &info, &decoded, from, to);
            cursor.decoded = Some((info, decoded));
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

/// Decodes a segment and holds it against its row.
pub(crate) fn decode(id: &SessionId, info: &SegmentInfo, encoded: &[u8]) -> Result<DecodedSegment> {
    let decoded = segment::decode(encoded, &DecodeLimits::default(), None).map_err(|source| {
        StoreError::Segment {
            id: id.to_string(),
            first_sequence: info.first_sequence,
            source,
        }
    })?;
    if decoded.len() as u64 != info.messages() || decoded.raw_bytes() as u64 != info.raw_bytes {
        return Err(StoreError::damaged(
            Some(id.as_str()),
            format!(
                "the segment at sequence {} holds {} messages of {} bytes, and its row says {} of {}",
                info.first_sequence,
                decoded.len(),
                decoded.raw_bytes(),
                info.messages(),
                info.raw_bytes
            ),
        ));
    }
    Ok(decoded)
}

fn locate(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    id: &SessionId,
    from: u64,
    to: u64,
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
            Found::Segment(info, encoded)
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

fn cut(
    id: &SessionId,
    info: &SegmentInfo,
    decoded: &DecodedSegment,
    from: u64,
    to: u64,
) -> Result<Vec<Message>> {
    let to = to.min(info.last_sequence);
    let mut messages = Vec::new();
    let mut bytes = 0;
    for sequence in from..=to {
        // Lossless: a segment holds at most SEGMENT_MESSAGES_MAX messages.
        let index = (sequence - info.first_sequence) as usize;
        let (Some(payload), Some(received_ms)) =
            (decoded.payload(index), decoded.received_ms(index))
        else {
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
