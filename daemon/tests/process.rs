//! The program itself: settings, a second daemon, draining, and being killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use std::time::Duration;

use betcode_schema_grpc::history::{AppendRequest, FollowRequest};
use bytes::Bytes;
use support::process::{Process, command};
use support::{Appender, batch, read_all};

#[tokio::test]
async fn config_shows_where_each_value_came_from() {
    let folder = tempfile::tempdir().unwrap();
    let output = command(folder.path(), "config", &["--json", "--clients-max", "7"])
        .env("BETCODE_SESSIONS_MAX", "9")
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
    assert_eq!(row("clients_max")["origin"], "flag --clients-max");
    assert_eq!(row("sessions_max")["value"], "9");
    assert_eq!(row("readers_max")["origin"], "default");
    let wrong = command(folder.path(), "config", &["--clients-max", "0"])
        .output()
        .unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("1 to 65536"));
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
async fn sigterm_drains_in_time_with_clients_that_stay() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &["--drain-ms-max", "500"]).await;
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
async fn sighup_applies_a_changed_limit() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("settings.json");
    std::fs::write(&file, r#"{"sessions_max": 1}"#).unwrap();
    let flags = ["--settings", file.to_str().unwrap()];
    let process = Process::start(folder.path(), &flags).await;
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("a", &["x"])).await.unwrap();
    appender.send(batch("b", &["x"])).await.unwrap_err();
    std::fs::write(&file, r#"{"sessions_max": 2}"#).unwrap();
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

/// Appends until the daemon is gone; the sequence of the last answered message.
async fn append_until_killed(process: &Process, from: u64) -> u64 {
    let mut client = process.history().await;
    let (requests, receiver) = tokio::sync::mpsc::channel(64);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let sending = tokio::spawn(async move {
        for at in from.. {
            let request = AppendRequest {
                session_id: "s".into(),
                expected_sequence: Some(at),
                payloads: vec![Bytes::from(format!("line {at}"))],
                ..AppendRequest::default()
            };
            if requests.send(request).await.is_err() {
                return;
            }
        }
    });
    let mut last = from - 1;
    if let Ok(answers) = client.append(stream).await {
        let mut answers = answers.into_inner();
        while let Ok(Some(answer)) = answers.message().await {
            use betcode_schema_grpc::history::append_response::Result::Appended;
            if let Some(Appended(done)) = answer.result {
                last = done.last_sequence;
            }
        }
    }
    sending.abort();
    last
}

/// Follows until the daemon is gone; the sequence to go on with.
async fn follow_until_killed(process: &Process, mut next: u64) -> u64 {
    let mut client = process.history().await;
    let request = FollowRequest {
        session_id: "s".into(),
        from_sequence: next,
    };
    let Ok(answers) = client.follow(request).await else {
        return next;
    };
    let mut answers = answers.into_inner();
    while let Ok(Some(answer)) = answers.message().await {
        for message in answer.messages {
            assert_eq!(message.sequence, next);
            assert_eq!(message.payload, format!("line {next}"));
            next += 1;
        }
    }
    next
}

async fn killed_at_random(rounds: u64) {
    let folder = tempfile::tempdir().unwrap();
    let (mut answered, mut next) = (0, 1);
    for round in 0..rounds {
        let mut process = Process::start(
            folder.path(),
            &["--compaction-interval-ms", "20", "--quick-idle-ms", "0"],
        )
        .await;
        let mut client = process.history().await;
        // Answered messages are there; what was on disk without an answer is appended again as a
        // retry, or goes on behind it.
        let there = match read_all(&mut client, "s", 1).await {
            Ok(messages) => {
                for (sequence, payload) in &messages {
                    assert_eq!(*payload, format!("line {sequence}"));
                }
                messages.len() as u64
            }
            Err(_) => 0,
        };
        assert!(
            there >= answered,
            "{there} there, {answered} answered, round {round}"
        );
        if there == 0 {
            let mut appender = Appender::open(&mut client).await;
            appender.send(batch("s", &["line 1"])).await.unwrap();
        }
        let wait = Duration::from_millis(20 + (round * 7919) % 150);
        let (appended, followed, ()) = tokio::join!(
            append_until_killed(&process, answered.max(1)),
            follow_until_killed(&process, next),
            async {
                tokio::time::sleep(wait).await;
                let pid = rustix::process::Pid::from_raw(process.pid().cast_signed()).unwrap();
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
            }
        );
        process.kill();
        (answered, next) = (appended.max(answered), followed);
    }
    assert!(
        answered > rounds && next > 1,
        "{answered} answered, followed to {next}"
    );
}

#[tokio::test]
async fn what_was_answered_survives_a_kill_and_followers_go_on() {
    killed_at_random(5).await;
}

#[tokio::test]
#[ignore = "long"]
async fn what_was_answered_survives_two_hundred_kills() {
    killed_at_random(200).await;
}
