//! What is written to the agent, as lines of JSON. Pure.

use betcode_schema_grpc::v1::{Attachment, UserMessage};
use betcode_storage::capacity::text;
use bytes::Bytes;
use serde_json::{Value, json};

use super::refusal::Refusal;
use crate::limits::PROMPT_OVERHEAD_BYTES;

/// Pictures that the agent takes.
const IMAGES: [&str; 4] = ["image/png", "image/jpeg", "image/gif", "image/webp"];

/// The content of a prompt: text, or blocks when something is attached.
///
/// # Errors
/// An empty message, an attachment that the agent does not take, one that does not fit a line of
/// `line_bytes_max`.
pub(crate) fn content(message: &UserMessage, line_bytes_max: usize) -> Result<Value, Refusal> {
    if message.content.is_empty() && message.attachments.is_empty() {
        return Err(Refusal::invalid("the message is empty; write something"));
    }
    let bytes = message
        .attachments
        .iter()
        .map(|a| a.data.len())
        .sum::<usize>();
    // Before anything is encoded: what is attached grows by a third.
    if bytes / 3 * 4 + message.content.len() > line_bytes_max {
        return Err(too_long(bytes + message.content.len(), line_bytes_max));
    }
    if message.attachments.is_empty() {
        return fits(Value::String(message.content.clone()), line_bytes_max);
    }
    let mut blocks = Vec::with_capacity(message.attachments.len() + 1);
    for attachment in &message.attachments {
        blocks.push(block(attachment)?);
    }
    if !message.content.is_empty() {
        blocks.push(json!({"type": "text", "text": message.content}));
    }
    fits(Value::Array(blocks), line_bytes_max)
}

fn fits(content: Value, line_bytes_max: usize) -> Result<Value, Refusal> {
    // Escapes may make text up to six times as long.
    let bytes = serde_json::to_vec(&content).map_or(usize::MAX, |text| text.len());
    match bytes.saturating_add(PROMPT_OVERHEAD_BYTES) <= line_bytes_max {
        true => Ok(content),
        false => Err(too_long(bytes, line_bytes_max)),
    }
}

fn too_long(bytes: usize, line_bytes_max: usize) -> Refusal {
    let (takes, most) = text::bytes_apart(bytes as u64, line_bytes_max as u64);
    let message = format!(
        "the message with its attachments takes about {takes}, and a line of history at most {most}; \
         send less at once, or raise max_payload_bytes"
    );
    Refusal::new("TOO_LONG", message)
}

fn block(attachment: &Attachment) -> Result<Value, Refusal> {
    let Attachment {
        filename,
        mime_type,
        data,
    } = attachment;
    let base64 = |kind: &str| {
        let source = json!({"type": "base64", "media_type": mime_type, "data": base64(data)});
        json!({"type": kind, "source": source})
    };
    if IMAGES.contains(&mime_type.as_str()) {
        return Ok(base64("image"));
    }
    if mime_type == "application/pdf" {
        return Ok(base64("document"));
    }
    if mime_type.starts_with("text/") || mime_type == "application/json" {
        let text = std::str::from_utf8(data).map_err(|_| {
            Refusal::new(
                "ATTACHMENT",
                format!("{filename:?} is {mime_type} and not UTF-8"),
            )
        })?;
        return Ok(json!({"type": "text", "text": format!("{filename}:\n{text}")}));
    }
    let message = format!(
        "{filename:?} is {mime_type:?}; the agent takes text, PDF, PNG, JPEG, GIF and WebP: put \
         other files where it works, and name them"
    );
    Err(Refusal::new("ATTACHMENT", message))
}

/// The line of a prompt. `agent_session_id` is empty for the first one of a process.
pub(crate) fn line(content: &Value, agent_session_id: &str) -> Bytes {
    json!({
        "type": "user",
        "message": {"role": "user", "content": content},
        "session_id": agent_session_id,
    })
    .to_string()
    .into()
}

/// What a tool request is answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict<'a> {
    /// Yes, with this input (JSON).
    Allow(&'a str),
    /// No, because.
    Deny(&'a str),
}

/// The line of an answer.
pub(crate) fn answer(request_id: &str, verdict: &Verdict<'_>) -> Bytes {
    let response = match verdict {
        // Not through a `Value`: the agent gets back the very input it wrote.
        Verdict::Allow(input) => format!(r#"{{"behavior":"allow","updatedInput":{input}}}"#),
        Verdict::Deny(message) => json!({"behavior": "deny", "message": message}).to_string(),
    };
    let request_id = Value::from(request_id);
    format!(
        r#"{{"type":"control_response","response":{{"subtype":"success","request_id":{request_id},"response":{response}}}}}"#
    )
    .into()
}

/// The line that answers what nobody here can answer.
pub(crate) fn no_answer(request_id: &str, subtype: &str) -> Bytes {
    let error = format!("the daemon does not answer {subtype:?}");
    json!({
        "type": "control_response",
        "response": {"subtype": "error", "request_id": request_id, "error": error},
    })
    .to_string()
    .into()
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let at = |index: usize| u32::from(group.get(index).copied().unwrap_or_default());
        let bits = at(0) << 16 | at(1) << 8 | at(2);
        for digit in 0..4 {
            if digit > group.len() {
                text.push('=');
            } else {
                // Six bits: within the table.
                let index = (bits >> (18 - 6 * digit)) & 63;
                text.push(char::from(DIGITS[index as usize]));
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(content: &str, attachments: &[(&str, &[u8])]) -> UserMessage {
        UserMessage {
            content: content.to_owned(),
            attachments: attachments
                .iter()
                .map(|(mime_type, data)| Attachment {
                    filename: "f".to_owned(),
                    mime_type: (*mime_type).to_owned(),
                    data: data.to_vec(),
                })
                .collect(),
            ..UserMessage::default()
        }
    }

    #[test]
    fn base64_is_the_usual_one() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
            ("\u{7f}\u{3ff}", "f8+/"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn a_prompt_is_one_line_whatever_the_user_wrote() {
        let content = content(&message("a\nb \"c\"", &[]), 10_000).unwrap();
        let line = line(&content, "id");
        assert!(!line.contains(&b'\n'));
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["message"]["content"], "a\nb \"c\"");
        assert_eq!(value["session_id"], "id");
    }

    #[test]
    fn pictures_and_texts_become_blocks_before_the_text() {
        let message = message("see", &[("image/png", b"\x89P"), ("text/plain", b"x")]);
        let content = content(&message, 10_000).unwrap();
        assert_eq!(content[0]["source"]["data"], "iVA=");
        assert_eq!(content[0]["source"]["media_type"], "image/png");
        assert_eq!(content[1]["text"], "f:\nx");
        assert_eq!(content[2]["text"], "see");
    }

    #[test]
    fn what_the_agent_does_not_take_or_a_line_does_not_hold_is_refused() {
        let code = |message: &UserMessage| content(message, 10_000).unwrap_err().code;
        assert_eq!(code(&message("", &[])), "INVALID");
        assert_eq!(code(&message("x", &[("video/mp4", b"")])), "ATTACHMENT");
        assert_eq!(
            code(&message("x", &[("text/plain", b"\xff")])),
            "ATTACHMENT"
        );
        assert_eq!(
            code(&message("x", &[("image/png", &[0; 9000])])),
            "TOO_LONG"
        );
        // Short, and long when escaped.
        assert_eq!(code(&message(&"\u{1}".repeat(2000), &[])), "TOO_LONG");
        assert!(content(&message("x", &[("image/png", &[0; 5000])]), 10_000).is_ok());
    }

    #[test]
    fn an_answer_gives_back_the_input_as_it_was() {
        let line = answer("r\"1", &Verdict::Allow(r#"{"b": 1.50}"#));
        assert_eq!(
            line,
            r#"{"type":"control_response","response":{"subtype":"success","request_id":"r\"1","response":{"behavior":"allow","updatedInput":{"b": 1.50}}}}"#
        );
        let line = answer("r", &Verdict::Deny("no"));
        let value: Value = serde_json::from_slice(&line).unwrap();
        assert_eq!(value["response"]["response"]["message"], "no");
    }
}
