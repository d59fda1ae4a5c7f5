//! Answers that would go on for as long as their client stays, ended when the daemon stops.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::http::HeaderMap;

use crate::core::Core;
use crate::status::draining;

/// An answer that ends with UNAVAILABLE once the daemon stops and the answer has nothing more to
/// tell: a Watch has told NOT_SERVING by then.
pub(super) struct WhileServing {
    /// Gone when it has ended: so does what works for it.
    answer: Option<Body>,
    /// Gone when it has come.
    stop: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl WhileServing {
    /// An answer that ends then at the latest.
    pub(super) fn new(answer: Body, core: Arc<Core>) -> Self {
        Self {
            answer: Some(answer),
            stop: Some(Box::pin(async move { core.stop_told().await })),
        }
    }
}

impl HttpBody for WhileServing {
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
        if let Some(stop) = &mut this.stop
            && stop.as_mut().poll(context).is_ready()
        {
            this.stop = None;
        }
        match Pin::new(answer).poll_frame(context) {
            Poll::Pending if this.stop.is_none() => {
                this.answer = None;
                let mut trailers = HeaderMap::new();
                let told = draining().add_header(&mut trailers);
                Poll::Ready(Some(told.map(|()| Frame::trailers(trailers))))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(frame) => {
                if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
                    this.answer = None;
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.answer.as_ref().is_none_or(Body::is_end_stream)
    }
}
