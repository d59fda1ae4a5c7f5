//! Holding a tunnel: dialling, serving, dialling again.

use std::convert::Infallible;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use betcode_schema_tunnel::metadata::GoAway;
use betcode_service::connection::BoxedStream;
use betcode_service::sync;
use http::{Request, Response};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::body::Body;
use tower::Service;
use tower::util::BoxCloneSyncService;

use super::dial::{Dialer, Dialled};
use super::idempotency::IdempotentCalls;
use super::redial::Redial;
use super::serve::{TunnelService, serve};
use super::{TunnelOptions, TunnelTls};

/// The state of a tunnel, for status and health.
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

impl Tunnel {
    /// Begins to hold a tunnel over which `service` is served. Must be called within a Tokio
    /// runtime.
    pub fn hold<S>(options: TunnelOptions, service: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
        S: Clone + Send + Sync + 'static,
        S::Future: Send,
    {
        let (state_sender, state) = watch::channel(TunnelState::Dialling);
        let stop = CancellationToken::new();
        let cut = CancellationToken::new();
        let connections = TaskTracker::new();
        let tls = Arc::new(RwLock::new(options.tls.clone()));
        let task = TunnelTask {
            dialer: Dialer::new(options.clone(), Arc::clone(&tls)),
            calls: IdempotentCalls::counted_by(&options.figures.large_answers),
            options,
            service: BoxCloneSyncService::new(service),
            state: state_sender,
            stop: stop.clone(),
            cut: cut.clone(),
            connections: connections.clone(),
        };
        connections.spawn(task.run());
        Self {
            state,
            stop,
            cut,
            connections,
            tls,
        }
    }

    /// The state of the tunnel, now and as it changes.
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
    dialer: Dialer,
    options: TunnelOptions,
    service: TunnelService,
    /// Shared by all connections: a repeat may come over a later one than the first request.
    calls: IdempotentCalls,
    state: watch::Sender<TunnelState>,
    stop: CancellationToken,
    /// Ends connections whose calls have had the time of the stop.
    cut: CancellationToken,
    connections: TaskTracker,
}

/// Why an open tunnel is no longer the one to use.
enum TunnelEnd {
    /// The relay says so.
    GoAway(GoAway),
    /// The address leads to another relay now.
    Moved,
    /// The connection ended, and why.
    Closed(String),
}

impl TunnelTask {
    async fn run(self) {
        let mut redial = Redial::new(&self.options);
        // Ends the tunnel to the relay that the machine moved away from: once the next one is open.
        let mut leave_old: Option<CancellationToken> = None;
        while !self.stop.is_cancelled() {
            self.state.send_replace(TunnelState::Dialling);
            let dialled = tokio::select! {
                dialled = self.dialer.dial() => dialled,
                () = self.stop.cancelled() => break,
            };
            let (why, pause) = match dialled {
                Err(error) => (error.to_string(), redial.pause()),
                Ok(dialled) => {
                    let opened = Instant::now();
                    let relay_id = dialled.relay_id.clone();
                    tracing::info!(relay = %relay_id, epoch = dialled.epoch, "tunnel open");
                    self.state.send_replace(TunnelState::Open {
                        relay_id: relay_id.clone(),
                        epoch: dialled.epoch,
                        since: opened,
                    });
                    if let Some(leave) = leave_old.take() {
                        leave.cancel();
                    }
                    let leave = self.stop.child_token();
                    let end = self.serve_until_left(dialled, leave.clone()).await;
                    redial.opened_for(opened.elapsed());
                    match end {
                        TunnelEnd::Moved => {
                            tracing::info!("another relay is this machine's now");
                            leave_old = Some(leave);
                            continue;
                        }
                        TunnelEnd::GoAway(GoAway::Drain) => {
                            redial.relay_restarts();
                            ("the relay restarts".to_owned(), redial.pause())
                        }
                        TunnelEnd::GoAway(GoAway::Replaced) => {
                            let why = "a newer tunnel of this machine took over".to_owned();
                            (why, self.options.replaced_pause)
                        }
                        TunnelEnd::GoAway(GoAway::Revoked) => {
                            let why = "the relay no longer accepts this machine".to_owned();
                            (why, self.options.replaced_pause)
                        }
                        TunnelEnd::Closed(why) => (why, redial.pause()),
                    }
                }
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

    async fn serve_until_left(&self, dialled: Dialled, leave: CancellationToken) -> TunnelEnd {
        let Dialled {
            stream, relay_id, ..
        } = dialled;
        let (go_away_sender, mut go_away) = watch::channel(None);
        // A task of its own: after a go-away it finishes its calls beside the next tunnel.
        let mut serving =
            self.connections
                .spawn(self.serve_until_cut(stream, go_away_sender, leave));
        tokio::select! {
            ended = &mut serving => TunnelEnd::Closed(match ended {
                Ok(Ok(())) => "the relay closed the tunnel".to_owned(),
                Ok(Err(error)) => format!("the tunnel broke: {error}"),
                Err(error) => format!("serving failed: {error}"),
            }),
            Ok(reason) = go_away.wait_for(Option::is_some) => {
                TunnelEnd::GoAway((*reason).unwrap_or(GoAway::Drain))
            }
            () = self.until_moved(&relay_id) => TunnelEnd::Moved,
        }
    }

    fn serve_until_cut(
        &self,
        stream: BoxedStream,
        go_away: watch::Sender<Option<GoAway>>,
        leave: CancellationToken,
    ) -> impl Future<Output = Result<(), hyper::Error>> + Send + use<> {
        let (options, service) = (self.options.clone(), self.service.clone());
        let (calls, cut) = (self.calls.clone(), self.cut.clone());
        async move {
            tokio::select! {
                ended = serve(stream, service, &options, calls, go_away, leave) => ended,
                () = cut.cancelled() => Ok(()),
            }
        }
    }

    /// Returns when the address leads to another relay than the one of the open tunnel.
    async fn until_moved(&self, relay_id: &str) {
        loop {
            // Spread over half the time, so that not all daemons ask at once.
            let fraction = (uuid::Uuid::new_v4().as_u128() % 1024) as f64 / 1024.0;
            let pause = self.options.probe_interval.mul_f64(0.75 + fraction / 2.0);
            tokio::time::sleep(pause).await;
            match self.dialer.probe().await {
                Ok(reached) if reached != relay_id => return,
                // A relay that cannot be reached is no better one.
                Ok(_) | Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use betcode_schema_tunnel::metadata::GO_AWAY;
    use betcode_schema_tunnel::{GO_AWAY_PATH, Hello, Welcome, read_greeting, write_greeting};
    use tokio::net::{TcpListener, TcpStream};

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
