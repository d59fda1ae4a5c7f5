//! Figures beside what the capacity plan and the issue ask for. Ignored by default: they take a
//! minute or more and want the machine for themselves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, ServerTlsConfig};

use super::echo::Echo;
use super::harness::{Client, Relay, RelayOptions};
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
    let direct = direct().await;
    let plain = Relay::start(RelayOptions::default()).await;
    let (_plain_tunnel, _) = plain.daemon("m-1").await;
    let endpoint = Endpoint::from_shared(format!("http://{}", plain.clients)).unwrap();
    let through_plain = Client::over(endpoint.connect().await.unwrap(), Some("m-1"));

    let folder = Folder::init();
    let settings = unlimited(&folder);
    let relay = Running::start(&folder, (0, 0), &["--settings", &settings]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let token = folder.token("ann", &["m-1"]);
    let authority = folder.file("authority.pem");
    let direct_tls = direct_tls(&folder).await;
    let through_tls = client(&relay, &authority, "m-1", Some(&token)).await;

    let mut p95 = Vec::new();
    for (name, client) in [
        ("direct, plain", &direct),
        ("direct, TLS", &direct_tls),
        ("relay, plain, one process", &through_plain),
        ("relay, TLS and token, own process", &through_tls),
    ] {
        let times = unary_times(client, 5_000).await;
        times.print(&format!("unary 5 KB, {name}"));
        p95.push(times.at(0.95));
    }
    for (name, before, after) in [("plain", p95[0], p95[2]), ("TLS", p95[1], p95[3])] {
        let added = after.saturating_sub(before);
        println!("added to p95, {name}: {} us", added.as_micros());
        assert!(added <= Duration::from_millis(3), "over the bound of 3 ms");
    }
    for (messages, size) in [(4_000, 64_000), (100_000, 5_000)] {
        // Best of three each: the machine has other work.
        let mut rates = [0.0_f64; 3];
        for _ in 0..3 {
            for (rate, client) in rates
                .iter_mut()
                .zip([&direct, &through_plain, &through_tls])
            {
                *rate = rate.max(stream_rate(client, messages, size).await);
            }
        }
        let [direct, plain, tls] = rates;
        println!(
            "stream of {size} B messages: direct {direct:.0} MB/s, relay plain {plain:.0} MB/s \
             ({:.2}), relay TLS {tls:.0} MB/s ({:.2})",
            plain / direct,
            tls / direct,
        );
    }
}

/// A settings file without limits of rate, because one user makes all calls here.
pub(crate) fn unlimited(folder: &Folder) -> String {
    let rates = serde_json::json!({
        "user_calls_per_s": 1e9, "user_calls_burst": 1e9,
        "address_calls_per_s": 1e9, "address_calls_burst": 1e9,
    });
    let path = folder.file("unlimited.json");
    std::fs::write(&path, rates.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Resident bytes of a process.
fn resident_bytes(id: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// Does `work` for each number, so many at a time.
async fn each<T, F>(count: usize, at_once: usize, work: impl Fn(usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let places = Arc::new(tokio::sync::Semaphore::new(at_once));
    let mut tasks = Vec::with_capacity(count);
    for index in 0..count {
        let place = places.clone().acquire_owned().await.unwrap();
        let work = work(index);
        tasks.push(tokio::spawn(async move {
            let done = work.await;
            drop(place);
            done
        }));
    }
    let mut done = Vec::with_capacity(count);
    for task in tasks {
        done.push(task.await.unwrap());
    }
    done
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a figure: minutes, gigabytes, and more than 50,000 open files"]
async fn the_plans_example_on_one_machine() {
    let (tunnels, clients, waiting) = (
        number("RELAY_LOAD_TUNNELS", 5_000),
        number("RELAY_LOAD_CLIENTS", 20_000),
        number("RELAY_LOAD_WAITING", 10_000),
    );
    let open_files = raise_open_files();
    let room = open_files.saturating_sub(tunnels + 500);
    if room < clients {
        println!("{open_files} open files: only {room} of {clients} clients have room");
    }
    let clients = clients.min(room);
    let folder = Folder::init();
    let settings = unlimited(&folder);
    let relay = Arc::new(Running::start(&folder, (0, 0), &["--settings", &settings]));
    let measure = |what: &str| {
        let bytes = resident_bytes(relay.id());
        println!("{what}: {} MB resident", bytes / 1_000_000);
        bytes
    };
    let empty = measure("empty");

    // One certificate for all would do for memory, but not for what the relay checks.
    let state = betcode_relay::auth::StateFolder::at(folder.path.path());
    let began = Instant::now();
    let folder = Arc::new(folder);
    let held = each(tunnels, 32, |index| {
        let (folder, relay, state) = (folder.clone(), relay.clone(), state.clone());
        async move {
            let machine = format!("m-{index}");
            let key = rcgen::KeyPair::generate().unwrap();
            let asked = rcgen::CertificateParams::default()
                .serialize_request(&key)
                .unwrap();
            let id = machine.parse().unwrap();
            let now = std::time::SystemTime::now();
            let certificate = state
                .certify_machine(&id, &asked.pem().unwrap(), now)
                .unwrap();
            let files = [
                folder.file("authority.pem"),
                folder.file(&format!("{machine}.crt")),
                folder.file(&format!("{machine}.key")),
            ];
            std::fs::write(&files[1], certificate).unwrap();
            std::fs::write(&files[2], key.serialize_pem()).unwrap();
            daemon(folder.options(&relay, &machine, &files)).await
        }
    })
    .await;
    println!("{tunnels} tunnels open after {:?}", began.elapsed());
    let with_tunnels = measure("with tunnels");

    let began = Instant::now();
    let token = Arc::new(folder.run(&[
        "token",
        "issue",
        "--user",
        "ann",
        "--machine",
        "m-0",
        "--machine",
        "m-1",
        "--machine",
        "m-2",
        "--machine",
        "m-3",
        "--machine",
        "m-4",
        "--life-s",
        "80000",
    ]));
    let authority = folder.file("authority.pem");
    let callers = each(clients, 32, |index| {
        let (relay, token, authority) = (relay.clone(), token.clone(), authority.clone());
        async move {
            let machine = format!("m-{}", index % 5);
            let caller = client(&relay, &authority, &machine, Some(&token)).await;
            caller
                .unary("Unary", Bytes::from_static(b"hello"))
                .await
                .unwrap();
            caller
        }
    })
    .await;
    println!("{clients} clients connected after {:?}", began.elapsed());
    let with_clients = measure("with clients");

    let began = Instant::now();
    let away = waiting.div_ceil(1_000).max(1);
    let mut arguments = vec![
        "token".to_owned(),
        "issue".into(),
        "--user".into(),
        "ann".into(),
    ];
    for machine in 0..away {
        arguments.extend(["--machine".into(), format!("away-{machine}")]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let token = Arc::new(folder.run(&arguments));
    let senders = each(away, away, |index| {
        let (relay, token, authority) = (relay.clone(), token.clone(), authority.clone());
        async move {
            let caller = client(&relay, &authority, &format!("away-{index}"), Some(&token)).await;
            for number in 0..waiting.div_ceil(away) {
                let body = vec![7; 5_000];
                let asked = super::waiting::request(&format!("{number}"), None, &body);
                let told = caller.unary("Record", asked).await.unwrap_err();
                assert!(super::waiting::is_buffered(&told), "{told:?}");
            }
            caller
        }
    })
    .await;
    println!("{waiting} requests buffered after {:?}", began.elapsed());
    let with_all = measure("with all");

    let mut times = Vec::new();
    let body = Bytes::from(vec![7; 5_000]);
    for call in 0..5_000 {
        let caller = &callers[(call * 7_919) % callers.len()];
        let called = Instant::now();
        caller.unary("Unary", body.clone()).await.unwrap();
        times.push(called.elapsed());
    }
    let times = Quantiles::of(times);
    times.print("unary 5 KB through the loaded relay, one at a time, each on another connection");
    let peak = measure("after the calls");

    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "each tunnel {:.1} KB, each client {:.1} KB, each waiting request {:.1} KB",
        mb(with_tunnels - empty) * 1e3 / tunnels as f64,
        mb(with_clients - with_tunnels) * 1e3 / clients as f64,
        mb(with_all.saturating_sub(with_clients)) * 1e3 / waiting as f64,
    );
    let plan = 100.0 + 0.05 * tunnels as f64 + 0.02 * clients as f64 + 0.01 * waiting as f64;
    println!("plan {plan:.0} MB, measured {:.0} MB", mb(peak));
    assert!(
        times.at(0.95) <= Duration::from_millis(10),
        "routing over the plan's 10 ms"
    );
    drop((held, callers, senders));
}

/// Raises the bound of open files as far as it goes, for this process and the relay that it
/// starts, and returns it.
fn raise_open_files() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let all = |limit| Rlimit {
        current: Some(limit),
        maximum: Some(limit),
    };
    let wanted = 100_000;
    let maximum = getrlimit(Resource::Nofile).maximum.unwrap_or(wanted);
    let limit = match setrlimit(Resource::Nofile, all(maximum.max(wanted))) {
        Ok(()) => maximum.max(wanted),
        // Not everyone may raise the maximum.
        Err(_) => {
            setrlimit(Resource::Nofile, all(maximum)).unwrap();
            maximum
        }
    };
    usize::try_from(limit).unwrap()
}
