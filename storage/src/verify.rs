//! Checking a whole store: structure, checksums, digests, gaps, counters.

mod places;
mod problem;

use std::ops::ControlFlow;

use rusqlite::Connection;

use self::places::Places;

use crate::error::{ErrorKind, Result, StoreError};
use crate::growth::uncompacted_row_bytes;
use crate::ids::{MessageKey, SessionKey};
use crate::limits::{SEQUENCE_MAX, SESSION_PROBLEMS_MAX, STRUCTURE_PROBLEMS_MAX};
use crate::message::ImportRecord;
use crate::reader::fetch::{self, PageReader};
use crate::session::{Session, SessionFilter};
use crate::source_check::SourceCheck;
use crate::sql;
use crate::sql::db::Db;
use crate::sql::segments::SegmentInfo;
use crate::store::Store;

pub use problem::{Problem, ProblemKind};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VerifyReport {
    /// Sessions in which nothing is wrong.
    pub sessions: u64,
    /// Messages found intact.
    pub messages: u64,
    /// Their payload bytes.
    pub raw_bytes: u64,
    /// Segments found intact.
    pub segments: u64,
    /// What is wrong; empty when all is well.
    pub problems: Vec<Problem>,
}

impl VerifyReport {
    /// Whether all is well.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.problems.is_empty()
    }

    /// Lists what is damaged; other errors end the check.
    fn take<T>(&mut self, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let what = what_is_damaged(error)?;
                self.add_global(ProblemKind::Structure, what);
                Ok(None)
            }
        }
    }

    /// As [`VerifyReport::take`], of a session.
    fn take_of<T>(&mut self, session: &Session, result: Result<T>) -> Result<Option<T>> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(error) => {
                let what = what_is_damaged(error)?;
                self.add(ProblemKind::Structure, session, None, what);
                Ok(None)
            }
        }
    }

    /// A problem of no session, or of one of which not even the id is known.
    fn add_global(&mut self, kind: ProblemKind, what: String) {
        self.problems.push(Problem {
            kind,
            session: None,
            sequence: None,
            what,
        });
    }

    fn add(&mut self, kind: ProblemKind, session: &Session, sequence: Option<u64>, what: String) {
        let session = Some(session.id.to_string());
        self.problems.push(Problem {
            kind,
            session,
            sequence,
            what,
        });
    }
}

/// What an error about damage says. Any other error says nothing of the data, and ends the check.
fn what_is_damaged(error: StoreError) -> Result<String> {
    match error.kind() {
        ErrorKind::Damaged => Ok(error.to_string()),
        _ => Err(error),
    }
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Messages checked.
    pub messages_done: u64,
    /// Messages in all.
    pub messages: u64,
    /// Payload bytes checked.
    pub raw_bytes_done: u64,
}

/// What reading all messages of a session gave.
#[derive(Default)]
struct ReadBack {
    /// The sequences at which reading met damage, in order.
    damaged: Vec<u64>,
    /// What those that were read would take as rows of their own.
    uncompacted_bytes: u64,
}

/// What one snapshot tells of a session, without its contents.
struct SessionView {
    session: Session,
    /// The index of session ids does not lead to it.
    is_led_past: bool,
    /// The segments of which something can be made.
    segments: Vec<SegmentInfo>,
    /// What is wrong with the others.
    segment_damage: Vec<StoreError>,
    places: Places,
    /// Whether the messages that are rows of their own could all be listed.
    scanned: Result<()>,
    growth: Result<sql::growth::Sums>,
    source: Result<Option<ImportRecord>>,
}

impl SessionView {
    /// Row, segments and hot messages in one snapshot: appends and compaction go on. `None` when the
    /// session is gone.
    fn read(db: &Db, connection: &Connection, key: SessionKey) -> Result<Option<Self>> {
        let snapshot = db.named("begin to read", connection.unchecked_transaction())?;
        let found = sql::sessions::by_key(&snapshot, key);
        let Some(session) = db.named("find the session", found)? else {
            return Ok(None);
        };
        // A page of the index that cannot be read at all is named with the structure.
        let is_led_past = match sql::sessions::key_of(&snapshot, &session.id) {
            Ok(key) => key != Some(session.key),
            Err(error) => sql::sessions::is_index_mismatch(&error),
        };
        let listed = sql::segments::readable(&snapshot, session.key);
        let (segments, damage) = db.named("list the segments", listed)?;
        let mut places = Places::new(segments.clone());
        let each = |sequence, raw_bytes| {
            places.hot(sequence, raw_bytes);
            true
        };
        let scanned = sql::messages::scan_sizes(&snapshot, session.key, 0, SEQUENCE_MAX, each);
        let growth = sql::growth::sums_of(&snapshot, session.key);
        let source = sql::imports::of_session(&snapshot, session.key);
        let damage = damage.into_iter();
        Ok(Some(Self {
            session,
            is_led_past,
            segments,
            segment_damage: damage
                .map(|error| db.name_error("list the segments", error))
                .collect(),
            places,
            scanned: db.named("measure the messages", scanned),
            growth: db.named("sum up the growth", growth),
            source: db.named("read the import record", source),
        }))
    }

    /// Lists what is wrong with all of this. The session, its segments, and what is to be compared with the
    /// file that it was imported from.
    fn check(
        self,
        report: &mut VerifyReport,
    ) -> Result<(Session, Vec<SegmentInfo>, Option<SourceCheck>)> {
        let session = self.session;
        if self.is_led_past {
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
        // Of rows that could not be listed it is known already that something is wrong with them.
        if is_listed {
            self.places.finish(&session, report);
        }
        let source = source.map(|record| SourceCheck::of(record.mark));
        Ok((session, self.segments, source))
    }
}

impl Store {
    /// Checks everything: SQLite's structure, every segment's checksum and digests, every hot
    /// message's digest, that sequences have no gap and stand in one place only, that imported
    /// sessions still make the files they came from, and that the counters are those of the rows.
    /// Others may write meanwhile.
    ///
    /// Damage is listed, not returned as an error, and does not end the check.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`] when `observe` says so; otherwise when the file cannot be read
    /// at all.
    pub fn verify(
        &self,
        observe: &mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        if let Some(cut_off) = self.inner.cut_off {
            report.add_global(ProblemKind::Structure, cut_off.to_string());
        }
        let structure = self.query("check the structure", |connection| {
            sql::space::integrity_problems(connection, STRUCTURE_PROBLEMS_MAX)
        });
        let structure = report.take(structure)?.unwrap_or_default();
        for what in structure {
            report.add_global(ProblemKind::Structure, what);
        }
        let (sessions, damaged) = match self.sessions(&SessionFilter::default()) {
            Ok(list) => (list.sessions, list.damaged),
            Err(error) => {
                report.add_global(ProblemKind::Listing, what_is_damaged(error)?);
                Default::default()
            }
        };
        for session in damaged {
            match session.id {
                Some(id) => report.problems.push(Problem {
                    kind: ProblemKind::Structure,
                    session: Some(id.to_string()),
                    sequence: None,
                    what: session.what,
                }),
                None => report.add_global(ProblemKind::Listing, session.what),
            }
        }
        let mut progress = VerifyProgress {
            messages_done: 0,
            messages: sessions.iter().map(|s| s.messages).sum(),
            raw_bytes_done: 0,
        };
        // One for all sessions: those of a project need the same base.
        let mut cursor = PageReader::default();
        for session in &sessions {
            let problems_before = report.problems.len();
            let is_there =
                self.verify_session(session, &mut cursor, &mut report, &mut progress, observe)?;
            let is_intact = is_there && report.problems.len() == problems_before;
            report.sessions += u64::from(is_intact);
        }
        self.verify_sums(&mut report)?;
        Ok(report)
    }

    /// Checks one session; `false` when it has been deleted meanwhile.
    fn verify_session(
        &self,
        listed: &Session,
        cursor: &mut PageReader,
        report: &mut VerifyReport,
        progress: &mut VerifyProgress,
        observe: &mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> Result<bool> {
        let db = &self.inner.db;
        let view = SessionView::read(db, &*self.inner.readers.get()?, listed.key);
        let view = match report.take_of(listed, view)? {
            Some(Some(view)) => view,
            Some(None) => return Ok(false),
            None => return Ok(true),
        };
        let (session, segments, mut source) = view.check(report)?;
        let session = &session;
        let contents =
            self.verify_contents(session, cursor, source.as_mut(), report, progress, observe)?;
        let Some(ReadBack {
            damaged,
            uncompacted_bytes,
        }) = contents
        else {
            return Ok(false);
        };
        if damaged.is_empty() {
            let (kept, counted) = (session.uncompacted_bytes, uncompacted_bytes);
            check_count(session, "uncompacted bytes", kept, counted, report);
            if source.is_some_and(|source| !source.is_same()) {
                let what = "its messages and line ends are not those of the file that it was \
                            imported from";
                report.add(ProblemKind::Source, session, None, what.into());
            }
        }
        report.segments += count_intact(&segments, &damaged);
        Ok(true)
    }

    /// Decodes and digests every message of the session; `None` when it has been deleted meanwhile.
    fn verify_contents(
        &self,
        session: &Session,
        cursor: &mut PageReader,
        mut source: Option<&mut SourceCheck>,
        report: &mut VerifyReport,
        progress: &mut VerifyProgress,
        observe: &mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> Result<Option<ReadBack>> {
        let mut found = ReadBack::default();
        let mut next = 1;
        while next <= session.messages {
            let connection = self.inner.readers.get()?;
            let db = &self.inner.db;
            let page = fetch::page(
                db,
                &connection,
                session.key,
                &session.id,
                next,
                session.messages,
                cursor,
            );
            let before = next;
            match page {
                Ok(page) => {
                    let bytes: u64 = page.iter().map(|m| m.payload.len() as u64).sum();
                    next = page.last().map_or(session.messages, |m| m.sequence) + 1;
                    report.messages += page.len() as u64;
                    report.raw_bytes += bytes;
                    progress.raw_bytes_done += bytes;
                    let uncompacted = page
                        .iter()
                        .map(|m| uncompacted_row_bytes(m.payload.len() as u64));
                    found.uncompacted_bytes += uncompacted.sum::<u64>();
                    if let Some(source) = &mut source {
                        page.iter().for_each(|message| source.push(message));
                    }
                }
                Err(error) => {
                    let gone = sql::sessions::by_key(&connection, session.key);
                    if matches!(gone, Ok(None)) {
                        return Ok(None);
                    }
                    let kind = match error {
                        StoreError::Segment { .. } => ProblemKind::Segment,
                        _ => ProblemKind::Message,
                    };
                    let what = what_is_damaged(error)?;
                    found.damaged.push(next);
                    if found.damaged.len() <= SESSION_PROBLEMS_MAX {
                        report.add(kind, session, Some(next), what);
                    }
                    next = fetch::next_sequence_after_damage(&connection, session.key, next)
                        .min(session.messages + 1);
                }
            }
            progress.messages_done += next - before;
            if observe(progress).is_break() {
                return Err(StoreError::Cancelled);
            }
        }
        let unlisted = found
            .damaged
            .get(SESSION_PROBLEMS_MAX..)
            .unwrap_or_default();
        if let Some(first) = unlisted.first() {
            let what = format!("{} more places, from this one on", unlisted.len());
            report.add(ProblemKind::Message, session, Some(*first), what);
        }
        Ok(Some(found))
    }

    fn verify_sums(&self, report: &mut VerifyReport) -> Result<()> {
        let connection = self.inner.readers.get()?;
        let db = &self.inner.db;
        let snapshot = db.named("begin to read", connection.unchecked_transaction())?;
        // Each is looked at for itself: a damaged table hides nothing that the others tell.
        let kept = report.take(db.named("read the totals", sql::totals::read(&snapshot)))?;
        let counted = report.take(db.named("count the totals", sql::totals::recount(&snapshot)))?;
        let growth = report.take(db.named("count the growth", sql::growth::recount(&snapshot)))?;
        let missing_bases =
            report.take(db.named("look for bases", sql::bases::missing(&snapshot)))?;
        let imports =
            report.take(db.named("check the imports", sql::imports::problems(&snapshot)))?;
        let orphans =
            report.take(db.named("look for orphans", sql::messages::orphans(&snapshot)))?;
        let invalid_deletions = report.take(db.named(
            "look at deletions",
            sql::sessions::invalid_deletions(&snapshot),
        ))?;
        drop(snapshot);
        for key in invalid_deletions.into_iter().flatten() {
            let what = format!("session key {key} is listed as deleted, and is there or is none");
            report.add_global(ProblemKind::Structure, what);
        }
        if let Some(kept) = kept {
            let growth = growth.into_iter().flatten().collect();
            check_sums(&kept, counted, growth, report);
        }
        for base_id in missing_bases.into_iter().flatten() {
            let what = format!("base {base_id:016x}, which segments need, is not there");
            report.add_global(ProblemKind::Structure, what);
        }
        for what in imports.into_iter().flatten() {
            report.add_global(ProblemKind::Structure, what);
        }
        for key in orphans.into_iter().flatten() {
            report.problems.push(Problem {
                kind: ProblemKind::Orphan,
                session: None,
                sequence: Some(MessageKey::from_i64(key).sequence()),
                what: format!(
                    "rows of session key {}, which is not there",
                    MessageKey::from_i64(key).session().as_i64()
                ),
            });
        }
        Ok(())
    }
}

/// How many segments hold none of the `damaged` sequences, which are in order.
fn count_intact(segments: &[SegmentInfo], damaged: &[u64]) -> u64 {
    let is_intact = |segment: &&SegmentInfo| {
        let next = damaged.partition_point(|&sequence| sequence < segment.first_sequence);
        let next = damaged.get(next);
        next.is_none_or(|&sequence| sequence > segment.last_sequence)
    };
    segments.iter().filter(is_intact).count() as u64
}

/// The totals are what the sessions and the growth add up to.
fn check_sums(
    kept: &sql::totals::Totals,
    counted: Option<sql::totals::Totals>,
    growth: Vec<(&'static str, u64, u64)>,
    report: &mut VerifyReport,
) {
    let mut counter = |what: String| report.add_global(ProblemKind::Counter, what);
    let counted = counted.map(|counted| sql::totals::Totals {
        store_id: kept.store_id.clone(),
        created_ms: kept.created_ms,
        ..counted
    });
    if let Some(counted) = counted.filter(|counted| counted != kept) {
        counter(format!(
            "the totals are {kept:?}, and the sessions add up to {counted:?}"
        ));
    }
    for (what, messages, raw_bytes) in growth {
        if (messages, raw_bytes) != (kept.messages, kept.raw_bytes) {
            counter(format!(
                "growth by {what} adds up to {messages} messages of {raw_bytes} bytes, and \
                 the totals say {} of {}",
                kept.messages, kept.raw_bytes
            ));
        }
    }
}

/// What a session adds to the growth is what it has.
fn check_growth(session: &Session, growth: sql::growth::Sums, report: &mut VerifyReport) {
    let counts = [
        ("messages", session.messages, growth.messages),
        ("raw bytes", session.raw_bytes, growth.raw_bytes),
        (
            "milliseconds of active time",
            session.active_ms.unsigned_abs(),
            growth.active_ms,
        ),
    ];
    for (what, kept, counted) in counts {
        if kept != counted {
            let what = format!("the session says {kept} {what}, and its growth has {counted}");
            report.add(ProblemKind::Counter, session, None, what);
        }
    }
}

fn check_count(
    session: &Session,
    what: &'static str,
    kept: u64,
    counted: u64,
    report: &mut VerifyReport,
) {
    if kept != counted {
        let what = format!("the session says {kept} {what}, and its rows have {counted}");
        report.add(ProblemKind::Counter, session, None, what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Held, Holder};

    #[test]
    fn only_damage_is_listed_and_other_errors_end_the_check() {
        let mut report = VerifyReport::default();
        let busy = || StoreError::Busy {
            path: "h.db".into(),
            what: Held::WriteLock,
            holder: Holder::AnotherConnection,
            waited_ms: 0,
        };
        assert!(report.take::<()>(Err(busy())).is_err());
        assert!(what_is_damaged(busy()).is_err());
        assert!(report.problems.is_empty());
        let damaged = StoreError::damaged(None, "a page");
        assert_eq!(report.take::<()>(Err(damaged)).unwrap(), None);
        assert_eq!(report.problems.len(), 1);
    }
}
