//! The room that owns SQL: every statement of the engine stands here, and nothing else does.
//!
//! Functions take a [`rusqlite::Connection`] (or a transaction on one) and return
//! [`rusqlite::Result`]; [`db::Db`] turns failures into [`crate::StoreError`]s that name the file.

pub(crate) mod bases;
pub(crate) mod db;
pub(crate) mod growth;
pub(crate) mod imports;
pub(crate) mod messages;
pub(crate) mod migrate;
pub(crate) mod report;
pub(crate) mod runs;
pub(crate) mod segments;
pub(crate) mod sessions;
pub(crate) mod space;
pub(crate) mod totals;

/// A column that must not be negative, as the unsigned number it stands for.
pub(crate) fn unsigned(row: &rusqlite::Row<'_>, column: &str) -> rusqlite::Result<u64> {
    let value: i64 = row.get(column)?;
    u64::try_from(value).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(0, value))
}

/// SQLite's integers are signed: sizes and counts beyond 2^63 do not occur.
pub(crate) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
