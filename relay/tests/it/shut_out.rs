//! Machines that are shut out, and addresses that connect too often to the tunnel port.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use betcode_relay::auth::{MachineCertificate, Revocations};
use betcode_relay::buffer::Deliverer;
use betcode_relay::registry::{EmbeddedRegistry, Owner, Registry, RegistryFuture};
use betcode_relay::tunnel::{AcceptError, Acceptor, Identity};
use betcode_schema_tunnel::{
    Hello, MachineId, PROTOCOL, Refusal, TUNNEL_ALPN, Welcome, read_greeting, write_greeting,
};
use betcode_storage::SystemClock;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};
use tonic::Code;

use super::harness::{Relay, RelayOptions, until, until_async};
use super::program::{Folder, NAME, Running, client, daemon};

/// A connection to the tunnel port, by a machine's certificate, that has said nothing yet.
async fn silent(relay: &Running, files: [PathBuf; 3]) -> TlsStream<tokio::net::TcpStream> {
    let [authority, certificate, key] = files;
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority).unwrap())
        .unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            vec![CertificateDer::from_pem_file(certificate).unwrap()],
            PrivateKeyDer::from_pem_file(key).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![TUNNEL_ALPN.to_vec()];
    let stream = tokio::net::TcpStream::connect(relay.tunnels).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    let name = NAME.try_into().unwrap();
    connector.connect(name, stream).await.unwrap()
}

fn hello(probe: bool) -> Hello {
    Hello {
        protocol: PROTOCOL,
        machine_id: "m-1".parse().unwrap(),
        instance: "test".into(),
        version: "test".into(),
        probe,
    }
}

async fn greet(stream: &mut TlsStream<tokio::net::TcpStream>, probe: bool) -> Welcome {
    write_greeting(stream, &hello(probe)).await.unwrap();
    read_greeting(stream).await.unwrap()
}

fn is_not_permitted(welcome: &Welcome) -> bool {
    let not_permitted = Refusal::NotPermitted;
    matches!(welcome, Welcome::Refused { reason, .. } if *reason == not_permitted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_revoked_before_it_greets_gets_no_tunnel() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    folder.enrolled(&relay, "m-1").await;
    let files = || ["ca", "crt", "key"].map(|ending| folder.file(&format!("m-1.{ending}")));
    let mut early = silent(&relay, files()).await;
    // The relay looks at the certificate when TLS is done on its side.
    tokio::time::sleep(Duration::from_millis(300)).await;
    folder.run(&["revoke-machine", "m-1"]);
    until_async("the machine is shut out", async || {
        let mut probe = silent(&relay, files()).await;
        is_not_permitted(&greet(&mut probe, true).await)
    })
    .await;
    let welcome = greet(&mut early, false).await;
    assert!(is_not_permitted(&welcome), "{welcome:?}");
}

/// A registry at which a machine is revoked just when it claims its tunnel.
struct Revoking {
    registry: EmbeddedRegistry,
    revoked: Arc<RwLock<Revocations>>,
}

impl Registry for Revoking {
    fn claim<'a>(&'a self, machine: &'a MachineId, relay_id: &'a str) -> RegistryFuture<'a, u64> {
        let mut revoked = self.revoked.write().unwrap();
        revoked.machines.insert(machine.clone(), u64::MAX);
        self.registry.claim(machine, relay_id)
    }

    fn release<'a>(&'a self, machine: &'a MachineId, epoch: u64) -> RegistryFuture<'a, ()> {
        self.registry.release(machine, epoch)
    }

    fn owner<'a>(&'a self, machine: &'a MachineId) -> RegistryFuture<'a, Option<Owner>> {
        self.registry.owner(machine)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_revoked_while_its_tunnel_opens_loses_it() {
    let relay = Relay::start(RelayOptions::default()).await;
    let revoked = Arc::<RwLock<Revocations>>::default();
    let buffer = relay.buffer.clone();
    let acceptor = Arc::new(Acceptor {
        relay_id: "relay-test".into(),
        table: relay.table.clone(),
        registry: Arc::new(Revoking {
            registry: EmbeddedRegistry::new(&SystemClock),
            revoked: revoked.clone(),
        }),
        deliverer: Arc::new(Deliverer::new(
            "relay-test".into(),
            buffer,
            revoked.clone(),
            Arc::default(),
        )),
        revoked,
        metrics: Arc::default(),
        keepalive: RelayOptions::default().keepalive,
        slots: Arc::new(Semaphore::new(1)),
        go_away_grace: Duration::from_secs(60),
        draining: false.into(),
    });
    let proved = Identity::Machine(MachineCertificate {
        machine: "m-1".parse().unwrap(),
        issued_s: 1,
    });
    let (mut daemon, stream) = tokio::io::duplex(1 << 16);
    write_greeting(&mut daemon, &hello(false)).await.unwrap();
    let tunnel = acceptor.accept(stream, &proved).await.unwrap().unwrap();
    let gone = tokio::time::timeout(Duration::from_secs(10), tunnel.gone()).await;
    assert!(gone.is_ok(), "the tunnel is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_revoked_loses_the_tunnels_that_it_was_leaving_too() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let options = folder.enrolled(&relay, "m-1").await;
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1"]);
    let caller = client(&relay, &authority, "m-1", Some(&token)).await;
    let mut streams = Vec::new();
    // The first one is replaced, the second one leaves by itself, the third one stays.
    let (_replaced, _) = daemon(options.clone()).await;
    let open = async || {
        let open = caller.stream("HangOpen", tokio_stream::pending()).await;
        let mut open = open.ok()?.into_inner();
        open.message().await.ok()??;
        Some(open)
    };
    until_async("a call goes through the first tunnel", async || {
        streams.extend(open().await);
        streams.len() == 1
    })
    .await;
    let (leaving, echo) = daemon(options.clone()).await;
    let arrived = || echo.seen.hanging.load(std::sync::atomic::Ordering::SeqCst);
    until_async("a call goes through the second tunnel", async || {
        streams.extend(open().await);
        arrived() == 1
    })
    .await;
    tokio::spawn(leaving.stop(Duration::from_secs(60)));
    until_async("the second tunnel is left", async || open().await.is_none()).await;
    let (_stays, echo) = daemon(options).await;
    until_async("a call goes through the third tunnel", async || {
        streams.extend(open().await);
        echo.seen.hanging.load(std::sync::atomic::Ordering::SeqCst) == 1
    })
    .await;
    folder.run(&["revoke-machine", "m-1"]);
    for mut stream in streams {
        let ended = tokio::time::timeout(Duration::from_secs(10), stream.message()).await;
        let ended = ended
            .expect("a call of a revoked machine goes on")
            .unwrap_err();
        assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_comes_too_often_is_refused_at_the_tunnel_port() {
    let folder = Folder::init();
    let settings = folder.file("relay.json");
    let slow = r#"{"address_calls_per_s": 1, "address_calls_burst": 10}"#;
    std::fs::write(&settings, slow).unwrap();
    let log = folder.file("relay.log");
    let mut command = folder.command();
    command
        .args(["serve", "--settings", settings.to_str().unwrap()])
        .env("BETCODE_RELAY_LOG_FILTER", "info")
        .stderr(std::fs::File::create(&log).unwrap());
    let relay = Running::spawn(command, (0, 0));
    let connect = |_| {
        let stream = TcpStream::connect(relay.tunnels).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let connected: Vec<_> = (0..40).map(connect).collect();
    until("most of them are turned away before TLS", || {
        let logged = std::fs::read_to_string(&log).unwrap();
        logged.matches("this address calls too often").count() >= 20
    })
    .await;
    let is_open = |stream: &&TcpStream| {
        stream
            .peek(&mut [0; 1])
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    let open = connected.iter().filter(is_open).count();
    assert!((1..=20).contains(&open), "{open} are let in");
}

/// A registry that takes its time until it is told.
struct Slow {
    registry: EmbeddedRegistry,
    go_on: Semaphore,
}

impl Registry for Slow {
    fn claim<'a>(&'a self, machine: &'a MachineId, relay_id: &'a str) -> RegistryFuture<'a, u64> {
        Box::pin(async move {
            let _went_on = self.go_on.acquire().await;
            self.registry.claim(machine, relay_id).await
        })
    }

    fn release<'a>(&'a self, machine: &'a MachineId, epoch: u64) -> RegistryFuture<'a, ()> {
        self.registry.release(machine, epoch)
    }

    fn owner<'a>(&'a self, machine: &'a MachineId) -> RegistryFuture<'a, Option<Owner>> {
        self.registry.owner(machine)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_that_greet_at_the_same_time_get_no_more_tunnels_than_there_may_be() {
    let relay = Relay::start(RelayOptions::default()).await;
    let registry = Arc::new(Slow {
        registry: EmbeddedRegistry::new(&SystemClock),
        go_on: Semaphore::new(0),
    });
    let slots = Arc::new(Semaphore::new(2));
    let revoked = Arc::<RwLock<Revocations>>::default();
    let buffer = relay.buffer.clone();
    let acceptor = Arc::new(Acceptor {
        relay_id: "relay-test".into(),
        table: relay.table.clone(),
        registry: registry.clone(),
        deliverer: Arc::new(Deliverer::new(
            "relay-test".into(),
            buffer,
            revoked.clone(),
            Arc::default(),
        )),
        revoked,
        metrics: Arc::default(),
        keepalive: RelayOptions::default().keepalive,
        slots: slots.clone(),
        go_away_grace: Duration::from_secs(60),
        draining: false.into(),
    });
    let dial = |machine: &str| {
        let (acceptor, machine) = (acceptor.clone(), machine.parse().unwrap());
        async move {
            let (mut daemon, stream) = tokio::io::duplex(1 << 16);
            let hello = Hello {
                machine_id: machine,
                ..hello(false)
            };
            write_greeting(&mut daemon, &hello).await.unwrap();
            let accepted = acceptor.accept(stream, &Identity::AnyOnLoopback).await;
            accepted.map(|tunnel| (tunnel, daemon))
        }
    };
    let dialled: Vec<_> = ["m-1", "m-2", "m-3"].map(|m| tokio::spawn(dial(m))).into();
    // None of them has a tunnel yet.
    tokio::time::sleep(Duration::from_millis(100)).await;
    registry.go_on.add_permits(100);
    let mut open = Vec::new();
    for one in dialled {
        match one.await.unwrap() {
            Ok((tunnel, daemon)) => open.push((tunnel.unwrap(), daemon)),
            Err(error) => {
                let full = matches!(
                    error,
                    AcceptError::Refused {
                        reason: Refusal::Full,
                        ..
                    }
                );
                assert!(full, "{error}");
            }
        }
    }
    assert_eq!(open.len(), 2);
    // One that dials again shares its slot, which is free when both are gone.
    let machine = open[0].0.machine().clone();
    let (again, daemon) = dial(machine.as_str()).await.unwrap();
    assert_eq!(slots.available_permits(), 0);
    drop(open);
    drop((again, daemon));
    until("the slots are free again", || {
        slots.available_permits() == 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_balancer_is_trusted_at_a_listener_of_both_families_too() {
    let folder = Folder::init();
    let mut command = folder.command();
    command
        .args([
            "serve",
            "--client-listen",
            "[::]:0",
            "--tunnel-listen",
            "[::]:0",
        ])
        .env("BETCODE_RELAY_ADDRESS_CALLS_PER_S", "1")
        .env("BETCODE_RELAY_ADDRESS_CALLS_BURST", "1")
        .env("BETCODE_RELAY_TRUSTED_PROXIES", r#"["127.0.0.1"]"#)
        .env("BETCODE_RELAY_LOG_FILTER", "error");
    let relay = Running::spawn_as_told(command);
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1"]);
    let caller = client(&relay, &authority, "m-1", Some(&token)).await;
    // Each for somebody else: no rate is reached.
    for last in 1..=5 {
        let mut request = tonic::Request::new(bytes::Bytes::new());
        let address = format!("192.0.2.{last}").parse().unwrap();
        request.metadata_mut().insert("x-forwarded-for", address);
        let told = caller.unary("Unary", request).await.unwrap_err();
        assert_eq!(told.code(), Code::Unavailable, "{told:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_without_a_token_takes_only_a_part_of_the_client_slots() {
    let folder = Folder::init();
    let mut command = folder.command();
    command
        .arg("serve")
        .env("BETCODE_RELAY_CLIENTS_MAX", "8")
        .env("BETCODE_RELAY_LOG_FILTER", "error");
    let relay = Running::spawn(command, (0, 0));
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1"]);
    // Who has shown a token does not count.
    let mut callers = Vec::new();
    for _ in 0..4 {
        let caller = client(&relay, &authority, "m-1", Some(&token)).await;
        caller.unary("Unary", bytes::Bytes::new()).await.unwrap();
        callers.push(caller);
    }
    let connect = |_| {
        let stream = TcpStream::connect(relay.clients).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let connected: Vec<_> = (0..8).map(connect).collect();
    let is_open = |stream: &&TcpStream| {
        let waits = ErrorKind::WouldBlock;
        stream.peek(&mut [0; 1]).is_err_and(|e| e.kind() == waits)
    };
    until("all but two are closed", || {
        connected.iter().filter(is_open).count() == 2
    })
    .await;
    drop(connected);
    // There are slots left for those who have one.
    until_async("another caller is let in", async || {
        let caller = client(&relay, &authority, "m-1", Some(&token)).await;
        caller.unary("Unary", bytes::Bytes::new()).await.is_ok()
    })
    .await;
}

/// A registry that counts.
struct Counting {
    registry: EmbeddedRegistry,
    claims: AtomicUsize,
    releases: AtomicUsize,
}

impl Registry for Counting {
    fn claim<'a>(&'a self, machine: &'a MachineId, relay_id: &'a str) -> RegistryFuture<'a, u64> {
        self.claims.fetch_add(1, Ordering::SeqCst);
        self.registry.claim(machine, relay_id)
    }

    fn release<'a>(&'a self, machine: &'a MachineId, epoch: u64) -> RegistryFuture<'a, ()> {
        self.releases.fetch_add(1, Ordering::SeqCst);
        self.registry.release(machine, epoch)
    }

    fn owner<'a>(&'a self, machine: &'a MachineId) -> RegistryFuture<'a, Option<Owner>> {
        self.registry.owner(machine)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_leaves_in_the_middle_of_the_greeting_is_claimed_by_nobody() {
    let relay = Relay::start(RelayOptions::default()).await;
    let registry = Arc::new(Counting {
        registry: EmbeddedRegistry::new(&SystemClock),
        claims: AtomicUsize::new(0),
        releases: AtomicUsize::new(0),
    });
    let revoked = Arc::<RwLock<Revocations>>::default();
    let acceptor = Arc::new(Acceptor {
        relay_id: "relay-test".into(),
        table: relay.table.clone(),
        registry: registry.clone(),
        deliverer: Arc::new(Deliverer::new(
            "relay-test".into(),
            relay.buffer.clone(),
            revoked.clone(),
            Arc::default(),
        )),
        revoked,
        metrics: Arc::default(),
        keepalive: RelayOptions::default().keepalive,
        slots: Arc::new(Semaphore::new(1)),
        go_away_grace: Duration::from_secs(60),
        draining: false.into(),
    });
    let (mut daemon, stream) = tokio::io::duplex(1 << 16);
    write_greeting(&mut daemon, &hello(false)).await.unwrap();
    drop(daemon);
    let accepted = acceptor.accept(stream, &Identity::AnyOnLoopback).await;
    assert!(accepted.is_err());
    assert_eq!(registry.claims.load(Ordering::SeqCst), 1);
    until("the claim is released", || {
        registry.releases.load(Ordering::SeqCst) == 1
    })
    .await;
}
