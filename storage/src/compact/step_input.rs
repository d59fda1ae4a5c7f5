//! Reads the input of a step, and checks in the swap that it has not changed.

use std::ops::RangeInclusive;

use rusqlite::Connection;

use super::plan::PlannedStep;
use crate::error::{Result, StoreError};
use crate::ids::SessionKey;
use crate::message::Message;
use crate::reader::fetch::{PageReader, SessionSource};
use crate::segment::Entry;
use crate::sql::db::Db;
use crate::sql::messages::RowMark;
use crate::sql::segments::SegmentInfo;
use crate::sql::{self};
use crate::store::Store;

/// The messages of a step, and the segments that hold some of them.
pub(super) struct StepInput {
    pub(super) key: SessionKey,
    pub(super) messages: Vec<Message>,
    pub(super) segments: Vec<ReplacedSegment>,
}

impl StepInput {
    /// The messages, as they are encoded.
    pub(super) fn entries(&self) -> Vec<Entry<'_>> {
        let entries = self.messages.iter().map(|message| Entry {
            payload: &message.payload,
            received_ms: message.received_ms,
        });
        entries.collect()
    }
}

/// A segment and its bytes, those that its messages were decoded from.
pub(super) struct ReplacedSegment {
    pub(super) info: SegmentInfo,
    encoded: Vec<u8>,
}

/// Reads a step's messages; `None` when the session has changed since it was planned.
pub(super) fn read(
    store: &Store,
    step: &PlannedStep,
    reader: &mut PageReader,
) -> Result<Option<StepInput>> {
    let db = &store.inner.db;
    let connection = store.inner.readers.get()?;
    // One snapshot: a session that is deleted meanwhile is whole, or not there.
    let snapshot = db.context("begin to read", connection.unchecked_transaction())?;
    let ids = &store.inner.readers.ids;
    let position = ids.position(&snapshot, &step.session);
    let position = db.context("find the session", position)?;
    let (first, last) = (step.first_sequence, step.last_sequence);
    let Some((key, _)) = position.filter(|(_, newest)| last <= *newest) else {
        return Ok(None);
    };
    let infos = sql::segments::overlapping(&snapshot, key, first, last);
    let infos = db.context("list the segments", infos)?;
    if infos
        .iter()
        .any(|info| info.first_sequence < first || info.last_sequence > last)
    {
        return Ok(None);
    }
    let mut step_input = StepInput {
        key,
        messages: Vec::new(),
        segments: Vec::new(),
    };
    let id = &step.session;
    let source = SessionSource {
        db,
        connection: &snapshot,
        key,
        id,
    };
    let mut next = first;
    for info in infos {
        if info.first_sequence < next {
            let what = format!("two segments hold message {}", info.first_sequence);
            return Err(StoreError::damaged(Some(id.as_str()), what));
        }
        let before = next..=info.first_sequence - 1;
        read_hot(source, before, reader, &mut step_input.messages)?;
        next = info.last_sequence + 1;
        let (encoded, messages) = source.segment(&info, reader)?;
        step_input.messages.extend(messages);
        step_input.segments.push(ReplacedSegment { info, encoded });
    }
    read_hot(source, next..=last, reader, &mut step_input.messages)?;
    Ok(Some(step_input))
}

fn read_hot(
    source: SessionSource<'_>,
    range: RangeInclusive<u64>,
    reader: &mut PageReader,
    messages: &mut Vec<Message>,
) -> Result<()> {
    let (mut next, end) = (*range.start(), *range.end());
    while next <= end {
        let page = source.page(next, end, reader)?;
        next = page.last().map_or(end, |m| m.sequence) + 1;
        messages.extend(page);
    }
    Ok(())
}

fn encoded(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    info: &SegmentInfo,
) -> Result<Option<Vec<u8>>> {
    db.context(
        "read a segment",
        sql::segments::encoded(connection, key, info.first_sequence),
    )
}

/// Compares the file with the messages that were read back from the new segment: rows by time, digest and
/// size, replaced segments byte for byte. Returns the first sequence that differs. Runs in the swap's
/// transaction, while appends wait, so it reads no payload and decodes nothing.
pub(super) fn first_change(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    range: RangeInclusive<u64>,
    segments: &[ReplacedSegment],
    marks: &[RowMark],
) -> Result<Option<u64>> {
    let first = *range.start();
    let rows_differ = |from: u64, to: u64| {
        let same = |sequence: u64, mark: RowMark| {
            // Lossless: a segment holds at most SEGMENT_MESSAGES_MAX messages.
            marks.get((sequence - first) as usize) == Some(&mark)
        };
        db.context(
            "compare messages",
            sql::messages::first_difference(connection, key, from, to, same),
        )
    };
    let mut next = first;
    for ReplacedSegment { info, encoded: was } in segments {
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
