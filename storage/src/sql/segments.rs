//! Rows of `segments`, and the pieces of `segment_tails` that belong to them.

mod tail;

use rusqlite::blob::Blob;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::db::is_damage;
use super::{DeletionStep, out_of_range, sequence_of_row, signed, unsigned};
use crate::ids::{MessageKey, SessionKey};
use crate::limits::{SEGMENT_MESSAGES_MAX, SEQUENCE_MAX};
use tail::TierAndTail;
pub(crate) use tail::{delete_of_session as delete_tails_of_session, pieces_without_segment};

/// How much effort went into a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// Small and quick, while the session is in use.
    Quick = 1,
    /// Big and slow, when it is idle.
    Deep = 2,
}

impl Tier {
    /// The tier's name in reports and settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Quick => "quick",
            Self::Deep => "deep",
        }
    }
}

/// A segment without its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Sequence of its first message.
    pub first_sequence: u64,
    /// Sequence of its last message.
    pub last_sequence: u64,
    /// Payload bytes of its messages.
    pub raw_bytes: u64,
    /// Bytes it takes encoded.
    pub encoded_bytes: u64,
    /// Effort that went into it.
    pub tier: Tier,
    /// When it was written, Unix milliseconds.
    pub created_ms: i64,
    /// The base that it was encoded with.
    pub base_id: Option<u64>,
}

impl SegmentInfo {
    /// Messages in it.
    #[must_use]
    pub fn messages(&self) -> u64 {
        (self.last_sequence + 1).saturating_sub(self.first_sequence)
    }
}

const INFO: &str = "segment_key, last_sequence, raw_bytes, length(encoded) AS row_bytes, tier, created_ms, base_id";

fn info(row: &Row<'_>) -> rusqlite::Result<SegmentInfo> {
    let first_sequence = MessageKey::from_i64(row.get("segment_key")?).sequence();
    let last_sequence = unsigned(row, "last_sequence")?;
    let messages = (last_sequence + 1).saturating_sub(first_sequence);
    if first_sequence == 0
        || last_sequence > SEQUENCE_MAX
        || !(1..=SEGMENT_MESSAGES_MAX as u64).contains(&messages)
    {
        return Err(out_of_range(row, "last_sequence", signed(last_sequence)));
    }
    let tier = TierAndTail::of_row(row)?;
    Ok(SegmentInfo {
        first_sequence,
        last_sequence,
        raw_bytes: unsigned(row, "raw_bytes")?,
        encoded_bytes: unsigned(row, "row_bytes")?.saturating_add(tier.tail_bytes),
        tier: tier.tier,
        created_ms: row.get("created_ms")?,
        base_id: row
            .get::<_, Option<i64>>("base_id")?
            .map(i64::cast_unsigned),
    })
}

/// The segment that holds `sequence`, or, when none does, the first one after it.
pub(crate) fn at_or_after(
    connection: &Connection,
    session: SessionKey,
    sequence: u64,
) -> rusqlite::Result<Option<SegmentInfo>> {
    let holding = connection
        .prepare_cached(&format!(
            "SELECT {INFO} FROM segments WHERE segment_key BETWEEN ?1 AND ?2
             ORDER BY segment_key DESC LIMIT 1"
        ))?
        .query_row(MessageKey::range(session, 0, sequence), info)
        .optional()?;
    if let Some(segment) = holding.filter(|s| s.last_sequence >= sequence) {
        return Ok(Some(segment));
    }
    connection
        .prepare_cached(&format!(
            "SELECT {INFO} FROM segments WHERE segment_key BETWEEN ?1 AND ?2
             ORDER BY segment_key LIMIT 1"
        ))?
        .query_row(MessageKey::range(session, sequence, SEQUENCE_MAX), info)
        .optional()
}

/// The last sequence that a session's last segment says it holds.
pub(crate) fn last_sequence(
    connection: &Connection,
    session: SessionKey,
) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached(
            "SELECT last_sequence FROM segments WHERE segment_key BETWEEN ?1 AND ?2
             ORDER BY segment_key DESC LIMIT 1",
        )?
        .query_row(MessageKey::range(session, 0, SEQUENCE_MAX), |row| {
            unsigned(row, "last_sequence")
        })
        .optional()
}

/// Where the first row after `sequence` begins that is a segment, whatever else it says.
pub(crate) fn next_start(
    connection: &Connection,
    session: SessionKey,
    sequence: u64,
) -> rusqlite::Result<Option<u64>> {
    let sql = "SELECT segment_key FROM segments WHERE segment_key > ?1 AND segment_key <= ?2
               ORDER BY segment_key LIMIT 1";
    sequence_of_row(
        connection,
        sql,
        MessageKey::range(session, sequence, SEQUENCE_MAX),
    )
}

fn of_session() -> String {
    format!("SELECT {INFO} FROM segments WHERE segment_key BETWEEN ?1 AND ?2 ORDER BY segment_key")
}

/// All segments of a session, in order.
pub(crate) fn list(
    connection: &Connection,
    session: SessionKey,
) -> rusqlite::Result<Vec<SegmentInfo>> {
    connection
        .prepare_cached(&of_session())?
        .query_map(MessageKey::range(session, 0, SEQUENCE_MAX), info)?
        .collect()
}

/// The segments of a session of which something can be made, in order, and what is wrong with the
/// others: an invalid row for itself, a damaged page for all that it and what follows may hold.
pub(crate) fn readable(
    connection: &Connection,
    session: SessionKey,
) -> rusqlite::Result<(Vec<SegmentInfo>, Vec<rusqlite::Error>)> {
    let (mut segments, mut damage) = (Vec::new(), Vec::new());
    let mut statement = connection.prepare_cached(&of_session())?;
    let mut rows = statement.query(MessageKey::range(session, 0, SEQUENCE_MAX))?;
    loop {
        let row = match rows.next() {
            Ok(Some(row)) => row,
            Ok(None) => break,
            Err(error) if is_damage(&error) => {
                damage.push(error);
                break;
            }
            Err(error) => return Err(error),
        };
        match info(row) {
            Ok(segment) => segments.push(segment),
            Err(error) if is_damage(&error) => damage.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok((segments, damage))
}

/// The segments of a session that hold any of the messages `first..=last`, in order.
pub(crate) fn overlapping(
    connection: &Connection,
    session: SessionKey,
    first: u64,
    last: u64,
) -> rusqlite::Result<Vec<SegmentInfo>> {
    let [from, begin] = MessageKey::range(session, 0, first);
    let [_, to] = MessageKey::range(session, first, last);
    let found: Vec<SegmentInfo> = connection
        .prepare_cached(&format!(
            "SELECT {INFO} FROM segments WHERE segment_key <= ?3 AND segment_key >= coalesce(
                (SELECT max(segment_key) FROM segments WHERE segment_key BETWEEN ?1 AND ?2), ?2)
             ORDER BY segment_key"
        ))?
        .query_map([from, begin, to], info)?
        .collect::<rusqlite::Result<_>>()?;
    let reaches = |info: &SegmentInfo| info.last_sequence >= first;
    Ok(found.into_iter().filter(reaches).collect())
}

/// The bytes of the segment that begins at `first_sequence`. In a transaction: its row and its tail are read one
/// after the other, and compaction may replace both between.
pub(crate) fn encoded(
    connection: &Connection,
    session: SessionKey,
    first_sequence: u64,
) -> rusqlite::Result<Option<Vec<u8>>> {
    debug_assert!(!connection.is_autocommit());
    let key = MessageKey::new(session, first_sequence);
    let found = connection
        .prepare_cached("SELECT last_sequence, tier, encoded FROM segments WHERE segment_key = ?1")?
        .query_row([key.as_i64()], |row| {
            let last_sequence = unsigned(row, "last_sequence")?;
            let bytes: Vec<u8> = row.get("encoded")?;
            Ok((bytes, TierAndTail::of_row(row)?, last_sequence))
        })
        .optional()?;
    let Some((mut bytes, tier, last_sequence)) = found else {
        return Ok(None);
    };
    if tier.tail_bytes > 0 {
        tail::append_to(
            connection,
            session,
            first_sequence,
            last_sequence,
            tier.tail_bytes,
            &mut bytes,
        )?;
    }
    Ok(Some(bytes))
}

/// Hands the base of each segment in the file, as its row has it, and the first `bytes` of the
/// segment to `each`. From the table itself: an index may have lost some.
pub(crate) fn each_head(
    connection: &Connection,
    bytes: usize,
    mut each: impl FnMut(Option<u64>, &[u8]),
) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "SELECT segment_key, base_id, typeof(encoded) = 'blob' AS is_blob
         FROM segments NOT INDEXED",
    )?;
    let mut rows = statement.query([])?;
    let mut blob: Option<Blob<'_>> = None;
    let mut head = vec![0; bytes];
    while let Some(row) = rows.next()? {
        let key: i64 = row.get("segment_key")?;
        if !row.get::<_, bool>("is_blob")? {
            return Err(out_of_range(row, "segment_key", key));
        }
        // A segment's first bytes are in its row's own page: no other page of it is read.
        match &mut blob {
            Some(blob) => blob.reopen(key)?,
            None => blob = Some(connection.blob_open("main", "segments", "encoded", key, true)?),
        }
        let read = match &blob {
            Some(blob) => blob.read_at(&mut head, 0)?,
            None => 0,
        };
        let base_id: Option<i64> = row.get("base_id")?;
        each(
            base_id.map(i64::cast_unsigned),
            head.get(..read).unwrap_or_default(),
        );
    }
    Ok(())
}

pub(crate) fn insert(
    connection: &Connection,
    session: SessionKey,
    segment: &SegmentInfo,
    encoded: &[u8],
) -> rusqlite::Result<()> {
    let (row_bytes, tail_bytes) = tail::split(encoded, segment.tier);
    connection
        .prepare_cached(
            "INSERT INTO segments (segment_key, last_sequence, raw_bytes, tier, created_ms, base_id,
                encoded)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            MessageKey::new(session, segment.first_sequence).as_i64(),
            signed(segment.last_sequence),
            signed(segment.raw_bytes),
            TierAndTail::of(segment.tier, tail_bytes).as_i64(),
            segment.created_ms,
            segment.base_id.map(u64::cast_signed),
            row_bytes,
        ])?;
    tail::insert(
        connection,
        session,
        segment.first_sequence,
        segment.last_sequence,
        tail_bytes,
    )
}

/// Deletes the segments that begin within `first..=last`; returns how many there were.
pub(crate) fn delete(
    connection: &Connection,
    session: SessionKey,
    first: u64,
    last: u64,
) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached(
        "DELETE FROM segments WHERE segment_key BETWEEN ?1 AND ?2
         RETURNING segment_key, last_sequence, tier",
    )?;
    let mut rows = statement.query(MessageKey::range(session, first, last))?;
    let mut deleted = 0;
    let mut tails = Vec::new();
    while let Some(row) = rows.next()? {
        deleted += 1;
        tails.extend(tail::sequences_of_row(row));
    }
    for (first, last) in tails {
        tail::delete(connection, session, first, last)?;
    }
    Ok(deleted)
}

/// Deletes the first segments of a session that is going away, as many as `step` allows; returns how many.
pub(crate) fn delete_some(
    connection: &Connection,
    session: SessionKey,
    step: DeletionStep,
) -> rusqlite::Result<u64> {
    // With its tail, of which it has no more bytes than this mask, whatever a damaged row says.
    let sizes = "SELECT segment_key, length(encoded) + ((tier >> 2) & 4095) FROM segments
         WHERE segment_key BETWEEN ?1 AND ?2 ORDER BY segment_key LIMIT ?3";
    match step.last_of(
        connection,
        sizes,
        MessageKey::range(session, 0, SEQUENCE_MAX),
    )? {
        Some(last) => delete(connection, session, 0, last),
        None => Ok(0),
    }
}
