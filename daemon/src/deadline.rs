//! The caller's deadline, as gRPC carries it in `grpc-timeout`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use betcode_service::grpc_timeout;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tokio::time::{Sleep, sleep_until};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::HeaderMap;

use crate::status::deadline_exceeded;

/// In a response's extensions: its service ends the stream at the deadline itself.
#[derive(Debug, Clone, Copy)]
pub struct KeptByService;

/// An answer that ends with DEADLINE_EXCEEDED at the deadline.
#[derive(Debug)]
pub struct Until {
    /// Gone when it has ended: so does what works for it.
    answer: Option<Body>,
    deadline: Pin<Box<Sleep>>,
}

impl Until {
    /// An answer that ends then at the latest.
    #[must_use]
    pub fn new(answer: Body, deadline: Instant) -> Self {
        Self {
            answer: Some(answer),
            deadline: Box::pin(sleep_until(deadline.into())),
        }
    }
}

impl HttpBody for Until {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(answer) = &mut this.answer else {
            return Poll::Ready(None);
        };
        // First: an answer that always has more to tell ends as well.
        if this.deadline.as_mut().poll(context).is_ready() {
            this.answer = None;
            let mut trailers = HeaderMap::new();
            let told = deadline_exceeded().add_header(&mut trailers);
            return Poll::Ready(Some(told.map(|()| Frame::trailers(trailers))));
        }
        let frame = ready!(Pin::new(answer).poll_frame(context));
        if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
            this.answer = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.answer.as_ref().is_none_or(Body::is_end_stream)
    }
}

/// When the call ends; `None` when the caller set no deadline, or none that can be read.
#[must_use]
pub fn from_headers(headers: &HeaderMap) -> Option<Instant> {
    Instant::now().checked_add(grpc_timeout::from_headers(headers)?)
}
