//! What `--json` writes is what `docs/CLI_JSON.md` says.

use std::collections::BTreeSet;

use serde_json::Value;

use super::tool::Tool;

const DOCUMENT: &str = include_str!("../../../docs/CLI_JSON.md");

/// The names of fields that stand in the document as code.
fn documented() -> BTreeSet<&'static str> {
    DOCUMENT
        .split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|code| code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_'))
        .collect()
}

fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                fields(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[test]
fn every_field_of_every_command_is_documented() {
    let tool = Tool::new();
    // Growth on enough days for a forecast, with usage, and one payload that is no text.
    for day in 1..=28 {
        let line = format!(
            "{{\"type\":\"user\",\"timestamp\":\"2026-02-{day:02}T10:00:00Z\",\"cwd\":\"/p\"}}\n"
        );
        tool.write(format!("src/{day}.jsonl"), line.repeat(20));
    }
    tool.write("src/odd.jsonl", b"\xff\n");
    tool.write("src/database.jsonl", b"SQLite format 3\0");
    let [src, out, copy, new, archive, demo] =
        ["src", "out", "copy.db", "new.db", "archive.db", "demo.db"].map(|name| tool.path(name));
    let [src, out, copy, new, archive, demo] =
        [&src, &out, &copy, &new, &archive, &demo].map(|path| path.to_str().unwrap());
    let commands: &[&[&str]] = &[
        &["import", src],
        &["compact", "--dry-run"],
        &["compact"],
        &["sessions"],
        &["report"],
        &["plan", "--measured", "--users", "20"],
        &["cat", "odd"],
        &["search", "user"],
        &["inspect"],
        &["inspect", "odd"],
        &["verify"],
        &["doctor"],
        &["backup", copy],
        &["restore", copy, "--db", new],
        &["export", "--out", out],
        &["rename", "odd", "Odd"],
        &["retain", "--session", "odd", "--archive", archive],
        &["retain", "--session", "odd", "--archive", archive, "--yes"],
        &["delete", "28"],
        &["delete", "28", "--yes"],
        &["demo", "--generated", "--size", "100KB", "--db", demo],
    ];
    let documented = documented();
    for command in commands {
        let mut found = BTreeSet::new();
        fields(&tool.json(*command).0, &mut found);
        let silent: Vec<_> = found
            .iter()
            .filter(|name| !documented.contains(name.as_str()))
            .collect();
        assert!(silent.is_empty(), "{command:?}: {silent:?}");
    }
}
