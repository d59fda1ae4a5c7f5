//! `export` and `cat`: sessions as files again.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use betcode_db::export::{ExportOptions, export};
use betcode_storage::{SessionId, Store, StoreOptions};

use crate::tool::{Tool, files, interrupt};

fn tool_with(sessions: &[(&str, &str)]) -> Tool {
    let tool = Tool::new();
    for (name, lines) in sessions {
        tool.write(format!("src/{name}.jsonl"), lines);
    }
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    tool
}

#[test]
fn only_the_owner_may_read_what_is_exported_and_recorded() {
    let tool = tool_with(&[("p/a", "{}\n")]);
    let out = tool.export("out");
    let mode = |path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(out.join("p/a.jsonl")), 0o600);
    assert_eq!(mode(out.join("p")), 0o700);
    assert_eq!(mode(out), 0o700);
    assert_eq!(mode(tool.db()), 0o600);
}

#[test]
fn a_file_name_does_not_act_on_the_terminal() {
    let name = "a\u{1b}[2J\u{202e}b";
    let tool = tool_with(&[(name, "{}\n")]);
    tool.write(format!("out/{name}.jsonl"), "mine\n");
    let out = tool.path("out");
    let ran = tool.run(["export".as_ref(), "--out".as_ref(), out.as_os_str()]);
    assert_eq!(ran.code, 4, "{:?}", ran.stderr);
    let acts = |text: &str| text.contains(['\u{1b}', '\u{202e}']);
    assert!(!acts(&ran.stderr), "{:?}", ran.stderr);
    assert!(
        ran.stderr.contains(r"a\u{1b}[2J\u{202e}b"),
        "{:?}",
        ran.stderr
    );
    for command in ["sessions", "report", "inspect"] {
        let text = tool.ok([command]).text();
        assert!(!acts(&text), "{text:?}");
    }
}

#[test]
fn no_session_takes_the_place_of_a_database() {
    let tool = tool_with(&[("h", "{}\n")]);
    let out = tool.path("out");
    fs::create_dir(&out).unwrap();
    let moved = out.join("h.jsonl");
    fs::rename(tool.db(), &moved).unwrap();
    let args = [
        "--db".as_ref(),
        moved.as_os_str(),
        "export".as_ref(),
        "--force".as_ref(),
        "--out".as_ref(),
        out.as_os_str(),
    ];
    let ran = tool.run(args);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    tool.ok(["--db".as_ref(), moved.as_os_str(), "verify".as_ref()]);
}

#[test]
fn a_file_with_other_content_is_replaced_only_on_demand() {
    let tool = tool_with(&[("a", "{}\n"), ("b", "{}\n")]);
    tool.write("out/a.jsonl", "mine\n");
    let out = tool.path("out");
    let args = |more: &[&str]| {
        let args = ["export", "--out", out.to_str().unwrap()];
        args.iter()
            .chain(more)
            .map(|a| (*a).to_owned())
            .collect::<Vec<_>>()
    };
    let (refused, code) = tool.json(args(&[]));
    assert_eq!(
        (code, &refused["sessions"]),
        (4, &1.into()),
        "the other is written"
    );
    assert_eq!(fs::read(out.join("a.jsonl")).unwrap(), b"mine\n");
    assert_eq!(tool.json(args(&["--force"])).1, 0);
    assert_eq!(fs::read(out.join("a.jsonl")).unwrap(), b"{}\n");
    let (again, code) = tool.json(args(&[]));
    assert_eq!((code, &again["unchanged"]), (0, &2.into()));
}

#[test]
fn links_in_the_folder_are_not_followed_out_of_it() {
    let tool = tool_with(&[("p/a", "{}\n")]);
    fs::create_dir_all(tool.path("out")).unwrap();
    fs::create_dir_all(tool.path("outside")).unwrap();
    symlink(tool.path("outside"), tool.path("out/p")).unwrap();
    let ran = tool.run([
        "export".as_ref(),
        "--out".as_ref(),
        tool.path("out").as_os_str(),
    ]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(files(&tool.path("outside")).is_empty());
}

#[test]
fn sessions_that_want_one_path_are_numbered_oldest_first() {
    let tool = Tool::new();
    for folder in ["one", "two", "three"] {
        tool.write(
            format!("{folder}/x.jsonl"),
            format!("{{\"from\":\"{folder}\"}}\n"),
        );
        tool.ok(["import".as_ref(), tool.path(folder).as_os_str()]);
    }
    let names: Vec<_> = files(&tool.export("out"))
        .into_iter()
        .map(|(name, bytes)| {
            (
                name.display().to_string(),
                String::from_utf8(bytes).unwrap(),
            )
        })
        .collect();
    let expected = [
        ("x.jsonl", "one"),
        ("x~2.jsonl", "two"),
        ("x~3.jsonl", "three"),
    ];
    for ((name, bytes), (path, from)) in names.iter().zip(expected) {
        assert_eq!((name.as_str(), bytes.contains(from)), (path, true));
    }
}

#[test]
fn one_session_is_exported_where_all_would_put_it() {
    let tool = tool_with(&[("p/a", "{}\n"), ("p/b", "{}\n")]);
    let out = tool.path("out");
    tool.ok(["export", "--session", "b", "--out", out.to_str().unwrap()]);
    assert_eq!(files(&out).len(), 1);
    assert!(out.join("p/b.jsonl").exists());
}

#[test]
fn cat_writes_the_whole_file_or_the_part_asked_for() {
    let tool = tool_with(&[("session-one", "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\nlast")]);
    assert_eq!(
        tool.ok(["cat", "session-one"]).text(),
        "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\nlast"
    );
    assert_eq!(
        tool.ok(["cat", "sess", "--from", "2", "--to", "3"]).text(),
        "{\"n\":2}\n{\"n\":3}\n"
    );
    assert_eq!(
        tool.ok(["cat", "sess", "--last", "2"]).text(),
        "{\"n\":3}\nlast"
    );
    assert_eq!(tool.ok(["cat", "sess", "--from", "9"]).text(), "");
    assert_eq!(tool.run(["cat", "nobody"]).code, 3);
}

#[test]
fn cat_as_json_keeps_payloads_that_are_no_text() {
    let tool = Tool::new();
    let file = tool.write("x.jsonl", b"{}\n\xff\xfe\n");
    tool.ok(["import".as_ref(), file.as_os_str()]);
    let (document, code) = tool.json(["cat", "x"]);
    assert_eq!(code, 0);
    assert_eq!(document["messages"][0]["payload"], "{}");
    assert_eq!(document["messages"][1]["payload_base64"], "//4=");
}

#[test]
fn cat_as_json_of_a_damaged_session_is_one_document() {
    // More messages than are read at once.
    let lines: String = (1..=5000).map(|n| format!("line {n}\n")).collect();
    let tool = tool_with(&[("late", &lines), ("early", "first\nsecond\n")]);
    tool.damage("first");
    tool.damage("line 5000");
    let (early, code) = tool.json(["cat", "early"]);
    assert_eq!((code, &early["error"]["kind"]), (9, &"damaged".into()));
    assert!(early["messages"].is_null(), "{early}");
    let (late, code) = tool.json(["cat", "late"]);
    assert_eq!((code, &late["error"]["exit_code"]), (9, &9.into()));
    assert_eq!(late["session"], "late");
    assert_eq!(late["messages"][0]["payload"], "line 1");
    assert!(
        tool.run(["cat", "late", "--json"])
            .stderr
            .starts_with("error: ")
    );
}

/// Makes a file two hours old.
fn aged(path: &Path) -> File {
    let file = File::options().write(true).open(path).unwrap();
    let then = SystemTime::now() - Duration::from_hours(2);
    file.set_modified(then).unwrap();
    file
}

#[test]
fn what_only_looks_like_an_unfinished_export_is_left_alone_and_holds_nothing_up() {
    let tool = tool_with(&[("a", "{}\n"), ("p/b", "{}\n")]);
    let notes = tool.write("out/.betcode-export-notes.txt", "mine");
    let elsewhere = tool.write("elsewhere/.betcode-export-killed", "theirs");
    let pointed_at = tool.write("target", "mine");
    let link = tool.path("out/.betcode-export-mylink");
    symlink(&pointed_at, &link).unwrap();
    symlink(tool.path("elsewhere"), tool.path("out/p")).unwrap();
    for file in [&notes, &elsewhere, &pointed_at] {
        drop(aged(file));
    }
    let pipe = tool.path("out/.betcode-export-mypipe");
    let made = Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let mut export = tool.command([
        "export".as_ref(),
        "--out".as_ref(),
        tool.path("out").as_os_str(),
    ]);
    let mut export = Following(export.spawn().unwrap());
    let deadline = Instant::now() + Duration::from_mins(1);
    let ended = loop {
        match export.0.try_wait().unwrap() {
            Some(ended) => break ended,
            None => assert!(Instant::now() < deadline, "it waits for the pipe"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(ended.code(), Some(4), "the link is refused");
    assert!(tool.path("out/a.jsonl").exists());
    for file in [&notes, &elsewhere, &link, &pipe] {
        assert!(fs::symlink_metadata(file).is_ok(), "{}", file.display());
    }
}

#[test]
fn what_a_killed_export_left_is_removed_and_one_under_way_is_left_alone() {
    let tool = Tool::new();
    tool.write("logs/a.jsonl", "{}\n");
    tool.ok(["import".as_ref(), tool.path("logs").as_os_str()]);
    let left = tool.write("out/.betcode-export-killed", "half");
    let busy = tool.write("out/.betcode-export-atwork", "half");
    let begun = tool.write("out/.betcode-export-begun1", "");
    let (held, _) = (aged(&busy), aged(&left));
    held.lock().unwrap();
    tool.export("out");
    assert!(!left.exists() && busy.exists());
    assert!(begun.exists(), "another export has just made it");
    assert!(tool.path("out/a.jsonl").exists());
}

#[test]
fn following_a_session_writes_what_is_appended_and_ends_well_with_ctrl_c() {
    let tool = tool_with(&[("a", "one\ntwo\n")]);
    let mut following = tool
        .command(["cat", "a", "--last", "1", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    tool.write("src/a.jsonl", "one\ntwo\nthree\n");
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    assert_eq!(lines.next().unwrap().unwrap(), "three");
    interrupt(&following);
    assert!(lines.next().is_none());
    assert_eq!(following.wait().unwrap().code(), Some(0));
}

/// Ends it with the test, also with one that fails.
struct Following(Child);

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn following_a_session_writes_the_newline_that_its_last_line_gets_later() {
    let tool = tool_with(&[("a", "one\ntwo")]);
    let mut command = tool.command(["cat", "a", "--follow"]);
    let mut following = Following(command.stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(following.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    tool.write("src/a.jsonl", "one\ntwo\nthree\nfour, ");
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    assert_eq!(lines.next().unwrap().unwrap(), "three");
    tool.write("src/a.jsonl", "one\ntwo\nthree\nfour, five\n");
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    assert_eq!(lines.next().unwrap().unwrap(), "four, five");
}

#[test]
fn what_is_salvaged_takes_no_other_sessions_place() {
    let tool = Tool::new();
    for (name, line) in [
        ("a.jsonl", "of the first"),
        ("a.ndjson", "of the second"),
        ("a.salvaged.jsonl", "of one that is whole"),
    ] {
        tool.write(format!("src/{name}"), format!("{line}\nlost\n"));
    }
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    let connection = rusqlite::Connection::open(tool.db()).unwrap();
    let damage = "UPDATE hot_messages SET digest = digest + 1 WHERE payload = CAST('lost' AS BLOB)
        AND message_key >> 32 NOT IN (SELECT message_key >> 32 FROM hot_messages
            WHERE payload = CAST('of one that is whole' AS BLOB))";
    assert_eq!(connection.execute(damage, []).unwrap(), 2);
    drop(connection);
    let out = tool.path("out");
    let args = ["export", "--salvage", "--force", "--out"].map(str::as_ref);
    let (exported, code) = tool.json(args.into_iter().chain([out.as_os_str()]));
    assert_eq!((code, &exported["sessions"]), (9, &1.into()), "{exported}");
    let mut written: Vec<_> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    written.sort();
    assert_eq!(
        written,
        [
            "of one that is whole\nlost\n",
            "of the first\n",
            "of the second\n"
        ]
    );
}

#[test]
fn no_session_takes_the_name_of_a_databases_log() {
    let tool = Tool::new();
    let source = tool.write("src/x.db-wal", "{}\n");
    tool.ok(["import".as_ref(), source.as_os_str()]);
    let out = tool.path("out");
    fs::create_dir(&out).unwrap();
    let other = rusqlite::Connection::open(out.join("x.db")).unwrap();
    other.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(other);
    let ran = tool.run(["export".as_ref(), "--out".as_ref(), out.as_os_str()]);
    assert_eq!(ran.code, 4, "{}", ran.stderr);
    assert!(!out.join("x.db-wal").exists());
}

#[test]
fn a_session_deleted_during_an_export_of_all_is_left_out() {
    let tool = tool_with(&[("a", "of a\n"), ("b", "of b\n"), ("c", "of c\n")]);
    let store = Store::open(&tool.db(), StoreOptions::default()).unwrap();
    let export = |out: &str, options: &ExportOptions, doomed: &str| {
        let doomed: SessionId = doomed.parse().unwrap();
        let mut deleted = false;
        export(&store, &tool.path(out), options, &mut |_| {
            if !deleted {
                deleted = true;
                store.delete(&doomed).unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap()
    };
    let all = export("all", &ExportOptions::default(), "b");
    assert_eq!((all.sessions, all.failed), (2, Vec::new()));
    let named = ExportOptions {
        sessions: vec!["a".parse().unwrap(), "c".parse().unwrap()],
        ..ExportOptions::default()
    };
    let asked_for = export("named", &named, "c");
    assert_eq!(asked_for.failed[0].session, "c");
}

#[test]
fn what_to_try_is_not_what_was_just_done() {
    let tool = tool_with(&[("a", "first\nlost\n")]);
    tool.damage("lost");
    let out = tool.path("out");
    let hint = |more: &[&str]| {
        let args = ["export", "--out", out.to_str().unwrap()];
        let (exported, code) = tool.json(args.iter().chain(more));
        assert_eq!(code, 9, "{exported}");
        exported["failed"][0]["try"].as_str().unwrap().to_owned()
    };
    assert!(hint(&[]).contains("--salvage"));
    assert!(!hint(&["--salvage"]).contains("--salvage"));
}

#[test]
fn names_as_long_as_names_can_be_are_numbered_and_salvaged() {
    let name = format!("{}.jsonl", "n".repeat(255 - ".jsonl".len()));
    let tool = Tool::new();
    for (folder, line) in [("one", "of one"), ("two", "of two"), ("three", "lost")] {
        tool.write(format!("{folder}/{name}"), format!("in {folder}\n{line}\n"));
        tool.ok(["import".as_ref(), tool.path(folder).as_os_str()]);
    }
    tool.damage("lost");
    let out = tool.path("out");
    let args = ["export", "--salvage", "--out"].map(str::as_ref);
    let (exported, code) = tool.json(args.into_iter().chain([out.as_os_str()]));
    assert_eq!((code, &exported["sessions"]), (9, &2.into()), "{exported}");
    let mut written: Vec<_> = files(&out).into_iter().map(|file| file.1).collect();
    written.sort();
    let expected = ["in one\nof one\n", "in three\n", "in two\nof two\n"];
    assert_eq!(written, expected.map(|text| text.as_bytes().to_vec()));
}
