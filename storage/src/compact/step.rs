//! One step: messages out of the file, a segment into it.

use rusqlite::Connection;

use super::plan::PlannedStep;
use crate::error::{Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::message::Message;
use crate::reader::fetch;
use crate::segment::{self, DecodedSegment, EncodeParams, Entry};
use crate::sql::db::Db;
use crate::sql::segments::SegmentInfo;
use crate::sql::totals::Delta;
use crate::sql::{self};
use crate::store::Store;

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepResult {
    /// The segment stands, with this many bytes.
    Written { encoded_bytes: u64 },
    /// The session went away, or changed, between planning and swapping: nothing was done.
    Outdated,
}

/// A segment ready to be swapped in.
struct Prepared {
    key: SessionKey,
    session: SessionId,
    info: SegmentInfo,
    hot_messages: u64,
    hot_bytes: u64,
    replaces: Vec<SegmentInfo>,
    encoded: Vec<u8>,
    /// Decoded from `encoded`: what the swap compares with.
    decoded: DecodedSegment,
}

/// Carries a step out.
pub(super) fn execute(
    store: &Store,
    step: &PlannedStep,
    params: &EncodeParams,
) -> Result<StepResult> {
    let Some(prepared) = prepare(store, step, params)? else {
        return Ok(StepResult::Outdated);
    };
    let encoded_bytes = prepared.info.encoded_bytes;
    let swapped = store.writer()?.run(move |context| {
        context.maintain("swap in a segment", |db, connection| {
            swap(db, connection, &prepared)
        })
    })?;
    Ok(if swapped {
        StepResult::Written { encoded_bytes }
    } else {
        StepResult::Outdated
    })
}

/// Reads, encodes, decodes and compares, outside any write transaction.
fn prepare(store: &Store, step: &PlannedStep, params: &EncodeParams) -> Result<Option<Prepared>> {
    let db = &store.inner.db;
    let id = &step.session;
    let connection = store.inner.readers.get()?;
    let position = db.named("find the session", sql::sessions::position(&connection, id))?;
    let Some((key, newest)) = position else {
        return Ok(None);
    };
    if step.last_sequence > newest {
        return Ok(None);
    }
    let messages = read(
        db,
        &connection,
        key,
        id,
        step.first_sequence,
        step.last_sequence,
    )?;
    let replaces: Vec<_> = db
        .named("list the segments", sql::segments::list(&connection, key))?
        .into_iter()
        .filter(|s| {
            s.last_sequence >= step.first_sequence && s.first_sequence <= step.last_sequence
        })
        .collect();
    drop(connection);
    let spans = |s: &SegmentInfo| {
        s.first_sequence < step.first_sequence || s.last_sequence > step.last_sequence
    };
    if replaces.iter().any(spans) {
        return Ok(None);
    }
    let in_segments: u64 = replaces.iter().map(SegmentInfo::messages).sum();
    let segment_raw_bytes: u64 = replaces.iter().map(|s| s.raw_bytes).sum();
    let raw_bytes: u64 = messages.iter().map(|m| m.payload.len() as u64).sum();

    let named = |source| StoreError::Segment {
        id: id.to_string(),
        first_sequence: step.first_sequence,
        source,
    };
    let entries: Vec<Entry<'_>> = messages
        .iter()
        .map(|m| Entry {
            payload: &m.payload,
            received_ms: m.received_ms,
        })
        .collect();
    let encoded = segment::encode(&entries, params, None).map_err(named)?;
    let decoded =
        segment::decode(&encoded, &segment::DecodeLimits::default(), None).map_err(named)?;
    if let Some(sequence) = first_difference(step.first_sequence, &messages, &decoded) {
        return Err(StoreError::damaged(
            Some(id.as_str()),
            format!(
                "message {sequence} does not come back from its new segment; the segment was \
                 thrown away and the message stands as it was"
            ),
        ));
    }
    Ok(Some(Prepared {
        key,
        session: id.clone(),
        info: SegmentInfo {
            first_sequence: step.first_sequence,
            last_sequence: step.last_sequence,
            raw_bytes,
            encoded_bytes: encoded.len() as u64,
            tier: step.tier,
            created_ms: store.inner.options.clock.now_ms(),
        },
        hot_messages: step.messages() - in_segments,
        hot_bytes: raw_bytes - segment_raw_bytes,
        replaces,
        encoded,
        decoded,
    }))
}

fn read(
    db: &Db,
    connection: &Connection,
    key: SessionKey,
    id: &SessionId,
    first: u64,
    last: u64,
) -> Result<Vec<Message>> {
    let mut cursor = fetch::Cursor::default();
    let mut messages: Vec<Message> = Vec::new();
    let mut next = first;
    while next <= last {
        let page = fetch::page(db, connection, key, id, next, last, &mut cursor)?;
        next = page.last().map_or(last, |m| m.sequence) + 1;
        messages.extend(page);
    }
    Ok(messages)
}

/// Sequence of the first message that differs from its decoded self.
fn first_difference(
    first_sequence: u64,
    messages: &[Message],
    decoded: &DecodedSegment,
) -> Option<u64> {
    if messages.len() != decoded.len() {
        return Some(first_sequence + messages.len().min(decoded.len()) as u64);
    }
    messages.iter().enumerate().find_map(|(index, message)| {
        let same = decoded
            .payload(index)
            .is_some_and(|payload| payload == message.payload)
            && decoded.received_ms(index) == Some(message.received_ms);
        (!same).then_some(message.sequence)
    })
}

/// The swap, in the transaction that the caller commits: compare with what the file holds now,
/// delete it, insert the segment. Whether it was done.
fn swap(db: &Db, connection: &Connection, new: &Prepared) -> Result<bool> {
    let (key, id, info) = (new.key, &new.session, &new.info);
    if db
        .named("find the session", sql::sessions::by_key(connection, key))?
        .is_none()
    {
        return Ok(false);
    }
    let now: Vec<_> = db
        .named("list the segments", sql::segments::list(connection, key))?
        .into_iter()
        .filter(|s| {
            s.last_sequence >= info.first_sequence && s.first_sequence <= info.last_sequence
        })
        .collect();
    if now != new.replaces {
        return Ok(false);
    }
    // The bytes that are about to be deleted, as the file holds them in this transaction,
    // against the bytes that the new segment gives back.
    let standing = read(
        db,
        connection,
        key,
        id,
        info.first_sequence,
        info.last_sequence,
    )?;
    if let Some(sequence) = first_difference(info.first_sequence, &standing, &new.decoded) {
        return Err(StoreError::damaged(
            Some(id.as_str()),
            format!("message {sequence} changed while it was compacted; nothing was deleted"),
        ));
    }

    // Crash point: from here to the commit the file changes only in the log's uncommitted part.
    let (first, last) = (info.first_sequence, info.last_sequence);
    let hot = db.named(
        "delete messages",
        sql::messages::delete(connection, key, first, last),
    )?;
    let segments = db.named(
        "delete segments",
        sql::segments::delete(connection, key, first, last),
    )?;
    if hot != new.hot_messages || segments != new.replaces.len() as u64 {
        return Err(StoreError::damaged(
            Some(id.as_str()),
            format!(
                "messages {first} to {last} are {hot} rows and {segments} segments, expected {} \
                 and {}; nothing was deleted",
                new.hot_messages,
                new.replaces.len()
            ),
        ));
    }
    db.named(
        "write a segment",
        sql::segments::insert(connection, key, info, &new.encoded),
    )?;
    let kept = db.named(
        "read the segment back",
        sql::segments::encoded(connection, key, first),
    )?;
    if kept.as_deref() != Some(new.encoded.as_slice()) {
        return Err(StoreError::damaged(
            Some(id.as_str()),
            format!("the new segment at sequence {first} does not read back; nothing was deleted"),
        ));
    }
    let replaced_bytes: u64 = new.replaces.iter().map(|s| s.encoded_bytes).sum();
    let delta = Delta {
        hot_messages: -sql::signed(new.hot_messages),
        hot_bytes: -sql::signed(new.hot_bytes),
        segments: 1 - sql::signed(segments),
        segment_bytes: sql::signed(info.encoded_bytes) - sql::signed(replaced_bytes),
        ..Delta::default()
    };
    db.named(
        "count the segment",
        sql::sessions::shift(connection, key, &delta),
    )?;
    db.named("count the totals", sql::totals::add(connection, &delta))?;
    Ok(true)
}
