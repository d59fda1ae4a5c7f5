//! `backup` and `restore` that meet something in their way.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::process::Stdio;

use crate::tool::{Ran, Tool};

fn tool() -> Tool {
    let tool = Tool::new();
    tool.write("src/a.jsonl", "{\"type\":\"user\"}\n".repeat(200));
    tool.ok(["import", tool.path("src").to_str().unwrap()]);
    tool
}

/// Runs a command as somebody who may not list the store's folder, only write to it.
fn run_beside_unlistable(tool: &Tool, args: &[&str]) -> Ran {
    let folder = tool.db().parent().unwrap().to_owned();
    let mut command = tool.command(args);
    if rustix::process::geteuid().is_root() {
        // Root may list anything.
        const NOBODY: u32 = 65_534;
        let own = |path: &std::path::Path| chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        for file in fs::read_dir(&folder).unwrap() {
            own(&file.unwrap().path());
        }
        own(&folder);
        fs::set_permissions(tool.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        command.uid(NOBODY);
    }
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o300)).unwrap();
    let ran = Ran::of(command.output().unwrap());
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
    ran
}

#[test]
fn what_says_that_nothing_was_changed_has_changed_nothing() {
    let tool = tool();
    let (copy, again) = (tool.path("store/copy.db"), tool.path("store/again.db"));
    tool.ok(["backup".as_ref(), copy.as_os_str()]);
    let ran = run_beside_unlistable(&tool, &["restore", copy.to_str().unwrap(), "--replace"]);
    assert_eq!(ran.code, 8, "{}", ran.stderr);
    assert!(ran.stderr.contains("nothing was changed"), "{}", ran.stderr);
    assert!(tool.db().exists() && !tool.path("store/history.db.replaced").exists());
    let ran = run_beside_unlistable(&tool, &["backup", again.to_str().unwrap()]);
    assert_eq!(ran.code, 8, "{}", ran.stderr);
    assert!(ran.stderr.contains("no backup was made"), "{}", ran.stderr);
    assert!(!again.exists());
}

#[test]
fn of_copies_to_one_place_at_once_one_is_made_and_the_others_say_so() {
    let tool = tool();
    let copy = tool.path("copy.db");
    for _ in 0..10 {
        let copies: Vec<_> = (0..8)
            .map(|_| {
                let mut command = tool.command(["backup".as_ref(), copy.as_os_str()]);
                command
                    .stdout(Stdio::piped())
                    .stderr(Stdio::piped())
                    .spawn()
                    .unwrap()
            })
            .collect();
        let ran: Vec<_> = copies
            .into_iter()
            .map(|copy| Ran::of(copy.wait_with_output().unwrap()))
            .collect();
        let shown: Vec<_> = ran.iter().map(|ran| (ran.code, &ran.stderr)).collect();
        assert_eq!(
            ran.iter().filter(|ran| ran.code == 0).count(),
            1,
            "{shown:?}"
        );
        assert!(
            ran.iter().all(|ran| [0, 4, 5].contains(&ran.code)),
            "{shown:?}"
        );
        let left = fs::read_dir(tool.path("")).unwrap().flatten();
        let left: Vec<_> = left
            .map(|entry| entry.file_name())
            .filter(|name| name.to_string_lossy().starts_with("copy.db."))
            .collect();
        assert!(left.is_empty(), "{left:?}");
        fs::remove_file(&copy).unwrap();
    }
}

#[test]
fn a_restore_onto_a_database_says_replace_and_one_of_no_backup_says_that() {
    let tool = tool();
    let backup = tool.path("copy.db");
    tool.ok(["backup".as_ref(), backup.as_os_str()]);
    let (error, code) = tool.json(["restore".as_ref(), backup.as_os_str()]);
    assert_eq!(code, 4, "{error}");
    let hint = error["error"]["try"].as_str().unwrap();
    assert!(
        hint.contains("--replace") && hint.contains("its log"),
        "{hint}"
    );
    assert!(!hint.contains("move the file"), "{hint}");
    let foreign = tool.write("foreign.db", "x".repeat(200));
    let (error, code) = tool.json(["restore".as_ref(), foreign.as_os_str()]);
    assert_eq!(code, 7, "{error}");
    let hint = error["error"]["try"].as_str().unwrap();
    assert!(
        !hint.contains("--replace"),
        "there is nothing to make room for: {hint}"
    );
}

#[test]
fn a_backup_into_a_folder_that_is_not_there_is_refused_and_makes_none() {
    let tool = tool();
    let copy = tool.path("not mounted/x/copy.db");
    let (error, code) = tool.json(["backup".as_ref(), copy.as_os_str()]);
    assert_eq!(code, 3, "{error}");
    let error = &error["error"];
    assert!(
        error["why"].as_str().unwrap().ends_with("not mounted/x"),
        "{error}"
    );
    assert!(
        error["try"].as_str().unwrap().contains("mkdir -p '"),
        "{error}"
    );
    assert!(!tool.path("not mounted").exists());
}

#[test]
fn who_holds_the_database_is_named_with_how_to_stop_it() {
    let tool = tool();
    let backup = tool.path("copy.db");
    tool.ok(["backup".as_ref(), backup.as_os_str()]);
    let mut reader = tool.command(["cat", "a", "--follow"]);
    let mut reader = reader.stdout(Stdio::piped()).spawn().unwrap();
    // From its first byte on it has the database open.
    let mut first = [0];
    std::io::Read::read_exact(reader.stdout.as_mut().unwrap(), &mut first).unwrap();
    let (error, code) = tool.json(["restore", backup.to_str().unwrap(), "--replace"]);
    let pid = reader.id();
    crate::tool::interrupt(&reader);
    drop(reader.stdout.take());
    reader.wait().unwrap();
    assert_eq!(code, 5, "{error}");
    let hint = error["error"]["try"].as_str().unwrap();
    assert!(hint.contains(&format!("`kill {pid}`")), "{error}");
    let why = error["error"]["why"].as_str().unwrap();
    assert!(!why.contains("waited 0 ms"), "{why}");
}
