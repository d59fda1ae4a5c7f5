//! Who may what, with the program's own commands and TLS at both listeners.

use std::time::Duration;

use betcode_daemon::tunnel::{Tunnel, TunnelState, enrol};
use bytes::Bytes;
use tonic::Code;

use super::harness::until_async;
use super::program::{Folder, NAME, Running, client, daemon, echo_routes};

async fn why_waiting(tunnel: &Tunnel) -> String {
    let mut state = tunnel.state();
    let waiting = state.wait_for(|s| matches!(s, TunnelState::Waiting { .. }));
    let waiting = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    match waiting.expect("no refusal in time").unwrap().clone() {
        TunnelState::Waiting { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enrolled_machine_and_a_token_are_enough_and_needed() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1", "away"]);
    let ann = client(&relay, &authority, "m-1", Some(&token)).await;
    ann.unary("Unary", Bytes::new()).await.unwrap();
    let seen = ann
        .unary("Metadata", Bytes::new())
        .await
        .unwrap()
        .into_inner();
    let seen = String::from_utf8(seen.to_vec()).unwrap();
    assert!(
        seen.contains("x-betcode-user: ann") && !seen.contains(&token),
        "{seen}"
    );

    // Nothing, nonsense, and a token of another relay.
    let others = Folder::init();
    let forged = others.token("ann", &["m-1"]);
    for bad in [None, Some("nonsense"), Some(forged.as_str())] {
        let caller = client(&relay, &authority, "m-1", bad).await;
        let refused = caller.unary("Unary", Bytes::new()).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    }
    // Another's machine and one that does not exist: the same answer, to the letter.
    let bob = folder.token("bob", &["elsewhere"]);
    let mut answers = Vec::new();
    for machine in ["m-1", "never-heard-of"] {
        let caller = client(&relay, &authority, machine, Some(&bob)).await;
        let refused = caller.unary("Unary", Bytes::new()).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        answers.push((refused.message().to_owned(), refused.details().to_vec()));
    }
    assert_eq!(answers[0], answers[1]);
    let away = client(&relay, &authority, "away", Some(&token)).await;
    let told = away.unary("Unary", Bytes::new()).await.unwrap_err();
    assert_eq!(told.code(), Code::Unavailable);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_end_by_time_and_by_command() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let issued = folder.issued("m-1");
    let caller = client(&relay, &authority, "m-1", issued["token"].as_str()).await;
    caller.unary("Unary", Bytes::new()).await.unwrap();
    folder.run(&["token", "revoke", issued["claims"]["jti"].as_str().unwrap()]);
    until_async("the token is revoked", async || {
        let told = caller.unary("Unary", Bytes::new()).await;
        told.is_err_and(|s| s.code() == Code::Unauthenticated && s.message().contains("revoked"))
    })
    .await;
    let second = folder.token("ann", &["m-1"]);
    let caller = client(&relay, &authority, "m-1", Some(&second)).await;
    caller.unary("Unary", Bytes::new()).await.unwrap();
    folder.run(&["token", "revoke-user", "ann"]);
    until_async("the user is revoked", async || {
        caller.unary("Unary", Bytes::new()).await.is_err()
    })
    .await;
    // Over a restart too.
    let ports = relay.ports();
    relay.kill();
    let relay = Running::start(&folder, ports, &[]);
    let caller = client(&relay, &authority, "m-1", Some(&second)).await;
    let told = caller.unary("Unary", Bytes::new()).await.unwrap_err();
    assert_eq!(told.code(), Code::Unauthenticated);
    // A token that has expired: the shortest, and the leeway.
    let short = folder.short_token("cat", "m-1");
    let caller = client(&relay, &authority, "m-1", Some(&short)).await;
    until_async("the token expires", async || {
        let told = caller.unary("Unary", Bytes::new()).await;
        told.is_err_and(|s| s.code() == Code::Unauthenticated && s.message().contains("expired"))
    })
    .await;
}

#[test]
fn a_token_is_revoked_by_its_id_or_itself_and_what_is_neither_is_refused() {
    let folder = Folder::init();
    let revoked = || std::fs::read_to_string(folder.file("revoked.json")).unwrap_or_default();
    let issued = folder.issued("m-1");
    let others = Folder::init().issued("m-1");
    let token = issued["token"].as_str().unwrap();
    let id = issued["claims"]["jti"].as_str().unwrap();
    for nonsense in [
        "",
        "ann",
        &id[1..],
        &token[..40],
        others["token"].as_str().unwrap(),
    ] {
        let refused = folder.try_run(&["token", "revoke", nonsense]);
        assert!(!refused.status.success(), "{nonsense}");
        assert_eq!(revoked(), "");
    }
    let told = folder.run(&["token", "revoke", token]);
    assert_eq!(told, format!("revoked token {id} of ann"));
    assert!(revoked().contains(id));
    let told = folder.run(&["token", "revoke", id]);
    assert_eq!(told, format!("revoked token {id}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_issued_right_after_its_user_was_revoked_is_good() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let before = folder.token("ann", &["m-1"]);
    // Once more than fits into a second.
    for _ in 0..3 {
        folder.run(&["token", "revoke-user", "ann"]);
    }
    let after = folder.token("ann", &["m-1"]);
    let caller = client(&relay, &authority, "m-1", Some(&before)).await;
    until_async("the user is revoked", async || {
        caller.unary("Unary", Bytes::new()).await.is_err()
    })
    .await;
    let caller = client(&relay, &authority, "m-1", Some(&after)).await;
    caller.unary("Unary", Bytes::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_enrolled_right_after_it_was_revoked_is_good() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    // Once more than fits into a second.
    for _ in 0..3 {
        folder.run(&["revoke-machine", "m-1"]);
    }
    let options = folder.enrolled(&relay, "m-1").await;
    // The relay takes revocations up within a second.
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let (_tunnel, _) = daemon(options).await;
    let token = folder.token("ann", &["m-1"]);
    let caller = client(&relay, &folder.file("authority.pem"), "m-1", Some(&token)).await;
    caller.unary("Unary", Bytes::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_revoked_stays_so_when_the_clock_was_set_back() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let code = folder.run(&["enrol", "m-1"]);
    // As a clock far ahead wrote it.
    let far = r#"{"machines": {"m-1": 99999999999}}"#;
    std::fs::write(folder.file("revoked.json"), far).unwrap();
    folder.run(&["revoke-machine", "m-1"]);
    // Nobody is told that a machine is enrolled which could not connect.
    let (address, id) = (relay.tunnels.to_string(), "m-1".parse().unwrap());
    let told = enrol(&address, NAME, &id, &code).await.err().unwrap();
    assert!(told.to_string().contains("ahead of the relay's"), "{told}");
    let refused = folder.try_run(&["enrol", "m-1"]);
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("ahead of this clock"), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_only_itself_and_only_while_it_may() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let good = folder.enrolled(&relay, "m-1").await;
    let files = |name: &str| ["ca", "crt", "key"].map(|e| folder.file(&format!("{name}.{e}")));

    // Another's name with one's own certificate.
    let mut posing = folder.options(&relay, "m-1", &files("m-1"));
    posing.machine = "m-2".parse().unwrap();
    let why = why_waiting(&Tunnel::hold(posing, echo_routes(&Default::default()))).await;
    assert!(why.contains("another machine"), "{why}");

    // A certificate of another authority.
    let others = Folder::init();
    let elsewhere = Running::start(&others, (0, 0), &[]);
    others.enrolled(&elsewhere, "m-1").await;
    let forged = [
        folder.file("m-1.ca"),
        others.file("m-1.crt"),
        others.file("m-1.key"),
    ];
    let forged = folder.options(&relay, "m-1", &forged);
    let why = why_waiting(&Tunnel::hold(forged, echo_routes(&Default::default()))).await;
    assert!(!why.is_empty());

    // A code of another relay, one that is used, one that is a guess.
    let (address, id) = (relay.tunnels.to_string(), "m-9".parse().unwrap());
    let foreign = others.run(&["enrol", "m-9"]);
    assert!(enrol(&address, NAME, &id, &foreign).await.is_err());
    let code = folder.run(&["enrol", "m-9"]);
    assert!(enrol(&address, NAME, &id, &code).await.is_ok());
    assert!(enrol(&address, NAME, &id, &code).await.is_err());
    let (_, pin) = code.split_once('-').unwrap();
    let guess = format!("{}-{pin}", "0".repeat(32));
    assert!(enrol(&address, NAME, &id, &guess).await.is_err());

    // Revoked: the tunnel ends, and a new one is refused; after a new enrolment all is well.
    let (tunnel, _) = daemon(good.clone()).await;
    folder.run(&["revoke-machine", "m-1"]);
    let why = why_waiting(&tunnel).await;
    assert!(why.contains("no longer accepts"), "{why}");
    let why = why_waiting(&Tunnel::hold(good, echo_routes(&Default::default()))).await;
    assert!(why.contains("revoked"), "{why}");
    let renewed = folder.enrolled(&relay, "m-1").await;
    daemon(renewed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_without_a_restart() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1"]);
    let before = client(&relay, &authority, "m-1", Some(&token)).await;
    before.unary("Unary", Bytes::new()).await.unwrap();
    // A certificate that no longer has the name that clients ask for.
    folder.run(&["certify", "other.test"]);
    relay.signal("HUP");
    until_async("new connections see the new certificate", async || {
        let new = client(&relay, &authority, "m-1", Some(&token)).await;
        new.unary("Unary", Bytes::new()).await.is_err()
    })
    .await;
    // The connection that was there goes on.
    before.unary("Unary", Bytes::new()).await.unwrap();
    // A broken file changes nothing.
    folder.run(&["certify", NAME]);
    relay.signal("HUP");
    until_async("the name is back", async || {
        let new = client(&relay, &authority, "m-1", Some(&token)).await;
        new.unary("Unary", Bytes::new()).await.is_ok()
    })
    .await;
    std::fs::write(folder.file("server.pem"), "nonsense").unwrap();
    relay.signal("HUP");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let new = client(&relay, &authority, "m-1", Some(&token)).await;
    new.unary("Unary", Bytes::new()).await.unwrap();
}

#[test]
fn a_state_folder_is_private_and_made_once() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::init();
    for entry in std::fs::read_dir(folder.path.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
    }
    let again = folder.try_run(&["init", NAME]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("initialised before"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_from_one_user_is_refused_and_others_are_served() {
    let folder = Folder::init();
    std::fs::write(
        folder.file("relay.json"),
        r#"{"user_calls_per_s": 5, "user_calls_burst": 20}"#,
    )
    .unwrap();
    let settings = folder.file("relay.json");
    let settings = settings.to_str().unwrap();
    let relay = Running::start(&folder, (0, 0), &["--settings", settings]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let ann = client(
        &relay,
        &authority,
        "m-1",
        Some(&folder.token("ann", &["m-1"])),
    )
    .await;
    let bob = client(
        &relay,
        &authority,
        "m-1",
        Some(&folder.token("bob", &["m-1"])),
    )
    .await;
    let mut refused = 0;
    for _ in 0..60 {
        if let Err(status) = ann.unary("Unary", Bytes::new()).await {
            assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
            assert!(status.metadata().contains_key("grpc-retry-pushback-ms"));
            refused += 1;
        }
    }
    assert!(refused >= 10, "{refused}");
    bob.unary("Unary", Bytes::new()).await.unwrap();
}

#[test]
fn a_name_that_cannot_be_is_refused_before_anything_is_made() {
    let parent = tempfile::tempdir().unwrap();
    let state = parent.path().join("state");
    let init = |name: &str| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_betcode-relay"));
        command.arg("--state-folder").arg(&state);
        command.args(["init", NAME, name]).output().unwrap()
    };
    let refused = init("bücher.example");
    assert!(!refused.status.success());
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("bücher.example"), "{told}");
    assert!(!state.exists());
    assert!(init("127.0.0.1").status.success());
}
