//! Active time of imported streams, whose lines tell no times but how long each turn took.

#![allow(
    clippy::unwrap_used,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use betcode_storage::{
    Arrival, Batch, HourGrowth, ManualClock, Session, SessionId, Store, StoreOptions, Totals,
};
use bytes::Bytes;

const NOON_MS: i64 = 1_771_070_400_000;
const HOUR_MS: i64 = 3_600_000;

/// Two turns without times, one with a few of which the second is 2 ms after the first, and the
/// beginning of a fourth.
const STREAM: [&str; 12] = [
    r#"{"type":"system","subtype":"init","session_id":"a"}"#,
    r#"{"type":"assistant","message":{"id":"m1","usage":{"output_tokens":5}}}"#,
    r#"{"type":"result","duration_ms":3000000,"usage":{"output_tokens":7}}"#,
    r#"{"type":"assistant","message":{"id":"m2"}}"#,
    r#"{"type":"result","duration_ms":60000}"#,
    r#"{"type":"assistant","message":{"id":"m3"}}"#,
    r#"{"type":"user","timestamp":"2026-02-13T09:00:00.000Z"}"#,
    r#"{"type":"user","timestamp":"2026-02-13T09:00:00.002Z"}"#,
    "not json",
    r#"{"type":"result","duration_ms":7200000}"#,
    r#"{"type":"user","timestamp":"2026-02-13T11:00:30.000Z"}"#,
    r#"{"type":"user","timestamp":"2026-02-13T11:01:00.000Z"}"#,
];

fn open(folder: &Path) -> (Store, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::at(NOON_MS));
    let options = StoreOptions {
        clock: clock.clone(),
        reserve_bytes: 0,
        ..StoreOptions::default()
    };
    let store = Store::open(&folder.join("history.db"), options).unwrap();
    (store, clock)
}

fn id() -> SessionId {
    "s".parse().unwrap()
}

fn import(store: &Store, first_sequence: u64, lines: &[&str]) {
    let payloads = lines.iter().map(|line| Bytes::from(line.to_string()));
    let mut batch = Batch::new(id(), payloads.collect());
    batch.arrival = Arrival::Historical;
    batch.expected_sequence = Some(first_sequence);
    store.append(batch).unwrap();
}

/// All that growth keeps: the session's row, totals without what names the store, and the hours.
fn figures(store: &Store) -> (Session, Totals, Vec<HourGrowth>) {
    let totals = Totals {
        store_id: String::new(),
        created_ms: 0,
        ..store.totals().unwrap()
    };
    let hours = store.growth_by_hour(i64::MIN).unwrap();
    (store.session(&id()).unwrap(), totals, hours)
}

fn assert_sound(store: &Store) {
    let report = store.verify(&mut |_| ControlFlow::Continue(())).unwrap();
    assert!(report.ok(), "{:?}", report.problems);
}

#[test]
fn a_stream_of_an_hour_counts_as_the_hour_of_its_results() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    import(&store, 1, &STREAM[..5]);
    let (session, totals, hours) = figures(&store);
    assert_eq!(session.active_ms, 3_060_000);
    assert_eq!((totals.active_ms, totals.wall_ms), (3_060_000, 3_060_000));
    assert_eq!((session.first_time_ms, session.last_time_ms), (None, None));
    assert_eq!(hours.iter().map(|h| h.active_ms).sum::<i64>(), 3_060_000);
    assert!(hours.iter().all(|h| h.active_ms <= HOUR_MS), "{hours:?}");
    let report = store.capacity_report().unwrap();
    assert!((report.growth.active_hours - 0.85).abs() < 1e-9);
    assert_eq!(report.untimed.sessions, 0);
    assert_sound(&store);
}

#[test]
fn a_stream_imported_in_two_parts_counts_as_one_imported_at_once_wherever_it_is_cut() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, _) = open(folder.path());
    import(&whole, 1, &STREAM);
    let expected = figures(&whole);
    // Gaps of 30 s count besides the turns: before the fourth, and in it.
    let turns = 3_000_000 + 60_000 + 7_200_000;
    assert_eq!(expected.0.active_ms, turns + 30_000 + 30_000);
    assert_sound(&whole);
    for cut in 1..STREAM.len() {
        let folder = tempfile::tempdir().unwrap();
        import(&open(folder.path()).0, 1, &STREAM[..cut]);
        // Opened anew: nothing but the file knows of the turn that goes on.
        let (store, _) = open(folder.path());
        import(&store, cut as u64 + 1, &STREAM[cut..]);
        assert_eq!(figures(&store), expected, "cut before line {cut}");
        assert_sound(&store);
    }
}

/// What many transcripts begin with, and the first lines that tell a time.
const TRANSCRIPT: [&str; 5] = [
    r#"{"type":"summary","summary":"one"}"#,
    r#"{"type":"summary","summary":"two"}"#,
    r#"{"type":"user","timestamp":"2025-07-24T09:59:00Z"}"#,
    r#"{"type":"assistant","timestamp":"2025-07-24T10:00:00Z"}"#,
    r#"{"type":"summary","summary":"three"}"#,
];

#[test]
fn the_head_of_an_old_transcript_is_no_growth_of_the_day_of_its_import() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    import(&store, 1, &TRANSCRIPT);
    let expected = figures(&store);
    let first = chrono::DateTime::parse_from_rfc3339("2025-07-24T09:00:00Z").unwrap();
    let hour = first.timestamp_millis() / HOUR_MS;
    let by_hour =
        |hours: &[HourGrowth]| -> Vec<_> { hours.iter().map(|h| (h.hour, h.messages)).collect() };
    assert_eq!(by_hour(&expected.2), [(hour, 3), (hour + 1, 2)]);
    assert_sound(&store);
    for cut in 1..TRANSCRIPT.len() {
        let folder = tempfile::tempdir().unwrap();
        import(&open(folder.path()).0, 1, &TRANSCRIPT[..cut]);
        let (store, _) = open(folder.path());
        import(&store, cut as u64 + 1, &TRANSCRIPT[cut..]);
        let (session, totals, hours) = figures(&store);
        assert_eq!((&session, &totals), (&expected.0, &expected.1));
        if cut < 3 {
            // Nothing that came with it told a time, and its hour is not written again.
            let arrived = NOON_MS / HOUR_MS;
            let (head, said) = (cut as u64, 3 - cut as u64);
            let parts = [(hour, said), (hour + 1, 2), (arrived, head)];
            assert_eq!(by_hour(&hours), parts);
        } else {
            assert_eq!(hours, expected.2, "cut before line {cut}");
        }
        assert_sound(&store);
    }
}

#[test]
fn lines_that_are_there_already_count_no_turn_again() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    import(&store, 1, &STREAM[..10]);
    let before = figures(&store);
    import(&store, 1, &STREAM[..10]);
    import(&store, 3, &STREAM[2..3]);
    assert_eq!(figures(&store), before);
    import(&store, 1, &STREAM);
    let folder = tempfile::tempdir().unwrap();
    let (whole, _) = open(folder.path());
    import(&whole, 1, &STREAM);
    assert_eq!(figures(&store), figures(&whole));
}

#[test]
fn live_recording_counts_when_lines_were_received_and_no_durations() {
    let folder = tempfile::tempdir().unwrap();
    let other = tempfile::tempdir().unwrap();
    let without = STREAM.map(|line| line.replace("duration_ms", "another_field_"));
    let record = |folder: &Path, lines: &[String]| {
        let (store, clock) = open(folder);
        for line in lines {
            let line = Bytes::copy_from_slice(line.as_bytes());
            store.append(Batch::new(id(), vec![line])).unwrap();
            clock.advance(1500);
        }
        figures(&store)
    };
    let recorded = record(folder.path(), &STREAM.map(str::to_owned)[..6]);
    assert_eq!(recorded.0.active_ms, 5 * 1500);
    assert_eq!(recorded.1.wall_ms, 5 * 1500);
    let (mut session, totals, hours) = record(other.path(), &without[..6]);
    // The other name is longer.
    session.raw_bytes = recorded.0.raw_bytes;
    session.hot_bytes = recorded.0.hot_bytes;
    session.uncompacted_bytes = recorded.0.uncompacted_bytes;
    assert_eq!(session, recorded.0);
    assert_eq!((totals.active_ms, totals.wall_ms), (5 * 1500, 5 * 1500));
    let active = |hours: &[HourGrowth]| -> Vec<_> {
        hours
            .iter()
            .map(|h| (h.hour, h.messages, h.active_ms))
            .collect()
    };
    assert_eq!(active(&hours), active(&recorded.2));
}

#[test]
fn a_time_at_which_nobody_can_have_said_a_line_is_none() {
    for absurd in [
        "0001-01-01T00:00:00Z",
        "1999-12-31T23:59:59Z",
        "2019-12-31T23:59:59Z",
        "9999-12-31T23:59:59Z",
    ] {
        for arrival in [Arrival::Live, Arrival::Historical] {
            let folder = tempfile::tempdir().unwrap();
            let (store, _) = open(folder.path());
            let lines = [
                r#"{"type":"user","timestamp":"2026-02-13T09:00:00Z"}"#.to_owned(),
                format!(r#"{{"type":"user","timestamp":"{absurd}"}}"#),
                r#"{"type":"user","timestamp":"2026-02-13T09:01:00Z"}"#.to_owned(),
            ];
            let mut batch = Batch::new(id(), lines.map(Bytes::from).to_vec());
            batch.arrival = arrival;
            store.append(batch).unwrap();
            let session = store.session(&id()).unwrap();
            let first_ms = NOON_MS - 27 * HOUR_MS;
            let last_ms = match arrival {
                // It was said on arrival.
                Arrival::Live => NOON_MS,
                Arrival::Historical => first_ms + 60_000,
            };
            let recorded = (session.first_time_ms, session.last_time_ms);
            assert_eq!(recorded, (Some(first_ms), Some(last_ms)), "{absurd}");
            assert_eq!(store.totals().unwrap().wall_ms, last_ms - first_ms);
        }
    }
}

#[test]
fn a_clock_a_few_hours_ahead_is_accepted() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let ahead = r#"{"type":"user","timestamp":"2026-02-15T11:00:00Z"}"#;
    import(&store, 1, &[ahead]);
    let session = store.session(&id()).unwrap();
    assert_eq!(session.last_time_ms, Some(NOON_MS + 23 * HOUR_MS));
}

#[test]
fn a_deleted_stream_takes_its_turns_along() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    for lines in [&STREAM[..5], &STREAM] {
        import(&store, 1, lines);
        store.delete(&id()).unwrap();
        let totals = store.totals().unwrap();
        assert_eq!((totals.active_ms, totals.wall_ms), (0, 0));
        assert_eq!(store.growth_by_hour(i64::MIN).unwrap(), []);
        assert_sound(&store);
    }
}

#[test]
fn absurd_durations_count_a_day_or_nothing_and_fill_no_endless_hours() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(folder.path());
    let absurd: Vec<String> = ["-1", "1e300", "1e999", "NaN", "4294967296", "\"5\"", "null"]
        .iter()
        .map(|ms| format!(r#"{{"type":"result","duration_ms":{ms}}}"#))
        .collect();
    let lines: Vec<&str> = absurd.iter().map(String::as_str).collect();
    import(&store, 1, &lines);
    assert_eq!(figures(&store).1.active_ms, 0);
    let next = lines.len() as u64 + 1;
    import(
        &store,
        next,
        &[r#"{"type":"result","duration_ms":4294967295}"#; 500],
    );
    let (_, totals, hours) = figures(&store);
    assert_eq!(totals.active_ms, 500 * 24 * HOUR_MS);
    assert_eq!(totals.wall_ms, totals.active_ms);
    assert!(hours.len() <= 50, "{} hours", hours.len());
    assert_sound(&store);
}
