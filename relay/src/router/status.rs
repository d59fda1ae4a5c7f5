//! What callers are told when the relay itself has to answer.

use std::error::Error;

use betcode_storage::capacity::text;
use http::HeaderMap;
use tonic::{Code, Status};

use super::meter::TooBig;

/// The status for a call that broke between relay and daemon, told apart as gRPC does it.
pub(crate) fn of_broken_tunnel(error: &(dyn Error + 'static)) -> Status {
    let mut cause = Some(error);
    while let Some(this) = cause {
        if let Some(h2) = this.downcast_ref::<h2::Error>() {
            // A reset is about this call alone; anything else took the tunnel with it.
            if h2.is_reset() && h2.is_remote() {
                return of_reset(h2.reason());
            }
            break;
        }
        cause = this.source();
    }
    Status::unavailable("the tunnel to the machine broke; try again, it reconnects by itself")
}

fn of_reset(reason: Option<h2::Reason>) -> Status {
    let (code, text) = match reason {
        Some(h2::Reason::REFUSED_STREAM) => (Code::Unavailable, "the daemon refused the call"),
        Some(h2::Reason::CANCEL) => (Code::Cancelled, "the daemon cancelled the call"),
        Some(h2::Reason::ENHANCE_YOUR_CALM) => {
            (Code::ResourceExhausted, "the daemon is given too much")
        }
        Some(h2::Reason::INADEQUATE_SECURITY) => {
            (Code::PermissionDenied, "the daemon asks for more security")
        }
        _ => (Code::Internal, "the daemon broke the call off"),
    };
    Status::new(code, text)
}

pub(crate) fn too_big(refused: TooBig) -> Status {
    let TooBig { bytes, bytes_max } = refused;
    let (has, most) = text::bytes_apart(bytes, bytes_max);
    Status::resource_exhausted(format!(
        "a message of {has}, and the relay passes at most {most} (message_bytes_max); send it in parts"
    ))
}

pub(crate) fn deadline() -> Status {
    Status::deadline_exceeded("the deadline passed before the daemon answered")
}

pub(crate) fn offline() -> Status {
    Status::unavailable("the machine has no tunnel to this relay now; try again later")
}

/// The status as the trailers that end a call which had begun.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Only metadata that is no header could do this, and these statuses have none.
        trailers.insert("grpc-status", http::HeaderValue::from(status.code() as i32));
    }
    trailers
}
