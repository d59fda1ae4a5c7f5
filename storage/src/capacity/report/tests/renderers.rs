//! Text, CSV and Prometheus.

use super::{Fixture, close, empty, hostile, over_limit, report, with_untimed};
use crate::Totals;
use crate::capacity::report::{
    CapacityReport, ReportInput, build, csv, html, main_points, prometheus, text,
};
use crate::capacity::text::harmless;

/// A strict reader of the exposition format: every sample follows the HELP and TYPE of its
/// family, families stand together, names and labels are well formed, values are numbers.
fn parse_exposition(text: &str) -> Vec<(String, f64)> {
    let mut samples = Vec::new();
    let mut families = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(help) = lines.next() {
        let (family, _) = help
            .strip_prefix("# HELP ")
            .unwrap()
            .split_once(' ')
            .unwrap();
        assert!(family.starts_with("betcode_store_"), "{family}");
        assert!(
            family.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
            "{family}"
        );
        assert!(!families.contains(&family), "{family} stands twice");
        families.push(family);
        assert_eq!(lines.next().unwrap(), format!("# TYPE {family} gauge"));
        let mut seen = 0;
        while let Some(line) = lines.next_if(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let name = series.split('{').next().unwrap();
            assert_eq!(name, family);
            if let Some(labels) = series
                .strip_prefix(name)
                .filter(|labels| !labels.is_empty())
            {
                assert_labels(labels);
            }
            samples.push((series.to_owned(), value.parse().unwrap()));
            seen += 1;
        }
        assert!(seen > 0, "{family} has no sample");
    }
    assert!(text.ends_with('\n'));
    samples
}

fn assert_labels(labels: &str) {
    let inner = labels.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
    let mut rest = inner;
    loop {
        let (name, after) = rest.split_once("=\"").unwrap();
        assert!(
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase()),
            "{labels}"
        );
        let mut escaped = false;
        let end = after
            .char_indices()
            .find(|(_, c)| {
                let ends = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                assert_ne!(*c, '\n');
                ends
            })
            .unwrap()
            .0;
        match after[end + 1..].strip_prefix(',') {
            Some(next) => rest = next,
            None => return assert_eq!(&after[end + 1..], ""),
        }
    }
}

#[test]
fn prometheus_text_is_well_formed_and_carries_the_figures() {
    let samples = parse_exposition(&prometheus(&report()));
    let value = |series: &str| samples.iter().find(|(name, _)| name == series).unwrap().1;
    assert!(close(value("betcode_store_database_bytes"), 6e6));
    assert!(close(value("betcode_store_footprint_ratio"), 0.12));
    assert!(close(value("betcode_store_level{level=\"ok\"}"), 1.0));
    assert!(close(value("betcode_store_level{level=\"critical\"}"), 0.0));
    assert!(close(
        value("betcode_store_bytes_per_session_hour{basis=\"measured\"}"),
        2.54e6
    ));
    assert!(close(value("betcode_store_active_seconds"), 72_000.0));
    assert!(close(
        value("betcode_store_saved_bytes"),
        report().saved_bytes as f64
    ));
    assert!(close(value("betcode_store_untimed_sessions"), 0.0));
    assert!(value("betcode_store_pace_bytes_per_day{pace=\"median\"}") > 0.0);
    let planned = "betcode_store_session_hours_per_day{basis=\"planned\"}";
    assert!(close(value(planned), 8.0));
    let hostile = "betcode_store_type_messages{type=\"a\\\"b\\\\·\"}";
    assert!(close(value(hostile), 7220.0));
    let likely = "betcode_store_forecast_seconds{compaction=\"off\",at=\"limit\",pace=\"median\"}";
    assert!(value(likely) > 86_400.0);
}

#[test]
fn tables_and_metrics_cannot_act_on_a_terminal() {
    for report in [report(), hostile()] {
        for line in csv(&report).split_terminator("\r\n") {
            assert_eq!(harmless(line), line);
        }
        for line in prometheus(&report).lines() {
            assert_eq!(harmless(line), line);
        }
    }
}

#[test]
fn types_that_differ_in_control_characters_only_are_one_series() {
    let mut fixture = Fixture::new();
    fixture.types[0].message_type = "a\t".into();
    fixture.types[1].message_type = "a\r".into();
    let samples = parse_exposition(&prometheus(&build(&fixture.input()).unwrap()));
    let of_type = samples
        .iter()
        .filter(|(name, _)| name.starts_with("betcode_store_type_messages"));
    let values: Vec<f64> = of_type.map(|(_, value)| *value).collect();
    assert_eq!(values, [9_220.0]);
}

#[test]
fn prometheus_leaves_out_what_is_not_known() {
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
    let text = prometheus(&build(&input).unwrap());
    parse_exposition(&text);
    assert!(
        !text.contains("footprint_ratio ") && !text.contains("NaN"),
        "{text}"
    );
    assert!(!text.contains("forecast"));
}

#[test]
fn text_fits_80_columns_and_cannot_act_on_a_terminal() {
    for report in [report(), hostile(), empty(), over_limit()] {
        for line in text(&report).lines() {
            assert_eq!(crate::capacity::text::fit(line, 80).trim_end(), line);
            assert_eq!(crate::capacity::text::harmless(line), line);
        }
    }
}

#[test]
fn text_tells_size_footprint_growth_and_dates() {
    let text = text(&report());
    for expected in [
        "6.24 MB of 1.00 GB (0.6 %)",
        "12 % of the 52.0 MB it takes uncompacted; within the plan's 30 %",
        "2.54 MB      1.00 MB       2.54 x",
        "limit 1.00 GB",
        "without compaction",
        "big ",
        "2026-02-14 11:59  deep     52.0 MB ->   5.90 MB    2.50 s  manual, done",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
}

/// A strict reader of RFC 4180.
fn parse_csv(text: &str) -> Vec<Vec<String>> {
    let mut rows = vec![vec![String::new()]];
    let mut quoted = false;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let row = rows.last_mut().unwrap();
        let cell = row.last_mut().unwrap();
        match c {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => cell.push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(String::new()),
            '\r' if !quoted => {
                assert_eq!(chars.next(), Some('\n'));
                rows.push(vec![String::new()]);
            }
            c => cell.push(c),
        }
    }
    assert_eq!(rows.pop().unwrap(), [""], "the last line ends");
    rows
}

#[test]
fn csv_has_four_columns_everywhere_and_no_formulas() {
    for report in [report(), hostile(), empty()] {
        let rows = parse_csv(&csv(&report));
        assert_eq!(rows[0], ["section", "name", "field", "value"]);
        for row in &rows {
            assert_eq!(row.len(), 4, "{row:?}");
            assert!(
                row.iter().all(|cell| !cell.starts_with(['=', '+', '@'])),
                "{row:?}"
            );
        }
    }
    let rows = parse_csv(&csv(&report()));
    let value = |section: &str, field: &str| {
        rows.iter()
            .find(|row| row[0] == section && row[2] == field)
            .unwrap()[3]
            .clone()
    };
    assert_eq!(value("store", "database_bytes"), "6000000");
    assert_eq!(value("store", "footprint"), "0.12");
    let shown = report();
    for (field, figure) in [
        ("saved_bytes", shown.saved_bytes),
        ("compactable_bytes", shown.compactable_bytes),
        ("untimed_sessions", 0),
        ("earlier_raw_bytes", shown.earlier_raw_bytes),
        ("later_raw_bytes", shown.later_raw_bytes),
    ] {
        assert_eq!(value("store", field), figure.to_string(), "{field}");
    }
    let median = value("forecast", "median").parse::<f64>().unwrap();
    assert!(median > 0.0);
    let untimed = parse_csv(&csv(&with_untimed()));
    let row = |field: &str| untimed.iter().find(|row| row[2] == field).unwrap();
    assert_eq!(row("untimed_sessions")[3], "20");
    assert_eq!(value("biggest_session", "stored_bytes"), "4000000");
}

#[test]
fn a_store_that_lies_idle_says_which_days_each_figure_is_of() {
    let mut fixture = Fixture::new();
    let windows = |report: &CapacityReport| {
        let told = text(report);
        assert!(
            told.contains("in the 24 days to today") || told.contains("in the 28 days to today")
        );
        let until = "2026-01-05, the last full day of use";
        told.contains(until) && html(report).contains(until)
    };
    assert!(
        !windows(&build(&fixture.input()).unwrap()),
        "used until today"
    );
    for hour in &mut fixture.hours {
        hour.hour -= 40 * 24;
    }
    let idle = build(&fixture.input()).unwrap();
    assert!(windows(&idle), "{}", text(&idle));
    assert!(text(&idle).contains("days: those up to"), "no four weeks");
    fixture.hours[0].hour -= 40 * 24;
    let longer = build(&fixture.input()).unwrap();
    assert!(text(&longer).contains("days and months: the four weeks to"));
    for report in [idle, longer] {
        assert!(text(&report).lines().all(|line| line.chars().count() <= 80));
    }
}

#[test]
fn the_main_points_are_a_few_lines_of_the_report() {
    let points = main_points(&report());
    for point in ["Size ", "Footprint ", "Growth ", "Forecast ", "Biggest "] {
        assert!(points.contains(point), "{point}: {points}");
    }
    assert!(points.lines().count() <= 10, "{points}");
    for report in [report(), hostile(), over_limit(), empty()] {
        let points = main_points(&report);
        assert!(
            points.lines().all(|line| line.chars().count() <= 80),
            "{points}"
        );
    }
}

#[test]
fn a_disk_that_is_full_before_the_limit_is_reached_is_told() {
    let fixture = Fixture::new();
    let told = |disk_free_bytes| {
        let input = ReportInput {
            disk_free_bytes,
            ..fixture.input()
        };
        let report = build(&input).unwrap();
        [text(&report), main_points(&report), html(&report)]
            .map(|shown| shown.contains("is full before the limit is reached"))
    };
    assert_eq!(told(Some(993_759_999)), [true; 3]);
    assert_eq!(told(Some(993_760_000)), [false; 3]);
    assert_eq!(told(None), [false; 3]);
}

#[test]
fn what_compaction_would_save_says_whose_footprint_it_is_of() {
    let mut fixture = Fixture::new();
    assert!(!text(&build(&fixture.input()).unwrap()).contains("by the plan's"));
    fixture.totals.hot_bytes = fixture.totals.raw_bytes;
    let report = build(&fixture.input()).unwrap();
    let saves = format!(
        "compaction would save {} more by the plan's 30 %",
        crate::capacity::text::bytes(report.compactable_bytes)
    );
    assert!(text(&report).contains(&saves), "{}", text(&report));
    assert!(text(&report).contains("compaction by the plan's 30 %"));
    assert!(main_points(&report).contains("compacted by the plan's 30 %"));
}
