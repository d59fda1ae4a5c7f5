//! `report` in all its forms, and `plan`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use betcode_db::generator;

use crate::tool::Tool;

fn tool() -> Tool {
    let tool = Tool::new();
    tool.write("src/a.jsonl", generator::transcript(1, 500_000));
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    tool
}

#[test]
fn the_report_reads_well_as_text() {
    let tool = tool();
    let text = tool.ok(["report"]).text();
    for expected in [
        "Size ",
        "Footprint ",
        "Messages per session-hour",
        "Forecast ",
        "By message type",
        "Biggest sessions",
    ] {
        assert!(text.contains(expected), "{expected} is missing in\n{text}");
    }
}

#[test]
fn an_empty_store_says_how_to_begin() {
    let tool = Tool::new();
    tool.write("src/a.jsonl", "");
    tool.run(["import".as_ref(), tool.path("src").as_os_str()]);
    let ran = tool.ok(["report"]);
    let text = ran.text();
    assert!(
        text.ends_with("\n\nRecord some history with `betcode-db import PATH`\n"),
        "{text}"
    );
}

#[test]
fn csv_and_prometheus_stand_alone_on_stdout() {
    let tool = tool();
    let csv = tool.ok(["report", "--csv"]).text();
    assert!(
        csv.starts_with("section,name,field,value\r\nstore,,"),
        "{csv}"
    );
    let metrics = tool.ok(["report", "--prometheus"]).text();
    assert!(metrics.starts_with("# HELP betcode_store_database_bytes"));
    assert!(!metrics.contains("Biggest"));
    for both in [
        ["--csv", "--json"],
        ["--prometheus", "--json"],
        ["--csv", "--prometheus"],
    ] {
        assert_eq!(tool.run(["report"].iter().chain(&both)).code, 2, "{both:?}");
    }
}

#[test]
fn the_page_is_private_and_written_whole_or_not_at_all() {
    let tool = tool();
    let page = tool.write("page.html", "old");
    fs::set_permissions(&page, fs::Permissions::from_mode(0o644)).unwrap();
    let report = ["report".as_ref(), "--html".as_ref(), page.as_os_str()];
    tool.ok(report);
    let html = fs::read_to_string(&page).unwrap();
    assert!(html.starts_with("<!DOCTYPE html>") || html.starts_with("<!doctype html>"));
    assert!(html.trim_end().ends_with("</html>"));
    let mode = fs::metadata(&page).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let nowhere = tool.path("no-such-folder/page.html");
    let (error, code) = tool.json(["report".as_ref(), "--html".as_ref(), nowhere.as_os_str()]);
    assert_eq!((code, &error["error"]["kind"]), (3, &"not_found".into()));
}

#[test]
fn the_page_takes_the_place_of_no_database_and_goes_through_links_and_pipes() {
    let tool = tool();
    let db = tool.db();
    let link = tool.path("link.html");
    symlink(&db, &link).unwrap();
    for place in [&db, &link] {
        let (error, code) = tool.json(["report".as_ref(), "--html".as_ref(), place.as_os_str()]);
        assert_eq!((code, &error["error"]["kind"]), (4, &"conflict".into()));
    }
    tool.ok(["verify"]);

    let page = tool.write("page.html", "old");
    fs::remove_file(&link).unwrap();
    symlink(&page, &link).unwrap();
    tool.ok(["report".as_ref(), "--html".as_ref(), link.as_os_str()]);
    assert!(link.is_symlink());
    assert!(fs::read_to_string(&page).unwrap().contains("</html>"));

    let pipe = tool.path("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let through = std::thread::scope(|scope| {
        let reader = scope.spawn(|| fs::read_to_string(&pipe).unwrap());
        tool.ok(["report".as_ref(), "--html".as_ref(), pipe.as_os_str()]);
        reader.join().unwrap()
    });
    assert!(through.contains("</html>"));
}

#[test]
fn the_plan_computes_its_own_examples_and_takes_inputs() {
    let tool = Tool::new();
    let (plan, code) = tool.json(["plan"]);
    assert_eq!(code, 0, "it needs no database");
    assert_eq!(plan["daemon_memory"]["total_bytes"], 300_000_000);
    assert_eq!(plan["relay_memory"]["total_bytes"], 850_000_000);
    assert_eq!(plan["storage_growth"]["monthly_bytes"], 1_760_000_000);
    assert_eq!(plan["relays"]["relays"], 3);
    let text = tool.ok(["plan", "--users", "50"]).text();
    assert!(
        text.contains("> 10-100") && text.contains("Inputs"),
        "{text}"
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );

    let (set, _) = tool.json([
        "plan",
        "--set",
        "storage_growth.message_bytes=10KB",
        "--set",
        "storage_growth.limit_bytes=2GB",
    ]);
    assert_eq!(set["storage_growth"]["monthly_bytes"], 3_520_000_000_u64);
    assert_eq!(set["inputs"][0]["source"], "plan_example");
}

#[test]
fn a_measured_plan_takes_growth_and_limit_from_the_store() {
    let tool = tool();
    let (report, _) = tool.json(["report"]);
    let (plan, _) = tool.json(["plan", "--measured"]);
    let input = |name: &str| {
        let rows = plan["inputs"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name).unwrap().clone()
    };
    let messages = input("storage_growth.messages_per_session_hour");
    assert_eq!(messages["source"], "measured");
    assert_eq!(
        messages["value"],
        report["growth"]["messages_per_session_hour"]
    );
}

#[test]
fn a_measured_plan_leaves_no_room_where_the_database_is() {
    let tool = Tool::new();
    tool.write("src/a.jsonl", generator::transcript(1, 2_000_000));
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    let args = ["plan", "--measured", "--limit-bytes", "1MB"];
    let (plan, code) = tool.json(args);
    assert_eq!(code, 0, "{plan}");
    assert_eq!(plan["storage_growth"]["months_to_limit"], 0.0);
    let text = tool.ok(args).text();
    assert!(text.contains("full already"), "{text}");
}

#[test]
fn a_plan_takes_the_limit_that_is_given_unless_an_input_is_set() {
    let tool = Tool::new();
    let limit = |args: &[&str]| {
        let (plan, code) = tool.json(args);
        assert_eq!(code, 0);
        let rows = plan["inputs"].as_array().unwrap().clone();
        let mut rows = rows.into_iter();
        let row = rows.find(|row| row["name"] == "storage_growth.limit_bytes");
        let row = row.unwrap();
        (row["value"].as_f64().unwrap(), row["source"].clone())
    };
    assert_eq!(limit(&["plan"]), (1e9, "plan_default".into()));
    assert_eq!(
        limit(&["plan", "--limit-bytes", "5GB"]),
        (5e9, "given".into())
    );
    let both = [
        "plan",
        "--limit-bytes",
        "5GB",
        "--set",
        "storage_growth.limit_bytes=3GB",
    ];
    assert_eq!(limit(&both), (3e9, "given".into()));
}

#[test]
fn a_measured_plan_takes_the_effect_of_compaction_from_what_is_compacted() {
    let tool = Tool::new();
    tool.write("src/a.jsonl", generator::transcript(1, 2_000_000));
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    let footprints = || {
        let (plan, _) = tool.json(["plan", "--measured"]);
        let rows = plan["storage_growth"]["compacted"].as_array().unwrap();
        let footprint = |row: &serde_json::Value| row["footprint"].clone();
        rows.iter().map(footprint).collect::<Vec<_>>()
    };
    let before = footprints();
    assert_eq!(before.len(), 1, "nothing is compacted: {before:?}");
    assert_eq!(before[0]["source"], "plan_default");
    tool.ok(["compact"]);
    let after = footprints();
    assert_eq!(after[1]["source"], "measured");
    let (report, _) = tool.json(["report"]);
    let bytes = |name: &str| report[name].as_f64().unwrap();
    let compacted =
        (bytes("segment_bytes") + bytes("base_bytes")) / (bytes("raw_bytes") - bytes("hot_bytes"));
    assert!((after[1]["value"].as_f64().unwrap() - compacted).abs() < 1e-9);
    assert!(compacted < 1.0, "{compacted}");
}

#[test]
fn a_plan_of_impossible_input_is_refused_with_the_reason() {
    let tool = Tool::new();
    for set in [
        "daemon_memory.sessions=-1",
        "relays.tunnels_per_relay=0",
        "storage_growth.limit_bytes=0",
        "nothing.like_it=1",
        "daemon_memory.sessions=nan",
    ] {
        let (error, code) = tool.json(["plan", "--set", set]);
        assert_eq!(
            (code, &error["error"]["kind"]),
            (2, &"usage".into()),
            "{set}"
        );
    }
}

#[test]
fn a_measured_plan_has_the_day_and_the_month_of_the_report_and_its_dates() {
    let tool = Tool::new();
    tool.ok(["demo", "--generated", "--size", "2MB"]);
    let limit = ["--limit-bytes", "3MB"];
    let (report, _) = tool.json(["report"].iter().chain(&limit));
    let (plan, _) = tool.json(["plan", "--measured"].iter().chain(&limit));
    let planned = report["planned"].as_array().unwrap();
    let measured = |name: &str| {
        let row = planned.iter().find(|row| row["name"] == name);
        row.unwrap()["measured"].as_f64().unwrap()
    };
    let growth = &plan["storage_growth"];
    for (of_plan, of_report) in [
        ("daily_bytes", "bytes_per_day"),
        ("monthly_bytes", "bytes_per_month"),
    ] {
        let ratio = growth[of_plan].as_f64().unwrap() / measured(of_report);
        assert!((ratio - 1.0).abs() < 1e-4, "{of_plan}: {ratio}");
    }
    let days = |when: &str| {
        let reach = &report["forecast"]["without_compaction"]["limit"];
        reach[when]["days"].as_f64().unwrap()
    };
    let planned_days = growth["months_to_limit"].as_f64().unwrap() * 365.25 / 12.0;
    // The days looked at differ by a day or so.
    let forecast = days("earliest") * 0.8..days("latest") * 1.25;
    assert!(
        forecast.contains(&planned_days),
        "{planned_days} in {forecast:?}"
    );
}

#[test]
fn a_store_that_lies_idle_is_never_full_by_the_plan_and_by_the_report() {
    let tool = tool();
    let (report, _) = tool.json(["report"]);
    let limit = &report["forecast"]["without_compaction"]["limit"];
    assert_eq!(limit["likely"]["when"], "never", "{limit}");
    let (plan, _) = tool.json(["plan", "--measured"]);
    assert!(plan["storage_growth"]["months_to_limit"].is_null());
}
