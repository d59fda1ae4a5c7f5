//! Calls that may wait: unary requests that the relay keeps while their daemon is away.

use std::sync::Arc;
use std::time::Duration;

use betcode_schema_tunnel::{MachineId, metadata};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, header};
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::status;
use crate::auth::Caller;
use crate::buffer::{Buffer, BufferError, KeyState, PendingRequest, PutOutcome, TokenRef};
use crate::limits;

/// Length of the prefix of a gRPC message.
const PREFIX_BYTES: usize = 5;

/// What a caller says of a request that may wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MayWait {
    key: String,
    priority: u8,
}

/// Reads whether a call may wait.
///
/// # Errors
/// INVALID_ARGUMENT when it says so without a key, or with a priority that is none.
pub(super) fn may_wait(headers: &HeaderMap) -> Result<Option<MayWait>, Status> {
    match headers
        .get(metadata::MAY_WAIT)
        .map(|value| value.as_bytes())
    {
        None | Some(b"false") => return Ok(None),
        Some(b"true") => {}
        Some(_) => {
            let text = format!("`{}` is `true` or `false`", metadata::MAY_WAIT);
            return Err(status::invalid(metadata::MAY_WAIT, text));
        }
    }
    let key = headers
        .get(metadata::IDEMPOTENCY_KEY)
        .and_then(|value| value.to_str().ok())
        .filter(|key| (1..=limits::IDEMPOTENCY_KEY_BYTES_MAX).contains(&key.len()))
        .filter(|key| key.bytes().all(|c| c.is_ascii_graphic()))
        .ok_or_else(|| {
            let why = format!(
                "a request that may wait needs `{}`: 1 to {} visible ASCII characters",
                metadata::IDEMPOTENCY_KEY,
                limits::IDEMPOTENCY_KEY_BYTES_MAX,
            );
            status::invalid(metadata::IDEMPOTENCY_KEY, why)
        })?;
    let priority = match headers.get(metadata::PRIORITY) {
        None => limits::PRIORITY_DEFAULT,
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| text.parse().ok())
            .filter(|priority| *priority <= limits::PRIORITY_MAX)
            .ok_or_else(|| {
                let max = limits::PRIORITY_MAX;
                let why = format!("`{}` is 0 to {max}", metadata::PRIORITY);
                status::invalid(metadata::PRIORITY, why)
            })?,
    };
    Ok(Some(MayWait {
        key: key.to_owned(),
        priority,
    }))
}

/// Whether a call goes to the buffer although its machine is online.
pub(super) fn must_queue(buffer: &dyn Buffer, machine: &MachineId, may_wait: &MayWait) -> bool {
    // It must not overtake requests that wait; and the buffer knows how a request of its key was settled.
    buffer.waiting(machine) > 0
        || matches!(
            buffer.key_state(machine, &may_wait.key),
            Some(KeyState::Settled(_))
        )
}

/// Puts the request into the buffer and returns the status for its caller, which is never OK: the daemon has not
/// executed it yet.
pub(super) async fn put(
    head: &Parts,
    body: Bytes,
    may_wait: MayWait,
    caller: &Caller,
    machine: MachineId,
    buffer: &Arc<dyn Buffer>,
) -> Status {
    let metadata = match metadata_to_keep(&head.headers) {
        Ok(metadata) => metadata,
        Err(status) => return status,
    };
    let waiting = PendingRequest {
        machine,
        key: may_wait.key,
        priority: may_wait.priority,
        user: caller.user.clone(),
        token: caller.token.as_ref().map(|token| TokenRef {
            id: token.id.clone(),
            issued_s: token.issued_s,
        }),
        path: head.uri.path().to_owned(),
        metadata,
        body,
    };
    match buffer.put(waiting).await {
        Ok(PutOutcome::Buffered) => buffered(),
        Ok(PutOutcome::Settled(code)) => settled(code),
        Err(error) => refused(&error),
    }
}

pub(super) fn is_one_message(body: &Bytes) -> bool {
    let Some(prefix) = body.first_chunk::<PREFIX_BYTES>() else {
        return false;
    };
    let [_, a, b, c, d] = *prefix;
    u32::from_be_bytes([a, b, c, d]) as usize == body.len() - PREFIX_BYTES
}

/// The metadata that goes on to the daemon. Not the deadline: it says how long the caller waits, and
/// the caller is gone by then. Not the token.
fn metadata_to_keep(headers: &HeaderMap) -> Result<Vec<(String, String)>, Status> {
    let left = [
        header::AUTHORIZATION.as_str(),
        header::TE.as_str(),
        header::CONTENT_LENGTH.as_str(),
        "grpc-timeout",
        metadata::MAY_WAIT,
    ];
    let kept = headers
        .iter()
        .filter(|(name, _)| !left.contains(&name.as_str()));
    kept.map(|(name, value)| match value.to_str() {
        Ok(value) => Ok((name.as_str().to_owned(), value.to_owned())),
        Err(_) => Err(status::invalid(
            name.as_str(),
            format!("metadata `{name}` is not ASCII; a name ending in -bin carries bytes"),
        )),
    })
    .collect()
}

fn buffered() -> Status {
    // No time after which to try again: it is the relay's task now.
    let mut status = status::error(
        Code::Unavailable,
        "BUFFERED",
        "the machine is away; the request is buffered by the relay, not stored, and will be \
         delivered when the machine is back",
    )
    .build();
    let metadata = status.metadata_mut();
    metadata.insert(metadata::BUFFERED, MetadataValue::from_static("true"));
    // Tells gRPC clients that retry by themselves not to.
    metadata.insert("grpc-retry-pushback-ms", MetadataValue::from_static("-1"));
    status
}

fn settled(code: Code) -> Status {
    let what = format!(
        "a request of this idempotency key was settled before: {code:?} ({})",
        code.description()
    );
    let mut status = status::error(Code::AlreadyExists, "SETTLED", what).build();
    let code = MetadataValue::from(code as i32);
    status.metadata_mut().insert(metadata::DELIVERED_CODE, code);
    status
}

pub(super) fn refused(error: &BufferError) -> Status {
    let refusal = |code, reason| status::error(code, reason, error.to_string());
    let full = Code::ResourceExhausted;
    match error {
        BufferError::MachineFull { .. } => {
            refusal(full, "BUFFER_FULL").limit("buffer_requests_per_machine_max")
        }
        BufferError::Full { .. } => refusal(full, "BUFFER_FULL").limit("buffer"),
        BufferError::TooBig { .. } => refusal(full, "TOO_LARGE").limit("buffer_request_bytes"),
        BufferError::KeyTaken => refusal(Code::AlreadyExists, "CONFLICT"),
        BufferError::BeingWritten => refusal(Code::Aborted, "BUSY")
            .retry_after(Duration::from_millis(limits::RETRY_OVERLOADED_MS)),
        // What these say is for operators: it names files of the relay.
        BufferError::NoSpace { .. } => {
            tracing::error!(%error, "a request could not be buffered");
            let what = "the relay has no space to keep the request";
            status::error(full, "NO_SPACE", what)
                .limit("disk")
                .hint("try again later")
        }
        BufferError::Damaged { .. } | BufferError::Store { .. } => {
            tracing::error!(%error, "a request could not be buffered");
            let what = "the relay cannot keep the request now";
            status::error(Code::Internal, "INTERNAL", what).hint("try when the machine is back")
        }
    }
    .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_that_fails_is_reported_without_its_path_and_a_full_one_as_such() {
        let why = || "/var/lib/betcode-relay/buffer.db: no room".to_owned();
        for (error, code) in [
            (BufferError::NoSpace { why: why() }, Code::ResourceExhausted),
            (BufferError::Store { why: why() }, Code::Internal),
            (BufferError::Damaged { why: why() }, Code::Internal),
        ] {
            let status = refused(&error);
            assert_eq!(status.code(), code);
            assert!(!status.message().contains("buffer.db"), "{status:?}");
        }
    }
}
