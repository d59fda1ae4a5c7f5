//! What operators need: health, metrics, settings, stopping without loss, silence about contents.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tonic::Code;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::harness::until;
use super::program::{Folder, NAME, Running, client, daemon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_is_told_to_stop_says_so_and_finishes_what_is_under_way() {
    let folder = Folder::init();
    let mut relay = Running::start(&folder, (0, 0), &[]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1"]);
    let caller = client(&relay, &authority, "m-1", Some(&token)).await;

    let trusted = Certificate::from_pem(std::fs::read(&authority).unwrap());
    let tls = ClientTlsConfig::new()
        .ca_certificate(trusted)
        .domain_name(NAME);
    let endpoint = Endpoint::from_shared(format!("https://{}", relay.clients)).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let mut health = HealthClient::new(channel);
    let whole = HealthCheckRequest::default();
    let mut watched = health.watch(whole).await.unwrap().into_inner();
    let first = watched.message().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);

    let mut streaming = caller.many(500, 100, 1_000).await.unwrap();
    streaming.message().await.unwrap().unwrap();
    let told = Instant::now();
    relay.signal("TERM");
    let next = watched.message().await.unwrap().unwrap();
    assert_eq!(next.status(), ServingStatus::NotServing);
    assert!(watched.message().await.unwrap().is_none(), "it ends");
    drop(health);
    let mut count = 1;
    while streaming.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 500, "what was under way is whole");
    drop(caller);
    let ended = tokio::task::spawn_blocking(move || relay.wait())
        .await
        .unwrap();
    assert!(ended.success());
    assert!(
        told.elapsed() < Duration::from_secs(10),
        "{:?}",
        told.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_does_not_end_before_the_relay_stops_is_told_so() {
    let folder = Folder::init();
    let mut command = folder.command();
    command
        .arg("serve")
        .env("BETCODE_RELAY_DRAIN_MS_MAX", "2000")
        .env("BETCODE_RELAY_LOG_FILTER", "error");
    let mut relay = Running::spawn(command, (0, 0));
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1"]);
    let caller = client(&relay, &authority, "m-1", Some(&token)).await;
    let open = caller.stream("HangOpen", tokio_stream::pending()).await;
    let mut open = open.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    relay.signal("TERM");
    let ended = open.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    assert!(ended.message().contains("is stopping"), "{ended:?}");
    let ended = tokio::task::spawn_blocking(move || relay.wait()).await;
    assert!(ended.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_count_and_say_nothing_of_contents() {
    let folder = Folder::init();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let listen = format!("127.0.0.1:{port}");
    let relay = Running::start(&folder, (0, 0), &["--metrics-listen", &listen]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let token = folder.token("zoe", &["m-1"]);
    let caller = client(&relay, &authority, "m-1", Some(&token)).await;
    caller
        .unary("Unary", Bytes::from_static(b"secret"))
        .await
        .unwrap();
    caller.unary("Nonsense", Bytes::new()).await.unwrap_err();
    let mut text = String::new();
    until("the metrics show the tunnel and both calls", || {
        let mut stream = std::net::TcpStream::connect(&listen).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        text.clear();
        stream.read_to_string(&mut text).unwrap();
        text.contains("betcode_relay_tunnels 1\n")
            && text.contains("betcode_relay_calls_total{code=\"0\"} 2\n")
    })
    .await;
    assert!(text.starts_with("HTTP/1.1 200 OK"));
    assert!(text.contains("betcode_relay_level{metric=\"tunnels\"} 0"));
    assert!(text.contains("betcode_relay_routing_seconds_count 2\n"));
    for private in ["secret", "zoe", "m-1", &token] {
        assert!(!text.contains(private), "{private} in the metrics");
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_hold_no_contents_and_no_tokens() {
    let folder = Folder::init();
    let log = folder.file("relay.log");
    let relay = Running::logging_to(&folder, &log, "debug");
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1", "away"]);
    let caller = client(&relay, &authority, "m-1", Some(&token)).await;
    let mut traced = tonic::Request::new(Bytes::from_static(b"very-secret"));
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let sent = traced.metadata_mut();
    sent.insert("traceparent", parent.parse().unwrap());
    caller.unary("Unary", traced).await.unwrap();
    let away = client(&relay, &authority, "away", Some(&token)).await;
    let asked = super::waiting::request("key-1", None, b"very-secret");
    away.unary("Record", asked).await.unwrap_err();
    away.unary("Record", Bytes::from_static(b"very-secret"))
        .await
        .unwrap_err();
    drop(relay);
    let logged = std::fs::read_to_string(log).unwrap();
    assert!(logged.contains("tunnel open"), "{logged}");
    assert!(logged.contains(TRACE), "{logged}");
    let signature = token.rsplit('.').next().unwrap();
    for private in ["very-secret", signature] {
        assert!(!logged.contains(private), "{private} in the log");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_short_of_files_says_so_and_lets_in_only_as_many_as_there_are_files_for() {
    let folder = Folder::init();
    let log = folder.file("relay.log");
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "ulimit -n 300; exec \"$@\"", "sh"])
        .arg(env!("CARGO_BIN_EXE_betcode-relay"))
        .arg("--state-folder")
        .arg(folder.path.path())
        .arg("serve")
        .env("BETCODE_RELAY_TUNNELS_MAX", "10")
        // An address of its own may have a part of the slots only.
        .env("BETCODE_RELAY_TRUSTED_PROXIES", r#"["127.0.0.1"]"#)
        .stderr(std::fs::File::create(&log).unwrap());
    let relay = Running::spawn(command, (0, 0));
    let told = std::fs::read_to_string(&log).unwrap();
    assert!(
        told.contains("300 files") && told.contains("LimitNOFILE"),
        "{told}"
    );
    // 300, less those besides and the ten of tunnels.
    let room = 300 - betcode_relay::limits::FILES_RESERVED - 10;
    let connect = |_| {
        let stream = std::net::TcpStream::connect(relay.clients).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let connected: Vec<_> = (0..60).map(connect).collect();
    let is_closed = |stream: &&std::net::TcpStream| {
        let waits = std::io::ErrorKind::WouldBlock;
        !stream
            .peek(&mut [0; 1])
            .is_err_and(|error| error.kind() == waits)
    };
    until("those over the room are closed, and no others", || {
        connected.iter().filter(is_closed).count() == 60 - room
    })
    .await;
    // Its own work has files left.
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_service_manager_is_told_of_readiness_life_and_the_end() {
    let folder = Folder::init();
    let path = folder.file("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    let wait = Some(Duration::from_secs(20));
    socket.set_read_timeout(wait).unwrap();
    let told = |word: &str| {
        let mut bytes = [0; 4096];
        loop {
            let length = socket.recv(&mut bytes).expect(word);
            if String::from_utf8_lossy(&bytes[..length]).contains(word) {
                return;
            }
        }
    };
    let mut command = folder.command();
    command
        .arg("serve")
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .env("BETCODE_RELAY_LOG_FILTER", "error");
    let mut relay = Running::spawn(command, (0, 0));
    for word in ["READY=1", "WATCHDOG=1", "WATCHDOG=1"] {
        told(word);
    }
    relay.signal("HUP");
    for word in ["RELOADING=1", "READY=1", "WATCHDOG=1"] {
        told(word);
    }
    relay.signal("TERM");
    told("STOPPING=1");
    assert!(relay.wait().success());
}

#[test]
fn the_plan_and_the_settings_are_printed() {
    let folder = Folder::init();
    let plan = folder.run(&[
        "plan",
        "--tunnels",
        "5000",
        "--clients",
        "20000",
        "--buffered",
        "10000",
        "--json",
    ]);
    let plan: serde_json::Value = serde_json::from_str(&plan).unwrap();
    assert_eq!(plan["memory"]["total_bytes"], 850_000_000);
    assert_eq!(plan["relays"]["relays"], 1);
    let text = folder.run(&[
        "plan",
        "--tunnels",
        "25000",
        "--clients",
        "80000",
        "--rps",
        "150000",
    ]);
    assert!(text.contains("relays  3"), "{text}");
    let too_large = folder.try_run(&["plan", "--tunnels", "18446744073709551615"]);
    assert_eq!(too_large.status.code(), Some(2), "{too_large:?}");
    let settings: serde_json::Value = serde_json::from_str(&folder.run(&["config"])).unwrap();
    assert_eq!(settings["tunnels_max"], 10_000);
    let refused = folder.try_run(&[
        "config",
        "--client-plaintext",
        "--client-listen",
        "0.0.0.0:1",
    ]);
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not loopback"));
}
