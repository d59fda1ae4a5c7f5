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
fn of_copies_to_one_place_at_once_one_is_made_and_the_others_are_told_so() {
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
        let told: Vec<_> = ran.iter().map(|ran| (ran.code, &ran.stderr)).collect();
        assert_eq!(
            ran.iter().filter(|ran| ran.code == 0).count(),
            1,
            "{told:?}"
        );
        assert!(
            ran.iter().all(|ran| [0, 4, 5].contains(&ran.code)),
            "{told:?}"
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
