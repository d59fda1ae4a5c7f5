//! Appending a batch inside a transaction: sequences, retries, rows, counters.

use rusqlite::Connection;

use super::context::Cache;
use super::request::{AppendRequest, PreparedMessage};
use crate::capacity::levels::{Level, Metric, level_of};
use crate::capacity::limits_policy;
use crate::capacity::text;
use crate::error::{Argument, Result, StoreError};
use crate::growth::{self, LineTimes, uncompacted_row_bytes};
use crate::ids::{MessageKey, SessionKey};
use crate::limits::{
    ADMISSION_SLACK_BYTES, MESSAGE_TYPES_MAX, SEQUENCE_MAX, SESSION_KEY_MAX, SESSION_TEXT_BYTES_MAX,
};
use crate::message::{Appended, Arrival, SessionMeta};
use crate::options::SizeLimits;
use crate::reader::fetch::{PageReader, SessionSource};
use crate::session::Session;
use crate::sql::db::{Db, is_damaged_page};
use crate::sql::growth::GrowthDelta;
use crate::sql::totals::Delta;
use crate::sql::{self};

/// A request, written.
pub(super) struct Wrote {
    /// The key of its session.
    pub(super) key: SessionKey,
    pub(super) appended: Appended,
    /// That the session came near the bytes that it may have, if it did by this.
    pub(super) nears_limit: Option<NearsLimit>,
}

/// A session that came near the bytes that it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NearsLimit {
    pub(super) level: Level,
    pub(super) used_bytes: u64,
    pub(super) limit_bytes: u64,
}

impl NearsLimit {
    /// Looks whether a session came to another level, by the thresholds of the database's size. One that
    /// compaction has made smaller may come there again.
    fn by(before_bytes: u64, used_bytes: u64, limit_bytes: u64) -> Option<Self> {
        // A limit of 0 is refused when it is set.
        let level = |bytes| level_of(Metric::SqliteSize, bytes, limit_bytes, Level::Ok).ok();
        let (before, now) = (level(before_bytes)?, level(used_bytes)?);
        (now > before).then_some(Self {
            level: now,
            used_bytes,
            limit_bytes,
        })
    }
}

/// Warns of sessions that came near the bytes that they may have.
pub(super) fn warn_of_sessions(group: &[AppendRequest], answers: &[Result<Wrote>]) {
    for (request, answer) in group.iter().zip(answers) {
        let Some(nears) = answer.as_ref().ok().and_then(|wrote| wrote.nears_limit) else {
            continue;
        };
        tracing::warn!(
            session = %request.session,
            level = nears.level.name(),
            used = text::bytes(nears.used_bytes),
            limit = text::bytes(nears.limit_bytes),
            "a session is near its limit: compact it, go on in another one, or raise max_session_bytes"
        );
    }
}

/// Payload bytes of a session as they count against its limit.
fn payload_bytes(session: &Session) -> u64 {
    session.segment_bytes.saturating_add(session.hot_bytes)
}

/// What a group of appends adds to the sums over all sessions.
#[derive(Default)]
struct GroupSums {
    totals: Delta,
    growth: GrowthDelta,
}

/// A request that may be written.
pub(super) struct Admitted {
    /// Its session, unless it is a new one.
    known: Option<Session>,
    /// Number of its messages that are there already.
    duplicates: usize,
    appended: Appended,
}

/// The space that a group may still use.
pub(super) struct SpaceBudget {
    /// Bytes in use, including what was admitted of the group before.
    pub(super) used_bytes: u64,
    pub(super) limits: SizeLimits,
}

/// Why an append is refused whose rows SQLite accepted and does not find again.
const WRITTEN_ROW_MISSING: &str = "a row that was just written is not found by its key, so the pages of its \
     table are in the wrong order; nothing was appended";

/// Writes a group of appends in one transaction.
pub(super) struct GroupWriter<'g> {
    db: &'g Db,
    connection: &'g Connection,
    cache: &'g mut Cache,
    now_ms: i64,
    budget: SpaceBudget,
    sums: GroupSums,
}

impl<'g> GroupWriter<'g> {
    pub(super) fn new(
        db: &'g Db,
        connection: &'g Connection,
        cache: &'g mut Cache,
        now_ms: i64,
        budget: SpaceBudget,
    ) -> Self {
        Self {
            db,
            connection,
            cache,
            now_ms,
            budget,
            sums: GroupSums::default(),
        }
    }

    /// Checks whether a request may be written. A refusal (conflict, bounds, damage) has changed nothing, so the rest
    /// of the group can go on. Messages that are recorded already need no space.
    pub(super) fn admit(&mut self, request: &AppendRequest) -> Result<Admitted> {
        let known = match self.cache.sessions.remove(&request.session) {
            Some(session) => Some(session),
            None => self.find_checked(request)?,
        };
        match self.check_admission(known.as_ref(), request) {
            Ok((duplicates, appended)) => Ok(Admitted {
                known,
                duplicates,
                appended,
            }),
            Err(error) => {
                self.cache.keep(known);
                Err(error)
            }
        }
    }

    /// How many of the request's messages are recorded already, and what its answer will be.
    fn check_admission(
        &mut self,
        known: Option<&Session>,
        request: &AppendRequest,
    ) -> Result<(usize, Appended)> {
        if request.key.is_some() && request.key != known.map(|session| session.key) {
            return Err(StoreError::not_found(&request.session));
        }
        let next = known.map_or(1, |s| s.messages + 1);
        let duplicates = self.already_there(request, known, next)?;
        let fresh = request.messages.get(duplicates..).unwrap_or_default();
        let first = request.expected_sequence.unwrap_or(next);
        let appended = Appended {
            first_sequence: first,
            last_sequence: first + request.messages.len() as u64 - 1,
            duplicates: duplicates as u64,
        };
        if next - 1 + fresh.len() as u64 > SEQUENCE_MAX {
            return Err(StoreError::SequenceExhausted {
                id: request.session.clone(),
                max: SEQUENCE_MAX,
            });
        }
        // Payload bytes only, because incoming messages are counted like this too.
        let used_bytes = known.map_or(0, payload_bytes);
        let incoming: u64 = fresh.iter().map(|m| m.payload.len() as u64).sum();
        let grows = known.is_none() || !fresh.is_empty();
        // Rows take a little more than their payloads, and indexes and counters grow with them.
        let used_with_rows = self.budget.used_bytes.saturating_add(ADMISSION_SLACK_BYTES);
        if grows
            && !limits_policy::admits(used_with_rows, incoming, self.budget.limits.db_bytes_max)
        {
            return Err(StoreError::LimitReached {
                path: self.db.path().to_owned(),
                used_bytes: self.budget.used_bytes,
                incoming_bytes: incoming,
                limit_bytes: self.budget.limits.db_bytes_max,
            });
        }
        if incoming > 0
            && !limits_policy::admits(used_bytes, incoming, self.budget.limits.session_bytes_max)
        {
            return Err(StoreError::SessionLimitReached {
                id: request.session.clone(),
                used_bytes,
                incoming_bytes: incoming,
                limit_bytes: self.budget.limits.session_bytes_max,
            });
        }
        self.budget.used_bytes += incoming;
        Ok((duplicates, appended))
    }

    /// The session's row, after checking that nothing is stored where its next messages go.
    fn find_checked(&self, request: &AppendRequest) -> Result<Option<Session>> {
        let found = sql::sessions::find(self.connection, &request.session);
        let found = self.db.context("find the session", found);
        let found = found.map_err(|error| error.in_session(&request.session))?;
        if let Some(session) = &found {
            self.refuse_rows_past_end(session, request)?;
        }
        Ok(found)
    }

    /// Refuses a session that has messages past the end in its row: a new message there would not be read back, or
    /// another one in its place.
    fn refuse_rows_past_end(&self, session: &Session, request: &AppendRequest) -> Result<()> {
        let (key, end) = (session.key, session.messages);
        let mut segment = Ok(None);
        if !request.met_damage.get() {
            segment = sql::segments::last_sequence(self.connection, key);
            // A damaged page of other sessions' segments must not stop a session that has none.
            let is_of_others = |error| session.segments == 0 && is_damaged_page(error);
            request
                .met_damage
                .set(segment.as_ref().is_err_and(is_of_others));
        }
        let segment = self.db.context("look past the end", segment)?;
        let hot = sql::messages::next_after(self.connection, key, end);
        let hot = self.db.context("look past the end", hot)?;
        if segment.is_none_or(|last| last <= end) && hot.is_none() {
            return Ok(());
        }
        Err(StoreError::rows_past_end(&session.id, end))
    }

    /// Writes an admitted request's messages and its session's row.
    pub(super) fn write(&mut self, request: &AppendRequest, admitted: Admitted) -> Result<Wrote> {
        let Admitted {
            known,
            duplicates,
            appended,
        } = admitted;
        let now_ms = self.now_ms;
        let fresh = request.messages.get(duplicates..).unwrap_or_default();
        let before_bytes = known.as_ref().map_or(0, payload_bytes);
        let mut session = match known {
            Some(session) => session,
            None => {
                self.sums.totals.sessions += 1;
                self.create(request)?
            }
        };
        fill_empty(&mut session.meta, &request.meta);
        let has_no_time = session.last_time_ms.is_none() && session.active_ms == 0;
        let head_ends_ms = match request.arrival {
            Arrival::Historical if has_no_time => {
                growth::head_ends_ms(fresh.iter().map(|message| times_of(message, now_ms)))
            }
            _ => None,
        };
        for message in fresh {
            let line = LineTimes {
                head_ends_ms,
                ..times_of(message, now_ms)
            };
            self.add_message(&mut session, message, line, request.arrival)?;
        }
        if !fresh.is_empty() {
            session.updated_ms = now_ms;
        }
        let updated = sql::sessions::update(self.connection, &session);
        if !self.db.context("update the session", updated)? {
            let id = Some(request.session.as_str());
            return Err(StoreError::damaged(id, WRITTEN_ROW_MISSING));
        }
        if let Some(mark) = &request.import {
            self.db.context(
                "note the import",
                sql::imports::write(
                    self.connection,
                    session.key,
                    &session.id,
                    mark,
                    !fresh.is_empty(),
                ),
            )?;
        }
        let key = session.key;
        let limit_bytes = self.budget.limits.session_bytes_max;
        let nears_limit = NearsLimit::by(before_bytes, payload_bytes(&session), limit_bytes);
        self.cache.keep(Some(session));
        Ok(Wrote {
            key,
            appended,
            nears_limit,
        })
    }

    /// Checks that what was written is found again. In a b-tree whose pages are in the wrong order SQLite puts rows
    /// where no look-up finds them, and reports success. Done at the end of the group, because each row may move
    /// those before it.
    pub(super) fn check_written(&self, request: &AppendRequest, wrote: &Wrote) -> Result<()> {
        let Wrote { key, appended, .. } = wrote;
        let first = appended.first_sequence + appended.duplicates;
        let count = sql::messages::count(self.connection, *key, first, appended.last_sequence);
        let found = self.db.context("find the messages again", count)?;
        if found == (appended.last_sequence + 1).saturating_sub(first) {
            return Ok(());
        }
        let id = Some(request.session.as_str());
        Err(StoreError::damaged(id, WRITTEN_ROW_MISSING))
    }

    /// Number of the request's messages that the session has already, from the expected sequence on.
    fn already_there(
        &self,
        request: &AppendRequest,
        session: Option<&Session>,
        next: u64,
    ) -> Result<usize> {
        let Some(expected) = request.expected_sequence else {
            return Ok(0);
        };
        let conflict = |sequence| StoreError::SequenceConflict {
            id: request.session.clone(),
            expected,
            next,
            sequence,
        };
        if expected > next {
            return Err(conflict(next));
        }
        let Some(session) = session else { return Ok(0) };
        let overlap = (next - expected).min(request.messages.len() as u64);
        let mut sequence = expected;
        let end = expected + overlap;
        let source = SessionSource {
            db: self.db,
            connection: self.connection,
            key: session.key,
            id: &session.id,
        };
        let mut reader = PageReader::default();
        let mut offered = request.messages.iter();
        while sequence < end {
            for message in source.page(sequence, end - 1, &mut reader)? {
                let same = offered.next().is_some_and(|m| m.payload == message.payload);
                if !same {
                    return Err(conflict(message.sequence));
                }
                sequence = message.sequence + 1;
            }
        }
        // Lossless: not more than the batch has.
        Ok(overlap as usize)
    }

    fn create(&self, request: &AppendRequest) -> Result<Session> {
        let (id, meta) = (&request.session, &request.meta);
        let key = self.db.context(
            "create the session",
            sql::sessions::insert(self.connection, id, meta, self.now_ms),
        )?;
        if key.as_i64() > SESSION_KEY_MAX {
            return Err(StoreError::InvalidArgument {
                what: Argument::Named("the number of sessions ever created"),
                why: format!("it has reached {SESSION_KEY_MAX}"),
            });
        }
        let created = self
            .db
            .context("read the session", sql::sessions::find(self.connection, id))?;
        let is_this = |session: &Session| session.key == key;
        let Some(created) = created.filter(is_this) else {
            return Err(StoreError::damaged(Some(id.as_str()), WRITTEN_ROW_MISSING));
        };
        self.refuse_rows_past_end(&created, request)?;
        Ok(created)
    }

    /// Writes a message, and counts it in its session and in the sums.
    fn add_message(
        &mut self,
        session: &mut Session,
        message: &PreparedMessage,
        line: LineTimes,
        arrival: Arrival,
    ) -> Result<()> {
        let sequence = session.messages + 1;
        let key = MessageKey::new(session.key, sequence);
        let payload = &message.payload;
        let facts = &message.facts;
        let received_ms = line.received_ms;
        self.db.context(
            "write a message",
            sql::messages::insert(self.connection, key, received_ms, message.digest, payload),
        )?;
        let type_id = self.type_id(&facts.message_type)?;

        let mut times = session.times();
        let step = times.step(line, arrival);
        session.set_times(times);

        let bytes = payload.len() as u64;
        let uncompacted = uncompacted_row_bytes(bytes);
        session.messages = sequence;
        session.raw_bytes += bytes;
        session.uncompacted_bytes += uncompacted;
        session.hot_messages += 1;
        session.hot_bytes += bytes;
        if let Some(fact) = &facts.usage {
            session.usage.add(fact);
        }
        if let Some(preview) = &facts.preview {
            session.last_preview.clone_from(preview);
        }
        if let Some(found) = &facts.session {
            fill_empty(
                &mut session.meta,
                &SessionMeta {
                    working_directory: found.working_directory.clone(),
                    model: found.model.clone(),
                    agent_session_id: found.agent_session_id.clone(),
                    ..SessionMeta::default()
                },
            );
            if let Some(title) = &found.title {
                session.usage.title.update(title, &mut session.meta.name);
            }
        }

        self.count(session.key, type_id, &step, bytes);
        Ok(())
    }

    fn type_id(&mut self, name: &str) -> Result<i64> {
        if let Some(id) = self.cache.types.get(name) {
            return Ok(*id);
        }
        let id = sql::growth::type_id(self.connection, name);
        let id = self.db.context("name a message type", id)?;
        // Types beyond the bound share one id, and must not fill the memory.
        if self.cache.types.len() < MESSAGE_TYPES_MAX {
            self.cache.types.insert(name.to_owned(), id);
        }
        Ok(id)
    }

    /// Counts a message of `payload_bytes` in the store's sums.
    fn count(
        &mut self,
        session: SessionKey,
        type_id: i64,
        step: &growth::TimeStep,
        payload_bytes: u64,
    ) {
        let bytes = sql::signed(payload_bytes);
        self.sums.totals = self.sums.totals.plus(Delta {
            messages: 1,
            raw_bytes: bytes,
            uncompacted_bytes: sql::signed(uncompacted_row_bytes(payload_bytes)),
            hot_messages: 1,
            hot_bytes: bytes,
            active_ms: step.active_ms,
            wall_ms: step.wall_ms,
            ..Delta::default()
        });
        let growth = &mut self.sums.growth;
        let count = growth
            .by_type
            .entry((session, step.hour, type_id))
            .or_default();
        count.messages += 1;
        count.raw_bytes += payload_bytes;
        for (hour, active_ms) in step.active_by_hour() {
            *growth.active.entry((session, hour)).or_default() += active_ms;
        }
    }

    /// Adds what was written to the store's sums.
    pub(super) fn add_sums(&self) -> Result<()> {
        let growth = sql::growth::add(self.connection, &self.sums.growth);
        self.db.context("count the growth", growth)?;
        let totals = sql::totals::add(self.connection, &self.sums.totals);
        self.db.context("count the totals", totals)
    }
}

/// Sets the texts of `meta` that are empty.
fn fill_empty(meta: &mut SessionMeta, found: &SessionMeta) {
    let pairs = [
        (&mut meta.name, &found.name),
        (&mut meta.model, &found.model),
        (&mut meta.working_directory, &found.working_directory),
        (&mut meta.worktree_id, &found.worktree_id),
        (&mut meta.agent_session_id, &found.agent_session_id),
    ];
    for (field, value) in pairs {
        if field.is_empty() && value.len() <= SESSION_TEXT_BYTES_MAX {
            field.clone_from(value);
        }
    }
}

fn times_of(message: &PreparedMessage, now_ms: i64) -> LineTimes {
    let received_ms = message.received_ms.unwrap_or(now_ms);
    LineTimes {
        timestamp_ms: growth::plausible_timestamp(message.facts.timestamp_ms, received_ms),
        turn_end: message.facts.turn_end,
        received_ms,
        head_ends_ms: None,
    }
}
