//! `demo`: what the README promises.

use std::fs;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use betcode_db::generator;

use crate::tool::{Ran, Tool, interrupt};

#[test]
fn without_sessions_the_demo_generates_some_and_everything_comes_back() {
    let tool = Tool::new();
    let ran = crate::tool::Ran::of(
        tool.command(["demo", "--size", "1MB", "--remove"])
            .env_remove("BETCODE_DB")
            .output()
            .unwrap(),
    );
    let text = ran.text();
    assert_eq!(ran.code, 0, "{text}{}", ran.stderr);
    for word in [
        "generated from seed 1",
        "Recorded",
        "Compacted",
        "Verified",
        "byte for byte",
        "Footprint",
        "within the plan's 30 %",
        "Biggest",
        "KB a day recorded; 1.00 GB is reached: ",
    ] {
        assert!(text.contains(word), "{word}: {text}");
    }
    assert!(text.lines().count() <= 20, "{text}");
    let left: Vec<_> = fs::read_dir(tool.path("")).unwrap().collect();
    assert!(left.is_empty(), "--remove leaves nothing: {left:?}");
}

#[test]
fn the_users_own_sessions_come_first_and_are_only_read() {
    let tool = Tool::new();
    let own = tool.write(
        ".claude/projects/p/s.jsonl",
        generator::transcript(8, 300_000),
    );
    let before = fs::read(&own).unwrap();
    let (story, code) = tool.json(["demo"]);
    assert_eq!((code, &story["generated"]), (0, &false.into()), "{story}");
    assert_eq!(story["replay"]["differing"], serde_json::json!([]));
    assert_eq!(story["replay"]["bytes"], before.len());
    assert_eq!(fs::read(&own).unwrap(), before);
    assert!(tool.db().exists(), "the database that was named stays");
    assert_eq!(tool.json(["demo"]).1, 4, "a store in use is not touched");
}

#[test]
fn the_session_that_the_demo_names_is_found_by_that_name() {
    let tool = Tool::new();
    for (seed, name) in [(8, "docs__history__one"), (9, "docs__history__other")] {
        tool.write(
            format!(".claude/projects/p/{name}.jsonl"),
            generator::transcript(seed, 100_000),
        );
    }
    let story = tool.run(["demo"]).text();
    assert!(story.contains("betcode-db report "), "{story}");
    assert!(story.lines().count() <= 26, "{story}");
    let command = story.lines().find(|line| line.contains("betcode-db cat "));
    let words: Vec<&str> = command.unwrap().split_whitespace().skip(1).collect();
    let ran = tool.run(&words);
    assert_eq!(ran.code, 0, "{words:?}: {}", ran.stderr);
    assert_eq!(ran.text().lines().count(), 3);
}

#[test]
fn an_interrupted_demo_is_an_error_document() {
    let tool = Tool::new();
    for n in 0..6 {
        tool.write(format!("src/{n}.jsonl"), generator::stream(n, 4_000_000));
    }
    let mut child = tool
        .command([
            "demo".as_ref(),
            tool.path("src").as_os_str(),
            "--json".as_ref(),
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // From then on it listens, and has most of its work before it.
    while !tool.db().exists() && child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    interrupt(&child);
    let ran = Ran::of(child.wait_with_output().unwrap());
    let document: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(
        (ran.code, &document["error"]["kind"]),
        (130, &"interrupted".into())
    );
}

#[test]
fn a_path_to_the_demo_must_hold_sessions() {
    let tool = Tool::new();
    assert_eq!(tool.run(["demo", "/nowhere/at/all"]).code, 3);
}

#[test]
fn what_to_try_next_works_as_it_stands_from_any_folder() {
    let tool = Tool::new();
    tool.write("src/a.jsonl", "{}\n");
    let mut demo = tool.command(["demo", "src", "--db", "my store's.db"]);
    let story = Ran::of(demo.current_dir(tool.path("")).output().unwrap()).text();
    let export = story
        .lines()
        .find(|line| line.contains("export BETCODE_DB"))
        .unwrap();
    let mut shell = std::process::Command::new("sh");
    let script = format!("{export}; exec \"$0\" sessions");
    let program = env!("CARGO_BIN_EXE_betcode-db");
    let ran = Ran::of(shell.args(["-c", &script, program]).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
}

#[test]
fn a_demo_that_is_interrupted_early_ends_and_later_names_the_store_it_leaves() {
    let tool = Tool::new();
    let mut child = tool
        .command(["demo", "--generated", "--size", "300MB"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let generates = || {
        let folders = std::fs::read_dir(tool.path("")).unwrap().flatten();
        folders
            .map(|f| f.path().join("sessions"))
            .any(|f| f.exists())
    };
    while !generates() && child.try_wait().unwrap().is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    interrupt(&child);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    let text = ran.text();
    assert!(
        !text.contains("generated from seed"),
        "it ended before: {text}"
    );

    for n in 0..6 {
        tool.write(format!("src/{n}.jsonl"), generator::stream(n, 4_000_000));
    }
    let mut demo = tool.command(["demo", "src", "--db", "left.db"]);
    let child = demo
        .current_dir(tool.path(""))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while !tool.path("left.db").exists() {
        thread::sleep(Duration::from_millis(1));
    }
    interrupt(&child);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130, "{}", ran.stderr);
    assert!(ran.stderr.contains("left.db holds"), "{}", ran.stderr);
}

#[test]
fn generated_sessions_end_today_so_that_the_report_has_weeks_of_use_and_dates() {
    let tool = Tool::new();
    // So little that a year of it fills the store.
    let limit = "3MB";
    tool.ok([
        "demo",
        "--generated",
        "--size",
        "2MB",
        "--limit-bytes",
        limit,
    ]);
    let (report, _) = tool.json(["report", "--limit-bytes", limit]);
    let forecast = &report["forecast"];
    assert_eq!(forecast["window_days"], 28, "{forecast}");
    assert!(forecast["days_used"].as_u64().unwrap() >= 8, "{forecast}");
    assert_eq!(forecast["ignored_hours"], 0, "{forecast}");
    assert_eq!(
        forecast["without_compaction"]["limit"]["likely"]["when"],
        "at"
    );
    let workdays = report["planned"]
        .as_array()
        .unwrap()
        .iter()
        .find(|row| row["name"] == "workdays_per_month");
    assert!(workdays.unwrap()["measured"].as_f64().unwrap() > 8.0);
}

#[test]
fn a_tiny_history_is_not_reported_to_have_grown_by_compaction() {
    let tool = Tool::new();
    let source = tool.write("src/a.jsonl", "{}\n");
    let story = tool.ok(["demo".as_ref(), source.as_os_str()]).text();
    assert!(story.contains("an empty one "), "{story}");
    assert!(story.contains("tells nothing yet"), "{story}");
    assert_eq!(story.matches('%').count(), 1, "of the limit: {story}");
}
