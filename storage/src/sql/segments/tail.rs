//! The last bytes of small segments, in a table of their own.
//!
//! SQLite cuts a long row so that its overflow pages are full. What is left over, 489 to 4,061 bytes, stays in
//! a page of the table, into which seldom two such rows fit: of small segments a sixth of the file was empty.
//! So a row of a small segment keeps as many bytes as fill its overflow pages with the least that SQLite leaves in
//! the table, and the rest, the *tail*, becomes pieces. Of both, eight fill a page.

use rusqlite::{Connection, Row, params};

use super::super::{out_of_range, signed, unsigned};
use super::Tier;
use crate::ids::{MessageKey, SessionKey};
use crate::limits::{
    PAGE_BYTES, SEGMENT_TAIL_BYTES_MAX, SEGMENT_TAIL_PIECE_BYTES, SEGMENT_WITH_TAIL_BYTES_MAX,
    SEQUENCE_MAX,
};

/// Payload of an overflow page: the page without the number of the next one.
const OVERFLOW_BYTES: usize = PAGE_BYTES as usize - 4;
/// What SQLite leaves at least of an overflowing row in the table's page: (page - 12) * 32 / 255 - 23.
const LOCAL_BYTES_MIN: usize = (PAGE_BYTES as usize - 12) * 32 / 255 - 23;
/// The columns before `encoded`, and the record's header, take no more than this. If they take less, the last
/// overflow page is not quite full; if they took more, the table's page would have the excess.
const COLUMNS_BYTES_MAX: usize = 37;

/// Formats before this one have no table for tails.
const FIRST_FORMAT_WITH_TAILS: i64 = 3;

/// How the column `tier` has both.
const TAIL_SHIFT: u32 = 2;
const TIER_MASK: i64 = (1 << TAIL_SHIFT) - 1;

/// What the column `tier` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TierAndTail {
    pub(super) tier: Tier,
    pub(super) tail_bytes: u64,
}

impl TierAndTail {
    pub(super) fn of(tier: Tier, tail: &[u8]) -> Self {
        Self {
            tier,
            tail_bytes: tail.len() as u64,
        }
    }

    pub(super) fn of_row(row: &Row<'_>) -> rusqlite::Result<Self> {
        let number: i64 = row.get("tier")?;
        let tail_bytes = u64::try_from(number >> TAIL_SHIFT);
        match (number & TIER_MASK, tail_bytes) {
            (1, Ok(0)) => Ok(Self::of(Tier::Quick, &[])),
            (2, Ok(tail_bytes)) if tail_bytes <= SEGMENT_TAIL_BYTES_MAX as u64 => Ok(Self {
                tier: Tier::Deep,
                tail_bytes,
            }),
            _ => Err(out_of_range(row, "tier", number)),
        }
    }

    pub(super) fn as_i64(self) -> i64 {
        self.tier as i64 | signed(self.tail_bytes << TAIL_SHIFT)
    }
}

/// The sequences that the tail of a segment's row, which may be damaged, has keys of. None if it has no tail, or
/// says nothing valid of it.
pub(super) fn sequences_of_row(row: &Row<'_>) -> Option<(u64, u64)> {
    let TierAndTail { tail_bytes, .. } = TierAndTail::of_row(row).ok()?;
    let first = MessageKey::from_i64(row.get("segment_key").ok()?).sequence();
    let last = unsigned(row, "last_sequence").ok()?;
    (tail_bytes > 0).then_some((first, last))
}

/// What of an encoded segment stands in its row, and what in its tail. Quick segments have none: they are soon
/// replaced, and `tier = 1` finds them all.
pub(super) fn split(encoded: &[u8], tier: Tier) -> (&[u8], &[u8]) {
    const FIRST_BYTES: usize = LOCAL_BYTES_MIN - COLUMNS_BYTES_MAX;
    let past_first = encoded.len().saturating_sub(FIRST_BYTES);
    let tail_bytes = past_first % OVERFLOW_BYTES;
    if tier == Tier::Quick
        || encoded.len() > SEGMENT_WITH_TAIL_BYTES_MAX
        || tail_bytes > SEGMENT_TAIL_BYTES_MAX
    {
        return (encoded, &[]);
    }
    encoded.split_at(encoded.len() - tail_bytes)
}

/// Writes the tail of the segment that has the messages `first..=last`. Its pieces are longer than usual if the
/// segment has fewer messages than pieces.
///
/// Pieces that have these keys already belong to no segment, which only a damaged file has. They must not keep
/// the session from being compacted.
pub(super) fn insert(
    connection: &Connection,
    session: SessionKey,
    first: u64,
    last: u64,
    tail: &[u8],
) -> rusqlite::Result<()> {
    delete(connection, session, first, last)?;
    let messages = (last + 1).saturating_sub(first);
    let pieces_max = usize::try_from(messages).unwrap_or(usize::MAX).max(1);
    let piece_bytes = tail
        .len()
        .div_ceil(pieces_max)
        .max(SEGMENT_TAIL_PIECE_BYTES);
    let mut statement = connection
        .prepare_cached("INSERT INTO segment_tails (piece_key, bytes) VALUES (?1, ?2)")?;
    for (sequence, piece) in (first..=last).zip(tail.chunks(piece_bytes)) {
        statement.execute(params![MessageKey::new(session, sequence).as_i64(), piece])?;
    }
    Ok(())
}

/// Appends the tail of the segment that has the messages `first..=last` to the bytes of its row: no more than
/// `tail_bytes`, whatever pieces a damaged file has. If there are fewer, the segment's checksum does not fit.
pub(super) fn append_to(
    connection: &Connection,
    session: SessionKey,
    first: u64,
    last: u64,
    tail_bytes: u64,
    bytes: &mut Vec<u8>,
) -> rusqlite::Result<()> {
    // Lossless: at most SEGMENT_TAIL_BYTES_MAX.
    let mut missing_bytes = tail_bytes as usize;
    let mut statement = connection.prepare_cached(
        "SELECT bytes FROM segment_tails WHERE piece_key BETWEEN ?1 AND ?2 ORDER BY piece_key",
    )?;
    let mut rows = statement.query(MessageKey::range(session, first, last))?;
    while missing_bytes > 0
        && let Some(row) = rows.next()?
    {
        let piece = row.get_ref("bytes")?.as_blob()?;
        let (piece, _surplus) = piece.split_at(piece.len().min(missing_bytes));
        bytes.extend_from_slice(piece);
        missing_bytes -= piece.len();
    }
    Ok(())
}

/// Deletes the tail of the segment that had the messages `first..=last`.
pub(super) fn delete(
    connection: &Connection,
    session: SessionKey,
    first: u64,
    last: u64,
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM segment_tails WHERE piece_key BETWEEN ?1 AND ?2")?
        .execute(MessageKey::range(session, first, last))?;
    Ok(())
}

/// Deletes what is left of the tails of a session that is going away: damaged rows do not lead to theirs.
pub(crate) fn delete_of_session(
    connection: &Connection,
    session: SessionKey,
) -> rusqlite::Result<()> {
    delete(connection, session, 0, SEQUENCE_MAX)
}

/// The first key of each session's pieces that belong to no segment, or of which not all is part of its tail.
pub(crate) fn pieces_without_segment(connection: &Connection) -> rusqlite::Result<Vec<i64>> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version < FIRST_FORMAT_WITH_TAILS {
        return Ok(Vec::new());
    }
    connection
        .prepare(
            "SELECT min(piece_key) FROM segment_tails AS piece
             WHERE length(bytes) = 0 OR NOT coalesce((
                SELECT last_sequence >= (piece_key & 4294967295) AND tier > 3 AND tier >> 2 >= (
                    SELECT sum(length(bytes)) FROM segment_tails AS other
                    WHERE other.piece_key BETWEEN segment_key AND piece.piece_key)
                FROM segments WHERE segment_key BETWEEN (piece_key >> 32) << 32 AND piece_key
                ORDER BY segment_key DESC LIMIT 1), 0)
             GROUP BY piece_key >> 32",
        )?
        .query_map([], |row| row.get(0))?
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::SESSION_KEY_MAX;

    fn deep(bytes: usize) -> (usize, usize) {
        let encoded = vec![7; bytes];
        let (row, tail) = split(&encoded, Tier::Deep);
        (row.len(), tail.len())
    }

    #[test]
    fn quick_and_long_segments_have_no_tail() {
        assert_eq!(split(&[7; 1000], Tier::Quick), (&[7; 1000][..], &[][..]));
        assert_eq!(
            deep(SEGMENT_WITH_TAIL_BYTES_MAX + 1),
            (SEGMENT_WITH_TAIL_BYTES_MAX + 1, 0)
        );
    }

    /// What SQLite leaves of a row in the table's page, as its file format says.
    fn local_bytes(record: usize) -> usize {
        const LOCAL_BYTES_MAX: usize = PAGE_BYTES as usize - 35;
        if record <= LOCAL_BYTES_MAX {
            return record;
        }
        let local = LOCAL_BYTES_MIN + (record - LOCAL_BYTES_MIN) % OVERFLOW_BYTES;
        if local <= LOCAL_BYTES_MAX {
            local
        } else {
            LOCAL_BYTES_MIN
        }
    }

    proptest! {
        #[test]
        fn rows_of_small_segments_leave_little_of_any_page_unused(
            bytes in 1..SEGMENT_WITH_TAIL_BYTES_MAX,
            columns in COLUMNS_BYTES_MAX - 15..=COLUMNS_BYTES_MAX,
        ) {
            let (row, tail) = deep(bytes);
            prop_assert_eq!(row + tail, bytes);
            prop_assert!(tail <= SEGMENT_TAIL_BYTES_MAX);
            let record = row + columns;
            let local = local_bytes(record);
            let page_is_full = local >= PAGE_BYTES as usize - 100;
            prop_assert!(local <= LOCAL_BYTES_MIN || page_is_full, "{} of {} bytes", local, record);
            let overflow = (record - local).next_multiple_of(OVERFLOW_BYTES);
            let unused = overflow - (record - local);
            prop_assert!(unused <= OVERFLOW_BYTES - SEGMENT_TAIL_BYTES_MAX + 15, "{} unused", unused);
        }

        #[test]
        fn a_tail_comes_back_whole_and_goes_with_its_segment(
            tail in proptest::collection::vec(any::<u8>(), 0..=SEGMENT_TAIL_BYTES_MAX),
            messages in 1_u64..20,
        ) {
            let connection = Connection::open_in_memory().unwrap();
            let schema = "CREATE TABLE segment_tails (piece_key INTEGER PRIMARY KEY, bytes BLOB)";
            connection.execute_batch(schema).unwrap();
            let session = SessionKey(3);
            let key = |sequence| MessageKey::new(session, sequence);
            let last = 5 + messages - 1;
            insert(&connection, session, 5, last, &tail).unwrap();
            let others: [i64; 2] = [key(4).as_i64(), key(last + 1).as_i64()];
            for other in others {
                let sql = "INSERT INTO segment_tails VALUES (?1, x'00')";
                connection.execute(sql, [other]).unwrap();
            }
            let mut bytes = b"row".to_vec();
            append_to(&connection, session, 5, last, tail.len() as u64, &mut bytes).unwrap();
            prop_assert_eq!(&bytes[3..], &tail[..]);
            delete(&connection, session, 5, last).unwrap();
            let left: Vec<i64> = connection
                .prepare("SELECT piece_key FROM segment_tails").unwrap()
                .query_map([], |row| row.get(0)).unwrap()
                .collect::<rusqlite::Result<_>>().unwrap();
            prop_assert_eq!(left, others);
        }
    }

    #[test]
    fn the_last_key_that_there_can_be_is_a_pieces_as_well() {
        let connection = Connection::open_in_memory().unwrap();
        let schema = "CREATE TABLE segment_tails (piece_key INTEGER PRIMARY KEY, bytes BLOB)";
        connection.execute_batch(schema).unwrap();
        let session = SessionKey(SESSION_KEY_MAX);
        insert(&connection, session, SEQUENCE_MAX, SEQUENCE_MAX, &[7; 3000]).unwrap();
        let found: i64 = connection
            .query_row("SELECT piece_key FROM segment_tails", [], |row| row.get(0))
            .unwrap();
        assert_eq!(found, i64::MAX);
    }

    #[test]
    fn a_step_of_a_deletion_counts_tails() {
        let connection = Connection::open_in_memory().unwrap();
        for migration in betcode_schema_sql::MIGRATIONS {
            connection.execute_batch(migration.sql).unwrap();
        }
        let session = SessionKey(3);
        let tail_bytes = 3000;
        for sequence in 1..=5 {
            let sql = "INSERT INTO segments VALUES (?1, ?2, 1, ?3, 0, NULL, zeroblob(10))";
            let key = MessageKey::new(session, sequence).as_i64();
            let tier = Tier::Deep as i64 | tail_bytes << TAIL_SHIFT;
            connection
                .execute(sql, params![key, signed(sequence), tier])
                .unwrap();
        }
        let step = crate::sql::DeletionStep {
            rows_max: 100,
            bytes_max: 7000,
        };
        let delete_some = || super::super::delete_some(&connection, session, step).unwrap();
        assert_eq!([delete_some(), delete_some(), delete_some()], [2, 2, 1]);
    }
}
