//! The plan's example on one machine. The load comes from processes of their own, because each may
//! open only so many files; for the same reason the relays may have to be two.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use betcode_daemon::tunnel::{Tunnel, TunnelOptions, TunnelTls};
use betcode_relay::auth::StateFolder;
use betcode_relay::limits;
use bytes::Bytes;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};

use super::figures::{Quantiles, unlimited};
use super::harness::{Client, open};
use super::program::{Folder, NAME, Running, client, echo_routes};
use betcode_test_support::proc::resident_bytes_of;

/// What a process of the load is told by.
const WORK: &str = "TEST_RELAY_LOAD";
/// Begins each line that is meant for the parent.
const MARK: &str = "@ ";
/// Machines that the clients of one relay call.
const CALLED: usize = 5;
/// Files of a load process besides its connections.
const FILES_RESERVED: usize = 500;

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// A relay and its share of the load.
struct Loaded {
    relay: Running,
    folder: Folder,
    tunnels: Option<Process>,
    clients: Vec<Process>,
}

fn start_relays(count: usize, tunnels: usize, clients: usize) -> Vec<Loaded> {
    let started = |_| {
        let folder = Folder::init();
        let settings = unlimited(&folder, tunnels + 1, clients + 16);
        let relay = Running::start(&folder, (0, 0), &["--settings", &settings]);
        Loaded {
            relay,
            folder,
            tunnels: None,
            clients: Vec::new(),
        }
    };
    (0..count).map(started).collect()
}

/// Opens so many tunnels to each relay.
fn open_tunnels(relays: &mut [Loaded], tunnels: usize) {
    for loaded in relays.iter_mut() {
        let state = loaded.folder.path.path().display();
        let work = format!("tunnels {} {tunnels} {state}", loaded.relay.tunnels);
        loaded.tunnels = Some(Process::start(&work));
    }
    for loaded in relays {
        loaded.tunnels.as_mut().unwrap().told("open");
    }
}

/// Connects so many clients to each relay, from processes that may open `files` each.
fn connect_clients(relays: &mut [Loaded], clients: usize, files: usize) {
    for loaded in relays.iter_mut() {
        let state = loaded.folder.path.path().display();
        let mut left = clients;
        while left > 0 {
            let here = left.min(files - FILES_RESERVED).min(10_000);
            let work = format!("clients {} {here} {state}", loaded.relay.clients);
            loaded.clients.push(Process::start(&work));
            left -= here;
        }
    }
    for process in relays.iter_mut().flat_map(|loaded| &mut loaded.clients) {
        process.told("connected");
    }
}

/// Memory of all relays, in bytes.
fn measure(relays: &[Loaded], what: &str) -> u64 {
    let resident = |loaded: &Loaded| resident_bytes_of(loaded.relay.id()).0;
    let bytes: Vec<u64> = relays.iter().map(resident).collect();
    let total: u64 = bytes.iter().sum();
    let each: Vec<u64> = bytes.iter().map(|bytes| bytes / 1_000_000).collect();
    println!("{what}: {} MB resident {each:?}", total / 1_000_000);
    total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a figure: minutes, gigabytes, and thousands of open files"]
async fn the_plans_example_on_one_machine() {
    let (tunnels, clients, waiting) = (
        number("RELAY_LOAD_TUNNELS", 5_000),
        number("RELAY_LOAD_CLIENTS", 20_000),
        number("RELAY_LOAD_WAITING", 10_000),
    );
    let files =
        betcode_service::process::raise_open_files().map_or(usize::MAX, |files| files as usize);
    let needed = (tunnels + clients).div_ceil(files - limits::FILES_RESERVED - 16);
    let count = number("RELAY_LOAD_RELAYS", needed);
    println!("{files} open files for each process: {count} relays");
    let share = |all: usize| all.div_ceil(count);
    let mut relays = start_relays(count, share(tunnels), share(clients));
    let empty = measure(&relays, "empty");

    let began = Instant::now();
    open_tunnels(&mut relays, share(tunnels));
    println!("{tunnels} tunnels open after {:?}", began.elapsed());
    let with_tunnels = measure(&relays, "with tunnels");

    let began = Instant::now();
    connect_clients(&mut relays, share(clients), files);
    println!("{clients} clients connected after {:?}", began.elapsed());
    let with_clients = measure(&relays, "with clients");

    let began = Instant::now();
    for loaded in &relays {
        keep_waiting(loaded, share(waiting)).await;
    }
    println!("{waiting} requests buffered after {:?}", began.elapsed());
    let with_all = measure(&relays, "with all");

    let mut alone = Vec::new();
    for process in relays.iter_mut().flat_map(|loaded| &mut loaded.clients) {
        alone.extend(process.call(2_500, 1));
    }
    let alone = Quantiles::of(alone);
    alone.print("unary 5 KB through the loaded relay, one at a time, each on another connection");
    let peak = measure(&relays, "after the calls");

    let per = |bytes: u64, count: usize| bytes as f64 / 1e3 / count as f64;
    println!(
        "each tunnel {:.1} KB, each client {:.1} KB, each waiting request {:.1} KB",
        per(with_tunnels - empty, tunnels),
        per(with_clients.saturating_sub(with_tunnels), clients),
        per(with_all.saturating_sub(with_clients), waiting),
    );
    let plan = 100 * count + (50 * tunnels + 20 * clients + 10 * waiting) / 1_000;
    println!(
        "plan for {count} relays {plan} MB, measured {} MB",
        peak / 1_000_000
    );
    assert!(
        alone.at(0.95) <= Duration::from_millis(10),
        "routing over the plan's 10 ms"
    );
}

/// Sends requests for machines that are away, until so many wait.
async fn keep_waiting(loaded: &Loaded, waiting: usize) {
    let machines = waiting.div_ceil(1_000);
    let names: Vec<String> = (0..machines)
        .map(|number| format!("away-{number}"))
        .collect();
    let token = long_token(&loaded.folder, &names);
    let authority = loaded.folder.file("authority.pem");
    let mut sending = Vec::new();
    for name in names {
        let caller = client(&loaded.relay, &authority, &name, Some(&token)).await;
        sending.push(tokio::spawn(async move {
            for number in 0..waiting.div_ceil(machines) {
                let asked = super::waiting::request(&number.to_string(), None, &[7; 5_000]);
                let told = caller.unary("Record", asked).await.unwrap_err();
                assert!(super::waiting::is_buffered(&told), "{told:?}");
            }
        }));
    }
    for sending in sending {
        sending.await.unwrap();
    }
}

fn long_token(folder: &Folder, machines: &[String]) -> String {
    let mut arguments = vec!["token", "issue", "--user", "ann", "--life-s", "80000"];
    for machine in machines {
        arguments.extend(["--machine", machine]);
    }
    folder.run(&arguments)
}

/// A part of the load: this test binary once more. Ended when dropped.
struct Process {
    child: Child,
    orders: ChildStdin,
    lines: BufReader<ChildStdout>,
}

impl Process {
    fn start(work: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "load::a_load_process",
                "--exact",
                "--ignored",
                "--nocapture",
            ])
            .env(WORK, work)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            orders: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stdout.take().unwrap()),
            child,
        }
    }

    /// Waits for a word, and returns what stands behind it.
    fn told(&mut self, word: &str) -> String {
        loop {
            let mut line = String::new();
            assert!(
                self.lines.read_line(&mut line).unwrap() > 0,
                "a load process ended"
            );
            let told = line.trim_end().strip_prefix(MARK);
            if let Some(rest) = told.and_then(|told| told.strip_prefix(word)) {
                return rest.trim().to_owned();
            }
        }
    }

    /// Makes calls, so many at once, and returns their times.
    fn call(&mut self, calls: usize, at_once: usize) -> Vec<Duration> {
        writeln!(self.orders, "{calls} {at_once}").unwrap();
        let times = self.told("times");
        times
            .split(' ')
            .map(|us| Duration::from_micros(us.parse().unwrap()))
            .collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{MARK}{text}")
        .and_then(|()| out.flush())
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by another test as a process"]
async fn a_load_process() {
    let Ok(work) = std::env::var(WORK) else {
        return;
    };
    betcode_service::process::raise_open_files();
    let words: Vec<&str> = work.splitn(4, ' ').collect();
    let (address, count) = (words[1].parse().unwrap(), words[2].parse().unwrap());
    let state = PathBuf::from(words[3]);
    match words[0] {
        "tunnels" => hold_tunnels(address, count, &state).await,
        _ => hold_clients(address, count, &state).await,
    }
}

async fn hold_tunnels(address: SocketAddr, count: usize, state: &Path) {
    let held = each(count, 32, |index| {
        let state = state.to_owned();
        async move {
            let tunnel = Tunnel::hold(
                options(address, &state, index),
                echo_routes(&Default::default()),
            );
            open(&tunnel).await;
            tunnel
        }
    })
    .await;
    say("open");
    std::future::pending::<()>().await;
    drop(held);
}

/// One certificate for all would do for memory, but not for what the relay checks.
fn options(address: SocketAddr, state: &Path, index: usize) -> TunnelOptions {
    let machine = format!("m-{index}").parse().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let asked = rcgen::CertificateParams::default()
        .serialize_request(&key)
        .unwrap();
    let now = std::time::SystemTime::now();
    let certificate = StateFolder::at(state).certify_machine(&machine, &asked.pem().unwrap(), now);
    let file = |ending: &str, text: String| {
        let path = state.join(format!("{machine}.{ending}"));
        std::fs::write(&path, text).unwrap();
        path
    };
    let (certificate, key) = (
        file("crt", certificate.unwrap()),
        file("key", key.serialize_pem()),
    );
    let authority = state.join("authority.pem");
    let tls = TunnelTls::load(&authority, &certificate, &key, NAME, &machine).unwrap();
    let mut options = TunnelOptions::new(address.to_string(), machine);
    options.tls = Some(tls);
    options
}

async fn hold_clients(address: SocketAddr, count: usize, state: &Path) {
    let mut issue = Command::new(env!("CARGO_BIN_EXE_betcode-relay"));
    issue
        .arg("--state-folder")
        .arg(state)
        .args(["token", "issue", "--user", "ann"]);
    for machine in 0..CALLED {
        issue.args(["--machine", &format!("m-{machine}")]);
    }
    let token = issue.args(["--life-s", "80000"]).output().unwrap().stdout;
    let token = Arc::new(String::from_utf8(token).unwrap().trim().to_owned());
    let trusted = Certificate::from_pem(std::fs::read(state.join("authority.pem")).unwrap());
    let tls = ClientTlsConfig::new()
        .ca_certificate(trusted)
        .domain_name(NAME);
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    let endpoint = endpoint.tls_config(tls).unwrap();
    let callers = each(count, 32, |index| {
        let (endpoint, token) = (endpoint.clone(), token.clone());
        async move {
            let machine = format!("m-{}", index % CALLED);
            let channel = endpoint.connect().await.unwrap();
            let caller = Client::over(channel, Some(&machine)).with_token(Some(&token));
            caller
                .unary("Unary", Bytes::from_static(b"hello"))
                .await
                .unwrap();
            caller
        }
    })
    .await;
    say("connected");
    let callers = Arc::new(callers);
    for order in std::io::stdin().lines() {
        let order = order.unwrap();
        let (calls, at_once) = order.split_once(' ').unwrap();
        let times = each(calls.parse().unwrap(), at_once.parse().unwrap(), |call| {
            let callers = callers.clone();
            async move {
                let caller = &callers[(call * 7_919) % callers.len()];
                let body = Bytes::from(vec![7; 5_000]);
                let called = Instant::now();
                caller.unary("Unary", body).await.unwrap();
                called.elapsed().as_micros().to_string()
            }
        })
        .await;
        say(&format!("times {}", times.join(" ")));
    }
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
