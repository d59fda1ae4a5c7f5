//! What callers get when the relay itself has to answer.
//!
//! The message says what happened and what to try. Details: `ErrorInfo` with a reason for programs
//! and, where that is known, what to try; with RESOURCE_EXHAUSTED a `QuotaFailure` that names the
//! limit; a `RetryInfo` when waiting helps by itself. The table stands in `docs/design/relay.md`.

use std::error::Error;
use std::time::Duration;

use betcode_service::status::metadata;
pub(crate) use betcode_service::status::trailers;
use betcode_storage::capacity::text;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::meter::TooBig;
use crate::auth::InvalidToken;
use crate::limits::{
    RETRY_DRAINING_MS, RETRY_NO_TUNNEL_MS, RETRY_OVERLOADED_MS, RETRY_TUNNEL_BROKE_MS,
};

/// Domain of the reasons in `ErrorInfo`.
pub(crate) const DOMAIN: &str = "betcode.relay";

/// A status that is being made.
pub(crate) struct Draft {
    code: Code,
    message: String,
    details: ErrorDetails,
}

impl Draft {
    /// A status with its reason, and a message of what happened.
    pub(crate) fn new(code: Code, reason: &str, what: impl Into<String>) -> Self {
        Self {
            code,
            message: what.into(),
            details: ErrorDetails::with_error_info(reason, DOMAIN, metadata(None)),
        }
    }

    /// What to try.
    pub(crate) fn hint(mut self, hint: &str) -> Self {
        self.message = format!("{}; {hint}", self.message);
        if let Some(reason) = self.details.error_info().map(|info| info.reason.clone()) {
            self.details
                .set_error_info(reason, DOMAIN, metadata(Some(hint)));
        }
        self
    }

    /// After how long the same call may succeed by itself.
    pub(crate) fn retry_after_ms(mut self, retry_ms: u64) -> Self {
        self.details
            .set_retry_info(Some(Duration::from_millis(retry_ms)));
        self
    }

    /// Which limit was reached.
    pub(crate) fn limit(mut self, name: &str) -> Self {
        self.details
            .add_quota_failure_violation(name, self.message.clone());
        self
    }

    pub(crate) fn build(self) -> Status {
        Status::with_error_details(self.code, self.message, self.details)
    }
}

/// The token does not name a machine: the same answer whether there is such a machine or not.
pub(crate) fn machine_not_allowed() -> Status {
    let what = "the token does not name this machine";
    Draft::new(Code::PermissionDenied, "MACHINE_NOT_ALLOWED", what)
        .hint("ask for one that does")
        .build()
}

/// The status for a call that broke between relay and daemon, told apart as gRPC does it.
pub(crate) fn of_broken_tunnel(error: &(dyn Error + 'static), stopping: bool) -> Status {
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
    match stopping {
        true => draining(),
        false => Draft::new(
            Code::Unavailable,
            "TUNNEL_BROKE",
            "the tunnel to the machine broke",
        )
        .hint("try again, it reconnects by itself")
        .retry_after_ms(RETRY_TUNNEL_BROKE_MS)
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
    let draft = Draft::new(code, reason, text);
    match retry_ms {
        Some(retry_ms) => draft.retry_after_ms(retry_ms).build(),
        None => draft.build(),
    }
}

pub(crate) fn too_big(refused: TooBig) -> Status {
    let TooBig { bytes, bytes_max } = refused;
    let (has, most) = text::bytes_apart(bytes, bytes_max);
    let what =
        format!("a message of {has}, and the relay passes at most {most} (message_bytes_max)");
    Draft::new(Code::ResourceExhausted, "TOO_LARGE", what)
        .limit("message_bytes_max")
        .hint("send it in parts")
        .build()
}

pub(crate) fn deadline() -> Status {
    let what = "the deadline passed before the daemon answered";
    Draft::new(Code::DeadlineExceeded, "TIMEOUT", what).build()
}

/// The machine has no tunnel here.
pub(crate) fn offline() -> Status {
    Draft::new(
        Code::Unavailable,
        "NO_TUNNEL",
        "the machine has no tunnel to this relay now",
    )
    .hint("try again later")
    .retry_after_ms(RETRY_NO_TUNNEL_MS)
    .build()
}

/// The relay stops.
pub(crate) fn draining() -> Status {
    Draft::new(Code::Unavailable, "DRAINING", "the relay is stopping")
        .hint("connect again, and go on where the call ended")
        .retry_after_ms(RETRY_DRAINING_MS)
        .build()
}

/// A limit of the relay's is reached.
pub(crate) fn overloaded(limit: &str, what: &str, hint: &str) -> Status {
    Draft::new(Code::ResourceExhausted, "OVERLOADED", what)
        .limit(limit)
        .hint(hint)
        .retry_after_ms(RETRY_OVERLOADED_MS)
        .build()
}

/// Metadata that cannot be right.
pub(crate) fn invalid(field: &str, why: impl Into<String>) -> Status {
    let mut draft = Draft::new(Code::InvalidArgument, "INVALID", why);
    let why = draft.message.clone();
    draft.details.add_bad_request_violation(field, why);
    draft.build()
}

/// A token that is not accepted.
pub(crate) fn unauthenticated(error: InvalidToken) -> Status {
    Draft::new(Code::Unauthenticated, error.reason(), error.to_string())
        .hint(error.hint())
        .build()
}
