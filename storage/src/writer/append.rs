//! Appending a batch inside a transaction: sequences, retries, rows, counters.

use rusqlite::Connection;

use super::context::Cache;
use super::request::{AppendRequest, PreparedMessage};
use crate::capacity::limits_policy;
use crate::error::{Result, StoreError};
use crate::growth::{self, LineTimes, uncompacted_row_bytes};
use crate::ids::{MessageKey, SessionKey};
use crate::limits::{
    ADMISSION_SLACK_BYTES, MESSAGE_TYPES_MAX, SEQUENCE_MAX, SESSION_KEY_MAX, SESSION_TEXT_BYTES_MAX,
};
use crate::message::{Appended, Arrival, SessionMeta};
use crate::reader::fetch;
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
}

/// What a group of appends adds to the store-wide sums.
#[derive(Default)]
pub(super) struct GroupSums {
    pub(super) totals: Delta,
    pub(super) growth: GrowthDelta,
}

/// A request that may be written.
pub(super) struct Admitted {
    /// Its session, unless it is a new one.
    known: Option<Session>,
    /// Number of its messages that are there already.
    duplicates: usize,
    appended: Appended,
}

/// What a group may still take.
pub(super) struct Room {
    /// What the database takes, with what was admitted of the group before.
    pub(super) used_bytes: u64,
    pub(super) db_bytes_max: u64,
    pub(super) session_bytes_max: u64,
}

/// Looks whether a request may be written. What refuses it (conflict, bounds, damage) has changed
/// nothing, so that it does not touch the rest of the group. Messages that are there already need no
/// room.
pub(super) fn admit(
    db: &Db,
    connection: &Connection,
    cache: &mut Cache,
    request: &AppendRequest,
    room: &mut Room,
) -> Result<Admitted> {
    let known = match cache.sessions.remove(&request.session) {
        Some(session) => Some(session),
        None => find_with_free_end(db, connection, request)?,
    };
    match look(db, connection, known.as_ref(), request, room) {
        Ok((duplicates, appended)) => Ok(Admitted {
            known,
            duplicates,
            appended,
        }),
        Err(error) => {
            cache.keep(known);
            Err(error)
        }
    }
}

/// How many of the request's messages are there already, and what its answer will be.
fn look(
    db: &Db,
    connection: &Connection,
    known: Option<&Session>,
    request: &AppendRequest,
    room: &mut Room,
) -> Result<(usize, Appended)> {
    if request.key.is_some() && request.key != known.map(|session| session.key) {
        let id = request.session.to_string();
        return Err(StoreError::SessionNotFound { id });
    }
    let next = known.map_or(1, |s| s.messages + 1);
    let duplicates = already_there(db, connection, request, known, next)?;
    let fresh = request.messages.get(duplicates..).unwrap_or_default();
    let first = request.expected_sequence.unwrap_or(next);
    let appended = Appended {
        first_sequence: first,
        last_sequence: first + request.messages.len() as u64 - 1,
        duplicates: duplicates as u64,
    };
    if next - 1 + fresh.len() as u64 > SEQUENCE_MAX {
        let id = request.session.to_string();
        return Err(StoreError::SequenceExhausted {
            id,
            max: SEQUENCE_MAX,
        });
    }
    // Payloads, as what comes in is counted: not what rows take beside them.
    let payloads = |session: &Session| session.segment_bytes.saturating_add(session.hot_bytes);
    let used_bytes = known.map_or(0, payloads);
    let incoming: u64 = fresh.iter().map(|m| m.payload.len() as u64).sum();
    let grows = known.is_none() || !fresh.is_empty();
    // Rows take a little more than their payloads, and the pages of indexes and counters grow with them.
    let used_with_rows = room.used_bytes.saturating_add(ADMISSION_SLACK_BYTES);
    if grows && !limits_policy::admits(used_with_rows, incoming, room.db_bytes_max) {
        return Err(StoreError::LimitReached {
            path: db.path().to_owned(),
            used_bytes: room.used_bytes,
            incoming_bytes: incoming,
            limit_bytes: room.db_bytes_max,
        });
    }
    if incoming > 0 && !limits_policy::admits(used_bytes, incoming, room.session_bytes_max) {
        return Err(StoreError::SessionLimitReached {
            id: request.session.to_string(),
            used_bytes,
            limit_bytes: room.session_bytes_max,
        });
    }
    room.used_bytes += incoming;
    Ok((duplicates, appended))
}

/// The session as its row has it, if nothing stands where its next messages go.
fn find_with_free_end(
    db: &Db,
    connection: &Connection,
    request: &AppendRequest,
) -> Result<Option<Session>> {
    let found = sql::sessions::find(connection, &request.session);
    let found = db.named("find the session", found);
    let found = found.map_err(|error| error.in_session(&request.session))?;
    if let Some(session) = &found {
        check_end(db, connection, session, request)?;
    }
    Ok(found)
}

/// Refuses a session behind whose end something stands: a message that went there would not be read
/// again, or another one for it.
fn check_end(
    db: &Db,
    connection: &Connection,
    session: &Session,
    request: &AppendRequest,
) -> Result<()> {
    let (key, end) = (session.key, session.messages);
    let mut segment = Ok(None);
    if !request.met_damage.get() {
        segment = sql::segments::last_sequence(connection, key);
        // Segments of others keep nobody from appending who has none.
        let is_of_others = |error| session.segments == 0 && is_damaged_page(error);
        request
            .met_damage
            .set(segment.as_ref().is_err_and(is_of_others));
    }
    let segment = db.named("look behind the end", segment)?;
    let hot = sql::messages::next_after(connection, key, end);
    let hot = db.named("look behind the end", hot)?;
    if segment.is_none_or(|last| last <= end) && hot.is_none() {
        return Ok(());
    }
    Err(StoreError::more_behind(&session.id, end))
}

/// Writes an admitted request's messages and its session's row.
pub(super) fn write(
    db: &Db,
    connection: &Connection,
    cache: &mut Cache,
    request: &AppendRequest,
    admitted: Admitted,
    now_ms: i64,
    sums: &mut GroupSums,
) -> Result<Wrote> {
    let Admitted {
        known,
        duplicates,
        appended,
    } = admitted;
    let fresh = request.messages.get(duplicates..).unwrap_or_default();
    let mut session = match known {
        Some(session) => session,
        None => {
            sums.totals.sessions += 1;
            create(db, connection, request, now_ms)?
        }
    };
    fill_empty(&mut session.meta, &request.meta);
    let told_nothing = session.last_time_ms.is_none() && session.active_ms == 0;
    let head_ends_ms = match request.arrival {
        Arrival::Historical if told_nothing => {
            growth::head_ends_ms(fresh.iter().map(|message| times_of(message, now_ms)))
        }
        _ => None,
    };
    for message in fresh {
        let line = LineTimes {
            head_ends_ms,
            ..times_of(message, now_ms)
        };
        add_message(
            db,
            connection,
            cache,
            &mut session,
            message,
            line,
            request.arrival,
            sums,
        )?;
    }
    if !fresh.is_empty() {
        session.updated_ms = now_ms;
    }
    let updated = sql::sessions::update(connection, &session);
    if !db.named("update the session", updated)? {
        let id = Some(request.session.as_str());
        return Err(StoreError::damaged(id, NOT_FOUND_AGAIN));
    }
    if let Some(mark) = &request.import {
        db.named(
            "note the import",
            sql::imports::write(
                connection,
                session.key,
                &session.id,
                mark,
                !fresh.is_empty(),
            ),
        )?;
    }
    let key = session.key;
    cache.keep(Some(session));
    Ok(Wrote { key, appended })
}

/// Why an append is refused whose rows SQLite took and does not find.
const NOT_FOUND_AGAIN: &str = "what was just written is not found where it is looked for, so the pages \
     of its table are in disorder; nothing was appended";

/// Sees to it that what was written is found again. In a tree whose pages are in disorder SQLite puts
/// rows where no look-up leads, and reports success. Asked for at the end of the group, since each
/// row may move those before it.
pub(super) fn find_again(
    db: &Db,
    connection: &Connection,
    request: &AppendRequest,
    wrote: &Wrote,
) -> Result<()> {
    let Wrote { key, appended } = wrote;
    let first = appended.first_sequence + appended.duplicates;
    let count = sql::messages::count(connection, *key, first, appended.last_sequence);
    let found = db.named("find the messages again", count)?;
    if found == (appended.last_sequence + 1).saturating_sub(first) {
        return Ok(());
    }
    let id = Some(request.session.as_str());
    Err(StoreError::damaged(id, NOT_FOUND_AGAIN))
}

/// Number of the request's messages that the session has already, from its expected sequence on.
fn already_there(
    db: &Db,
    connection: &Connection,
    request: &AppendRequest,
    session: Option<&Session>,
    next: u64,
) -> Result<usize> {
    let Some(expected) = request.expected_sequence else {
        return Ok(0);
    };
    let conflict = |sequence| StoreError::SequenceConflict {
        id: request.session.to_string(),
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
    let mut cursor = fetch::Cursor::default();
    let mut offered = request.messages.iter();
    while sequence < end {
        let page = fetch::page(
            db,
            connection,
            session.key,
            &session.id,
            sequence,
            end - 1,
            &mut cursor,
        )?;
        for message in page {
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

fn create(
    db: &Db,
    connection: &Connection,
    request: &AppendRequest,
    now_ms: i64,
) -> Result<Session> {
    let (id, meta) = (&request.session, &request.meta);
    let key = db.named(
        "create the session",
        sql::sessions::insert(connection, id, meta, now_ms),
    )?;
    if key.as_i64() > SESSION_KEY_MAX {
        return Err(StoreError::InvalidArgument {
            what: "the number of sessions ever created",
            why: format!("it has reached {SESSION_KEY_MAX}"),
        });
    }
    let created = db.named("read the session", sql::sessions::find(connection, id))?;
    let is_this = |session: &Session| session.key == key;
    let Some(created) = created.filter(is_this) else {
        return Err(StoreError::damaged(Some(id.as_str()), NOT_FOUND_AGAIN));
    };
    check_end(db, connection, &created, request)?;
    Ok(created)
}

fn fill_empty(kept: &mut SessionMeta, told: &SessionMeta) {
    let pairs = [
        (&mut kept.name, &told.name),
        (&mut kept.model, &told.model),
        (&mut kept.working_directory, &told.working_directory),
        (&mut kept.worktree_id, &told.worktree_id),
        (&mut kept.agent_session_id, &told.agent_session_id),
    ];
    for (kept, told) in pairs {
        if kept.is_empty() && told.len() <= SESSION_TEXT_BYTES_MAX {
            kept.clone_from(told);
        }
    }
}

fn times_of(message: &PreparedMessage, now_ms: i64) -> LineTimes {
    let received_ms = message.received_ms.unwrap_or(now_ms);
    LineTimes {
        said_ms: growth::believed(message.facts.said_ms, received_ms),
        turn_end: message.facts.turn_end,
        received_ms,
        head_ends_ms: None,
    }
}

#[allow(clippy::too_many_arguments)]
fn add_message(
    db: &Db,
    connection: &Connection,
    cache: &mut Cache,
    session: &mut Session,
    message: &PreparedMessage,
    line: LineTimes,
    arrival: Arrival,
    sums: &mut GroupSums,
) -> Result<()> {
    let sequence = session.messages + 1;
    let key = MessageKey::new(session.key, sequence);
    let payload = &message.payload;
    let facts = &message.facts;
    let received_ms = line.received_ms;
    db.named(
        "write a message",
        sql::messages::insert(connection, key, received_ms, message.digest, payload),
    )?;
    let type_id = match cache.types.get(&facts.message_type) {
        Some(id) => *id,
        None => {
            let id = db.named(
                "name a message type",
                sql::growth::type_id(connection, &facts.message_type),
            )?;
            // A name that is new each time counts among the others, and must not fill the memory.
            if cache.types.len() < MESSAGE_TYPES_MAX {
                cache.types.insert(facts.message_type.clone(), id);
            }
            id
        }
    };

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
    if let Some(told) = &facts.session {
        fill_empty(
            &mut session.meta,
            &SessionMeta {
                working_directory: told.working_directory.clone(),
                model: told.model.clone(),
                agent_session_id: told.agent_session_id.clone(),
                ..SessionMeta::default()
            },
        );
        if let Some(title) = &told.title {
            session.usage.title.follow(title, &mut session.meta.name);
        }
    }

    let (bytes, uncompacted) = (sql::signed(bytes), sql::signed(uncompacted));
    sums.totals = sums.totals.plus(Delta {
        messages: 1,
        raw_bytes: bytes,
        uncompacted_bytes: uncompacted,
        hot_messages: 1,
        hot_bytes: bytes,
        active_ms: step.active_ms,
        wall_ms: step.wall_ms,
        ..Delta::default()
    });
    let count = sums
        .growth
        .by_type
        .entry((session.key, step.hour, type_id))
        .or_default();
    count.0 += 1;
    count.1 += payload.len() as u64;
    for (hour, active_ms) in step.active_by_hour() {
        *sums.growth.active.entry((session.key, hour)).or_default() += active_ms;
    }
    Ok(())
}
