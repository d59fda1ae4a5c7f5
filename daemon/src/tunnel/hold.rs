//! Holding a tunnel: dialling, serving, dialling again.

use std::convert::Infallible;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use betcode_schema_tunnel::metadata::GoAway;
use betcode_schema_tunnel::{
    GreetingError, Hello, PROTOCOL, Refusal, Welcome, read_greeting, write_greeting,
};
use betcode_service::io_bytes::counted;
use betcode_service::read_ahead::read_ahead;
use betcode_service::sync;
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

use super::idempotency::IdempotentCalls;
use super::redial::Redial;
use super::serve::serve;
use super::{TunnelOptions, TunnelTls};

/// Where a tunnel stands, for status and health.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TunnelState {
    /// No relay is asked for.
    Off,
    /// The machine's credentials cannot be used; there is no attempt to dial.
    Unusable {
        /// What is wrong with them.
        why: String,
    },
    /// Dialling or greeting.
    Dialling,
    /// Open: clients of this relay reach the daemon.
    Open {
        /// The relay's name.
        relay_id: String,
        /// The tunnel's number there.
        epoch: u64,
        /// Since when.
        since: Instant,
    },
    /// Waiting before the next attempt.
    Waiting {
        /// Why the last one ended.
        why: String,
        /// How long.
        pause: Duration,
    },
    /// Stopped on request.
    Stopped,
}

/// A tunnel that is held until it is stopped or dropped.
pub struct Tunnel {
    state: watch::Receiver<TunnelState>,
    stop: CancellationToken,
    cut: CancellationToken,
    connections: TaskTracker,
    tls: Arc<RwLock<Option<TunnelTls>>>,
}

#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("dial {address}: {source}")]
    Connect {
        address: String,
        source: std::io::Error,
    },
    #[error("TLS with {address}: {source}")]
    Tls {
        address: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error("the relay refused ({reason:?}): {message}")]
    Refused { reason: Refusal, message: String },
    #[error("no answer in time")]
    Slow,
}

impl Tunnel {
    /// Begins to hold a tunnel over which `service` is served. Must be called within a Tokio
    /// runtime.
    pub fn hold<S, B>(options: TunnelOptions, service: S) -> Self
    where
        S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (told, state) = watch::channel(TunnelState::Dialling);
        let stop = CancellationToken::new();
        let cut = CancellationToken::new();
        let connections = TaskTracker::new();
        let tls = Arc::new(RwLock::new(options.tls.clone()));
        let large_answers = Arc::clone(&options.figures.large_answers);
        let holder = TunnelTask {
            instance: uuid::Uuid::new_v4().simple().to_string(),
            options,
            state: told,
            stop: stop.clone(),
            cut: cut.clone(),
            connections: connections.clone(),
            tls: Arc::clone(&tls),
            calls: IdempotentCalls::counted_by(&large_answers),
        };
        connections.spawn(holder.run(service));
        Self {
            state,
            stop,
            cut,
            connections,
            tls,
        }
    }

    /// Where the tunnel stands, now and as it changes.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<TunnelState> {
        self.state.clone()
    }

    /// Dials with these credentials from the next time on. A tunnel that is open stays.
    pub fn set_tls(&self, tls: TunnelTls) {
        *sync::write(&self.tls) = Some(tls);
    }

    /// Takes no more calls, lets those under way finish for at most `grace`, and ends. Returns
    /// whether all finished.
    pub async fn stop(self, grace: Duration) -> bool {
        self.stop.cancel();
        self.connections.close();
        let finished = tokio::time::timeout(grace, self.connections.wait()).await;
        self.cut.cancel();
        finished.is_ok()
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct TunnelTask {
    instance: String,
    options: TunnelOptions,
    state: watch::Sender<TunnelState>,
    stop: CancellationToken,
    /// Ends connections whose calls had their time.
    cut: CancellationToken,
    connections: TaskTracker,
    tls: Arc<RwLock<Option<TunnelTls>>>,
    /// Outlives single tunnels: repeats come over the next one.
    calls: IdempotentCalls,
}

/// Why a tunnel that was open is no longer the one to use.
enum FinalStatus {
    GoAway(GoAway),
    /// Another relay is the machine's now.
    Moved,
    Connection(String),
}

impl TunnelTask {
    async fn run<S, B>(self, service: S)
    where
        S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut redial = Redial::new(&self.options);
        // A tunnel that is served until the next one is open.
        let mut old: Option<CancellationToken> = None;
        while !self.stop.is_cancelled() {
            self.state.send_replace(TunnelState::Dialling);
            let dialled = tokio::select! {
                dialled = self.dial(false) => dialled,
                () = self.stop.cancelled() => break,
            };
            let (why, pause) = match dialled {
                Ok((stream, relay_id, epoch)) => {
                    let opened = Instant::now();
                    tracing::info!(relay = %relay_id, epoch, "tunnel open");
                    let open = TunnelState::Open {
                        relay_id,
                        epoch,
                        since: opened,
                    };
                    self.state.send_replace(open);
                    if let Some(old) = old.take() {
                        old.cancel();
                    }
                    let leave = self.stop.child_token();
                    let served = self.serve_until_left(stream, service.clone(), leave.clone());
                    let ended = served.await;
                    redial.opened_for(opened.elapsed());
                    match ended {
                        FinalStatus::GoAway(GoAway::Drain) => {
                            redial.relay_restarts();
                            ("the relay restarts".to_owned(), redial.pause())
                        }
                        FinalStatus::Moved => {
                            tracing::info!("another relay is this machine's now");
                            old = Some(leave);
                            continue;
                        }
                        FinalStatus::GoAway(GoAway::Replaced) => {
                            let why = "a newer tunnel of this machine took over".to_owned();
                            (why, self.options.replaced_pause)
                        }
                        FinalStatus::GoAway(GoAway::Revoked) => {
                            let why = "the relay no longer accepts this machine".to_owned();
                            (why, self.options.replaced_pause)
                        }
                        FinalStatus::Connection(why) => (why, redial.pause()),
                    }
                }
                Err(error) => (error.to_string(), redial.pause()),
            };
            if self.stop.is_cancelled() {
                break;
            }
            tracing::info!(why, pause_ms = pause.as_millis() as u64, "no tunnel");
            self.state.send_replace(TunnelState::Waiting { why, pause });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
        }
        self.state.send_replace(TunnelState::Stopped);
    }

    async fn serve_until_left<S, B>(
        &self,
        stream: Box<dyn Connection>,
        service: S,
        leave: CancellationToken,
    ) -> FinalStatus
    where
        S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (told, mut reason) = watch::channel(None);
        let options = self.options.clone();
        let (calls, cut) = (self.calls.clone(), self.cut.clone());
        // A task of its own: after a go-away it finishes its calls beside the next tunnel.
        let mut serving = self.connections.spawn(async move {
            tokio::select! {
                ended = serve(stream, service, &options, calls, told, leave) => {
                    ended.map_err(|error| error.to_string())
                }
                () = cut.cancelled() => Ok(()),
            }
        });
        tokio::select! {
            ended = &mut serving => FinalStatus::Connection(match ended {
                Ok(Ok(())) => "the relay closed the tunnel".to_owned(),
                Ok(Err(error)) => format!("the tunnel broke: {error}"),
                Err(error) => format!("serving failed: {error}"),
            }),
            Ok(reason) = reason.wait_for(Option::is_some) => {
                FinalStatus::GoAway((*reason).unwrap_or(GoAway::Drain))
            }
            () = self.until_moved() => FinalStatus::Moved,
        }
    }

    /// Returns when the relay that is reached is no longer the one of the open tunnel.
    async fn until_moved(&self) {
        let TunnelState::Open { relay_id: here, .. } = self.state.borrow().clone() else {
            return std::future::pending().await;
        };
        loop {
            // Spread over half the time, so that not all daemons ask at once.
            let fraction = (uuid::Uuid::new_v4().as_u128() % 1024) as f64 / 1024.0;
            let pause = self.options.place_check.mul_f64(0.75 + fraction / 2.0);
            tokio::time::sleep(pause).await;
            match self.dial(true).await {
                Ok((_, relay_id, _)) if relay_id != here => return,
                // What cannot be reached is no better place.
                Ok(_) | Err(_) => {}
            }
        }
    }

    async fn dial(&self, probe: bool) -> Result<(Box<dyn Connection>, String, u64), DialError> {
        tokio::time::timeout(self.options.dial_timeout, self.dial_slowly(probe))
            .await
            .unwrap_or(Err(DialError::Slow))
    }

    async fn dial_slowly(
        &self,
        probe: bool,
    ) -> Result<(Box<dyn Connection>, String, u64), DialError> {
        let address = &self.options.relay_address;
        let connected = TcpStream::connect(address).await;
        let tcp = connected.map_err(|source| DialError::Connect {
            address: address.clone(),
            source,
        })?;
        // Small messages must not wait for larger ones.
        let _ = tcp.set_nodelay(true);
        let figures = &self.options.figures;
        let tcp = counted(tcp, Arc::clone(&figures.bytes));
        let tls = sync::read(&self.tls).clone();
        let mut stream: Box<dyn Connection> = match tls {
            None => Box::new(tcp),
            Some(tls) => {
                let connector = TlsConnector::from(tls.config.clone());
                let secured = connector
                    .connect(tls.server_name.clone(), read_ahead(tcp))
                    .await;
                Box::new(secured.map_err(|source| DialError::Tls {
                    address: address.clone(),
                    source,
                })?)
            }
        };
        let hello = Hello {
            protocol: PROTOCOL,
            machine_id: self.options.machine.clone(),
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            probe,
        };
        let greeted = Instant::now();
        write_greeting(&mut stream, &hello).await?;
        match read_greeting(&mut stream).await? {
            Welcome::Accepted {
                relay_id,
                epoch,
                routing,
            } => {
                figures.greeted(greeted.elapsed(), routing);
                Ok((stream, relay_id, epoch))
            }
            Welcome::Refused { reason, message } => Err(DialError::Refused { reason, message }),
        }
    }
}

/// A connection, with TLS or without.
trait Connection: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Connection for T {}

#[cfg(test)]
mod tests {
    use betcode_schema_tunnel::GO_AWAY_PATH;
    use betcode_schema_tunnel::metadata::GO_AWAY;
    use tokio::net::TcpListener;
    use tonic::body::Body;

    use super::*;
    use crate::tunnel::Backoff;

    const FIRST: Duration = Duration::from_millis(1);

    fn welcome() -> Welcome {
        Welcome::Accepted {
            relay_id: "r".to_owned(),
            epoch: 1,
            routing: None,
        }
    }

    /// A relay that takes every tunnel, and then sends it on or breaks it at once.
    async fn fickle_relay(drains: bool) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _: Hello = read_greeting(&mut stream).await.unwrap();
                let welcome = welcome();
                write_greeting(&mut stream, &welcome).await.unwrap();
                if drains {
                    tokio::spawn(drain(stream));
                }
            }
        });
        address
    }

    async fn drain(stream: TcpStream) {
        let (calls, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        let request = Request::post(format!("http://daemon{GO_AWAY_PATH}"));
        let request = request.header(GO_AWAY, "drain").body(()).unwrap();
        let mut calls = calls.ready().await.unwrap();
        let (answer, _) = calls.send_request(request, true).unwrap();
        answer.await.unwrap();
    }

    #[tokio::test]
    async fn pauses_grow_while_tunnels_open_and_do_not_last() {
        for drains in [false, true] {
            let relay = fickle_relay(drains).await;
            let mut options = TunnelOptions::new(relay, "m-1".parse().unwrap());
            options.backoff = Backoff {
                first: FIRST,
                last: Duration::from_secs(3600),
            };
            let service = tower::service_fn(|_: Request<Body>| async {
                Ok::<_, Infallible>(Response::new(Body::empty()))
            });
            let tunnel = Tunnel::hold(options, service);
            let mut state = tunnel.state();
            let longer = |state: &TunnelState| matches!(state, TunnelState::Waiting { pause, .. } if *pause > 30 * FIRST);
            let waited = tokio::time::timeout(Duration::from_secs(30), state.wait_for(longer));
            waited.await.expect("the pauses stay short").unwrap();
        }
    }

    #[tokio::test]
    async fn a_relay_that_restarts_is_dialled_again_after_short_pauses() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _: Hello = read_greeting(&mut stream).await.unwrap();
            let welcome = welcome();
            write_greeting(&mut stream, &welcome).await.unwrap();
            drop(listener);
            drain(stream).await;
        });
        let mut options = TunnelOptions::new(address, "m-1".parse().unwrap());
        options.backoff = Backoff {
            first: FIRST,
            last: Duration::from_secs(3600),
        };
        options.restart_pause_max = 20 * FIRST;
        let service = tower::service_fn(|_: Request<Body>| async {
            Ok::<_, Infallible>(Response::new(Body::empty()))
        });
        let tunnel = Tunnel::hold(options, service);
        let mut state = tunnel.state();
        let (mut waits, begun) = (0, Instant::now());
        while waits < 30 {
            let changed = tokio::time::timeout(Duration::from_secs(10), state.changed()).await;
            changed.expect("it waits for long").unwrap();
            if let TunnelState::Waiting { pause, .. } = &*state.borrow_and_update() {
                assert!(
                    *pause <= 20 * FIRST,
                    "{pause:?} after {:?}",
                    begun.elapsed()
                );
                waits += 1;
            }
        }
    }
}
