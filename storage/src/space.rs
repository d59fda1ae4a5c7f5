//! The database's size and its limit.

use crate::capacity::levels::{Level, Metric, level_of};
use crate::error::Result;
use crate::limits::PAGE_BYTES;
use crate::sql::db::Db;

/// Sizes of the store's files, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Main file.
    pub database_bytes: u64,
    /// Write-ahead log.
    pub wal_bytes: u64,
    /// Part of the main file that holds nothing and is used again.
    pub free_bytes: u64,
    /// What the database may reach. Free pages and the usual log do not count against it, see
    /// [`crate::StoreOptions::db_bytes_max`].
    pub limit_bytes: u64,
}

impl Space {
    pub(crate) fn of(db: &Db, free_pages: u64, limit_bytes: u64) -> Result<Self> {
        Ok(Self {
            database_bytes: db.main_bytes()?,
            wal_bytes: db.wal_bytes()?,
            free_bytes: free_pages * u64::from(PAGE_BYTES),
            limit_bytes,
        })
    }

    /// Main file and log, all that they take on disk.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.database_bytes + self.wal_bytes
    }

    /// Share of the limit that is used; above 1 when it is exceeded.
    #[must_use]
    pub fn used_fraction(&self) -> f64 {
        self.used_bytes() as f64 / self.limit_bytes as f64
    }

    /// Level of [`Space::used_bytes`] by the capacity plan's thresholds, as one sample gives it.
    /// [`crate::Store::level`] leaves the usual log out, which comes and goes.
    #[must_use]
    pub fn level(&self) -> Level {
        // A limit of 0 is refused when it is set.
        level_of(
            Metric::SqliteSize,
            self.used_bytes(),
            self.limit_bytes,
            Level::Ok,
        )
        .unwrap_or(Level::Critical)
    }
}
