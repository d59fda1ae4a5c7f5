//! Answers that are whole before any of them goes out.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use crate::limits::{CARRIED_ANSWER_BYTES_MAX, CARRIED_SMALL_BYTES_MAX};

/// Why an answer is not whole.
#[derive(Debug)]
pub(super) enum NotWhole {
    /// It has more than [`CARRIED_ANSWER_BYTES_MAX`].
    TooLarge,
    /// It broke off.
    Broken,
}

/// A whole answer. One without messages says so at once: its head is then its end, as clients
/// expect of an error.
#[derive(Debug, Default)]
pub(super) struct Whole {
    data: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
    /// Of a large answer, until it is sent or its reader gone.
    place: Option<OwnedSemaphorePermit>,
}

impl Whole {
    pub(super) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }
}

/// Takes an answer to its end. It waits for a place among the large ones when it proves to be one, and
/// holds little until then.
pub(super) async fn whole<B>(body: B, large: Arc<Semaphore>) -> Result<Whole, NotWhole>
where
    B: Body<Data = Bytes>,
{
    let mut body = pin!(body.map_err(|_| NotWhole::Broken));
    let mut whole = Whole::default();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let data = match frame?.into_data() {
            Ok(data) => data,
            Err(frame) => {
                whole.trailers = frame.into_trailers().ok();
                break;
            }
        };
        bytes += data.len();
        if bytes > CARRIED_ANSWER_BYTES_MAX {
            return Err(NotWhole::TooLarge);
        }
        if bytes > CARRIED_SMALL_BYTES_MAX && whole.place.is_none() {
            whole.place = Arc::clone(&large).acquire_owned().await.ok();
        }
        whole.data.push_back(data);
    }
    Ok(whole)
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let data = self.data.pop_front().map(Frame::data);
        let frame = data.or_else(|| self.trailers.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }
}
