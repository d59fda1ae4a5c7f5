//! What a step takes in, as it stands in the file; and, in the swap, whether it still does.

use std::ops::RangeInclusive;

use rusqlite::Connection;

use super::plan::PlannedStep;
use crate::error::{Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::message::Message;
use crate::reader::fetch::{self, Cursor};
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
pub(super) fn read(
    store: &Store,
    step: &PlannedStep,
    cursor: &mut Cursor,
) -> Result<Option<Standing>> {
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
    let id = &step.session;
    let mut next = first;
    for info in infos {
        if info.first_sequence < next {
            let what = format!("two segments hold message {}", info.first_sequence);
            return Err(StoreError::damaged(Some(id.as_str()), what));
        }
        let before = next..=info.first_sequence - 1;
        read_hot(db, &snapshot, id, before, cursor, &mut standing)?;
        next = info.last_sequence + 1;
        let (encoded, messages) = fetch::segment(db, &snapshot, key, id, &info, cursor)?;
        standing.messages.extend(messages);
        standing.segments.push(StandingSegment { info, encoded });
    }
    read_hot(db, &snapshot, id, next..=last, cursor, &mut standing)?;
    Ok(Some(standing))
}

fn read_hot(
    db: &Db,
    connection: &Connection,
    id: &SessionId,
    range: RangeInclusive<u64>,
    cursor: &mut Cursor,
    standing: &mut Standing,
) -> Result<()> {
    let (mut next, end) = (*range.start(), *range.end());
    while next <= end {
        let page = fetch::page(db, connection, standing.key, id, next, end, cursor)?;
        next = page.last().map_or(end, |m| m.sequence) + 1;
        standing.messages.extend(page);
    }
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
