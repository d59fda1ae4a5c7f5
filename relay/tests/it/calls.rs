//! What passes through, and how it ends.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

use super::harness::{Relay, RelayOptions, until};

async fn started() -> Relay {
    Relay::start(RelayOptions::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unary_call_of_an_unknown_service_passes_with_its_metadata() {
    let relay = started().await;
    let (_tunnel, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let mut request = Request::new(Bytes::from_static(b"\x00\xff opaque"));
    request
        .metadata_mut()
        .insert("x-echo", "there and back".parse().unwrap());
    let binary = tonic::metadata::MetadataValue::from_bytes(&[0, 1, 255]);
    request
        .metadata_mut()
        .insert_bin("x-echo-bin", binary.clone());
    let response = client.unary("Unary", request).await.unwrap();
    assert_eq!(response.get_ref().as_ref(), b"\x00\xff opaque");
    assert_eq!(response.metadata().get("x-echo").unwrap(), "there and back");
    assert_eq!(response.metadata().get_bin("x-echo-bin").unwrap(), &binary);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_kinds_of_streams_pass() {
    let relay = started().await;
    let (_tunnel, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;

    let mut many = client.many(500, 3_000, 0).await.unwrap();
    for index in 0..500_u64 {
        let message = many.message().await.unwrap().unwrap();
        assert_eq!(
            (message.len(), &message[..8]),
            (3_000, &index.to_be_bytes()[..])
        );
    }
    assert!(many.message().await.unwrap().is_none());

    let messages = tokio_stream::iter((0..100).map(|_| Bytes::from(vec![1; 10_000])));
    let mut rate_limit_key = client.stream("Count", messages).await.unwrap().into_inner();
    assert_eq!(
        rate_limit_key.message().await.unwrap().unwrap(),
        "100 1000000"
    );

    let (send, receive) = tokio::sync::mpsc::channel(1);
    let chat = client.stream("Chat", ReceiverStream::new(receive)).await;
    let mut chat = chat.unwrap().into_inner();
    for word in ["a", "", "bye"] {
        send.send(Bytes::from(word)).await.unwrap();
        assert_eq!(chat.message().await.unwrap().unwrap(), word);
    }
    // The daemon ended the call while the client could still have spoken.
    assert!(chat.message().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_passes_with_its_text_details_and_trailers() {
    let relay = started().await;
    let (_tunnel, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let status = client.unary("Fail", Bytes::new()).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::DataLoss, "naïve — 100 %")
    );
    assert_eq!(status.details(), b"\x08\x07details");
    assert_eq!(status.metadata().get("x-why").unwrap(), "because");
    let status = client.unary("Nonsense", Bytes::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_relay_may_say_is_not_taken_from_a_client() {
    let relay = started().await;
    let (_tunnel, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let mut request = Request::new(Bytes::new());
    for (name, value) in [
        ("x-betcode-user", "root"),
        ("x-betcode-connection", "forged"),
        ("x-betcode-relay", "evil"),
        ("x-betcode-buffered-at-ms", "1"),
        ("authorization", "Bearer secret"),
        ("x-kept", "yes"),
    ] {
        request.metadata_mut().insert(name, value.parse().unwrap());
    }
    let seen = client
        .unary("Metadata", request)
        .await
        .unwrap()
        .into_inner();
    let seen = String::from_utf8(seen.to_vec()).unwrap();
    assert!(seen.contains("x-kept: yes") && seen.contains("x-betcode-relay: relay-test"));
    for absent in ["root", "forged", "evil", "buffered-at", "secret"] {
        assert!(!seen.contains(absent), "{absent} in {seen}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_without_a_tunnel_is_unavailable_and_a_bad_name_invalid() {
    let relay = started().await;
    let status = relay
        .client("away")
        .await
        .unary("Unary", Bytes::new())
        .await;
    assert_eq!(status.unwrap_err().code(), Code::Unavailable);
    let status = relay
        .client("../etc")
        .await
        .unary("Unary", Bytes::new())
        .await;
    assert_eq!(status.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_call_is_cancelled_at_the_daemon() {
    let relay = started().await;
    let (_tunnel, echo) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let hanging = || echo.seen.hanging.load(Ordering::SeqCst);

    let call = tokio::spawn({
        let client = client.clone();
        async move { client.unary("Hang", Bytes::new()).await }
    });
    until("the call arrived", || hanging() == 1).await;
    call.abort();
    until("the call was cancelled before its answer", || {
        hanging() == 0
    })
    .await;

    let (send, receive) = tokio::sync::mpsc::channel(1);
    let open = client
        .stream("HangOpen", ReceiverStream::new(receive))
        .await;
    let mut open = open.unwrap().into_inner();
    assert_eq!(open.message().await.unwrap().unwrap(), "first");
    assert_eq!(hanging(), 1);
    // A client that is gone lets go of both directions.
    drop((open, send));
    until("the call was cancelled after its answer began", || {
        hanging() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_a_call_on_both_sides() {
    let relay = started().await;
    let (_tunnel, echo) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    for method in ["Hang", "HangOpen"] {
        let mut request = Request::new(Bytes::new());
        request
            .metadata_mut()
            .insert("grpc-timeout", "200m".parse().unwrap());
        let called = std::time::Instant::now();
        let status = client.unary(method, request).await.unwrap_err();
        // tonic's own server answers CANCELLED for a call it timed out; gRPC has one code more.
        assert!(
            matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
            "{status:?}"
        );
        assert!(called.elapsed() < Duration::from_secs(2));
        let hanging = || echo.seen.hanging.load(Ordering::SeqCst);
        until("the daemon let go", || hanging() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn big_messages_pass_up_to_the_bound_and_not_one_byte_over() {
    let relay = Relay::start(RelayOptions {
        message_bytes_max: 5_000_000,
        ..RelayOptions::default()
    })
    .await;
    let (_tunnel, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let fits = Bytes::from(vec![7; 5_000_000]);
    let back = client.unary("Unary", fits.clone()).await.unwrap();
    assert_eq!(back.into_inner(), fits);
    let over = Bytes::from(vec![7; 5_000_001]);
    let status = client.unary("Unary", over).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    assert!(status.message().contains("message_bytes_max"), "{status:?}");
    client.unary("Unary", Bytes::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_has_a_trace_at_the_daemon_whether_its_caller_sent_one_or_not() {
    let relay = Relay::start(RelayOptions::default()).await;
    let (_tunnel, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for said in [Some(parent), Some("nonsense"), None] {
        let mut request = Request::new(Bytes::new());
        if let Some(said) = said {
            let sent = request.metadata_mut();
            sent.insert("traceparent", said.parse().unwrap());
        }
        let answer = client.unary("Metadata", request).await.unwrap();
        let lines = String::from_utf8_lossy(answer.get_ref()).into_owned();
        let arrived = lines
            .lines()
            .find_map(|line| line.strip_prefix("traceparent: "));
        let arrived = arrived.unwrap();
        match said {
            Some(said) if said == parent => assert_eq!(arrived, parent),
            _ => assert_eq!(arrived.len(), parent.len(), "{arrived}"),
        }
    }
}
