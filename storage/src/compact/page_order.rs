//! The order of the pages of new bases.
//!
//! Giving space back moves pages from the end of the file to free places before it, one by one, so that
//! what was written in order may be in reverse order, or here and there. A system reads ahead, never back, so from a
//! disk each of these pages is a read of its own, and nothing that needs the base is read without all of them.
//!
//! So the bases that a run made are written again twice: before space is given back, when there are long stretches
//! of free pages, of which most are far enough from the end to stay where they are; and after it, when those pages
//! that were moved are at least put in order among themselves.

use super::pace::Pace;
use crate::error::{ErrorKind, Result, StoreError};
use crate::files::free_bytes;
use crate::limits::{BASE_REWRITE_BYTES_MAX, RESERVE_BYTES_DEFAULT};
use crate::reader::fetch;
use crate::sql;
use crate::sql::db::Db;
use crate::store::Store;

/// Writes the bases that a run made once more, each in a transaction of its own. Returns whether it
/// wrote any.
/// For speed only: where the disk is short of room, or a base is not what it should be, it stays as it is.
pub(super) fn put_in_order(store: &Store, pace: &mut Pace<'_>, base_ids: &[u64]) -> Result<bool> {
    let mut wrote = false;
    for &base_id in base_ids {
        // It is written to the log first, and must not take the room that is kept for making some.
        if free_bytes(store.path()).is_some_and(|free| free < RESERVE_BYTES_DEFAULT) {
            break;
        }
        let written = pace.maintain(move |context| {
            context.write_without_reserve("put a base in order", |db, connection| {
                write_again(db, connection, base_id)
            })
        });
        match written {
            Ok(step) => wrote |= step.value,
            Err(error) if error.is_of_one_session() => {
                tracing::warn!(%error, "a base is not written again");
            }
            // Quotas, and what is kept for root, do not show in the free bytes.
            Err(error) if error.kind() == ErrorKind::NoSpace => {
                tracing::warn!(%error, "the new bases are left as they are");
                break;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(wrote)
}

fn write_again(db: &Db, connection: &rusqlite::Connection, base_id: u64) -> Result<bool> {
    let read = || db.context("read a base", sql::bases::encoded(connection, base_id));
    // It goes when the last session that uses it is deleted during the run.
    let Some(before) = read()? else {
        return Ok(false);
    };
    if before.len() > BASE_REWRITE_BYTES_MAX {
        return Ok(false);
    }
    // Pages that are not this base's alone must not be freed.
    fetch::decode_base(db, base_id, before.clone().into())?;
    db.context(
        "write a base again",
        sql::bases::write_again(connection, base_id),
    )?;
    if read()?.as_ref() != Some(&before) {
        let what = format!("base {base_id:016x} does not read back; it was left as it was");
        return Err(StoreError::damaged(None, what));
    }
    Ok(true)
}
