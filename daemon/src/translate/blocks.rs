//! Content blocks of messages: results of tools, and what the user said.

use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::{ToolCallResult, UserInput};
use serde_json::Value;

use super::json::{flag, narrow, object, text};
use super::{derived, parent};

/// The blocks of a content; a content that is plain text is one text block.
pub(super) fn of(content: &Value) -> Vec<Value> {
    match content {
        Value::Array(blocks) => blocks.clone(),
        Value::String(text) => vec![serde_json::json!({"type": "text", "text": text})],
        _ => Vec::new(),
    }
}

/// A `user` line: results of tools, fed back to the agent, or a prompt.
pub(super) fn user(value: &Value) -> Vec<Event> {
    let blocks = of(object(object(value, "message"), "content"));
    let results = blocks.iter().filter(|b| text(b, "type") == "tool_result");
    // It is of the line, which mostly has one block, and says not of which.
    let structured = match results.count() {
        1 => structured_result(value),
        _ => &Value::Null,
    };
    let events = blocks.iter().filter_map(|block| match text(block, "type") {
        "tool_result" => Some(Event::ToolCallResult(ToolCallResult {
            tool_id: text(block, "tool_use_id").to_owned(),
            output: output(object(block, "content")),
            is_error: flag(block, "is_error"),
            duration_ms: duration_ms(structured),
        })),
        "text" => Some(Event::UserInput(UserInput {
            content: text(block, "text").to_owned(),
        })),
        // These clients have no event for pictures: they are told that there is one.
        "image" => Some(Event::UserInput(UserInput {
            content: "[image]".to_owned(),
        })),
        _ => None,
    });
    let plan = derived::of_tool_result(structured).filter(|_| parent(value).is_empty());
    events.chain(plan).collect()
}

/// A tool's result as the agent has it itself, printed or in a transcript.
fn structured_result(value: &Value) -> &Value {
    let printed = value.get("tool_use_result");
    printed.unwrap_or_else(|| object(value, "toolUseResult"))
}

/// How long the tool took, if it says.
fn duration_ms(structured: &Value) -> u32 {
    let of_it = |name: &str| structured.get(name).map(|_| narrow(structured, name));
    let seconds = || structured.get("durationSeconds").and_then(Value::as_f64);
    of_it("durationMs")
        .or_else(|| of_it("totalDurationMs"))
        // Saturating: an `as` from f64 is.
        .or_else(|| seconds().map(|seconds| (seconds * 1000.0) as u32))
        .unwrap_or_default()
}

/// A tool's output as text: its text blocks, one after the other; others by their type.
fn output(content: &Value) -> String {
    let parts: Vec<String> = of(content)
        .iter()
        .map(|block| match text(block, "type") {
            "text" => text(block, "text").to_owned(),
            other => format!("[{other}]"),
        })
        .collect();
    parts.join("\n")
}
