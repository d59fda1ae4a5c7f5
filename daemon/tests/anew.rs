//! Sessions that another process deletes, and makes anew, under the daemon's hands.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use betcode_schema_grpc::history::FollowRequest;
use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::agent_service_client::AgentServiceClient;
use betcode_storage::{SessionId, Store};
use bytes::Bytes;
use support::talk::{Talk, said, serve as serve_agents, start};
use support::{Appender, Served, batch, followed, read_all, serve, within};
use tonic::Code;

/// Deletes a session as another process does, and begins another one of its name with these lines.
async fn made_anew(served: &Served, session: &str, lines: &'static [&'static str]) {
    let path = served.settings.db.clone();
    let id: SessionId = session.parse().unwrap();
    let anew = move || {
        let other = Store::open(&path, Default::default()).unwrap();
        assert!(other.delete(&id).unwrap());
        if !lines.is_empty() {
            let lines = lines.iter().map(|line| Bytes::from(*line)).collect();
            other
                .append(betcode_storage::Batch::new(id, lines))
                .unwrap();
        }
        other.close().unwrap();
    };
    tokio::task::spawn_blocking(anew).await.unwrap();
}

#[tokio::test]
async fn what_is_appended_to_a_session_made_anew_is_not_told_to_followers_of_the_old_one() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["1", "2"])).await.unwrap();
    let request = FollowRequest {
        session_id: "s".into(),
        from_sequence: 1,
    };
    let mut answers = client.follow(request).await.unwrap().into_inner();
    assert_eq!(followed(&mut answers).await.len(), 2);
    made_anew(&served, "s", &["a", "b"]).await;
    // The sequence that the follower waits for.
    appender.send(batch("s", &["c"])).await.unwrap();
    let status = loop {
        match within(answers.message()).await {
            Ok(answer) => assert!(answer.unwrap().messages.is_empty(), "it is another session"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn what_is_appended_to_a_session_made_anew_is_not_told_to_a_conversation_in_the_old_one() {
    let (served, folder) = serve_agents(&[]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    let text = |text: &str| {
        let block = format!(r#"{{"type":"text","text":"{text}"}}"#);
        format!(r#"{{"type":"assistant","message":{{"content":[{block}]}}}}"#)
    };
    let mut appender = Appender::open(&mut served.history().await).await;
    appender.send(batch("s", &[&text("old")])).await.unwrap();
    talk.hears("old").await;
    made_anew(&served, "s", &["{}"]).await;
    appender.send(batch("s", &[&text("new")])).await.unwrap();
    assert_eq!(talk.ended().await.code(), Code::NotFound);
    assert_eq!(said(&talk.told), "old");
}

#[tokio::test]
async fn a_session_deleted_elsewhere_and_begun_anew_has_an_agent_of_its_own_and_tells_how_it_is() {
    let (served, folder) = serve_agents(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("lines:50 say:old").await;
    talk.turn_over().await;
    talk.idle().await;
    made_anew(&served, "s", &[]).await;
    assert_eq!(talk.ended().await.code(), Code::NotFound);
    let mut again = Talk::open(&channel, start("s", &folder)).await;
    again.say("say:new").await;
    again.turn_over().await;
    again.idle().await;
    let mut history = served.history().await;
    let lines = read_all(&mut history, "s", 1).await.unwrap();
    assert!(
        lines
            .iter()
            .all(|(_, line)| !line.windows(3).any(|part| part == b"old"))
    );
    assert_eq!(served.daemon.core().admission.subprocesses.used(), 1);
}

#[tokio::test]
async fn the_agent_of_a_session_deleted_elsewhere_ends_and_does_not_begin_it_anew() {
    let (served, folder) = serve_agents(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("ask:Bash:r say:more").await;
    talk.permission().await;
    made_anew(&served, "s", &[]).await;
    talk.decide("r", proto::PermissionDecision::AllowOnce).await;
    assert_eq!(talk.ended().await.code(), Code::NotFound);
    let admission = &served.daemon.core().admission;
    support::eventually(async || admission.subprocesses.used() == 0).await;
    let request = proto::ListSessionsRequest::default();
    let mut client = AgentServiceClient::new(channel.clone());
    let list = client.list_sessions(request).await.unwrap().into_inner();
    assert_eq!(list.total, 0);
}
