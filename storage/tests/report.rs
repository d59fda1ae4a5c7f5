//! The capacity report of a real store.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::ops::ControlFlow;
use std::sync::Arc;

use betcode_storage::capacity::forecast::Forecast;
use betcode_storage::capacity::levels::Level;
use betcode_storage::capacity::report::CapacityReport;
use betcode_storage::{Arrival, Batch, CompactionRequest, ManualClock, Store, StoreOptions};
use bytes::Bytes;

const NOON_MS: i64 = 1_771_070_400_000;

fn open(folder: &tempfile::TempDir) -> Store {
    let options = StoreOptions {
        clock: Arc::new(ManualClock::at(NOON_MS)),
        reserve_bytes: 0,
        ..StoreOptions::default()
    };
    Store::open(&folder.path().join("history.db"), options).unwrap()
}

/// Appends `messages` old lines of about `size` bytes, `gap_s` seconds apart; no timestamps
/// without a gap.
fn append(store: &Store, id: &str, directory: &str, messages: i64, size: usize, gap_s: i64) {
    let lines: Vec<Bytes> = (0..messages)
        .map(|at| {
            let time =
                chrono::DateTime::from_timestamp_millis(NOON_MS - 86_400_000 + at * gap_s * 1000)
                    .unwrap()
                    .to_rfc3339();
            let stamp = if gap_s > 0 {
                format!(r#","timestamp":"{time}""#)
            } else {
                String::new()
            };
            let text: String = (0..size)
                .map(|n| char::from(b'a' + ((n as i64 * 7 + at) % 26) as u8))
                .collect();
            Bytes::from(format!(r#"{{"type":"user"{stamp},"text":"{text}"}}"#))
        })
        .collect();
    let mut batch = Batch::new(id.parse().unwrap(), lines);
    batch.meta.working_directory = directory.into();
    batch.arrival = Arrival::Historical;
    store.append(batch).unwrap();
}

#[test]
fn the_report_picks_the_biggest_the_fastest_and_the_projects() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    for n in 0..12 {
        append(&store, &format!("small-{n:02}"), "/p/many", 10, 100, 120);
    }
    append(&store, "big", "/p/one", 300, 5_000, 60);
    append(&store, "fast", "/p/one", 60, 5_000, 10);
    append(&store, "untimed", "/p/none", 20, 2_000, 0);
    let report = store.capacity_report().unwrap();

    let ids = |rows: &[betcode_storage::capacity::report::SessionRow]| {
        rows.iter()
            .map(|row| row.session_id.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        ids(&report.biggest_sessions)[..3],
        ["big", "fast", "untimed"]
    );
    assert_eq!(report.biggest_sessions.len(), 10);
    assert_eq!(
        ids(&report.fastest_sessions)[..3],
        ["fast", "big", "small-00"]
    );
    let projects: Vec<_> = report
        .projects
        .iter()
        .map(|p| (p.working_directory.as_str(), p.sessions))
        .collect();
    assert_eq!(projects, [("/p/one", 2), ("/p/none", 1), ("/p/many", 12)]);
    assert_eq!(report.projects_total, 3);
    assert_eq!((report.untimed.sessions, report.untimed.messages), (1, 20));
    // 12 x 9 gaps of 120 s, 299 of 60 s and 59 of 10 s.
    let seconds = 12.0 * 9.0 * 120.0 + 299.0 * 60.0 + 59.0 * 10.0;
    assert!((report.growth.active_hours * 3600.0 - seconds).abs() < 1e-6);
    assert_eq!((report.sessions, report.messages), (15, 500));
    assert_eq!(report.generated_ms, NOON_MS);
}

#[test]
fn imports_without_times_change_nothing_of_growth_and_room_by_the_hour() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    append(&store, "timed", "/p", 61, 1_000, 60);
    let before = store.capacity_report().unwrap();
    for n in 0..20 {
        append(&store, &format!("untimed-{n}"), "/p", 61, 1_000, 0);
    }
    let report = store.capacity_report().unwrap();
    assert!((report.growth.active_hours - 1.0).abs() < 1e-9);
    assert_eq!(report.messages, 21 * 61);
    assert_eq!(report.growth.messages_per_session_hour, Some(61.0));
    assert_eq!(
        report.growth.bytes_per_session_hour,
        before.growth.bytes_per_session_hour
    );
    let hours = |report: &CapacityReport| match report.forecast {
        Forecast::NotEnoughHistory {
            session_hours_without_compaction: Some(hours),
            ..
        } => hours,
        ref other => panic!("{other:?}"),
    };
    // The imports take a little of the room; they do not make an hour of work take more of it.
    let (room, room_before) = (hours(&report), hours(&before));
    assert!(
        (room / room_before - 1.0).abs() < 0.1,
        "{room} {room_before}"
    );
}

#[test]
fn short_messages_take_their_rows_until_they_are_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    append(&store, "rows", "/p/one", 500, 0, 0);
    let report = store.capacity_report().unwrap();
    let (session, project) = (&report.biggest_sessions[0], &report.projects[0]);
    assert!(
        report.uncompacted_bytes > 3 * report.raw_bytes / 2,
        "rows take more than payloads"
    );
    assert_eq!(session.stored_bytes, report.uncompacted_bytes);
    assert_eq!(session.footprint, Some(1.0));
    assert_eq!(project.stored_bytes, report.uncompacted_bytes);
    let plan = store.plan_compaction(&CompactionRequest::manual()).unwrap();
    assert_eq!(plan.stored_bytes(), report.uncompacted_bytes);
}

#[test]
fn sessions_add_up_to_their_project_whatever_part_of_them_is_compacted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    append(&store, "part", "/p/one", 500, 100, 30);
    store
        .compact(&CompactionRequest::manual(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    append(&store, "part", "/p/one", 300, 0, 30);
    append(&store, "rows", "/p/one", 200, 0, 30);
    let report = store.capacity_report().unwrap();
    let sessions = report.biggest_sessions.iter().map(|s| s.stored_bytes);
    let bases = store.totals().unwrap().base_bytes;
    assert_eq!(
        report.projects[0].stored_bytes,
        sessions.sum::<u64>() + bases
    );
    let payloads = report.segment_bytes + report.hot_bytes + bases;
    assert!(report.projects[0].stored_bytes > payloads + 500 * 20);
}

#[test]
fn what_a_project_shares_counts_as_stored() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    for n in 0..6 {
        append(&store, &format!("s{n}"), "/p/one", 100, 3_000, 30);
    }
    store
        .compact(&CompactionRequest::manual(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    let totals = store.totals().unwrap();
    let report = store.capacity_report().unwrap();
    assert!(totals.bases > 0, "the project is big enough for a base");
    assert_eq!(
        (report.bases, report.base_bytes),
        (totals.bases, totals.base_bytes)
    );
    let stored = totals.segment_bytes + totals.hot_bytes + totals.base_bytes;
    assert_eq!(report.projects[0].stored_bytes, stored);
    assert_eq!(report.compaction_runs[0].trigger, "manual");
}

#[test]
fn a_store_opened_for_reading_only_reports_as_well_and_so_does_an_empty_one() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let empty = store.capacity_report().unwrap();
    assert_eq!(
        (empty.messages, empty.footprint, empty.projects_total),
        (0, None, 0)
    );
    append(&store, "s", "", 3, 10, 60);
    let reader = Store::open_read_only(store.path(), StoreOptions::default()).unwrap();
    assert_eq!(reader.capacity_report().unwrap().messages, 3);
}

#[test]
fn a_size_below_its_warning_keeps_the_level_that_its_daemon_has_it_at() {
    let folder = tempfile::tempdir().unwrap();
    append(&open(&folder), "a", "/p", 700, 1_000, 60);
    let path = folder.path().join("history.db");
    let judged = |db_bytes_max, before| {
        let options = StoreOptions {
            db_bytes_max,
            ..StoreOptions::default()
        };
        let store = Store::open_read_only(&path, options).unwrap();
        store.capacity_report_after(before).unwrap()
    };
    let used_bytes = judged(1_000_000_000, Level::Ok).used_bytes();
    // The whole is such that 67 % of it are used: above where a warning ends, below where it begins.
    let limit = used_bytes * 100 / 67;
    assert_eq!(judged(limit, Level::Ok).level, Level::Ok);
    assert_eq!(judged(limit, Level::Warning).level, Level::Warning);
}
