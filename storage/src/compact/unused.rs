//! Bases that no segment needs any more.
//!
//! Deleting a base makes every segment encoded with it unreadable. So a base is deleted only if neither the
//! index, nor the rows of segments, nor the segments' own bytes name it.

use std::collections::BTreeSet;

use crate::error::{ErrorKind, Result};
use crate::reader::fetch;
use crate::segment;
use crate::sql;
use crate::store::Store;

impl Store {
    /// Deletes the bases that no segment needs: none of the rows says so, and none of the segments
    /// themselves.
    pub(crate) fn delete_unused_bases(&self) -> Result<()> {
        let unused_by_index = self.query("look for unused bases", sql::bases::unused_by_index)?;
        if unused_by_index.is_empty() {
            return Ok(());
        }
        let mut unused = match self.query("look for unused bases", needed) {
            Ok(needed) => unused_by_index
                .difference(&needed)
                .copied()
                .collect::<Vec<_>>(),
            // What cannot be read may need any of them.
            Err(error) if error.kind() == ErrorKind::Damaged => {
                tracing::warn!(%error, "bases are kept, because it is not known who needs them");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        unused.retain(|base_id| self.is_whole(*base_id));
        if unused.is_empty() {
            return Ok(());
        }
        self.writer()?.run(move |context| {
            context.maintain("delete unused bases", |db, connection| {
                let deleted = sql::bases::delete_unused(connection, &unused);
                let delta = db.context("delete unused bases", deleted)?;
                db.context("count the totals", sql::totals::add(connection, &delta))
            })
        })
    }

    /// Whether a base is what its row says. A damaged one may be another that is missed.
    fn is_whole(&self, base_id: u64) -> bool {
        let db = &self.inner.db;
        let connection = self.inner.readers.get();
        let base = connection.and_then(|connection| fetch::base_of(db, &connection, base_id, None));
        base.inspect_err(|error| tracing::warn!(%error, "a base that looks unused is kept"))
            .is_ok()
    }
}

/// The bases that segments need, as their rows or their own bytes say.
fn needed(connection: &rusqlite::Connection) -> rusqlite::Result<BTreeSet<u64>> {
    let mut needed = BTreeSet::new();
    sql::segments::each_head(connection, segment::BASE_HEAD_BYTES, |base_id, head| {
        needed.extend(base_id);
        needed.extend(segment::base_id_in_head(head));
    })?;
    Ok(needed)
}
