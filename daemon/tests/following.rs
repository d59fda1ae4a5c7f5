//! `HistoryService.Follow` over a real socket: what is there, then what comes, from whoever appends it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use std::ops::ControlFlow;

use betcode_schema_grpc::history::{DeleteSessionRequest, FollowRequest};
use betcode_storage::CompactionRequest;
use bytes::Bytes;
use support::{Appender, batch, followed, serve, within};
use tonic::Code;

fn follow(session: &str, from_sequence: u64) -> FollowRequest {
    FollowRequest {
        session_id: session.to_owned(),
        from_sequence,
    }
}

#[tokio::test]
async fn a_follower_gets_history_then_live_across_compaction_without_gap_or_repeat() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["1", "2", "3"])).await.unwrap();
    let mut answers = client.follow(follow("s", 2)).await.unwrap().into_inner();
    let writing = tokio::spawn(async move {
        for at in 4..=2000u64 {
            appender
                .requests
                .send(batch("s", &[&at.to_string()]))
                .await
                .unwrap();
        }
        for _ in 4..=2000u64 {
            appender.answer().await.unwrap();
        }
    });
    let store = served.daemon.core().store.clone();
    let compacting = tokio::task::spawn_blocking(move || {
        for _ in 0..5 {
            store
                .compact(&CompactionRequest::manual(), &mut |_| {
                    ControlFlow::Continue(())
                })
                .unwrap();
        }
    });
    let mut next = 2;
    while next <= 2000 {
        for (sequence, payload) in followed(&mut answers).await {
            assert_eq!(sequence, next);
            assert_eq!(payload, next.to_string());
            next += 1;
        }
    }
    writing.await.unwrap();
    compacting.await.unwrap();
}

#[tokio::test]
async fn a_follower_that_does_not_read_holds_up_nobody_and_catches_up() {
    let served = serve(&[("max_follower_buffer_bytes", "4096")]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["0"])).await.unwrap();
    // A connection of its own: flow control is per connection as well as per stream.
    let mut slow = served.history().await;
    let mut stopped = slow.follow(follow("s", 1)).await.unwrap().into_inner();
    let mut quick = client.follow(follow("s", 1)).await.unwrap().into_inner();
    let line = "x".repeat(50_000);
    let started = std::time::Instant::now();
    for _ in 0..400 {
        appender.send(batch("s", &[&line])).await.unwrap();
    }
    let written = started.elapsed();
    let mut seen = 0;
    while seen < 401 {
        seen += followed(&mut quick).await.len();
    }
    let mut next = 1;
    while next <= 401 {
        for (sequence, _) in followed(&mut stopped).await {
            assert_eq!(sequence, next);
            next += 1;
        }
    }
    assert!(written.as_secs() < 20, "{written:?}");
}

#[tokio::test]
async fn followers_end_when_the_session_is_deleted_or_the_daemon_stops() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    for session in ["a", "b"] {
        appender.send(batch(session, &["x"])).await.unwrap();
    }
    drop(appender);
    let mut a = client.follow(follow("a", 1)).await.unwrap().into_inner();
    let mut b = client.follow(follow("b", 1)).await.unwrap().into_inner();
    followed(&mut a).await;
    followed(&mut b).await;
    let delete = DeleteSessionRequest {
        session_id: "a".into(),
    };
    client.delete_session(delete).await.unwrap();
    assert_eq!(end_of(&mut a).await, Code::NotFound);
    assert_eq!(
        client.follow(follow("a", 1)).await.unwrap_err().code(),
        Code::NotFound
    );
    assert_eq!(
        client.follow(follow("b", 9)).await.unwrap_err().code(),
        Code::OutOfRange
    );
    drop(client);
    let stopping = tokio::spawn(served.daemon.stop());
    assert_eq!(end_of(&mut b).await, Code::Unavailable);
    drop(b);
    assert!(within(stopping).await.unwrap());
}

async fn end_of(
    answers: &mut tonic::Streaming<betcode_schema_grpc::history::FollowResponse>,
) -> Code {
    loop {
        match within(answers.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a follower ended without a reason"),
            Err(status) => return status.code(),
        }
    }
}

/// As another process has it: a store of its own on the same file.
async fn appended_elsewhere(served: &support::Served, line: &'static str) {
    let path = served.settings.db.clone();
    tokio::task::spawn_blocking(move || {
        let other = betcode_storage::Store::open(&path, Default::default()).unwrap();
        let id = "s".parse().unwrap();
        other
            .append(betcode_storage::Batch::new(id, vec![line.into()]))
            .unwrap();
        other.close().unwrap();
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn what_another_process_appends_reaches_followers() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["1"])).await.unwrap();
    let mut answers = client.follow(follow("s", 1)).await.unwrap().into_inner();
    followed(&mut answers).await;
    appended_elsewhere(&served, "2").await;
    assert_eq!(followed(&mut answers).await, [(2, Bytes::from("2"))]);
    appender.send(batch("s", &["3"])).await.unwrap();
    assert_eq!(followed(&mut answers).await, [(3, Bytes::from("3"))]);
}

#[tokio::test]
async fn what_another_process_appends_between_two_live_batches_reaches_a_slow_follower() {
    let served = serve(&[("max_follower_buffer_bytes", "67108864")]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["1"])).await.unwrap();
    let mut slow = served.history().await;
    let mut answers = slow.follow(follow("s", 1)).await.unwrap().into_inner();
    followed(&mut answers).await;
    // More than goes out without being read: the rest waits in the follower's buffer.
    let line = "x".repeat(50_000);
    for _ in 0..40 {
        appender.send(batch("s", &[&line])).await.unwrap();
    }
    appender.send(batch("s", &["before"])).await.unwrap();
    appended_elsewhere(&served, "between").await;
    appender.send(batch("s", &["after"])).await.unwrap();
    let mut next = 2;
    while next <= 44 {
        for (sequence, _) in followed(&mut answers).await {
            assert_eq!(sequence, next);
            next += 1;
        }
    }
}

#[tokio::test]
async fn a_session_deleted_elsewhere_and_made_anew_is_not_taken_for_the_one_that_is_followed() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["old"])).await.unwrap();
    let mut answers = client.follow(follow("s", 1)).await.unwrap().into_inner();
    assert_eq!(followed(&mut answers).await, [(1, Bytes::from("old"))]);
    let path = served.settings.db.clone();
    let delete = move || {
        let other = betcode_storage::Store::open(&path, Default::default()).unwrap();
        assert!(other.delete(&"s".parse().unwrap()).unwrap());
        other.close().unwrap();
    };
    tokio::task::spawn_blocking(delete).await.unwrap();
    appender.send(batch("s", &["a", "b"])).await.unwrap();
    loop {
        match within(answers.message()).await {
            Ok(answer) => assert!(answer.unwrap().messages.is_empty(), "it is another session"),
            Err(status) => break assert_eq!(status.code(), Code::NotFound),
        }
    }
}

#[tokio::test]
async fn who_follows_a_session_made_anew_does_not_end_with_the_followers_of_the_old_one() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["1"])).await.unwrap();
    let mut before = client.follow(follow("s", 1)).await.unwrap().into_inner();
    followed(&mut before).await;
    // Told when the daemon looked: the next look is a while off.
    appended_elsewhere(&served, "2").await;
    followed(&mut before).await;
    let path = served.settings.db.clone();
    let anew = move || {
        let other = betcode_storage::Store::open(&path, Default::default()).unwrap();
        let id: betcode_storage::SessionId = "s".parse().unwrap();
        assert!(other.delete(&id).unwrap());
        other
            .append(betcode_storage::Batch::new(id, vec!["new".into()]))
            .unwrap();
        other.close().unwrap();
    };
    tokio::task::spawn_blocking(anew).await.unwrap();
    let mut after = client.follow(follow("s", 1)).await.unwrap().into_inner();
    assert_eq!(followed(&mut after).await, [(1, Bytes::from("new"))]);
    assert_eq!(end_of(&mut before).await, Code::NotFound);
    appender.send(batch("s", &["more"])).await.unwrap();
    assert_eq!(followed(&mut after).await, [(2, Bytes::from("more"))]);
}

#[tokio::test]
async fn a_session_made_anew_just_after_it_was_followed_ends_its_follower() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    for session in ["s", "t"] {
        let five = batch(session, &["1", "2", "3", "4", "5"]);
        appender.send(five).await.unwrap();
    }
    let mut clock = client.follow(follow("s", 1)).await.unwrap().into_inner();
    followed(&mut clock).await;
    // Told when the daemon looked: the next look is a while off.
    appended_elsewhere(&served, "6").await;
    followed(&mut clock).await;
    let mut answers = client.follow(follow("t", 1)).await.unwrap().into_inner();
    followed(&mut answers).await;
    appender.send(batch("t", &["6"])).await.unwrap();
    assert_eq!(followed(&mut answers).await, [(6, Bytes::from("6"))]);
    let path = served.settings.db.clone();
    let anew = move || {
        let other = betcode_storage::Store::open(&path, Default::default()).unwrap();
        let id: betcode_storage::SessionId = "t".parse().unwrap();
        assert!(other.delete(&id).unwrap());
        let batch = betcode_storage::Batch::new(id, vec!["new".into()]);
        other.append(batch).unwrap();
        other.close().unwrap();
    };
    tokio::task::spawn_blocking(anew).await.unwrap();
    assert_eq!(end_of(&mut answers).await, Code::NotFound);
}
