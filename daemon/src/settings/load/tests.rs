use std::os::unix::ffi::OsStringExt;

use super::*;

fn sources(file: Option<&Path>, environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
    let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    Sources {
        file: file.map(Path::to_owned),
        environment: environment
            .iter()
            .map(|&(n, v)| (n.into(), v.into()))
            .collect(),
        flags: flags.iter().map(own).collect(),
    }
}

#[test]
fn defaults_are_within_their_own_bounds() {
    for parameter in PARAMETERS
        .iter()
        .filter(|parameter| !parameter.default.is_empty())
    {
        check(parameter, parameter.default, &Origin::Default).unwrap();
    }
    load(&sources(None, &[], &[("db", "/x/h.db")])).unwrap();
}

#[test]
fn the_plans_limits_have_the_plans_names_defaults_and_bounds() {
    for (name, default, min, max) in [
        ("max_db_bytes", "1000000000", 1_000_000, 10_000_000_000),
        ("max_session_bytes", "50000000", 1_000_000, 200_000_000),
        ("max_memory_bytes", "512000000", 76_000_000, 8_000_000_000),
        ("max_sessions", "20", 1, 1_000),
        ("max_clients", "50", 1, 10_000),
    ] {
        let parameter = find(name).unwrap();
        assert_eq!(parameter.default, default, "{parameter:?}");
        assert_eq!(parameter.kind, Kind::Number { min, max }, "{parameter:?}");
    }
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(
        &file,
        r#"{"db":"/x/h.db","max_clients":10,"max_sessions":11,"max_followers":12,"compaction":false}"#,
    )
    .unwrap();
    let environment = [
        ("BETCODE_MAX_SESSIONS", "21"),
        ("BETCODE_MAX_FOLLOWERS", "22"),
        ("BETCODE_OTHER", "x"),
    ];
    let loaded = load(&sources(
        Some(&file),
        &environment,
        &[("max_followers", "32")],
    ))
    .unwrap();
    let settings = &loaded.settings;
    assert_eq!(
        (
            settings.max_clients,
            settings.max_sessions,
            settings.max_followers
        ),
        (10, 21, 32)
    );
    assert!(!settings.compaction);
    assert_eq!(settings.socket, Path::new("/x/h.db-daemon/grpc.sock"));
    let origin = |name: &str| {
        loaded
            .values
            .iter()
            .find(|(p, _, _)| p.name == name)
            .unwrap()
            .2
            .to_string()
    };
    assert_eq!(origin("max_clients"), format!("file {}", file.display()));
    assert_eq!(origin("max_sessions"), "environment BETCODE_MAX_SESSIONS");
    assert_eq!(origin("max_followers"), "flag --max-followers");
    assert_eq!(origin("max_readers"), "default");
}

#[test]
fn wrong_values_are_named_with_where_they_stand() {
    let error = |flags: &[(&str, &str)]| load(&sources(None, &[], flags)).unwrap_err().to_string();
    assert!(error(&[("max_clients", "0")]).contains("flag --max-clients: max_clients is \"0\""));
    assert!(error(&[("colour", "red")]).contains("no parameter colour"));
    assert!(error(&[("tcp_listen", "0.0.0.0:1")]).contains("beyond this machine"));
    assert!(error(&[("tls_listen", "0.0.0.0:1")]).contains("tls_cert"));
    assert!(error(&[("agent_command", "bin/claude")]).contains("whole path"));
    assert!(error(&[("agent_arguments", "--x")]).contains("JSON list"));
    assert!(error(&[("max_subprocesses", "1000")]).contains("max_memory_bytes"));
    assert!(error(&[("max_sessions", "1000")]).contains("max_memory_bytes"));
}

#[test]
fn a_value_that_is_no_text_is_refused_with_where_it_stands_and_not_passed_over() {
    let odd = OsString::from_vec(b"/x/\xff.db".to_vec());
    let sources = Sources {
        environment: vec![("BETCODE_DB".into(), odd)],
        ..sources(None, &[], &[])
    };
    let error = load(&sources).unwrap_err().to_string();
    assert!(error.contains("environment BETCODE_DB: db is"), "{error}");
}

#[test]
fn a_store_whose_path_is_no_text_behind_a_link_is_refused_and_no_other_taken() {
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join(OsString::from_vec(b"\xff.db".to_vec()));
    std::fs::write(&odd, "").unwrap();
    let link = folder.path().join("link.db");
    std::os::unix::fs::symlink(&odd, &link).unwrap();
    let db = link.to_str().unwrap();
    let error = load(&sources(None, &[], &[("db", db)])).unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("flag --db") && error.contains("UTF-8"),
        "{error}"
    );
}
