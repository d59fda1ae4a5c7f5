//! What a line of the agent means to its conversation. Pure; whatever cannot be read means nothing.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::limits::TRANSLATE_OBJECTS_PER_LINE_MAX;

/// Something that the conversation must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Glance {
    /// The agent is there, and calls its conversation so.
    Began(String),
    /// It asks whether it may use a tool, or asks the user.
    Asks(Ask),
    /// It asks something that nobody here can answer.
    AsksOther {
        /// The request.
        request_id: String,
        /// What it is about.
        subtype: String,
    },
    /// It wants no answer any more.
    Withdraws(String),
    /// It goes on with what a tool gave.
    GoesOn,
    /// The turn is over.
    TurnOver,
}

/// A request to use a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Its id.
    pub(crate) request_id: String,
    /// The tool.
    pub(crate) tool_name: String,
    /// What the tool is to be given: the very JSON that the agent wrote.
    pub(crate) input: String,
    /// All of the request, as the agent wrote it.
    pub(crate) object: String,
}

#[derive(Deserialize)]
struct Seen<'a> {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    subtype: Option<String>,
    #[serde(default)]
    session_id: Option<String>,
    #[serde(default)]
    request_id: Option<String>,
    #[serde(borrow, default)]
    request: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Asked<'a> {
    subtype: String,
    #[serde(default)]
    tool_name: String,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

/// What a line means, in the order in which it stands there.
pub(crate) fn glance(line: &[u8]) -> Vec<Glance> {
    // Most lines are partial output, which means nothing here.
    if line.starts_with(br#"{"type":"stream_event""#) {
        return Vec::new();
    }
    serde_json::Deserializer::from_slice(line)
        .into_iter::<&RawValue>()
        .map_while(Result::ok)
        .take(TRANSLATE_OBJECTS_PER_LINE_MAX)
        .filter_map(|object| of(object.get()))
        .collect()
}

fn of(object: &str) -> Option<Glance> {
    let seen: Seen<'_> = serde_json::from_str(object).ok()?;
    let request_id = seen.request_id.unwrap_or_default();
    match seen.kind.as_str() {
        "system" if seen.subtype.as_deref() == Some("init") => {
            Some(Glance::Began(seen.session_id.unwrap_or_default()))
        }
        "user" => Some(Glance::GoesOn),
        "result" => Some(Glance::TurnOver),
        "control_cancel_request" => Some(Glance::Withdraws(request_id)),
        "control_request" => {
            let asked: Asked<'_> = serde_json::from_str(seen.request?.get()).ok()?;
            if asked.subtype != "can_use_tool" {
                return Some(Glance::AsksOther {
                    request_id,
                    subtype: asked.subtype,
                });
            }
            Some(Glance::Asks(Ask {
                request_id,
                tool_name: asked.tool_name,
                input: asked.input.map_or("{}", RawValue::get).to_owned(),
                object: object.to_owned(),
            }))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_taken_as_the_agent_wrote_it() {
        let line = br#"{"type":"control_request","request_id":"r","request":{"subtype":"can_use_tool","tool_name":"Bash","input":{"b":1.50, "a":"\u00e9"}}}"#;
        let [Glance::Asks(ask)] = &glance(line)[..] else {
            panic!()
        };
        assert_eq!(
            (ask.request_id.as_str(), ask.tool_name.as_str()),
            ("r", "Bash")
        );
        assert_eq!(ask.input, r#"{"b":1.50, "a":"\u00e9"}"#);
        assert_eq!(ask.object.as_bytes(), line);
    }

    #[test]
    fn each_object_of_a_line_is_seen_and_nonsense_is_not() {
        let two = br#"{"type":"system","subtype":"init","session_id":"a"}{"type":"result"} torn"#;
        assert_eq!(
            glance(two),
            [Glance::Began("a".to_owned()), Glance::TurnOver]
        );
        for line in [
            "",
            "prose",
            "{",
            "[1]",
            "{\"type\":7}",
            r#"{"type":"control_request"}"#,
            r#"{"type":"control_request","request":7}"#,
            r#"{"type":"system","subtype":"other"}"#,
        ] {
            assert!(glance(line.as_bytes()).is_empty(), "{line}");
        }
        assert!(glance(b"\xff\xfe").is_empty());
    }
}
