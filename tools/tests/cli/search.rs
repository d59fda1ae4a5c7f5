//! `search` beside what others do, and behind damage.

use std::io::{BufRead, BufReader, Read};
use std::process::Stdio;

use crate::tool::Tool;

#[test]
fn a_session_deleted_during_a_search_takes_nothing_from_what_was_found() {
    let tool = Tool::new();
    // More matches than a pipe and a buffer hold, so that the search waits within the first session.
    for name in ["aaaa", "bbbb"] {
        let lines = format!("needle {}\n", "x".repeat(100)).repeat(9000);
        tool.write(format!("src/{name}.jsonl"), lines);
    }
    tool.ok(["import".as_ref(), tool.path("src").as_os_str()]);
    let mut search = tool
        .command(["search", "needle", "--limit", "20000"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(search.stdout.take().unwrap()).lines();
    let first = lines.next().unwrap().unwrap();
    let doomed = if first.starts_with("aaaa") {
        "bbbb"
    } else {
        "aaaa"
    };
    tool.ok(["delete", doomed, "--yes"]);
    assert_eq!(1 + lines.count(), 9000);
    let mut errors = String::new();
    search
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert_eq!(search.wait().unwrap().code(), Some(0), "{errors}");
}

#[test]
fn what_follows_damage_is_found_and_the_damage_is_reported_once() {
    let tool = Tool::new();
    let file = tool.write("s.jsonl", "needle 1\nlost 2\nneedle 3\nlost 4\nneedle 5\n");
    tool.ok(["import".as_ref(), file.as_os_str()]);
    tool.damage("lost 2");
    tool.damage("lost 4");
    let (found, code) = tool.json(["search", "needle"]);
    let sequences: Vec<_> = found["matches"]
        .as_array()
        .unwrap()
        .iter()
        .map(|m| &m["sequence"])
        .collect();
    assert_eq!(
        (code, sequences),
        (1, vec![&1.into(), &3.into(), &5.into()]),
        "{found}"
    );
    assert_eq!(found["failed"].as_array().unwrap().len(), 1, "{found}");
}

#[test]
fn an_unknown_type_is_answered_with_the_known_ones_and_an_empty_text_is_refused() {
    let tool = Tool::new();
    let lines = "{\"type\":\"user\",\"n\":1}\n{\"type\":\"assistant\"}\n";
    let file = tool.write("s.jsonl", lines);
    tool.ok(["import".as_ref(), file.as_os_str()]);
    let ran = tool.run(["search", "n", "--type", "usr"]);
    assert_eq!(ran.code, 3);
    for part in ["no message has the type \"usr\"", "assistant", "user"] {
        assert!(ran.stderr.contains(part), "{part}: {}", ran.stderr);
    }
    let ran = tool.run(["search", "no such", "--type", "user"]);
    assert!(!ran.stderr.contains("has the type"), "{}", ran.stderr);
    for args in [["search", ""].as_slice(), &["search", "--regex", ""]] {
        assert_eq!(tool.run(args).code, 2);
    }
}
