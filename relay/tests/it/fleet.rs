//! Three relays behind HAProxy on loopback, each with its own machines. Passes over when there is
//! no HAProxy (Debian: `apt install haproxy`).

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use betcode_daemon::tunnel::{Tunnel, TunnelOptions, TunnelState, TunnelTls};
use bytes::Bytes;
use tonic::transport::Endpoint;

use super::echo::Echo;
use super::harness::{Client, until_async};
use super::program::{Folder, NAME, Running, echo_routes};
use super::waiting::{is_buffered, request};

const MACHINES: usize = 30;

struct Balancer(Child);

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The configuration that is delivered, with this test's ports and without TLS for clients.
fn configuration(ports: &[u16; 8]) -> String {
    let delivered = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/haproxy.cfg");
    let mut text = std::fs::read_to_string(delivered).unwrap();
    let [clients, daemons, relays @ ..] = ports;
    text = text
        .replace(
            "bind :7442 ssl crt /etc/haproxy/relay.pem alpn h2",
            &format!("bind 127.0.0.1:{clients} proto h2"),
        )
        .replace("bind :7443", &format!("bind 127.0.0.1:{daemons}"))
        .replace("maxconn 70000", "maxconn 1000");
    let servers = ["17441", "17442", "17443", "17451", "17452", "17453"];
    for (there, here) in servers.iter().zip(relays) {
        assert!(
            text.contains(there),
            "the delivered configuration has changed"
        );
        text = text.replace(&format!("127.0.0.1:{there}"), &format!("127.0.0.1:{here}"));
    }
    text
}

struct Fleet {
    _balancer: Balancer,
    folder: Folder,
    settings: String,
    relays: Vec<Option<Running>>,
    ports: Vec<(u16, u16)>,
    clients: SocketAddr,
    daemons: SocketAddr,
}

impl Fleet {
    fn start() -> Option<Self> {
        if Command::new("haproxy").arg("-v").output().is_err() {
            println!("passed over: there is no haproxy");
            return None;
        }
        let ports: [u16; 8] = std::array::from_fn(|_| free_port());
        // One authority and one key for all; each its own buffer, as each has its own folder.
        let folder = Folder::init();
        let settings = folder.file("fleet.json");
        let all = serde_json::json!({
            "client_plaintext": true, "trusted_proxies": ["127.0.0.1"],
            "address_calls_per_s": 1e6, "address_calls_burst": 1e6,
            "user_calls_per_s": 1e6, "user_calls_burst": 1e6,
        });
        std::fs::write(&settings, all.to_string()).unwrap();
        let configuration_path = folder.file("haproxy.cfg");
        std::fs::write(&configuration_path, configuration(&ports)).unwrap();
        let balancer = Command::new("haproxy")
            .args(["-db", "-f"])
            .arg(&configuration_path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut fleet = Self {
            _balancer: Balancer(balancer),
            settings: settings.to_str().unwrap().to_owned(),
            relays: vec![None, None, None],
            ports: (0..3).map(|at| (ports[2 + at], ports[5 + at])).collect(),
            clients: SocketAddr::from(([127, 0, 0, 1], ports[0])),
            daemons: SocketAddr::from(([127, 0, 0, 1], ports[1])),
            folder,
        };
        for at in 0..3 {
            let own = fleet.state_of(at);
            std::fs::create_dir(&own).unwrap();
            for file in [
                "authority.pem",
                "authority.key",
                "server.pem",
                "server.key",
                "token.pub",
            ] {
                std::fs::copy(fleet.folder.file(file), own.join(file)).unwrap();
            }
            fleet.start_relay(at);
        }
        Some(fleet)
    }

    fn state_of(&self, at: usize) -> PathBuf {
        self.folder.file(&format!("relay-{at}"))
    }

    fn start_relay(&mut self, at: usize) {
        let name = format!("relay-{at}");
        let flags = ["--settings", &self.settings, "--relay-id", &name];
        let state = self.state_of(at);
        self.relays[at] = Some(Running::start_in(&state, self.ports[at], &flags));
    }

    fn kill_relay(&mut self, at: usize) {
        self.relays[at].take().unwrap().kill();
    }

    fn options(&self, machine: &str) -> TunnelOptions {
        let id: betcode_schema_tunnel::MachineId = machine.parse().unwrap();
        let state = betcode_relay::auth::StateFolder::at(self.folder.path.path());
        let key = rcgen::KeyPair::generate().unwrap();
        let asked = rcgen::CertificateParams::default()
            .serialize_request(&key)
            .unwrap();
        let now = std::time::SystemTime::now();
        let certificate = state
            .certify_machine(&id, &asked.pem().unwrap(), now)
            .unwrap();
        let [crt, private] = ["crt", "key"].map(|e| self.folder.file(&format!("{machine}.{e}")));
        std::fs::write(&crt, certificate).unwrap();
        std::fs::write(&private, key.serialize_pem()).unwrap();
        let authority = self.folder.file("authority.pem");
        let mut options = TunnelOptions::new(self.daemons.to_string(), id.clone());
        options.tls = Some(TunnelTls::load(&authority, &crt, &private, NAME, &id).unwrap());
        options.backoff.first = Duration::from_millis(50);
        options.backoff.last = Duration::from_millis(500);
        options.probe_interval = Duration::from_millis(500);
        options
    }

    async fn client(&self, machine: &str, token: &str) -> Client {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.clients)).unwrap();
        let channel = endpoint.connect_lazy();
        Client::over(channel, Some(machine)).with_token(Some(token))
    }
}

fn relay_of(tunnel: &Tunnel) -> Option<String> {
    match &*tunnel.state().borrow() {
        TunnelState::Open { relay_id, .. } => Some(relay_id.clone()),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_relays_share_machines_and_a_dead_one_moves_only_its_own() {
    let Some(mut fleet) = Fleet::start() else {
        return;
    };
    let names: Vec<String> = (0..MACHINES).map(|n| format!("machine-{n}")).collect();
    let mut arguments = vec!["token", "issue", "--user", "ann"];
    for name in &names {
        arguments.extend(["--machine", name]);
    }
    let token = fleet.folder.run(&arguments);
    let held: Vec<(Tunnel, Echo, Client)> = {
        let mut held = Vec::new();
        for name in &names {
            let echo = Echo::default();
            let tunnel = Tunnel::hold(fleet.options(name), echo_routes(&echo));
            held.push((tunnel, echo, fleet.client(name, &token).await));
        }
        held
    };
    // Every machine is reached through the balancer: caller and daemon meet at one relay.
    for (name, (_, _, caller)) in names.iter().zip(&held) {
        until_async(&format!("{name} is reached"), async || {
            caller.unary("Unary", Bytes::new()).await.is_ok()
        })
        .await;
    }
    let places = || -> Vec<String> {
        let placed = held
            .iter()
            .map(|(tunnel, ..)| relay_of(tunnel).unwrap_or_default());
        placed.collect()
    };
    let before = places();
    let mut shares = BTreeMap::new();
    for place in &before {
        *shares.entry(place.clone()).or_insert(0_usize) += 1;
    }
    println!("{MACHINES} machines: {shares:?}");
    assert_eq!(shares.len(), 3);
    assert!(
        shares.values().all(|share| *share >= MACHINES / 10),
        "{shares:?}"
    );

    // One relay dies: its machines move, and no other does.
    let dead = before[0].clone();
    let at: usize = dead.strip_prefix("relay-").unwrap().parse().unwrap();
    let epochs = |held: &[(Tunnel, Echo, Client)]| -> Vec<TunnelState> {
        held.iter()
            .map(|(tunnel, ..)| tunnel.state().borrow().clone())
            .collect()
    };
    let open_before = epochs(&held);
    fleet.kill_relay(at);
    for (name, (_, _, caller)) in names.iter().zip(&held) {
        until_async(&format!("{name} is reached again"), async || {
            caller.unary("Unary", Bytes::new()).await.is_ok()
        })
        .await;
    }
    let open_after = epochs(&held);
    for (index, place) in before.iter().enumerate() {
        let moved = open_before[index] != open_after[index];
        assert_eq!(moved, *place == dead, "{}", names[index]);
    }

    // It comes back, and its machines with it.
    fleet.start_relay(at);
    until_async("every machine is where it was", async || places() == before).await;
    for (name, (_, _, caller)) in names.iter().zip(&held) {
        until_async(&format!("{name} is reached in the end"), async || {
            caller.unary("Unary", Bytes::new()).await.is_ok()
        })
        .await;
    }
    drop(held);
    the_acknowledged_arrives(&mut fleet, &names[0], &token).await;
}

/// Whatever relay keeps the requests is killed on the way, as all are.
async fn the_acknowledged_arrives(fleet: &mut Fleet, machine: &str, token: &str) {
    let caller = fleet.client(machine, token).await;
    let away = async || {
        let asked = caller.unary("Unary", Bytes::new()).await;
        asked.is_err_and(|status| status.message().contains("no tunnel"))
    };
    until_async("the daemon is away", away).await;
    let mut sent = Vec::new();
    for number in 0..30 {
        let body = format!("{number:03}");
        let told = caller
            .unary("Record", request(&body, None, body.as_bytes()))
            .await;
        assert!(is_buffered(&told.unwrap_err()));
        sent.push(body);
        if number == 15 {
            for at in 0..3 {
                fleet.kill_relay(at);
                fleet.start_relay(at);
            }
            // As long as it takes the balancer to see all of them again.
            tokio::time::sleep(Duration::from_secs(3)).await;
            until_async("the balancer sees them again", away).await;
        }
    }
    let echo = Echo::default();
    let _tunnel = Tunnel::hold(fleet.options(machine), echo_routes(&echo));
    until_async("all has arrived", async || {
        echo.recorded().len() >= sent.len()
    })
    .await;
    let arrived: Vec<String> = echo
        .recorded()
        .into_iter()
        .map(|record| record.body)
        .collect();
    assert_eq!(arrived, sent);
}
