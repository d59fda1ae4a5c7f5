//! An open tunnel: HTTP/2 on a connection that the daemon dialled, with the relay as its client.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use betcode_schema_tunnel::metadata::{GO_AWAY, GoAway};
use betcode_schema_tunnel::{FRAME_BYTES_MAX, GO_AWAY_PATH, MachineId};
use http::{HeaderValue, Request, Response, Version};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::cut::cuttable;
use super::spawn::TunnelExecutor;
use crate::limits;
use crate::router::TunnelBody;

/// How often a connection is pinged.
#[derive(Debug, Clone, Copy)]
pub struct Keepalive {
    /// Between two pings.
    pub interval: Duration,
    /// Without an answer for so long, the connection counts as dead.
    pub timeout: Duration,
}

/// What is known of a tunnel when it opens.
#[derive(Debug, Clone)]
pub struct TunnelInfo {
    /// The machine.
    pub machine: MachineId,
    /// The process there.
    pub instance: String,
    /// Number of the tunnel.
    pub epoch: u64,
    /// When the machine's certificate was issued, Unix seconds; `None` without TLS.
    pub certificate_issued_s: Option<u64>,
    /// The machine's slot among those that have tunnels.
    pub slot: Arc<MachineSlot>,
}

/// A machine's slot among those that have tunnels. Its tunnels share it while one replaces another; it is free
/// again when the last of them is gone.
#[derive(Debug)]
pub struct MachineSlot {
    pub(super) _held: OwnedSemaphorePermit,
}

/// A tunnel on which calls can be made.
///
/// It ends in three steps: it is *left* when the daemon is told to leave it, and no new call is made on it; it is
/// *closed* when the connection takes no more calls, for whatever reason; it is *gone* when the last call has left
/// the connection.
pub struct Tunnel {
    info: TunnelInfo,
    sender: SendRequest<TunnelBody>,
    slots: Arc<Semaphore>,
    /// Wakes the delivery of requests that waited.
    waiting: Notify,
    leaving: AtomicBool,
    /// See above.
    left: CancellationToken,
    closed: CancellationToken,
    gone: CancellationToken,
    /// Cancelled to end the connection with the calls on it.
    cut: CancellationToken,
}

/// A call's slots on the tunnel and in the relay, given back when dropped.
#[derive(Debug)]
pub struct CallPermit {
    _of_tunnel: OwnedSemaphorePermit,
    _of_relay: Option<OwnedSemaphorePermit>,
}

/// Why a call could not be made on a tunnel.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The tunnel ended, or the daemon is leaving it: nothing of the call was sent.
    #[error("the tunnel is closed")]
    Closed,
    /// The call broke, before or after the daemon saw it.
    #[error("the call broke: {0}")]
    Broken(#[source] hyper::Error),
}

impl Tunnel {
    /// Opens HTTP/2 on a connection whose greeting is done, and drives it until it ends.
    ///
    /// # Errors
    /// When the connection breaks at once.
    pub async fn open<S>(
        stream: S,
        info: TunnelInfo,
        keepalive: Keepalive,
    ) -> Result<Arc<Self>, hyper::Error>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (cut, gone) = (CancellationToken::new(), CancellationToken::new());
        let stream = cuttable(stream, cut.clone(), gone.clone().drop_guard());
        let (sender, connection) = http2::Builder::new(TunnelExecutor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::TUNNEL_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .max_send_buf_size(limits::SEND_BUFFER_BYTES_MAX)
            .max_header_list_size(limits::METADATA_BYTES_MAX)
            .keep_alive_interval(keepalive.interval)
            .keep_alive_timeout(keepalive.timeout)
            .keep_alive_while_idle(true)
            .handshake::<_, TunnelBody>(TokioIo::new(stream))
            .await?;
        let closed = CancellationToken::new();
        tokio::spawn({
            let (closed, machine, epoch) = (closed.clone(), info.machine.clone(), info.epoch);
            async move {
                let _ended = closed.drop_guard();
                match connection.await {
                    Ok(()) => tracing::debug!(%machine, epoch, "tunnel closed"),
                    Err(error) => tracing::info!(%machine, epoch, %error, "tunnel broke"),
                }
            }
        });
        Ok(Arc::new(Self {
            info,
            sender,
            slots: Arc::new(Semaphore::new(limits::CALLS_PER_TUNNEL_MAX)),
            waiting: Notify::new(),
            leaving: AtomicBool::new(false),
            left: CancellationToken::new(),
            closed,
            cut,
            gone,
        }))
    }

    /// Machine at the other end.
    #[must_use]
    pub fn machine(&self) -> &MachineId {
        &self.info.machine
    }

    /// Process at the other end.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.info.instance
    }

    /// Number of the tunnel; a later one of the same machine has a higher one.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.info.epoch
    }

    /// When the machine's certificate was issued, Unix seconds; `None` without TLS.
    #[must_use]
    pub fn certificate_issued_s(&self) -> Option<u64> {
        self.info.certificate_issued_s
    }

    /// The machine's slot.
    pub(super) fn slot(&self) -> Arc<MachineSlot> {
        self.info.slot.clone()
    }

    /// Whether new calls may be made on it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.leaving.load(Ordering::Acquire)
            && !self.closed.is_cancelled()
            && !self.sender.is_closed()
    }

    /// Returns when the connection takes no more calls.
    pub async fn closed(&self) {
        self.closed.cancelled().await;
    }

    /// Returns when the connection is gone, with the calls that were on it.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Returns when no new calls may be made on it; some may still be under way.
    pub async fn left(&self) {
        tokio::select! {
            () = self.left.cancelled() => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// Calls under way.
    #[must_use]
    pub fn calls(&self) -> usize {
        limits::CALLS_PER_TUNNEL_MAX.saturating_sub(self.slots.available_permits())
    }

    /// Takes a slot for a call, unless all are taken.
    #[must_use]
    pub fn permit(&self, of_relay: Option<OwnedSemaphorePermit>) -> Option<CallPermit> {
        let of_tunnel = self.slots.clone().try_acquire_owned().ok()?;
        Some(CallPermit {
            _of_tunnel: of_tunnel,
            _of_relay: of_relay,
        })
    }

    /// Makes a call. Dropping the future cancels it on the daemon's side too.
    ///
    /// # Errors
    /// [`CallError::Closed`] when nothing was sent, [`CallError::Broken`] when something may have
    /// been.
    pub(crate) async fn call(
        &self,
        request: Request<TunnelBody>,
    ) -> Result<Response<Incoming>, CallError> {
        let mut sender = self.sender.clone();
        match sender.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut error) => match error.take_message() {
                // hyper gives the request back: nothing of it was sent.
                Some(_) => Err(CallError::Closed),
                None => Err(CallError::Broken(error.into_error())),
            },
        }
    }

    /// Wakes the delivery: a request waits for this machine.
    pub fn notify_waiting(&self) {
        self.waiting.notify_one();
    }

    /// Returns when a request waits, or may.
    pub async fn waiting_notified(&self) {
        self.waiting.notified().await;
    }

    /// Tells the daemon to leave, lets calls under way finish for at most `grace` from now, then cuts.
    /// Without grace it also cuts a tunnel that the daemon was asked to leave before, with some.
    pub async fn go_away(&self, why: GoAway, grace: Duration) {
        let until = tokio::time::Instant::now() + grace;
        if self.leaving.swap(true, Ordering::AcqRel) {
            if grace.is_zero() {
                self.cut();
            }
            return self.closed().await;
        }
        self.left.cancel();
        // A daemon that has to leave at once is given less time for that.
        let answer_within = match grace.is_zero() {
            true => Duration::from_millis(limits::GO_AWAY_AT_ONCE_ANSWER_MS_MAX),
            false => Duration::from_millis(limits::GO_AWAY_ANSWER_MS_MAX).min(grace),
        };
        let call = self.call(go_away_call(self.machine(), why));
        let answered = tokio::time::timeout(answer_within, call).await;
        if !matches!(answered, Ok(Ok(_))) {
            tracing::debug!(machine = %self.machine(), epoch = self.epoch(), "go-away not answered");
        }
        let idle = async {
            // With all slots taken there is no call under way, and none can begin.
            let all = limits::CALLS_PER_TUNNEL_MAX as u32;
            let _all = self.slots.acquire_many(all).await;
        };
        tokio::select! {
            () = idle => {}
            () = self.closed.cancelled() => {}
            () = tokio::time::sleep_until(until) => {
                tracing::info!(machine = %self.machine(), calls = self.calls(), "calls cut off");
            }
        }
        self.cut();
        self.closed().await;
    }

    /// Ends the connection and every call on it.
    pub fn cut(&self) {
        self.cut.cancel();
    }
}

fn go_away_call(machine: &MachineId, why: GoAway) -> Request<TunnelBody> {
    let mut request = Request::new(TunnelBody::Complete(Full::default()));
    *request.method_mut() = http::Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = call_uri(machine, GO_AWAY_PATH);
    let headers = request.headers_mut();
    headers.insert(GO_AWAY, HeaderValue::from_static(why.as_str()));
    headers.insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("application/grpc"),
    );
    request
}

/// The address of a method on a machine. HTTP/2 wants an authority; the machine's id is one.
pub(crate) fn call_uri(machine: &MachineId, path: &str) -> http::Uri {
    http::Uri::builder()
        .scheme("http")
        .authority(machine.as_str())
        .path_and_query(path)
        .build()
        .unwrap_or_default()
}
