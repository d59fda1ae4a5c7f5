//! What callers get when the relay itself has to answer. The table of reasons stands in `docs/design/relay.md`.

use std::error::Error;
use std::time::Duration;

use betcode_service::status::StatusBuilder;
pub(crate) use betcode_service::status::trailers;
use betcode_storage::capacity::text;
use tonic::{Code, Status};

use super::meter::TooBig;
use crate::auth::InvalidToken;
use crate::limits::{
    RETRY_DRAINING_MS, RETRY_NO_TUNNEL_MS, RETRY_OVERLOADED_MS, RETRY_TUNNEL_BROKE_MS,
};

/// Domain of the reasons in `ErrorInfo`.
const DOMAIN: &str = "betcode.relay";

/// A status of the relay's: its code, its reason, and what happened.
pub(crate) fn error(code: Code, reason: &'static str, what: impl Into<String>) -> StatusBuilder {
    StatusBuilder::new(DOMAIN, code, reason, what)
}

/// The token does not name a machine: the same answer whether there is such a machine or not.
pub(crate) fn machine_not_allowed() -> Status {
    let what = "the token does not name this machine";
    error(Code::PermissionDenied, "MACHINE_NOT_ALLOWED", what)
        .hint("ask for one that does")
        .build()
}

/// The status for a call that broke between relay and daemon, by its cause, as gRPC defines it.
pub(crate) fn of_broken_tunnel(broken: &(dyn Error + 'static), stopping: bool) -> Status {
    let mut cause = Some(broken);
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
    match stopping {
        true => draining(),
        false => error(
            Code::Unavailable,
            "TUNNEL_BROKE",
            "the tunnel to the machine broke",
        )
        .hint("try again, it reconnects by itself")
        .retry_after(Duration::from_millis(RETRY_TUNNEL_BROKE_MS))
        .build(),
    }
}

fn of_reset(reason: Option<h2::Reason>) -> Status {
    let (code, reason, text, retry_ms) = match reason {
        Some(h2::Reason::REFUSED_STREAM) => (
            Code::Unavailable,
            "CALL_REFUSED",
            "the daemon refused the call",
            Some(RETRY_OVERLOADED_MS),
        ),
        Some(h2::Reason::CANCEL) => (
            Code::Cancelled,
            "CANCELLED",
            "the daemon cancelled the call",
            None,
        ),
        Some(h2::Reason::ENHANCE_YOUR_CALM) => (
            Code::ResourceExhausted,
            "OVERLOADED",
            "the daemon is given too much",
            Some(RETRY_OVERLOADED_MS),
        ),
        Some(h2::Reason::INADEQUATE_SECURITY) => (
            Code::PermissionDenied,
            "DENIED",
            "the daemon asks for more security",
            None,
        ),
        _ => (
            Code::Internal,
            "CALL_BROKEN_OFF",
            "the daemon broke the call off",
            None,
        ),
    };
    let status = error(code, reason, text);
    match retry_ms {
        Some(retry_ms) => status.retry_after(Duration::from_millis(retry_ms)).build(),
        None => status.build(),
    }
}

pub(crate) fn too_big(refused: TooBig) -> Status {
    let TooBig { bytes, bytes_max } = refused;
    let (has, most) = text::bytes_apart(bytes, bytes_max);
    let what =
        format!("a message of {has}, and the relay passes at most {most} (message_bytes_max)");
    error(Code::ResourceExhausted, "TOO_LARGE", what)
        .limit("message_bytes_max")
        .hint("send it in parts")
        .build()
}

pub(crate) fn deadline() -> Status {
    let what = "the deadline passed before the daemon answered";
    error(Code::DeadlineExceeded, "TIMEOUT", what).build()
}

/// The machine has no tunnel here.
pub(crate) fn offline() -> Status {
    error(
        Code::Unavailable,
        "NO_TUNNEL",
        "the machine has no tunnel to this relay now",
    )
    .hint("try again later")
    .retry_after(Duration::from_millis(RETRY_NO_TUNNEL_MS))
    .build()
}

/// The relay stops.
pub(crate) fn draining() -> Status {
    error(Code::Unavailable, "DRAINING", "the relay is stopping")
        .hint("connect again, and go on where the call ended")
        .retry_after(Duration::from_millis(RETRY_DRAINING_MS))
        .build()
}

/// A limit of the relay's is reached.
pub(crate) fn overloaded(limit: &str, what: &str, hint: &str) -> Status {
    error(Code::ResourceExhausted, "OVERLOADED", what)
        .limit(limit)
        .hint(hint)
        .retry_after(Duration::from_millis(RETRY_OVERLOADED_MS))
        .build()
}

/// Metadata that is not valid.
pub(crate) fn invalid(field: &str, why: impl Into<String>) -> Status {
    let why = why.into();
    error(Code::InvalidArgument, "INVALID", &why)
        .field(field, &why)
        .build()
}

/// A token that is not accepted.
pub(crate) fn unauthenticated(why: InvalidToken) -> Status {
    error(Code::Unauthenticated, why.reason(), why.to_string())
        .hint(why.hint())
        .build()
}
