//! The bodies that pass through. A frame is taken from one side when the other side can take it, so HTTP/2's windows
//! bound what waits for a slow reader.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use betcode_service::body::EndingBody;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tonic::Status;

use super::join::Joined;
use super::meter::MessageMeter;
use super::status;
use crate::tunnel::{self, CallPermit};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why the relay stopped sending a request's body; it becomes the status that the caller gets.
#[derive(Debug, Default)]
pub(crate) struct AbortReason(OnceLock<Status>);

impl AbortReason {
    pub(crate) fn set(&self, status: Status) {
        // The first one counts.
        let _ = self.0.set(status);
    }

    pub(crate) fn get(&self) -> Option<Status> {
        self.0.get().cloned()
    }
}

/// The error that resets a stream with CANCEL, because the answer is over or unwanted.
fn cancelled() -> BoxError {
    Box::new(h2::Error::from(h2::Reason::CANCEL))
}

/// A request's body on its way into a tunnel.
pub(crate) enum TunnelBody {
    /// Frame by frame, from a client that is connected.
    Streamed(StreamedBody),
    /// All of it, or empty.
    Complete(Full<Bytes>),
}

/// A request's body that its client is still sending.
pub(crate) struct StreamedBody {
    pub(crate) from_client: Joined<Incoming>,
    pub(crate) meter: MessageMeter,
    pub(crate) abort_reason: Arc<AbortReason>,
    pub(crate) activity: Arc<Activity>,
    /// Cancelled when nobody waits for the answer any more. Registered, and taken, when hyper first polls the
    /// body: see `tunnel/spawn.rs`.
    pub(crate) call_over: Option<CancellationToken>,
    /// Completes when that is cancelled.
    pub(crate) abandoned: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Body for TunnelBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Streamed(body) => body.poll_frame(cx),
            Self::Complete(full) => Pin::new(full)
                .poll_frame(cx)
                .map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(body) => body.from_client.is_end_stream(),
            Self::Complete(full) => full.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Streamed(body) => body.from_client.size_hint(),
            Self::Complete(full) => full.size_hint(),
        }
    }
}

impl StreamedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(call_over) = self.call_over.take() {
            tunnel::register_body_start(&call_over);
        }
        if self.abandoned.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(cancelled())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.from_client).poll_frame(cx));
        self.activity.note();
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.data_ref().map(|data| self.meter.pass(data)) {
                Some(Err(refused)) => {
                    self.abort_reason.set(status::too_big(refused));
                    Some(Err(cancelled()))
                }
                _ => Some(Ok(frame)),
            },
            Some(Err(error)) => Some(Err(error.into())),
            None => None,
        })
    }
}

/// An answer on its way to a client.
pub(crate) enum RelayBody {
    /// The relay's own.
    Own(tonic::body::Body),
    /// A daemon's. It always ends with trailers: when the call has to end before the daemon has sent its own, the
    /// relay sends some.
    Through(EndingBody<DaemonBody>),
}

/// A daemon's answer, and what the call holds until it is over. When the tunnel breaks, it ends with trailers of
/// the relay's.
pub(crate) struct DaemonBody {
    pub(crate) from_daemon: Joined<Incoming>,
    pub(crate) abort_reason: Arc<AbortReason>,
    pub(crate) activity: Arc<Activity>,
    /// Cancelled when the relay stops.
    pub(crate) stop: CancellationToken,
    /// Cancels the request's body when the answer is over or unwanted.
    pub(crate) _abandon: DropGuard,
    /// Counts the call as under way until its answer is over.
    pub(crate) _permit: CallPermit,
}

impl Body for DaemonBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = std::task::ready!(Pin::new(&mut self.from_daemon).poll_frame(cx));
        self.activity.note();
        Poll::Ready(frame.map(|frame| {
            Ok(frame.unwrap_or_else(|error| {
                let abort_reason = self.abort_reason.get();
                let stopping = self.stop.is_cancelled();
                let ended =
                    abort_reason.unwrap_or_else(|| status::of_broken_tunnel(&error, stopping));
                Frame::trailers(status::trailers(&ended))
            }))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.from_daemon.is_end_stream()
    }
}

/// When something of a call last passed, in either direction.
#[derive(Debug)]
pub(crate) struct Activity {
    begun: Instant,
    /// Milliseconds from then to the last frame.
    last_ms: AtomicU64,
}

impl Default for Activity {
    fn default() -> Self {
        Self {
            begun: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }
}

impl Activity {
    fn note(&self) {
        let now_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(now_ms, Ordering::Relaxed);
    }

    /// Returns when nothing has passed for so long from now on.
    pub(crate) async fn quiet_for(&self, quiet: Duration) {
        self.note();
        loop {
            let last_ms = self.last_ms.load(Ordering::Relaxed);
            let until = self.begun + Duration::from_millis(last_ms) + quiet;
            tokio::time::sleep_until(until.into()).await;
            if self.last_ms.load(Ordering::Relaxed) == last_ms {
                return;
            }
        }
    }
}

impl Body for RelayBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Own(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Through(body) => Pin::new(body)
                .poll_frame(cx)
                .map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Through(body) => body.is_end_stream(),
        }
    }
}
