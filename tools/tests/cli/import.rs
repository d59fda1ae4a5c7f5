//! `import`, again and again, whatever the files hold.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use betcode_db::generator;
use betcode_db::import::{self, ImportOptions, ImportPlan, ImportTarget};
use betcode_storage::{Durability, Store, StoreOptions};
use serde_json::Value;

use crate::tool::{Tool, assert_same};

pub(crate) fn append(path: &Path, bytes: &[u8]) {
    OpenOptions::new()
        .append(true)
        .open(path)
        .unwrap()
        .write_all(bytes)
        .unwrap();
}

/// Imports the folder `src`; the document and the exit code.
fn import(tool: &Tool) -> (Value, i32) {
    tool.json(["import".as_ref(), tool.path("src").as_os_str()])
}

#[test]
fn a_file_name_forges_no_line_and_commands_no_terminal() {
    let tool = Tool::new();
    let name = "a\nskipped: b\u{1b}[31m.jsonl";
    tool.write(format!("src/{name}"), "SQLite format 3\0");
    tool.write("src/c.jsonl", "{}\n");
    let ran = tool.run(["import".as_ref(), tool.path("src").as_os_str()]);
    let lines = ran.stderr.lines().filter(|l| l.starts_with("skipped: "));
    assert_eq!(lines.count(), 1, "{}", ran.stderr);
    assert!(!ran.stderr.contains('\u{1b}'), "{}", ran.stderr);
    assert!(ran.stderr.contains(r"a\nskipped: b\u{1b}[31m.jsonl"));
}

#[test]
fn the_files_of_the_database_itself_are_not_opened() {
    let tool = Tool::new();
    tool.write("a.jsonl", "{}\n");
    let (a, database) = (tool.path("a.jsonl"), tool.db());
    let (_, code) = tool.json(["import".as_ref(), a.as_os_str()]);
    assert_eq!(code, 0);
    let link = tool.path("link.jsonl");
    symlink(&database, &link).unwrap();
    // Closing them would let go of the locks that this process holds on them.
    for file in [&database, &link] {
        for binary in [&[][..], &["--binary".as_ref()]] {
            let mut arguments = vec!["import".as_ref(), file.as_os_str(), a.as_os_str()];
            arguments.extend(binary);
            let (imported, code) = tool.json(arguments);
            assert_eq!(
                (code, &imported["sessions"]),
                (1, &Value::from(0)),
                "{imported}"
            );
            let why = imported["skipped"][0]["why"].as_str().unwrap();
            assert!(why.contains("of the database that"), "{why}");
        }
    }
}

#[test]
fn sessions_of_every_kind_come_back_byte_for_byte() {
    let tool = Tool::new();
    tool.write("src/projects/p/a.jsonl", generator::transcript(1, 600_000));
    tool.write("src/streams/b.ndjson", generator::stream(2, 600_000));
    for seed in 0..6 {
        tool.write(
            format!("src/awkward/{seed}.jsonl"),
            generator::awkward(seed),
        );
    }
    tool.write("src/empty.jsonl", "");
    tool.write("src/newline.jsonl", "\n");
    tool.write("src/newlines.jsonl", "\n\n\r\n\n");
    tool.write("src/unterminated.jsonl", "{}\n{\"torn\":");
    tool.write(
        std::ffi::OsStr::from_bytes(b"src/not-utf8-\xff.jsonl"),
        "{}\n",
    );
    let (imported, code) = import(&tool);
    assert_eq!((code, &imported["skipped"]), (0, &serde_json::json!([])));
    assert_same(&tool.path("src"), &tool.export("out-hot"));
    tool.ok(["compact"]);
    assert_same(&tool.path("src"), &tool.export("out-compacted"));
    let (verified, code) = tool.json(["verify"]);
    assert_eq!(
        (code, &verified["ok"]),
        (0, &Value::Bool(true)),
        "{verified}"
    );
}

#[test]
fn growth_of_a_stream_imported_while_it_is_printed_is_that_of_one_imported_at_the_end() {
    let stream = generator::stream(5, 300_000);
    let stream = stream.strip_suffix(b"\n").unwrap_or(&stream);
    let last = br#"{"type":"result","duration_ms":1800000}"#;
    let growth = |parts: &[&[u8]]| {
        let tool = Tool::new();
        let file = tool.write("src/s.jsonl", "");
        for part in parts {
            append(&file, part);
            import(&tool);
        }
        let report = tool.json(["report"]).0;
        assert_eq!(report["untimed"]["sessions"], 0, "{report}");
        report["growth"].clone()
    };
    let whole = [stream, b"\n", last].concat();
    let at_once = growth(&[&whole]);
    assert!(
        at_once["active_hours"].as_f64().unwrap() >= 0.5,
        "{at_once}"
    );
    assert_eq!(at_once["active_hours"], at_once["wall_hours"]);
    let third = whole.len() / 3;
    let begun = third + whole[third..].iter().position(|b| *b == b'\n').unwrap() + 1;
    let ended = whole.len() - last.len();
    let parts = [&whole[..begun], &whole[begun..ended], &whole[ended..], b""];
    assert_eq!(growth(&parts), at_once);
}

#[test]
fn importing_again_imports_only_what_was_appended() {
    let tool = Tool::new();
    let grown = tool.write("src/grown.jsonl", "{\"n\":1}\n{\"n\":2}\n");
    tool.write("src/same.jsonl", "{}\n");
    assert_eq!(import(&tool).0["messages"], 3);
    let (nothing, code) = import(&tool);
    assert_eq!(
        (code, &nothing["messages"], &nothing["unchanged"]),
        (0, &0.into(), &2.into())
    );
    append(&grown, b"{\"n\":3}\n");
    let (more, _) = import(&tool);
    assert_eq!(
        (&more["messages"], &more["bytes"], &more["resumed"]),
        (&1.into(), &8.into(), &1.into())
    );
    assert_same(&tool.path("src"), &tool.export("out"));
}

#[test]
fn a_last_line_without_newline_goes_on_in_every_way() {
    for (number, rest) in ["\n", "\n\n", "ued\"}\n", "ued\"}", "ued\"}\n{}\n", "\n{}"]
        .iter()
        .enumerate()
    {
        let tool = Tool::new();
        let file = tool.write("src/a.jsonl", "{}\n{\"is\":\"contin");
        import(&tool);
        if number % 2 == 0 {
            tool.ok(["compact"]);
        }
        append(&file, rest.as_bytes());
        import(&tool);
        assert_same(&tool.path("src"), &tool.export("out"));
        append(&file, b"more\n");
        import(&tool);
        assert_same(&tool.path("src"), &tool.export("out-2"));
        assert_eq!(import(&tool).0["messages"], 0, "{rest:?}");
    }
}

#[test]
fn a_line_end_that_comes_later_is_reported_without_a_new_message() {
    let tool = Tool::new();
    let file = tool.write("src/a.jsonl", "{}\n{}");
    tool.write("src/b.jsonl", "{}\n");
    import(&tool);
    append(&file, b"\n");
    let (ended, _) = import(&tool);
    let counts = ["bytes", "messages", "sessions", "unchanged", "resumed"];
    assert_eq!(
        counts.map(|field| ended[field].as_u64().unwrap()),
        [1, 0, 0, 1, 1]
    );
    fs::write(&file, "{}\n{}\n{}").unwrap();
    import(&tool);
    append(&file, b"\n");
    let shown = tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    assert_eq!(
        shown.text(),
        "Imported the end of the last line of 1 file, and no new message\n"
    );
    let shown = tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    assert_eq!(shown.text(), "Nothing new in 2 files\n");
}

#[test]
fn a_file_whose_past_changed_is_named_with_its_line_and_left_alone() {
    let tool = Tool::new();
    let file = tool.write("src/a.jsonl", "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
    tool.write("src/z.jsonl", "{}\n");
    import(&tool);
    let before = tool.export("before");
    fs::write(&file, "{\"n\":1}\n{\"n\":9}\n{\"n\":3}\n{\"n\":4}\n").unwrap();
    append(&tool.path("src/z.jsonl"), b"{}\n");
    let (changed, code) = import(&tool);
    assert_eq!(
        (code, &changed["messages"]),
        (1, &1.into()),
        "the other file goes on"
    );
    assert_eq!(changed["skipped"][0]["line"], 2);
    assert!(
        changed["skipped"][0]["path"]
            .as_str()
            .unwrap()
            .ends_with("a.jsonl")
    );
    let after = tool.export("after");
    assert_eq!(
        fs::read(before.join("a.jsonl")).unwrap(),
        fs::read(after.join("a.jsonl")).unwrap()
    );

    let (beside, code) = tool.json([
        "import".as_ref(),
        tool.path("src").as_os_str(),
        "--as-new".as_ref(),
    ]);
    assert_eq!((code, &beside["messages"]), (0, &4.into()));
    let both = tool.export("both");
    assert_eq!(
        fs::read(both.join("a~2.jsonl")).unwrap(),
        fs::read(&file).unwrap()
    );
    // From now on the file is the new session's.
    append(&file, b"{\"n\":5}\n");
    assert_eq!(import(&tool).0["messages"], 1);
}

#[test]
fn a_file_that_became_shorter_is_named() {
    let tool = Tool::new();
    let file = tool.write("src/a.jsonl", "{\"n\":1}\n{\"n\":2}\n");
    import(&tool);
    fs::write(&file, "{\"n\":1}\n").unwrap();
    let (shorter, code) = import(&tool);
    assert_eq!((code, &shorter["skipped"][0]["line"]), (1, &2.into()));
}

#[test]
fn a_folder_that_was_moved_is_recognised() {
    let tool = Tool::new();
    tool.write("src/p/a.jsonl", generator::transcript(3, 50_000));
    import(&tool);
    fs::rename(tool.path("src"), tool.path("elsewhere")).unwrap();
    append(&tool.path("elsewhere/p/a.jsonl"), b"{}\n");
    let (moved, _) = tool.json(["import".as_ref(), tool.path("elsewhere").as_os_str()]);
    assert_eq!(
        (&moved["messages"], &moved["resumed"]),
        (&1.into(), &1.into())
    );
    assert_same(&tool.path("elsewhere"), &tool.export("out"));
}

#[test]
fn files_of_one_name_become_sessions_of_their_own() {
    let tool = Tool::new();
    for n in 0..5 {
        tool.write(format!("src/{n}/full.jsonl"), format!("{{\"n\":{n}}}\n"));
    }
    assert_eq!(import(&tool).0["sessions"], 5);
    assert_same(&tool.path("src"), &tool.export("out"));
}

#[test]
fn a_line_over_the_limit_is_named_and_imported_when_the_limit_is_raised() {
    let tool = Tool::new();
    let long = format!("{{}}\n{{\"long\":\"{}\"}}\n{{}}\n", "x".repeat(2_000_000));
    tool.write("src/long.jsonl", long);
    tool.write("src/short.jsonl", "{}\n");
    let src = tool.path("src");
    let args =
        |max| ["import", src.to_str().unwrap(), "--max-payload-bytes", max].map(str::to_owned);
    let (refused, code) = tool.json(args("1MB"));
    assert_eq!(
        (code, &refused["messages"], &refused["skipped"][0]["line"]),
        (1, &2.into(), &2.into())
    );
    // The line is longer than what is read at once, and its length is reported nevertheless.
    let skipped = &refused["skipped"][0];
    assert!(
        skipped["why"].as_str().unwrap().contains("has 2.00 MB,"),
        "{skipped}"
    );
    assert!(
        skipped["try"]
            .as_str()
            .unwrap()
            .contains("--max-payload-bytes 3MB"),
        "{skipped}"
    );
    let (imported, code) = tool.json(args("3MB"));
    assert_eq!((code, &imported["messages"]), (0, &2.into()));
    assert_same(&src, &tool.export("out"));
}

#[test]
fn links_that_lead_in_circles_are_named_and_the_rest_is_taken() {
    let tool = Tool::new();
    tool.write("src/p/a.jsonl", "{}\n");
    symlink(tool.path("src"), tool.path("src/p/back")).unwrap();
    let (imported, code) = import(&tool);
    assert_eq!((code, &imported["messages"]), (1, &1.into()));
    assert!(
        imported["skipped"][0]["why"]
            .as_str()
            .unwrap()
            .contains("leads back")
    );
}

#[test]
fn files_that_hold_no_lines_are_refused_unless_asked_for() {
    let tool = Tool::new();
    let program = env!("CARGO_BIN_EXE_betcode-db");
    let (refused, code) = tool.json(["import", program]);
    assert_eq!((code, &refused["messages"]), (1, &0.into()));
    assert!(
        refused["skipped"][0]["why"]
            .as_str()
            .unwrap()
            .contains("program"),
        "{refused}"
    );
    let gz = tool.write("x.jsonl", b"\x1f\x8b\x08\0\0\0rest");
    assert_eq!(tool.json(["import".as_ref(), gz.as_os_str()]).1, 1);
    let (imported, code) = tool.json(["import".as_ref(), gz.as_os_str(), "--binary".as_ref()]);
    assert_eq!((code, &imported["messages"]), (0, &1.into()));
}

#[test]
fn a_named_file_is_imported_whatever_its_ending() {
    let tool = Tool::new();
    let log = tool.write("agent.log", "starting\n{}\n");
    assert_eq!(
        tool.json(["import".as_ref(), log.as_os_str()]).0["messages"],
        2
    );
    assert_eq!(
        fs::read(tool.export("out").join("agent.log")).unwrap(),
        b"starting\n{}\n"
    );
}

#[test]
fn an_import_killed_at_any_moment_is_finished_by_the_next() {
    let tool = Tool::new();
    for n in 0..4 {
        tool.write(format!("src/{n}.jsonl"), generator::stream(n, 3_000_000));
    }
    let src = tool.path("src");
    for delay_ms in [30, 80, 150, 260, 400] {
        let mut child = tool
            .command(["import".as_ref(), src.as_os_str()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        thread::sleep(Duration::from_millis(delay_ms));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(import(&tool).1, 0);
    assert_eq!(tool.run(["verify"]).code, 0);
    assert_same(&src, &tool.export("out"));
}

#[test]
fn two_imports_of_the_same_files_at_once_double_nothing() {
    let tool = Tool::new();
    for n in 0..3 {
        tool.write(
            format!("src/{n}.jsonl"),
            generator::transcript(n, 1_000_000),
        );
    }
    let src = tool.path("src");
    let mut children: Vec<_> = (0..2)
        .map(|_| {
            let mut command = tool.command(["import".as_ref(), src.as_os_str()]);
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in &mut children {
        child.wait().unwrap();
    }
    assert_eq!(import(&tool).0["skipped"], serde_json::json!([]));
    assert_same(&src, &tool.export("out"));
}

#[test]
fn a_file_that_grows_during_imports_is_complete_in_the_end() {
    let tool = Tool::new();
    let bytes = generator::stream(5, 1_500_000);
    let path = tool.write("src/live.jsonl", "");
    let writer = {
        let (bytes, path) = (bytes.clone(), path.clone());
        thread::spawn(move || {
            let mut file = File::options().append(true).open(path).unwrap();
            // Pieces end in the middle of lines, as a writer's buffers do.
            for piece in bytes.chunks(70_001) {
                file.write_all(piece).unwrap();
                thread::sleep(Duration::from_millis(20));
            }
        })
    };
    while !writer.is_finished() {
        assert_eq!(import(&tool).1, 0);
    }
    writer.join().unwrap();
    assert_eq!(import(&tool).1, 0);
    assert_same(&tool.path("src"), &tool.export("out"));
    assert_eq!(tool.run(["verify"]).code, 0);
}

#[test]
fn two_imports_that_begin_a_file_at_once_make_one_session_of_it() {
    let tool = Tool::new();
    let options = StoreOptions {
        durability: Durability::Normal,
        ..StoreOptions::default()
    };
    let store = Store::open(&tool.path("h.db"), options).unwrap();
    let import = |file: &Path| {
        let plan = ImportPlan::of(&[file.to_owned()]).unwrap();
        let (target, options) = (ImportTarget::of(&store, None), ImportOptions::default());
        import::import(&store, target, plan, &options, &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap()
    };
    // The second looks for the file before the first has begun it, and for an id afterwards.
    for n in 1..=1000 {
        let file = tool.write(format!("src/{n}.jsonl"), "{}\n{}\n");
        thread::scope(|scope| {
            scope.spawn(|| import(&file));
            thread::sleep(Duration::from_micros(n * 7 % 500));
            import(&file);
        });
        let totals = store.totals().unwrap();
        assert_eq!((totals.sessions, totals.messages), (n, 2 * n));
    }
}

#[test]
fn of_two_imports_at_once_each_counts_only_what_it_recorded_itself() {
    // Before the first line of one is recorded, and between two of its batches.
    for (other_begins_at, sessions_counted) in [(0, 2), (1, 3)] {
        let tool = Tool::new();
        let files = [
            generator::transcript(1, 3_000_000),
            generator::transcript(2, 100_000),
        ];
        for (name, lines) in ["a", "b"].iter().zip(&files) {
            tool.write(format!("src/{name}.jsonl"), lines);
        }
        let options = StoreOptions {
            reserve_bytes: 0,
            ..StoreOptions::default()
        };
        let store = Store::open(&tool.db(), options).unwrap();
        let plan = ImportPlan::of(&[tool.path("src")]).unwrap();
        let target = ImportTarget::of(&store, None);
        let mut other = None;
        let own = import::import(&store, target, plan, &ImportOptions::default(), &mut |at| {
            if other.is_none() && at.bytes_done >= other_begins_at {
                other = Some(import(&tool).0);
            }
            ControlFlow::Continue(())
        });
        let (own, other) = (own.unwrap(), other.unwrap());
        let sum = |own: u64, field: &str| own + other[field].as_u64().unwrap();
        let bytes: usize = files.iter().map(Vec::len).sum();
        assert_eq!(
            sum(own.messages, "messages"),
            store.totals().unwrap().messages
        );
        assert_eq!(sum(own.bytes, "bytes"), bytes as u64);
        assert_eq!(sum(own.sessions, "sessions"), sessions_counted);
        assert_eq!(sum(own.unchanged, "unchanged"), 4 - sessions_counted);
        assert_same(&tool.path("src"), &tool.export("out"));
    }
}
