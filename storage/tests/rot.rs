//! Rows that say what no statement of ours writes: bit rot, other tools, hostile files. Nothing is
//! deleted, hidden or taken for another's because of them, and nothing goes on without end.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::ops::ControlFlow;
use std::path::PathBuf;

use betcode_storage::{
    Batch, CompactionOutcome, CompactionRequest, ErrorKind, Message, Problem, ProblemKind,
    ReadRange, Result, SessionFilter, SessionId, SessionMeta, Store, StoreOptions, Tier,
    VerifyReport,
};
use bytes::Bytes;

/// A store in a folder of its own, which is damaged while it is closed.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("history.db")
    }

    fn open(&self) -> Store {
        let options = StoreOptions {
            reserve_bytes: 0,
            ..StoreOptions::default()
        };
        Store::open(&self.path(), options).unwrap()
    }

    /// Runs statements on the closed file, without the types that its tables ask for.
    fn damage(&self, sql: &str) {
        let connection = rusqlite::Connection::open(self.path()).unwrap();
        connection
            .execute_batch(
                "PRAGMA writable_schema = ON;
                 UPDATE sqlite_schema SET sql = replace(replace(
                    replace(sql, ') STRICT, ', ') '), ') STRICT', ')'), 'NOT NULL', '')
                 WHERE type = 'table';
                 PRAGMA writable_schema = RESET;",
            )
            .unwrap();
        connection.execute_batch(sql).unwrap();
        assert!(connection.changes() > 0, "{sql}");
    }
}

fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

fn lines(count: usize, seed: usize) -> Vec<Bytes> {
    let line = |n| {
        let text = "what they have in common ".repeat(n % 23);
        format!(r#"{{"type":"user","n":{n},"of":{seed},"text":"{text}"}}"#)
    };
    (0..count).map(line).map(Bytes::from).collect()
}

fn record(store: &Store, session: &str, lines: &[Bytes]) {
    let meta = SessionMeta {
        working_directory: "/project".into(),
        ..SessionMeta::default()
    };
    store
        .append(Batch {
            meta,
            ..Batch::new(id(session), lines.to_vec())
        })
        .unwrap();
}

fn read(store: &Store, session: &str) -> Vec<Result<Message>> {
    // More than that is no reading, but going round in circles.
    let read = store.read(&id(session), ReadRange::all()).unwrap();
    let items: Vec<_> = read.take(20_000).collect();
    assert!(items.len() < 20_000);
    items
}

fn contents(store: &Store, session: &str) -> Vec<Bytes> {
    read(store, session)
        .into_iter()
        .map(|message| message.unwrap().payload)
        .collect()
}

fn try_compact(store: &Store, tier: Tier) -> Result<CompactionOutcome> {
    let request = CompactionRequest {
        tier,
        ..CompactionRequest::manual()
    };
    store.compact(&request, &mut |_| ControlFlow::Continue(()))
}

fn compact(store: &Store, tier: Tier) -> CompactionOutcome {
    try_compact(store, tier).unwrap()
}

fn verify(store: &Store) -> VerifyReport {
    store.verify(&mut |_| ControlFlow::Continue(())).unwrap()
}

/// Two sessions of one project, in segments that need its base.
fn with_base() -> Place {
    let place = Place::new();
    let store = place.open();
    record(&store, "a", &lines(2000, 1));
    record(&store, "b", &lines(2000, 2));
    compact(&store, Tier::Deep);
    assert_eq!(store.totals().unwrap().bases, 1);
    store.close().unwrap();
    place
}

#[test]
fn a_base_under_another_number_is_not_compacted_with_and_not_deleted() {
    let place = with_base();
    place.damage("UPDATE bases SET base_id = base_id - 1");
    let store = place.open();
    record(&store, "new", &lines(2000, 3));
    compact(&store, Tier::Deep);
    assert_eq!(contents(&store, "new"), lines(2000, 3));
    store.close().unwrap();
    // Nothing of what its old segments need was deleted.
    place.damage(
        "UPDATE bases SET base_id = base_id + 1 WHERE base_id + 1 IN
        (SELECT base_id FROM segments)",
    );
    let store = place.open();
    assert_eq!(contents(&store, "a"), lines(2000, 1));
    assert_eq!(contents(&store, "b"), lines(2000, 2));
}

#[test]
fn a_base_that_segments_need_stays_whatever_their_rows_and_the_index_say_of_it() {
    for damage in [
        "UPDATE segments SET base_id = NULL",
        "UPDATE segments SET base_id = 5",
        // The index goes without its rows: it says that nobody needs any base.
        "PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = replace(sql, 'IS NOT NULL', 'IS NULL')
            WHERE name = 'segments_based';
         PRAGMA writable_schema = RESET;
         REINDEX segments_based;
         PRAGMA writable_schema = ON;
         UPDATE sqlite_schema SET sql = replace(sql, 'IS NULL', 'IS NOT NULL')
            WHERE name = 'segments_based';
         PRAGMA writable_schema = RESET;",
    ] {
        let place = with_base();
        place.damage(damage);
        let store = place.open();
        record(&store, "other", &lines(10, 3));
        store.delete(&id("other")).unwrap();
        let _ = try_compact(&store, Tier::Deep);
        assert_eq!(store.totals().unwrap().bases, 1, "{damage}");
        let connection = rusqlite::Connection::open(place.path()).unwrap();
        let count = "SELECT count(*) FROM bases";
        let bases: i64 = connection.query_row(count, [], |row| row.get(0)).unwrap();
        assert_eq!(bases, 1, "{damage}");
    }
}

#[test]
fn a_session_that_is_there_is_not_deleted_because_it_is_listed_as_deleted() {
    for listed in [1, 1 + (1_i64 << 32)] {
        let place = Place::new();
        let store = place.open();
        record(&store, "s", &lines(100, 1));
        store.close().unwrap();
        place.damage(&format!("INSERT INTO deletions VALUES ({listed}, 0)"));
        let store = place.open();
        assert_eq!(contents(&store, "s"), lines(100, 1), "{listed}");
        assert!(!verify(&store).ok(), "{listed}");
        record(&store, "gone", &lines(100, 2));
        assert!(store.delete(&id("gone")).unwrap(), "{listed}");
        compact(&store, Tier::Deep);
        assert_eq!(contents(&store, "s"), lines(100, 1), "{listed}");
    }
}

#[test]
fn a_session_whose_key_is_another_ones_plus_2_to_the_32_is_damage_and_takes_nothing_of_it() {
    let place = Place::new();
    let store = place.open();
    record(&store, "s", &lines(100, 1));
    record(&store, "t", &lines(100, 2));
    store.close().unwrap();
    place.damage("UPDATE sessions SET session_key = 1 + (1 << 32) WHERE session_id = 't'");
    let store = place.open();
    let refused = store.read(&id("t"), ReadRange::all()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
    let refused = store.delete(&id("t")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
    assert_eq!(contents(&store, "s"), lines(100, 1));
    assert!(!verify(&store).ok());
}

#[test]
fn an_append_does_not_go_where_messages_stand_already() {
    // In a segment, before hot rows, and behind the end that the row tells.
    for compacted in [true, false] {
        for end in [50, 99] {
            let place = Place::new();
            let store = place.open();
            record(&store, "s", &lines(100, 1));
            if compacted {
                compact(&store, Tier::Deep);
            }
            store.close().unwrap();
            place.damage(&format!("UPDATE sessions SET last_sequence = {end}"));
            let store = place.open();
            let refused = store.append(Batch::new(id("s"), lines(1, 9))).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
            record(&store, "other", &lines(3, 2));
            assert_eq!(contents(&store, "other"), lines(3, 2));
        }
    }
}

#[test]
fn a_new_session_does_not_get_a_key_under_which_messages_stand() {
    let place = Place::new();
    let store = place.open();
    record(&store, "s", &lines(100, 1));
    compact(&store, Tier::Deep);
    store.close().unwrap();
    place.damage("DELETE FROM sessions; DELETE FROM sqlite_sequence");
    let store = place.open();
    let refused = store.append(Batch::new(id("t"), lines(1, 9))).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
}

#[test]
fn a_row_that_says_more_messages_than_there_are_ends_every_reading_of_them() {
    for last_sequence in ["4294967295", "4294967296", "9223372036854775807"] {
        let place = Place::new();
        let store = place.open();
        record(&store, "s", &lines(100, 1));
        compact(&store, Tier::Deep);
        record(&store, "s", &lines(50, 2));
        store.close().unwrap();
        place.damage(&format!(
            "UPDATE sessions SET last_sequence = {last_sequence}"
        ));
        let store = place.open();
        let report = verify(&store);
        assert!(!report.ok() && report.problems.len() < 20, "{report:?}");
        match store.read(&id("s"), ReadRange::all()) {
            Ok(_) => {
                let read = read(&store, "s");
                assert_eq!(read.iter().filter(|item| item.is_ok()).count(), 150);
                assert!(read.last().unwrap().is_err());
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Damaged, "{error}"),
        }
        let refused = store.append(Batch::new(id("s"), lines(1, 1)));
        assert!(refused.is_err());
    }
}

#[test]
fn a_segment_row_that_lies_is_damage_in_its_place_and_the_reading_goes_on_behind_it() {
    for lie in [
        "tier = 7",
        "last_sequence = -1",
        "last_sequence = 0",
        "last_sequence = 9223372036854775807",
        "raw_bytes = -1",
        "raw_bytes = 9223372036854775807",
        "segment_key = segment_key & ~4294967295",
        "base_id = 'text'",
        "encoded = 5",
        "encoded = x''",
        "created_ms = NULL",
    ] {
        let place = Place::new();
        let store = place.open();
        record(&store, "s", &lines(100, 1));
        compact(&store, Tier::Deep);
        record(&store, "s", &lines(50, 2));
        record(&store, "other", &lines(50, 3));
        store.close().unwrap();
        place.damage(&format!("UPDATE segments SET {lie}"));
        let store = place.open();
        let read = read(&store, "s");
        let good: Vec<_> = read.iter().flatten().map(|m| &m.payload).collect();
        assert!(
            good.ends_with(&lines(50, 2).iter().collect::<Vec<_>>()),
            "{lie}"
        );
        assert!(
            good.len() == 50 || good.len() == 150,
            "{lie}: {}",
            good.len()
        );
        assert!(!verify(&store).ok(), "{lie}");
        // The others are compacted all the same.
        let outcome = compact(&store, Tier::Deep);
        assert_eq!(store.segments(&id("other")).unwrap().len(), 1, "{lie}");
        assert_eq!(outcome.failures.len(), 1, "{lie}: {:?}", outcome.failures);
        let again: Vec<_> = self::read(&store, "s")
            .into_iter()
            .flatten()
            .map(|m| m.payload)
            .collect();
        assert!(again.iter().eq(good), "{lie}");
    }
}

#[test]
fn an_odd_segment_row_hides_no_damage_in_another_segment_from_the_check() {
    let place = Place::new();
    let store = place.open();
    record(&store, "s", &lines(100, 1));
    compact(&store, Tier::Quick);
    record(&store, "s", &lines(100, 2));
    compact(&store, Tier::Quick);
    assert_eq!(store.segments(&id("s")).unwrap().len(), 2);
    store.close().unwrap();
    place.damage(
        "UPDATE segments SET tier = 7 WHERE segment_key & 4294967295 = 1;
         UPDATE segments SET encoded = CAST(substr(encoded, 1, length(encoded) - 1) || x'5a' AS BLOB)
         WHERE segment_key & 4294967295 = 101",
    );
    let store = place.open();
    let report = verify(&store);
    let flipped = |p: &Problem| (p.kind, p.sequence) == (ProblemKind::Segment, Some(101));
    assert!(report.problems.iter().any(flipped), "{report:?}");
    assert_eq!(report.segments, 0);
}

#[test]
fn a_count_of_a_session_that_its_messages_do_not_add_up_to_is_named() {
    for (lie, named) in [
        (
            "sessions SET uncompacted_bytes = uncompacted_bytes + 1",
            "uncompacted bytes",
        ),
        ("growth SET messages = messages + 1", "messages"),
        ("growth SET raw_bytes = raw_bytes - 1", "raw bytes"),
        ("activity SET active_ms = active_ms + 1", "active time"),
    ] {
        let place = Place::new();
        let store = place.open();
        let line = |second| format!(r#"{{"type":"x","timestamp":"2026-01-01T00:00:{second}Z"}}"#);
        let said: Vec<_> = (10..40).map(line).map(Bytes::from).collect();
        record(&store, "s", &said);
        record(&store, "t", &said);
        compact(&store, Tier::Deep);
        assert_eq!(verify(&store).problems, []);
        store.close().unwrap();
        place.damage(&format!("UPDATE {lie} WHERE session_key = 1"));
        let store = place.open();
        let report = verify(&store);
        let is_named = |p: &Problem| {
            p.kind == ProblemKind::Counter
                && p.session.as_deref() == Some("s")
                && p.what.contains(named)
        };
        assert!(report.problems.iter().any(is_named), "{lie}: {report:?}");
        assert_eq!(report.sessions, 1, "{lie}");
    }
}

#[test]
fn one_odd_row_hides_no_other_session() {
    for (table, lie) in [
        ("sessions", "raw_bytes = -1"),
        ("sessions", "updated_ms = 'yesterday'"),
        ("sessions", "session_id = ''"),
        ("sessions", "last_sequence = -1"),
        ("sessions", "last_sequence = 9223372036854775807"),
        ("sessions", "hot_bytes = 9223372036854775807"),
        ("sessions", "active_ms = 9223372036854775807"),
        ("sessions", "name = CAST(x'ff' AS TEXT)"),
        ("sessions", "working_directory = x'05'"),
    ] {
        let place = Place::new();
        let store = place.open();
        for (session, seed) in [("s", 1), ("t", 2), ("u", 3)] {
            record(&store, session, &lines(50, seed));
        }
        store.close().unwrap();
        place.damage(&format!("UPDATE {table} SET {lie} WHERE session_key = 2"));
        let store = place.open();
        let list = store.sessions(&SessionFilter::default()).unwrap();
        let mut ids: Vec<_> = list.sessions.iter().map(|s| s.id.as_str()).collect();
        ids.sort_unstable();
        assert_eq!(ids, ["s", "u"], "{lie}");
        assert_eq!((list.total, list.damaged.len()), (3, 1), "{lie}");
        for offset in 0..4 {
            let filter = SessionFilter {
                limit: Some(1),
                offset,
                ..SessionFilter::default()
            };
            assert_eq!(store.sessions(&filter).unwrap().total, 3, "{lie}");
        }
        let report = verify(&store);
        assert_eq!(report.sessions, 2, "{lie}");
        assert!(report.messages >= 100, "{lie}");
        assert!(!report.ok(), "{lie}");
        if let Err(refused) = store.capacity_report() {
            assert_eq!(refused.kind(), ErrorKind::Damaged, "{lie}: {refused}");
        }
        compact(&store, Tier::Deep);
        for (session, seed) in [("s", 1), ("u", 3)] {
            assert_eq!(store.segments(&id(session)).unwrap().len(), 1, "{lie}");
            assert_eq!(contents(&store, session), lines(50, seed), "{lie}");
        }
    }
}

#[test]
fn totals_that_cannot_be_added_to_are_damage_that_a_check_names() {
    for lie in [
        "store SET messages = 9223372036854775807",
        "store SET segment_bytes = NULL",
        "store SET raw_bytes = 'many'",
        "sessions SET raw_bytes = 9223372036854775807",
        "growth SET messages = 9223372036854775807",
        "message_types SET raw_bytes = 9223372036854775807",
        "growth_hours SET messages = 9223372036854775807",
    ] {
        let place = Place::new();
        let store = place.open();
        record(&store, "s", &lines(50, 1));
        record(&store, "t", &lines(50, 2));
        store.close().unwrap();
        place.damage(&format!("UPDATE {lie}"));
        let store = place.open();
        assert!(!verify(&store).ok(), "{lie}");
        for result in [
            store.append(Batch::new(id("s"), lines(5, 1))).map(drop),
            try_compact(&store, Tier::Deep).map(drop),
            store.capacity_report().map(drop),
        ] {
            if let Err(error) = result {
                assert_eq!(error.kind(), ErrorKind::Damaged, "{lie}: {error:?}");
            }
        }
        assert_eq!(read(&store, "t").iter().flatten().count(), 50, "{lie}");
    }
}

#[test]
fn a_session_whose_row_has_an_odd_number_can_be_deleted() {
    for odd in [
        "raw_bytes = -5",
        "hot_bytes = 'x'",
        "last_sequence = -1",
        "name = x'ff'",
        "last_time_ms = -9223372036854775808",
    ] {
        let place = Place::new();
        let store = place.open();
        record(&store, "s", &lines(50, 1));
        record(&store, "other", &lines(50, 2));
        store.close().unwrap();
        place.damage(&format!("UPDATE sessions SET {odd} WHERE session_id = 's'"));
        let store = place.open();
        assert!(store.delete(&"s".parse().unwrap()).unwrap(), "{odd}");
        assert!(!store.delete(&"s".parse().unwrap()).unwrap(), "{odd}");
        let totals = store.totals().unwrap();
        assert_eq!(totals.sessions, 1, "{odd}");
        record(&store, "s", &lines(5, 3));
        assert_eq!(read(&store, "s").len(), 5);
    }
}

#[test]
fn wrong_sums_do_not_keep_a_backup_from_being_made() {
    let place = Place::new();
    let store = place.open();
    record(&store, "s", &lines(50, 1));
    store.close().unwrap();
    place.damage("UPDATE store SET wall_ms = wall_ms + 1");
    let store = place.open();
    let go_on = &mut |_: &_| std::ops::ControlFlow::Continue(());
    let reported = store.verify(go_on).unwrap().problems;
    assert!(
        !reported.is_empty() && reported.iter().all(|p| p.kind == ProblemKind::Counter),
        "{reported:?}"
    );
    let copy = tempfile::tempdir().unwrap();
    let copied = store.backup(&copy.path().join("copy.db"), go_on).unwrap();
    assert_eq!(copied.messages, 50);
}

#[test]
fn messages_behind_the_end_that_a_row_tells_are_told_of_and_salvaged() {
    for compacted in [false, true] {
        let place = Place::new();
        let store = place.open();
        record(&store, "a", &lines(20, 1));
        if compacted {
            compact(&store, Tier::Quick);
        }
        store.close().unwrap();
        place.damage("UPDATE sessions SET last_sequence = 18");
        let store = place.open();
        let read = |range| -> Vec<Result<Message>> {
            let read = store.read(&id("a"), range).unwrap();
            read.take(100).collect()
        };
        let mut all = read(ReadRange::all());
        let last = all.pop().unwrap().unwrap_err();
        assert_eq!(last.kind(), ErrorKind::Damaged, "{last}");
        let all: Vec<_> = all.into_iter().map(|m| m.unwrap().payload).collect();
        assert_eq!(all, lines(20, 1)[..18]);
        // Who asks for a part gets that.
        let part = ReadRange {
            to: Some(17),
            ..ReadRange::all()
        };
        assert!(read(part).iter().all(Result::is_ok));
        let salvaged = store.salvage(&id("a"), ReadRange::all()).unwrap();
        let salvaged: Vec<_> = salvaged.flatten().map(|m| m.payload).collect();
        assert_eq!(salvaged, lines(20, 1), "compacted: {compacted}");
    }
}

#[test]
fn a_session_whose_last_time_is_absurd_is_appended_to_like_any_other() {
    let place = Place::new();
    let store = place.open();
    record(&store, "s", &lines(5, 1));
    store.close().unwrap();
    place.damage("UPDATE sessions SET last_time_ms = -9223372036854775808");
    let store = place.open();
    record(&store, "s", &lines(5, 2));
    assert_eq!(contents(&store, "s"), [lines(5, 1), lines(5, 2)].concat());
}
