//! What one snapshot has of a session, and of the store as a whole.

use rusqlite::Connection;

use super::places::Places;
use super::{ProblemKind, VerifyReport, check_growth, what_is_damaged};
use crate::error::{Result, StoreError};
use crate::ids::SessionKey;
use crate::limits::{SEQUENCE_MAX, SESSION_PROBLEMS_MAX};
use crate::message::ImportRecord;
use crate::session::Session;
use crate::source_check::SourceCheck;
use crate::sql;
use crate::sql::db::Db;
use crate::sql::growth::GrowthSum;
use crate::sql::segments::SegmentInfo;

/// What one snapshot has of a session, without its contents.
pub(super) struct SessionView {
    session: Session,
    /// The index of session ids does not lead to it.
    is_missed_by_index: bool,
    /// The segments whose rows can be read.
    segments: Vec<SegmentInfo>,
    /// What is wrong with the others.
    segment_damage: Vec<StoreError>,
    places: Places,
    /// Whether the messages that are rows of their own could all be listed.
    scanned: Result<()>,
    growth: Result<sql::growth::Sums>,
    source: Result<Option<ImportRecord>>,
}

/// What remains to be checked after a [`SessionView`].
pub(super) struct CheckedView {
    pub(super) session: Session,
    pub(super) segments: Vec<SegmentInfo>,
    /// To compare it with the file that it was imported from.
    pub(super) source: Option<SourceCheck>,
}

impl SessionView {
    /// Row, segments and hot messages in one snapshot: appends and compaction go on. `None` when the
    /// session is gone.
    pub(super) fn read(db: &Db, connection: &Connection, key: SessionKey) -> Result<Option<Self>> {
        let snapshot = db.context("begin to read", connection.unchecked_transaction())?;
        let found = sql::sessions::by_key(&snapshot, key);
        let Some(session) = db.context("find the session", found)? else {
            return Ok(None);
        };
        // A page of the index that cannot be read at all is named with the structure.
        let is_missed_by_index = match sql::sessions::key_of(&snapshot, &session.id) {
            Ok(key) => key != Some(session.key),
            Err(error) => sql::sessions::is_index_mismatch(&error),
        };
        let listed = sql::segments::readable(&snapshot, session.key);
        let (segments, damage) = db.context("list the segments", listed)?;
        let mut places = Places::new(segments.clone());
        let each = |sequence, raw_bytes| places.hot(sequence, raw_bytes);
        let scanned = sql::messages::scan_sizes(&snapshot, session.key, 0, SEQUENCE_MAX, each);
        let growth = sql::growth::sums_of(&snapshot, session.key);
        let source = sql::imports::of_session(&snapshot, session.key);
        let damage = damage.into_iter();
        Ok(Some(Self {
            session,
            is_missed_by_index,
            segments,
            segment_damage: damage
                .map(|error| db.store_error("list the segments", error))
                .collect(),
            places,
            scanned: db.context("measure the messages", scanned),
            growth: db.context("sum up the growth", growth),
            source: db.context("read the import record", source),
        }))
    }

    /// Lists what is wrong with all of this.
    pub(super) fn check(self, report: &mut VerifyReport) -> Result<CheckedView> {
        let session = self.session;
        if self.is_missed_by_index {
            let what = "the index of session ids does not lead to it";
            report.add(ProblemKind::Structure, &session, None, what.into());
        }
        let mut is_listed = self.segment_damage.is_empty();
        let unlisted = self
            .segment_damage
            .len()
            .saturating_sub(SESSION_PROBLEMS_MAX);
        for error in self.segment_damage.into_iter().take(SESSION_PROBLEMS_MAX) {
            let what = what_is_damaged(error)?;
            report.add(ProblemKind::Structure, &session, None, what);
        }
        if unlisted > 0 {
            let what = format!("{unlisted} more of its segments' rows cannot be read");
            report.add(ProblemKind::Structure, &session, None, what);
        }
        let source = report.take_of(&session, self.source)?.flatten();
        if let Some(growth) = report.take_of(&session, self.growth)? {
            check_growth(&session, growth, report);
        }
        is_listed &= report.take_of(&session, self.scanned)?.is_some();
        // Rows that could not be listed have been reported already.
        if is_listed {
            self.places.finish(&session, report);
        }
        let source = source.map(|record| SourceCheck::of(record.mark));
        Ok(CheckedView {
            session,
            segments: self.segments,
            source,
        })
    }
}

/// What one snapshot has of the store as a whole. Each table is read on its own, so that a damaged one does not hide
/// the others.
pub(super) struct Sums {
    pub(super) kept: Result<sql::totals::Totals>,
    pub(super) counted: Result<sql::totals::Totals>,
    pub(super) growth: Result<[GrowthSum; 3]>,
    pub(super) missing_bases: Result<Vec<u64>>,
    pub(super) imports: Result<Vec<String>>,
    pub(super) orphans: Result<Vec<i64>>,
    pub(super) tails: Result<Vec<i64>>,
    pub(super) invalid_deletions: Result<Vec<i64>>,
}

impl Sums {
    pub(super) fn read(db: &Db, connection: &Connection) -> Result<Self> {
        let snapshot = db.context("begin to read", connection.unchecked_transaction())?;
        let of = &*snapshot;
        Ok(Self {
            kept: db.context("read the totals", sql::totals::read(of)),
            counted: db.context("count the totals", sql::totals::recount(of)),
            growth: db.context("count the growth", sql::growth::recount(of)),
            missing_bases: db.context("look for bases", sql::bases::missing(of)),
            imports: db.context("check the imports", sql::imports::problems(of)),
            orphans: db.context("look for orphans", sql::messages::orphans(of)),
            tails: db.context(
                "check the tails of segments",
                sql::segments::pieces_without_segment(of),
            ),
            invalid_deletions: db
                .context("look at deletions", sql::sessions::invalid_deletions(of)),
        })
    }
}
