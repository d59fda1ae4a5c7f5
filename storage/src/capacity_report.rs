//! The capacity report of an open store: what `capacity::report` asks for, read at one moment.

use crate::capacity::levels::Level;
use crate::capacity::report::{
    self, CapacityReport, PACE_ACTIVE_MS_MIN, ReportInput, SESSIONS_SHOWN_MAX,
};
use crate::error::Result;
use crate::files;
use crate::limits::{PAGE_BYTES, REPORTED_RUNS_MAX};
use crate::sql;
use crate::store::Store;

impl Store {
    /// All that is known of the store's size, growth and future, as of one moment.
    ///
    /// Everything comes from counters that are kept with each commit, so the cost does not depend
    /// on how many messages there are or how big they are. It looks at each session's row a few
    /// times, and at one row for each hour in which something was said.
    ///
    /// # Errors
    /// [`Damaged`](crate::StoreError::Damaged), [`Busy`](crate::StoreError::Busy) or [`Io`](crate::StoreError::Io)
    /// when the file cannot be read.
    pub fn capacity_report(&self) -> Result<CapacityReport> {
        self.capacity_report_after(self.level())
    }

    /// As [`Store::capacity_report`], for a caller that knows the previous level better than this handle does: the
    /// tool that asks the store's daemon, for example. A level is left only at a margin below its threshold, so the
    /// previous one matters.
    ///
    /// # Errors
    /// [`Damaged`](crate::StoreError::Damaged), [`Busy`](crate::StoreError::Busy) or [`Io`](crate::StoreError::Io)
    /// when the file cannot be read.
    pub fn capacity_report_after(&self, previous_level: Level) -> Result<CapacityReport> {
        let database = self.path().display().to_string();
        let now_ms = self.options().clock.now_ms();
        let (database_bytes, wal_bytes) = (self.inner.db.main_bytes()?, self.inner.db.wal_bytes()?);
        let limit_bytes = self.limits().db_bytes_max;
        let disk_free_bytes = files::free_bytes(self.path());
        let shown = SESSIONS_SHOWN_MAX as u32;
        let answer = self.query("read the capacity report", |connection| {
            // One snapshot: figures of different moments would contradict each other.
            let snapshot = connection.unchecked_transaction()?;
            let totals = sql::totals::read(&snapshot)?;
            let free_pages = sql::space::free_pages(&snapshot)?;
            let types = sql::growth::by_type(&snapshot)?;
            let hours = sql::growth::by_hour(&snapshot, i64::MIN)?;
            let chosen = sql::report::select(&snapshot, PACE_ACTIVE_MS_MIN, shown);
            let chosen = sql::damaged::or_else(chosen, || {
                let (sessions, _damaged) = sql::damaged::all(&snapshot)?;
                sql::report::select_of(&snapshot, sessions, PACE_ACTIVE_MS_MIN, shown)
            })?;
            let runs = sql::runs::list(&snapshot, REPORTED_RUNS_MAX)?;
            Ok(report::build(&ReportInput {
                database: &database,
                now_ms,
                totals: &totals,
                database_bytes,
                wal_bytes,
                free_bytes: free_pages * u64::from(PAGE_BYTES),
                limit_bytes,
                disk_free_bytes,
                previous_level,
                types: &types,
                hours: &hours,
                biggest: &chosen.biggest,
                fastest: &chosen.fastest,
                projects: &chosen.projects,
                projects_total: chosen.projects_total,
                untimed: chosen.untimed,
                runs: &runs,
            }))
        })?;
        Ok(answer?)
    }
}
