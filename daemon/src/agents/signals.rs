//! What a line of the agent means to its conversation. Pure; whatever cannot be read means nothing.

use std::fmt;

use betcode_storage::classify::json::{fields, string};
use serde::de::{Deserializer as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::limits::{
    AGENT_TOOLS_MAX, TOOL_CALLS_MAX, TOOL_NAME_BYTES_MAX, TRANSLATE_OBJECTS_PER_LINE_MAX,
};
use crate::translate::{PLAN_MODE, plan_mode_of, value_of};

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
        /// Its own version; empty when it does not say.
        version: String,
        /// The tools that it has.
        tools: Vec<String>,
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
    /// It uses tools; a sub-agent's are its own.
    ToolsBegin(Vec<String>),
    /// Tools have their results, by the ids of their calls.
    ToolsEnd(Vec<String>),
    /// It begins or ends to compact what its model reads.
    Compacts(bool),
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
        .flat_map(|object| {
            let signal = signal_in(object.get());
            let mode = matches!(signal, Some(AgentSignal::ToolsEnd(_)));
            let mode = mode.then(|| mode_of_tool_result(object.get())).flatten();
            signal.into_iter().chain(mode)
        })
        .collect()
}

/// The mode that the result of a tool says: one that enters or leaves plan mode.
fn mode_of_tool_result(object: &str) -> Option<AgentSignal> {
    let [result] = fields(object, &["tool_use_result"])?;
    let plan_mode = plan_mode_of(&value_of(result?.get()))?;
    Some(AgentSignal::Mode { plan_mode })
}

fn signal_in(object: &str) -> Option<AgentSignal> {
    let names = [
        "type",
        "subtype",
        "session_id",
        "model",
        "permissionMode",
        "claude_code_version",
        "request_id",
        "request",
        "status",
        "message",
        "parent_tool_use_id",
        "tools",
    ];
    let [
        kind,
        subtype,
        session_id,
        model,
        mode,
        version,
        request_id,
        request,
        status,
        message,
        parent,
        tools,
    ] = fields(object, &names)?;
    let text = |value: Option<&RawValue>| value.and_then(string).unwrap_or_default().into_owned();
    let plan_mode = || mode.and_then(string).map(|mode| mode == PLAN_MODE);
    match &*text(kind) {
        "system" if text(subtype) == "init" => Some(AgentSignal::Began {
            session_id: text(session_id),
            model: text(model),
            plan_mode: plan_mode(),
            version: text(version),
            tools: tools.map(names_in).unwrap_or_default(),
        }),
        "system" if text(subtype) == "compact_boundary" => Some(AgentSignal::Compacts(false)),
        "assistant" if text(parent).is_empty() => {
            let ids = ids_of_blocks(message?, "tool_use", "id");
            (!ids.is_empty()).then_some(AgentSignal::ToolsBegin(ids))
        }
        "user" if text(parent).is_empty() => {
            let ids = ids_of_blocks(message?, "tool_result", "tool_use_id");
            (!ids.is_empty()).then_some(AgentSignal::ToolsEnd(ids))
        }
        "system" if text(subtype) == "status" => of_status(status?, plan_mode()),
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

/// A state that the agent names, or says to be over.
fn of_status(status: &RawValue, plan_mode: Option<bool>) -> Option<AgentSignal> {
    match (status.get(), plan_mode) {
        (r#""compacting""#, _) => Some(AgentSignal::Compacts(true)),
        (_, Some(plan_mode)) => Some(AgentSignal::Mode { plan_mode }),
        ("null", None) => Some(AgentSignal::Compacts(false)),
        _ => None,
    }
}

/// The names in an array. Longer ones than any tool has are left out.
fn names_in(array: &RawValue) -> Vec<String> {
    let mut json = serde_json::Deserializer::from_str(array.get());
    let names = json
        .deserialize_seq(First(AGENT_TOOLS_MAX))
        .unwrap_or_default();
    let names = names.into_iter().filter_map(string);
    let names = names.filter(|name| name.len() <= TOOL_NAME_BYTES_MAX);
    names.map(std::borrow::Cow::into_owned).collect()
}

/// The ids of a message's blocks of a kind. Longer ones than any agent makes are left out.
fn ids_of_blocks(message: &RawValue, kind: &str, id: &str) -> Vec<String> {
    let Some([Some(content)]) = fields(message.get(), &["content"]) else {
        return Vec::new();
    };
    let mut json = serde_json::Deserializer::from_str(content.get());
    // A content that is plain text has no blocks.
    let blocks = json
        .deserialize_seq(First(TOOL_CALLS_MAX))
        .unwrap_or_default();
    let id_of = |block: &RawValue| {
        let [found, id] = fields(block.get(), &["type", id])?;
        let is_wanted = found.and_then(string)? == kind;
        let id = id.and_then(string).filter(|_| is_wanted)?;
        (id.len() <= TOOL_NAME_BYTES_MAX).then(|| id.into_owned())
    };
    blocks.into_iter().filter_map(id_of).collect()
}

/// The first elements of an array, at most so many: it may have millions.
struct First(usize);

impl<'de> Visitor<'de> for First {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut first = Vec::new();
        while first.len() < self.0
            && let Some(item) = items.next_element()?
        {
            first.push(item);
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(first)
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
        let other = br#"{"type":"system","subtype":"status","status":"requesting"}"#;
        assert!(signals_in(other).is_empty());
        let result = |structured: &str| {
            let line = format!(
                r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"t"}}]}},"tool_use_result":{structured}}}"#
            );
            let mut signals = signals_in(line.as_bytes());
            assert_eq!(
                signals.remove(0),
                AgentSignal::ToolsEnd(vec!["t".to_owned()])
            );
            signals
        };
        for (structured, plan_mode) in [
            (r#"{"message":"Entered plan mode. Explore."}"#, true),
            (r#"{"plan":"do","isAgent":false,"filePath":"/p"}"#, false),
        ] {
            assert_eq!(result(structured), [AgentSignal::Mode { plan_mode }]);
        }
        for other in [
            r#""Entered plan mode""#,
            r#"{"message":"Entered plan mode","stdout":"x"}"#,
            r#"{"message":"Done"}"#,
        ] {
            assert!(result(other).is_empty(), "{other}");
        }
    }

    #[test]
    fn the_tools_of_an_agent_are_known_within_bounds() {
        let long = "x".repeat(TOOL_NAME_BYTES_MAX + 1);
        let names = |names: &str| {
            let line = format!(r#"{{"type":"system","subtype":"init","tools":{names}}}"#);
            match signals_in(line.as_bytes()).remove(0) {
                AgentSignal::Began { tools, .. } => tools,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            names(&format!(r#"["Bash",7,"{long}","Read"]"#)),
            ["Bash", "Read"]
        );
        assert!(names("7").is_empty());
        let many = format!("[{}]", vec![r#""x""#; 2 * AGENT_TOOLS_MAX].join(","));
        assert_eq!(names(&many).len(), AGENT_TOOLS_MAX);
    }

    #[test]
    fn tools_at_work_and_compaction_are_seen() {
        let uses = r#"{"type":"assistant","message":{"content":[{"type":"text"},{"type":"tool_use","id":"a"},7,{"type":"tool_use"},{"type":"tool_use","id":"b"}]}}"#;
        let ids = vec!["a".to_owned(), "b".to_owned()];
        assert_eq!(
            signals_in(uses.as_bytes()),
            [AgentSignal::ToolsBegin(ids.clone())]
        );
        let of_sub_agent = uses.replacen('{', r#"{"parent_tool_use_id":"t","#, 1);
        assert!(signals_in(of_sub_agent.as_bytes()).is_empty());
        let results = r#"{"type":"user","parent_tool_use_id":null,"message":{"content":[{"type":"tool_result","tool_use_id":"a"},{"type":"tool_result","tool_use_id":"b"}]}}"#;
        assert_eq!(signals_in(results.as_bytes()), [AgentSignal::ToolsEnd(ids)]);
        for none in [
            r#"{"type":"user","message":{"content":"hi"}}"#,
            r#"{"type":"user"}"#,
            r#"{"type":"assistant","message":{"content":[{"type":"text","text":"hi"}]}}"#,
        ] {
            assert!(signals_in(none.as_bytes()).is_empty(), "{none}");
        }
        let many = vec![r#"{"type":"tool_use","id":"x"}"#; 10 * TOOL_CALLS_MAX].join(",");
        let many = format!(r#"{{"type":"assistant","message":{{"content":[{many}]}}}}"#);
        assert!(matches!(
            &signals_in(many.as_bytes())[..],
            [AgentSignal::ToolsBegin(ids)] if ids.len() == TOOL_CALLS_MAX
        ));
        for (line, begins) in [
            (
                r#"{"type":"system","subtype":"status","status":"compacting"}"#,
                true,
            ),
            (r#"{"type":"system","subtype":"compact_boundary"}"#, false),
            (
                r#"{"type":"system","subtype":"status","status":null}"#,
                false,
            ),
        ] {
            assert_eq!(
                signals_in(line.as_bytes()),
                [AgentSignal::Compacts(begins)],
                "{line}"
            );
        }
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
                    version: String::new(),
                    tools: Vec::new(),
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
