//! What a client says, for its conversation.

use std::sync::atomic::Ordering;
use std::time::Instant;

use betcode_schema_grpc::v1::agent_request::Request as Asked;
use betcode_schema_grpc::v1::{AgentRequest, PermissionResponse};
use betcode_storage::capacity::text;
use tonic::{Code, Status, Streaming};

use super::Attached;
use crate::agents::{Command, Refusal, Reply, prompt_content};
use crate::core::Core;
use crate::status::{being_deleted, draining, invalid, too_long};
use crate::translate::from_struct;

/// Hands on what the client says, until it breaks the rules. A client that has said all that it
/// wanted goes on listening, until the turns of that are over.
pub(super) async fn forward_requests(
    attached: &Attached,
    mut requests: Streaming<AgentRequest>,
) -> Status {
    loop {
        let request = match requests.message().await {
            Ok(Some(request)) => request,
            Ok(None) => {
                let _ = attached.inbox.send(Command::HalfClosed(attached.key)).await;
                std::future::pending().await
            }
            Err(status) => return inbound_status(&attached.core, status),
        };
        let command = match command(attached, request) {
            Ok(command) => command,
            Err(InboundError::Rejected(refusal)) => {
                // After whatever it has been sent.
                attached.mailbox.put(0, refusal.event());
                continue;
            }
            Err(InboundError::ProtocolViolation(status)) => return status,
        };
        if attached.inbox.send(command).await.is_err() {
            return match attached.core.is_draining() {
                true => draining(),
                false => being_deleted(),
            };
        }
    }
}

/// Why nothing more is heard of a client. Of a request that is too long, its transport knows only that.
pub(super) fn inbound_status(core: &Core, status: Status) -> Status {
    if status.code() != Code::OutOfRange {
        return status;
    }
    let why = format!(
        "it is longer than the {} that one may have; send less at once, or raise max_payload_bytes",
        text::bytes(core.settings.request_bytes_max() as u64)
    );
    too_long("request", why)
}

enum InboundError {
    /// Not done, and the client learns it; the conversation goes on.
    Rejected(Refusal),
    /// The stream ends.
    ProtocolViolation(Status),
}

fn command(attached: &Attached, request: AgentRequest) -> Result<Command, InboundError> {
    let (stream, last_sent) = (attached.key, attached.last_sent.load(Ordering::Acquire));
    let bytes_max = attached.core.settings.max_payload_bytes;
    let heard = Instant::now();
    Ok(match request.request {
        Some(Asked::Message(message)) => match prompt_content(&message, bytes_max) {
            Ok(content) => Command::Message(stream, content),
            Err(refusal) => Command::MessageRefused(stream, refusal),
        },
        Some(Asked::Permission(answer)) => Command::Reply {
            stream,
            last_sent,
            reply: decide(answer, bytes_max).map_err(InboundError::Rejected)?,
            heard,
        },
        Some(Asked::QuestionResponse(answer)) => {
            let texts = answer.answers.iter();
            let bytes = texts
                .map(|(question, text)| question.len() + text.len())
                .sum();
            check_fits(bytes, bytes_max)
                .map_err(|refusal| refusal.with("request_id", answer.question_id.clone()))
                .map_err(InboundError::Rejected)?;
            let reply = Reply::Answers {
                question_id: answer.question_id,
                answers: answer.answers,
            };
            Command::Reply {
                stream,
                last_sent,
                reply,
                heard,
            }
        }
        Some(Asked::Cancel(_)) => Command::Cancel(None),
        Some(Asked::Start(_)) => {
            let why = "this stream has begun already; open another one for another session";
            return Err(InboundError::ProtocolViolation(invalid("request", why)));
        }
        Some(Asked::Encrypted(_)) => {
            let why = "this daemon does not encrypt end to end yet: use its socket or mutual TLS";
            return Err(InboundError::ProtocolViolation(invalid("encrypted", why)));
        }
        // Those of a newer protocol have a field that is not known here, and look as empty ones do.
        None => {
            let why = "the request is empty, or of a kind that this daemon does not know";
            return Err(InboundError::Rejected(Refusal::invalid(why)));
        }
    })
}

fn decide(answer: PermissionResponse, bytes_max: usize) -> Result<Reply, Refusal> {
    let decision = answer.decision();
    let with_id = |refusal: Refusal| refusal.with("request_id", answer.request_id.clone());
    let updated_input = match &answer.updated_input {
        None => None,
        Some(fields) => {
            let wrong = |why| with_id(Refusal::invalid(format!("updated_input: {why}")));
            Some(from_struct(fields).map_err(wrong)?.to_string())
        }
    };
    let bytes = updated_input.as_ref().map_or(0, String::len) + answer.message.len();
    check_fits(bytes, bytes_max).map_err(with_id)?;
    Ok(Reply::Decision {
        request_id: answer.request_id,
        decision,
        updated_input,
        message: answer.message,
    })
}

/// Whether an answer will fit a line, nearly: the conversation knows what else stands on it.
fn check_fits(bytes: usize, bytes_max: usize) -> Result<(), Refusal> {
    // Escapes may make a message six times as long.
    match bytes.saturating_mul(6) <= bytes_max {
        true => Ok(()),
        false => {
            let (has, most) = text::bytes_apart(bytes as u64, bytes_max as u64);
            let why = format!("the answer has {has}, and its line must fit {most}");
            Err(Refusal::new("TOO_LONG", why))
        }
    }
}
