//! Room on the disk: what a transaction is going to need before it is committed.

use rusqlite::Connection;

use crate::error::{Result, StoreError};
use crate::files::{free_bytes, takes_bytes};
use crate::limits::{PAGE_BYTES, WAL_BYTES_LULL_MAX};
use crate::sql;
use crate::sql::db::Db;

/// Pages of the file as a transaction found it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PagesBefore(u64);

impl PagesBefore {
    /// Before the transaction writes anything.
    pub(super) fn look(db: &Db, connection: &Connection) -> Result<Self> {
        let pages = sql::space::pages(connection);
        db.named("count pages", pages).map(Self)
    }
}

/// Refuses a transaction by which the main file is to grow beyond what the disk has room for, with the
/// `held_bytes` that the reserve can give up. In the log alone it could be committed, and would keep
/// there the room that is missing.
pub(super) fn check(
    db: &Db,
    connection: &Connection,
    before: PagesBefore,
    held_bytes: u64,
) -> Result<()> {
    let pages = db.named("count pages", sql::space::pages(connection))?;
    let new_pages = pages.saturating_sub(before.0);
    let page_bytes = u64::from(PAGE_BYTES);
    let grows_by = (pages * page_bytes).saturating_sub(db.main_bytes());
    if grows_by == 0 {
        return Ok(());
    }
    // The transaction's new pages are written to the log, and later to the main file; what was committed
    // before stands in the log already. The rest is for pages that change.
    let needed_bytes = grows_by + new_pages * page_bytes + WAL_BYTES_LULL_MAX;
    let Some(free_bytes) = free_bytes(db.path()) else {
        return Ok(());
    };
    let missing_bytes = needed_bytes.saturating_sub(held_bytes);
    if missing_bytes <= free_bytes || takes_bytes(db.path(), missing_bytes) {
        return Ok(());
    }
    Err(StoreError::DiskFull {
        path: db.path().to_owned(),
        why: format!(
            "{missing_bytes} bytes are needed for the file and its log, {free_bytes} are free"
        ),
    })
}
