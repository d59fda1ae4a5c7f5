//! A health probe: one real write and one real read.

use crate::error::{Result, StoreError};
use crate::store::Store;
use crate::writer::WriterContext;

impl Store {
    /// Writes a page as it is, durably, through the writer's queue, and reads it back by another
    /// connection. If it returns in time, the store can record.
    ///
    /// It works at the size limit as well: nothing grows by it.
    ///
    /// # Errors
    /// What an append would meet: [`StoreError::DiskFull`], [`StoreError::QueueFull`],
    /// [`StoreError::Busy`], …; [`StoreError::Damaged`] when another store's row is read back.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # use betcode_storage::{Store, StoreOptions};
    /// let store = Store::open(&folder.path().join("history.db"), StoreOptions::default())?;
    /// store.probe()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn probe(&self) -> Result<()> {
        let written = self.writer()?.run(WriterContext::probe)?;
        let found = self.totals()?.store_id;
        if written == found {
            Ok(())
        } else {
            Err(StoreError::damaged(
                None,
                format!("the writer's file is store {written}, the readers' is {found}"),
            ))
        }
    }

    /// Refuses a store whose files were moved, deleted or replaced since it was opened: it records nothing more.
    ///
    /// # Errors
    /// [`StoreError::FileMoved`].
    pub fn check_in_place(&self) -> Result<()> {
        self.inner.open.refuse_moved(&self.inner.db)
    }
}
