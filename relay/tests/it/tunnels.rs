//! Tunnels: several calls at once, slow readers, breaks, replacement, leaving.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use betcode_daemon::tunnel::TunnelState;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::Code;

use super::harness::{Client, Relay, RelayOptions, open, until};
use betcode_relay::tunnel::Keepalive;

async fn started() -> Relay {
    Relay::start(RelayOptions::default()).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_reads_holds_little_and_blocks_nobody() {
    let relay = started().await;
    let (_tunnel, echo) = relay.daemon("m-1").await;
    let sent = || echo.seen.sent_messages.load(Ordering::SeqCst);
    // Many calls through one tunnel, each by a client that never reads.
    let mut unread = Vec::new();
    for _ in 0..60 {
        let client = relay.client("m-1").await;
        unread.push((client.many(10_000, 10_000, 0).await.unwrap(), client));
    }
    let mut before = usize::MAX;
    while before != sent() {
        before = sent();
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // What the daemon could send stands in the windows between: not 100 MB each, but well below 1.
    let held = sent() * 10_000 / unread.len();
    assert!(
        held < 600_000,
        "{held} bytes held for each stream that nobody reads"
    );
    let client = relay.client("m-1").await;
    for _ in 0..100 {
        let called = Instant::now();
        client
            .unary("Unary", Bytes::from_static(b"x"))
            .await
            .unwrap();
        assert!(called.elapsed() < Duration::from_secs(1));
    }
    let mut beside = client.many(200, 100_000, 0).await.unwrap();
    let mut bytes = 0;
    while let Some(message) = beside.message().await.unwrap() {
        bytes += message.len();
    }
    assert_eq!(bytes, 200 * 100_000);
    // One of them begins to read, and gets everything.
    let (mut late, _client) = unread.pop().unwrap();
    let mut count = 0;
    while let Some(_message) = late.message().await.unwrap() {
        count += 1;
    }
    assert_eq!(count, 10_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_nobody_hears_is_held_back() {
    let relay = started().await;
    let (_tunnel, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let rate_limit_key = taken.clone();
    let messages = tokio_stream::iter((0..10_000).map(move |_| {
        rate_limit_key.fetch_add(1, Ordering::SeqCst);
        Bytes::from(vec![0; 10_000])
    }));
    let deaf = tokio::spawn({
        let client = client.clone();
        async move { client.stream("Deaf", messages).await.map(drop) }
    });
    let mut before = usize::MAX;
    while before != taken.load(Ordering::SeqCst) {
        before = taken.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(
        before * 10_000 < 1_000_000,
        "{before} messages taken from the sender"
    );
    client.unary("Unary", Bytes::new()).await.unwrap();
    deaf.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_calls_at_once_share_a_tunnel() {
    let relay = started().await;
    let (_tunnel, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let calls = (0..100_u64).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut many = client.many(50, 500 + number as usize, 100).await.unwrap();
            let mut count = 0;
            while let Some(message) = many.message().await.unwrap() {
                assert_eq!(message.len(), 500 + number as usize);
                count += 1;
            }
            count
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(call.await.unwrap(), 50);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_breaks_ends_its_calls_as_unavailable_and_comes_back() {
    let relay = started().await;
    let proxy = Proxy::start(relay.tunnels).await;
    let mut options = relay.tunnel_options("m-1");
    options.relay_address = proxy.address.to_string();
    let (tunnel, _) = relay.daemon_with(options).await;
    let client = relay.client("m-1").await;
    let mut streaming = client.many(1_000_000, 1_000, 1_000).await.unwrap();
    streaming.message().await.unwrap().unwrap();
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.unary("Hang", Bytes::new()).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    proxy.cut();
    let ended = loop {
        match streaming.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream that was cut looks complete"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    let ended = waiting.await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    let mut state = tunnel.state();
    let reopened = state.wait_for(|s| matches!(s, TunnelState::Open { .. }));
    reopened.await.unwrap();
    relay.until_known(&"m-1".parse().unwrap()).await;
    client.unary("Unary", Bytes::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_stops_answering_is_given_up() {
    let keepalive = Keepalive {
        interval: Duration::from_millis(200),
        timeout: Duration::from_millis(300),
    };
    let relay = Relay::start(RelayOptions {
        keepalive,
        ..RelayOptions::default()
    })
    .await;
    let proxy = Proxy::start(relay.tunnels).await;
    let mut options = relay.tunnel_options("m-1");
    options.relay_address = proxy.address.to_string();
    let (_tunnel, _) = relay.daemon_with(options).await;
    let client = relay.client("m-1").await;
    client.unary("Unary", Bytes::new()).await.unwrap();
    // Nothing passes any more, and nobody closes anything: half-open TCP.
    proxy.freeze();
    let called = Instant::now();
    let status = client.unary("Unary", Bytes::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(called.elapsed() < Duration::from_secs(3));
    until("the tunnel is given up", || relay.table.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_stops_reading_holds_little_and_harms_only_its_own_machine() {
    let keepalive = Keepalive {
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(2),
    };
    let relay = Relay::start(RelayOptions {
        keepalive,
        ..RelayOptions::default()
    })
    .await;
    let proxy = Proxy::start(relay.tunnels).await;
    let mut options = relay.tunnel_options("m-1");
    options.relay_address = proxy.address.to_string();
    let (_tunnel, _) = relay.daemon_with(options).await;
    let (_other, _) = relay.daemon("m-2").await;
    let client = relay.client("m-1").await;
    client.unary("Unary", Bytes::new()).await.unwrap();
    proxy.freeze();
    // One client sends without end to the machine that no longer reads.
    let taken = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let rate_limit_key = taken.clone();
    let messages = tokio_stream::iter((0..100_000).map(move |_| {
        rate_limit_key.fetch_add(1, Ordering::SeqCst);
        Bytes::from(vec![0; 10_000])
    }));
    let sending = tokio::spawn(async move { client.stream("Count", messages).await.map(drop) });
    let beside = relay.client("m-2").await;
    let mut answered = 0;
    while !sending.is_finished() {
        beside.unary("Unary", Bytes::new()).await.unwrap();
        answered += 1;
    }
    assert!(answered > 0);
    let ended = sending.await.unwrap().unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    // What was taken stands in the windows and in the sockets' buffers: not 1 GB.
    let taken = taken.load(Ordering::SeqCst);
    assert!(taken < 3_000, "{taken} messages of 10 KB were taken in");
    until("the tunnel is given up", || {
        relay.table.find(&"m-1".parse().unwrap()).is_none()
    })
    .await;
    beside.unary("Unary", Bytes::new()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_tunnel_wins_and_the_old_one_is_told() {
    let relay = started().await;
    let (old, old_echo) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let mut streaming = client.many(400, 100, 1_000).await.unwrap();
    streaming.message().await.unwrap().unwrap();
    let (_new, new_echo) = relay.daemon("m-1").await;
    let mut state = old.state();
    let told = state.wait_for(|s| matches!(s, TunnelState::Waiting { .. }));
    let told = tokio::time::timeout(Duration::from_secs(5), told).await;
    let told = told.unwrap().unwrap().clone();
    let TunnelState::Waiting { why, pause } = told else {
        panic!("{told:?}")
    };
    assert!(why.contains("newer"), "{why}");
    assert!(
        pause >= Duration::from_secs(30),
        "they would take it from each other"
    );
    let before = old_echo.seen.calls.load(Ordering::SeqCst);
    client.unary("Unary", Bytes::new()).await.unwrap();
    assert_eq!(new_echo.seen.calls.load(Ordering::SeqCst), 1);
    assert_eq!(old_echo.seen.calls.load(Ordering::SeqCst), before);
    // What was under way on the old one finishes there.
    let mut count = 1;
    while streaming.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_leaves_sends_its_daemons_on_and_finishes_their_calls() {
    let relay = started().await;
    let (tunnel, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let mut streaming = client.many(300, 100, 1_000).await.unwrap();
    streaming.message().await.unwrap().unwrap();
    let link = relay.table.find(&"m-1".parse().unwrap()).unwrap();
    let epoch = link.epoch();
    let left = tokio::spawn({
        let link = link.clone();
        async move {
            let why = betcode_schema_tunnel::metadata::GoAway::Drain;
            link.go_away(why, Duration::from_secs(10)).await;
        }
    });
    let mut state = tunnel.state();
    let again = state.wait_for(|s| matches!(s, TunnelState::Open { epoch: e, .. } if *e > epoch));
    tokio::time::timeout(Duration::from_secs(5), again)
        .await
        .unwrap()
        .unwrap();
    until("the new tunnel is in the table", || {
        relay
            .table
            .find(link.machine())
            .is_some_and(|new| new.epoch() > epoch)
    })
    .await;
    client.unary("Unary", Bytes::new()).await.unwrap();
    let mut count = 1;
    while streaming.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 300);
    left.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_stops_finishes_its_calls_and_is_gone_for_new_ones() {
    let relay = started().await;
    let (tunnel, _) = relay.daemon("m-1").await;
    let client = relay.client("m-1").await;
    let mut streaming = client.many(200, 100, 1_000).await.unwrap();
    streaming.message().await.unwrap().unwrap();
    let stopping = tokio::spawn(tunnel.stop(Duration::from_secs(10)));
    until("the machine is gone", || relay.table.is_empty()).await;
    let status = client.unary("Unary", Bytes::new()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let mut count = 1;
    while streaming.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 200);
    stopping.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_opens_and_cancels_without_end_harms_only_itself() {
    let relay = started().await;
    let (_tunnel, echo) = relay.daemon("m-1").await;
    let neighbour = relay.client("m-1").await;
    let flood = tokio::spawn({
        let address = relay.clients;
        async move {
            for _ in 0..20 {
                let client = Client::connect(address, Some("m-1")).await;
                for _ in 0..100 {
                    let call = client.unary("Hang", Bytes::new());
                    let _ = tokio::time::timeout(Duration::from_micros(300), call).await;
                }
            }
        }
    });
    let mut answered = 0;
    while !flood.is_finished() {
        neighbour.unary("Unary", Bytes::new()).await.unwrap();
        answered += 1;
    }
    assert!(answered > 10);
    until("every call was let go", || {
        echo.seen.hanging.load(Ordering::SeqCst) == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_tunnel_is_turned_away() {
    let relay = started().await;
    for port in [relay.tunnels, relay.clients] {
        let mut stream = TcpStream::connect(port).await.unwrap();
        let http1 = b"GET / HTTP/1.1\r\nhost: example.org\r\n\r\n";
        stream.write_all(http1).await.unwrap();
        let mut rest = Vec::new();
        let closed = stream.read_to_end(&mut rest);
        let closed = tokio::time::timeout(Duration::from_secs(5), closed).await;
        assert!(closed.is_ok(), "closed, with or without an error");
    }
    let (tunnel, _) = relay.daemon("m-1").await;
    open(&tunnel).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_relay_refuses_new_machines_and_takes_known_ones() {
    let relay = Relay::start(RelayOptions {
        tunnels_max: 1,
        ..RelayOptions::default()
    })
    .await;
    let (_first, _) = relay.daemon("m-1").await;
    let refused = betcode_daemon::tunnel::Tunnel::hold(
        relay.tunnel_options("m-2"),
        tonic::service::Routes::default(),
    );
    let mut state = refused.state();
    let told = state
        .wait_for(|s| matches!(s, TunnelState::Waiting { .. }))
        .await;
    let TunnelState::Waiting { why, .. } = told.unwrap().clone() else {
        panic!()
    };
    assert!(why.contains("Full"), "{why}");
    relay.daemon("m-1").await;
}

/// Stands between daemon and relay, and breaks when it is told to.
struct Proxy {
    address: std::net::SocketAddr,
    state: tokio::sync::watch::Sender<Passing>,
}

#[derive(Clone, Copy, PartialEq)]
enum Passing {
    /// Everything; the number counts the cuts so far.
    All(u32),
    /// Nothing, while all connections stay open.
    Nothing,
}

impl Proxy {
    async fn start(to: std::net::SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (state, seen) = tokio::sync::watch::channel(Passing::All(0));
        tokio::spawn(async move {
            while let Ok((mut from, _)) = listener.accept().await {
                let mut seen = seen.clone();
                tokio::spawn(async move {
                    let mut onward = TcpStream::connect(to).await.unwrap();
                    seen.mark_unchanged();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut from, &mut onward) => {}
                        _ = seen.changed() => {}
                    }
                    if *seen.borrow() == Passing::Nothing {
                        std::future::pending::<()>().await;
                    }
                });
            }
        });
        Self { address, state }
    }

    fn cut(&self) {
        self.state.send_replace(Passing::All(1));
    }

    fn freeze(&self) {
        self.state.send_replace(Passing::Nothing);
    }
}
