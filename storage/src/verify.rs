//! Checking a whole store: structure, checksums, digests, gaps, counters.

mod places;
mod problem;
mod view;

use std::ops::ControlFlow;

use rusqlite::Connection;

use self::view::{CheckedView, SessionView, Sums};
use crate::error::{ErrorKind, Result, StoreError};
use crate::growth::uncompacted_row_bytes;
use crate::ids::MessageKey;
use crate::limits::{SESSION_PROBLEMS_MAX, STRUCTURE_PROBLEMS_MAX};
use crate::message::Message;
use crate::reader::fetch::{self, PageReader, SessionSource};
use crate::session::{DamagedSession, Session, SessionFilter};
use crate::source_check::SourceCheck;
use crate::sql;
use crate::sql::growth::GrowthSum;
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

    /// Lists damage as a problem and returns `None`; other errors end the check.
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
        self.add_at(kind, None, None, what);
    }

    fn add(&mut self, kind: ProblemKind, session: &Session, sequence: Option<u64>, what: String) {
        self.add_at(kind, Some(session.id.to_string()), sequence, what);
    }

    fn add_at(
        &mut self,
        kind: ProblemKind,
        session: Option<String>,
        sequence: Option<u64>,
        what: String,
    ) {
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

impl Store {
    /// Checks everything: SQLite's structure, every segment's checksum and digests, every hot
    /// message's digest, that every sequence is in exactly one place, that imported
    /// sessions still make the files they came from, and that the counters are those of the rows.
    /// Others may write meanwhile.
    ///
    /// Damage is listed, not returned as an error, and does not end the check. `observe` is called before it
    /// begins, as it goes on, and several times a second while SQLite checks the structure and the sums.
    ///
    /// # Errors
    /// [`StoreError::Cancelled`] when `observe` says so; otherwise when the file cannot be read
    /// at all.
    pub fn verify(
        &self,
        observe: &mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport> {
        let mut check = Check {
            store: self,
            reader: PageReader::default(),
            report: VerifyReport::default(),
            // The page with the number of messages may be damaged.
            progress: VerifyProgress {
                messages_done: 0,
                messages: self.totals().map_or(0, |totals| totals.messages),
                raw_bytes_done: 0,
            },
            observe,
        };
        check.structure()?;
        check.sessions()?;
        check.sums()?;
        Ok(check.report)
    }
}

/// A check of a store under way.
struct Check<'a> {
    store: &'a Store,
    /// One for all sessions: those of a project need the same base.
    reader: PageReader,
    report: VerifyReport,
    progress: VerifyProgress,
    observe: &'a mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>,
}

impl Check<'_> {
    /// What one or more long statements answer, which may be stopped.
    fn interruptible<T: Send>(&mut self, read: impl FnOnce(&Connection) -> T + Send) -> Result<T> {
        let (observe, progress) = (&mut self.observe, &self.progress);
        self.store.interruptible(&mut || observe(progress), read)
    }

    fn structure(&mut self) -> Result<()> {
        if let Some(cut_off) = self.store.inner.cut_off {
            self.report
                .add_global(ProblemKind::Structure, cut_off.to_string());
        }
        let found = self.interruptible(|connection| {
            sql::space::integrity_problems(connection, STRUCTURE_PROBLEMS_MAX)
        });
        let db = &self.store.inner.db;
        let found = found.and_then(|found| db.context("check the structure", found));
        for what in self.report.take(found)?.unwrap_or_default() {
            self.report.add_global(ProblemKind::Structure, what);
        }
        Ok(())
    }

    fn sessions(&mut self) -> Result<()> {
        let (sessions, damaged) = match self.store.sessions(&SessionFilter::default()) {
            Ok(list) => (list.sessions, list.damaged),
            Err(error) => {
                self.report
                    .add_global(ProblemKind::Listing, what_is_damaged(error)?);
                Default::default()
            }
        };
        for DamagedSession { id, what } in damaged {
            match id {
                Some(id) => {
                    let id = Some(id.to_string());
                    self.report.add_at(ProblemKind::Structure, id, None, what);
                }
                None => self.report.add_global(ProblemKind::Listing, what),
            }
        }
        self.progress.messages = sessions.iter().map(|s| s.messages).sum();
        for session in &sessions {
            let problems_before = self.report.problems.len();
            let is_there = self.session(session)?;
            let is_intact = is_there && self.report.problems.len() == problems_before;
            self.report.sessions += u64::from(is_intact);
        }
        Ok(())
    }

    /// Checks one session; `false` when it has been deleted meanwhile.
    fn session(&mut self, listed: &Session) -> Result<bool> {
        let inner = &self.store.inner;
        let view = SessionView::read(&inner.db, &*inner.readers.get()?, listed.key);
        let view = match self.report.take_of(listed, view)? {
            Some(Some(view)) => view,
            Some(None) => return Ok(false),
            None => return Ok(true),
        };
        let CheckedView {
            session,
            segments,
            mut source,
        } = view.check(&mut self.report)?;
        let session = &session;
        let Some(ReadBack {
            damaged,
            uncompacted_bytes,
        }) = self.contents(session, source.as_mut())?
        else {
            return Ok(false);
        };
        let report = &mut self.report;
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
    fn contents(
        &mut self,
        session: &Session,
        mut source: Option<&mut SourceCheck>,
    ) -> Result<Option<ReadBack>> {
        let mut found = ReadBack::default();
        let mut next = 1;
        while next <= session.messages {
            let connection = self.store.inner.readers.get()?;
            let of_session = SessionSource {
                db: &self.store.inner.db,
                connection: &connection,
                key: session.key,
                id: &session.id,
            };
            let before = next;
            match of_session.page(next, session.messages, &mut self.reader) {
                Ok(page) => {
                    next = page.last().map_or(session.messages, |m| m.sequence) + 1;
                    self.count_page(&page, &mut found);
                    if let Some(source) = &mut source {
                        page.iter().for_each(|message| source.push(message));
                    }
                }
                Err(error) => {
                    let gone = sql::sessions::by_key(&connection, session.key);
                    if matches!(gone, Ok(None)) {
                        return Ok(None);
                    }
                    self.add_damage(session, next, error, &mut found)?;
                    let end = session.messages + 1;
                    next = fetch::next_sequence_after_damage(&connection, session.key, next)
                        .map_or(end, |next| next.min(end));
                }
            }
            self.progress.messages_done += next - before;
            if (self.observe)(&self.progress).is_break() {
                return Err(StoreError::Cancelled);
            }
        }
        let unlisted = found
            .damaged
            .get(SESSION_PROBLEMS_MAX..)
            .unwrap_or_default();
        if let Some(first) = unlisted.first() {
            let what = format!("{} more places, from this one on", unlisted.len());
            self.report
                .add(ProblemKind::Message, session, Some(*first), what);
        }
        Ok(Some(found))
    }

    fn count_page(&mut self, page: &[Message], found: &mut ReadBack) {
        let sizes = || page.iter().map(|message| message.payload.len() as u64);
        let bytes: u64 = sizes().sum();
        self.report.messages += page.len() as u64;
        self.report.raw_bytes += bytes;
        self.progress.raw_bytes_done += bytes;
        found.uncompacted_bytes += sizes().map(uncompacted_row_bytes).sum::<u64>();
    }

    fn add_damage(
        &mut self,
        session: &Session,
        sequence: u64,
        error: StoreError,
        found: &mut ReadBack,
    ) -> Result<()> {
        let kind = match error {
            StoreError::Segment { .. } => ProblemKind::Segment,
            _ => ProblemKind::Message,
        };
        let what = what_is_damaged(error)?;
        found.damaged.push(sequence);
        if found.damaged.len() <= SESSION_PROBLEMS_MAX {
            self.report.add(kind, session, Some(sequence), what);
        }
        Ok(())
    }

    fn sums(&mut self) -> Result<()> {
        let store = self.store;
        let db = &store.inner.db;
        let sums = self.interruptible(|connection| Sums::read(db, connection))??;
        let report = &mut self.report;
        let kept = report.take(sums.kept)?;
        let counted = report.take(sums.counted)?;
        let growth = report.take(sums.growth)?;
        let missing_bases = report.take(sums.missing_bases)?;
        let imports = report.take(sums.imports)?;
        let orphans = report.take(sums.orphans)?;
        let tails = report.take(sums.tails)?;
        let invalid_deletions = report.take(sums.invalid_deletions)?;
        for key in invalid_deletions.into_iter().flatten() {
            let what = format!("session key {key} is listed as deleted, and is there or is none");
            report.add_global(ProblemKind::Structure, what);
        }
        if let Some(kept) = kept {
            check_sums(&kept, counted, growth.as_ref().map_or(&[], |g| g), report);
        }
        for base_id in missing_bases.into_iter().flatten() {
            let what = format!("base {base_id:016x}, which segments need, is not there");
            report.add_global(ProblemKind::Structure, what);
        }
        for what in imports.into_iter().flatten() {
            report.add_global(ProblemKind::Structure, what);
        }
        for key in orphans.into_iter().flatten().map(MessageKey::from_i64) {
            let session = key.session().as_i64();
            let what = format!("rows of session key {session}, which is not there");
            report.add_at(ProblemKind::Orphan, None, Some(key.sequence()), what);
        }
        for key in tails.into_iter().flatten().map(MessageKey::from_i64) {
            let session = key.session().as_i64();
            let what = format!("pieces of session key {session} that belong to no segment");
            report.add_at(ProblemKind::Orphan, None, Some(key.sequence()), what);
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
    growth: &[GrowthSum],
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
    for &GrowthSum {
        by,
        messages,
        raw_bytes,
    } in growth
    {
        if (messages, raw_bytes) != (kept.messages, kept.raw_bytes) {
            counter(format!(
                "growth by {by} adds up to {messages} messages of {raw_bytes} bytes, and \
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
