//! Importing what is recorded already, or a part of it, from elsewhere.

use std::fs;

use betcode_db::generator;
use serde_json::Value;

use crate::tool::{Tool, assert_same};

/// Imports a folder; the document and the exit code.
fn import(tool: &Tool, folder: &str) -> (Value, i32) {
    tool.json(["import".as_ref(), tool.path(folder).as_os_str()])
}

#[test]
fn an_older_copy_of_a_file_that_grew_holds_nothing_new() {
    let grown = generator::transcript(3, 60_000);
    for (copied, compacted) in [(1, false), (30_000, true), (grown.len() - 1, false)] {
        let tool = Tool::new();
        tool.write("src/p/a.jsonl", &grown);
        tool.write("backup/p/a.jsonl", &grown[..copied]);
        import(&tool, "src");
        if compacted {
            tool.ok(["compact"]);
        }
        let (older, code) = import(&tool, "backup");
        assert_eq!(
            (code, &older["unchanged"], &older["messages"]),
            (0, &1.into(), &0.into()),
            "{older}"
        );
        assert_same(&tool.path("src"), &tool.export("out"));
        // The copy catches up, and overtakes.
        tool.write("backup/p/a.jsonl", [&grown[..], b"{}\n"].concat());
        assert_eq!(import(&tool, "backup").0["messages"], 1);
        assert_same(&tool.path("backup"), &tool.export("caught-up"));
    }
}

#[test]
fn an_older_copy_that_went_another_way_is_a_session_of_its_own() {
    let tool = Tool::new();
    tool.write("src/a.jsonl", "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n");
    import(&tool, "src");
    let copy = tool.write("backup/a.jsonl", "{\"n\":1}\n{\"n\":9}\n");
    assert_eq!(import(&tool, "backup").0["messages"], 2);
    fs::write(&copy, "{\"n\":1}\n{\"n\":9}\n{\"n\":10}\n").unwrap();
    assert_eq!(import(&tool, "backup").0["messages"], 1);
    let exported = tool.export("out").join("a~2.jsonl");
    assert_eq!(fs::read(exported).unwrap(), fs::read(copy).unwrap());
}

#[test]
fn an_older_copy_is_recorded_when_asked_for_and_when_the_recorded_one_is_damaged() {
    let lines = "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n";
    for as_new in [true, false] {
        let tool = Tool::new();
        tool.write("src/a.jsonl", lines);
        tool.write("backup/a.jsonl", &lines[..16]);
        import(&tool, "src");
        let mut args = vec![
            "import".to_owned(),
            tool.path("backup").display().to_string(),
        ];
        if as_new {
            args.push("--as-new".to_owned());
        } else {
            tool.damage("{\"n\":2}");
        }
        let (imported, code) = tool.json(args);
        assert_eq!((code, &imported["messages"]), (0, &2.into()), "{imported}");
    }
}

#[test]
fn damage_in_a_session_whose_file_changed_keeps_no_other_file_from_being_taken() {
    let tool = Tool::new();
    let file = tool.write("src/a.jsonl", "{\"n\":1}\n{\"n\":2}\n");
    import(&tool, "src");
    tool.damage("{\"n\":1}");
    fs::write(&file, "{\"n\":1}\n{\"n\":9}\n").unwrap();
    tool.write("src/z.jsonl", "{}\n");
    let (changed, code) = import(&tool, "src");
    assert_eq!((code, &changed["messages"]), (1, &1.into()), "{changed}");
    let why = changed["skipped"][0]["why"].as_str().unwrap();
    assert!(why.contains("damaged"), "{why}");
}

#[test]
fn an_older_copy_is_looked_for_among_the_newest_sessions_of_its_place() {
    let tool = Tool::new();
    let folders: Vec<_> = (0..40).map(|n| tool.path(format!("src/{n}"))).collect();
    for (n, folder) in folders.iter().enumerate() {
        let lines = format!("{{\"n\":{n}}}\n{{\"then\":{n}}}\n");
        tool.write(folder.join("a.jsonl"), lines);
    }
    let all = ["import".as_ref()].into_iter();
    let all: Vec<_> = all.chain(folders.iter().map(|f| f.as_os_str())).collect();
    let (first, code) = tool.json(&all);
    assert_eq!((code, &first["sessions"]), (0, &40.into()), "{first}");
    assert_eq!(tool.json(&all).0["unchanged"], 40);
    for (n, sessions) in [(39, 0), (8, 0), (7, 1), (0, 1)] {
        let folder = format!("copies/{n}");
        tool.write(format!("{folder}/a.jsonl"), format!("{{\"n\":{n}}}\n"));
        let copied = import(&tool, &folder).0;
        assert_eq!(copied["sessions"], sessions, "{n}: {copied}");
    }
}
