//! Content blocks of messages: results of tools, and what the user said.

use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::{ToolCallResult, UserInput};
use serde_json::Value;

use super::json::{flag, object, text};

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
    of(object(object(value, "message"), "content"))
        .iter()
        .filter_map(|block| match text(block, "type") {
            "tool_result" => Some(Event::ToolCallResult(ToolCallResult {
                tool_id: text(block, "tool_use_id").to_owned(),
                output: output(object(block, "content")),
                is_error: flag(block, "is_error"),
                duration_ms: 0,
            })),
            "text" => Some(Event::UserInput(UserInput {
                content: text(block, "text").to_owned(),
            })),
            // These clients have no event for pictures: they are told that there is one.
            "image" => Some(Event::UserInput(UserInput {
                content: "[image]".to_owned(),
            })),
            _ => None,
        })
        .collect()
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
