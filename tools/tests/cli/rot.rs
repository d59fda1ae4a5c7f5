//! Rows that no statement of ours writes, and what the commands make of them.

use std::fs;
use std::io::{Seek, SeekFrom, Write};

use serde_json::Value;

use crate::tool::Tool;

/// Three sessions, of which the rows of one are damaged by a statement.
fn damaged(sql: &str) -> Tool {
    let tool = Tool::new();
    for name in ["first", "odd", "last"] {
        tool.write(
            format!("src/{name}.jsonl"),
            format!("{name} one\n{name} two"),
        );
    }
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    let connection = rusqlite::Connection::open(tool.db()).unwrap();
    connection
        .execute_batch(
            "PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET sql = replace(sql, ') STRICT', ')') WHERE type = 'table';
             PRAGMA writable_schema = RESET;",
        )
        .unwrap();
    assert_eq!(connection.execute(sql, []).unwrap(), 1);
    tool
}

#[test]
fn a_session_whose_row_is_damaged_is_named_and_hides_no_other() {
    let tool = damaged("UPDATE sessions SET hot_bytes = -1 WHERE session_id = 'odd'");
    let (listed, code) = tool.json(["sessions"]);
    assert_eq!((code, &listed["total"]), (9, &2.into()), "{listed}");
    assert_eq!(listed["damaged"][0]["session"], "odd");
    let shown = tool.run(["sessions"]);
    assert!(shown.text().contains("first") && shown.stderr.contains("odd"));
    let (inspected, code) = tool.json(["inspect"]);
    assert_eq!(
        (code, &inspected["sessions"]),
        (9, &2.into()),
        "{inspected}"
    );
    // What stands in it is whole.
    let (searched, code) = tool.json(["search", "two"]);
    let matches = searched["matches"].as_array().unwrap();
    assert_eq!((code, matches.len()), (0, 3), "{searched}");
    assert_eq!(tool.ok(["cat", "odd"]).text(), "odd one\nodd two");
    let (checked, code) = tool.json(["verify"]);
    assert_eq!((code, &checked["sessions"]), (1, &2.into()), "{checked}");
    let named = |p: &Value| p["session"] == "odd";
    assert!(checked["problems"].as_array().unwrap().iter().any(named));
}

#[test]
fn a_session_whose_row_is_damaged_can_be_deleted() {
    let tool = damaged("UPDATE sessions SET raw_bytes = -1 WHERE session_id = 'odd'");
    let asked = tool.run(["delete", "odd", "first"]);
    assert_eq!(asked.code, 2, "{}", asked.stderr);
    let all = "2 sessions, 2 messages, 18 B (not counting what 1 session with a damaged row holds)";
    assert!(asked.stderr.contains(all), "{}", asked.stderr);
    let (deleted, code) = tool.json(["delete", "odd", "--yes"]);
    assert_eq!((code, &deleted["deleted"][0]), (0, &"odd".into()));
    assert_eq!(deleted["messages"], 0, "{deleted}");
    assert_eq!(deleted["size_unknown"], 1, "{deleted}");
    assert_eq!(tool.run(["cat", "odd"]).code, 3);
    let (listed, code) = tool.json(["sessions"]);
    assert_eq!((code, &listed["total"]), (0, &2.into()), "{listed}");
}

#[test]
fn what_is_whole_of_a_session_is_salvaged_also_when_its_row_or_its_path_is_damaged() {
    for sql in [
        "UPDATE sessions SET hot_bytes = -1 WHERE session_id = 'odd'",
        "UPDATE imports SET file_name = 5, begins_with_id = 'x' WHERE session_key =
            (SELECT session_key FROM sessions WHERE session_id = 'odd')",
        "UPDATE imports SET relative_path = CAST('../up' AS BLOB) WHERE session_key =
            (SELECT session_key FROM sessions WHERE session_id = 'odd')",
    ] {
        let tool = damaged(sql);
        let out = tool.path("out");
        let args = ["export", "--salvage", "--out", out.to_str().unwrap()];
        let (exported, code) = tool.json(args);
        assert_eq!((code, &exported["sessions"]), (9, &2.into()), "{exported}");
        let salvaged = &exported["salvaged"][0];
        assert_eq!(salvaged["missing"], Value::Array(Vec::new()), "{exported}");
        let text = fs::read_to_string(salvaged["path"].as_str().unwrap()).unwrap();
        assert_eq!(text.trim_end(), "odd one\nodd two", "{sql}");
    }
}

/// Three sessions, of which neither rows nor, if `with_ids`, ids can be read from the file's pages.
fn damaged_pages(with_ids: bool) -> Tool {
    let tool = Tool::new();
    for name in ["first", "second", "third"] {
        tool.write(
            format!("src/{name}.jsonl"),
            format!("{name} one\n{name} two"),
        );
    }
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    let connection = rusqlite::Connection::open(tool.db()).unwrap();
    let page_of = |name: &str| -> u32 {
        let sql = "SELECT rootpage FROM sqlite_schema WHERE name = ?1";
        connection.query_row(sql, [name], |row| row.get(0)).unwrap()
    };
    let mut pages = vec![page_of("sessions")];
    if with_ids {
        pages.push(page_of("sqlite_autoindex_sessions_1"));
    }
    drop(connection);
    let mut file = fs::File::options().write(true).open(tool.db()).unwrap();
    for page in pages {
        file.seek(SeekFrom::Start(u64::from(page - 1) * 4096))
            .unwrap();
        file.write_all(&[0; 8]).unwrap();
    }
    tool
}

#[test]
fn sessions_whose_rows_stand_on_a_damaged_page_are_named_and_salvaged() {
    let tool = damaged_pages(false);
    let (listed, code) = tool.json(["sessions"]);
    assert_eq!((code, &listed["total"]), (9, &0.into()), "{listed}");
    assert_eq!(listed["damaged"].as_array().unwrap().len(), 3, "{listed}");
    let out = tool.path("out");
    let args = ["export", "--salvage", "--out", out.to_str().unwrap()];
    let (exported, code) = tool.json(args);
    let salvaged = exported["salvaged"].as_array().unwrap();
    assert_eq!((code, salvaged.len()), (9, 3), "{exported}");
    for part in salvaged {
        let (id, path) = (part["session"].as_str().unwrap(), &part["path"]);
        let text = fs::read_to_string(path.as_str().unwrap()).unwrap();
        assert_eq!(text, format!("{id} one\n{id} two\n"));
        assert_eq!(part["missing"], Value::Array(Vec::new()), "{exported}");
    }
    let checked = tool.run(["verify"]);
    assert!(checked.stderr.contains("not named above are whole"));
}

#[test]
fn a_check_that_cannot_name_every_session_does_not_call_the_others_whole() {
    let tool = damaged_pages(true);
    let checked = tool.run(["verify"]);
    assert_eq!(checked.code, 1, "{}", checked.stderr);
    assert!(
        !checked.stderr.contains("whole") && checked.stderr.contains("not every damaged session"),
        "{}",
        checked.stderr
    );
    let (checked, _) = tool.json(["verify"]);
    let unlisted = |p: &Value| p["kind"] == "listing";
    assert!(checked["problems"].as_array().unwrap().iter().any(unlisted));
}

#[test]
fn an_import_continues_after_a_file_whose_session_is_damaged() {
    for sql in [
        "UPDATE imports SET taken_bytes = -1 WHERE session_key =
            (SELECT session_key FROM sessions WHERE session_id = 'odd')",
        "UPDATE sessions SET last_sequence = 1 WHERE session_id = 'odd'",
    ] {
        let tool = damaged(sql);
        for name in ["first", "odd", "last"] {
            tool.write(
                format!("src/{name}.jsonl"),
                format!("{name} one\n{name} two\n{name} three\n"),
            );
        }
        tool.write("src/zz.jsonl", "zz one\n");
        let (imported, code) = tool.json(["import", tool.path("src").to_str().unwrap()]);
        assert_eq!(code, 9, "{imported}");
        let skipped = imported["skipped"].as_array().unwrap();
        assert_eq!(skipped.len(), 1, "{imported}");
        let path = skipped[0]["path"].as_str().unwrap();
        assert!(path.ends_with("odd.jsonl"), "{imported}");
        assert_eq!(tool.ok(["cat", "zz"]).text(), "zz one\n", "{sql}");
        assert!(tool.ok(["cat", "last"]).text().ends_with("last three\n"));
    }
}

#[test]
fn a_check_names_an_imported_session_that_would_not_come_back_as_its_file_was() {
    for (file, sql) in [
        ("one\ntwo\n", "UPDATE imports SET unterminated = 1"),
        ("one\ntwo", "UPDATE imports SET unterminated = 0"),
        ("one\ntwo\nthree\n", "UPDATE joins SET sequence = 2"),
        ("one\ntwo\nthree\n", "INSERT INTO joins VALUES (1, 3)"),
        (
            "one\ntwo\nthree\n",
            "UPDATE imports SET taken_bytes = taken_bytes - 1",
        ),
    ] {
        let tool = Tool::new();
        // Its first line is imported in two parts.
        for part in [&file[..1], file] {
            tool.write("src/s.jsonl", part);
            tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
        }
        let (checked, code) = tool.json(["verify"]);
        assert_eq!(code, 0, "{checked}");
        tool.ok(["compact"]);
        let connection = rusqlite::Connection::open(tool.db()).unwrap();
        assert_eq!(connection.execute(sql, []).unwrap(), 1, "{sql}");
        drop(connection);
        let (checked, code) = tool.json(["verify"]);
        assert_eq!(code, 1, "{sql}: {checked}");
        let problem = &checked["problems"][0];
        assert_eq!(problem["kind"], "source", "{sql}: {checked}");
        assert_eq!(problem["session"], "s", "{sql}: {checked}");
    }
}

#[test]
fn what_is_left_of_a_file_that_is_cut_off_is_listed_checked_and_salvaged() {
    let tool = Tool::new();
    // The last one ends on the last page of the file.
    for name in ["first", "last"] {
        let lines: String = (0..40).map(|n| format!("{n:05000}\n")).collect();
        tool.write(format!("src/{name}.jsonl"), lines);
        tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    }
    let file = fs::File::options().write(true).open(tool.db()).unwrap();
    let pages = file.metadata().unwrap().len() / 4096;
    file.set_len((pages - 1) * 4096).unwrap();
    let left = fs::read(tool.db()).unwrap();
    let what = format!(
        "the file is cut off: {} of its {pages} pages are there",
        pages - 1
    );
    let (listed, code) = tool.json(["sessions"]);
    assert_eq!((code, &listed["total"]), (0, &2.into()), "{listed}");
    let (checked, code) = tool.json(["verify"]);
    assert_eq!(code, 1, "{checked}");
    assert_eq!(checked["problems"][0]["kind"], "structure", "{checked}");
    assert_eq!(checked["problems"][0]["what"], what.as_str(), "{checked}");
    assert_eq!(checked["sessions"], 1, "{checked}");
    let out = tool.path("out");
    let args = ["export", "--out", out.to_str().unwrap()];
    let (exported, code) = tool.json(args);
    assert_eq!((code, &exported["sessions"]), (9, &1.into()), "{exported}");
    let (exported, code) = tool.json([&args[..], &["--salvage"]].concat());
    assert_eq!(code, 9, "{exported}");
    assert_eq!(exported["salvaged"][0]["messages"], 39, "{exported}");
    // For writing it is refused, and stays as it is.
    for args in [
        &["compact"][..],
        &["delete", "first", "--yes"],
        &["import", tool.path("src").to_str().unwrap()],
        &["backup", tool.path("copy.db").to_str().unwrap()],
    ] {
        let (refused, code) = tool.json(args);
        assert_eq!(code, 9, "{refused}");
        let why = refused["error"].to_string();
        assert!(why.contains(&what) && why.contains("salvage"), "{refused}");
        assert!(fs::read(tool.db()).unwrap() == left, "altered by {args:?}");
    }
}
