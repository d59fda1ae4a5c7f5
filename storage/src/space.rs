//! How big the database is, against how big it may be.

use crate::limits::{PAGE_BYTES, SIZE_CRITICAL_FRACTION, SIZE_WARNING_FRACTION};
use crate::sql::db::Db;

/// How near a measure is to its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Below the warning threshold.
    Ok,
    /// At or above it: act soon.
    Warning,
    /// At or above the critical threshold: act now.
    Critical,
}

impl Level {
    /// `ok`, `warning` or `critical`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// Sizes of the store's files, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Main file.
    pub database_bytes: u64,
    /// Write-ahead log.
    pub wal_bytes: u64,
    /// Part of the main file that holds nothing and is used again.
    pub free_bytes: u64,
    /// What main file and log together may reach.
    pub limit_bytes: u64,
}

impl Space {
    pub(crate) fn of(db: &Db, free_pages: u64, limit_bytes: u64) -> Self {
        Self {
            database_bytes: db.main_bytes(),
            wal_bytes: db.wal_bytes(),
            free_bytes: free_pages * u64::from(PAGE_BYTES),
            limit_bytes,
        }
    }

    /// Main file and log.
    #[must_use]
    pub fn used_bytes(&self) -> u64 {
        self.database_bytes + self.wal_bytes
    }

    /// Share of the limit that is used; above 1 when it is exceeded.
    #[must_use]
    pub fn used_fraction(&self) -> f64 {
        self.used_bytes() as f64 / self.limit_bytes as f64
    }

    /// Level by the capacity plan's thresholds for the size of the database.
    #[must_use]
    pub fn level(&self) -> Level {
        let used = self.used_fraction();
        if used >= SIZE_CRITICAL_FRACTION {
            Level::Critical
        } else if used >= SIZE_WARNING_FRACTION {
            Level::Warning
        } else {
            Level::Ok
        }
    }
}
