//! Room on the disk: what a transaction is going to need before it is committed.

use rusqlite::Connection;

use crate::capacity::text;
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
    pub(super) fn read(db: &Db, connection: &Connection) -> Result<Self> {
        let pages = sql::space::pages(connection);
        db.context("count pages", pages).map(Self)
    }
}

/// Refuses a transaction that would grow the main file beyond the free space plus `held_bytes` of the
/// reserve. It could be committed to the log, which then could never be copied.
pub(super) fn check(
    db: &Db,
    connection: &Connection,
    before: PagesBefore,
    held_bytes: u64,
) -> Result<()> {
    let pages = db.context("count pages", sql::space::pages(connection))?;
    let new_pages = pages.saturating_sub(before.0);
    let page_bytes = u64::from(PAGE_BYTES);
    let grows_by = (pages * page_bytes).saturating_sub(db.main_bytes()?);
    if grows_by == 0 {
        return Ok(());
    }
    // The transaction's new pages are written to the log, and later to the main file; what was committed
    // before is in the log already. The rest is for pages that change.
    let needed_bytes = grows_by + new_pages * page_bytes + WAL_BYTES_LULL_MAX;
    let Some(free_bytes) = free_bytes(db.path()) else {
        return Ok(());
    };
    let there_bytes = free_bytes.saturating_add(held_bytes);
    if needed_bytes <= there_bytes
        || takes_bytes(db.path(), needed_bytes.saturating_sub(held_bytes))
    {
        return Ok(());
    }
    Err(StoreError::DiskFull {
        path: db.path().to_owned(),
        why: no_room(needed_bytes, free_bytes, held_bytes),
    })
}

fn no_room(needed_bytes: u64, free_bytes: u64, held_bytes: u64) -> String {
    let (needed, there) = text::bytes_apart(needed_bytes, free_bytes.saturating_add(held_bytes));
    let held = match held_bytes {
        0 => "",
        _ => " with the reserve",
    };
    format!("the file and its log need {needed} more, and {there} are free{held}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_told_as_more_than_what_is_free() {
        // The file would grow by 1,863,680 bytes: new pages are in the log as well.
        let needed_bytes = 2 * 1_863_680 + WAL_BYTES_LULL_MAX;
        assert_eq!(
            no_room(needed_bytes, 3_702_784, 0),
            "the file and its log need 4.25 MB more, and 3.70 MB are free"
        );
        assert_eq!(
            no_room(3_700_001, 2_700_000, 1_000_000),
            "the file and its log need 3,700,001 B more, and 3,700,000 B are free with the reserve"
        );
    }
}
