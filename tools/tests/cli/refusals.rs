//! What cannot be done: named, with a reason and advice, and nothing half done.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use betcode_db::generator;

use crate::tool::{Ran, Tool, assert_same};

#[test]
fn a_missing_path_or_a_folder_without_sessions_leaves_no_database_behind() {
    let tool = Tool::new();
    fs::create_dir(tool.path("empty")).unwrap();
    for path in ["nowhere", "empty"] {
        let ran = tool.run(["import".as_ref(), tool.path(path).as_os_str()]);
        assert_eq!(ran.code, 3);
        assert!(ran.stderr.starts_with("error: "), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("  why: ") && ran.stderr.contains("  try: "),
            "{}",
            ran.stderr
        );
    }
    assert!(!tool.db().exists());
}

#[test]
fn a_path_that_leads_through_a_file_is_a_mistake_with_advice() {
    let tool = Tool::new();
    let file = tool.write("file", "{}\n");
    let behind = file.join("x");
    let through = |args: &[&str]| {
        let mut args: Vec<_> = args.iter().map(std::ffi::OsStr::new).collect();
        args.push(behind.as_os_str());
        let (error, code) = tool.json(args);
        assert_eq!((code, &error["error"]["kind"]), (3, &"not_found".into()));
        assert!(error["error"]["try"].is_string(), "{error}");
    };
    through(&["import"]);
    through(&["sessions", "--db"]);
    tool.ok(["import".as_ref(), file.as_os_str()]);
    through(&["report", "--html"]);
    through(&["export", "--out"]);
}

#[test]
fn names_that_sqlite_takes_for_something_else_are_names_of_files() {
    let tool = Tool::new();
    tool.write("a.jsonl", "{\"n\":1}\n{\"n\":2}\n");
    let run = |args: &[&str]| {
        let ran = Ran::of(
            tool.command(args)
                .current_dir(tool.path(""))
                .output()
                .unwrap(),
        );
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.text(), ran.stderr);
        ran
    };
    for name in [
        "file:n.db",
        "file:m.db?mode=memory",
        "file:%41.db",
        ":memory:",
    ] {
        run(&["--db", name, "import", "a.jsonl"]);
        assert_eq!(
            run(&["--db", name, "cat", "a"]).stdout,
            b"{\"n\":1}\n{\"n\":2}\n"
        );
        let copy = format!("{name}-copy");
        run(&["--db", name, "backup", &copy]);
        let back = format!("file:{name}-back");
        run(&["--db", &back, "restore", &copy]);
        for made in [name, &copy, &back] {
            let bytes = fs::metadata(tool.path(made)).unwrap().len();
            assert!(bytes > 4096, "{made} has {bytes} bytes");
        }
        run(&[
            "--db",
            name,
            "retain",
            "--session",
            "a",
            "--archive",
            &format!("{name}-archive"),
            "--yes",
        ]);
        assert!(
            fs::metadata(tool.path(format!("{name}-archive")))
                .unwrap()
                .len()
                > 4096
        );
    }
    let strays: Vec<_> = fs::read_dir(tool.path(""))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with("file:") && !name.starts_with(":memory:"))
        .collect();
    assert_eq!(strays, ["a.jsonl"]);
}

#[test]
fn a_link_that_leads_to_itself_is_a_mistake_with_advice() {
    let tool = Tool::new();
    let link = tool.path("link");
    symlink(&link, &link).unwrap();
    for args in [["import"].as_slice(), &["sessions", "--db"]] {
        let (error, code) = tool.json(args.iter().map(OsStr::new).chain([link.as_os_str()]));
        assert_eq!((code, &error["error"]["kind"]), (3, &"not_found".into()));
        assert_eq!(error["error"]["try"], "check the path", "{error}");
    }
}

#[test]
fn commands_on_a_database_that_is_not_there_say_so_and_create_none() {
    let tool = Tool::new();
    for command in ["sessions", "report", "verify", "compact"] {
        let (error, code) = tool.json([command]);
        assert_eq!(
            (code, &error["error"]["kind"]),
            (3, &"not_found".into()),
            "{command}"
        );
    }
    assert!(!tool.db().exists());
}

#[test]
fn a_foreign_file_is_refused_untouched() {
    let tool = Tool::new();
    let source = tool.write("a.jsonl", "{}\n");
    let other = rusqlite_file(&tool);
    for content in [&b"just some text, and no database at all"[..], &other] {
        fs::create_dir_all(tool.db().parent().unwrap()).unwrap();
        fs::write(tool.db(), content).unwrap();
        for args in [
            vec!["import".as_ref(), source.as_os_str()],
            vec!["report".as_ref()],
        ] {
            let (error, code) = tool.json(args);
            assert_eq!(
                (code, &error["error"]["kind"]),
                (7, &"unsupported".into()),
                "{error}"
            );
        }
        assert_eq!(fs::read(tool.db()).unwrap(), content);
    }
}

/// A database of another program.
fn rusqlite_file(tool: &Tool) -> Vec<u8> {
    let path = tool.path("other.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("CREATE TABLE theirs (x); INSERT INTO theirs VALUES (1)")
        .unwrap();
    connection.close().unwrap();
    fs::read(path).unwrap()
}

#[test]
fn a_newer_file_is_refused_untouched() {
    let tool = Tool::new();
    let source = tool.write("a.jsonl", "{}\n");
    tool.ok(["import".as_ref(), source.as_os_str()]);
    let connection = rusqlite::Connection::open(tool.db()).unwrap();
    connection.pragma_update(None, "user_version", 999).unwrap();
    connection.close().unwrap();
    let ran = tool.run(["import".as_ref(), source.as_os_str()]);
    assert_eq!(ran.code, 7);
    assert!(ran.stderr.contains("999"), "{}", ran.stderr);
}

#[test]
fn a_database_that_was_cut_off_is_damage_and_no_crash() {
    let tool = Tool::new();
    let source = tool.write("a.jsonl", generator::transcript(1, 500_000));
    tool.ok(["import".as_ref(), source.as_os_str()]);
    let bytes = fs::read(tool.db()).unwrap();
    fs::write(tool.db(), &bytes[..bytes.len() / 2]).unwrap();
    let ran = tool.run(["verify"]);
    assert!(
        [1, 9].contains(&ran.code),
        "{}: {}{}",
        ran.code,
        ran.text(),
        ran.stderr
    );
}

#[test]
fn a_full_store_takes_what_it_can_and_goes_on_with_a_higher_limit() {
    let tool = Tool::new();
    for n in 0..3 {
        tool.write(
            format!("src/{n}.jsonl"),
            generator::transcript(n, 9_000_000),
        );
    }
    let src = tool.path("src");
    let import = |limit: &str| tool.json(["import", src.to_str().unwrap(), "--limit-bytes", limit]);
    let (error, code) = import("1.5MB");
    assert_eq!(
        (code, &error["error"]["kind"]),
        (6, &"no_space".into()),
        "{error}"
    );
    let why = error["error"]["why"].as_str().unwrap();
    assert!(
        why.contains("more do not fit under its limit of 1.50 MB"),
        "{why}"
    );
    assert_eq!(tool.run(["verify"]).code, 0);
    let (error, code) = import("0");
    assert_eq!(code, 2, "{error}");
    let (what, hint) = (&error["error"]["what"], &error["error"]["try"]);
    assert!(
        what.as_str()
            .unwrap()
            .ends_with("0 B is below the least that works, 1.00 MB")
    );
    assert!(hint.as_str().unwrap().contains("--limit-bytes"), "{hint}");
    let (rest, code) = import("1GB");
    assert_eq!(code, 0, "{rest}");
    assert_same(&src, &tool.export("out"));
}

#[test]
fn a_backup_needs_the_name_of_a_file_and_makes_no_folder_without_one() {
    let tool = Tool::new();
    let source = tool.write("a.jsonl", "{}\n");
    tool.ok(["import".as_ref(), source.as_os_str()]);
    let backup = |name: &str| {
        let to = format!("{}/{name}", tool.path("").display());
        tool.json(["backup", &to])
    };
    assert_eq!(backup("new/").1, 2);
    assert!(!tool.path("new").exists());
    fs::create_dir(tool.path("there")).unwrap();
    for name in ["there", "there/", "there/."] {
        let (error, code) = backup(name);
        assert_eq!(code, 4);
        let hint = error["error"]["try"].as_str().unwrap();
        assert!(hint.contains("name the file"), "{hint}");
    }
    assert_eq!(tool.run(["backup", ""]).code, 2);
    assert_eq!(fs::read_dir(tool.path("there")).unwrap().count(), 0);
}

#[test]
fn errors_of_a_named_file_are_not_about_the_database() {
    let tool = Tool::new();
    let source = tool.write("a.jsonl", generator::transcript(1, 200_000));
    tool.ok(["import".as_ref(), source.as_os_str()]);
    let good = tool.path("good.db");
    tool.ok(["backup".as_ref(), good.as_os_str()]);
    let mut bytes = fs::read(&good).unwrap();
    bytes.truncate(bytes.len() / 2);
    let damaged = tool.write("damaged.db", bytes);
    let text = tool.write("text", "no database at all, only a hundred bytes and some more of text, which is what it takes to be looked at");
    let missing = tool.path("missing.db");
    let hint = |args: &[&std::ffi::OsStr], expected: i32| {
        let (error, code) = tool.json(args);
        assert_eq!(code, expected, "{error}");
        error["error"]["try"].as_str().unwrap().to_owned()
    };
    for (backup, code) in [(&missing, 3), (&text, 7), (&damaged, 9)] {
        let restore: [&std::ffi::OsStr; 3] =
            ["restore".as_ref(), backup.as_ref(), "--replace".as_ref()];
        let hint = hint(&restore, code);
        assert!(hint.contains("backup"), "{hint}");
        let names_another = hint.contains("--db") && !hint.contains("damaged.db");
        assert!(!names_another && !hint.contains("verify"), "{hint}");
    }
    let retain: [&std::ffi::OsStr; 6] = [
        "retain".as_ref(),
        "--session".as_ref(),
        "a".as_ref(),
        "--yes".as_ref(),
        "--archive".as_ref(),
        text.as_ref(),
    ];
    let hint = hint(&retain, 7);
    assert!(hint.contains("archive") && !hint.contains("--db"), "{hint}");
}

#[test]
fn a_wrong_value_of_the_environment_is_reported_with_its_variable() {
    let tool = Tool::new();
    for (variable, value) in [("BETCODE_LIMIT_BYTES", "abc"), ("BETCODE_DB", "")] {
        let run = |args: &[&str]| {
            let mut command = tool.command(args);
            Ran::of(command.env(variable, value).output().unwrap())
        };
        let ran = run(&["sessions"]);
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains(variable), "{}", ran.stderr);
        // The command line goes over the environment.
        let given = ["sessions", "--db", "nowhere.db", "--limit-bytes", "1GB"];
        assert_eq!(run(&given).code, 3);
        let ran = run(&["sessions", "--db", "nowhere.db", "--limit-bytes", "x"]);
        assert!(!ran.stderr.contains("The value is"), "{}", ran.stderr);
    }
}

#[test]
fn what_cannot_be_meant_is_refused_in_its_own_words() {
    let tool = Tool::new();
    let source = tool.write("a.jsonl", "{}\n{}\n");
    tool.ok(["import".as_ref(), source.as_os_str()]);
    for (args, words) in [
        (&["cat", "a", "--from", "2", "--to", "1"][..], "--from 2"),
        (&["search", "x", "-n", "0"], "1.."),
        (&["plan", "--users", "0"], "with --users"),
        (&["sessions", "--limit-bytes", "99999999999TB"], "more than"),
        (
            &["retain", "--older-than", "99999999999999y"],
            "longer than",
        ),
    ] {
        let ran = tool.run(args);
        assert_eq!(ran.code, 2, "{args:?}");
        assert!(ran.stderr.contains(words), "{args:?}: {}", ran.stderr);
    }
}

#[test]
fn a_wrong_command_line_is_usage() {
    let tool = Tool::new();
    for args in [
        &["import"][..],
        &["--json"],
        &["compact", "--tier", "best"],
        &["sessions", "-n", "0"],
        &["frobnicate"],
    ] {
        assert_eq!(tool.run(args).code, 2, "{args:?}");
    }
    assert_eq!(tool.run(["--help"]).code, 0);
    assert_eq!(tool.run(["--version"]).code, 0);
}

#[test]
fn a_file_called_like_an_option_does_not_take_the_place_of_the_environment() {
    let tool = Tool::new();
    tool.write("--db", "{}\n");
    let mut import = tool.command(["import", "--", "--db"]);
    let ran = Ran::of(import.current_dir(tool.path("")).output().unwrap());
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(tool.db().exists());
}

#[test]
fn an_empty_file_is_made_a_database_by_an_import_alone_and_private_then() {
    let tool = Tool::new();
    let source = tool.write("a.jsonl", "{}\n");
    let db = tool.write("store/history.db", "");
    fs::set_permissions(&db, fs::Permissions::from_mode(0o644)).unwrap();
    for command in [&["compact"][..], &["delete", "a", "--yes"]] {
        assert_eq!(tool.run(command).code, 3, "{command:?}");
        assert_eq!(fs::read(&db).unwrap(), b"");
    }
    tool.ok(["import".as_ref(), source.as_os_str()]);
    let mode = fs::metadata(&db).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_name_that_leaves_no_room_for_the_files_beside_the_database_is_refused() {
    let tool = Tool::new();
    let source = tool.write("a.jsonl", "{}\n");
    for (length, code) in [(240, 2), (239, 0)] {
        let db = tool.path("d".repeat(length));
        let import = |command: &str| {
            let args = ["--db".as_ref(), db.as_os_str(), command.as_ref()];
            let source = (command == "import").then_some(source.as_os_str());
            tool.run(args.into_iter().chain(source))
        };
        let ran = import("import");
        assert_eq!((ran.code, db.exists()), (code, code == 0), "{}", ran.stderr);
        if code == 0 {
            tool.ok(["--db".as_ref(), db.as_os_str(), "compact".as_ref()]);
        }
    }
}

#[test]
fn standard_input_is_no_file_to_import() {
    let tool = Tool::new();
    for name in ["-", "/dev/stdin"] {
        let mut command = tool.command(["import", name, "--json"]);
        let ran = Ran::of(
            command
                .stdin(std::process::Stdio::piped())
                .output()
                .unwrap(),
        );
        let text = ran.text();
        assert_eq!(ran.code, 2, "{text}");
        assert!(text.contains("save its lines to a file first"), "{text}");
    }
}

#[test]
fn a_limit_on_the_size_of_files_ends_an_import_with_an_error_and_a_higher_one_goes_on() {
    let tool = Tool::new();
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(1000));
    tool.write("in/a.jsonl", line.repeat(2000));
    let source = tool.path("in");
    let import = tool.command(["import".as_ref(), source.as_os_str()]);
    let mut shell = Command::new("sh");
    // 1,000 blocks are 512 or 1,024 kB, as the shell has it.
    shell.args(["-c", r#"ulimit -f 1000; exec "$0" "$@""#]);
    shell.arg(import.get_program()).args(import.get_args());
    shell.envs(
        import
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let ran = Ran::of(shell.output().unwrap());
    assert_eq!(ran.code, 6, "{}", ran.stderr);
    assert!(ran.stderr.contains("ulimit -f"), "{}", ran.stderr);
    tool.ok(["import".as_ref(), source.as_os_str()]);
    assert_same(&source, &tool.export("out"));
}

#[test]
fn too_few_open_files_are_named_and_not_taken_for_missing_permissions() {
    let tool = Tool::new();
    tool.write("in/a.jsonl", "{}\n");
    let source = tool.path("in");
    tool.ok(["import".as_ref(), source.as_os_str()]);
    let compact = tool.command(["compact"]);
    let run_with = |files: u32| {
        let mut shell = Command::new("sh");
        shell.arg("-c");
        shell.arg(format!(r#"ulimit -n {files}; exec "$0" "$@""#));
        shell.arg(compact.get_program()).args(compact.get_args());
        let set = compact.get_envs();
        shell.envs(set.filter_map(|(name, value)| Some((name, value?))));
        Ran::of(shell.output().unwrap())
    };
    // With fewer no program starts.
    let mut named = 0;
    for files in 6..30 {
        let ran = run_with(files);
        if ran.code == 0 {
            continue;
        }
        assert!(
            ran.stderr.contains("too many open files") && ran.stderr.contains("ulimit -n"),
            "{files}: {}",
            ran.stderr
        );
        named += 1;
    }
    assert!(named > 0, "it never ran out of files");
}

#[test]
fn a_database_of_no_bytes_is_reported_as_empty() {
    let tool = Tool::new();
    tool.write("store/history.db", "");
    for command in [["report"].as_slice(), &["compact"], &["cat", "a"]] {
        let (error, code) = tool.json(command);
        let what = error["error"]["what"].as_str().unwrap();
        assert!(
            code == 3 && what.ends_with("is empty: it is no database yet"),
            "{error}"
        );
    }
}

#[test]
fn a_home_that_is_relative_is_no_place_for_a_database() {
    let tool = Tool::new();
    let ran = Ran::of(
        tool.command(["sessions"])
            .env_remove("BETCODE_DB")
            .env_remove("XDG_DATA_HOME")
            .env("HOME", "relative")
            .output()
            .unwrap(),
    );
    assert_eq!(ran.code, 2, "{}", ran.stderr);
    assert!(ran.stderr.contains("--db FILE"), "{}", ran.stderr);
}
