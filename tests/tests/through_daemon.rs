//! `betcode-db` beside a daemon that serves the same store: it works through it.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use betcode_db::generator;
use betcode_tests::child::{Role, Worker};
use betcode_tests::lines;
use serde_json::Value;
use tempfile::TempDir;

const WORKER: &str = env!("CARGO_BIN_EXE_worker");

/// A store, files to import, and perhaps a daemon.
struct Place {
    folder: TempDir,
    daemon: Option<Worker>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("logs")).unwrap();
        Self {
            folder,
            daemon: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn db(&self) -> PathBuf {
        self.path("history.db")
    }

    fn log(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path("logs").join(name), bytes).unwrap();
    }

    fn serve(&mut self) {
        self.serve_with(&[]);
    }

    fn serve_with(&mut self, settings: &[(&str, &str)]) {
        let role = Role::new(WORKER, "daemon", Path::new("health_interval_ms=100"))
            .with("db", self.db())
            .with("compaction", "false");
        let mut daemon = settings
            .iter()
            .fold(role, |role, (name, value)| role.with(name, value))
            .start();
        assert_eq!(daemon.line().as_deref(), Some("serving"));
        self.daemon = Some(daemon);
    }

    fn tool(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(WORKER);
        command
            .arg("tool")
            .args(arguments)
            .arg("--db")
            .arg(self.db())
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// The document of a command that ends with `code`.
    fn json(&self, arguments: &[&str], code: i32) -> Value {
        let output = self.tool(&[arguments, &["--json"]].concat());
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {stderr}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// What an export writes is what the logs hold, byte for byte.
    fn assert_exported(&self, out: &str) {
        self.json(&["export", "--out", out], 0);
        for entry in fs::read_dir(self.path("logs")).unwrap() {
            let path = entry.unwrap().path();
            let exported = self.path(out).join(path.file_name().unwrap());
            assert!(
                fs::read(&path).unwrap() == fs::read(exported).unwrap(),
                "{} differs",
                path.display()
            );
        }
    }
}

fn log_of(seed: u64, messages: u64) -> Vec<u8> {
    (0..messages)
        .flat_map(|n| [lines::payload(seed, n).to_vec(), b"\n".to_vec()].concat())
        .collect()
}

#[test]
fn every_command_that_writes_works_through_the_daemon_and_gives_what_it_gives_without() {
    let mut place = Place::new();
    place.log("a.jsonl", &log_of(1, 400));
    place.log("torn.jsonl", b"{\"type\":\"user\"}\r\n\n\x00\xff torn");
    place.serve();
    let imported = place.json(&["import", "logs"], 0);
    assert_eq!(imported["via"], "daemon");
    assert_eq!(imported["sessions"], 2);
    // The torn line is continued where it ended.
    place.log(
        "torn.jsonl",
        b"{\"type\":\"user\"}\r\n\n\x00\xff torn no more\n",
    );
    let again = place.json(&["import", "logs"], 0);
    assert_eq!(
        (&again["resumed"], &again["messages"]),
        (&1.into(), &1.into())
    );
    assert_eq!(place.json(&["import", "logs"], 0)["messages"], 0);
    let compacted = place.json(&["compact", "--tier", "quick"], 0);
    assert_eq!(
        (&compacted["via"], &compacted["messages"]),
        (&"daemon".into(), &404.into())
    );
    let renamed = place.json(&["rename", "torn", "a new name"], 0);
    assert_eq!(renamed["via"], "daemon");
    let sessions = place.json(&["sessions", "torn"], 0);
    assert_eq!(sessions["sessions"][0]["name"], "a new name");
    let verified = place.json(&["verify"], 0);
    assert_eq!(
        (&verified["via"], &verified["messages"]),
        (&"daemon".into(), &404.into())
    );
    // Relative to where the tool runs, not to where the daemon does.
    let backup = place.json(&["backup", "copy.db"], 0);
    assert_eq!(
        (&backup["via"], &backup["messages"]),
        (&"daemon".into(), &404.into())
    );
    assert!(place.path("copy.db").exists());
    place.assert_exported("out");
    let report = place.json(&["report"], 0);
    let daemon = &report["daemon"];
    assert_eq!(daemon["pid"], place.daemon.as_ref().unwrap().id());
    assert_eq!(daemon["compaction"], "disabled");
    let answers = daemon["stages"].as_array().unwrap().iter();
    let answers = answers.filter(|s| s["stage"] == "answer" && s["count"].as_u64() > Some(0));
    assert_eq!(answers.count(), 1, "{daemon}");
    let deleted = place.json(&["delete", "torn", "--yes"], 0);
    assert_eq!(
        (&deleted["via"], &deleted["messages"]),
        (&"daemon".into(), &4.into())
    );
    assert_eq!(place.json(&["sessions"], 0)["total"], 1);
}

#[test]
fn the_daemons_limits_and_refusals_end_with_the_same_codes_as_without_it() {
    let mut place = Place::new();
    place.log("a.jsonl", &log_of(1, 10));
    place.serve();
    place.json(&["import", "logs"], 0);
    place.json(&["rename", "nobody", "x"], 3);
    fs::write(place.path("there.db"), "").unwrap();
    let error = place.json(&["backup", "there.db"], 4);
    assert!(
        error["error"]["what"]
            .as_str()
            .unwrap()
            .contains("there.db"),
        "{error}"
    );
    // A line longer than the daemon accepts is reported with its file; the others are imported.
    place.log(
        "long.jsonl",
        &[b"x".repeat(12 << 20), b"\n".to_vec()].concat(),
    );
    place.log("z.jsonl", &log_of(2, 10));
    let imported = place.json(&["import", "logs", "--max-payload-bytes", "64MiB"], 1);
    assert_eq!(
        (
            &imported["messages"],
            &imported["skipped"].as_array().unwrap().len()
        ),
        (&10.into(), &1)
    );
    assert!(
        imported["skipped"][0]["path"]
            .as_str()
            .unwrap()
            .ends_with("long.jsonl")
    );
}

#[test]
fn a_store_is_judged_by_the_limit_of_its_daemon_unless_another_is_given() {
    let mut place = Place::new();
    place.log("a.jsonl", &log_of(1, 10));
    place.serve_with(&[("max_db_bytes", "2000000")]);
    place.json(&["import", "logs"], 0);
    let judged = |more: &[&str]| {
        let report = place.json(&[&["report"], more].concat(), 0);
        let plan = place.json(&[&["plan", "--measured"], more].concat(), 0);
        let inputs = plan["inputs"].as_array().unwrap();
        let limit = inputs
            .iter()
            .find(|row| row["name"] == "storage_growth.limit_bytes")
            .unwrap();
        let doctor = place.json(&[&["doctor"], more].concat(), 0);
        let checks = doctor["checks"].as_array().unwrap();
        let check = checks.iter().find(|c| c["check"] == "limit").unwrap();
        assert_eq!(limit["value"].as_f64(), report["limit_bytes"].as_f64());
        (
            report["limit_bytes"].as_u64().unwrap(),
            limit["source"].as_str().unwrap().to_owned(),
            check["what"].as_str().unwrap().to_owned(),
        )
    };
    let (bytes, source, check) = judged(&[]);
    assert_eq!((bytes, source.as_str()), (2_000_000, "given"));
    assert!(check.contains("of 2.00 MB"), "{check}");
    let (bytes, source, check) = judged(&["--limit-bytes", "500MB"]);
    assert_eq!((bytes, source.as_str()), (500_000_000, "given"));
    assert!(check.contains("of 500 MB"), "{check}");
    let (bytes, source, _) = judged(&["--direct"]);
    assert_eq!((bytes, source.as_str()), (1_000_000_000, "plan_default"));
}

#[test]
fn a_report_keeps_the_level_that_the_daemon_keeps_below_its_threshold() {
    let mut place = Place::new();
    place.log("a.jsonl", &log_of(1, 2_000));
    place.serve_with(&[("max_db_bytes", "100000000")]);
    place.json(&["import", "logs"], 0);
    let mut daemon = place.daemon.take().unwrap();
    let report = || place.json(&["report"], 0);
    let used = |report: &Value| {
        let bytes = |field: &str| report[field].as_u64().unwrap();
        bytes("database_bytes") + bytes("wal_bytes")
    };
    let of_daemon = |report: &Value| {
        let levels = report["daemon"]["levels"].as_array().unwrap();
        let size = levels.iter().find(|l| l["resource"] == "sqlite_size");
        size.unwrap().clone()
    };
    let mut limited_to = |percent: u64| {
        let limit = used(&report()) * 100 / percent;
        daemon.tell(&format!("max_db_bytes={limit}"));
        assert_eq!(daemon.line().as_deref(), Some("reloaded"));
        (0..600)
            .find_map(|_| {
                let report = report();
                let sampled = of_daemon(&report)["limit"] == limit;
                if !sampled {
                    std::thread::sleep(Duration::from_millis(50));
                }
                sampled.then_some(report)
            })
            .unwrap()
    };
    // A log that is long for the new limit is cut once nobody appends: only then the size stays.
    let mut above = limited_to(72);
    for _ in 0..100 {
        let before = used(&above);
        std::thread::sleep(Duration::from_millis(500));
        above = limited_to(72);
        if used(&above) == before {
            break;
        }
    }
    assert_eq!(
        (&above["level"], &of_daemon(&above)["level"]),
        (&"warning".into(), &"warning".into())
    );
    let below = limited_to(67);
    let fraction = below["used_fraction"].as_f64().unwrap();
    assert!((0.65..0.70).contains(&fraction), "{fraction}");
    assert_eq!(of_daemon(&below)["level"], "warning");
    assert_eq!(below["level"], "warning");
    let limit = below["limit_bytes"].to_string();
    let judged = place.json(&["report", "--limit-bytes", &limit], 0);
    assert_eq!(judged["level"], "ok", "against a limit of one's own");
}

#[test]
fn an_import_at_the_limit_waits_for_the_compaction_of_the_daemon_and_goes_on() {
    let mut place = Place::new();
    for n in 0..8 {
        place.log(
            &format!("{n}.jsonl"),
            generator::transcript(n, 3_000_000).as_ref(),
        );
    }
    place.serve_with(&[("compaction", "true"), ("max_db_bytes", "6000000")]);
    let imported = place.json(&["import", "logs"], 0);
    assert_eq!(imported["via"], "daemon");
    assert_eq!(imported["sessions"], 8, "{imported}");
    place.assert_exported("out");
}

#[test]
fn a_report_and_its_daemon_show_one_size_and_one_level() {
    let mut place = Place::new();
    for n in 0..200 {
        let lines = generator::transcript(n, 60_000);
        place.log(&format!("{n}.jsonl"), lines.as_ref());
    }
    // It looks at its levels when it begins, and then not for long.
    place.serve_with(&[("max_db_bytes", "1000000"), ("health_interval_ms", "60000")]);
    place.json(&["import", "logs"], 6);
    let report = place.json(&["report"], 0);
    let levels = report["daemon"]["levels"].as_array().unwrap();
    let size = levels
        .iter()
        .find(|l| l["resource"] == "sqlite_size")
        .unwrap();
    let bytes = |field: &str| report[field].as_u64().unwrap();
    assert_eq!(size["used"], bytes("database_bytes") + bytes("wal_bytes"));
    assert_eq!(size["level"], report["level"]);
    assert_ne!(report["level"], "ok", "{report}");
}

#[test]
fn old_files_are_left_alone_through_a_daemon_as_well() {
    let mut place = Place::new();
    for name in ["old.jsonl", "new.jsonl"] {
        place.log(name, &log_of(1, 10));
    }
    let file = File::options()
        .write(true)
        .open(place.path("logs/old.jsonl"))
        .unwrap();
    let days_100 = Duration::from_secs(100 * 86_400);
    file.set_modified(std::time::SystemTime::now() - days_100)
        .unwrap();
    place.serve();
    let imported = place.json(&["import", "logs", "--modified-within", "90d"], 0);
    assert_eq!(imported["via"], "daemon");
    assert_eq!(
        (&imported["sessions"], &imported["left_old"]),
        (&1.into(), &1.into())
    );
}

#[test]
fn a_measured_plan_has_the_limits_and_levels_of_the_daemon_unless_it_is_direct() {
    let mut place = Place::new();
    place.log("a.jsonl", &log_of(1, 10));
    place.serve_with(&[
        ("max_sessions", "10"),
        ("max_clients", "7"),
        ("max_subprocesses", "3"),
        ("max_memory_bytes", "300000000"),
    ]);
    place.json(&["import", "logs"], 0);
    let planned = |more: &[&str]| {
        let plan = place.json(&[&["plan", "--measured"], more].concat(), 0);
        let rows = plan["inputs"].as_array().unwrap();
        let inputs: Vec<_> = [
            "daemon_memory.sessions",
            "daemon_memory.clients",
            "daemon_memory.subprocesses",
            "memory_budget.limit_bytes",
        ]
        .iter()
        .map(|name| rows.iter().find(|row| row["name"] == *name).unwrap())
        .map(|row| (row["value"].as_f64().unwrap(), row["source"].clone()))
        .collect();
        (inputs, plan)
    };
    let (inputs, plan) = planned(&[]);
    let given = |value| (value, Value::from("given"));
    assert_eq!(inputs, [given(10.0), given(7.0), given(3.0), given(3e8)]);
    let sessions = &plan["thresholds"][0];
    assert!(sessions["used"].is_number());
    assert_eq!(sessions["limit"], 10);
    assert_eq!(sessions["level"], "ok");
    assert!(plan["daemon_measured"].is_object());
    let (inputs, _) = planned(&["--set", "daemon_memory.sessions=4"]);
    assert_eq!(inputs[0], given(4.0));

    let (inputs, plan) = planned(&["--direct"]);
    assert_eq!(inputs[0], (20.0, "plan_example".into()));
    assert_eq!(plan["daemon_measured"], Value::Null);
    assert_eq!(plan["thresholds"][0]["used"], Value::Null);
    assert!(plan["thresholds"][5]["used"].is_number());
}

#[test]
fn direct_works_on_the_file_beside_the_daemon() {
    let mut place = Place::new();
    place.log("a.jsonl", &log_of(1, 100));
    place.serve();
    for command in [
        &["import", "logs", "--direct"][..],
        &["compact", "--tier", "quick", "--direct"],
        &["verify", "--direct"],
    ] {
        assert_eq!(place.json(command, 0)["via"], "file", "{command:?}");
    }
    assert_eq!(place.json(&["verify"], 0)["messages"], 100);
    let text = place.tool(&["verify"]);
    let stderr = String::from_utf8(text.stderr).unwrap();
    assert!(stderr.contains("through the daemon"), "{stderr}");
    place.assert_exported("out");
}

#[test]
fn a_daemon_that_holds_the_store_and_cannot_be_reached_is_an_error_that_says_what_to_do() {
    let place = Place::new();
    place.log("a.jsonl", &log_of(1, 3));
    place.json(&["import", "logs"], 0);
    let held = File::create(place.path("history.db-daemon.lock")).unwrap();
    fs::write(
        place.path("history.db-daemon.lock"),
        r#"{"pid": 4242, "socket": "/nowhere/daemon.sock"}"#,
    )
    .unwrap();
    held.lock().unwrap();
    let error = place.json(&["verify"], 5);
    let text = error["error"].to_string();
    assert!(text.contains("4242") && text.contains("--direct"), "{text}");
    // Reading needs no daemon, and a report says that it did not answer.
    let report = place.json(&["report"], 0);
    assert!(report["daemon"]["unreachable"].is_string(), "{report}");
    assert_eq!(place.json(&["sessions"], 0)["total"], 1);
    assert_eq!(place.json(&["verify", "--direct"], 0)["via"], "file");
    drop(held);
    assert_eq!(place.json(&["verify"], 0)["via"], "file");
}

#[test]
fn a_daemon_killed_under_an_import_loses_nothing_and_the_next_import_goes_on() {
    let mut place = Place::new();
    for n in 0..30 {
        place.log(&format!("{n}.jsonl"), &log_of(n, 300));
    }
    place.serve();
    let mut import = place
        .command(&["import", "logs", "--json"])
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let begun = |place: &Place| place.json(&["sessions"], 0)["total"].as_u64() >= Some(3);
    while !begun(&place) && import.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "nothing was imported");
    }
    place.daemon.take().unwrap().kill();
    let code = import.wait().unwrap().code();
    assert!(matches!(code, Some(0 | 5)), "{code:?}");
    let rest = place.json(&["import", "logs"], 0);
    assert_eq!(rest["via"], "file");
    assert_eq!(place.json(&["verify"], 0)["messages"], 9000);
    place.assert_exported("out");
}

#[test]
fn a_database_that_a_daemon_serves_is_not_replaced_under_it() {
    let mut place = Place::new();
    place.log("a.jsonl", &log_of(1, 50));
    place.json(&["import", "logs"], 0);
    place.json(&["backup", "copy.db"], 0);
    place.serve();
    let refused = place.json(&["restore", "copy.db", "--replace"], 5);
    let why = refused["error"]["why"].as_str().unwrap();
    let pid = place.daemon.as_ref().unwrap().id();
    assert!(why.contains(&format!("process {pid}")), "{why}");
    assert!(!place.path("history.db.replaced").exists());
    place.log("b.jsonl", &log_of(2, 50));
    place.json(&["import", "logs"], 0);
    place.assert_exported("out");
}
