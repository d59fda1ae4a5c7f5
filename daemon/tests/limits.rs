//! Limits of the daemon reached on purpose, the answer seen, and recovery without a restart. Room:
//! see `full`; the writer's queue: `deadlines`; memory: `memory`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use betcode_schema_grpc::history::capacity_service_client::CapacityServiceClient;
use betcode_schema_grpc::history::{
    AppendRequest, BudgetRequest, FollowRequest, ListSessionsRequest,
};
use betcode_schema_grpc::v1::HealthDetailsRequest;
use betcode_schema_grpc::v1::bet_code_health_client::BetCodeHealthClient;
use bytes::Bytes;
use support::{Appender, batch, followed, serve, within};
use tonic::{Code, Status};
use tonic_types::StatusExt;

fn limit_of(status: &Status) -> String {
    assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
    let details = status.get_error_details();
    assert!(details.retry_info().is_some(), "{status}");
    details.quota_failure().unwrap().violations[0]
        .subject
        .clone()
}

fn follow(session: &str) -> FollowRequest {
    FollowRequest {
        session_id: session.into(),
        from_sequence: 1,
    }
}

#[tokio::test]
async fn clients_over_the_limit_are_told_and_let_in_later() {
    if support::through::HERE {
        // Behind a relay users count, while they have calls under way: the relay's tests see to it.
        return;
    }
    let served = serve(&[("max_clients", "2")]).await;
    let mut first = served.history().await;
    let mut second = served.history().await;
    let list = ListSessionsRequest::default;
    first.list_sessions(list()).await.unwrap();
    second.list_sessions(list()).await.unwrap();
    let mut third = served.history().await;
    assert_eq!(
        limit_of(&third.list_sessions(list()).await.unwrap_err()),
        "clients"
    );
    // Health is told to everybody.
    let mut health = BetCodeHealthClient::new(served.channel().await);
    health
        .get_health_details(HealthDetailsRequest {})
        .await
        .unwrap();
    // An operator can ask what is going on.
    let mut capacity = CapacityServiceClient::new(served.channel().await);
    capacity.budget(BudgetRequest::default()).await.unwrap();
    drop(second);
    // On the connection that was refused: nobody has to connect again.
    for _ in 0..200 {
        if third.list_sessions(list()).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("nobody was let in again");
}

#[tokio::test]
async fn followers_and_sessions_over_the_limit_are_told() {
    let served = serve(&[("max_followers", "1"), ("max_sessions", "2")]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    // What is refused takes no session's place.
    for session in ["x", "y", "z"] {
        let expected = AppendRequest {
            expected_sequence: Some(7),
            ..batch(session, &["x"])
        };
        let refused = appender.send(expected).await.unwrap_err();
        assert_eq!(refused.code, i32::from(Code::AlreadyExists), "{refused:?}");
    }
    for session in ["a", "b"] {
        appender.send(batch(session, &["x"])).await.unwrap();
    }
    let refused = appender.send(batch("c", &["x"])).await.unwrap_err();
    assert_eq!((refused.code, refused.reason.as_str()), (8, "OVERLOADED"));
    assert!(refused.message.contains("sessions") && refused.retry_ms > 0);
    let mut one = client.follow(follow("a")).await.unwrap().into_inner();
    followed(&mut one).await;
    assert_eq!(
        limit_of(&client.follow(follow("b")).await.unwrap_err()),
        "followers"
    );
    drop(one);
    for _ in 0..200 {
        if client.follow(follow("b")).await.is_ok() {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("no follower was let in again");
}

#[tokio::test]
async fn a_request_over_its_size_ends_the_call_and_not_the_daemon() {
    let served = serve(&[("max_payload_bytes", "1000000")]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    let request = |bytes: usize| AppendRequest {
        session_id: "s".into(),
        payloads: vec![Bytes::from(vec![b'x'; bytes])],
        ..AppendRequest::default()
    };
    appender.send(request(1_000_000)).await.unwrap();
    let over = appender.send(request(1_000_001)).await.unwrap_err();
    assert_eq!(over.code, i32::from(Code::InvalidArgument));
    appender.requests.send(request(4_000_000)).await.unwrap();
    let status = within(appender.answers.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let mut again = Appender::open(&mut client).await;
    again.send(batch("s", &["fine"])).await.unwrap();
}

#[tokio::test]
async fn idle_connections_and_nonsense_hold_up_nobody() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let served = serve(&[("max_connections", "200")]).await;
    let mut idle = Vec::new();
    for _ in 0..150 {
        idle.push(
            tokio::net::UnixStream::connect(&served.settings.socket)
                .await
                .unwrap(),
        );
    }
    let mut nonsense = tokio::net::UnixStream::connect(&served.settings.socket)
        .await
        .unwrap();
    nonsense.write_all(&[0xff; 4096]).await.unwrap();
    let mut answer = Vec::new();
    // Closed, with or without a word.
    let _ = within(nonsense.read_to_end(&mut answer)).await;
    drop(idle);
    for _ in 0..200 {
        let mut client = served.history().await;
        if client
            .list_sessions(ListSessionsRequest::default())
            .await
            .is_ok()
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    panic!("nobody is served");
}

#[tokio::test]
async fn a_full_database_is_told_apart_from_overload_and_goes_on_when_raised() {
    let served = serve(&[("max_db_bytes", "1000000"), ("compaction", "false")]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    let mut refused = None;
    for _ in 0..200 {
        let payloads = vec![Bytes::from(vec![b'x'; 20_000])];
        let request = AppendRequest {
            session_id: "s".into(),
            payloads,
            ..AppendRequest::default()
        };
        if let Err(answer) = appender.send(request).await {
            refused = Some(answer);
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(
        (refused.code, refused.reason.as_str()),
        (8, "NO_SPACE"),
        "{}",
        refused.message
    );
    assert_eq!(refused.limit, "max_db_bytes");
    let mut raised = served.settings.clone();
    raised.max_db_bytes = 100_000_000;
    served.daemon.reload(&raised).unwrap();
    let mut again = Appender::open(&mut client).await;
    again.send(batch("s", &["fine"])).await.unwrap();
}

#[tokio::test]
async fn a_stream_with_too_many_sessions_refused_ends_and_another_one_goes_on() {
    let served = serve(&[("max_sessions", "1")]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["1"])).await.unwrap();
    let mut refused = 0;
    let ended = loop {
        // Each is refused, and what follows it in its session would be as well.
        let request = batch(&format!("more-{refused}"), &["x"]);
        let _ = appender.requests.send(request).await;
        match within(appender.answers.message()).await {
            Ok(answer) => assert!(answer.is_some(), "it ended without a word"),
            Err(status) => break status,
        }
        refused += 1;
        assert!(refused < 2000, "all that was refused is remembered");
    };
    assert_eq!(ended.code(), Code::Aborted, "{ended}");
    assert!(ended.message().contains("new stream"), "{ended}");
    let mut again = Appender::open(&mut client).await;
    again.send(batch("s", &["2"])).await.unwrap();
}
