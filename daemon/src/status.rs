//! What went wrong, as a gRPC status: the one mapping from the store's errors, and the daemon's own.
//!
//! [`StatusBuilder`] says what a status has. The table of reasons stands in `docs/OPERATIONS.md`.

use std::time::Duration;

use betcode_schema_grpc::history::Refused;
use betcode_service::status::{HINT, StatusBuilder};
pub(crate) use betcode_service::status::{STATUS_TEXT_BYTES_MAX, short};
use betcode_storage::{ErrorKind, StoreError};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::limits::{RETRY_DRAINING_MS, RETRY_MS};
use crate::observe::ms;

/// Domain of the reasons in `ErrorInfo`.
pub const DOMAIN: &str = "betcode.history";

/// Key of a session's last sequence in the metadata of `ErrorInfo`.
const LAST_SEQUENCE: &str = "last_sequence";

/// How a kind of error is answered.
struct StatusMapping {
    code: Code,
    reason: &'static str,
    /// Milliseconds after which the same request may succeed by itself; 0 when waiting is no help.
    retry_ms: u32,
}

/// Whether an error is a file system's that is read-only. The kernel makes one so under the programs that use it.
fn is_read_only_file_system(error: &StoreError) -> bool {
    match error {
        StoreError::ReadOnlyFileSystem { .. } => true,
        StoreError::Io { source, .. } => source.kind() == std::io::ErrorKind::ReadOnlyFilesystem,
        StoreError::SpaceNotGivenBack { source, .. } => is_read_only_file_system(source),
        _ => false,
    }
}

fn mapping_of(error: &StoreError) -> StatusMapping {
    let (code, reason, retry_ms) = match error.kind() {
        ErrorKind::Invalid => (Code::InvalidArgument, "INVALID", 0),
        ErrorKind::NotFound => (Code::NotFound, "NOT_FOUND", 0),
        ErrorKind::Conflict => (Code::AlreadyExists, "CONFLICT", 0),
        ErrorKind::Overloaded => (Code::ResourceExhausted, "OVERLOADED", RETRY_MS),
        ErrorKind::Timeout => (Code::DeadlineExceeded, "TIMEOUT", 0),
        ErrorKind::Busy => (Code::Unavailable, "BUSY", RETRY_MS),
        ErrorKind::NoSpace => (Code::ResourceExhausted, "NO_SPACE", 0),
        ErrorKind::Unsupported => (Code::FailedPrecondition, "UNSUPPORTED", 0),
        // Not final, as `MOVED` below.
        ErrorKind::Denied if is_read_only_file_system(error) => (Code::Unavailable, "READ_ONLY", 0),
        ErrorKind::Denied => (Code::FailedPrecondition, "DENIED", 0),
        ErrorKind::Damaged => (Code::DataLoss, "DAMAGED", 0),
        // Not final: who keeps the request, such as a relay, sends it again once somebody has put that in order.
        ErrorKind::Moved => (Code::Unavailable, "MOVED", 0),
        ErrorKind::Cancelled => (Code::Cancelled, "CANCELLED", 0),
        ErrorKind::Closed => (Code::Unavailable, "CLOSED", RETRY_MS),
        _ => (Code::Internal, "INTERNAL", 0),
    };
    StatusMapping {
        code,
        reason,
        retry_ms,
    }
}

/// The limit that an error is about, as `QuotaFailure` names it.
fn limit_of(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::QueueFull { .. } => Some("writer_queue"),
        StoreError::DiskFull { .. } => Some("disk"),
        StoreError::LimitReached { .. } => Some("max_db_bytes"),
        StoreError::SessionLimitReached { .. } => Some("max_session_bytes"),
        error if error.kind() == ErrorKind::NoSpace => Some("disk"),
        _ => None,
    }
}

/// What to try, as this daemon's settings are called.
fn hint_of(error: &StoreError) -> Option<&'static str> {
    match error {
        StoreError::PayloadTooLarge { .. } => {
            Some("raise max_payload_bytes (at most 100 MiB), or send the message in parts")
        }
        StoreError::SessionLimitReached { .. } => {
            Some("compact the session, go on in a new one, or raise max_session_bytes")
        }
        other => other.hint(),
    }
}

fn message_of(error: &StoreError) -> String {
    match hint_of(error) {
        Some(hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    }
}

fn error(code: Code, reason: &'static str, what: impl Into<String>) -> StatusBuilder {
    StatusBuilder::new(DOMAIN, code, reason, what)
}

/// The status of a store's error.
#[must_use]
pub fn from_store(error: &StoreError) -> Status {
    let StatusMapping {
        code,
        reason,
        retry_ms,
    } = mapping_of(error);
    let mut status = self::error(code, reason, error.to_string());
    if let Some(limit) = limit_of(error) {
        status = status.limit(limit);
    }
    if let Some(hint) = hint_of(error) {
        status = status.hint(hint);
    }
    if retry_ms > 0 {
        status = status.retry_after(ms(retry_ms.into()));
    }
    if code == Code::Internal {
        tracing::error!(%error, "a request failed");
    }
    status.build()
}

/// A store's error as the answer to one batch of an append stream, which goes on.
#[must_use]
pub fn refusal(error: &StoreError) -> Refused {
    let StatusMapping {
        code,
        reason,
        retry_ms,
    } = mapping_of(error);
    let next_sequence = match error {
        StoreError::SequenceConflict { next, .. } => *next,
        _ => 0,
    };
    Refused {
        code: code.into(),
        message: message_of(error),
        reason: reason.to_owned(),
        retry_ms,
        next_sequence,
        limit: limit_of(error).unwrap_or_default().to_owned(),
        hint: hint_of(error).unwrap_or_default().to_owned(),
    }
}

/// A status as the answer to one batch of an append stream.
#[must_use]
pub fn refusal_of(status: &Status) -> Refused {
    let details = status.get_error_details();
    let retry_ms = details.retry_info().and_then(|retry| retry.retry_delay);
    Refused {
        code: status.code().into(),
        message: status.message().to_owned(),
        reason: details
            .error_info()
            .map(|info| info.reason.clone())
            .unwrap_or_default(),
        retry_ms: retry_ms.map_or(0, |delay| {
            u32::try_from(delay.as_millis()).unwrap_or(u32::MAX)
        }),
        next_sequence: 0,
        limit: details
            .quota_failure()
            .and_then(|quota| quota.violations.first())
            .map(|violation| violation.subject.clone())
            .unwrap_or_default(),
        hint: details
            .error_info()
            .and_then(|info| info.metadata.get(HINT).cloned())
            .unwrap_or_default(),
    }
}

/// A limit of the daemon itself was reached: which one, how far, and what to try.
#[must_use]
pub fn exhausted(limit: &'static str, used: u64, max: u64, hint: &str) -> Status {
    exhausted_for(ms(RETRY_MS.into()), limit, used, max, hint)
}

/// The same of a limit of which it is known when there is space again at the earliest.
#[must_use]
pub fn exhausted_for(
    retry_after: Duration,
    limit: &'static str,
    used: u64,
    max: u64,
    hint: &str,
) -> Status {
    let what = format!("{limit}: {used} of {max} in use");
    error(Code::ResourceExhausted, "OVERLOADED", what)
        .limit(limit)
        .hint(hint)
        .retry_after(retry_after)
        .build()
}

/// The daemon stops: what to do instead.
#[must_use]
pub fn draining() -> Status {
    let message = "the daemon is stopping; connect again, and go on after the last sequence";
    error(Code::Unavailable, "DRAINING", message)
        .retry_after(ms(RETRY_DRAINING_MS))
        .build()
}

/// The call's deadline passed: what was answered is on disk, and nothing else of it.
#[must_use]
pub fn deadline_exceeded() -> Status {
    let message = "the call's deadline passed; go on after the last answer, with a later one";
    with_reason(Code::DeadlineExceeded, "TIMEOUT", message)
}

/// An argument that is not valid.
#[must_use]
pub fn invalid(field: &'static str, why: impl Into<String>) -> Status {
    let why = why.into();
    let message = format!("{field} is not valid: {why}");
    error(Code::InvalidArgument, "INVALID", message)
        .field(field, &why)
        .build()
}

/// An argument that is longer than it may be.
#[must_use]
pub fn too_long(field: &'static str, why: String) -> Status {
    let message = format!("{field} is too long: {why}");
    error(Code::OutOfRange, "INVALID", message)
        .field(field, &why)
        .build()
}

/// The request cannot be carried out in the present state, and waiting does not change that.
#[must_use]
pub fn failed_precondition(reason: &'static str, message: impl Into<String>) -> Status {
    with_reason(Code::FailedPrecondition, reason, message)
}

/// A read that begins beyond the end of its session: with the last sequence there is.
#[must_use]
pub fn beyond_the_end(message: impl Into<String>, last_sequence: u64) -> Status {
    error(Code::OutOfRange, "OUT_OF_RANGE", message)
        .metadata(LAST_SEQUENCE, last_sequence.to_string())
        .build()
}

/// What was asked for is larger than it may be.
#[must_use]
pub fn out_of_range(message: impl Into<String>) -> Status {
    with_reason(Code::OutOfRange, "OUT_OF_RANGE", message)
}

/// A bug of the daemon.
#[must_use]
pub fn internal(message: impl Into<String>) -> Status {
    with_reason(Code::Internal, "INTERNAL", message)
}

/// A status with a reason for programs, and no more details.
#[must_use]
pub fn with_reason(code: Code, reason: &'static str, message: impl Into<String>) -> Status {
    error(code, reason, message).build()
}

/// What is stored is damaged, so something was not done.
#[must_use]
pub fn damaged(why: &str) -> Status {
    let message = format!("{why}; run `betcode-db verify` to see how far it goes");
    with_reason(Code::DataLoss, "DAMAGED", message)
}

/// The session is being deleted, so there can be no conversation in it.
#[must_use]
pub fn being_deleted() -> Status {
    failed_precondition("CLOSED", "the session is being deleted")
}

/// A method that this daemon does not have.
#[must_use]
pub fn unimplemented(why: &'static str) -> Status {
    with_reason(Code::Unimplemented, "UNIMPLEMENTED", why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_overload_are_told_apart() {
        let full = from_store(&StoreError::DiskFull {
            path: "/x".into(),
            why: "no space".into(),
        });
        let busy = from_store(&StoreError::QueueFull {
            waited_ms: 1,
            requests: 2,
            bytes: 3,
        });
        assert_eq!(
            (full.code(), busy.code()),
            (Code::ResourceExhausted, Code::ResourceExhausted)
        );
        let (full, busy) = (full.get_error_details(), busy.get_error_details());
        assert_eq!(full.error_info().unwrap().reason, "NO_SPACE");
        assert!(full.retry_info().is_none());
        assert_eq!(busy.error_info().unwrap().reason, "OVERLOADED");
        assert!(busy.retry_info().is_some());
        assert_eq!(
            busy.quota_failure().unwrap().violations[0].subject,
            "writer_queue"
        );
    }

    #[test]
    fn a_file_system_that_turned_read_only_is_not_final_and_missing_permissions_are() {
        let path = || "/x".into();
        let io = |kind: std::io::ErrorKind| StoreError::Io {
            path: path(),
            action: "open",
            source: kind.into(),
        };
        let why = "append: disk I/O error".to_owned();
        let turned = StoreError::ReadOnlyFileSystem { path: path(), why };
        for error in [turned, io(std::io::ErrorKind::ReadOnlyFilesystem)] {
            let status = from_store(&error);
            let details = status.get_error_details();
            let reason = &details.error_info().unwrap().reason;
            assert_eq!(
                (status.code(), reason.as_str()),
                (Code::Unavailable, "READ_ONLY")
            );
            // Somebody has to do something before.
            assert!(details.retry_info().is_none());
            assert_eq!(refusal(&error).reason, "READ_ONLY");
        }
        let denied = from_store(&io(std::io::ErrorKind::PermissionDenied));
        assert_eq!(denied.code(), Code::FailedPrecondition);
    }

    #[test]
    fn a_deletion_that_met_a_full_disk_is_answered_as_one_and_says_that_the_session_is_gone() {
        let source = Box::new(StoreError::DiskFull {
            path: "/x".into(),
            why: "no space".into(),
        });
        let id = "s".parse().unwrap();
        let status = from_store(&StoreError::SpaceNotGivenBack { id, source });
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = status.get_error_details();
        assert_eq!(details.error_info().unwrap().reason, "NO_SPACE");
        assert_eq!(
            details.quota_failure().unwrap().violations[0].subject,
            "disk"
        );
        let message = status.message();
        assert!(message.contains("session s is deleted"), "{message}");
        assert!(message.contains("given back when"), "{message}");
    }

    #[test]
    fn what_to_try_stands_apart_as_well_in_a_status_and_in_a_refusal() {
        let error = StoreError::LimitReached {
            path: "/x".into(),
            used_bytes: 1,
            incoming_bytes: 2,
            limit_bytes: 2,
        };
        let status = from_store(&error);
        let details = status.get_error_details();
        let hint = &details.error_info().unwrap().metadata[HINT];
        assert_eq!(Some(hint.as_str()), error.hint());
        assert!(status.message().ends_with(hint), "{}", status.message());
        assert_eq!(&refusal(&error).hint, hint);
        assert_eq!(&refusal_of(&status).hint, hint);
    }

    #[test]
    fn the_message_says_what_to_do() {
        let status = from_store(&StoreError::SessionNotFound {
            id: "s".parse().unwrap(),
        });
        assert_eq!(status.code(), Code::NotFound);
        assert!(
            status.message().contains("list the sessions"),
            "{}",
            status.message()
        );
    }
}
