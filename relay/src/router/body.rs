//! The bodies that pass through: each frame is taken from one side when the other side has room,
//! so what a slow reader leaves waiting is bounded by HTTP/2's windows.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::join::Joined;
use super::meter::MessageMeter;
use super::status;
use crate::tunnel::{self, CallPermit};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a request's body stopped before its end; decides what the caller is told.
#[derive(Debug, Default)]
pub(crate) struct Verdict(OnceLock<Status>);

impl Verdict {
    pub(crate) fn set(&self, status: Status) {
        // The first reason is the reason.
        let _ = self.0.set(status);
    }

    pub(crate) fn get(&self) -> Option<Status> {
        self.0.get().cloned()
    }
}

/// What a call is cut off with when its answer is over or unwanted: CANCEL on the wire.
fn cancelled() -> BoxError {
    Box::new(h2::Error::from(h2::Reason::CANCEL))
}

/// A request's body on its way into a tunnel.
pub(crate) enum TunnelBody {
    /// From a client that is connected.
    Live(LiveBody),
    /// One that the relay has whole, or empty.
    Kept(Full<Bytes>),
}

/// The body of a client that is connected.
pub(crate) struct LiveBody {
    pub(crate) from_client: Joined<Incoming>,
    pub(crate) meter: MessageMeter,
    pub(crate) verdict: Arc<Verdict>,
    /// Cancelled when nobody waits for the answer any more; taken when the body is first asked.
    pub(crate) begins: Option<CancellationToken>,
    /// Completes with it.
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
            Self::Live(live) => live.poll_frame(cx),
            Self::Kept(full) => Pin::new(full)
                .poll_frame(cx)
                .map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Live(live) => live.from_client.is_end_stream(),
            Self::Kept(full) => full.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Live(live) => live.from_client.size_hint(),
            Self::Kept(full) => full.size_hint(),
        }
    }
}

impl LiveBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(over) = self.begins.take() {
            tunnel::begins(&over);
        }
        if self.abandoned.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(cancelled())));
        }
        let frame = std::task::ready!(Pin::new(&mut self.from_client).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(frame)) => match frame.data_ref().map(|data| self.meter.pass(data)) {
                Some(Err(refused)) => {
                    self.verdict.set(status::too_big(refused));
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
    /// A daemon's.
    Through(ThroughBody),
}

/// A daemon's answer. It ends with trailers in any case: when the tunnel breaks or the call has to
/// end, the relay writes the ones that the daemon no longer can.
pub(crate) struct ThroughBody {
    answer: Arc<Mutex<Answer>>,
    /// Ends the answer when it is time. HTTP/2 does not ask for the next frame before the client
    /// has taken the last one, so a client that does not read would keep its call for ever.
    _watch: Option<AbortOnDropHandle<()>>,
}

/// What is under way of an answer.
pub(crate) struct Answer {
    pub(crate) from_daemon: Option<Joined<Incoming>>,
    pub(crate) verdict: Arc<Verdict>,
    /// Ends the request's body when the answer is over or unwanted.
    pub(crate) abandon: Option<DropGuard>,
    /// Counts the call as under way until its answer is over.
    pub(crate) permit: Option<CallPermit>,
    /// What the client is told instead of the rest.
    pub(crate) ended: Option<Status>,
    /// Who waits for the next frame.
    pub(crate) reader: Option<Waker>,
}

impl ThroughBody {
    /// Passes an answer on until `end`, which says with what.
    pub(crate) fn until(
        answer: Answer,
        end: impl Future<Output = Status> + Send + 'static,
    ) -> Self {
        let has_ended = answer.is_end_stream();
        let answer = Arc::new(Mutex::new(answer));
        let watched = Arc::downgrade(&answer);
        let watch = async move {
            let ended = end.await;
            if let Some(answer) = watched.upgrade() {
                lock(&answer).end(ended);
            }
        };
        Self {
            answer,
            _watch: (!has_ended).then(|| AbortOnDropHandle::new(tokio::spawn(watch))),
        }
    }
}

// No code panics while it holds the lock, so a poisoned one is still whole.
fn lock(answer: &Mutex<Answer>) -> MutexGuard<'_, Answer> {
    answer.lock().unwrap_or_else(|e| e.into_inner())
}

impl Answer {
    fn end(&mut self, status: Status) {
        if self.from_daemon.is_none() {
            return;
        }
        self.finish();
        self.ended = Some(status);
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn finish(&mut self) {
        self.from_daemon = None;
        self.abandon = None;
        self.permit = None;
    }

    fn is_end_stream(&self) -> bool {
        match &self.from_daemon {
            Some(from_daemon) => from_daemon.is_end_stream(),
            None => self.ended.is_none(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        if let Some(ended) = self.ended.take() {
            return Poll::Ready(Some(Frame::trailers(status::trailers(&ended))));
        }
        let Some(from_daemon) = &mut self.from_daemon else {
            return Poll::Ready(None);
        };
        match Pin::new(from_daemon).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if frame.is_trailers() {
                    self.finish();
                }
                Poll::Ready(Some(frame))
            }
            Poll::Ready(None) => {
                self.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                let verdict = self.verdict.get();
                let ended = verdict.unwrap_or_else(|| status::of_broken_tunnel(&error));
                self.finish();
                Poll::Ready(Some(Frame::trailers(status::trailers(&ended))))
            }
            Poll::Pending => {
                self.reader = Some(cx.waker().clone());
                Poll::Pending
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
            Self::Through(body) => lock(&body.answer).poll(cx).map(|frame| frame.map(Ok)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Through(body) => lock(&body.answer).is_end_stream(),
        }
    }
}
