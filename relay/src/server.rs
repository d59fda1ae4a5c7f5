//! The relay's listeners: one for clients, one for daemons.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use betcode_schema_tunnel::{ENROLMENT_ALPN, FRAME_BYTES_MAX};
use betcode_service::io_bytes::counted;
use betcode_service::read_ahead::read_ahead;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::auth::read_machine_certificate;
use crate::enrol::Enrol;
use crate::limits;
use crate::preface;
use crate::router::Router;
use crate::tls::Tls;
use crate::tunnel::{AcceptError, Acceptor, Identity, Keepalive};
use crate::unauthenticated::{ConnectionAuth, UnauthenticatedConnections};

/// What both listeners share.
#[derive(Clone)]
pub struct Listeners {
    /// Answers clients' calls.
    pub router: Arc<Router>,
    /// Opens daemons' tunnels.
    pub acceptor: Arc<Acceptor>,
    /// TLS with clients; `None` only on loopback.
    pub client_tls: Option<Arc<Tls>>,
    /// TLS with daemons; `None` only on loopback.
    pub tunnel_tls: Option<Arc<Tls>>,
    /// Lets machines enrol; `None` without TLS.
    pub enrol: Option<Arc<Enrol>>,
    /// How client connections are kept alive.
    pub keepalive: Keepalive,
    /// Slots for client connections.
    pub client_slots: Arc<Semaphore>,
    /// Client connections that have shown no token yet.
    pub unauthenticated: Arc<UnauthenticatedConnections>,
    /// Cancelled when the relay stops: connections finish their calls.
    pub stop: CancellationToken,
    /// Connections that are still there.
    pub connections: TaskTracker,
}

impl Listeners {
    /// Serves clients until the relay stops.
    pub async fn serve_clients(self, listener: TcpListener) {
        while let Some((stream, address)) = self.next(&listener).await {
            // Over the limit the connection is closed, and the client may try another relay.
            let Ok(slot) = self.client_slots.clone().try_acquire_owned() else {
                tracing::warn!(%address, "client refused: as many connections as there may be");
                continue;
            };
            let auth = match self.router.trusts(address.ip()) {
                true => Some(ConnectionAuth::of_proxy()),
                false => self.unauthenticated.admit(address.ip()),
            };
            let Some(auth) = auth else {
                tracing::warn!(%address, "client refused: too many of this address without a token");
                continue;
            };
            let listeners = self.clone();
            self.connections.spawn(async move {
                let _slot = slot;
                match &listeners.client_tls {
                    None => listeners.serve_client(stream, address.ip(), auth).await,
                    Some(tls) => {
                        match in_time(tls.for_clients().accept(read_ahead(stream))).await {
                            Ok(stream) => listeners.serve_client(stream, address.ip(), auth).await,
                            Err(error) => tracing::debug!(%address, %error, "no TLS with a client"),
                        }
                    }
                }
            });
        }
    }

    /// Serves daemons until the relay stops.
    pub async fn serve_tunnels(self, listener: TcpListener) {
        let slots = Arc::new(Semaphore::new(limits::GREETINGS_MAX));
        while let Some((stream, address)) = self.next(&listener).await {
            if let Err(refused) = self.router.admit_tunnel(address.ip()) {
                tracing::info!(%address, why = refused.message(), "no tunnel");
                continue;
            }
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                tracing::warn!(%address, "tunnel refused: too many greetings at once");
                continue;
            };
            let listeners = self.clone();
            self.connections.spawn(async move {
                let _slot = slot;
                if let Err(error) = listeners.serve_tunnel(stream).await {
                    tracing::info!(%address, %error, "no tunnel");
                }
            });
        }
    }

    async fn serve_tunnel(&self, stream: TcpStream) -> Result<(), AcceptError> {
        let stream = counted(stream, self.router.metrics.tunnel_bytes());
        let Some(tls) = &self.tunnel_tls else {
            let identity = Identity::AnyOnLoopback;
            return self.acceptor.accept(stream, &identity).await.map(drop);
        };
        let stream = read_ahead(stream);
        let accepted = in_time(tls.for_tunnels().accept(stream)).await;
        let mut stream = accepted.map_err(|error| AcceptError::Greeting(error.into()))?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() == Some(ENROLMENT_ALPN)
            && let Some(enrol) = &self.enrol
        {
            let enrolled = enrol.serve(&mut stream);
            return in_time(async { enrolled.await.map_err(std::io::Error::other) })
                .await
                .map_err(|error| AcceptError::Greeting(error.into()));
        }
        let certificate = session.peer_certificates().and_then(|chain| chain.first());
        let identity = match certificate.and_then(|der| read_machine_certificate(der)) {
            Some(named) => Identity::Machine(named),
            None => Identity::Nobody("no certificate that names a machine: enrol first"),
        };
        self.acceptor.accept(stream, &identity).await.map(drop)
    }

    async fn next(&self, listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = self.stop.cancelled() => return None,
            };
            match accepted {
                Ok((stream, address)) => {
                    // Small messages must not wait for larger ones.
                    let _ = stream.set_nodelay(true);
                    return Some((stream, address));
                }
                Err(error) => {
                    // Mostly too many open files: a pause lets some close.
                    tracing::warn!(%error, "no connection accepted");
                    tokio::time::sleep(Duration::from_millis(limits::ACCEPT_PAUSE_MS)).await;
                }
            }
        }
    }

    async fn serve_client<S>(&self, stream: S, address: IpAddr, auth: ConnectionAuth)
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let stream = match in_time(preface::read(stream)).await {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%address, %error, "no HTTP/2 with a client"),
        };
        let (router, auth) = (self.router.clone(), Arc::new(auth));
        let service = service_fn(move |request| {
            let (router, auth) = (router.clone(), auth.clone());
            async move { Ok::<_, Infallible>(router.handle(request, address, &auth).await) }
        });
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::CLIENT_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_concurrent_streams(limits::CALLS_PER_CLIENT_MAX)
            .max_send_buf_size(limits::SEND_BUFFER_BYTES_MAX)
            .max_header_list_size(limits::METADATA_BYTES_MAX)
            .max_pending_accept_reset_streams(limits::RESETS_PENDING_MAX)
            .keep_alive_interval(self.keepalive.interval)
            .keep_alive_timeout(self.keepalive.timeout)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%address, %error, "client connection broke");
        }
    }
}

/// Does the work within the time that a connection has for TLS and greeting.
async fn in_time<T>(work: impl Future<Output = std::io::Result<T>>) -> std::io::Result<T> {
    let within = Duration::from_millis(limits::GREETING_MS_MAX);
    let done = tokio::time::timeout(within, work).await;
    done.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}
