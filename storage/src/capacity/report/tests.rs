use super::*;
use crate::capacity::CapacityError;
use crate::capacity::levels::Level;
use crate::capacity::quantity::MB;
use crate::growth::HOUR_MS;
use crate::session::Session;
use crate::usage::SessionUsage;
use crate::{
    CompactionRun, HourGrowth, ProjectGrowth, SessionId, SessionKey, SessionMeta, Totals,
    TypeGrowth, Untimed,
};

mod renderers;

/// 2026-02-14, noon.
const NOW_MS: i64 = 1_771_070_400_000;
const NOW_HOUR: i64 = NOW_MS / HOUR_MS;

fn totals() -> Totals {
    Totals {
        store_id: "s".into(),
        created_ms: 0,
        sessions: 3,
        messages: 9_220,
        raw_bytes: 50_800_000,
        uncompacted_bytes: 52_000_000,
        hot_messages: 100,
        hot_bytes: 800_000,
        segments: 12,
        bases: 0,
        base_bytes: 0,
        segment_bytes: 5_000_000,
        active_ms: 20 * HOUR_MS,
        wall_ms: 115 * HOUR_MS,
    }
}

fn session(id: &str, directory: &str, raw_bytes: u64, active_ms: i64) -> Session {
    Session {
        key: SessionKey(1),
        id: SessionId::new(id).unwrap(),
        meta: SessionMeta {
            working_directory: directory.into(),
            ..SessionMeta::default()
        },
        created_ms: 0,
        updated_ms: 0,
        messages: 10,
        raw_bytes,
        uncompacted_bytes: raw_bytes,
        hot_messages: 0,
        hot_bytes: 0,
        segments: 1,
        segment_bytes: raw_bytes / 10,
        first_time_ms: Some(0),
        last_time_ms: Some(1),
        active_ms,
        usage: SessionUsage::default(),
        last_preview: String::new(),
    }
}

fn project(working_directory: &str, sessions: u64, raw_bytes: u64) -> ProjectGrowth {
    ProjectGrowth {
        working_directory: working_directory.into(),
        sessions,
        messages: 10 * sessions,
        raw_bytes,
        stored_bytes: raw_bytes / 10,
        active_ms: HOUR_MS,
    }
}

struct Fixture {
    totals: Totals,
    types: Vec<TypeGrowth>,
    hours: Vec<HourGrowth>,
    biggest: Vec<Session>,
    fastest: Vec<Session>,
    projects: Vec<ProjectGrowth>,
    untimed: Untimed,
    runs: Vec<CompactionRun>,
}

impl Fixture {
    fn new() -> Self {
        let grown = |message_type: &str, messages, raw_bytes| TypeGrowth {
            message_type: message_type.into(),
            messages,
            raw_bytes,
        };
        let hour = |days_ago: i64| HourGrowth {
            hour: NOW_HOUR - days_ago * 24,
            messages: 100,
            raw_bytes: 2 * MB,
            active_ms: HOUR_MS,
        };
        Self {
            totals: totals(),
            types: vec![
                grown("user", 2_000, 20_000_000),
                grown("a\"b\\\n", 7_220, 30_800_000),
            ],
            hours: (0..25).map(hour).collect(),
            biggest: vec![
                session("big", "/p/two", 40_000_000, 10 * HOUR_MS),
                session("short", "/p/one", 5_800_000, 1000),
                session("small", "/p/one", 5_000_000, HOUR_MS),
            ],
            fastest: vec![
                session("small", "/p/one", 5_000_000, HOUR_MS),
                session("big", "/p/two", 40_000_000, 10 * HOUR_MS),
            ],
            projects: vec![
                project("/p/two", 1, 40_000_000),
                project("/p/one", 2, 10_800_000),
            ],
            untimed: Untimed::default(),
            runs: vec![CompactionRun {
                run_id: 7,
                started_ms: NOW_MS - 5000,
                finished_ms: NOW_MS - 2500,
                trigger: "manual".into(),
                tier: "deep".into(),
                outcome: RunOutcome::Done,
                bytes_before: 52_000_000,
                bytes_after: 5_900_000,
                messages: 9_120,
                raw_bytes: 50_000_000,
                segments_written: 12,
                segments_replaced: 0,
                detail: String::new(),
            }],
        }
    }

    fn input(&self) -> ReportInput<'_> {
        ReportInput {
            database: "/home/me/history.db",
            now_ms: NOW_MS,
            totals: &self.totals,
            database_bytes: 6_000_000,
            wal_bytes: 240_000,
            free_bytes: 40_000,
            limit_bytes: 1_000_000_000,
            disk_free_bytes: Some(993_760_000),
            previous_level: Level::Ok,
            types: &self.types,
            hours: &self.hours,
            biggest: &self.biggest,
            fastest: &self.fastest,
            projects: &self.projects,
            projects_total: 2,
            untimed: self.untimed,
            runs: &self.runs,
        }
    }
}

pub(in crate::capacity) fn report() -> CapacityReport {
    build(&Fixture::new().input()).unwrap()
}

/// The same, and twenty times as much in sessions without active time.
pub(in crate::capacity) fn with_untimed() -> CapacityReport {
    let mut fixture = Fixture::new();
    let totals = &mut fixture.totals;
    fixture.untimed = Untimed {
        sessions: 20,
        messages: 10 * totals.messages,
        raw_bytes: 20 * totals.raw_bytes,
    };
    totals.sessions += fixture.untimed.sessions;
    totals.messages += fixture.untimed.messages;
    totals.raw_bytes += fixture.untimed.raw_bytes;
    build(&fixture.input()).unwrap()
}

fn close(left: f64, right: f64) -> bool {
    (left - right).abs() < 1e-9 * right.abs().max(1.0)
}

#[test]
fn the_fixed_json_fields_are_there_under_their_names() {
    let json = serde_json::to_value(report()).unwrap();
    for field in [
        "database_bytes",
        "wal_bytes",
        "limit_bytes",
        "disk_free_bytes",
        "used_fraction",
        "level",
        "raw_bytes",
        "uncompacted_bytes",
        "footprint",
        "footprint_target",
        "sessions",
        "messages",
    ] {
        assert!(!json[field].is_null(), "{field}");
    }
    for field in [
        "active_hours",
        "wall_hours",
        "messages_per_session_hour",
        "bytes_per_message",
        "bytes_per_session_hour",
    ] {
        assert!(json["growth"][field].is_number(), "{field}");
    }
    assert_eq!(json["level"], "ok");
}

#[test]
fn size_counts_the_wal_and_footprint_is_against_uncompacted_rows() {
    let report = report();
    assert_eq!(report.used_bytes(), 6_240_000);
    assert!(close(report.used_fraction, 0.00624));
    assert!(close(report.footprint.unwrap(), 0.12));
}

#[test]
fn what_compaction_saved_is_of_what_is_compacted() {
    let report = report();
    // 100 of 9,220 messages are not: their payloads, and as much of the 1.2 MB that rows take beside.
    let rows = 800_000 + 1_200_000 * 100 / 9_220;
    assert_eq!(report.saved_bytes, 52_000_000 - rows - 5_000_000);
    let mut fixture = Fixture::new();
    let grown = &mut fixture.totals;
    grown.messages += 9_220;
    grown.hot_messages += 9_220;
    grown.raw_bytes += 50_800_000;
    grown.hot_bytes += 50_800_000;
    grown.uncompacted_bytes += 52_000_000;
    let grown = build(&ReportInput {
        database_bytes: 58_000_000,
        ..fixture.input()
    });
    let grown = grown.unwrap().saved_bytes;
    assert!(
        grown.abs_diff(report.saved_bytes) <= 1,
        "new history takes nothing of it: {grown}"
    );
    fixture.totals = Totals {
        hot_messages: 9_220,
        hot_bytes: 50_800_000,
        segments: 0,
        segment_bytes: 0,
        ..totals()
    };
    assert_eq!(build(&fixture.input()).unwrap().saved_bytes, 0);
}

#[test]
fn growth_per_session_hour_stands_beside_the_plans_200_messages_5_kb_1_mb() {
    let report = report();
    let row = |name| report.planned.iter().find(|row| row.name == name).unwrap();
    for (name, planned, measured) in [
        ("messages_per_session_hour", 200.0, 461.0),
        ("bytes_per_message", 5_000.0, 50_800_000.0 / 9_220.0),
        ("bytes_per_session_hour", 1_000_000.0, 2_540_000.0),
        ("compaction_saving", 0.70, 0.90),
        ("footprint", 0.30, 0.12),
    ] {
        assert!(close(row(name).planned, planned), "{name}");
        assert!(close(row(name).measured.unwrap(), measured), "{name}");
        assert!(
            close(row(name).ratio.unwrap(), measured / planned),
            "{name}"
        );
    }
}

#[test]
fn sessions_without_hours_are_in_no_figure_by_the_hour() {
    let (report, without) = (with_untimed(), report());
    let by_hour = |report: &CapacityReport| {
        let growth = report.growth;
        [
            growth.messages_per_session_hour,
            growth.bytes_per_session_hour,
            growth.bytes_per_wall_hour,
        ]
    };
    assert_eq!(by_hour(&report), by_hour(&without));
    assert!(close(
        report.growth.bytes_per_message.unwrap(),
        21.0 * 50_800_000.0 / (11.0 * 9_220.0)
    ));
}

#[test]
fn sessions_and_projects_keep_their_order_and_short_sessions_have_no_pace() {
    let report = report();
    let ids: Vec<_> = report
        .biggest_sessions
        .iter()
        .map(|s| s.session_id.as_str())
        .collect();
    assert_eq!(ids, ["big", "short", "small"]);
    let ids: Vec<_> = report
        .fastest_sessions
        .iter()
        .map(|s| s.session_id.as_str())
        .collect();
    assert_eq!(ids, ["small", "big"]);
    let short = &report.biggest_sessions[1];
    assert_eq!(short.bytes_per_session_hour, None);
    let projects: Vec<_> = report
        .projects
        .iter()
        .map(|p| (p.working_directory.as_str(), p.sessions))
        .collect();
    assert_eq!(projects, [("/p/two", 1), ("/p/one", 2)]);
    assert_eq!(report.projects_total, 2);
}

#[test]
fn types_come_biggest_first_with_shares_that_make_up_the_whole_and_the_hour() {
    let report = report();
    assert_eq!(report.by_type[1].message_type, "user");
    assert!(close(report.by_type.iter().map(|row| row.share).sum(), 1.0));
    let per_hour = report
        .by_type
        .iter()
        .filter_map(|row| row.bytes_per_session_hour);
    assert!(close(
        per_hour.sum(),
        report.growth.bytes_per_session_hour.unwrap()
    ));
}

#[test]
fn days_hold_every_byte_or_say_where_it_went() {
    let mut fixture = Fixture::new();
    let odd = |hour| HourGrowth {
        hour,
        messages: 1,
        raw_bytes: 7,
        active_ms: 0,
    };
    fixture.hours.push(odd(0));
    fixture.hours.push(odd(NOW_HOUR + 48));
    let report = build(&fixture.input()).unwrap();
    assert_eq!((report.earlier_raw_bytes, report.later_raw_bytes), (7, 7));
    assert_eq!(report.by_day.len(), 25);
    let shown: u64 = report.by_day.iter().map(|day| day.raw_bytes).sum();
    let all: u64 = fixture.hours.iter().map(|hour| hour.raw_bytes).sum();
    assert_eq!(shown + 14, all);
    assert!(report.by_day.iter().all(|day| day.day_ms % 86_400_000 == 0));
}

#[test]
fn the_forecast_uses_the_measured_ratios_and_the_room_compaction_will_make() {
    let report = report();
    let Forecast::Projected {
        without_compaction,
        with_compaction,
        ..
    } = &report.forecast
    else {
        panic!("{:?}", report.forecast)
    };
    assert!(close(with_compaction.ratio.value.get(), 0.1));
    assert!(close(without_compaction.ratio.value.get(), 52.0 / 50.8));
    assert_eq!(without_compaction.start_bytes, 6_200_000);
    assert_eq!(
        report.compactable_bytes,
        (800_000.0 * (52.0 / 50.8 - 0.1)) as u64
    );
    assert_eq!(
        with_compaction.start_bytes,
        6_200_000 - report.compactable_bytes
    );
}

#[test]
fn an_empty_store_has_no_footprint_no_pace_and_no_date() {
    let mut fixture = Fixture::new();
    fixture.totals = Totals::default();
    let input = ReportInput {
        types: &[],
        hours: &[],
        biggest: &[],
        fastest: &[],
        projects: &[],
        projects_total: 0,
        runs: &[],
        ..fixture.input()
    };
    let report = build(&input).unwrap();
    assert_eq!(report.footprint, None);
    assert_eq!(report.growth.bytes_per_session_hour, None);
    assert!(matches!(
        report.forecast,
        Forecast::NotEnoughHistory { days: 0, .. }
    ));
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["footprint"].is_null() && json["forecast"]["state"] == "not_enough_history");
}

#[test]
fn seconds_of_work_and_a_store_that_is_mostly_empty_tell_neither_pace_nor_footprint() {
    let mut fixture = Fixture::new();
    fixture.totals.active_ms = PACE_ACTIVE_MS_MIN - 1;
    fixture.totals.uncompacted_bytes = 1_000;
    let report = build(&fixture.input()).unwrap();
    for name in [
        "messages_per_session_hour",
        "bytes_per_session_hour",
        "footprint",
    ] {
        assert_eq!(report.measured(name), None, "{name}");
    }
    assert!(report.growth.active_hours > 0.0);
    assert!(report.growth.bytes_per_message.is_some());
}

#[test]
fn bases_count_as_compacted_bytes() {
    let mut fixture = Fixture::new();
    fixture.totals.base_bytes = 2_500_000;
    let Forecast::Projected {
        with_compaction, ..
    } = build(&fixture.input()).unwrap().forecast
    else {
        panic!("there is history enough")
    };
    assert!(close(with_compaction.ratio.value.get(), 0.15));
}

#[test]
fn text_says_how_many_sessions_have_no_active_time() {
    let mut fixture = Fixture::new();
    assert!(!text(&report()).contains("no time between"));
    fixture.untimed = Untimed {
        sessions: 1,
        messages: 10,
        raw_bytes: 5_800_000,
    };
    let some = text(&build(&fixture.input()).unwrap());
    assert!(
        some.contains("no time between lines in 1 session (5.80 MB)"),
        "{some}"
    );
    fixture.untimed.sessions = 3;
    fixture.totals.active_ms = 0;
    let all = text(&build(&fixture.input()).unwrap());
    assert!(
        all.contains("no time between lines in any session"),
        "{all}"
    );
    assert!(!all.contains("of active time"), "{all}");
}

#[test]
fn the_page_tells_active_time_of_what_has_some_and_the_sessions_that_have_none() {
    assert!(html(&report()).contains("50.8 MB recorded in 20.0 h of active time"));
    let page = html(&with_untimed());
    assert!(
        page.contains("1.07 GB recorded, 50.8 MB of it in 20.0 h of active time"),
        "{page}"
    );
    assert!(page.contains("no time between lines in 20 sessions (1.02 GB)"));
    let mut fixture = Fixture::new();
    fixture.totals.active_ms = 0;
    fixture.untimed.sessions = fixture.totals.sessions;
    let page = html(&build(&fixture.input()).unwrap());
    assert!(page.contains("no time between lines in any session"));
    assert!(!page.contains("of active time"));
}

#[test]
fn hours_that_the_forecast_leaves_out_are_told() {
    let mut fixture = Fixture::new();
    let told = "left out: later than now or before 2020";
    for report in [report(), empty()] {
        assert!(!text(&report).contains(told) && !html(&report).contains(told));
    }
    fixture.hours[0].hour = NOW_HOUR + 48;
    for days in [24, 1] {
        fixture.hours.truncate(days + 1);
        let report = build(&fixture.input()).unwrap();
        for shown in [text(&report), html(&report)] {
            assert!(
                shown.contains(&format!("1 hour of growth {told}")),
                "{shown}"
            );
        }
    }
}

#[test]
fn an_hour_that_only_a_damaged_row_says_counts_among_the_earlier_ones() {
    let mut fixture = Fixture::new();
    for hour in [i64::MIN, -1] {
        fixture.hours[0].hour = hour;
        for days in [24, 1] {
            fixture.hours.truncate(days);
            let report = build(&fixture.input()).unwrap();
            assert_eq!(report.earlier_raw_bytes, fixture.hours[0].raw_bytes);
            assert!(!text(&report).is_empty() && !html(&report).is_empty());
        }
        fixture = Fixture::new();
    }
}

#[test]
fn a_limit_of_zero_is_refused() {
    let fixture = Fixture::new();
    let error = build(&ReportInput {
        limit_bytes: 0,
        ..fixture.input()
    })
    .unwrap_err();
    assert!(matches!(error, CapacityError::Zero { .. }));
}

/// A report with everything that people could have put into a name.
pub(in crate::capacity) fn hostile() -> CapacityReport {
    let mut fixture = Fixture::new();
    let name = "<script>alert(1)</script>\x1b[2J\u{202e}\"'&,=\n日本語".repeat(4);
    for session in fixture.biggest.iter_mut().chain(&mut fixture.fastest) {
        session.meta.name.clone_from(&name);
        session.meta.working_directory = format!("=cmd|{name}");
    }
    for project in &mut fixture.projects {
        project.working_directory = format!("=cmd|{name}");
    }
    fixture.types[0].message_type.clone_from(&name);
    fixture.runs[0].detail.clone_from(&name);
    build(&ReportInput {
        database: &name,
        ..fixture.input()
    })
    .unwrap()
}

pub(in crate::capacity) fn empty() -> CapacityReport {
    let fixture = Fixture::new();
    let totals = Totals::default();
    let input = fixture.input();
    build(&ReportInput {
        totals: &totals,
        types: &[],
        hours: &[],
        biggest: &[],
        fastest: &[],
        projects: &[],
        projects_total: 0,
        runs: &[],
        ..input
    })
    .unwrap()
}

/// A store that is over its limit and grows fast.
pub(in crate::capacity) fn over_limit() -> CapacityReport {
    let fixture = Fixture::new();
    build(&ReportInput {
        limit_bytes: 6_200_000,
        ..fixture.input()
    })
    .unwrap()
}

#[test]
fn sessions_whose_names_begin_alike_are_told_apart() {
    let mut fixture = Fixture::new();
    let begin = "-home-me-work-on-something-with-a-long-name-in-a-folder-of-its-own-";
    let ends = ["first", "second"];
    assert!(fixture.biggest.len() >= ends.len());
    for (session, end) in fixture.biggest.iter_mut().zip(ends) {
        session.meta.name = format!("{begin}{end}");
    }
    let report = build(&fixture.input()).unwrap();
    let (text, page) = (text(&report), html(&report));
    for end in ends {
        let in_text = text
            .lines()
            .any(|line| line.contains('…') && line.contains(end));
        assert!(in_text, "{text}");
        assert!(page.contains(&format!("title=\"{begin}{end}\"")), "{end}");
        assert!(page.contains(&format!("{end}</span>")), "{end}");
    }
}
