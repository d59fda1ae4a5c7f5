//! `retain`: what goes is shown first, and stands in the archive before it is gone.

use betcode_db::generator;
use rusqlite::Connection;

use crate::tool::{Tool, assert_same};

/// Two sessions: `a`, last used 200 days before `b`.
fn tool() -> Tool {
    let tool = Tool::new();
    tool.write("src/a.jsonl", generator::transcript(1, 200_000));
    tool.write("src/b.jsonl", generator::stream(2, 200_000));
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    let db = Connection::open(tool.db()).unwrap();
    let days_200_ms = 200 * 86_400_000_i64;
    db.execute(
        "UPDATE sessions SET updated_ms = updated_ms - ?1, last_time_ms = NULL
         WHERE session_id = 'a'",
        [days_200_ms],
    )
    .unwrap();
    tool
}

fn sessions(tool: &Tool) -> u64 {
    tool.json(["sessions"]).0["total"].as_u64().unwrap()
}

#[test]
fn it_shows_what_would_go_and_removes_only_with_yes() {
    let tool = tool();
    let (plan, code) = tool.json(["retain", "--older-than", "90d"]);
    assert_eq!((code, &plan["dry_run"]), (0, &true.into()));
    assert_eq!(plan["removals"].as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(plan["removals"][0]["reason"], "age");
    assert_eq!(sessions(&tool), 2);
    let text = tool.ok(["retain", "--older-than", "90d"]).text();
    assert!(text.contains("Nothing was removed"), "{text}");
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );

    let (done, code) = tool.json(["retain", "--older-than", "90d", "--yes"]);
    assert_eq!((code, &done["removed"][0]["session_id"]), (0, &"a".into()));
    assert_eq!(sessions(&tool), 1);
}

#[test]
fn without_a_rule_it_is_refused() {
    let tool = tool();
    for args in [
        &["retain"][..],
        &["retain", "--yes"],
        &["retain", "--older-than", "90"],
        &["retain", "--older-than", "0d", "--yes"],
        &["retain", "--keep-bytes", "0", "--yes"],
    ] {
        assert_eq!(tool.run(args).code, 2, "{args:?}");
    }
    assert_eq!(tool.run(["retain", "--session", "nobody", "--yes"]).code, 3);
    assert_eq!(sessions(&tool), 2);
}

#[test]
fn every_command_works_on_the_archive_and_gives_every_byte_back() {
    let tool = tool();
    let archive = tool.path("archive.db");
    let archive = archive.to_str().unwrap();
    let removal = [
        "retain",
        "--session",
        "a",
        "--session",
        "b",
        "--archive",
        archive,
    ];
    let (done, code) = tool.json(removal.iter().chain(&["--yes"]));
    assert_eq!(
        (code, done["removed"].as_array().unwrap().len()),
        (0, 2),
        "{done}"
    );
    assert!(done["archive_bytes"].as_u64().unwrap() > 0);
    assert_eq!(sessions(&tool), 0);

    let out = tool.path("out");
    tool.ok(["export", "--db", archive, "--out", out.to_str().unwrap()]);
    assert_same(&tool.path("src"), &out);
    tool.ok(["verify", "--db", archive]);
    let (report, _) = tool.json(["report", "--db", archive]);
    assert_eq!(
        (&report["sessions"], &report["hot_messages"]),
        (&2.into(), &0.into())
    );
}

#[test]
fn an_archive_that_cannot_be_written_removes_nothing() {
    let tool = tool();
    let file = tool.write("file", "no folder");
    for archive in [file.join("archive.db"), file, tool.db()] {
        let archive = archive.to_str().unwrap();
        let (error, code) = tool.json(["retain", "--session", "a", "--archive", archive, "--yes"]);
        assert_ne!(code, 0);
        assert_eq!(error["error"]["what"], "nothing was removed", "{error}");
        assert_eq!(sessions(&tool), 2);
    }
}

#[test]
fn sessions_that_stay_because_they_were_just_imported_are_told_as_that() {
    let tool = tool();
    let told = tool.ok(["retain", "--keep-bytes", "1KB"]).text();
    assert!(
        told.contains("over the size stay: 1 session imported within the last day"),
        "{told}"
    );
    assert!(told.contains("--session"), "{told}");
}
