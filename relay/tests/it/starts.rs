//! How the program starts, and what it says when it does not.

use std::process::Command;

use super::program::{Folder, Running};

#[test]
fn variables_that_are_no_settings_of_the_relay_stop_none_of_its_commands() {
    let folder = Folder::init();
    let file = folder.file("relay.json");
    std::fs::write(&file, r#"{"tunnels_max": 5}"#).unwrap();
    let config = |name: &str, value: &str| {
        let mut command = folder.command();
        command.arg("config").env(name, value).output().unwrap()
    };
    let told = config("BETCODE_RELAY_SETTINGS", file.to_str().unwrap());
    let settings: serde_json::Value = serde_json::from_slice(&told.stdout).unwrap();
    assert_eq!(settings["tunnels_max"], 5, "{told:?}");
    // Of the daemon on the same machine.
    for (name, value) in [
        ("BETCODE_RELAY_ADDRESS", "relay.example.org:7443"),
        ("BETCODE_RELAY_FOLDER", "/var/lib/relay"),
    ] {
        let told = config(name, value);
        assert!(told.status.success(), "{name}: {told:?}");
    }
    let misspelt = config("BETCODE_RELAY_TUNNEL_MAX", "5");
    assert_eq!(misspelt.status.code(), Some(2));
    let why = String::from_utf8_lossy(&misspelt.stderr).into_owned();
    assert!(why.contains("tunnel_max"), "{why}");
}

#[test]
fn a_second_relay_on_the_same_state_folder_is_refused() {
    let folder = Folder::init();
    let first = Running::start(&folder, (0, 0), &[]);
    let anywhere = "127.0.0.1:0";
    let listen = ["--client-listen", anywhere, "--tunnel-listen", anywhere];
    let second = folder.try_run(&[&["serve"], &listen[..]].concat());
    assert_eq!(second.status.code(), Some(3));
    let why = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(why.contains("another relay serves from"), "{why}");
    // What the first has to do with the folder goes on.
    folder.run(&["enrol", "m1"]);
    drop(first);
    Running::start(&folder, (0, 0), &[]);
}

#[test]
fn a_state_folder_that_is_not_there_is_named_with_what_to_do() {
    let none = tempfile::tempdir().unwrap();
    let path = none.path().join("nosuch");
    for arguments in [
        &["enrol", "m1"][..],
        &["token", "issue", "--user", "ann", "--machine", "m1"],
        &["serve"],
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_betcode-relay"));
        command.arg("--state-folder").arg(&path).args(arguments);
        let refused = command.output().unwrap();
        assert_eq!(refused.status.code(), Some(1));
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(why.contains(path.to_str().unwrap()), "{arguments:?}: {why}");
        assert!(why.contains("betcode-relay init"), "{arguments:?}: {why}");
        assert!(!why.contains("in use"), "{arguments:?}: {why}");
    }
}
