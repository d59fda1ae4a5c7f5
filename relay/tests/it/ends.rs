//! Calls that end by their time or by a command, whatever both sides do.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Status, Streaming};

use super::harness::{Relay, RelayOptions, until};
use super::program::{Folder, Running, client, daemon};
use super::wire::{Wire, message};

/// How the stream ends, read to its end.
async fn end_of(stream: &mut Streaming<Bytes>) -> Option<Status> {
    let ended = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(status) => return Some(status),
            }
        }
    };
    let ended = tokio::time::timeout(Duration::from_secs(20), ended).await;
    ended.expect("the call did not end in time")
}

fn many(timeout: &str) -> tonic::Request<tokio_stream::Once<Bytes>> {
    let ask = Bytes::from_static(b"400 100000 0");
    let mut request = tonic::Request::new(tokio_stream::once(ask));
    let metadata = request.metadata_mut();
    metadata.insert("grpc-timeout", timeout.parse().unwrap());
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_answer_of_a_client_that_reads_slowly() {
    let relay = Relay::start(RelayOptions::default()).await;
    let (_tunnel, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let mut answers = client
        .stream("Many", many("500m"))
        .await
        .unwrap()
        .into_inner();
    let mut count = 0;
    let ended = loop {
        match answers.message().await {
            Ok(Some(_)) => count += 1,
            Ok(None) => panic!("all of it came, long after the deadline"),
            Err(status) => break status,
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended:?}");
    assert!(count > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_answer_of_a_client_that_does_not_read() {
    let relay = Relay::start(RelayOptions::default()).await;
    let (_tunnel, echo) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let mut answers = client
        .stream("Many", many("500m"))
        .await
        .unwrap()
        .into_inner();
    let tunnel = relay.table.find(&"m-1".parse().unwrap()).unwrap();
    assert_eq!(tunnel.calls(), 1);
    until("the call's slot is free", || tunnel.calls() == 0).await;
    until("the daemon let go", || {
        echo.seen.streaming.load(Ordering::SeqCst) == 0
    })
    .await;
    let ended = end_of(&mut answers).await;
    assert_eq!(ended.unwrap().code(), Code::DeadlineExceeded);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_goes_while_its_request_stands_still_leaves_nothing_at_the_daemon() {
    let relay = Relay::start(RelayOptions::default()).await;
    let (_tunnel, echo) = relay.daemon("m-1").await;
    let hanging = || echo.seen.hanging.load(Ordering::SeqCst);
    let wire = Wire::connect(relay.clients).await;
    let mut call = wire.call("m-1", "HangOpen", &[]).await;
    for _ in 0..20 {
        call.say(message(&[7; 100_000]));
    }
    let (_, answer, request) = call.head().await;
    // Nobody takes the request, and the windows between are full of it.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(hanging(), 1);
    drop((answer, request, wire));
    until("the daemon let go", || hanging() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_revoked_takes_its_calls_along_and_no_others() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, echo) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let stolen = folder.issued("m-1");
    let own = folder.token("ann", &["m-1"]);
    let thief = client(&relay, &authority, "m-1", stolen["token"].as_str()).await;
    let ann = client(&relay, &authority, "m-1", Some(&own)).await;
    let open = async |client: &super::harness::Client| {
        let open = client.stream("HangOpen", tokio_stream::pending()).await;
        let mut open = open.unwrap().into_inner();
        assert_eq!(open.message().await.unwrap().unwrap(), "first");
        open
    };
    let mut converses = open(&thief).await;
    let mut unread = thief.many(10_000, 100_000, 0).await.unwrap();
    let waits = tokio::spawn({
        let thief = thief.clone();
        async move { thief.unary("Hang", Bytes::new()).await }
    });
    let mut stays = open(&ann).await;
    let hanging = || echo.seen.hanging.load(Ordering::SeqCst);
    until("all calls arrived", || hanging() == 3).await;

    folder.run(&["token", "revoke", stolen["claims"]["jti"].as_str().unwrap()]);
    until("the daemon let go of the thief's calls", || {
        hanging() == 1 && echo.seen.streaming.load(Ordering::SeqCst) == 0
    })
    .await;
    let ended = [
        end_of(&mut converses).await.unwrap(),
        end_of(&mut unread).await.unwrap(),
        waits.await.unwrap().unwrap_err(),
    ];
    for status in ended {
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        assert!(status.message().contains("revoked"), "{status:?}");
    }

    folder.run(&["token", "revoke-user", "ann"]);
    let ended = end_of(&mut stays).await.unwrap();
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
    until("the daemon let go of all", || hanging() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_does_not_outlast_its_token() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, echo) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let short = folder.short_token("cat", "m-1");
    let caller = client(&relay, &authority, "m-1", Some(&short)).await;
    let open = caller.stream("HangOpen", tokio_stream::pending()).await;
    let ended = end_of(&mut open.unwrap().into_inner()).await.unwrap();
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended:?}");
    assert!(ended.message().contains("expired"), "{ended:?}");
    until("the daemon let go", || {
        echo.seen.hanging.load(Ordering::SeqCst) == 0
    })
    .await;
}
