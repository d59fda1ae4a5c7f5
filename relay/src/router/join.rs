//! Small frames that are there already pass as one: each frame costs an encryption, a system call
//! and a wake-up on its way, however small it is.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};

use crate::limits::JOINED_BYTES_MAX;

type Item<E> = Option<Result<Frame<Bytes>, E>>;

/// A body whose small frames are joined. It waits for nothing: what is not there is not joined.
pub(crate) struct Joined<B: Body> {
    body: B,
    /// What came behind the last frame and did not fit.
    next: Option<Item<B::Error>>,
}

impl<B: Body> Joined<B> {
    pub(crate) fn new(body: B) -> Self {
        Self { body, next: None }
    }
}

impl<B> Body for Joined<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Item<B::Error>> {
        let this = self.get_mut();
        let first = match this.next.take() {
            Some(item) => item,
            None => ready!(Pin::new(&mut this.body).poll_frame(cx)),
        };
        let Some(bytes) = small(&first) else {
            return Poll::Ready(first);
        };
        let mut joined = BytesMut::new();
        while let Poll::Ready(item) = Pin::new(&mut this.body).poll_frame(cx) {
            match data(&item) {
                Some(more) if bytes.len().max(joined.len()) + more.len() <= JOINED_BYTES_MAX => {
                    if joined.is_empty() {
                        joined.reserve(JOINED_BYTES_MAX);
                        joined.extend_from_slice(&bytes);
                    }
                    joined.extend_from_slice(more);
                }
                _ => {
                    this.next = Some(item);
                    break;
                }
            }
        }
        match joined.is_empty() {
            true => Poll::Ready(first),
            false => Poll::Ready(Some(Ok(Frame::data(joined.freeze())))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.next {
            Some(item) => item.is_none(),
            None => self.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.next {
            Some(_) => SizeHint::default(),
            None => self.body.size_hint(),
        }
    }
}

fn data<E>(item: &Item<E>) -> Option<&Bytes> {
    item.as_ref()?.as_ref().ok()?.data_ref()
}

/// The bytes of a frame that is worth joining.
fn small<E>(item: &Item<E>) -> Option<Bytes> {
    let bytes = data(item)?;
    (bytes.len() <= JOINED_BYTES_MAX / 2).then(|| bytes.clone())
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use http_body_util::BodyExt;

    use super::*;

    /// Frames of these sizes; 0 stands for a moment in which there is none.
    struct Sizes(VecDeque<usize>);

    impl Body for Sizes {
        type Data = Bytes;
        type Error = &'static str;

        fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Item<&'static str>> {
            match self.0.pop_front() {
                None => Poll::Ready(None),
                Some(0) => {
                    cx.waker().wake_by_ref();
                    Poll::Pending
                }
                Some(1) => Poll::Ready(Some(Err("broken"))),
                Some(2) => Poll::Ready(Some(Ok(Frame::trailers(Default::default())))),
                Some(size) => Poll::Ready(Some(Ok(Frame::data(vec![7; size].into())))),
            }
        }
    }

    async fn joined(sizes: &[usize]) -> Vec<usize> {
        let mut body = Joined::new(Sizes(sizes.iter().copied().collect()));
        let mut seen = Vec::new();
        while let Some(frame) = body.frame().await {
            seen.push(match frame {
                Ok(frame) if frame.is_trailers() => 2,
                Ok(frame) => frame.data_ref().unwrap().len(),
                Err(_) => 1,
            });
        }
        seen
    }

    #[tokio::test]
    async fn only_small_frames_that_are_there_are_joined_and_nothing_is_lost() {
        const MAX: usize = JOINED_BYTES_MAX;
        assert_eq!(joined(&[10, 20, 0, 30, 2]).await, [30, 30, 2]);
        assert_eq!(joined(&[5_000, 5_000, 5_000, 5_000]).await, [15_000, 5_000]);
        assert_eq!(joined(&[MAX, 10, MAX, 10, 1]).await, [MAX, 10, MAX, 10, 1]);
        assert_eq!(joined(&[10, MAX - 10, 10]).await, [MAX, 10]);
        assert_eq!(joined(&[]).await, [0; 0]);
    }
}
