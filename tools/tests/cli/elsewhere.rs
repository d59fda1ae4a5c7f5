//! Files that are recorded already and come again from elsewhere: as copies, below another folder, moved,
//! or from an export.

use std::fs;
use std::path::Path;

use betcode_db::generator;
use serde_json::Value;

use crate::tool::{Tool, assert_same};

/// Imports a file or folder; the document.
fn import(tool: &Tool, path: &str) -> Value {
    let (document, code) = tool.json(["import".as_ref(), tool.path(path).as_os_str()]);
    assert_eq!(code, 0, "{path}: {document}");
    document
}

fn assert_nothing_new(tool: &Tool, path: &str) {
    let imported = import(tool, path);
    assert_eq!(
        (
            &imported["sessions"],
            &imported["messages"],
            &imported["unchanged"]
        ),
        (&0.into(), &0.into(), &imported["files"]),
        "{path}: {imported}"
    );
}

fn sessions(tool: &Tool) -> Value {
    tool.json(["sessions"]).0["total"].clone()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &to),
            false => drop(fs::copy(entry.path(), to).unwrap()),
        }
    }
}

/// Two sessions of one project, imported from `x/projects`.
fn tool() -> Tool {
    let tool = Tool::new();
    tool.write("x/projects/p/a.jsonl", generator::transcript(1, 20_000));
    tool.write("x/projects/p/b.jsonl", generator::transcript(2, 20_000));
    tool
}

#[test]
fn a_copy_doubles_nothing_whatever_part_of_either_is_imported_then() {
    let parts = ["projects", "projects/p", "projects/p/a.jsonl"];
    for first in parts {
        for second in parts {
            let tool = tool();
            import(&tool, &format!("x/{first}"));
            let recorded = sessions(&tool);
            copy(&tool.path("x"), &tool.path("copy"));
            for path in ["copy/projects/p/a.jsonl", "copy/projects/p/b.jsonl"] {
                // Only what is recorded is looked at.
                if first.ends_with("a.jsonl") && path.ends_with("b.jsonl") {
                    fs::remove_file(tool.path(path)).unwrap();
                    fs::remove_file(tool.path("x/projects/p/b.jsonl")).unwrap();
                }
            }
            assert_nothing_new(&tool, &format!("copy/{second}"));
            for third in parts {
                assert_nothing_new(&tool, &format!("x/{third}"));
                assert_nothing_new(&tool, &format!("copy/{third}"));
            }
            assert_eq!(sessions(&tool), recorded, "{first}, {second}");
        }
    }
}

#[test]
fn a_copy_that_grew_goes_on_and_its_original_holds_nothing_new() {
    let tool = tool();
    import(&tool, "x/projects");
    copy(&tool.path("x"), &tool.path("copy"));
    let grown = [
        &fs::read(tool.path("x/projects/p/a.jsonl")).unwrap()[..],
        b"{}\n",
    ];
    tool.write("copy/projects/p/a.jsonl", grown.concat());
    assert_eq!(import(&tool, "copy/projects")["messages"], 1);
    for part in ["projects", "projects/p", "projects/p/a.jsonl"] {
        assert_nothing_new(&tool, &format!("x/{part}"));
        assert_nothing_new(&tool, &format!("copy/{part}"));
    }
}

#[test]
fn a_project_whose_folder_was_renamed_goes_on_as_the_same_sessions() {
    let tool = tool();
    import(&tool, "x/projects");
    fs::rename(tool.path("x/projects/p"), tool.path("x/projects/q")).unwrap();
    assert_nothing_new(&tool, "x/projects");
    assert_nothing_new(&tool, "x/projects");
    let a = tool.path("x/projects/q/a.jsonl");
    fs::write(&a, [&fs::read(&a).unwrap()[..], b"{}\n"].concat()).unwrap();
    let grown = import(&tool, "x/projects");
    assert_eq!(
        (&grown["messages"], &grown["resumed"]),
        (&1.into(), &1.into())
    );
    assert_eq!(sessions(&tool), 2);
    assert_same(&tool.path("x/projects"), &tool.export("out"));
}

#[test]
fn an_export_read_in_again_holds_nothing_new_however_often() {
    let tool = Tool::new();
    tool.write("x/p/s.jsonl", "{\"n\":1}\n{\"n\":2}\n");
    tool.write("x/p/empty.jsonl", "");
    import(&tool, "x");
    tool.write("x/p/s.jsonl", "{\"n\":1}\n{\"n\":3}\n{\"n\":4}\n");
    tool.ok([
        "import".as_ref(),
        tool.path("x").as_os_str(),
        "--as-new".as_ref(),
    ]);
    for round in 0..3 {
        let out = format!("out-{round}");
        tool.export(&out);
        assert!(tool.path(format!("{out}/p/s~2.jsonl")).exists());
        assert_nothing_new(&tool, &out);
        assert_eq!(sessions(&tool), 3);
    }
    // The same where the files that were imported first are gone.
    fs::remove_dir_all(tool.path("x")).unwrap();
    for round in 3..6 {
        let out = format!("out-{round}");
        tool.export(&out);
        assert_nothing_new(&tool, &out);
        fs::remove_dir_all(tool.path(&out)).unwrap();
        assert_eq!(sessions(&tool), 3);
    }
}

#[test]
fn an_empty_file_at_a_known_place_is_the_session_that_is_there() {
    let tool = Tool::new();
    for day in 0..3 {
        tool.write(format!("day-{day}/p/empty.jsonl"), "");
        tool.write(format!("day-{day}/q/empty.jsonl"), "");
    }
    assert_eq!(import(&tool, "day-0")["sessions"], 2);
    assert_nothing_new(&tool, "day-1");
    assert_nothing_new(&tool, "day-2");
    // A file that is no longer empty is imported.
    tool.write("day-2/p/empty.jsonl", "{}\n");
    assert_eq!(import(&tool, "day-2")["messages"], 1);
}

#[test]
fn files_with_the_same_bytes_beside_each_other_all_come_back() {
    let tool = Tool::new();
    for name in [
        "p/s.jsonl",
        "p/s~2.jsonl",
        "q/s.jsonl",
        "q/p/s.jsonl",
        "q/empty.jsonl",
        "q/empty~2.jsonl",
    ] {
        let lines = if name.contains("empty") { "" } else { "{}\n" };
        tool.write(format!("x/{name}"), lines);
    }
    assert_eq!(import(&tool, "x")["sessions"], 6);
    assert_nothing_new(&tool, "x");
    assert_same(&tool.path("x"), &tool.export("out"));
}
