//! Content blocks of messages: results of tools, and what the user said.

use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::{TextDelta, ToolCallResult, UserInput};
use serde_json::Value;

use super::json::{flag, narrow, object, text};
use super::tasks::TaskChange;
use super::{derived, is_prompt, parent};

/// The blocks of a content; a content that is plain text is one text block.
pub(super) fn of(content: &Value) -> Vec<Value> {
    match content {
        Value::Array(blocks) => blocks.clone(),
        Value::String(text) => vec![serde_json::json!({"type": "text", "text": text})],
        _ => Vec::new(),
    }
}

/// Whether a content has a text that is wanted.
pub(super) fn any_text(content: &Value, is_wanted: impl Fn(&str) -> bool) -> bool {
    let is_text = |block: &Value| text(block, "type") == "text" && is_wanted(text(block, "text"));
    match content {
        Value::Array(blocks) => blocks.iter().any(is_text),
        Value::String(text) => is_wanted(text),
        _ => false,
    }
}

/// A `user` line: results of tools, fed back to the agent, or a prompt.
pub(super) fn user(value: &Value) -> Vec<Event> {
    let blocks = of(object(object(value, "message"), "content"));
    let structured = structured_result_of(value, &blocks);
    let events = blocks.iter().filter_map(|block| match text(block, "type") {
        "tool_result" => Some(Event::ToolCallResult(ToolCallResult {
            tool_id: text(block, "tool_use_id").to_owned(),
            output: output(object(block, "content")),
            is_error: flag(block, "is_error"),
            duration_ms: duration_ms(structured),
        })),
        "text" => said(value, text(block, "text")),
        // These clients have no event for pictures: they are told that there is one.
        "image" if !is_of_agent(value) => Some(user_input("[image]")),
        _ => None,
    });
    let plan = derived::of_tool_result(structured).filter(|_| parent(value).is_empty());
    events.chain(plan).collect()
}

/// Whether a `user` line has text that a command of the agent's own printed.
pub(super) fn prints(value: &Value) -> bool {
    let content = object(object(value, "message"), "content");
    !is_prompt(value) && any_text(content, |text| printed(text).is_some())
}

/// Text of a `user` line: what the user said, or what a command of the agent's own printed. The agent puts
/// more into such lines that is for its model, and that nobody typed.
fn said(value: &Value, text: &str) -> Option<Event> {
    if is_prompt(value) {
        return Some(user_input(text));
    }
    if let Some(output) = printed(text) {
        return command_output(output);
    }
    let trimmed = text.trim_start();
    let has_tag = AGENT_TAGS.iter().any(|tag| trimmed.starts_with(tag));
    let is_of_agent = has_tag || is_of_agent(value);
    (!is_of_agent).then(|| user_input(text))
}

/// How text begins that the agent puts into `user` lines itself.
const AGENT_TAGS: [&str; 6] = [
    "<local-command-",
    "<command-name>",
    "<command-message>",
    "<command-args>",
    "<system-reminder>",
    "<task-notification>",
];

/// Marks of `user` lines that the agent makes itself.
const AGENT_MARKS: [&str; 3] = ["isSynthetic", "isMeta", "isCompactSummary"];

fn is_of_agent(value: &Value) -> bool {
    AGENT_MARKS.iter().any(|mark| flag(value, mark)) || is_for_sub_agent(value)
}

/// Whether a sub-agent is told this, by the agent that called it. In some transcripts such lines stand among the
/// agent's own; a transcript of the sub-agent's own names it, and begins with what it was told.
fn is_for_sub_agent(value: &Value) -> bool {
    let is_among_others = flag(value, "isSidechain") && value.get("agentId").is_none();
    !parent(value).is_empty() || is_among_others
}

/// What a command of the agent's own printed, without the tags around it.
fn printed(text: &str) -> Option<&str> {
    let rest = text.trim_start().strip_prefix("<local-command-")?;
    let output = rest
        .strip_prefix("stdout>")
        .or_else(|| rest.strip_prefix("stderr>"))?;
    output.split("</local-command-").next()
}

/// The output of a command of the agent's own, as text that the agent says.
pub(super) fn command_output(text: &str) -> Option<Event> {
    let text = text.trim().to_owned();
    let says = !text.is_empty();
    says.then_some(Event::TextDelta(TextDelta {
        text,
        is_complete: true,
    }))
}

fn user_input(content: &str) -> Event {
    let content = content.to_owned();
    Event::UserInput(UserInput { content })
}

/// The result of a line with one result, as the agent has it itself. It is of the line, which mostly has one, and says
/// not of which.
fn structured_result_of<'a>(value: &'a Value, blocks: &[Value]) -> &'a Value {
    let results = blocks.iter().filter(|b| text(b, "type") == "tool_result");
    match results.count() {
        1 => structured_result(value),
        _ => &Value::Null,
    }
}

/// What the result of a call of the agent's own says of a thing to do.
pub(super) fn task_change(value: &Value) -> Option<TaskChange> {
    // Before the blocks are copied: most results are of other calls.
    let change = TaskChange::of(structured_result(value))?;
    let blocks = of(object(object(value, "message"), "content"));
    let is_its_own = parent(value).is_empty() && !structured_result_of(value, &blocks).is_null();
    is_its_own.then_some(change)
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
