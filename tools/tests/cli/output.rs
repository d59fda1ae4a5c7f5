//! What people and scripts see: widths, pipes, quiet, signals.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use betcode_db::generator;

use crate::tool::{Ran, Tool, assert_same, interrupt};

fn tool() -> Tool {
    let tool = Tool::new();
    tool.write(
        "src/projects/some-project/0b1f2c3d-1111-4222-8333-444455556666.jsonl",
        generator::transcript(4, 400_000),
    );
    tool.write(
        "src/a-name-longer-than-thirty-six-characters-as-logs-have.jsonl",
        generator::stream(5, 400_000),
    );
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    tool
}

#[test]
fn everything_fits_80_columns_and_has_no_colour_in_a_pipe() {
    let tool = tool();
    let commands: [&[&str]; 8] = [
        &["sessions"],
        &["compact"],
        &["report"],
        &["verify"],
        &["--help"],
        &["import", "--help"],
        &["compact", "--dry-run"],
        &["demo", "--help"],
    ];
    for args in commands {
        let text = tool.ok(args).text();
        assert!(!text.contains('\u{1b}'), "{args:?}");
        // Only paths may be longer.
        for line in text.lines().filter(|line| !line.contains('/')) {
            assert!(line.chars().count() <= 80, "{args:?}: {line}");
        }
    }
}

#[test]
fn json_beside_other_output_is_refused_wherever_the_options_stand() {
    let tool = tool();
    for other in [
        &["report", "--csv"][..],
        &["report", "--prometheus"],
        &["cat", "-f", "a-name"],
    ] {
        let (before, behind) = ([&["--json"], other].concat(), [other, &["--json"]].concat());
        for arguments in [before, behind] {
            let ran = tool.run(&arguments);
            assert_eq!(ran.code, 2, "{arguments:?}: {}", ran.text());
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let tool = tool();
    let mut child = tool
        .command(["cat", "a-name"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 10];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
}

#[test]
fn a_full_disk_behind_a_redirection_is_an_error() {
    let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else {
        return;
    };
    let tool = tool();
    let output = tool
        .command(["cat", "a-name"])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(6));
}

#[test]
fn quiet_writes_nothing_but_errors() {
    let tool = tool();
    for args in [
        ["report", "--quiet"],
        ["compact", "--quiet"],
        ["verify", "-q"],
    ] {
        let ran = tool.ok(args);
        assert_eq!((ran.text().as_str(), ran.stderr.as_str()), ("", ""));
    }
    assert!(!tool.run(["cat", "nobody", "--quiet"]).stderr.is_empty());
}

#[test]
fn quiet_takes_nothing_from_a_json_document() {
    let tool = tool();
    let document = |args: &[&str]| tool.ok(args).text();
    let alone = document(&["sessions", "--json"]);
    assert!(alone.starts_with('{'), "{alone}");
    assert_eq!(document(&["sessions", "--json", "--quiet"]), alone);
    assert_eq!(document(&["-q", "sessions", "--json"]), alone);
}

#[test]
fn quiet_still_reports_skipped_files_damage_and_problems() {
    let tool = Tool::new();
    for name in ["whole", "damaged"] {
        tool.write(format!("src/{name}.jsonl"), format!("{{}}\n{name}\n"));
    }
    tool.write("src/database.jsonl", b"SQLite format 3\0");
    let (src, out) = (tool.path("src"), tool.path("out"));
    let [src, out] = [&src, &out].map(|path| path.to_str().unwrap());
    let only_on_stderr = |args: &[&str], code: i32, words: &str| {
        let ran = tool.run(args.iter().chain(&["-q"]));
        assert_eq!((ran.code, ran.text().as_str()), (code, ""), "{args:?}");
        assert!(ran.stderr.contains(words), "{args:?}: {}", ran.stderr);
    };
    only_on_stderr(&["import", src], 1, "database.jsonl");
    tool.damage("damaged");
    only_on_stderr(&["verify"], 1, "session damaged, sequence 2");
    only_on_stderr(&["export", "--out", out], 9, "not exported: damaged");
    only_on_stderr(&["search", "{}"], 1, "not all of it searched: damaged");
    fs::set_permissions(tool.db(), fs::Permissions::from_mode(0o644)).unwrap();
    only_on_stderr(&["doctor"], 1, "PROBLEM");
    let shown = tool.run(["doctor", "-q"]).stderr;
    assert_eq!(shown.lines().count(), 2, "one problem, what to do: {shown}");
}

#[test]
fn an_error_with_json_is_one_document_and_the_words_on_stderr() {
    let tool = tool();
    let ran = tool.run(["cat", "nobody", "--json"]);
    let document: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!((ran.code, &document["error"]["exit_code"]), (3, &3.into()));
    assert!(document["error"]["try"].is_string());
    assert!(ran.stderr.starts_with("error: "));
}

#[test]
fn an_interrupted_import_says_so_and_is_finished_by_the_next() {
    let tool = Tool::new();
    for n in 0..6 {
        tool.write(format!("src/{n}.jsonl"), generator::stream(n, 4_000_000));
    }
    let src = tool.path("src");
    let child = tool
        .command(["import".as_ref(), src.as_os_str(), "--json".as_ref()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(150));
    interrupt(&child);
    let ran = Ran::of(child.wait_with_output().unwrap());
    let document: serde_json::Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(
        (ran.code, &document["interrupted"]),
        (130, &true.into()),
        "{document}"
    );
    tool.ok(["import".as_ref(), src.as_os_str()]);
    assert_same(&src, &tool.export("out"));
}

#[test]
fn a_path_with_a_line_break_forges_no_line() {
    let tool = Tool::new();
    let folder = tool.path("a\ndoctor       ok");
    fs::create_dir(&folder).unwrap();
    let source = tool.write("a.jsonl", "{}\n");
    let db = folder.join("h.db");
    let run = |args: &[&OsStr]| {
        let database = ["--db".as_ref(), db.as_os_str()];
        tool.ok(args.iter().copied().chain(database)).text()
    };
    let (copy, out) = (folder.join("copy.db"), folder.join("out"));
    let commands: [&[&OsStr]; 5] = [
        &["import".as_ref(), source.as_ref()],
        &["doctor".as_ref()],
        &["backup".as_ref(), copy.as_ref()],
        &["export".as_ref(), "--out".as_ref(), out.as_ref()],
        &["report".as_ref()],
    ];
    for args in commands {
        let text = run(args);
        let forged = text.lines().any(|line| line.starts_with("doctor       ok"));
        assert!(!forged, "{args:?}: {text}");
    }
}

#[test]
fn following_ends_when_nobody_reads_any_more() {
    let tool = tool();
    let mut child = tool
        .command(["cat", "a-name", "--follow"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let source =
        fs::read(tool.path("src/a-name-longer-than-thirty-six-characters-as-logs-have.jsonl"));
    let mut all = vec![0; source.unwrap().len()];
    stdout.read_exact(&mut all).unwrap();
    drop(stdout);
    let ended = (0..600).find_map(|_| {
        thread::sleep(Duration::from_millis(50));
        child.try_wait().unwrap()
    });
    child.kill().unwrap();
    assert_eq!(ended.map(|status| status.code()), Some(Some(0)));
}

#[test]
fn a_quiet_import_still_says_that_it_was_interrupted() {
    let tool = Tool::new();
    for n in 0..6 {
        tool.write(format!("src/{n}.jsonl"), generator::stream(n, 4_000_000));
    }
    let child = tool
        .command([
            "import".as_ref(),
            tool.path("src").as_os_str(),
            "-q".as_ref(),
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(150));
    interrupt(&child);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130);
    assert!(ran.stderr.starts_with("interrupted: "), "{}", ran.stderr);
}

#[test]
fn a_walk_through_links_that_would_take_for_ever_can_be_interrupted() {
    let tool = Tool::new();
    // Two ways from each folder to the next: a path for each number of forty bits.
    for n in 0..40 {
        fs::create_dir_all(tool.path(format!("src/{n:02}"))).unwrap();
        for way in ["a", "b"] {
            let next = format!("../{:02}", n + 1);
            std::os::unix::fs::symlink(next, tool.path(format!("src/{n:02}/{way}"))).unwrap();
        }
    }
    tool.write("src/40/a.jsonl", "{}\n");
    let child = tool
        .command(["import".as_ref(), tool.path("src/00").as_os_str()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(Duration::from_millis(150));
    interrupt(&child);
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130);
    assert!(
        ran.stderr.contains("nothing was imported"),
        "{}",
        ran.stderr
    );
    assert!(!tool.db().exists());
}

#[test]
fn an_interrupted_search_says_so() {
    let tool = Tool::new();
    // More matches than fit into the pipe and the program's buffer: it waits for its reader.
    let line = format!("{{\"text\":\"{}\"}}\n", "x".repeat(150));
    tool.write("src/a.jsonl", line.repeat(10_000));
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    let mut child = tool
        .command(["search", "text", "--limit", "10000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 10]).unwrap();
    interrupt(&child);
    stdout.read_to_end(&mut Vec::new()).unwrap();
    let ran = Ran::of(child.wait_with_output().unwrap());
    assert_eq!(ran.code, 130);
    assert!(ran.stderr.starts_with("interrupted: "), "{}", ran.stderr);
}

#[test]
fn without_arguments_it_shows_its_help_also_when_the_environment_names_a_database() {
    let tool = Tool::new();
    let ran = tool.run([] as [&str; 0]);
    assert_eq!(ran.code, 2);
    assert!(
        ran.stderr.contains("Exit codes:") && ran.stderr.contains("demo"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_signal_that_is_ignored_when_it_starts_stays_ignored() {
    let tool = tool();
    tool.write("more/b.jsonl", "one\n");
    tool.ok(["import".as_ref(), tool.path("more").as_os_str()]);
    let plain = tool.command(["cat", "b", "--follow"]);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP INT; exec \"$0\" \"$@\""]);
    command.arg(plain.get_program()).args(plain.get_args());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    let mut following = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    let send = |signal: &str| {
        let sent = Command::new("kill")
            .args([signal, &following.id().to_string()])
            .status();
        assert!(sent.unwrap().success());
    };
    send("-INT");
    send("-HUP");
    tool.write("more/b.jsonl", "one\ntwo\n");
    tool.ok(["import".as_ref(), tool.path("more").as_os_str()]);
    let second = lines.next().map(Result::unwrap);
    send("-TERM");
    assert!(lines.next().is_none());
    following.wait().unwrap();
    assert_eq!(second.as_deref(), Some("two"));
}

#[test]
fn a_page_is_written_to_a_pipe_and_to_stdout_wherever_it_leads() {
    let tool = tool();
    let piped = tool.ok(["report", "--quiet", "--html", "/dev/stdout"]);
    assert!(
        piped.text().starts_with("<!doctype html>"),
        "{}",
        piped.text()
    );
    let file = tool.path("page");
    let mut command = tool.command(["report", "--html", "/dev/stdout"]);
    let status = command.stdout(fs::File::create(&file).unwrap()).status();
    assert!(status.unwrap().success());
    let written = fs::read_to_string(&file).unwrap();
    let text = written.split("</html>").nth(1).unwrap_or_default();
    assert!(
        written.starts_with("<!doctype html>") && text.contains("Footprint"),
        "{written}"
    );
}
#[test]
fn a_page_on_stdout_is_refused_beside_what_a_program_reads_there() {
    let tool = tool();
    for other in ["--json", "--csv", "--prometheus"] {
        let refused = tool.run(["report", other, "--html", "/dev/stdout"]);
        assert_eq!(refused.code, 2, "{other}");
        assert!(!refused.text().contains("<!doctype html>"), "{other}");
        let page = tool.path("page.html");
        let beside = ["report".as_ref(), other.as_ref(), "--html".as_ref()];
        tool.ok(beside.into_iter().chain([page.as_os_str()]));
    }
}
