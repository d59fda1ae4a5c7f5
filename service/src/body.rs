//! Answers that can be ended while they are under way.
//!
//! HTTP/2 polls a body for its next frame only when the client has taken the last one. A body that looks at a clock when
//! it is polled would outlast its deadline while its client does not read, and keep all that it holds. So a task
//! beside the body waits for the end and drops the body. The client gets the trailers when it reads again.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio_util::task::AbortOnDropHandle;

use crate::sync::lock;

/// An answer that is passed on as it comes, and may be ended with other trailers than its own.
#[derive(Debug)]
pub struct EndingBody<B> {
    state: Arc<Mutex<State<B>>>,
    /// Waits for the end; aborted with the answer.
    _watch: Option<AbortOnDropHandle<()>>,
}

#[derive(Debug)]
struct State<B> {
    /// `None` once it has ended: what it held is dropped then.
    body: Option<B>,
    /// The trailers that the client gets instead of the rest.
    ended: Option<HeaderMap>,
    /// The trailers that the client gets as soon as the answer has no frame ready.
    ended_when_idle: Option<HeaderMap>,
    /// Wakes the reader, which waits for the next frame.
    reader: Option<Waker>,
}

impl<B> EndingBody<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    /// An answer that ends with the trailers of `end` when that completes, unless it has ended before.
    pub fn until(body: B, end: impl Future<Output = HeaderMap> + Send + 'static) -> Self {
        Self::watched(body, end, State::end)
    }

    /// An answer that ends with the trailers of `end` once that is complete and the answer has no frame ready.
    pub fn until_idle(body: B, end: impl Future<Output = HeaderMap> + Send + 'static) -> Self {
        Self::watched(body, end, State::end_when_idle)
    }

    /// An answer that ends by itself only.
    pub fn whole(body: B) -> Self {
        Self {
            state: Arc::new(Mutex::new(State::new(body))),
            _watch: None,
        }
    }

    fn watched(
        body: B,
        end: impl Future<Output = HeaderMap> + Send + 'static,
        ending: fn(&mut State<B>, HeaderMap) -> Option<B>,
    ) -> Self {
        if body.is_end_stream() {
            return Self::whole(body);
        }
        let state = Arc::new(Mutex::new(State::new(body)));
        let watched = Arc::downgrade(&state);
        let watch = async move {
            let trailers = end.await;
            if let Some(state) = watched.upgrade() {
                let body = ending(&mut lock(&state), trailers);
                // Not under the lock: dropping all that it holds may take long.
                drop(body);
            }
        };
        Self {
            state,
            _watch: Some(AbortOnDropHandle::new(tokio::spawn(watch))),
        }
    }
}

impl<B> State<B> {
    fn new(body: B) -> Self {
        Self {
            body: Some(body),
            ended: None,
            ended_when_idle: None,
            reader: None,
        }
    }

    /// Ends an answer that has not ended by itself, and returns it.
    fn end(&mut self, trailers: HeaderMap) -> Option<B> {
        let body = self.body.take()?;
        self.ended = Some(trailers);
        self.wake();
        Some(body)
    }

    fn end_when_idle(&mut self, trailers: HeaderMap) -> Option<B> {
        self.ended_when_idle = Some(trailers);
        self.wake();
        None
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl<B> State<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(trailers) = self.ended.take() {
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        match Pin::new(body).poll_frame(context) {
            Poll::Ready(frame) => {
                if !matches!(&frame, Some(Ok(frame)) if frame.is_data()) {
                    self.body = None;
                }
                Poll::Ready(frame)
            }
            Poll::Pending => match self.ended_when_idle.take() {
                Some(trailers) => {
                    self.body = None;
                    Poll::Ready(Some(Ok(Frame::trailers(trailers))))
                }
                None => {
                    self.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            },
        }
    }
}

impl<B> Body for EndingBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        lock(&self.state).poll(context)
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        match &state.body {
            Some(body) => body.is_end_stream(),
            None => state.ended.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::{pending, poll_fn, ready};
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;

    /// A body of what is sent to it.
    struct Sent(mpsc::UnboundedReceiver<&'static str>);

    impl Body for Sent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.0
                .poll_recv(context)
                .map(|text| text.map(|text| Ok(Frame::data(Bytes::from_static(text.as_bytes())))))
        }
    }

    fn trailers() -> HeaderMap {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from(4));
        trailers
    }

    async fn next(body: &mut EndingBody<Sent>) -> Option<Frame<Bytes>> {
        let frame = poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await;
        frame.map(|frame| frame.unwrap())
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_lets_go_at_its_end_all_the_same() {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send("unread").unwrap();
        let mut body = EndingBody::until(Sent(receiver), ready(trailers()));
        let gone = tokio::time::timeout(Duration::from_secs(10), sender.closed()).await;
        assert!(gone.is_ok(), "what it holds is kept");
        let frame = next(&mut body).await.unwrap();
        assert_eq!(frame.into_trailers().unwrap(), trailers());
        assert!(next(&mut body).await.is_none() && body.is_end_stream());
    }

    #[tokio::test]
    async fn an_answer_that_ends_when_idle_says_first_what_it_has_to_say() {
        let (sender, receiver) = mpsc::unbounded_channel();
        sender.send("last").unwrap();
        let mut body = EndingBody::until_idle(Sent(receiver), ready(trailers()));
        tokio::task::yield_now().await;
        let frame = next(&mut body).await.unwrap();
        assert_eq!(frame.into_data().unwrap(), "last");
        let frame = next(&mut body).await.unwrap();
        assert_eq!(frame.into_trailers().unwrap(), trailers());
        assert!(sender.is_closed());
    }

    #[tokio::test]
    async fn an_answer_that_ends_by_itself_ends_as_it_does() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut body = EndingBody::until(Sent(receiver), pending());
        sender.send("all").unwrap();
        drop(sender);
        assert!(next(&mut body).await.unwrap().is_data());
        assert!(next(&mut body).await.is_none() && body.is_end_stream());
    }
}
