//! `compact`, `verify`, `backup`, `restore`, `report`, `search`, names and deletion.

use std::fs;
use std::os::unix::fs::FileExt;

use betcode_db::generator;
use serde_json::Value;

use crate::tool::{Tool, assert_same};

fn tool() -> Tool {
    let tool = Tool::new();
    tool.write("src/a.jsonl", generator::transcript(1, 900_000));
    tool.write("src/b.jsonl", generator::stream(2, 900_000));
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    tool
}

#[test]
fn compacting_shrinks_the_file_on_disk_and_keeps_every_byte() {
    let tool = tool();
    let before = fs::metadata(tool.db()).unwrap().len();
    let (plan, code) = tool.json(["compact", "--dry-run"]);
    assert_eq!((code, plan["steps"].as_array().unwrap().len()), (0, 2));
    assert_eq!(
        fs::metadata(tool.db()).unwrap().len(),
        before,
        "a dry run does nothing"
    );
    let (done, code) = tool.json(["compact"]);
    assert_eq!(code, 0);
    for field in [
        "bytes_before",
        "bytes_after",
        "messages",
        "segments",
        "seconds",
    ] {
        assert!(done[field].is_number(), "{field}");
    }
    assert!(done["bytes_after"].as_u64() < done["bytes_before"].as_u64());
    assert!(fs::metadata(tool.db()).unwrap().len() < before / 3);
    assert_same(&tool.path("src"), &tool.export("out"));
    assert_eq!(
        tool.json(["compact"]).0["messages"],
        0,
        "there is nothing left to do"
    );
}

#[test]
fn commands_agree_on_space_that_a_deletion_left_free() {
    let tool = tool();
    tool.ok(["compact"]);
    tool.ok(["delete", "a", "--yes"]);
    let free = tool.json(["report"]).0["free_bytes"].as_u64().unwrap();
    assert!(free > 0);
    let plan = tool.json(["compact", "--dry-run"]).0;
    assert_eq!(
        (&plan["steps"], &plan["free_bytes"]),
        (&serde_json::json!([]), &free.into())
    );
    let shown = tool.ok(["compact", "--dry-run"]).text();
    assert!(shown.contains("back to the disk"), "{shown}");
    let shown = tool.ok(["doctor"]).text();
    let line = shown.lines().find(|line| line.starts_with("free pages"));
    assert!(line.is_some_and(|line| line.contains("note")), "{shown}");
    let shown = tool.ok(["compact"]).text();
    assert!(shown.contains("space was given back"), "{shown}");
    assert_eq!(tool.json(["report"]).0["free_bytes"], 0);
    assert!(!tool.ok(["compact"]).text().contains("given back"));
}

#[test]
fn a_compaction_that_could_not_do_its_work_does_not_say_that_there_was_none() {
    let tool = Tool::new();
    let source = tool.write("a.jsonl", "{}\nto be damaged\n{}\n");
    tool.ok(["import".as_ref(), source.as_os_str()]);
    tool.damage("to be damaged");
    let ran = tool.run(["compact"]);
    assert_eq!(ran.code, 1, "{}", ran.stderr);
    assert!(
        ran.text().starts_with("Nothing was compacted"),
        "{}",
        ran.text()
    );
    assert!(ran.stderr.contains("not compacted: a"), "{}", ran.stderr);
}

#[test]
fn inspect_accounts_for_every_stored_byte() {
    let tool = tool();
    let (hot, code) = tool.json(["inspect", "a"]);
    assert_eq!((code, hot["segment_bytes"].as_u64()), (0, Some(0)));
    assert_eq!(hot["hot_bytes"], hot["raw_bytes"]);
    tool.ok(["compact"]);
    let (found, _) = tool.json(["inspect", "a"]);
    assert_eq!(found["raw_bytes"], hot["raw_bytes"]);
    for (list, field) in [
        ("parts", "stored_bytes"),
        ("types", "apportioned_bytes"),
        ("segments", "stored_bytes"),
    ] {
        let rows = found[list].as_array().unwrap();
        let sum: u64 = rows.iter().filter_map(|row| row[field].as_u64()).sum();
        assert_eq!(found["stored_bytes"], sum, "{list}");
    }
    let shown = tool.ok(["inspect", "a"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("text") && shown.contains("assistant"),
        "{shown}"
    );
    assert_eq!(tool.run(["inspect", "nothing"]).code, 3);
}

#[test]
fn one_session_can_be_compacted_alone_and_quickly() {
    let tool = tool();
    let (done, _) = tool.json(["compact", "--session", "a", "--tier", "quick"]);
    let (list, _) = tool.json(["sessions", "--sort", "id"]);
    assert_eq!(list["sessions"][0]["messages"], done["messages"]);
    assert_eq!(list["sessions"][1]["segments"], 0);
}

#[test]
fn the_report_has_its_fields() {
    let tool = tool();
    tool.ok(["compact"]);
    let (report, code) = tool.json(["report"]);
    assert_eq!((code, &report["level"]), (0, &"ok".into()));
    for field in [
        "database_bytes",
        "wal_bytes",
        "limit_bytes",
        "used_fraction",
        "raw_bytes",
        "uncompacted_bytes",
        "footprint",
        "footprint_target",
        "sessions",
        "messages",
    ] {
        assert!(report[field].is_number(), "{field}: {report}");
    }
    for field in [
        "active_hours",
        "wall_hours",
        "messages_per_session_hour",
        "bytes_per_message",
        "bytes_per_session_hour",
    ] {
        assert!(report["growth"][field].is_number(), "{field}");
    }
    assert_eq!(
        (&report["sessions"], &report["footprint_target"]),
        (&2.into(), &0.3.into())
    );
    let used = report["database_bytes"].as_f64().unwrap() + report["wal_bytes"].as_f64().unwrap();
    let footprint = used / report["uncompacted_bytes"].as_f64().unwrap();
    assert!((report["footprint"].as_f64().unwrap() - footprint).abs() < 1e-9);
    assert!(footprint < 0.2, "{footprint}");
}

#[test]
fn levels_follow_the_limit() {
    let tool = tool();
    let used = fs::metadata(tool.db()).unwrap().len();
    for (limit, level) in [
        (used * 2, "ok"),
        (used * 10 / 8, "warning"),
        (used * 100 / 95, "critical"),
    ] {
        let (report, _) = tool.json(["report", "--limit-bytes", &limit.to_string()]);
        assert_eq!(report["level"], level, "{report}");
    }
}

#[test]
fn damage_to_the_pages_is_reported_line_by_line() {
    let tool = tool();
    let connection = rusqlite::Connection::open(tool.db()).unwrap();
    let sql = "SELECT rootpage FROM sqlite_schema WHERE name = 'hot_messages'";
    let root: u32 = connection.query_row(sql, [], |row| row.get(0)).unwrap();
    drop(connection);
    let file = fs::File::options().write(true).open(tool.db()).unwrap();
    // The last page below it is another table's then.
    file.write_all_at(&[0, 0, 0, 3], u64::from(root - 1) * 4096 + 8)
        .unwrap();
    let (verified, code) = tool.json(["verify"]);
    assert_eq!(code, 1);
    let problems = verified["problems"].as_array().unwrap();
    let structure = problems.iter().filter(|p| p["kind"] == "structure");
    assert!(structure.count() > 1, "{verified}");
    for problem in problems {
        let what = problem["what"].as_str().unwrap();
        assert!(!what.contains(['\n', '*']), "{what}");
    }
}

#[test]
fn damage_is_named_and_takes_nothing_else_with_it() {
    let tool = tool();
    tool.ok(["compact"]);
    // A bit in the middle of the biggest segment: SQLite's own check does not see it.
    let (at, length) = biggest_segment(&tool);
    let file = fs::File::options()
        .read(true)
        .write(true)
        .open(tool.db())
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at + length / 2).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at + length / 2)
        .unwrap();
    drop(file);

    let (verified, code) = tool.json(["verify"]);
    assert_eq!((code, &verified["ok"]), (1, &Value::Bool(false)));
    let (report, _) = tool.json(["report"]);
    let intact = |field| verified[field].as_u64().unwrap();
    assert_eq!(intact("sessions"), 1, "one of two is damaged: {verified}");
    assert_eq!(intact("segments") + 1, report["segments"].as_u64().unwrap());
    assert!(intact("messages") < report["messages"].as_u64().unwrap());
    let problems = verified["problems"].as_array().unwrap();
    assert!(
        problems.iter().any(|p| p["session"].is_string()),
        "{verified}"
    );
    let (exported, code) = tool.json([
        "export".as_ref(),
        "--out".as_ref(),
        tool.path("out").as_os_str(),
    ]);
    assert_eq!((code, &exported["sessions"]), (9, &1.into()), "{exported}");
    let salvage = [
        "export",
        "--salvage",
        "--out",
        tool.path("out").to_str().unwrap(),
    ]
    .map(str::to_owned);
    let (salvaged, code) = tool.json(salvage);
    assert_eq!(code, 9, "{salvaged}");
    let part = &salvaged["salvaged"][0];
    let lost: u64 = part["missing"]
        .as_array()
        .unwrap()
        .iter()
        .map(|run| {
            run["last_sequence"].as_u64().unwrap() - run["first_sequence"].as_u64().unwrap() + 1
        })
        .sum();
    let (sessions, _) = tool.json(["sessions", part["session"].as_str().unwrap()]);
    let all = sessions["sessions"][0]["messages"].as_u64().unwrap();
    assert_eq!(part["messages"].as_u64().unwrap() + lost, all, "{part}");
    // Each line that was written is one of the source's, in its order.
    let path = part["path"].as_str().unwrap();
    assert!(path.ends_with(".salvaged.jsonl"), "{path}");
    let name = path.rsplit('/').next().unwrap().replace(".salvaged", "");
    let source = fs::read_to_string(tool.path("src").join(name)).unwrap();
    let mut lines = source.lines();
    for line in fs::read_to_string(path).unwrap().lines() {
        assert!(lines.any(|one| one == line), "{line}");
    }
    assert_eq!(
        tool.run(["backup".as_ref(), tool.path("copy.db").as_os_str()])
            .code,
        9
    );
    assert!(!tool.path("copy.db").exists(), "a damaged copy is not kept");
}

/// Where the content of the biggest segment stands in the file, found by its bytes.
fn biggest_segment(tool: &Tool) -> (u64, u64) {
    let connection = rusqlite::Connection::open(tool.db()).unwrap();
    let encoded: Vec<u8> = connection
        .query_row(
            "SELECT encoded FROM segments ORDER BY length(encoded) DESC LIMIT 1",
            [],
            |r| r.get(0),
        )
        .unwrap();
    drop(connection);
    let file = fs::read(tool.db()).unwrap();
    // Overflow pages break it up: a piece from its middle stands within one page.
    let middle = &encoded[encoded.len() / 2..encoded.len() / 2 + 64];
    let at = file
        .windows(64)
        .position(|w| w == middle)
        .expect("the segment stands in the file");
    (at as u64, 64)
}

#[test]
fn a_backup_restores_to_the_same_history() {
    let tool = tool();
    tool.ok(["compact", "--session", "a"]);
    let copy = tool.path("backups.db");
    tool.ok(["backup".as_ref(), copy.as_os_str()]);
    assert_eq!(
        tool.run(["backup".as_ref(), copy.as_os_str()]).code,
        4,
        "never overwritten"
    );
    tool.ok(["delete", "a", "--yes"]);
    assert_eq!(
        tool.run(["restore".as_ref(), copy.as_os_str()]).code,
        4,
        "not over a database"
    );
    let (restored, code) = tool.json(["restore".as_ref(), copy.as_os_str(), "--replace".as_ref()]);
    assert_eq!(code, 0);
    assert!(fs::metadata(restored["moved_aside"].as_str().unwrap()).is_ok());
    assert_same(&tool.path("src"), &tool.export("out"));
}

#[test]
fn search_finds_text_in_compacted_and_in_fresh_messages() {
    let tool = Tool::new();
    let file = tool.write("x.jsonl", "{\"t\":\"a needle\"}\n{}\n");
    tool.ok(["import".as_ref(), file.as_os_str()]);
    tool.ok(["compact"]);
    fs::write(&file, "{\"t\":\"a needle\"}\n{}\n{\"t\":\"NEEDLE [2]\"}\n").unwrap();
    tool.ok(["import".as_ref(), file.as_os_str()]);
    assert_eq!(
        tool.ok(["search", "needle"]).text(),
        "x:1: {\"t\":\"a needle\"}\n"
    );
    let (both, _) = tool.json(["search", "needle", "--ignore-case"]);
    assert_eq!(both["matches"].as_array().unwrap().len(), 2);
    assert_eq!(
        tool.ok(["search", "[2]"]).text(),
        "x:3: {\"t\":\"NEEDLE [2]\"}\n"
    );
    assert_eq!(tool.run(["search", "--regex", "[2"]).code, 2);
    assert_eq!(tool.run(["search", "nothing like it"]).code, 3);
    let (typed, _) = tool.json(["search", "needle", "--type", "(untyped)"]);
    assert_eq!(typed["matches"][0]["type"], "(untyped)");
    assert_eq!(tool.run(["search", "needle", "--type", "user"]).code, 3);
}

#[test]
fn sessions_are_listed_named_and_deleted() {
    let tool = tool();
    tool.ok(["rename", "a", "Fix the login form"]);
    let (list, _) = tool.json(["sessions", "login"]);
    assert_eq!(
        (&list["total"], &list["sessions"][0]["session"]),
        (&1.into(), &"a".into())
    );
    let none = tool.ok(["sessions", "nothing like it"]);
    assert_eq!(none.text(), "No session matches.\n");
    let refused = tool.run(["delete", "a"]);
    assert_eq!(refused.code, 2, "without --yes nothing goes");
    assert_eq!(tool.run(["delete", "a", "misspelt", "--yes"]).code, 3);
    assert_eq!(tool.json(["sessions"]).0["total"], 2, "all or none");
    tool.ok(["delete", "a", "--yes"]);
    assert_eq!(tool.json(["sessions"]).0["total"], 1);
    assert_eq!(tool.run(["verify"]).code, 0);
}

#[test]
fn a_working_directory_is_found_as_people_name_it() {
    let tool = Tool::new();
    let directory = tool.path("project");
    fs::create_dir(&directory).unwrap();
    let line = serde_json::json!({"type": "user", "cwd": directory, "message": {"content": "x"}});
    let source = tool.write("a.jsonl", format!("{line}\n"));
    tool.ok(["import".as_ref(), source.as_os_str()]);
    let found = |name: &str| {
        let mut command = tool.command(["sessions", "--json", "--working-directory", name]);
        let output = command.current_dir(tool.path("")).output().unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document["total"].as_u64().unwrap()
    };
    let absolute = directory.to_str().unwrap();
    for name in [absolute, &format!("{absolute}/"), "project", "./project//"] {
        assert_eq!(found(name), 1, "{name}");
    }
    assert_eq!(found("/"), 0);
    assert_eq!(found(""), 0, "they all tell theirs");
}

#[test]
fn a_beginning_that_fits_two_sessions_is_refused() {
    let tool = Tool::new();
    tool.write("src/abc.jsonl", "{}\n");
    tool.write("src/abd.jsonl", "{}\n");
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    let ran = tool.run(["cat", "ab"]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.stderr.contains("abc") && ran.stderr.contains("abd"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_dry_run_says_what_it_would_save_and_lists_twenty_segments_of_many() {
    let tool = Tool::new();
    for n in 0..24 {
        tool.write(format!("src/{n}.jsonl"), generator::transcript(n, 60_000));
    }
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    let (plan, _) = tool.json(["compact", "--dry-run"]);
    let steps = plan["steps"].as_array().unwrap().len();
    assert!(steps >= 24, "{plan}");
    let saves = plan["saves_bytes_estimate"].as_u64().unwrap();
    let stored = plan["stored_bytes"].as_u64().unwrap();
    assert!(saves > stored / 2 && saves < stored, "{saves} of {stored}");
    let shown = tool.ok(["compact", "--dry-run"]).text();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[0].starts_with("Would write ") && lines[1].starts_with("Would save about "));
    assert_eq!(shown.matches("  deep ").count(), 20, "{shown}");
    assert_eq!(
        *lines.last().unwrap(),
        format!("  … and {} more", steps - 20)
    );
}

#[test]
fn a_name_that_is_removed_is_reported_as_that() {
    let tool = tool();
    tool.ok(["rename", "a", "first"]);
    assert!(
        tool.ok(["rename", "a", ""])
            .text()
            .contains("a has no name now")
    );
}
