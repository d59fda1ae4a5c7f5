//! `retain`: what goes is shown first, and stands in the archive before it is gone.

use std::fs;
use std::io::Write;

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
fn sessions_that_stay_because_they_were_just_imported_are_counted_as_that() {
    let tool = tool();
    let shown = tool.ok(["retain", "--keep-bytes", "1KB"]).text();
    assert!(
        shown.contains("over the size stay: 1 session imported within the last day"),
        "{shown}"
    );
    assert!(shown.contains("--session"), "{shown}");
}

/// Makes the session `a` look last used long ago.
fn age(tool: &Tool) {
    let db = Connection::open(tool.db()).unwrap();
    let set = "UPDATE sessions SET updated_ms = updated_ms - 17280000000, last_time_ms = NULL
         WHERE session_id = 'a'";
    assert_eq!(db.execute(set, []).unwrap(), 1);
}

#[test]
fn what_was_imported_anew_since_it_was_archived_is_archived_and_keeps_its_first_times() {
    let tool = tool();
    let (src, archive) = (tool.path("src"), tool.path("archive.db"));
    let (src, archive) = (src.to_str().unwrap(), archive.to_str().unwrap());
    let night = || {
        let args = [
            "retain",
            "--older-than",
            "90d",
            "--archive",
            archive,
            "--yes",
        ];
        tool.json(args)
    };
    let times = || {
        let (cat, _) = tool.json(["cat", "a", "--db", archive]);
        let messages = cat["messages"].as_array().unwrap().iter();
        let times: Vec<_> = messages.map(|m| m["received_ms"].clone()).collect();
        times
    };
    let (first, code) = night();
    assert_eq!(
        (code, &first["archived_before"]),
        (0, &serde_json::json!([]))
    );
    assert_eq!(first["removed"][0]["session_id"], "a", "{first}");
    let first_times = times();
    // Its file is still there. The second time it has grown.
    for grown in ["", "{\"type\":\"user\",\"n\":1}\n"] {
        let mut file = fs::File::options()
            .append(true)
            .open(tool.path("src/a.jsonl"))
            .unwrap();
        file.write_all(grown.as_bytes()).unwrap();
        drop(file);
        assert_eq!(tool.json(["import", src]).0["sessions"], 1);
        age(&tool);
        let (again, code) = night();
        assert_eq!(
            (code, &again["archived_before"][0]),
            (0, &"a".into()),
            "{again}"
        );
        assert_eq!(again["removed"][0]["session_id"], "a", "{again}");
        assert_eq!(sessions(&tool), 1);
        assert_eq!(tool.run(["verify", "--db", archive]).code, 0);
        let kept = times();
        assert!(kept.starts_with(&first_times), "the first times are gone");
    }
    assert_eq!(times().len(), first_times.len() + 1);
    let cat = tool.ok(["cat", "a", "--db", archive]);
    assert!(cat.stdout == fs::read(tool.path("src/a.jsonl")).unwrap());
    // An older copy of the file does not make the archive forget the rest.
    let whole = fs::read(tool.path("src/a.jsonl")).unwrap();
    let end = whole.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    fs::write(tool.path("src/a.jsonl"), &whole[..end]).unwrap();
    tool.json(["import", src]);
    age(&tool);
    let (refused, code) = night();
    assert_eq!(code, 2, "{refused}");
    let what = refused["error"].to_string();
    assert!(what.contains("has more of them"), "{what}");
    assert!(tool.ok(["cat", "a", "--db", archive]).stdout == whole);
}
