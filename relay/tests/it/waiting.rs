//! Requests that wait for a daemon that is away.

use std::sync::Arc;

use betcode_relay::buffer::{
    Buffer, BufferOptions, EmbeddedBuffer, KeyState, PendingRequest, TokenRef,
};
use betcode_storage::ManualClock;
use bytes::Bytes;
use tonic::{Code, Request, Status};

use super::harness::{Client, Relay, RelayOptions, until};
use super::wire::{Wire, message};

pub(crate) fn request(key: &str, priority: Option<&str>, body: &[u8]) -> Request<Bytes> {
    let mut request = Request::new(Bytes::copy_from_slice(body));
    let metadata = request.metadata_mut();
    metadata.insert("x-betcode-may-wait", "true".parse().unwrap());
    metadata.insert("x-betcode-idempotency-key", key.parse().unwrap());
    metadata.insert("x-echo", "kept".parse().unwrap());
    if let Some(priority) = priority {
        metadata.insert("x-betcode-priority", priority.parse().unwrap());
    }
    request
}

pub(crate) fn is_buffered(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.metadata().contains_key("x-betcode-buffered")
}

async fn keep(client: &Client, key: &str, priority: Option<&str>, body: &[u8]) {
    let told = client.unary("Record", request(key, priority, body)).await;
    let told = told.unwrap_err();
    assert!(is_buffered(&told), "{told:?}");
    assert!(told.message().contains("not stored"), "{told:?}");
}

/// A request of the buffer, with a message and its prefix.
fn waiting(key: &str, body: &'static [u8]) -> PendingRequest {
    PendingRequest {
        machine: "m-1".parse().unwrap(),
        key: key.into(),
        priority: 5,
        user: String::new(),
        token: None,
        path: "/test.Echo/Record".into(),
        metadata: vec![("content-type".into(), "application/grpc".into())],
        body: Bytes::from_static(body),
    }
}

async fn started(buffer: BufferOptions) -> Relay {
    Relay::start(RelayOptions {
        buffer,
        ..RelayOptions::default()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_is_delivered_once_by_priority_then_order() {
    let relay = started(BufferOptions::default()).await;
    let client = relay.client("m-1").await;
    for (key, priority, body) in [
        ("a", None, "first of 5"),
        ("b", Some("9"), "first of 9"),
        ("c", Some("0"), "first of 0"),
        ("d", None, "second of 5"),
        ("e", Some("0"), "second of 0"),
    ] {
        keep(&client, key, priority, body.as_bytes()).await;
    }
    // A repeat changes nothing; another request of the same key is refused.
    keep(&client, "a", None, b"first of 5").await;
    let refused = client.unary("Record", request("a", None, b"other")).await;
    assert_eq!(refused.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(relay.buffer.counts().requests, 5);

    let (_tunnel, echo) = relay.daemon("m-1").await;
    until("all is delivered", || relay.buffer.counts().requests == 0).await;
    let bodies: Vec<_> = echo.recorded().into_iter().map(|r| r.body).collect();
    let expected = [
        "first of 0",
        "second of 0",
        "first of 5",
        "second of 5",
        "first of 9",
    ];
    assert_eq!(bodies, expected);
    for record in echo.recorded() {
        assert_eq!(record.metadata.get("x-echo").unwrap(), "kept");
        assert!(record.metadata.contains_key("x-betcode-buffered-at-ms"));
        assert!(record.metadata.contains_key("x-betcode-idempotency-key"));
    }
    // A repeat after delivery is known, and not delivered again.
    let told = client
        .unary("Record", request("a", None, b"first of 5"))
        .await;
    let told = told.unwrap_err();
    assert_eq!(told.code(), Code::AlreadyExists);
    assert_eq!(
        told.metadata().get("x-betcode-delivered-code").unwrap(),
        "0"
    );
    // And with the daemon there, a new one goes straight through.
    client
        .unary("Record", request("new", None, b"live"))
        .await
        .unwrap();
    assert_eq!(echo.recorded().len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_reject_and_nothing_that_waits_gives_way() {
    let relay = started(BufferOptions {
        requests_per_machine_max: 3,
        requests_max: 5,
        ..BufferOptions::default()
    })
    .await;
    let (a, b) = (relay.client("m-a").await, relay.client("m-b").await);
    for key in ["1", "2", "3"] {
        keep(&a, key, None, key.as_bytes()).await;
    }
    let refused = a
        .unary("Record", request("4", Some("0"), b"4"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(
        !is_buffered(&refused) && refused.message().contains('3'),
        "{refused:?}"
    );
    keep(&b, "1", None, b"1").await;
    let big = vec![0; 1_000_000];
    let refused = b
        .unary("Record", request("big", None, &big))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    keep(&b, "2", None, b"2").await;
    let refused = b
        .unary("Record", request("3", None, b"3"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(relay.buffer.counts().requests, 5);
    let (_tunnel, echo) = relay.daemon("m-a").await;
    until("all is delivered", || relay.buffer.counts().requests == 2).await;
    assert_eq!(echo.recorded().len(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_ends_with_its_head_whether_or_not_the_call_may_wait() {
    let relay = started(BufferOptions::default()).await;
    let (_tunnel, _echo) = relay.daemon("m-1").await;
    let wire = Wire::connect(relay.clients).await;
    let may_wait = [
        ("x-betcode-may-wait", "true"),
        ("x-betcode-idempotency-key", "k"),
    ];
    for metadata in [&[][..], &may_wait[..]] {
        let mut call = wire.call("m-1", "Nonsense", metadata).await;
        call.say_last(message(b""));
        let (head, body, _request) = call.head().await;
        assert!(head.contains_key("grpc-status"), "{head:?}");
        assert!(body.is_end_stream(), "{metadata:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_says_so_correctly_may_wait() {
    let relay = started(BufferOptions::default()).await;
    let client = relay.client("m-1").await;
    let plain = client.unary("Record", Bytes::new()).await.unwrap_err();
    assert!(plain.code() == Code::Unavailable && !is_buffered(&plain));
    for (name, value) in [
        ("x-betcode-may-wait", "maybe"),
        ("x-betcode-idempotency-key", ""),
        ("x-betcode-priority", "10"),
        ("x-betcode-priority", "high"),
    ] {
        let mut bad = request("k", None, b"");
        bad.metadata_mut().insert(name, value.parse().unwrap());
        let refused = client.unary("Record", bad).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{name}: {value}");
    }
    assert_eq!(relay.buffer.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waited_too_long_is_settled_as_such_and_not_delivered() {
    let clock = Arc::new(ManualClock::at(1_000_000_000_000));
    let relay = started(BufferOptions {
        age_ms_max: 1_000,
        clock: clock.clone(),
        ..BufferOptions::default()
    })
    .await;
    let client = relay.client("m-1").await;
    keep(&client, "old", None, b"old").await;
    clock.advance(900);
    keep(&client, "young", None, b"young").await;
    clock.advance(200);
    assert_eq!(relay.buffer.expire().await.unwrap(), 1);
    let (_tunnel, echo) = relay.daemon("m-1").await;
    until("all is delivered", || relay.buffer.counts().requests == 0).await;
    assert_eq!(echo.recorded().len(), 1);
    let told = client
        .unary("Record", request("old", None, b"old"))
        .await
        .unwrap_err();
    let code = (Code::DeadlineExceeded as i32).to_string();
    let delivered = told.metadata().get("x-betcode-delivered-code").unwrap();
    assert_eq!(delivered.to_str().unwrap(), code);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_stays_until_its_daemon_has_answered_and_counts_once() {
    let relay = started(BufferOptions::default()).await;
    let client = relay.client("m-1").await;
    keep(&client, "a", None, b"a").await;
    keep(&client, "b", None, b"b").await;
    let echo = super::echo::Echo::default();
    // Two answers that mean later, then a slow one whose tunnel is cut before it comes.
    echo.refuse_next(2);
    echo.slow_next(1);
    let options = relay.tunnel_options("m-1");
    let routes = tonic::service::Routes::new(echo.clone()).prepare();
    let _tunnel = betcode_daemon::tunnel::Tunnel::hold(options, routes);
    until("the first is under way", || echo.slow() == 1).await;
    relay.table.find(&"m-1".parse().unwrap()).unwrap().cut();
    until("all is delivered", || relay.buffer.counts().requests == 0).await;
    let bodies: Vec<_> = echo.recorded().into_iter().map(|r| r.body).collect();
    assert_eq!(bodies, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_request_that_is_repeated_counts_once_and_says_so() {
    let relay = started(BufferOptions::default()).await;
    let (_tunnel, echo) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let first = client
        .unary("Record", request("k", None, b"once"))
        .await
        .unwrap();
    assert_eq!(first.into_inner(), "recorded");
    let repeat = client
        .unary("Record", request("k", None, b"once"))
        .await
        .unwrap_err();
    assert_eq!(repeat.code(), Code::AlreadyExists);
    assert_eq!(
        repeat.metadata().get("x-betcode-delivered-code").unwrap(),
        "0"
    );
    assert_eq!(echo.recorded().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_had_to_come_later_several_times_is_not_given_up_at_its_first_failure() {
    let relay = started(BufferOptions::default()).await;
    let client = relay.client("m-1").await;
    keep(&client, "a", None, b"a").await;
    let echo = super::echo::Echo::default();
    echo.refuse_next(4);
    echo.fail_next(1);
    let routes = tonic::service::Routes::new(echo.clone()).prepare();
    let _tunnel = betcode_daemon::tunnel::Tunnel::hold(relay.tunnel_options("m-1"), routes);
    until("it is delivered", || relay.buffer.counts().requests == 0).await;
    let bodies: Vec<_> = echo.recorded().into_iter().map(|r| r.body).collect();
    assert_eq!(bodies, ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_request_of_a_key_is_never_taken_for_a_repeat() {
    let relay = started(BufferOptions::default()).await;
    let (_tunnel, echo) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let first = client.unary("Record", request("k", None, b"one")).await;
    assert_eq!(first.unwrap().into_inner(), "recorded");
    let other = client.unary("Record", request("k", None, b"two")).await;
    let other = other.unwrap_err();
    assert_eq!(other.code(), Code::AlreadyExists);
    let told = other.metadata().get("x-betcode-delivered-code");
    assert!(told.is_none(), "nothing of it was delivered: {other:?}");
    // The relay knows nothing of the first one. What waits already makes the next one wait as well.
    let before = waiting("before", b"\0\0\0\0\x01b");
    relay.buffer.put(before).await.unwrap();
    keep(&client, "k", None, b"three").await;
    until("all is delivered", || relay.buffer.counts().requests == 0).await;
    let bodies: Vec<_> = echo.recorded().into_iter().map(|r| r.body).collect();
    assert_eq!(bodies, ["one", "b"]);
    let told = client.unary("Record", request("k", None, b"three")).await;
    let code = (Code::AlreadyExists as i32).to_string();
    let told = told.unwrap_err();
    let delivered = told.metadata().get("x-betcode-delivered-code").unwrap();
    assert_eq!(
        delivered.to_str().unwrap(),
        code,
        "it was refused, not done"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_goes_through_the_newest_tunnel_while_the_old_one_still_has_calls() {
    let relay = Relay::start(RelayOptions {
        go_away_grace: std::time::Duration::from_secs(60),
        ..RelayOptions::default()
    })
    .await;
    let machine = "m-1".parse().unwrap();
    let (_old, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let open = client.stream("HangOpen", tokio_stream::pending()).await;
    let mut open = open.unwrap().into_inner();
    assert_eq!(open.message().await.unwrap().unwrap(), "first");
    let epoch = relay.table.find(&machine).unwrap().epoch();
    let (_new, echo) = relay.daemon("m-1").await;
    let newest = || {
        relay
            .table
            .find(&machine)
            .filter(|tunnel| tunnel.epoch() > epoch)
    };
    until("the new tunnel is in the table", || newest().is_some()).await;
    relay
        .buffer
        .put(waiting("k", b"\0\0\0\0\x01b"))
        .await
        .unwrap();
    newest().unwrap().notify_waiting();
    until("it is delivered", || relay.buffer.counts().requests == 0).await;
    assert_eq!(echo.recorded().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_is_not_delivered_when_its_token_or_its_user_was_revoked_meanwhile() {
    let clock = Arc::new(ManualClock::at(1_000_000));
    let relay = started(BufferOptions {
        clock: clock.clone(),
        ..BufferOptions::default()
    })
    .await;
    let machine = "m-1".parse().unwrap();
    // Users, tokens with their seconds, and what becomes of the request. One without a token is of an
    // earlier build, buffered at second 1,000.
    let requests = [
        ("ann", Some(("revoked", 900)), Code::Unauthenticated),
        ("ann", Some(("good", 900)), Code::Ok),
        ("ann", None, Code::Ok),
        ("bob", Some(("good", 999)), Code::Unauthenticated),
        ("bob", Some(("good", 1_001)), Code::Ok),
        ("bob", None, Code::Unauthenticated),
        ("cat", None, Code::Ok),
    ];
    for (at, (user, token, _)) in requests.iter().enumerate() {
        let token = token.map(|(id, issued_s)| TokenRef {
            id: id.to_owned(),
            issued_s,
        });
        let put = PendingRequest {
            user: (*user).to_owned(),
            token,
            ..waiting(&at.to_string(), b"\0\0\0\0\x01b")
        };
        relay.buffer.put(put).await.unwrap();
    }
    {
        let mut revoked = relay.revoked.write().unwrap();
        revoked.tokens.insert("revoked".into(), u64::MAX);
        revoked.users.insert("bob".into(), 1_000);
        // Before the request of an earlier build was let in.
        revoked.users.insert("cat".into(), 999);
    }
    let (_tunnel, echo) = relay.daemon("m-1").await;
    until("all is settled", || relay.buffer.counts().requests == 0).await;
    for (at, (_, _, code)) in requests.iter().enumerate() {
        let known = relay.buffer.key_state(&machine, &at.to_string());
        assert_eq!(known, Some(KeyState::Settled(*code)), "{at}");
    }
    assert_eq!(echo.recorded().len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_over_the_bound_of_the_relay_does_not_wait() {
    let relay = Relay::start(RelayOptions {
        message_bytes_max: 1_000,
        ..RelayOptions::default()
    })
    .await;
    let client = relay.client("m-1").await;
    let refused = client
        .unary("Record", request("k", None, &[7; 1_001]))
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    assert!(
        refused.message().contains("message_bytes_max"),
        "{refused:?}"
    );
    keep(&client, "k", None, &[7; 1_000]).await;
}

const DAY_MS: i64 = 24 * 3600 * 1000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumps_years_ahead_discards_nothing_that_waits_and_forgets_no_outcome() {
    let clock = Arc::new(ManualClock::at(1_000));
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let options = BufferOptions {
            clock: clock.clone(),
            ..BufferOptions::default()
        };
        EmbeddedBuffer::open(&folder.path().join("buffer.db"), options).unwrap()
    };
    let machine = "m-1".parse().unwrap();
    let waits = |buffer: &EmbeddedBuffer| {
        assert_eq!(buffer.counts().requests, 1);
        let known = buffer.key_state(&machine, "done");
        assert_eq!(known, Some(KeyState::Settled(Code::Ok)));
    };
    let buffer = open();
    buffer.put(waiting("done", b"\0\0\0\0\x01b")).await.unwrap();
    let kept = buffer.take_first(&machine).await.unwrap().unwrap();
    buffer.settle(&kept.ticket, Code::Ok).await.unwrap();
    buffer
        .put(waiting("waits", b"\0\0\0\0\x01b"))
        .await
        .unwrap();
    assert_eq!(buffer.expire().await, Ok(0));
    clock.advance(20_000 * DAY_MS);
    assert_eq!(buffer.expire().await, Ok(0));
    waits(&buffer);
    drop(buffer);
    let log = folder.path().join("buffer.db-wal");
    until("the file is closed", || !log.exists()).await;
    // A relay that starts cannot tell a clock that has jumped from a long time.
    clock.advance(10 * DAY_MS);
    let buffer = open();
    assert_eq!(buffer.expire().await, Ok(0));
    waits(&buffer);
    // Time that passes counts as ever, an hour at a time.
    for _ in 0..7 {
        clock.advance(DAY_MS / 24);
        buffer.expire().await.unwrap();
    }
    assert_eq!(buffer.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_not_too_old_while_it_is_being_delivered() {
    let clock = Arc::new(ManualClock::at(1_000_000_000_000));
    let relay = started(BufferOptions {
        age_ms_max: 1_000,
        clock: clock.clone(),
        ..BufferOptions::default()
    })
    .await;
    let client = relay.client("m-1").await;
    keep(&client, "a", None, b"a").await;
    let echo = super::echo::Echo::default();
    echo.slow_next(1);
    let routes = tonic::service::Routes::new(echo.clone()).prepare();
    let _tunnel = betcode_daemon::tunnel::Tunnel::hold(relay.tunnel_options("m-1"), routes);
    until("it is under way", || echo.slow() == 1).await;
    clock.advance(2_000);
    assert_eq!(relay.buffer.expire().await, Ok(0));
    until("it is settled", || relay.buffer.counts().requests == 0).await;
    let known = relay.buffer.key_state(&"m-1".parse().unwrap(), "a");
    assert_eq!(known, Some(KeyState::Settled(Code::Ok)));
}
