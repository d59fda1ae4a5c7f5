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
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(
        &file,
        r#"{"db":"/x/h.db","clients_max":10,"sessions_max":11,"followers_max":12,"compaction":false}"#,
    )
    .unwrap();
    let environment = [
        ("BETCODE_SESSIONS_MAX", "21"),
        ("BETCODE_FOLLOWERS_MAX", "22"),
        ("BETCODE_OTHER", "x"),
    ];
    let loaded = load(&sources(
        Some(&file),
        &environment,
        &[("followers_max", "32")],
    ))
    .unwrap();
    let settings = &loaded.settings;
    assert_eq!(
        (
            settings.clients_max,
            settings.sessions_max,
            settings.followers_max
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
    assert_eq!(origin("clients_max"), format!("file {}", file.display()));
    assert_eq!(origin("sessions_max"), "environment BETCODE_SESSIONS_MAX");
    assert_eq!(origin("followers_max"), "flag --followers-max");
    assert_eq!(origin("readers_max"), "default");
}

#[test]
fn wrong_values_are_named_with_where_they_stand() {
    let error = |flags: &[(&str, &str)]| load(&sources(None, &[], flags)).unwrap_err().to_string();
    assert!(error(&[("clients_max", "0")]).contains("flag --clients-max: clients_max is \"0\""));
    assert!(error(&[("colour", "red")]).contains("no parameter colour"));
    assert!(error(&[("tcp_listen", "0.0.0.0:1")]).contains("beyond this machine"));
    assert!(error(&[("tls_listen", "0.0.0.0:1")]).contains("tls_cert"));
    assert!(error(&[("sessions_max", "1000")]).contains("memory_bytes_max"));
}
