//! A relay, a daemon behind it and clients, on loopback.

use std::net::SocketAddr;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use betcode_daemon::tunnel::{Tunnel, TunnelOptions, TunnelState};
use betcode_relay::auth::{Rate, RateLimiter, Revocations};
use betcode_relay::buffer::{Buffer, BufferOptions, Deliverer, EmbeddedBuffer};
use betcode_relay::registry::EmbeddedRegistry;
use betcode_relay::server::Listeners;
use betcode_relay::tunnel::{Acceptor, Keepalive, Table};
use betcode_relay::unauthenticated::UnauthenticatedConnections;
use betcode_relay::{Access, Gate, Intake, Router, limits};
use betcode_schema_tunnel::{MachineId, metadata};
use betcode_storage::SystemClock;
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};

use super::echo::{Echo, Raw};

pub(crate) struct Relay {
    pub(crate) clients: SocketAddr,
    pub(crate) tunnels: SocketAddr,
    pub(crate) table: Arc<Table>,
    pub(crate) buffer: Arc<dyn Buffer>,
    pub(crate) revoked: Arc<RwLock<Revocations>>,
    _folder: tempfile::TempDir,
}

pub(crate) struct RelayOptions {
    pub(crate) keepalive: Keepalive,
    pub(crate) go_away_grace: Duration,
    pub(crate) message_bytes_max: u64,
    pub(crate) tunnels_max: usize,
    pub(crate) calls_max: usize,
    pub(crate) buffer: BufferOptions,
    /// Makes the relay's buffer of the real one: a test may put something between.
    pub(crate) wrap_buffer: fn(EmbeddedBuffer) -> Arc<dyn Buffer>,
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self {
            keepalive: Keepalive {
                interval: Duration::from_secs(20),
                timeout: Duration::from_secs(10),
            },
            go_away_grace: Duration::from_secs(5),
            message_bytes_max: limits::MESSAGE_BYTES_MAX_DEFAULT,
            tunnels_max: limits::TUNNELS_MAX_DEFAULT,
            calls_max: limits::CALLS_MAX_DEFAULT,
            buffer: BufferOptions::default(),
            wrap_buffer: |buffer| Arc::new(buffer),
        }
    }
}

impl Relay {
    pub(crate) async fn start(options: RelayOptions) -> Self {
        let table = Arc::new(Table::default());
        let limitless = Rate {
            per_s: 1e9,
            burst: 1e9,
        };
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("buffer.db");
        let revoked = Arc::<RwLock<Revocations>>::default();
        let buffer = EmbeddedBuffer::open(&path, options.buffer.clone()).unwrap();
        let buffer = (options.wrap_buffer)(buffer);
        let deliverer = Arc::new(Deliverer::new(
            "relay-test".into(),
            buffer.clone(),
            revoked.clone(),
            Arc::default(),
        ));
        let stop = CancellationToken::new();
        let router = Router {
            relay_id: "relay-test".into(),
            table: table.clone(),
            buffer: buffer.clone(),
            gate: Gate {
                access: Access::Open,
                revoked: revoked.clone(),
                live: Arc::default(),
                users: RateLimiter::new(limitless),
                addresses: RateLimiter::new(limitless),
            },
            calls: Arc::new(Semaphore::new(options.calls_max)),
            intake: Intake::default(),
            message_bytes_max: options.message_bytes_max,
            trusted_proxies: Vec::new(),
            metrics: Arc::default(),
            services: Routes::default(),
            stop: stop.clone(),
        };
        let acceptor = Acceptor {
            relay_id: "relay-test".into(),
            table: table.clone(),
            deliverer,
            revoked: revoked.clone(),
            metrics: Arc::default(),
            registry: Arc::new(EmbeddedRegistry::new(&SystemClock)),
            keepalive: options.keepalive,
            slots: Arc::new(Semaphore::new(options.tunnels_max)),
            go_away_grace: options.go_away_grace,
            draining: false.into(),
        };
        let listeners = Listeners {
            router: Arc::new(router),
            acceptor: Arc::new(acceptor),
            client_tls: None,
            tunnel_tls: None,
            enrol: None,
            keepalive: options.keepalive,
            client_slots: Arc::new(Semaphore::new(limits::CLIENTS_MAX_DEFAULT)),
            unauthenticated: UnauthenticatedConnections::among(limits::CLIENTS_MAX_DEFAULT),
            stop,
            connections: TaskTracker::new(),
        };
        let clients = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tunnels = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Self {
            clients: clients.local_addr().unwrap(),
            tunnels: tunnels.local_addr().unwrap(),
            table,
            buffer,
            revoked,
            _folder: folder,
        };
        tokio::spawn(listeners.clone().serve_clients(clients));
        tokio::spawn(listeners.serve_tunnels(tunnels));
        relay
    }

    pub(crate) fn tunnel_options(&self, machine: &str) -> TunnelOptions {
        let mut options = TunnelOptions::new(self.tunnels.to_string(), machine.parse().unwrap());
        options.backoff.first = Duration::from_millis(20);
        options.backoff.last = Duration::from_millis(200);
        options
    }

    /// A daemon of this machine, with its tunnel open.
    pub(crate) async fn daemon(&self, machine: &str) -> (Tunnel, Echo) {
        self.daemon_with(self.tunnel_options(machine)).await
    }

    pub(crate) async fn daemon_with(&self, options: TunnelOptions) -> (Tunnel, Echo) {
        let echo = Echo::default();
        let machine = options.machine.clone();
        let tunnel = Tunnel::hold(options, Routes::new(echo.clone()).prepare());
        open(&tunnel).await;
        self.until_known(&machine).await;
        (tunnel, echo)
    }

    pub(crate) async fn until_known(&self, machine: &MachineId) {
        until("the tunnel is in the table", || {
            self.table.find(machine).is_some()
        })
        .await;
    }

    pub(crate) async fn client(&self, machine: &str) -> Client {
        Client::connect(self.clients, Some(machine)).await
    }
}

/// Waits until the tunnel is open.
pub(crate) async fn open(tunnel: &Tunnel) {
    let mut state = tunnel.state();
    let opened = state.wait_for(|state| matches!(state, TunnelState::Open { .. }));
    tokio::time::timeout(Duration::from_secs(10), opened)
        .await
        .expect("no tunnel in time")
        .unwrap();
}

/// Waits until something holds, for at most ten seconds.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("not in time: {what}");
}

/// Asks until something holds, for at most ten seconds.
pub(crate) async fn until_async(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let asked = std::time::Instant::now();
    while asked.elapsed() < Duration::from_secs(10) {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("not in time: {what}");
}

/// Bytes that a client takes in without reading.
pub(crate) const WINDOW_BYTES: u32 = 64 << 10;

/// A client of any method, naming a machine.
#[derive(Clone)]
pub(crate) struct Client {
    channel: Channel,
    machine: Option<String>,
    token: Option<String>,
}

type Grpc = tonic::client::Grpc<Channel>;

impl Client {
    pub(crate) async fn connect(address: SocketAddr, machine: Option<&str>) -> Self {
        // A small window, so that what is held between shows and not what the client takes in.
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .unwrap()
            .initial_stream_window_size(WINDOW_BYTES);
        Self::over(endpoint.connect().await.unwrap(), machine)
    }

    pub(crate) fn over(channel: Channel, machine: Option<&str>) -> Self {
        Self {
            channel,
            machine: machine.map(str::to_owned),
            token: None,
        }
    }

    pub(crate) fn with_token(mut self, token: Option<&str>) -> Self {
        self.token = token.map(str::to_owned);
        self
    }

    async fn ready(&self) -> Result<Grpc, Status> {
        let mut grpc = Grpc::new(self.channel.clone())
            .max_decoding_message_size(usize::MAX)
            .max_encoding_message_size(usize::MAX);
        grpc.ready()
            .await
            .map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(grpc)
    }

    pub(crate) fn address<T>(&self, mut request: Request<T>) -> Request<T> {
        if let Some(machine) = &self.machine {
            let machine = machine.parse().unwrap();
            request.metadata_mut().insert(metadata::MACHINE_ID, machine);
        }
        if let Some(token) = &self.token {
            let bearer = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", bearer);
        }
        request
    }

    pub(crate) async fn unary(
        &self,
        method: &str,
        request: impl tonic::IntoRequest<Bytes>,
    ) -> Result<Response<Bytes>, Status> {
        let path = format!("/test.Echo/{method}").parse().unwrap();
        let request = self.address(request.into_request());
        self.ready().await?.unary(request, path, Raw).await
    }

    pub(crate) async fn stream(
        &self,
        method: &str,
        messages: impl tonic::IntoStreamingRequest<Message = Bytes>,
    ) -> Result<Response<Streaming<Bytes>>, Status> {
        let path = format!("/test.Echo/{method}").parse().unwrap();
        let request = self.address(messages.into_streaming_request());
        self.ready().await?.streaming(request, path, Raw).await
    }

    pub(crate) async fn many(
        &self,
        count: u64,
        size: usize,
        pause_us: u64,
    ) -> Result<Streaming<Bytes>, Status> {
        let ask = Bytes::from(format!("{count} {size} {pause_us}"));
        let answers = self.stream("Many", tokio_stream::once(ask)).await?;
        Ok(answers.into_inner())
    }
}
