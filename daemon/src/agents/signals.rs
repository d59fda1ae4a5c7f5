//! What a line of the agent means to its conversation. Pure; whatever cannot be read means nothing.

use betcode_storage::classify::json::{fields, string};
use serde_json::value::RawValue;

use crate::limits::TRANSLATE_OBJECTS_PER_LINE_MAX;
use crate::translate::PLAN_MODE;

/// Something that the conversation must know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AgentSignal {
    /// The agent is there.
    Began {
        /// What it calls its conversation.
        session_id: String,
        /// The model that it has.
        model: String,
        /// Whether it plans only, if it says.
        plan_mode: Option<bool>,
    },
    /// It has another permission mode from now on.
    Mode {
        /// Whether it plans only.
        plan_mode: bool,
    },
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

/// What a line means, in the order in which it stands there.
pub(crate) fn signals_in(line: &[u8]) -> Vec<AgentSignal> {
    // Most lines are partial output, which means nothing here.
    if line.starts_with(br#"{"type":"stream_event""#) {
        return Vec::new();
    }
    // Not what is made readable: the agent is to get back what it wrote.
    let line = String::from_utf8_lossy(line);
    serde_json::Deserializer::from_str(&line)
        .into_iter::<&RawValue>()
        .map_while(Result::ok)
        .filter(|value| value.get().starts_with('{'))
        .take(TRANSLATE_OBJECTS_PER_LINE_MAX)
        .filter_map(|object| signal_in(object.get()))
        .collect()
}

fn signal_in(object: &str) -> Option<AgentSignal> {
    let names = [
        "type",
        "subtype",
        "session_id",
        "model",
        "permissionMode",
        "request_id",
        "request",
    ];
    let [kind, subtype, session_id, model, mode, request_id, request] = fields(object, &names)?;
    let text = |value: Option<&RawValue>| value.and_then(string).unwrap_or_default().into_owned();
    let plan_mode = || mode.and_then(string).map(|mode| mode == PLAN_MODE);
    match &*text(kind) {
        "system" if text(subtype) == "init" => Some(AgentSignal::Began {
            session_id: text(session_id),
            model: text(model),
            plan_mode: plan_mode(),
        }),
        "system" if text(subtype) == "status" => {
            plan_mode().map(|plan_mode| AgentSignal::Mode { plan_mode })
        }
        "result" => Some(AgentSignal::TurnOver),
        "control_cancel_request" => Some(AgentSignal::Withdraws(text(request_id))),
        "control_request" => {
            let names = ["subtype", "tool_name", "input"];
            let [subtype, tool_name, input] = fields(request?.get(), &names)?;
            let (request_id, subtype) = (text(request_id), text(subtype));
            if subtype != "can_use_tool" {
                return Some(AgentSignal::AsksOther {
                    request_id,
                    subtype,
                });
            }
            Some(AgentSignal::Asks(Ask {
                request_id,
                tool_name: text(tool_name),
                input: input.map_or("{}", RawValue::get).to_owned(),
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
        let [AgentSignal::Asks(ask)] = &signals_in(line)[..] else {
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
    fn the_mode_is_known_from_the_beginning_and_whenever_it_changes() {
        let init = br#"{"type":"system","subtype":"init","permissionMode":"plan"}"#;
        assert!(matches!(
            signals_in(init)[..],
            [AgentSignal::Began {
                plan_mode: Some(true),
                ..
            }]
        ));
        let status =
            br#"{"type":"system","subtype":"status","status":null,"permissionMode":"acceptEdits"}"#;
        assert_eq!(signals_in(status), [AgentSignal::Mode { plan_mode: false }]);
        let other = br#"{"type":"system","subtype":"status","status":"compacting"}"#;
        assert!(signals_in(other).is_empty());
    }

    #[test]
    fn each_object_of_a_line_is_seen_and_nonsense_is_not() {
        let two = br#"{"type":"system","subtype":"init","session_id":"a","model":"m"}{"type":"result"} torn"#;
        assert_eq!(
            signals_in(two),
            [
                AgentSignal::Began {
                    session_id: "a".to_owned(),
                    model: "m".to_owned(),
                    plan_mode: None,
                },
                AgentSignal::TurnOver
            ]
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
            assert!(signals_in(line.as_bytes()).is_empty(), "{line}");
        }
        assert!(signals_in(b"\xff\xfe").is_empty());
    }
}
