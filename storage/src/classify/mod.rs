//! What a line says about itself: its type, when it was said, and what it adds to usage.
//!
//! Lines are input: whatever cannot be read is history all the same, and is classed as such.

use chrono::DateTime;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::limits::{MESSAGE_TYPE_BYTES_MAX, PREVIEW_BYTES_MAX};
use crate::usage::{Tokens, UsageFact};

/// Type of lines that are not a JSON object.
pub const TYPE_NOT_JSON: &str = "(not json)";
/// Type of JSON objects without a usable `type`.
pub const TYPE_UNTYPED: &str = "(untyped)";

/// What one line tells.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LineFacts {
    /// The top-level `type`, or one of the names in parentheses.
    pub message_type: String,
    /// The line's own timestamp, Unix milliseconds.
    pub said_ms: Option<i64>,
    /// What it adds to the session's usage.
    pub usage: Option<UsageFact>,
    /// Text for the session's preview.
    pub preview: Option<String>,
    /// What it tells about the session itself.
    pub session: Option<SessionFacts>,
}

/// What lines tell about their session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFacts {
    /// The agent's working directory.
    pub working_directory: String,
    /// The model.
    pub model: String,
    /// The agent's own session id.
    pub agent_session_id: String,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    subtype: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow)]
    message: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    total_cost_usd: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    cwd: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow, rename = "sessionId", alias = "session_id")]
    session_id: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct AgentMessage<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    model: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Block {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct WireTokens {
    input_tokens: u64,
    output_tokens: u64,
    cache_read_input_tokens: u64,
    cache_creation_input_tokens: u64,
}

/// Reads one line. Never fails: what cannot be read has a type that says so.
#[must_use]
pub fn classify(line: &[u8]) -> LineFacts {
    let facts = |name: &str| LineFacts {
        message_type: name.to_owned(),
        ..LineFacts::default()
    };
    let Ok(text) = std::str::from_utf8(line) else {
        return facts(TYPE_NOT_JSON);
    };
    let trimmed = text.trim();
    if !trimmed.starts_with('{') {
        return facts(TYPE_NOT_JSON);
    }
    let Ok(line) = serde_json::from_str::<Line<'_>>(trimmed) else {
        // Broken, or an object with one of our keys twice: not worth telling apart.
        return facts(TYPE_NOT_JSON);
    };
    let kind = line.kind.and_then(string).filter(|k| !k.is_empty());
    let Some(kind) = kind.filter(|k| k.len() <= MESSAGE_TYPE_BYTES_MAX) else {
        return LineFacts {
            said_ms: line.timestamp.and_then(time_ms),
            ..facts(TYPE_UNTYPED)
        };
    };
    let mut told = facts(&kind);
    told.said_ms = line.timestamp.and_then(time_ms);
    match kind.as_str() {
        "assistant" => read_assistant(&line, &mut told),
        "result" => read_result(&line, &mut told),
        "system" if line.subtype.and_then(string).as_deref() == Some("init") => {
            told.usage = Some(UsageFact::ProcessStarted);
        }
        _ => {}
    }
    let session = SessionFacts {
        working_directory: line.cwd.and_then(string).unwrap_or_default(),
        model: told_model(&line),
        agent_session_id: line.session_id.and_then(string).unwrap_or_default(),
    };
    if session != SessionFacts::default() {
        told.session = Some(session);
    }
    told
}

fn told_model(line: &Line<'_>) -> String {
    if let Some(model) = line.model.and_then(string) {
        return model;
    }
    line.message
        .and_then(|m| serde_json::from_str::<AgentMessage<'_>>(m.get()).ok())
        .and_then(|m| m.model.and_then(string))
        // What Claude Code writes for messages that no model made.
        .filter(|m| m != "<synthetic>")
        .unwrap_or_default()
}

fn read_assistant(line: &Line<'_>, told: &mut LineFacts) {
    let Some(message) = line.message else { return };
    let Ok(message) = serde_json::from_str::<AgentMessage<'_>>(message.get()) else {
        return;
    };
    if let (Some(id), Some(usage)) = (message.id.and_then(string), message.usage.and_then(tokens)) {
        told.usage = Some(UsageFact::Assistant {
            message_id: id,
            tokens: usage,
        });
    }
    told.preview = message.content.and_then(first_text).map(cut_preview);
}

fn read_result(line: &Line<'_>, told: &mut LineFacts) {
    told.usage = Some(UsageFact::Result {
        tokens: line.usage.and_then(tokens).unwrap_or_default(),
        cost_usd: line
            .total_cost_usd
            .and_then(|raw| serde_json::from_str::<f64>(raw.get()).ok())
            .filter(|cost| cost.is_finite() && *cost >= 0.0),
    });
    told.preview = line
        .result
        .and_then(string)
        .filter(|t| !t.is_empty())
        .map(cut_preview);
}

fn string(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

fn tokens(raw: &RawValue) -> Option<Tokens> {
    let wire: WireTokens = serde_json::from_str(raw.get()).ok()?;
    Some(Tokens {
        input: wire.input_tokens,
        output: wire.output_tokens,
        cache_read: wire.cache_read_input_tokens,
        cache_creation: wire.cache_creation_input_tokens,
    })
}

/// RFC 3339 text, or a number of milliseconds (or of seconds, when it is too small for that).
fn time_ms(raw: &RawValue) -> Option<i64> {
    if let Some(text) = string(raw) {
        return DateTime::parse_from_rfc3339(&text)
            .ok()
            .map(|t| t.timestamp_millis());
    }
    let number: f64 = serde_json::from_str(raw.get()).ok()?;
    // 10^11 ms is 1973 and 10^11 s is the year 5138: what stands between is unambiguous.
    let ms = if number < 1e11 {
        number * 1000.0
    } else {
        number
    };
    (ms > 0.0 && ms < 1e14).then_some(ms as i64)
}

fn first_text(content: &RawValue) -> Option<String> {
    if let Some(text) = string(content) {
        return Some(text);
    }
    let blocks: Vec<Block> = serde_json::from_str(content.get()).ok()?;
    blocks
        .into_iter()
        .find(|b| b.kind == "text" && !b.text.is_empty())
        .map(|b| b.text)
}

/// One line of at most [`PREVIEW_BYTES_MAX`] bytes, cut at a character.
fn cut_preview(text: String) -> String {
    let mut preview = String::new();
    for word in text.split_whitespace() {
        if !preview.is_empty() {
            preview.push(' ');
        }
        preview.push_str(word);
        if preview.len() > PREVIEW_BYTES_MAX {
            let room = PREVIEW_BYTES_MAX - '…'.len_utf8();
            let cut = (0..=room)
                .rev()
                .find(|&at| preview.is_char_boundary(at))
                .unwrap_or(0);
            preview.truncate(cut);
            preview.push('…');
            break;
        }
    }
    preview
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_line_tells_type_time_and_session() {
        let line = br#"{"parentUuid":null,"cwd":"/home/me/x","sessionId":"s-1","type":"user","message":{"role":"user","content":"hi"},"timestamp":"2025-09-03T00:47:19.293Z"}"#;
        let told = classify(line);
        assert_eq!(told.message_type, "user");
        assert_eq!(told.said_ms, Some(1_756_860_439_293));
        let session = told.session.unwrap();
        assert_eq!(session.working_directory, "/home/me/x");
        assert_eq!(session.agent_session_id, "s-1");
    }

    #[test]
    fn an_assistant_line_tells_usage_model_and_preview() {
        let line = br#"{"type":"assistant","message":{"id":"msg_1","model":"claude","content":[{"type":"thinking","thinking":"x"},{"type":"text","text":"  two\n words "}],"usage":{"input_tokens":3,"output_tokens":5,"cache_read_input_tokens":7,"service_tier":"standard"}},"session_id":"s"}"#;
        let told = classify(line);
        let tokens = Tokens {
            input: 3,
            output: 5,
            cache_read: 7,
            cache_creation: 0,
        };
        assert_eq!(
            told.usage,
            Some(UsageFact::Assistant {
                message_id: "msg_1".into(),
                tokens
            })
        );
        assert_eq!(told.preview.as_deref(), Some("two words"));
        assert_eq!(told.session.unwrap().model, "claude");
    }

    #[test]
    fn lines_that_cannot_be_read_are_classed_not_refused() {
        for bad in [
            &b""[..],
            b"prose",
            b"{\"type\":\"user\"",
            b"\xff\xfe",
            b"{} {}",
            b"[1]",
        ] {
            assert_eq!(classify(bad).message_type, TYPE_NOT_JSON, "{bad:?}");
        }
        for untyped in [&b"{}"[..], b"{\"type\":7}", b"{\"type\":\"\"}"] {
            assert_eq!(classify(untyped).message_type, TYPE_UNTYPED, "{untyped:?}");
        }
    }

    #[test]
    fn a_long_preview_is_cut_at_a_character() {
        let line = serde_json::json!({"type": "result", "result": "ä".repeat(500)}).to_string();
        let preview = classify(line.as_bytes()).preview.unwrap();
        assert!(
            preview.len() <= PREVIEW_BYTES_MAX && preview.ends_with('…'),
            "{preview}"
        );
    }

    #[test]
    fn numeric_timestamps_are_seconds_or_milliseconds() {
        assert_eq!(
            classify(br#"{"type":"x","timestamp":1756860439}"#).said_ms,
            Some(1_756_860_439_000)
        );
        assert_eq!(
            classify(br#"{"type":"x","timestamp":1756860439293}"#).said_ms,
            Some(1_756_860_439_293)
        );
        assert_eq!(
            classify(br#"{"type":"x","timestamp":"yesterday"}"#).said_ms,
            None
        );
    }
}
