//! What existing clients call, over a real socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use betcode_schema_grpc::history::compaction_service_client::CompactionServiceClient;
use betcode_schema_grpc::history::{AppendRequest, RunCompactionRequest, SessionMeta};
use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::agent_service_client::AgentServiceClient;
use betcode_schema_grpc::v1::tunnel_service_client::TunnelServiceClient;
use betcode_schema_grpc::v1::version_service_client::VersionServiceClient;
use support::{Appender, Served, batch, eventually, serve, within};
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

async fn with_lines(served: &Served, session: &str, lines: &[String]) {
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    appender.send(batch(session, &lines)).await.unwrap();
}

/// Turns with partial output, results of tools, and lines that give no event.
fn lines(turns: u64) -> Vec<String> {
    let mut lines = vec![
        r#"{"type":"system","subtype":"init","cwd":"/w","session_id":"a","model":"claude"}"#
            .to_owned(),
    ];
    for turn in 0..turns {
        let id = format!("msg_{turn}");
        lines.push(format!(r#"{{"type":"stream_event","event":{{"type":"message_start","message":{{"id":"{id}"}}}}}}"#));
        for word in ["one ", "two"] {
            lines.push(format!(r#"{{"type":"stream_event","event":{{"type":"content_block_delta","delta":{{"type":"text_delta","text":"{word}"}}}}}}"#));
        }
        lines.push(format!(r#"{{"type":"assistant","message":{{"id":"{id}","content":[{{"type":"text","text":"one two"}},{{"type":"tool_use","id":"t{turn}","name":"Bash","input":{{"command":"ls"}}}}],"usage":{{"input_tokens":1,"output_tokens":2}}}}}}"#));
        lines.push(format!(r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"t{turn}","content":"x"}}]}}}}"#));
        lines.push("not json".to_owned());
        lines.push(r#"{"type":"result","subtype":"success","duration_ms":5,"total_cost_usd":0.25,"usage":{"input_tokens":10,"output_tokens":20}}"#.to_owned());
    }
    lines
}

async fn resume(
    client: &mut AgentServiceClient<Channel>,
    session: &str,
    from_sequence: u64,
) -> Result<Vec<proto::AgentEvent>, tonic::Status> {
    let request = proto::ResumeSessionRequest {
        session_id: session.into(),
        from_sequence,
    };
    let mut answers = client.resume_session(request).await?.into_inner();
    let mut events = Vec::new();
    while let Some(event) = answers.message().await? {
        events.push(event);
    }
    Ok(events)
}

#[tokio::test]
async fn a_session_resumes_exactly_from_every_line_compacted_or_not() {
    let served = serve(&[]).await;
    let lines = lines(4);
    with_lines(&served, "s", &lines).await;
    let mut client = AgentServiceClient::new(served.channel().await);
    let whole = resume(&mut client, "s", 0).await.unwrap();
    assert!(matches!(whole[0].event, Some(Event::SessionInfo(_))));
    assert!(whole.is_sorted_by_key(|event| event.sequence));
    for compacted in [false, true] {
        if compacted {
            let request = proto::CompactSessionRequest {
                session_id: "s".into(),
            };
            let answer = client.compact_session(request).await.unwrap().into_inner();
            let messages = lines.len() as u32;
            assert_eq!(
                (answer.messages_before, answer.messages_after),
                (messages, messages)
            );
            assert_eq!(answer.tokens_saved, 0);
        }
        for from in 0..=lines.len() as u64 {
            let rest: Vec<_> = whole
                .iter()
                .filter(|e| e.sequence > from)
                .cloned()
                .collect();
            assert_eq!(
                resume(&mut client, "s", from).await.unwrap(),
                rest,
                "from {from}"
            );
        }
    }
    let beyond = resume(&mut client, "s", lines.len() as u64 + 1)
        .await
        .unwrap_err();
    assert_eq!(beyond.code(), Code::OutOfRange);
    let last = format!("resume from {} or earlier", lines.len());
    assert!(beyond.message().contains(&last), "{beyond}");
    assert_eq!(
        resume(&mut client, "nope", 0).await.unwrap_err().code(),
        Code::NotFound
    );
    let huge = resume(&mut client, "s", u64::MAX).await.unwrap_err();
    assert_eq!(huge.code(), Code::OutOfRange);
}

#[tokio::test]
async fn a_sessions_first_agent_did_not_resume_it_and_later_ones_did_wherever_a_replay_begins() {
    let served = serve(&[]).await;
    let prompt = r#"{"type":"user","message":{"content":"hi"}}"#.to_owned();
    let turns: Vec<String> = lines(2).into_iter().chain(lines(1)).collect();
    let told: Vec<String> = [prompt].into_iter().chain(turns).collect();
    let mut history = served.history().await;
    let mut appender = Appender::open(&mut history).await;
    let meta = SessionMeta {
        worktree_id: "tree".into(),
        ..SessionMeta::default()
    };
    let told: Vec<&str> = told.iter().map(String::as_str).collect();
    let request = AppendRequest {
        meta: Some(meta),
        ..batch("s", &told)
    };
    appender.send(request).await.unwrap();
    let mut client = AgentServiceClient::new(served.channel().await);
    for from in 0..told.len() as u64 {
        for event in resume(&mut client, "s", from).await.unwrap() {
            if let Some(Event::SessionInfo(info)) = event.event {
                assert_eq!(info.is_resumed, event.sequence > 2, "from {from}");
                assert_eq!(info.worktree_id, "tree");
            }
        }
    }
}

#[tokio::test]
async fn a_client_cut_off_between_two_events_of_a_line_loses_none() {
    let served = serve(&[]).await;
    with_lines(&served, "s", &lines(2)).await;
    let mut client = AgentServiceClient::new(served.channel().await);
    let whole = resume(&mut client, "s", 0).await.unwrap();
    // `result` gives two events; the connection breaks behind the first of them.
    let first = whole
        .iter()
        .position(|event| matches!(event.event, Some(Event::Usage(_))))
        .unwrap();
    let mut had: Vec<_> = whole[..=first].to_vec();
    assert_eq!(whole[first].sequence, whole[first + 1].sequence);
    // It goes on from the line before, and leaves out what it has.
    let sequence = whole[first].sequence;
    let again = resume(&mut client, "s", sequence - 1).await.unwrap();
    let told = had.iter().filter(|event| event.sequence == sequence);
    let missed = again.into_iter().skip(told.count());
    had.extend(missed);
    assert_eq!(had, whole);
}

#[tokio::test]
async fn lists_have_true_totals_and_counts_and_both_filters() {
    let served = serve(&[]).await;
    let mut history = served.history().await;
    let mut appender = Appender::open(&mut history).await;
    for at in 0..6 {
        let meta = SessionMeta {
            name: format!("n{at}"),
            working_directory: format!("/w/{}", at % 2),
            worktree_id: format!("t{}", at % 3),
            ..SessionMeta::default()
        };
        let lines = lines(1);
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let request = AppendRequest {
            meta: Some(meta),
            ..batch(&format!("s{at}"), &lines)
        };
        appender.send(request).await.unwrap();
    }
    let mut client = AgentServiceClient::new(served.channel().await);
    let mut list = async |working_directory: &str, worktree_id: &str, limit, offset| {
        let request = proto::ListSessionsRequest {
            working_directory: working_directory.into(),
            worktree_id: worktree_id.into(),
            limit,
            offset,
        };
        client.list_sessions(request).await.unwrap().into_inner()
    };
    let page = list("", "", 2, 1).await;
    assert_eq!((page.sessions.len(), page.total), (2, 6));
    assert_eq!(page.sessions[0].id, "s4");
    assert_eq!(page.sessions[0].message_count, lines(1).len() as u32);
    assert_eq!(
        (
            page.sessions[0].total_input_tokens,
            page.sessions[0].total_output_tokens
        ),
        (10, 20)
    );
    assert!((page.sessions[0].total_cost_usd - 0.25).abs() < 1e-9);
    assert_eq!(list("/w/0", "", 0, 0).await.total, 3);
    assert_eq!(list("/w/0/", "", 0, 0).await.total, 3);
    assert_eq!(list("/", "", 0, 0).await.total, 0);
    assert_eq!(list("", "t1", 0, 0).await.total, 2);
    assert_eq!(list("/w/0", "t1", 0, 0).await.total, 1);
    assert_eq!(list("/nowhere", "", 0, 0).await.total, 0);
    let beyond = list("/w/0", "", 2, 9).await;
    assert_eq!((beyond.sessions.len(), beyond.total), (0, 3));
    // Compaction changes no count, and no session's place in the list.
    let before = list("", "", 0, 0).await;
    let store = served.daemon.core().store.clone();
    let compact = move || {
        let go_on = &mut |_: &_| std::ops::ControlFlow::Continue(());
        store.compact(&betcode_storage::CompactionRequest::manual(), go_on)
    };
    tokio::task::spawn_blocking(compact).await.unwrap().unwrap();
    assert_eq!(list("", "", 0, 0).await, before);
}

/// As another process that compacts.
fn compacting(served: &Served) -> std::fs::File {
    let mut lock = served.daemon.core().settings.db.clone().into_os_string();
    lock.push("-compaction.lock");
    let held = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(lock)
        .unwrap();
    held.lock().unwrap();
    held
}

#[tokio::test]
async fn compactions_that_wait_are_long_jobs_until_their_callers_leave() {
    let served = serve(&[]).await;
    with_lines(&served, "s", &lines(1)).await;
    let _held = compacting(&served);
    let channel = served.channel().await;
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..5 {
        let mut client = AgentServiceClient::new(channel.clone());
        let session_id = "s".into();
        let request = proto::CompactSessionRequest { session_id };
        waiting.spawn(async move { client.compact_session(request).await });
    }
    let refused = within(waiting.join_next()).await.unwrap().unwrap();
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let details = refused.get_error_details();
    let limit = &details.quota_failure().unwrap().violations[0].subject;
    assert_eq!(limit, "long_jobs");
    assert_eq!(waiting.len(), 4);
    waiting.shutdown().await;
    let client = CompactionServiceClient::new(channel);
    let plan = RunCompactionRequest {
        dry_run: true,
        ..RunCompactionRequest::default()
    };
    eventually(async || client.clone().run(plan.clone()).await.is_ok()).await;
}

#[tokio::test]
async fn a_compaction_asked_for_during_another_one_comes_after_it() {
    let served = serve(&[]).await;
    with_lines(&served, "s", &lines(1)).await;
    let held = compacting(&served);
    let mut client = AgentServiceClient::new(served.channel().await);
    let asked = tokio::spawn(async move {
        let session_id = "s".into();
        client
            .compact_session(proto::CompactSessionRequest { session_id })
            .await
    });
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!asked.is_finished());
    drop(held);
    assert!(asked.await.unwrap().unwrap().into_inner().messages_after > 0);
}

#[tokio::test]
async fn a_session_that_cannot_be_compacted_for_damage_is_told_to_be_damaged() {
    let served = serve(&[]).await;
    with_lines(&served, "s", &lines(1)).await;
    let store = rusqlite::Connection::open(&served.settings.db).unwrap();
    let flip = "UPDATE hot_messages SET payload = x'00' WHERE message_key & 4294967295 = 2";
    assert_eq!(store.execute(flip, ()).unwrap(), 1);
    let mut client = AgentServiceClient::new(served.channel().await);
    let session_id = "s".into();
    let compact = proto::CompactSessionRequest { session_id };
    let refused = within(client.compact_session(compact)).await.unwrap_err();
    assert_eq!(refused.code(), Code::DataLoss, "{refused}");
    assert!(refused.message().contains("session s"), "{refused}");
}

#[tokio::test]
async fn unknown_sessions_are_not_found_except_to_delete() {
    let served = serve(&[]).await;
    with_lines(&served, "s", &lines(1)).await;
    let mut client = AgentServiceClient::new(served.channel().await);
    let rename = |id: &str| proto::RenameSessionRequest {
        session_id: id.into(),
        name: "n".into(),
    };
    client.rename_session(rename("s")).await.unwrap();
    assert_eq!(
        client
            .rename_session(rename("nope"))
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    let bad = client.rename_session(rename("../x")).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    let compact = proto::CompactSessionRequest {
        session_id: "nope".into(),
    };
    assert_eq!(
        client.compact_session(compact).await.unwrap_err().code(),
        Code::NotFound
    );
    let delete = |id: &str| proto::DeleteSessionRequest {
        session_id: id.into(),
    };
    assert!(
        !client
            .delete_session(delete("nope"))
            .await
            .unwrap()
            .into_inner()
            .deleted
    );
    assert!(
        client
            .delete_session(delete("s"))
            .await
            .unwrap()
            .into_inner()
            .deleted
    );
}

#[tokio::test]
async fn what_is_not_there_says_why_and_versions_are_told() {
    let served = serve(&[]).await;
    let mut client = AgentServiceClient::new(served.channel().await);
    let request = proto::CancelTurnRequest {
        session_id: "s".into(),
    };
    let refused = client.cancel_turn(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    let talk = client
        .converse(tokio_stream::empty::<proto::AgentRequest>())
        .await;
    let told = talk.unwrap().into_inner().message().await;
    assert_eq!(told.unwrap_err().code(), Code::InvalidArgument);
    let keys = client.exchange_keys(proto::KeyExchangeRequest::default());
    let refused = keys.await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("encrypt"), "{refused}");
    let mut tunnels = TunnelServiceClient::new(served.channel().await);
    let elsewhere = tunnels
        .register(proto::TunnelRegisterRequest::default())
        .await;
    let elsewhere = elsewhere.unwrap_err();
    assert_eq!(elsewhere.code(), Code::Unimplemented);
    assert!(elsewhere.message().contains("relay"), "{elsewhere}");
    let mut client = VersionServiceClient::new(served.channel().await);
    let version = client
        .get_version(proto::GetVersionRequest {})
        .await
        .unwrap()
        .into_inner();
    assert!(version.features.contains(&"sessions.resume".to_owned()));
    let request = proto::NegotiateRequest {
        requested_features: vec!["sessions.list".into(), "teleport".into()],
        ..proto::NegotiateRequest::default()
    };
    let answer = client
        .negotiate_capabilities(request)
        .await
        .unwrap()
        .into_inner();
    assert!(answer.accepted);
    assert_eq!(
        (answer.granted_features.len(), answer.warnings.len()),
        (1, 1)
    );
}
