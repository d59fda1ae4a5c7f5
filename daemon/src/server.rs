//! The daemon put together: the store, the services, the transports; start, stop, reload.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use betcode_schema_grpc::history::capacity_service_server::CapacityServiceServer;
use betcode_schema_grpc::history::compaction_service_server::CompactionServiceServer;
use betcode_schema_grpc::history::history_service_server::HistoryServiceServer;
use betcode_schema_grpc::history::maintenance_service_server::MaintenanceServiceServer;
use betcode_schema_grpc::v1::agent_service_server::AgentServiceServer;
use betcode_schema_grpc::v1::bet_code_health_server::BetCodeHealthServer;
use betcode_schema_grpc::v1::health_server::HealthServer;
use betcode_schema_grpc::v1::version_service_server::VersionServiceServer;
use betcode_service::connection::listen_hint;
use betcode_service::process::{open_files_max, resident_bytes};
use betcode_service::sync::lock;
use betcode_storage::{SizeLimits, Store, StoreError};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tonic::transport::Server;

use crate::admission::Admission;
use crate::agents::Agents;
use crate::blocking::Blocking;
use crate::core::Core;
use crate::health::Health;
use crate::hub::Hub;
use crate::limits;
use crate::lock::{Lock, LockError};
use crate::monitor::{self, Monitor};
use crate::observe::{Metrics, ms, prometheus};
use crate::services::agent::Agent;
use crate::services::capacity::Capacity;
use crate::services::compaction::Compaction;
use crate::services::health::HealthServices;
use crate::services::history::History;
use crate::services::maintenance::Maintenance;
use crate::services::version::Version;
use crate::settings::Settings;
use crate::transport::{GateLayer, Listener, SocketFile, Tls, TlsError};
use crate::tunnel::{self, Tunnel, TunnelState};

/// Services whose health is reported by name.
pub const SERVICES: [&str; 8] = [
    "betcode.history.v1.HistoryService",
    "betcode.history.v1.CompactionService",
    "betcode.history.v1.MaintenanceService",
    "betcode.history.v1.CapacityService",
    "betcode.v1.AgentService",
    "betcode.v1.VersionService",
    "betcode.v1.Health",
    "betcode.v1.BetCodeHealth",
];

/// Why the daemon does not start, or did not end well.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Another daemon has the store.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The store cannot be opened.
    #[error("{source}{}", .source.hint().map(|hint| format!("; {hint}")).unwrap_or_default())]
    Store {
        /// The store's answer.
        #[from]
        source: StoreError,
    },
    /// A transport cannot be opened.
    #[error("listen at {at}: {source}{}", listen_hint(.source))]
    Listen {
        /// Where.
        at: String,
        /// The reason.
        source: io::Error,
    },
    /// A certificate or key is not what it should be.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The gRPC server failed.
    #[error("serve: {0}")]
    Grpc(#[from] tonic::transport::Error),
    /// The descriptors for reflection are broken: a bug of the build.
    #[error("reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A daemon that serves.
pub struct Daemon {
    core: Arc<Core>,
    draining: watch::Sender<bool>,
    routes: Routes,
    tunnel: Mutex<Option<Tunnel>>,
    tunnel_state: watch::Sender<TunnelState>,
    servers: JoinSet<Result<(), ServeError>>,
    certificates: Option<Arc<Tls>>,
    tcp: Option<SocketAddr>,
    tls: Option<SocketAddr>,
    prometheus: Option<SocketAddr>,
    // Last: given back when everything else is gone.
    _lock: Lock,
}

impl Daemon {
    /// Takes the store's lock, opens the store, which brings in order what a crash left, and
    /// serves. Returns when requests are answered.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn start(settings: Settings) -> Result<Self, ServeError> {
        let lock = Lock::take(&settings.db, &settings.socket)?;
        let hub = Arc::new(Hub::new(settings.max_follower_buffer_bytes));
        let store = open(&settings, &hub).await?;
        let compaction = match settings.compaction {
            true => Some(store.start_compaction(settings.compaction_options())?),
            false => None,
        };
        let (draining, draining_receiver) = watch::channel(false);
        let (health_sender, health) = watch::channel(Health::default());
        let (levels_sender, levels) = watch::channel(Vec::new());
        let (tunnel_state, tunnel) = watch::channel(TunnelState::Off);
        let core = Arc::new(Core {
            store,
            hub,
            agents: Agents::default(),
            admission: Admission::new(&settings.maxima()),
            blocking: Blocking::new(settings.max_readers as usize),
            metrics: Metrics::default(),
            health,
            levels,
            tunnel,
            draining: draining_receiver,
            base_bytes: resident_bytes().now,
            settings,
            compaction: Mutex::new(compaction),
        });
        let store = core.store.clone();
        let runs = core.blocking.read(move || store.compaction_runs(1)).await;
        // A store whose history of runs cannot be read is looked at by the probe.
        core.metrics
            .compaction_runs
            .observe(&runs.unwrap_or_default());
        let (reporter, health_service) = tonic_health::server::health_reporter();
        let mut monitor = Monitor::new(health_sender, levels_sender, reporter);
        monitor.begin(&core).await;
        tokio::spawn(monitor.run(Arc::clone(&core)));
        tokio::spawn(monitor::poll(Arc::clone(&core)));
        let routes = routes(&core)?.add_service(health_service);
        let mut daemon = Self {
            core,
            draining,
            routes,
            tunnel: Mutex::default(),
            tunnel_state,
            servers: JoinSet::new(),
            certificates: None,
            tcp: None,
            tls: None,
            prometheus: None,
            _lock: lock,
        };
        daemon.listen().await?;
        daemon.attach();
        Ok(daemon)
    }

    /// Opens the tunnel, or gives the one that is open the credentials as they are now.
    fn attach(&self) {
        let mut tunnel = lock(&self.tunnel);
        match &*tunnel {
            None => *tunnel = tunnel::attach(&self.core, &self.routes, &self.tunnel_state),
            Some(open) => tunnel::renew(&self.core, open),
        }
    }

    async fn listen(&mut self) -> Result<(), ServeError> {
        let settings = &self.core.settings;
        let (tcp, tls, metrics) = (
            settings.tcp_listen,
            settings.tls_listen,
            settings.prometheus_listen,
        );
        let connections = connections_max(settings.max_connections) as u64;
        self.core.admission.connections.set_max(connections);
        let at = settings.socket.clone();
        let socket = SocketFile::bind(&at).map_err(|source| ServeError::Listen {
            at: at.display().to_string(),
            source,
        })?;
        self.serve(Listener::Unix(socket));
        if let Some(address) = tcp {
            let listener = bind(address).await?;
            self.tcp = listener.local_addr().ok();
            self.serve(Listener::Tcp(listener));
        }
        if let Some(address) = tls {
            let certificates = Arc::new(Tls::load(&self.core.settings)?);
            self.certificates = Some(Arc::clone(&certificates));
            let listener = bind(address).await?;
            self.tls = listener.local_addr().ok();
            self.serve(Listener::Tls(listener, certificates));
        }
        if let Some(address) = metrics {
            let listener = bind(address).await?;
            self.prometheus = listener.local_addr().ok();
            let core = Arc::clone(&self.core);
            self.servers.spawn(async move {
                prometheus::serve(core, listener)
                    .await
                    .map_err(|source| ServeError::Listen {
                        at: address.to_string(),
                        source,
                    })
            });
        }
        Ok(())
    }

    fn serve(&mut self, listener: Listener) {
        let mut server = Server::builder()
            .layer(GateLayer(Arc::clone(&self.core)))
            .max_concurrent_streams(limits::STREAMS_PER_CONNECTION_MAX)
            .http2_max_header_list_size(limits::HEADER_BYTES_MAX)
            .http2_keepalive_interval(Some(ms(limits::KEEPALIVE_INTERVAL_MS)))
            .http2_keepalive_timeout(Some(ms(limits::KEEPALIVE_TIMEOUT_MS)));
        let age_ms = self.core.settings.max_connection_age_ms;
        if age_ms > 0 && !matches!(listener, Listener::Unix(_)) {
            server = server
                .max_connection_age(ms(age_ms))
                .max_connection_age_grace(ms(limits::CONNECTION_GRACE_MS));
        }
        let (core, routes) = (Arc::clone(&self.core), self.routes.clone());
        let incoming = listener.incoming(Arc::clone(&core));
        self.servers.spawn(async move {
            server
                .add_routes(routes)
                .serve_with_incoming_shutdown(incoming, async move { core.drained().await })
                .await
                .map_err(ServeError::from)
        });
    }

    /// What the services share.
    #[must_use]
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// The address of plain TCP, when it is served.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.tcp
    }

    /// The address of mutual TLS, when it is served.
    #[must_use]
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls
    }

    /// The address of the metrics, when they are served.
    #[must_use]
    pub fn prometheus_address(&self) -> Option<SocketAddr> {
        self.prometheus
    }

    /// Applies settings that may change while the daemon runs, and reads the credentials of the
    /// tunnel again. The others wait for a restart.
    ///
    /// # Errors
    /// When the store refuses its limits, or a certificate is not what it should be: then the old
    /// one stays.
    pub fn reload(&self, settings: &Settings) -> Result<(), ServeError> {
        self.core.admission.set(&settings.maxima());
        self.core
            .hub
            .set_buffer_bytes_max(settings.max_follower_buffer_bytes);
        self.core.store.set_limits(SizeLimits {
            db_bytes_max: settings.max_db_bytes,
            session_bytes_max: settings.max_session_bytes,
        })?;
        self.attach();
        if let Some(certificates) = &self.certificates {
            certificates.reload(settings)?;
        }
        Ok(())
    }

    /// Stops: takes no new requests, answers those under way, lets what waits in the queue reach
    /// the disk. After `max_drain_ms` the connections that are left are cut. Returns whether
    /// there were none.
    pub async fn stop(mut self) -> bool {
        let _ = self.draining.send(true);
        if let Some(running) = self.core.compaction().take() {
            // Ends at its next step; it must not hold up the drain.
            tokio::task::spawn_blocking(move || running.stop());
        }
        let all_done = async {
            while let Some(done) = self.servers.join_next().await {
                if let Ok(Err(error)) = done {
                    tracing::warn!(%error, "a transport ended badly");
                }
            }
        };
        let drain_max = ms(self.core.settings.max_drain_ms);
        let tunnel = lock(&self.tunnel).take();
        let left = async {
            match tunnel {
                Some(tunnel) => tunnel.stop(drain_max).await,
                None => true,
            }
        };
        let (done, left, agents_gone) = tokio::join!(
            tokio::time::timeout(drain_max, all_done),
            left,
            self.core.agents.stop(self.core.settings.max_drain_ms),
        );
        let in_time = done.is_ok() && left && agents_gone;
        if !in_time {
            tracing::warn!("cutting off who is still connected");
            self.servers.shutdown().await;
        }
        let store = self.core.store.clone();
        let closed = tokio::task::spawn_blocking(move || store.close()).await;
        if let Ok(Err(error)) = closed {
            tracing::error!(%error, "the store did not close in order");
        }
        in_time
    }
}

async fn open(settings: &Settings, hub: &Arc<Hub>) -> Result<Store, ServeError> {
    let mut options = settings.store_options();
    let hub = Arc::clone(hub);
    options.on_commit = Some(Arc::new(move |commit| hub.publish(commit)));
    let path = settings.db.clone();
    let opened = tokio::task::spawn_blocking(move || Store::open(&path, options)).await;
    let panicked = || StoreError::Closed {
        why: Some("opening it ended by an internal error".into()),
    };
    Ok(opened.map_err(|_| panicked())??)
}

/// As many connections as are wanted, within the files that the system lets us open: the store
/// needs some of them.
fn connections_max(wanted: usize) -> usize {
    let files = open_files_max().map_or(usize::MAX, |files| {
        usize::try_from(files).unwrap_or(usize::MAX)
    });
    wanted.min(files.saturating_sub(limits::FILES_RESERVED).max(1))
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| ServeError::Listen {
            at: address.to_string(),
            source,
        })
}

fn routes(core: &Arc<Core>) -> Result<Routes, ServeError> {
    let of = || Arc::clone(core);
    // The descriptors also know services of the relay, which are not listed here.
    let reflection = || {
        SERVICES
            .into_iter()
            .fold(
                tonic_reflection::server::Builder::configure(),
                |builder, service| builder.with_service_name(service),
            )
            .register_encoded_file_descriptor_set(betcode_schema_grpc::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name("grpc.health.v1.Health")
    };
    let request_bytes_max = core.settings.request_bytes_max();
    let history =
        HistoryServiceServer::new(History(of())).max_decoding_message_size(request_bytes_max);
    let agents = AgentServiceServer::new(Agent(of())).max_decoding_message_size(request_bytes_max);
    let health = HealthServices(of());
    Ok(Routes::new(history)
        .add_service(CompactionServiceServer::new(Compaction(of())))
        .add_service(MaintenanceServiceServer::new(Maintenance(of())))
        .add_service(CapacityServiceServer::new(Capacity(of())))
        .add_service(agents)
        .add_service(VersionServiceServer::new(Version(of())))
        .add_service(HealthServer::new(health.clone()))
        .add_service(BetCodeHealthServer::new(health))
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?))
}
