//! One step: reads messages, and replaces them by a segment.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rusqlite::Connection;

use super::base::{BaseRow, RunBase, name_step};
use super::pace::Pace;
use super::plan::PlannedStep;
use super::step_input::{self, ReplacedSegment, StepInput, first_change};
use crate::error::{Result, StoreError};
use crate::ids::{SessionId, SessionKey};
use crate::message::Message;
use crate::reader::fetch::PageReader;
use crate::segment::{
    self, CodecVersion, DecodeLimits, DecodedSegment, EncodeParams, Entry, SegmentError,
    v2::{self, EncodedSegment},
};
use crate::sql::db::Db;
use crate::sql::messages::RowMark;
use crate::sql::segments::SegmentInfo;
use crate::sql::totals::Delta;
use crate::sql::{self};
use crate::store::Store;

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StepResult {
    /// The segment was written.
    Written,
    /// The session was deleted or changed between planning and swapping: nothing was done.
    Outdated,
    /// Writing segments again would not have made them smaller: nothing was done.
    NotSmaller,
}

/// Encodes the steps of a batch: one tier, one base.
pub(super) struct BatchEncoder<'b> {
    params: EncodeParams,
    base: Option<&'b RunBase>,
    /// Made once, because indexing the base costs as much as compressing it.
    v2: Option<v2::Encoder<'b>>,
}

impl<'b> BatchEncoder<'b> {
    pub(super) fn new(
        params: EncodeParams,
        base: Option<&'b RunBase>,
    ) -> Result<Self, SegmentError> {
        let v2 = match params.version {
            CodecVersion::V1 => None,
            CodecVersion::V2 => Some(v2::Encoder::new(
                params.level,
                base.map(|run| run.base.as_ref()),
            )?),
        };
        Ok(Self { params, base, v2 })
    }

    /// The segment, and what it decodes to.
    fn encode(&mut self, entries: &[Entry<'_>]) -> Result<EncodedSegment, SegmentError> {
        if let Some(encoder) = &mut self.v2 {
            return encoder.encode_checked(entries);
        }
        let bytes = segment::encode(entries, &self.params, None)?;
        let decoded = segment::decode(&bytes, &DecodeLimits::default(), None)?;
        Ok(EncodedSegment {
            bytes,
            decoded,
            base_id: None,
        })
    }
}

/// A segment ready to be swapped in.
pub(super) struct PreparedSegment {
    key: SessionKey,
    session: SessionId,
    info: SegmentInfo,
    hot_messages: u64,
    hot_bytes: u64,
    replaces: Vec<ReplacedSegment>,
    encoded: Vec<u8>,
    /// Time, digest and size of each message, in order. The swap deletes a row only if it has these.
    marks: Vec<RowMark>,
    base: Option<Arc<BaseRow>>,
}

/// Second half of a step: the short transaction that puts the segment in its messages' place.
pub(super) fn swap_in(
    pace: &mut Pace<'_>,
    step: &PlannedStep,
    prepared: PreparedSegment,
) -> Result<StepResult> {
    let replaced_bytes: u64 = prepared.replaces.iter().map(|s| s.info.encoded_bytes).sum();
    let is_rewrite =
        prepared.hot_messages == 0 && prepared.replaces.iter().all(|s| s.info.tier >= step.tier);
    if is_rewrite && prepared.info.encoded_bytes >= replaced_bytes {
        return Ok(StepResult::NotSmaller);
    }
    let swap = pace.maintain(move |context| {
        context.maintain("swap in a segment", |db, connection| {
            swap(db, connection, &prepared)
        })
    })?;
    Ok(if swap.value {
        StepResult::Written
    } else {
        StepResult::Outdated
    })
}

/// First half of a step: reads, encodes, decodes and compares, outside any write transaction. `None`
/// when the session has changed since it was planned.
pub(super) fn prepare(
    store: &Store,
    step: &PlannedStep,
    encoder: &mut BatchEncoder<'_>,
    reader: &mut PageReader,
) -> Result<Option<PreparedSegment>> {
    let id = &step.session;
    let Some(step_input) = step_input::read(store, step, reader)? else {
        return Ok(None);
    };
    let encoded = encoder
        .encode(&step_input.entries())
        .map_err(|source| name_step(step, source))?;
    let EncodedSegment {
        bytes: encoded,
        decoded,
        base_id,
    } = encoded;
    let StepInput {
        key,
        messages,
        segments,
    } = step_input;
    let in_segments: u64 = segments.iter().map(|s| s.info.messages()).sum();
    let segment_raw_bytes: u64 = segments.iter().map(|s| s.info.raw_bytes).sum();
    let raw_bytes: u64 = messages.iter().map(|m| m.payload.len() as u64).sum();

    if let Some(sequence) = first_difference(step.first_sequence, &messages, &decoded) {
        return Err(StoreError::damaged(
            Some(id.as_str()),
            format!(
                "message {sequence} does not come back from its new segment; the segment was \
                 thrown away and the message stands as it was"
            ),
        ));
    }
    Ok(Some(PreparedSegment {
        key,
        session: id.clone(),
        info: SegmentInfo {
            first_sequence: step.first_sequence,
            last_sequence: step.last_sequence,
            raw_bytes,
            encoded_bytes: encoded.len() as u64,
            tier: step.tier,
            created_ms: store.inner.options.clock.now_ms(),
            base_id,
        },
        hot_messages: step.messages() - in_segments,
        hot_bytes: raw_bytes - segment_raw_bytes,
        replaces: segments,
        encoded,
        marks: messages.iter().map(RowMark::of).collect(),
        base: base_id.and(encoder.base).map(|run| Arc::clone(&run.row)),
    }))
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
/// delete it, insert the segment. Returns whether it was done.
fn swap(db: &Db, connection: &Connection, new: &PreparedSegment) -> Result<bool> {
    let (key, id, info) = (new.key, &new.session, &new.info);
    if db
        .context("find the session", sql::sessions::by_key(connection, key))?
        .is_none()
    {
        return Ok(false);
    }
    let (first, last) = (info.first_sequence, info.last_sequence);
    let now = sql::segments::overlapping(connection, key, first, last);
    let now = db.context("list the segments", now)?;
    if !now.iter().eq(new.replaces.iter().map(|s| &s.info)) {
        return Ok(false);
    }
    let changed = first_change(db, connection, key, first..=last, &new.replaces, &new.marks)?;
    if let Some(sequence) = changed {
        return Err(StoreError::damaged(
            Some(id.as_str()),
            format!("message {sequence} changed while it was compacted; nothing was deleted"),
        ));
    }

    // Crash point: from here to the commit the file changes only in the log's uncommitted part.
    let hot = db.context(
        "delete messages",
        sql::messages::delete(connection, key, first, last),
    )?;
    let segments = db.context(
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
    let based = put_base(db, connection, new)?;
    db.context(
        "write a segment",
        sql::segments::insert(connection, key, info, &new.encoded),
    )?;
    let kept = db.context(
        "read the segment back",
        sql::segments::encoded(connection, key, first),
    )?;
    if kept.as_deref() != Some(new.encoded.as_slice()) {
        return Err(StoreError::damaged(
            Some(id.as_str()),
            format!("the new segment at sequence {first} does not read back; nothing was deleted"),
        ));
    }
    let replaced_bytes: u64 = new.replaces.iter().map(|s| s.info.encoded_bytes).sum();
    let delta = Delta {
        hot_messages: -sql::signed(new.hot_messages),
        hot_bytes: -sql::signed(new.hot_bytes),
        segments: 1 - sql::signed(segments),
        segment_bytes: sql::signed(info.encoded_bytes) - sql::signed(replaced_bytes),
        ..based
    };
    db.context(
        "count the segment",
        sql::sessions::shift(connection, key, &delta),
    )?;
    db.context("count the totals", sql::totals::add(connection, &delta))?;
    Ok(true)
}

/// Writes the base of a new segment unless it is in the file, in the segment's transaction. Returns the change to
/// the totals.
fn put_base(db: &Db, connection: &Connection, new: &PreparedSegment) -> Result<Delta> {
    let Some(base) = &new.base else {
        return Ok(Delta::default());
    };
    let base_id = base.info.base_id;
    let there = db.context("look for a base", sql::bases::info(connection, base_id))?;
    // A base never changes, so once is enough: it may be megabytes, and appends wait.
    if there.is_some() && base.read_from_file.load(Ordering::Relaxed) {
        return Ok(Delta::default());
    }
    let inserted = sql::bases::insert(
        connection,
        &base.info,
        &base.project,
        new.info.created_ms,
        &base.encoded,
    );
    let delta = db.context("write a base", inserted)?;
    let kept = db.context(
        "read the base back",
        sql::bases::encoded(connection, base_id),
    )?;
    if kept.as_deref() != Some(&*base.encoded) {
        let what = format!("base {base_id:016x} does not read back; nothing was deleted");
        return Err(StoreError::damaged(None, what));
    }
    base.read_from_file.store(true, Ordering::Relaxed);
    Ok(delta)
}
