//! A running relay: its parts put together, its background work, and its end.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use betcode_schema_tunnel::metadata::GoAway;
use betcode_service::connection::listen_hint;
use betcode_service::{private_file, process};
use betcode_storage::{StoreError, SystemClock};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::{
    ActiveTokens, Rate, RateLimiter, Revocations, StateError, StateFolder, TokenVerifier,
};
use crate::budget::{self, Budget, BudgetSocket};
use crate::buffer::{Buffer, BufferOptions, Deliverer, EmbeddedBuffer};
use crate::enrol::Enrol;
use crate::levels::Levels;
use crate::limits;
use crate::metrics::{self, Gauges, Metrics};
use crate::plan::{self, Load};
use crate::registry::EmbeddedRegistry;
use crate::relay_services::RelayServices;
use crate::revocation::RevocationList;
use crate::router::{Access, Gate, Intake, Router};
use crate::server::Listeners;
use crate::settings::Settings;
use crate::tls::{Tls, TlsError};
use crate::tunnel::{Acceptor, Keepalive, Table};
use crate::unauthenticated::UnauthenticatedConnections;

/// A relay that serves.
pub struct Relay {
    settings: Settings,
    listeners: Listeners,
    buffer: Arc<dyn Buffer>,
    table: Arc<Table>,
    services: RelayServices,
    metrics: Arc<Metrics>,
    levels: Arc<Levels>,
    revocations: Arc<RevocationList>,
    /// Memory in RAM when everything was open and nobody was connected.
    base_bytes: u64,
    client_address: SocketAddr,
    tunnel_address: SocketAddr,
    /// Held while it serves.
    _lock: File,
}

/// Why a relay could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Keys or lists in the state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// Another relay serves from the folder: what waits there would be delivered by both.
    #[error(
        "another relay serves from {folder}; stop it (`fuser {folder}/serving.lock` names its \
         process), or give this one a folder of its own"
    )]
    Held {
        /// The state folder.
        folder: PathBuf,
    },
    /// Certificates.
    #[error("{0}; has `betcode-relay init` been run with this state folder?")]
    Tls(#[from] TlsError),
    /// The buffer's database.
    #[error("the buffer: {0}")]
    Buffer(#[from] StoreError),
    /// An address that cannot be listened on.
    #[error("listen on {address}: {source}{}", listen_hint(.source))]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The system's answer.
        source: io::Error,
    },
}

impl Relay {
    /// Starts to serve. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// When something that serving needs is not there; nothing is served then.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let state = StateFolder::at(&settings.state_folder);
        let lock = lock(&state, &settings.state_folder)?;
        let tls = match settings.client_plaintext && settings.tunnel_plaintext {
            true => None,
            false => Some(Arc::new(Tls::load(state.clone())?)),
        };
        let verifier = TokenVerifier::new(&state.read_token_public_key()?);
        let buffer = open_buffer(&settings, &state).await?;
        let table = Arc::new(Table::default());
        let live = Arc::new(ActiveTokens::default());
        let revocations = RevocationList::load(state.clone(), table.clone(), live.clone())?;
        let metrics = Arc::new(Metrics::default());
        let services = RelayServices::new(settings.reflection, table.clone()).await;
        let shared = Shared {
            table,
            buffer,
            live,
            revoked: revocations.revoked().clone(),
            metrics,
            stop: CancellationToken::new(),
        };
        let router = shared.router(&settings, verifier, &services);
        let acceptor = shared.acceptor(&settings);
        let clients = listen(settings.client_listen).await?;
        let tunnels = listen(settings.tunnel_listen).await?;
        let listeners = Listeners {
            router: Arc::new(router),
            acceptor: Arc::new(acceptor),
            client_tls: tls.clone().filter(|_| !settings.client_plaintext),
            tunnel_tls: tls.clone().filter(|_| !settings.tunnel_plaintext),
            enrol: Some(Arc::new(Enrol::new(state.clone()))),
            keepalive: keepalive(&settings),
            client_slots: Arc::new(Semaphore::new(settings.clients_max)),
            unauthenticated: UnauthenticatedConnections::among(settings.clients_max),
            stop: shared.stop.clone(),
            connections: TaskTracker::new(),
        };
        let address = |listener: &TcpListener, asked| listener.local_addr().unwrap_or(asked);
        let relay = Self {
            client_address: address(&clients, settings.client_listen),
            tunnel_address: address(&tunnels, settings.tunnel_listen),
            listeners: listeners.clone(),
            buffer: shared.buffer,
            table: shared.table,
            services,
            metrics: shared.metrics,
            levels: Arc::default(),
            revocations: Arc::new(revocations),
            base_bytes: process::resident_bytes().now,
            settings,
            _lock: lock,
        };
        relay.spawn_metrics().await?;
        relay.spawn_budget(state.budget_socket());
        tokio::spawn(listeners.clone().serve_clients(clients));
        tokio::spawn(listeners.serve_tunnels(tunnels));
        relay.spawn_levels();
        relay.spawn_sweeper();
        relay.spawn_revocation_watch();
        Ok(relay)
    }

    /// Where clients are served.
    #[must_use]
    pub fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where daemons are served.
    #[must_use]
    pub fn tunnel_address(&self) -> SocketAddr {
        self.tunnel_address
    }

    /// Open tunnels.
    #[must_use]
    pub fn table(&self) -> &Arc<Table> {
        &self.table
    }

    /// Requests that wait.
    #[must_use]
    pub fn buffer(&self) -> &Arc<dyn Buffer> {
        &self.buffer
    }

    /// Reads certificates and revocations again. What cannot be read stays as it was, and is
    /// logged.
    pub fn reload(&self) {
        for tls in [&self.listeners.client_tls, &self.listeners.tunnel_tls] {
            if let Some(Err(error)) = tls.as_ref().map(|tls| tls.reload()) {
                tracing::error!(%error, "certificates not reloaded: those in use stay in use");
            }
        }
        if let Err(error) = self.revocations.refresh() {
            tracing::error!(%error, "revocations not reloaded");
        }
        tracing::info!("reloaded");
    }

    /// Stops: tells load balancers and daemons, lets calls under way finish for at most the
    /// drain's time, and ends. Shortly before that time is over, calls that have not ended are: their
    /// callers get trailers from the relay. Whether everything finished by itself.
    pub async fn drain(self) -> bool {
        let within = Duration::from_millis(self.settings.drain_ms_max);
        let cancel_lead = Duration::from_millis(limits::DRAIN_CANCEL_LEAD_MS).min(within / 2);
        let until = Instant::now() + within;
        let grace = within - cancel_lead;
        let cut_at = until - cancel_lead;
        self.services.stop().await;
        self.listeners
            .acceptor
            .draining
            .store(true, Ordering::Release);
        // Daemons leave first, so that new calls find them at another relay.
        let leaving: Vec<_> = self
            .table
            .all()
            .into_iter()
            .map(|tunnel| tokio::spawn(async move { tunnel.go_away(GoAway::Drain, grace).await }))
            .collect();
        self.listeners.stop.cancel();
        self.listeners.connections.close();
        let finished = async {
            for task in leaving {
                let _ = task.await;
            }
            self.listeners.connections.wait().await;
        };
        let mut finished = std::pin::pin!(finished);
        if tokio::time::timeout_at(cut_at.into(), &mut finished)
            .await
            .is_ok()
        {
            return true;
        }
        // Tunnels too that were left before the stop, with more time.
        for tunnel in self.table.connections() {
            tunnel.cut();
        }
        let _ = tokio::time::timeout_at(until.into(), finished).await;
        false
    }

    async fn spawn_metrics(&self) -> Result<(), StartError> {
        let Some(address) = self.settings.metrics_listen else {
            return Ok(());
        };
        let listener = listen(address).await?;
        tracing::info!(address = %listener.local_addr().unwrap_or(address), "metrics");
        let (metrics, levels) = (self.metrics.clone(), self.levels.clone());
        let gauges = self.gauges();
        let render = move || {
            let gauges = gauges();
            metrics.render(&gauges, &levels.now(&gauges))
        };
        let stop = self.listeners.stop.clone();
        tokio::spawn(metrics::serve(listener, Arc::new(render), stop));
        Ok(())
    }

    /// Answers an operator's command that asks how busy the relay is. The relay serves also without that.
    fn spawn_budget(&self, path: PathBuf) {
        let socket = match BudgetSocket::bind(path) {
            Ok(socket) => socket,
            Err(error) => {
                return tracing::warn!(
                    %error,
                    "`betcode-relay budget` cannot ask this relay: there is no socket in its state folder"
                );
            }
        };
        let (metrics, levels) = (self.metrics.clone(), self.levels.clone());
        let (gauges, relay_id) = (self.gauges(), self.settings.relay_id.clone());
        let budget = move || Budget::of(&relay_id, &gauges(), &metrics, &levels);
        let stop = self.listeners.stop.clone();
        tokio::spawn(budget::serve(socket, Arc::new(budget), stop));
    }

    /// Measures the gauges when it is called.
    fn gauges(&self) -> impl Fn() -> Gauges + Send + Sync + use<> {
        let (table, buffer, listeners) = (
            self.table.clone(),
            self.buffer.clone(),
            self.listeners.clone(),
        );
        let (settings, base_bytes) = (self.settings.clone(), self.base_bytes);
        move || {
            let (waiting, resident) = (buffer.counts(), process::resident_bytes());
            let tunnels = table.len();
            let clients = settings.clients_max - listeners.client_slots.available_permits();
            Gauges {
                tunnels,
                tunnels_max: settings.tunnels_max,
                clients,
                clients_max: settings.clients_max,
                calls: settings.calls_max - listeners.router.calls.available_permits(),
                calls_max: settings.calls_max,
                waiting: waiting.requests,
                waiting_max: settings.buffer_requests_max,
                waiting_of_fullest: waiting.requests_of_fullest,
                waiting_per_machine_max: settings.buffer_requests_per_machine_max,
                waiting_bytes: waiting.bytes,
                waiting_bytes_max: settings.buffer_bytes_max,
                resident_bytes: resident.now,
                resident_bytes_max: resident.peak,
                base_bytes,
                planned_bytes: plan::memory_bytes(&Load {
                    tunnels: tunnels as u64,
                    clients: clients as u64,
                    buffered: waiting.requests as u64,
                    rps: 0,
                }),
                memory_bytes_max: plan::memory_bytes(&Load::of(&settings)),
            }
        }
    }

    fn spawn_levels(&self) {
        let (gauges, levels) = (self.gauges(), self.levels.clone());
        let metrics = self.metrics.clone();
        let stop = self.listeners.stop.clone();
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(Duration::from_millis(limits::LEVELS_SAMPLE_MS));
            // Samples that are closer than that would make a moment's load a sustained one.
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => levels.sample(&gauges(), metrics.calls()),
                    () = stop.cancelled() => return,
                }
            }
        });
    }

    fn spawn_sweeper(&self) {
        let (buffer, stop) = (self.buffer.clone(), self.listeners.stop.clone());
        let metrics = self.metrics.clone();
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                match buffer.expire().await {
                    Ok(0) => {}
                    Ok(requests) => {
                        metrics.expired(requests);
                        tracing::warn!(requests, "requests waited too long");
                    }
                    Err(error) => tracing::error!(%error, "old requests not removed"),
                }
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(limits::BUFFER_SWEEP_MS)) => {}
                    () = stop.cancelled() => {}
                }
            }
        });
    }

    /// Takes revocations up as soon as a command has written them.
    fn spawn_revocation_watch(&self) {
        let (revocations, stop) = (self.revocations.clone(), self.listeners.stop.clone());
        tokio::spawn(async move {
            while !stop.is_cancelled() {
                let revocations = revocations.clone();
                let reading = tokio::task::spawn_blocking(move || revocations.refresh_if_written());
                if let Ok(Err(error)) = reading.await {
                    tracing::error!(
                        %error,
                        "revocations not read: those read before stay in force; correct the file, \
                         or restore it"
                    );
                }
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(limits::STATE_POLL_MS)) => {}
                    () = stop.cancelled() => {}
                }
            }
        });
    }
}

/// What several parts of a relay share.
struct Shared {
    table: Arc<Table>,
    buffer: Arc<dyn Buffer>,
    live: Arc<ActiveTokens>,
    revoked: Arc<RwLock<Revocations>>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
}

impl Shared {
    fn router(
        &self,
        settings: &Settings,
        verifier: TokenVerifier,
        services: &RelayServices,
    ) -> Router {
        let rate = |per_s, burst| Rate { per_s, burst };
        let of_user = rate(settings.user_calls_per_s, settings.user_calls_burst);
        let of_address = rate(settings.address_calls_per_s, settings.address_calls_burst);
        Router {
            relay_id: settings.relay_id.clone(),
            table: self.table.clone(),
            buffer: self.buffer.clone(),
            gate: Gate {
                access: Access::Tokens(Box::new(verifier)),
                revoked: self.revoked.clone(),
                live: self.live.clone(),
                users: RateLimiter::new(of_user),
                addresses: RateLimiter::new(of_address),
            },
            calls: Arc::new(Semaphore::new(settings.calls_max)),
            intake: Intake::default(),
            message_bytes_max: settings.message_bytes_max,
            trusted_proxies: settings.trusted_proxies.clone(),
            metrics: self.metrics.clone(),
            services: services.routes(),
            stop: self.stop.clone(),
        }
    }

    fn acceptor(&self, settings: &Settings) -> Acceptor {
        Acceptor {
            relay_id: settings.relay_id.clone(),
            table: self.table.clone(),
            registry: Arc::new(EmbeddedRegistry::new(&SystemClock)),
            deliverer: Arc::new(Deliverer::new(
                settings.relay_id.clone(),
                self.buffer.clone(),
                self.revoked.clone(),
                self.metrics.clone(),
            )),
            revoked: self.revoked.clone(),
            metrics: self.metrics.clone(),
            keepalive: keepalive(settings),
            slots: Arc::new(Semaphore::new(settings.tunnels_max)),
            go_away_grace: Duration::from_millis(settings.go_away_grace_ms),
            draining: false.into(),
        }
    }
}

fn keepalive(settings: &Settings) -> Keepalive {
    Keepalive {
        interval: Duration::from_millis(settings.keepalive_interval_ms),
        timeout: Duration::from_millis(settings.keepalive_timeout_ms),
    }
}

/// Locks the state folder against other relays.
fn lock(state: &StateFolder, folder: &Path) -> Result<File, StartError> {
    let path = state.serving();
    match private_file::try_lock(&path) {
        Ok(Some(lock)) => Ok(lock),
        Ok(None) => Err(StartError::Held {
            folder: folder.to_owned(),
        }),
        Err(source) => Err(StateError::Io { path, source }.into()),
    }
}

async fn open_buffer(
    settings: &Settings,
    state: &StateFolder,
) -> Result<Arc<dyn Buffer>, StoreError> {
    let options = BufferOptions {
        requests_per_machine_max: settings.buffer_requests_per_machine_max,
        requests_max: settings.buffer_requests_max,
        bytes_max: settings.buffer_bytes_max,
        age_ms_max: settings.buffer_age_ms_max,
        ..BufferOptions::default()
    };
    let path = state.buffer();
    let opened = tokio::task::spawn_blocking(move || EmbeddedBuffer::open(&path, options)).await;
    match opened {
        Ok(buffer) => Ok(Arc::new(buffer?)),
        Err(error) => Err(StoreError::Closed {
            why: Some(error.to_string()),
        }),
    }
}

async fn listen(address: SocketAddr) -> Result<TcpListener, StartError> {
    let bound = TcpListener::bind(address).await;
    bound.map_err(|source| StartError::Listen { address, source })
}
