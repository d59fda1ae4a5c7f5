//! What a step takes in, as it stands in the file; and, in the swap, whether it still does.

use std::ops::RangeInclusive;

use rusqlite::Connection;

use super::plan::PlannedStep;
use crate::error::{Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::message::Message;
use crate::reader::fetch;
use crate::segment::{self, DecodeLimits};
use crate::sql::db::Db;
use crate::sql::messages::RowMark;
use crate::sql::segments::SegmentInfo;
use crate::sql::{self};
use crate::store::Store;

/// Messages of a step, and the segments that some of them stand in.
pub(super) struct Standing {
    pub(super) key: SessionKey,
    pub(super) messages: Vec<Message>,
    pub(super) segments: Vec<StandingSegment>,
}

/// A segment and its bytes, those that its messages were decoded from.
pub(super) struct StandingSegment {
    pub(super) info: SegmentInfo,
    encoded: Vec<u8>,
}

/// Reads a step's messages; `None` when the session is not there as planned.
pub(super) fn read(store: &Store, step: &PlannedStep) -> Result<Option<Standing>> {
    let db = &store.inner.db;
    let connection = store.inner.readers.get()?;
    // One snapshot: a session that is deleted meanwhile is whole, or not there.
    let snapshot = db.named("begin to read", connection.unchecked_transaction())?;
    let ids = &store.inner.readers.ids;
    let position = ids.position(&snapshot, &step.session);
    let position = db.named("find the session", position)?;
    let (first, last) = (step.first_sequence, step.last_sequence);
    let Some((key, _)) = position.filter(|(_, newest)| last <= *newest) else {
        return Ok(None);
    };
    let infos = sql::segments::overlapping(&snapshot, key, first, last);
    let infos = db.named("list the segments", infos)?;
    if infos
        .iter()
        .any(|info| info.first_sequence < first || info.last_sequence > last)
    {
        return Ok(None);
    }
    let mut standing = Standing {
        key,
        messages: Vec::new(),
        segments: Vec::new(),
    };
    let mut next = first;
    for info in infos {
        let before = next..=info.first_sequence - 1;
        read_hot(db, &snapshot, key, &step.session, before, &mut standing)?;
        next = info.last_sequence + 1;
        read_segment(db, &snapshot, key, &step.session, info, &mut standing)?;
    }
    read_hot(
        db,
        &snapshot,
        key,
        &step.session,
        next..=last,
        &mut standing,
    )?;
    Ok(Some(standing))
}

fn read_hot(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    id: &SessionId,
    range: RangeInclusive<u64>,
    standing: &mut Standing,
) -> Result<()> {
    let mut cursor = fetch::Cursor::default();
    let mut next = *range.start();
    while next <= *range.end() {
        let page = fetch::page(db, connection, key, id, next, *range.end(), &mut cursor)?;
        next = page.last().map_or(*range.end(), |m| m.sequence) + 1;
        standing.messages.extend(page);
    }
    Ok(())
}

fn read_segment(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    id: &SessionId,
    info: SegmentInfo,
    standing: &mut Standing,
) -> Result<()> {
    let damaged = |what: String| {
        let first = info.first_sequence;
        StoreError::damaged(
            Some(id.as_str()),
            format!("the segment at sequence {first} {what}"),
        )
    };
    let encoded = encoded(db, connection, key, &info)?;
    let encoded = encoded.ok_or_else(|| damaged("has no bytes".into()))?;
    let base = match info.base_id {
        Some(base_id) => Some(fetch::base_of(db, connection, base_id, None)?),
        None => None,
    };
    let decoded =
        segment::decode(&encoded, &DecodeLimits::default(), base.as_deref()).map_err(|source| {
            StoreError::Segment {
                id: id.to_string(),
                first_sequence: info.first_sequence,
                source,
            }
        })?;
    if decoded.len() as u64 != info.messages() || decoded.raw_bytes() as u64 != info.raw_bytes {
        return Err(damaged(format!(
            "gives {} messages of {} bytes, and its row says {} of {}",
            decoded.len(),
            decoded.raw_bytes(),
            info.messages(),
            info.raw_bytes
        )));
    }
    for (index, sequence) in (info.first_sequence..=info.last_sequence).enumerate() {
        let found = decoded.payload(index).zip(decoded.received_ms(index));
        let (payload, received_ms) =
            found.ok_or_else(|| damaged(format!("lacks message {sequence}")))?;
        standing.messages.push(Message {
            sequence,
            received_ms,
            payload,
        });
    }
    standing.segments.push(StandingSegment { info, encoded });
    Ok(())
}

fn encoded(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    info: &SegmentInfo,
) -> Result<Option<Vec<u8>>> {
    db.named(
        "read a segment",
        sql::segments::encoded(connection, key, info.first_sequence),
    )
}

/// Holds what the file has now against what came back from the new segment: rows by their marks, one
/// for each message of `range`; segments by being the very bytes that were decoded, and compared,
/// before. The first sequence that differs.
///
/// Called in the transaction that deletes it, while every append waits, hence without reading a
/// payload or decoding a segment: those were held against each other byte for byte before.
pub(super) fn first_change(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    range: RangeInclusive<u64>,
    segments: &[StandingSegment],
    marks: &[RowMark],
) -> Result<Option<u64>> {
    let first = *range.start();
    let rows_differ = |from: u64, to: u64| {
        let same = |sequence: u64, mark: RowMark| {
            // Lossless: a segment holds at most SEGMENT_MESSAGES_MAX messages.
            marks.get((sequence - first) as usize) == Some(&mark)
        };
        db.named(
            "compare messages",
            sql::messages::first_difference(connection, key, from, to, same),
        )
    };
    let mut next = first;
    for StandingSegment { info, encoded: was } in segments {
        if let Some(sequence) = rows_differ(next, info.first_sequence - 1)? {
            return Ok(Some(sequence));
        }
        if encoded(db, connection, key, info)?.as_ref() != Some(was) {
            return Ok(Some(info.first_sequence));
        }
        next = info.last_sequence + 1;
    }
    rows_differ(next, *range.end())
}
