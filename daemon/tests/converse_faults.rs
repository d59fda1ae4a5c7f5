//! Conversations when something goes wrong: the daemon killed or stopped, floods, clients that do not
//! read, a store without room.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

#[path = "support/held.rs"]
mod held;
mod support;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::AgentStatus;
use betcode_schema_grpc::v1::agent_service_client::AgentServiceClient;
use betcode_storage::{SizeLimits, Store};
use held::Held;
use support::process::Process;
use support::talk::{Talk, is_of_line, resume, said, serve, settings, start};
use support::{Appender, batch, connect, read_all};
use tonic::Code;

fn flags(folder: &Path) -> Vec<String> {
    let flag = |(name, value): (&str, String)| [format!("--{}", name.replace('_', "-")), value];
    settings(folder).into_iter().flat_map(flag).collect()
}

/// Changes what a session may take.
fn limit_sessions(store: &Store, session_bytes_max: u64) {
    let limits = SizeLimits {
        session_bytes_max,
        ..store.limits()
    };
    store.set_limits(limits).unwrap();
}

/// Whether a process is there and has not ended.
fn is_alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The process id of the agent that told these events.
async fn agent_pid(process: &Process, session: &str) -> String {
    let lines = read_all(&mut process.history().await, session, 1)
        .await
        .unwrap();
    let init = lines.iter().rev().find_map(|(_, line)| {
        let value: serde_json::Value = serde_json::from_slice(line).ok()?;
        (value["subtype"] == "init").then(|| value["pid"].to_string())
    });
    init.unwrap()
}

async fn until(mut holds: impl FnMut() -> bool) {
    let work = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    support::within(work).await;
}

#[tokio::test]
async fn what_any_client_was_shown_survives_kill_minus_nine_and_the_session_resumes() {
    let folder = tempfile::tempdir().unwrap();
    let flags = flags(folder.path());
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let mut process = Process::start(folder.path(), &flags).await;
    let channel = connect(&process.socket).await.unwrap();
    let mut talk = Talk::open(&channel, start("s", folder.path())).await;
    let mut other = Talk::open(&channel, start("s", folder.path())).await;
    talk.say("say:begun lines:200000 hang").await;
    // In the middle of a flood, wherever that is.
    for client in [&mut talk, &mut other] {
        for _ in 0..300 {
            client.next().await.unwrap();
        }
    }
    let pid = agent_pid(&process, "s").await;
    process.kill();
    for client in [&mut talk, &mut other] {
        client.ended().await;
    }
    // Its input has ended, and nobody reads what it prints.
    until(|| !is_alive(&pid)).await;
    let process = Process::start(folder.path(), &flags).await;
    let channel = connect(&process.socket).await.unwrap();
    let kept = resume(&channel, "s", 0).await;
    let kept: Vec<_> = kept.into_iter().filter(is_of_line).collect();
    for client in [&talk, &other] {
        let told = client.recorded();
        assert_eq!(told, kept[..told.len()], "what was shown is what is kept");
    }
    let mut talk = Talk::open(&channel, start("s", folder.path())).await;
    talk.say("args").await;
    talk.turn_over().await;
    let text = said(&talk.told);
    assert!(
        text.contains("--resume") && text.contains(&format!("agent-{pid}")),
        "{text}"
    );
}

#[tokio::test]
async fn sigterm_interrupts_turns_and_records_everything_that_agents_print_until_they_end() {
    let folder = tempfile::tempdir().unwrap();
    let flags = flags(folder.path());
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let mut process = Process::start(folder.path(), &flags).await;
    let channel = connect(&process.socket).await.unwrap();
    let mut talk = Talk::open(&channel, start("s", folder.path())).await;
    talk.say("lines:3000 hang").await;
    talk.hears("hanging").await;
    let pid = agent_pid(&process, "s").await;
    let status = process.terminate().await;
    assert!(status.success(), "{status}");
    assert!(!is_alive(&pid));
    assert_eq!(talk.ended().await.code(), Code::Unavailable);
    let process = Process::start(folder.path(), &flags).await;
    let channel = connect(&process.socket).await.unwrap();
    let kept = resume(&channel, "s", 0).await;
    let Some(proto::agent_event::Event::TurnComplete(turn)) = &kept.last().unwrap().event else {
        panic!("{:?}", kept.last())
    };
    assert_eq!(turn.stop_reason, "error_during_execution");
    assert!(said(&kept).contains("2999 "));
}

#[tokio::test]
async fn an_agent_that_does_not_end_is_killed_at_the_deadline_and_what_it_printed_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut flags = flags(folder.path());
    flags.extend(["--max-drain-ms".to_owned(), "300".to_owned()]);
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let mut process = Process::start(folder.path(), &flags).await;
    let channel = connect(&process.socket).await.unwrap();
    let mut talk = Talk::open(&channel, start("s", folder.path())).await;
    talk.say("deaf hang").await;
    talk.hears("hanging").await;
    let pid = agent_pid(&process, "s").await;
    process.terminate().await;
    assert!(!is_alive(&pid));
    let process = Process::start(folder.path(), &flags).await;
    let channel = connect(&process.socket).await.unwrap();
    assert!(said(&resume(&channel, "s", 0).await).contains("hanging"));
}

#[tokio::test]
async fn a_flood_of_lines_is_all_recorded_and_all_told() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut never_reads = Talk::silent(&channel).await;
    never_reads
        .ask(proto::agent_request::Request::Start(start("s", &folder)))
        .await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("lines:50000").await;
    talk.turn_over().await;
    let text = said(&talk.told);
    let expected: String = (0..50_000).map(|at| format!("{at} ")).collect();
    assert_eq!(text, expected);
    let lines = &served.daemon.core().metrics.agent_lines;
    // init, result, and the flood.
    support::eventually(async || lines.load(Ordering::Relaxed) >= 50_002).await;
    assert_eq!(lines.load(Ordering::Relaxed), 50_002);
    // Who did not read finds everything, too.
    never_reads.turn_over().await;
    let told = never_reads.recorded();
    let all = talk.recorded();
    assert_eq!(told, all[all.len() - told.len()..]);
    assert!(told.len() >= 50_000);
}

#[tokio::test]
async fn without_room_the_agent_waits_clients_are_told_and_nothing_is_lost() {
    let (served, folder) =
        serve(&[("max_session_bytes", "1000000"), ("compaction", "false")]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("lines:20000").await;
    let error = talk.error().await;
    assert_eq!(error.code, "RESOURCE_EXHAUSTED");
    assert_eq!(error.details["limit"], "max_session_bytes");
    talk.status(AgentStatus::Error).await;
    // A message now would be lost: it is refused.
    talk.say("say:more").await;
    assert_eq!(talk.error().await.details["limit"], "max_session_bytes");
    let store = &served.daemon.core().store;
    limit_sessions(store, 50_000_000);
    talk.turn_over().await;
    let expected: String = (0..20_000).map(|at| format!("{at} ")).collect();
    assert_eq!(said(&talk.told), expected);
}

#[tokio::test]
async fn at_a_sessions_limit_an_agent_waits_with_the_line_that_does_not_fit_and_compaction_lets_it_go_on()
 {
    let folder = tempfile::tempdir().unwrap();
    let mut flags = flags(folder.path());
    let more = [
        ("--max-session-bytes", "1000000"),
        ("--compaction-interval-ms", "100"),
        ("--quick-idle-ms", "500"),
    ];
    flags.extend(
        more.into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value.to_owned()]),
    );
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let log_path = folder.path().join("log");
    let log = std::fs::File::create(&log_path).unwrap();
    let process = Process::start_logging(folder.path(), &flags, log.into()).await;
    let channel = connect(&process.socket).await.unwrap();
    let mut talk = Talk::open(&channel, start("s", folder.path())).await;
    // More than is read ahead and more than the limit, several times.
    talk.say("lines:20000").await;
    let error = talk.error().await;
    assert_eq!(error.details["limit"], "max_session_bytes");
    assert!(
        error
            .message
            .contains("B more do not fit under its limit of 1.00 MB"),
        "{}",
        error.message
    );
    let lines = read_all(&mut process.history().await, "s", 1).await;
    let bytes: usize = lines.unwrap().iter().map(|(_, line)| line.len()).sum();
    assert!(bytes > 999_000, "it waits at {bytes} B of 1,000,000");
    talk.turn_over().await;
    let expected: String = (0..20_000).map(|at| format!("{at} ")).collect();
    assert_eq!(said(&talk.told), expected);
    let log = std::fs::read_to_string(&log_path).unwrap();
    let count = |text: &str| log.matches(text).count();
    let stalls = count("cannot be recorded: it waits");
    assert!(stalls > 0, "{log}");
    assert_eq!(count("lines are recorded again"), stalls, "{log}");
}

#[tokio::test]
async fn what_a_line_took_to_the_disk_ends_with_its_commit() {
    let (served, folder) = serve(&[("compaction", "false")]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    let (go_on, end) = (folder.join("go-on"), folder.join("end"));
    // One write into the pipe, and nothing behind it that would be read ahead of the commit.
    let prompt = format!(
        "say:begun stop:{} lines:10 stop:{}",
        go_on.display(),
        end.display()
    );
    talk.say(&prompt).await;
    talk.hears("begun").await;
    // The writer waits with another batch, and the agent's lines wait in its queue.
    let held = Held::take(&served.settings.db);
    let store = served.daemon.core().store.clone();
    let other = betcode_storage::Batch::new("t".parse().unwrap(), vec!["x".into()]);
    let (answer, appended) = std::sync::mpsc::channel();
    let answer = move |result| answer.send(result).unwrap();
    store
        .append_then(other, Duration::from_secs(30), answer)
        .unwrap();
    support::eventually(async || store.queue_depth().requests == 0).await;
    std::fs::write(&go_on, "").unwrap();
    support::eventually(async || store.queue_depth().requests > 0).await;
    let giving_back = std::thread::spawn(move || held.give_back());
    // Nothing but the store's own threads goes on meanwhile.
    std::thread::sleep(Duration::from_secs(3));
    giving_back.join().unwrap();
    appended.recv().unwrap().unwrap();
    std::fs::write(&end, "").unwrap();
    talk.turn_over().await;
    let metrics = &served.daemon.core().metrics;
    let (record_ms, tell_ms) = (
        metrics.record.quantile_ms(1.0),
        metrics.tell.quantile_ms(1.0),
    );
    assert!(record_ms < 2_000.0, "{record_ms} ms");
    assert!(tell_ms >= 2_000.0, "{tell_ms} ms");
}

#[tokio::test]
async fn what_another_process_appends_between_two_lines_is_told_to_a_slow_stream() {
    let (served, folder) = serve(&[("max_follower_buffer_bytes", "67108864")]).await;
    let mut slow = Talk::open(&served.channel().await, start("s", &folder)).await;
    let delta = |text: &str| {
        let text = format!(r#"{{"type":"text_delta","text":"{text}"}}"#);
        let event = format!(r#"{{"type":"content_block_delta","index":0,"delta":{text}}}"#);
        format!(r#"{{"type":"stream_event","event":{event}}}"#)
    };
    let mut appender = Appender::open(&mut served.history().await).await;
    // More than goes out without being read: the rest waits in the stream's buffer.
    let long = delta(&"x".repeat(50_000));
    for _ in 0..40 {
        appender.send(batch("s", &[&long])).await.unwrap();
    }
    appender.send(batch("s", &[&delta("one,")])).await.unwrap();
    let (path, line) = (served.settings.db.clone(), delta("two,"));
    let append = move || {
        let other = betcode_storage::Store::open(&path, Default::default()).unwrap();
        let batch = betcode_storage::Batch::new("s".parse().unwrap(), vec![line.into()]);
        other.append(batch).unwrap();
        other.close().unwrap();
    };
    tokio::task::spawn_blocking(append).await.unwrap();
    appender
        .send(batch("s", &[&delta("three.")]))
        .await
        .unwrap();
    slow.hears("three.").await;
    assert!(said(&slow.told).ends_with("xone,two,three."));
}

#[tokio::test]
async fn a_session_whose_lines_cannot_be_recorded_can_be_deleted() {
    let (served, folder) =
        serve(&[("max_session_bytes", "1000000"), ("compaction", "false")]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("lines:20000").await;
    talk.status(AgentStatus::Error).await;
    let delete = proto::DeleteSessionRequest {
        session_id: "s".into(),
    };
    let mut client = AgentServiceClient::new(channel.clone());
    let deleted = support::within(client.delete_session(delete)).await;
    assert!(deleted.unwrap().into_inner().deleted);
    assert_eq!(talk.ended().await.code(), Code::NotFound);
    assert_eq!(served.daemon.core().admission.subprocesses.used(), 0);
    let mut history = served.history().await;
    let gone = read_all(&mut history, "s", 1).await.unwrap_err();
    assert_eq!(gone.code(), Code::NotFound);
}

#[tokio::test]
async fn a_session_that_is_being_deleted_does_not_come_back_with_somebody_who_talks_in_it() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("say:hello").await;
    talk.turn_over().await;
    talk.idle().await;
    // Whoever deletes has to wait for the store, and somebody comes meanwhile.
    let held = Held::take(&served.settings.db);
    let delete = proto::DeleteSessionRequest {
        session_id: "s".into(),
    };
    let mut client = AgentServiceClient::new(channel.clone());
    let deleting = tokio::spawn(async move { client.delete_session(delete).await });
    let agents = &served.daemon.core().agents;
    support::eventually(async || agents.conversations() == 0).await;
    let mut late = Talk::silent(&channel).await;
    late.ask(proto::agent_request::Request::Start(start("s", &folder)))
        .await;
    late.say("say:again").await;
    // Either it is refused, or its agent is there and its prompt waits for the store.
    let running = &served.daemon.core().admission.subprocesses;
    let refused = tokio::select! {
        status = late.ended() => Some(status),
        () = support::eventually(async || running.used() == 1) => None,
    };
    held.give_back();
    let deleted = support::within(deleting).await.unwrap();
    assert!(deleted.unwrap().into_inner().deleted);
    let status = match refused {
        Some(status) => status,
        None => late.ended().await,
    };
    assert!(
        matches!(status.code(), Code::NotFound | Code::FailedPrecondition),
        "{status:?}"
    );
    support::eventually(async || agents.conversations() == 0).await;
    let mut history = served.history().await;
    let gone = read_all(&mut history, "s", 1).await;
    assert_eq!(gone.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_message_for_an_agent_that_has_closed_its_input_is_not_lost() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    let go_on = folder.join("go-on");
    talk.say(&format!("shut stop:{}", go_on.display())).await;
    let request = talk.permission().await.request_id;
    let allow = proto::PermissionDecision::AllowOnce;
    talk.decide(&request, allow).await;
    // Recorded, and by then or soon after found to reach nobody.
    let mut history = served.history().await;
    support::eventually(async || {
        let lines = read_all(&mut history, "s", 1).await.unwrap();
        let answer = |line: &[u8]| String::from_utf8_lossy(line).contains("control_response");
        lines.iter().any(|(_, line)| answer(line))
    })
    .await;
    std::fs::write(&go_on, "").unwrap();
    talk.turn_over().await;
    talk.say("say:again").await;
    while !said(&talk.told).contains("again") {
        // Told that it is to be said again, or done without.
        if let Some(proto::agent_event::Event::Error(_)) = talk.next().await.unwrap().event {
            talk.say("say:again").await;
        }
    }
}

#[tokio::test]
async fn what_escaped_from_a_dead_agents_group_does_not_hold_its_session_up() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("escaped:noise exit:3").await;
    let error = talk.error().await;
    assert_eq!(error.code, "AGENT_EXITED");
    assert_eq!(error.details["exit"], "exit status: 3");
    talk.say("say:again").await;
    talk.hears("again").await;
}

#[tokio::test]
async fn what_an_agent_said_last_is_told_though_something_holds_its_standard_error() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("escaped:noise err:boom exit:3").await;
    let error = talk.error().await;
    assert_eq!(error.code, "AGENT_EXITED");
    assert!(error.details["stderr"].contains("boom"), "{error:?}");
}

#[tokio::test]
async fn an_agent_that_closes_its_output_and_lives_on_is_ended_and_that_is_told() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("say:last mute").await;
    assert_eq!(talk.error().await.code, "AGENT_EXITED");
    assert_eq!(said(&talk.told), "last");
    talk.say("say:again").await;
    talk.hears("again").await;
}

#[tokio::test]
async fn an_answer_without_room_does_not_lock_its_session_when_the_agent_is_gone() {
    let (served, folder) = serve(&[("compaction", "false")]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("lines:20000 ask:Bash:r").await;
    talk.permission().await;
    let (settings, store) = (&served.settings, &served.daemon.core().store);
    limit_sessions(store, 1_000_000);
    let allow = proto::PermissionDecision::AllowOnce;
    talk.decide("r", allow).await;
    talk.status(AgentStatus::Error).await;
    let lines = read_all(&mut served.history().await, "s", 1).await.unwrap();
    let pid = lines.iter().find_map(|(_, line)| {
        let value: serde_json::Value = serde_json::from_slice(line).ok()?;
        value["pid"].as_i64()
    });
    let pid = rustix::process::Pid::from_raw(pid.unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    while talk.error().await.code != "AGENT_EXITED" {}
    let max = settings.max_session_bytes;
    limit_sessions(store, max);
    talk.say("say:again").await;
    talk.hears("again").await;
}
