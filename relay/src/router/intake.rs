//! Receiving requests that may wait. The relay holds the whole request before it passes it on or buffers it, so how
//! much it holds, and for how long, has bounds of its own.

use std::sync::Arc;
use std::time::Duration;

use betcode_schema_tunnel::metadata;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Code, Status};

use super::status;
use super::wait;
use crate::buffer::BufferError;
use crate::limits;

/// The bytes of requests that are being received.
pub struct Intake {
    bytes: Arc<Semaphore>,
}

impl Default for Intake {
    fn default() -> Self {
        Self {
            bytes: Arc::new(Semaphore::new(limits::INTAKE_BYTES_MAX)),
        }
    }
}

/// A request that is whole, and counts among those being received until it is dropped.
pub(super) struct ReceivedRequest {
    pub(super) body: Bytes,
    _bytes: Option<OwnedSemaphorePermit>,
}

impl Intake {
    /// Receives a body to its end.
    ///
    /// # Errors
    /// When it is too big, too slow, not one message, or too many are being received.
    pub(super) async fn receive(&self, body: Incoming) -> Result<ReceivedRequest, Status> {
        let within = Duration::from_millis(limits::INTAKE_MS_MAX);
        let received = tokio::time::timeout(within, self.collect(body)).await;
        let received = received.unwrap_or_else(|_| {
            let what = format!(
                "a request that may wait has {} ms to be whole",
                limits::INTAKE_MS_MAX
            );
            Err(status::error(Code::DeadlineExceeded, "TIMEOUT", what)
                .hint("end it, or send it without")
                .build())
        })?;
        if !wait::is_one_message(&received.body) {
            return Err(status::invalid(
                metadata::MAY_WAIT,
                "only a unary request may wait: one whole message",
            ));
        }
        Ok(received)
    }

    async fn collect(&self, mut body: Incoming) -> Result<ReceivedRequest, Status> {
        let bytes_max = limits::BUFFER_REQUEST_BYTES_MAX;
        // Copied together: a frame of one byte would hold the buffer that it was read into.
        let mut whole = BytesMut::new();
        let mut permit: Option<OwnedSemaphorePermit> = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| {
                let what = "the request ended before it was whole";
                status::error(Code::Cancelled, "CANCELLED", what).build()
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let bytes = whole.len() + data.len();
            if bytes > bytes_max {
                return Err(wait::refused(&BufferError::TooBig { bytes, bytes_max }));
            }
            let more = u32::try_from(data.len()).unwrap_or(u32::MAX);
            let more = self.bytes.clone().try_acquire_many_owned(more);
            let more = more.map_err(|_| {
                let what = "the relay takes in as many requests that may wait as it can hold";
                status::overloaded("intake_bytes", what, "try again")
            })?;
            match &mut permit {
                Some(permit) => permit.merge(more),
                None => permit = Some(more),
            }
            whole.extend_from_slice(&data);
        }
        Ok(ReceivedRequest {
            body: whole.freeze(),
            _bytes: permit,
        })
    }
}
