//! What an import says: beside its progress, at its end, and of files that it leaves alone.

use std::fs::File;
use std::ops::ControlFlow;
use std::time::Duration;

use betcode_db::generator;
use betcode_db::import::{self, ImportOptions, ImportPlan, ImportTarget};
use betcode_storage::{Store, StoreOptions};

use crate::import::append;
use crate::tool::Tool;

#[test]
fn an_import_ends_with_the_size_of_the_database_and_how_it_gets_smaller() {
    let tool = Tool::new();
    tool.write("src/a.jsonl", generator::transcript(3, 400_000));
    let src = tool.path("src");
    let import = ["import", src.to_str().unwrap()];
    let shown = tool.ok(import).text();
    assert!(shown.contains("The database takes "), "{shown}");
    assert!(
        shown.contains("`betcode-db compact` makes that about "),
        "{shown}"
    );
    let again = tool.ok(import).text();
    assert!(!again.contains("takes"), "nothing was imported: {again}");
    tool.write("src/b.jsonl", generator::transcript(4, 400_000));
    let quiet = tool.ok(import.iter().chain(&["--quiet"]));
    assert_eq!(quiet.text(), "");
}

#[test]
fn files_that_had_nothing_new_are_counted() {
    let tool = Tool::new();
    tool.write("src/a.jsonl", "{}\n");
    let src = tool.path("src");
    let import = ["import", src.to_str().unwrap()];
    tool.ok(import);
    tool.write("src/b.jsonl", "{}\n");
    let shown = tool.ok(import).text();
    assert!(shown.contains("  1 file had nothing new\n"), "{shown}");
    assert!(!shown.contains("had grown"), "{shown}");
}

#[test]
fn who_watches_an_import_sees_when_it_compacts() {
    let tool = Tool::new();
    for seed in 0..4 {
        tool.write(
            format!("src/{seed}.jsonl"),
            generator::transcript(seed, 500_000),
        );
    }
    let options = StoreOptions {
        db_bytes_max: 1_500_000,
        session_bytes_max: 1_500_000,
        ..StoreOptions::default()
    };
    let store = Store::open(&tool.path("history.db"), options).unwrap();
    let plan = ImportPlan::of(&[tool.path("src")]).unwrap();
    let mut phases = Vec::new();
    import::import(
        &store,
        ImportTarget::File(&store),
        plan,
        &ImportOptions::default(),
        &mut |at| {
            phases.push(at.compacting);
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    phases.dedup();
    assert_eq!(phases[..3], [false, true, false], "and goes on importing");
}

#[test]
fn files_not_modified_for_long_are_left_alone_unless_they_are_known() {
    let tool = Tool::new();
    let set_age = |name: &str, days: u64| {
        let file = File::options().write(true).open(tool.path(name)).unwrap();
        let age = Duration::from_secs(days * 86_400);
        file.set_modified(std::time::SystemTime::now() - age)
            .unwrap();
    };
    let import = |within: &str| {
        let src = tool.path("src");
        tool.json(["import", src.to_str().unwrap(), "--modified-within", within])
    };
    for (name, days) in [("old", 100), ("grows", 100), ("stays", 100), ("new", 10)] {
        tool.write(format!("src/{name}.jsonl"), format!("{name} one\n"));
        set_age(&format!("src/{name}.jsonl"), days);
    }
    let (all_old, code) = import("1d");
    assert_eq!((code, &all_old["left_old"]), (0, &4.into()), "{all_old}");
    let known = ["grows", "stays"].map(|name| tool.path(format!("src/{name}.jsonl")));
    tool.ok([
        "import".as_ref(),
        known[0].as_os_str(),
        known[1].as_os_str(),
    ]);
    append(&known[0], b"grows two\n");
    set_age("src/grows.jsonl", 100);
    let (imported, code) = import("90d");
    assert_eq!(code, 0, "{imported}");
    for (field, count) in [
        ("files", 4),
        ("left_old", 1),
        ("sessions", 2),
        ("resumed", 1),
        ("unchanged", 1),
    ] {
        assert_eq!(imported[field], count, "{field}: {imported}");
    }
    assert_eq!(tool.run(["cat", "old"]).code, 3);
    // What was deleted stays away.
    tool.ok(["delete", "stays", "--yes"]);
    assert_eq!(import("90d").0["left_old"], 2);
    let shown = tool.ok([
        "import",
        tool.path("src").to_str().unwrap(),
        "--modified-within",
        "90d",
    ]);
    assert_eq!(
        shown.text(),
        "Nothing new in 2 files\n  2 files left alone: not modified within the time given\n"
    );
    assert_eq!(tool.run(["cat", "stays"]).code, 3);
    // Without it, everything is imported.
    assert_eq!(import("1y").0["sessions"], 2);
}

#[test]
fn an_import_that_compacts_as_it_goes_logs_its_level_once() {
    let tool = Tool::new();
    for n in 0..4 {
        tool.write(
            format!("src/{n}.jsonl"),
            generator::transcript(n, 5_000_000),
        );
    }
    let src = tool.path("src");
    let args = ["import", src.to_str().unwrap(), "--limit-bytes", "6MB"];
    let ran = tool.ok(args);
    let warnings = ran.stderr.lines().filter(|line| line.contains("capacity"));
    assert!(warnings.count() <= 1, "{}", ran.stderr);
}
