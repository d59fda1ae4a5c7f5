//! All statements on the store's tables. Only backups and the log's set-up have pragmas, and `VACUUM INTO`,
//! elsewhere.
//!
//! Functions take a [`rusqlite::Connection`] (or a transaction on one) and return
//! [`rusqlite::Result`]; [`db::Db`] turns failures into [`crate::StoreError`]s that name the file.

pub(crate) mod bases;
pub(crate) mod damaged;
pub(crate) mod db;
pub(crate) mod growth;
pub(crate) mod imports;
pub(crate) mod interruptible;
pub(crate) mod messages;
pub(crate) mod migrate;
pub(crate) mod report;
pub(crate) mod runs;
pub(crate) mod segments;
pub(crate) mod sessions;
pub(crate) mod space;
pub(crate) mod totals;

use rusqlite::{Connection, OptionalExtension};

use crate::ids::MessageKey;
use crate::limits::COUNTED_MAX;

/// A size or count, as the unsigned number it stands for. One that cannot be is damage, so that
/// adding a few up never overflows.
pub(crate) fn unsigned(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    match u64::try_from(value) {
        Ok(number) if number <= COUNTED_MAX => Ok(number),
        _ => Err(out_of_range(row, column, value)),
    }
}

/// What is wrong with a row whose `column` holds `value`.
pub(crate) fn out_of_range(row: &rusqlite::Row<'_>, column: &str, value: i64) -> rusqlite::Error {
    let index = row.as_ref().column_index(column).unwrap_or_default();
    let why = format!("{column} is {value}");
    rusqlite::Error::FromSqlConversionFailure(index, rusqlite::types::Type::Integer, why.into())
}

/// The sequence in the key of the one row that `sql` finds between two keys.
pub(crate) fn sequence_of_row(
    connection: &Connection,
    sql: &str,
    [from, to]: [i64; 2],
) -> rusqlite::Result<Option<u64>> {
    connection
        .prepare_cached(sql)?
        .query_row([from, to], |row| {
            row.get(0).map(|key| MessageKey::from_i64(key).sequence())
        })
        .optional()
}

/// How much of a session that is going away one transaction deletes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeletionStep {
    pub(crate) rows_max: u32,
    /// Bytes of the rows' values; a single larger row is deleted alone.
    pub(crate) bytes_max: u64,
}

impl DeletionStep {
    /// Sequence of the last row of the step, by `sizes`: a statement that lists keys and sizes of the rows
    /// between two keys, in order, up to a number of rows. It reads no value, only its length.
    fn last_of(
        self,
        connection: &Connection,
        sizes: &str,
        [from, to]: [i64; 2],
    ) -> rusqlite::Result<Option<u64>> {
        let mut statement = connection.prepare_cached(sizes)?;
        let mut rows = statement.query((from, to, self.rows_max))?;
        let (mut last, mut bytes) = (None, 0_u64);
        while let Some(row) = rows.next()? {
            // A row with an invalid value is deleted as well.
            let size: Option<i64> = row.get(1)?;
            bytes = bytes.saturating_add(size.unwrap_or(0).unsigned_abs());
            if last.is_some() && bytes > self.bytes_max {
                break;
            }
            last = Some(MessageKey::from_i64(row.get(0)?).sequence());
        }
        Ok(last)
    }
}

/// SQLite's integers are signed: sizes and counts beyond 2^63 do not occur.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
