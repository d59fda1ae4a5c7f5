//! The program itself: settings, budget, a second daemon, draining. Being killed: see `clients`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use betcode_schema_grpc::history::{AppendRequest, FollowRequest};
use betcode_schema_grpc::v1::bet_code_health_client::BetCodeHealthClient;
use betcode_schema_grpc::v1::{HealthDetailsRequest, ServingStatus};
use bytes::Bytes;
use support::process::{Process, command};
use support::{Appender, batch, eventually, read_all, within};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Health;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_types::StatusExt;

#[tokio::test]
async fn config_shows_where_each_value_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), "config", &["--json", "--max-clients", "7"])
        .env("BETCODE_MAX_SESSIONS", "9")
        .output()
        .unwrap();
    let rows: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let row = |name: &str| {
        rows.as_array()
            .unwrap()
            .iter()
            .find(|row| row["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(row("max_clients")["origin"], "flag --max-clients");
    assert_eq!(row("max_sessions")["value"], "9");
    assert_eq!(row("max_readers")["origin"], "default");
    let wrong = command(folder.path(), "config", &["--max-clients", "0"])
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("1 to 10000"));
}

#[tokio::test]
async fn what_could_not_be_printed_is_not_called_a_success() {
    let Ok(full) = std::fs::File::options().write(true).open("/dev/full") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), "config", &[])
        .stdout(full)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("cannot write to stdout: No space left"),
        "{said}"
    );
}

#[tokio::test]
async fn budget_shows_a_running_daemons_figures_beside_the_plans() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = command(folder.path(), "budget", &[]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
    let why = String::from_utf8_lossy(&nobody.stderr).into_owned();
    assert!(why.contains("no daemon serves"), "{why}");
    let process = Process::start(folder.path(), &[]).await;
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["x"])).await.unwrap();
    let json = command(folder.path(), "budget", &["--json"])
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["pid"], process.pid());
    let names: Vec<_> = json["stages"].as_array().unwrap().iter().collect();
    assert_eq!(names.len(), 8);
    assert!(names.iter().any(|stage| stage["stage"] == "answer"
        && stage["count"] == 1
        && stage["budget_ms"] == 50.0));
    let memory = &json["memory"];
    // One session and one client, this one: the command needs no place.
    assert_eq!(memory["planned_bytes"], 56_000_000);
    assert!(memory["resident_bytes"].as_u64().unwrap() > 1_000_000);
    // 16 MiB of the writer's, and 2 MiB for each of eight readers.
    assert_eq!(memory["sqlite_cache_bytes"], 32 << 20);
    let traffic = json["traffic"].as_array().unwrap();
    assert_eq!(traffic.len(), 4);
    assert_eq!(traffic[1]["planned_bytes_per_second"], 100_000.0);
    let text = command(folder.path(), "budget", &[]).output().unwrap();
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for word in ["answer", "commit", "base", "1 sessions x 5", "limit"] {
        assert!(text.contains(word), "{text}");
    }
}

#[tokio::test]
async fn a_second_daemon_is_refused_with_the_firsts_pid() {
    let folder = tempfile::tempdir().unwrap();
    let first = Process::start(folder.path(), &[]).await;
    let second = command(folder.path(), "serve", &[]).output().unwrap();
    assert_eq!(second.status.code(), Some(3));
    let why = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(why.contains(&first.pid().to_string()), "{why}");
    first.history().await;
}

#[tokio::test]
async fn a_lock_that_cannot_be_made_is_not_told_as_another_daemon() {
    let folder = tempfile::tempdir().unwrap();
    // The lock's name is taken by a folder.
    std::fs::create_dir(folder.path().join("history.db-daemon.lock")).unwrap();
    let refused = command(folder.path(), "serve", &[]).output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(why.contains("history.db-daemon.lock"), "{why}");
}

#[tokio::test]
async fn budget_says_that_a_daemon_which_hangs_does_not_answer() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]).await;
    let pid = rustix::process::Pid::from_raw(process.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    // Its threads stop one after the other.
    eventually(async || {
        let mut threads = std::fs::read_dir(format!("/proc/{}/task", process.pid())).unwrap();
        threads.all(|thread| {
            let stat = std::fs::read_to_string(thread.unwrap().path().join("stat")).unwrap();
            stat.rsplit_once(") ").unwrap().1.starts_with('T')
        })
    })
    .await;
    let budget = command(folder.path(), "budget", &[]).output().unwrap();
    assert_eq!(budget.status.code(), Some(1));
    let why = String::from_utf8_lossy(&budget.stderr).into_owned();
    assert!(why.contains("does not answer"), "{why}");
    assert!(why.contains(&process.pid().to_string()), "{why}");
}

#[tokio::test]
async fn sigterm_drains_in_time_with_clients_that_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &["--max-drain-ms", "500"]).await;
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["x"])).await.unwrap();
    let request = FollowRequest {
        session_id: "s".into(),
        from_sequence: 1,
    };
    let _never_read = client.follow(request).await.unwrap();
    let begun = std::time::Instant::now();
    let status = process.terminate().await;
    assert!(
        status.success() && begun.elapsed() < Duration::from_secs(10),
        "{status}"
    );
    assert!(!process.socket.exists());
    let again = Process::start(folder.path(), &[]).await;
    assert_eq!(
        read_all(&mut again.history().await, "s", 1)
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test]
async fn the_log_warns_of_a_session_that_nears_the_bytes_that_it_may_have() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("daemon.log");
    let log = std::fs::File::create(&path).unwrap();
    let flags = ["--max-session-bytes", "1000000", "--compaction", "false"];
    let process = Process::start_logging(folder.path(), &flags, log.into()).await;
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    let of_100_kb = || AppendRequest {
        payloads: vec![Bytes::from(vec![b'x'; 100_000])],
        ..batch("long", &[])
    };
    let warnings = || {
        let log = std::fs::read_to_string(&path).unwrap();
        let lines = log.lines().filter(|line| line.contains("near its limit"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    for hundreds in 1..=9 {
        appender.send(of_100_kb()).await.unwrap();
        let expected = match hundreds {
            ..7 => 0,
            7..9 => 1,
            _ => 2,
        };
        eventually(async || warnings().len() == expected).await;
    }
    let [warning, critical] = warnings().try_into().unwrap();
    for (line, level, used) in [
        (warning, "warning", "700 KB"),
        (critical, "critical", "900 KB"),
    ] {
        let told = ["WARN", "long", level, used, "1.00 MB"];
        assert!(told.iter().all(|part| line.contains(part)), "{line}");
    }
}

#[tokio::test]
async fn the_log_tells_once_of_sessions_that_near_their_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("daemon.log");
    let log = std::fs::File::create(&path).unwrap();
    let flags = ["--max-sessions", "1", "--health-interval-ms", "100"];
    let process = Process::start_logging(folder.path(), &flags, log.into()).await;
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("a", &["x"])).await.unwrap();
    let told = || {
        let log = std::fs::read_to_string(&path).unwrap();
        let lines = log.lines().filter(|line| line.contains("sessions in use"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    eventually(async || told().len() >= 2).await;
    // The level, and the limit; and neither again at the next looks.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let told = told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0].contains("WARN") && told[0].contains("1 of 1 (100 %), critical: "),
        "{told:?}"
    );
    assert!(told[1].contains("limit reached"), "{told:?}");
}

#[tokio::test]
async fn sighup_applies_a_changed_limit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(&file, r#"{"max_sessions": 1}"#).unwrap();
    let flags = ["--settings", file.to_str().unwrap()];
    let process = Process::start(folder.path(), &flags).await;
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("a", &["x"])).await.unwrap();
    appender.send(batch("b", &["x"])).await.unwrap_err();
    std::fs::write(&file, r#"{"max_sessions": 2}"#).unwrap();
    let pid = rustix::process::Pid::from_raw(process.pid().cast_signed()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    for _ in 0..200 {
        let mut again = Appender::open(&mut client).await;
        if again.send(batch("b", &["x"])).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the limit was not raised");
}

/// What others may do with anything in a folder, by path.
fn open_to_others(folder: &Path) -> Vec<(std::path::PathBuf, u32)> {
    let entries = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap());
    let mut open = Vec::new();
    for entry in entries {
        let (path, found) = (entry.path(), entry.metadata().unwrap());
        let mode = found.permissions().mode() & 0o077;
        if mode != 0 {
            open.push((path.clone(), mode));
        }
        if found.is_dir() {
            open.extend(open_to_others(&path));
        }
    }
    open
}

#[tokio::test]
async fn whatever_the_umask_all_that_the_daemon_makes_is_private() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("made/by/the daemon");
    let serve = command(&home, "serve", &[]);
    let mut shell = std::process::Command::new("sh");
    shell
        .args(["-c", "umask 0; exec \"$@\"", "sh"])
        .arg(serve.get_program())
        .args(serve.get_args());
    for (name, _) in serve.get_envs() {
        shell.env_remove(name);
    }
    let mut process = Process::run(shell.stderr(Stdio::null()), &home).await;
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["x"])).await.unwrap();
    assert_eq!(open_to_others(folder.path()), []);
    assert!(process.terminate().await.success());
    assert_eq!(open_to_others(folder.path()), []);
}

#[test]
fn the_unit_keeps_nothing_from_agents_that_they_need() {
    let unit = include_str!("../systemd/betcode-daemon.service");
    let says = |name: &str| unit.lines().any(|line| line.starts_with(name));
    for theirs_too in [
        "MemoryDenyWriteExecute",
        "MemoryMax",
        "MemoryHigh",
        "RestrictAddressFamilies",
        "UMask",
    ] {
        assert!(!says(theirs_too), "{theirs_too}");
    }
    // The daemon interrupts them, and the kernel's choice of one is not the end of all.
    assert!(says("KillMode=mixed") && says("OOMPolicy=continue"));
}

/// Hears what the daemon tells systemd until it says this.
fn hears(systemd: &UnixDatagram, wanted: &str) {
    let mut told = [0; 1024];
    loop {
        let bytes = systemd.recv(&mut told).expect("it goes on telling");
        let told = String::from_utf8_lossy(&told[..bytes]);
        if told.lines().any(|line| line == wanted) {
            return;
        }
    }
}

#[tokio::test]
async fn the_watchdog_is_fed_while_the_store_answers_that_it_is_in_trouble() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("systemd");
    let systemd = UnixDatagram::bind(&at).unwrap();
    systemd
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let mut serve = command(folder.path(), "serve", &["--health-interval-ms", "100"]);
    serve
        .env("NOTIFY_SOCKET", &at)
        .env("WATCHDOG_USEC", "40000");
    let process = Process::run(serve.stderr(Stdio::null()), folder.path()).await;
    hears(&systemd, "WATCHDOG=1");
    let store = rusqlite::Connection::open(folder.path().join("history.db")).unwrap();
    store.execute("UPDATE store SET messages = -1", ()).unwrap();
    let channel = support::connect(&process.socket).await.unwrap();
    support::eventually(async || {
        let mut health = BetCodeHealthClient::new(channel.clone());
        let told = health.get_health_details(HealthDetailsRequest {}).await;
        told.unwrap().into_inner().overall_status() == ServingStatus::NotServing
    })
    .await;
    systemd.set_nonblocking(true).unwrap();
    while systemd.recv(&mut [0; 1024]).is_ok() {}
    systemd.set_nonblocking(false).unwrap();
    hears(&systemd, "WATCHDOG=1");
}

#[tokio::test]
async fn sigterm_ends_streams_that_watch_health_or_reflect_once_health_has_told() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &["--max-drain-ms", "3000"]).await;
    let channel = support::connect(&process.socket).await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let watch = HealthCheckRequest::default();
    let mut watched = health.watch(watch).await.unwrap().into_inner();
    let first = within(watched.message()).await.unwrap().unwrap();
    assert_eq!(first.status(), Health::Serving);
    let mut reflection = ServerReflectionClient::new(channel);
    let asked = tokio_stream::pending::<ServerReflectionRequest>();
    let reflected = reflection.server_reflection_info(asked).await;
    let mut reflected = reflected.unwrap().into_inner();
    let stopped = process.terminate();
    let told = async {
        let last = within(watched.message()).await.unwrap().unwrap();
        assert_eq!(last.status(), Health::NotServing);
        for end in [
            within(watched.message()).await.map(drop),
            within(reflected.message()).await.map(drop),
        ] {
            let details = end.unwrap_err().get_error_details();
            let reason = details.error_info().map(|info| info.reason.clone());
            assert_eq!(reason.as_deref(), Some("DRAINING"));
        }
    };
    let (status, ()) = tokio::join!(stopped, told);
    assert!(status.success());
}
