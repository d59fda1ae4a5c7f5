//! `doctor`: what is around a database, and what to do about it.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;

use serde_json::Value;

use super::tool::Tool;

fn tool() -> Tool {
    let tool = Tool::new();
    tool.write("src/a.jsonl", "{\"type\":\"user\"}\n".repeat(200));
    tool.ok(["import", tool.path("src").to_str().unwrap()]);
    tool
}

/// The checks of a kind that did not end with `ok`.
fn remarks(document: &Value, check: &str) -> Vec<Value> {
    let checks = document["checks"].as_array().unwrap();
    checks
        .iter()
        .filter(|one| one["check"] == check && one["state"] != "ok")
        .cloned()
        .collect()
}

#[test]
fn a_sound_store_has_no_problems() {
    let tool = tool();
    let (document, code) = tool.json(["doctor"]);
    assert_eq!((code, &document["ok"]), (0, &true.into()), "{document}");
    assert!(tool.ok(["doctor"]).text().contains("free pages   ok"));
}

#[test]
fn the_used_share_does_not_read_as_a_threshold_that_it_has_not_reached() {
    let tool = Tool::new();
    tool.write("src/a.jsonl", "{\"type\":\"user\"}\n".repeat(60_000));
    tool.ok(["import", tool.path("src").to_str().unwrap()]);
    let used = tool.json(["report"]).0["database_bytes"].as_u64().unwrap();
    let limit = (used as f64 / 0.6996).ceil().to_string();
    for command in ["doctor", "report"] {
        let text = tool.ok([command, "--limit-bytes", &limit]).text();
        assert!(text.contains("69 %") && !text.contains("70.0 %"), "{text}");
    }
}

#[test]
fn what_others_may_read_is_a_problem_with_its_remedy() {
    let tool = tool();
    fs::set_permissions(tool.db(), fs::Permissions::from_mode(0o644)).unwrap();
    let (document, code) = tool.json(["doctor"]);
    assert_eq!((code, &document["ok"]), (1, &false.into()));
    let found = remarks(&document, "permissions");
    assert_eq!(found[0]["state"], "problem");
    assert!(
        found[0]["try"]
            .as_str()
            .unwrap()
            .starts_with("chmod go-rwx")
    );
}

#[test]
fn what_this_user_cannot_write_to_is_a_problem() {
    let tool = tool();
    let folder = tool.db().parent().unwrap().to_owned();
    let mut command = tool.command(["doctor", "--json"]);
    if rustix::process::geteuid().is_root() {
        // Root may write anywhere: somebody else looks at a store of their own.
        const NOBODY: u32 = 65_534;
        for file in fs::read_dir(&folder).unwrap() {
            chown(file.unwrap().path(), Some(NOBODY), None).unwrap();
        }
        chown(&folder, Some(NOBODY), None).unwrap();
        fs::set_permissions(tool.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        command.uid(NOBODY);
    }
    let unwritable = [(folder, 0o500, 0o700), (tool.db(), 0o400, 0o600)];
    for (place, without_writing, with_writing) in unwritable {
        fs::set_permissions(&place, fs::Permissions::from_mode(without_writing)).unwrap();
        // Where nobody else can reach the program there is nothing to see.
        let Ok(output) = command.output() else { return };
        fs::set_permissions(&place, fs::Permissions::from_mode(with_writing)).unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(1), "{document}");
        let found = remarks(&document, "permissions");
        let what = format!("{} cannot be written to", place.display());
        assert!(
            found[0]["what"].as_str().unwrap().contains(&what),
            "{found:?}"
        );
        assert!(remarks(&document, "journal").is_empty(), "{document}");
    }
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn a_log_without_its_database_is_a_problem() {
    let tool = tool();
    fs::rename(tool.db(), tool.path("elsewhere.db")).unwrap();
    let log = tool.write("store/history.db-wal", "the last messages");
    let (document, code) = tool.json(["doctor"]);
    assert_eq!((code, &document["ok"]), (1, &false.into()), "{document}");
    let found = remarks(&document, "log");
    let what = found[0]["what"].as_str().unwrap();
    assert!(what.starts_with(&log.display().to_string()), "{what}");
    assert_eq!(remarks(&document, "database").len(), 1);
    fs::remove_file(log).unwrap();
    assert_eq!(tool.run(["doctor"]).code, 3);
}

#[test]
fn what_ended_work_left_behind_is_named() {
    let tool = tool();
    for name in [
        "history.db.replaced",
        "history.db.partial",
        "history.db.unrelated",
    ] {
        tool.write(format!("store/{name}"), "left");
    }
    let (document, code) = tool.json(["doctor"]);
    assert_eq!(code, 0);
    let found = remarks(&document, "leftovers");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0]["what"]
            .as_str()
            .unwrap()
            .contains("history.db.partial")
    );
}

#[test]
fn a_file_whose_pages_cannot_be_given_back_is_a_problem() {
    let tool = tool();
    let connection = rusqlite::Connection::open(tool.db()).unwrap();
    // What a copy by other tools may look like.
    connection.pragma_update(None, "auto_vacuum", 0).unwrap();
    connection
        .execute_batch("PRAGMA journal_mode = DELETE; VACUUM")
        .unwrap();
    drop(connection);
    let (document, code) = tool.json(["doctor"]);
    assert_eq!(code, 1);
    assert_eq!(remarks(&document, "free pages").len(), 1);
    assert_eq!(remarks(&document, "journal")[0]["state"], "note");
}

#[test]
fn a_store_that_cannot_be_opened_is_reported_with_its_surroundings() {
    let tool = tool();
    let bytes = fs::read(tool.db()).unwrap();
    fs::write(tool.db(), &bytes[..bytes.len() / 2]).unwrap();
    let (document, code) = tool.json(["doctor"]);
    assert_eq!(code, 1);
    let found = remarks(&document, "database");
    assert!(
        found[0]["try"].as_str().unwrap().contains("restore"),
        "{found:?}"
    );
    assert!(document["checks"].as_array().unwrap().len() > 3);

    fs::remove_file(tool.db()).unwrap();
    assert_eq!(tool.run(["doctor"]).code, 3);
}

#[test]
fn what_a_killed_backup_leaves_beside_the_database_is_named() {
    let tool = tool();
    let copy = tool.path("store/copy.db");
    tool.ok(["backup".as_ref(), copy.as_os_str()]);
    fs::rename(&copy, tool.path("store/copy.db.partial")).unwrap();
    tool.write("store/download.partial", "of another program");
    let (document, code) = tool.json(["doctor"]);
    let found = remarks(&document, "leftovers");
    assert_eq!((code, found.len()), (0, 1), "{found:?}");
    assert!(
        found[0]["what"]
            .as_str()
            .unwrap()
            .contains("store/copy.db.partial (")
    );
}

#[test]
fn report_and_doctor_say_what_the_reserve_is_for() {
    let tool = tool();
    let shown = tool.ok(["report"]).text();
    assert!(
        shown.contains("16.8 MB for a full disk in history.db-reserve"),
        "{shown}"
    );
    let shown = tool.ok(["doctor"]).text();
    assert!(
        shown.contains("16.8 MB kept beside it for a full disk"),
        "{shown}"
    );
}
