//! Memory that is used up: what is new is refused, what is under way goes on. Alone in its process,
//! whose memory is the daemon's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use betcode_schema_grpc::history::FollowRequest;
use support::{Appender, batch, followed, read_all, serve, within};
use tonic::Code;
use tonic_types::StatusExt;

#[tokio::test]
async fn used_up_memory_refuses_what_is_new_and_lets_the_rest_go_on() {
    let served = serve(&[
        ("max_memory_bytes", "150000000"),
        ("max_sessions", "10"),
        ("max_subprocesses", "1"),
        ("max_clients", "10"),
    ])
    .await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("old", &["1"])).await.unwrap();
    let follow = FollowRequest {
        session_id: "old".into(),
        from_sequence: 1,
    };
    let mut following = client.follow(follow.clone()).await.unwrap().into_inner();
    followed(&mut following).await;
    let taken = vec![1_u8; 300_000_000];
    let memory = &served.daemon.core().admission.memory;
    within(async {
        while memory.used() < memory.max() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    })
    .await;
    let refused = appender.send(batch("new", &["1"])).await.unwrap_err();
    assert_eq!(
        (refused.reason.as_str(), refused.limit.as_str()),
        ("OVERLOADED", "memory")
    );
    assert!(refused.retry_ms > 0);
    for status in [
        read_all(&mut client, "old", 1).await.unwrap_err(),
        client.follow(follow).await.unwrap_err(),
    ] {
        assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        let details = status.get_error_details();
        assert_eq!(
            details.quota_failure().unwrap().violations[0].subject,
            "memory"
        );
        assert!(details.retry_info().is_some());
    }
    appender.send(batch("old", &["2"])).await.unwrap();
    assert_eq!(followed(&mut following).await[0].0, 2);
    assert!(taken.iter().all(|byte| *byte == 1));
    drop(taken);
    let mut again = Appender::open(&mut client).await;
    within(async {
        while again.send(batch("new", &["1"])).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            again = Appender::open(&mut client).await;
        }
    })
    .await;
    read_all(&mut client, "old", 1).await.unwrap();
}
