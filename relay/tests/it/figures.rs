//! Figures beside what the capacity plan and the issue ask for. Ignored by default: they take a
//! minute or more and want the machine for themselves.

use std::time::{Duration, Instant};

use betcode_daemon::tunnel::TunnelOptions;
use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};

use super::echo::Echo;
use super::harness::Client;
use super::program::{Folder, NAME, Running, client, daemon, echo_routes};

/// A gRPC server without a relay.
async fn direct() -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder()
        .add_routes(echo_routes(&Echo::default()))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    Client::over(endpoint.connect().await.unwrap(), None)
}

/// The same with TLS, by the relay's own certificate.
async fn direct_tls(folder: &Folder) -> Client {
    let identity = Identity::from_pem(
        std::fs::read(folder.file("server.pem")).unwrap(),
        std::fs::read(folder.file("server.key")).unwrap(),
    );
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let incoming = tonic::transport::server::TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = tonic::transport::Server::builder()
        .tls_config(ServerTlsConfig::new().identity(identity))
        .unwrap()
        .add_routes(echo_routes(&Echo::default()))
        .serve_with_incoming(incoming);
    tokio::spawn(server);
    let trusted = std::fs::read(folder.file("authority.pem")).unwrap();
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(trusted))
        .domain_name(NAME);
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    Client::over(
        endpoint.tls_config(tls).unwrap().connect().await.unwrap(),
        None,
    )
}

pub(crate) struct Quantiles {
    sorted: Vec<Duration>,
}

impl Quantiles {
    pub(crate) fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { sorted: times }
    }

    pub(crate) fn at(&self, fraction: f64) -> Duration {
        let last = self.sorted.len() - 1;
        self.sorted[(last as f64 * fraction) as usize]
    }

    pub(crate) fn print(&self, what: &str) {
        let us = |fraction| self.at(fraction).as_micros();
        let (p50, p95, p99) = (us(0.5), us(0.95), us(0.99));
        println!("{what}: p50 {p50} us, p95 {p95} us, p99 {p99} us");
    }
}

async fn unary_times(client: &Client, calls: usize) -> Quantiles {
    let body = Bytes::from(vec![7; 5_000]);
    let mut times = Vec::new();
    for call in 0..calls + 200 {
        let called = Instant::now();
        client.unary("Unary", body.clone()).await.unwrap();
        // The first ones warm both sides up.
        if call >= 200 {
            times.push(called.elapsed());
        }
    }
    Quantiles::of(times)
}

/// MB a second of one stream.
async fn stream_rate(client: &Client, messages: u64, size: usize) -> f64 {
    let began = Instant::now();
    let mut many = client.many(messages, size, 0).await.unwrap();
    let mut bytes = 0;
    while let Some(message) = many.message().await.unwrap() {
        bytes += message.len();
    }
    bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a figure: run it alone"]
async fn added_latency_and_throughput_against_direct() {
    let folder = Folder::init();
    let settings = unlimited(&folder, 10, 10);
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1"]);

    let direct_plain = direct().await;
    let plain = ["--client-plaintext", "--tunnel-plaintext"];
    let flags = ["--settings", &settings, plain[0], plain[1]];
    let relay = Running::start(&folder, (0, 0), &flags);
    let options = TunnelOptions::new(relay.tunnels.to_string(), "m-1".parse().unwrap());
    let (_plain_tunnel, _) = daemon(options).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", relay.clients)).unwrap();
    let channel = endpoint.connect().await.unwrap();
    let through_plain = Client::over(channel, Some("m-1")).with_token(Some(&token));

    let direct_tls = direct_tls(&folder).await;
    let secured = Running::start(&folder, (0, 0), &["--settings", &settings]);
    let (_tunnel, _) = daemon(folder.enrolled(&secured, "m-1").await).await;
    let through_tls = client(&secured, &authority, "m-1", Some(&token)).await;

    let ways = [
        ("plain", &direct_plain, &through_plain),
        ("TLS", &direct_tls, &through_tls),
    ];
    for (name, direct, through) in ways {
        let direct = unary_times(direct, 5_000).await;
        direct.print(&format!("unary 5 KB, {name}, direct"));
        let through = unary_times(through, 5_000).await;
        through.print(&format!("unary 5 KB, {name}, relay"));
        let added = through.at(0.95).saturating_sub(direct.at(0.95));
        println!("added to p95, {name}: {} us", added.as_micros());
        assert!(added <= Duration::from_millis(3), "over the bound of 3 ms");
    }
    for (messages, size) in [(4_000, 64_000), (50_000, 5_000)] {
        for (name, direct, through) in ways {
            // In turn, and the median of five: the machine has other work.
            let (mut before, mut after) = (Vec::new(), Vec::new());
            for _ in 0..5 {
                before.push(stream_rate(direct, messages, size).await);
                after.push(stream_rate(through, messages, size).await);
            }
            let median = |rates: &mut Vec<f64>| {
                rates.sort_by(f64::total_cmp);
                rates[rates.len() / 2]
            };
            let (before, after) = (median(&mut before), median(&mut after));
            println!(
                "stream of {size} B messages, {name}: direct {before:.0} MB/s, relay {after:.0} \
                 MB/s ({:.2})",
                after / before,
            );
        }
    }
}

/// A settings file without limits of rate, because one user makes all calls here.
pub(crate) fn unlimited(folder: &Folder, tunnels_max: usize, clients_max: usize) -> String {
    let settings = serde_json::json!({
        "user_calls_per_s": 1e9, "user_calls_burst": 1e9,
        "address_calls_per_s": 1e9, "address_calls_burst": 1e9,
        "tunnels_max": tunnels_max, "clients_max": clients_max,
        // Else one address could not have thousands of clients that have not called yet.
        "trusted_proxies": ["127.0.0.1"],
    });
    let path = folder.file("unlimited.json");
    std::fs::write(&path, settings.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}
