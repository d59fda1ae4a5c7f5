//! What clients show beside the conversation, read off single lines: things to do, plan mode, what the
//! agent is doing, and which requests have an answer.
//!
//! Nothing here depends on another line, so a replay gives these events wherever it begins. Where an agent
//! says a state again that has not changed, so do the events.

use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::{AgentStatus, PlanModeChange, StatusChange, TodoItem, TodoUpdate};
use serde_json::Value;

use super::json::{number, object, text};
use super::tasks::todo_status;
use super::{PLAN_MODE, fit};
use crate::limits::LARGE_INPUT_VALUES_MAX;

/// What a line of type `system` says beside `init`.
pub(super) fn of_system(value: &Value) -> Vec<Event> {
    match text(value, "subtype") {
        "status" => {
            let events = [activity(value), permission_mode(value)];
            events.into_iter().flatten().collect()
        }
        "compact_boundary" => vec![thinking(compacted(value))],
        _ => Vec::new(),
    }
}

/// The agent's own word for its mode, where a line has it.
pub(super) fn permission_mode(value: &Value) -> Option<Event> {
    let mode = object(value, "permissionMode").as_str()?;
    Some(plan_mode(mode == PLAN_MODE, ""))
}

/// Compaction of what the model reads, or its end.
fn activity(value: &Value) -> Option<Event> {
    let result = text(value, "compact_result");
    match value.get("status")? {
        Value::String(status) if status == "compacting" => {
            Some(status_change(AgentStatus::Compacting, String::new()))
        }
        Value::Null if result == "failed" => {
            let why = text(value, "compact_error");
            Some(thinking(format!("compaction failed: {why}")))
        }
        // Without a result it says that what was said last is over, unless it is there to name a mode.
        Value::Null if !result.is_empty() || value.get("permissionMode").is_none() => {
            Some(thinking(String::new()))
        }
        _ => None,
    }
}

fn compacted(value: &Value) -> String {
    // Printed, and in transcripts.
    let printed = object(value, "compact_metadata");
    let kept = object(value, "compactMetadata");
    let count = |name, kept_name| number(printed, name).max(number(kept, kept_name));
    let before = count("pre_tokens", "preTokens");
    let after = count("post_tokens", "postTokens");
    let mut message = "the agent has compacted its memory of the conversation".to_owned();
    if before > 0 {
        message += &format!(": {before} tokens before");
        if after > 0 {
            message += &format!(", {after} after");
        }
    }
    message
}

/// What a tool call of the agent's itself says, beside that there is one.
pub(super) fn of_tool_call(block: &Value) -> Option<Event> {
    let input = object(block, "input");
    match text(block, "name") {
        "TodoWrite" => todo_update(object(input, "todos")),
        // It plans on until somebody approves this.
        "ExitPlanMode" => Some(text(input, "plan"))
            .filter(|plan| !plan.is_empty())
            .map(|plan| plan_mode(true, plan)),
        _ => None,
    }
}

/// What a tool's structured result says of plan mode. One that has a plan is that of an approved plan. That of
/// `EnterPlanMode` has a message and nothing else.
pub(super) fn of_tool_result(result: &Value) -> Option<Event> {
    if is_plan_mode_entered(result) {
        return Some(plan_mode(true, ""));
    }
    let plan = object(result, "plan").as_str()?;
    let approved = result.get("isAgent")? == &Value::Bool(false);
    approved.then(|| plan_mode(false, plan))
}

fn is_plan_mode_entered(result: &Value) -> bool {
    let is_alone = result.as_object().is_some_and(|fields| fields.len() == 1);
    is_alone && text(result, "message").starts_with("Entered plan mode")
}

/// The mode that a tool's structured result says that the agent has from now on.
pub(crate) fn plan_mode_of(result: &Value) -> Option<bool> {
    match of_tool_result(result)? {
        Event::PlanMode(change) => Some(change.active),
        _ => None,
    }
}

fn todo_update(todos: &Value) -> Option<Event> {
    let todos = todos.as_array()?;
    let first = todos.iter().take(LARGE_INPUT_VALUES_MAX);
    let mut items: Vec<_> = first
        .zip(1..)
        .map(|(todo, at)| todo_item(todo, at))
        .collect();
    let more = todos.len() - items.len();
    if more > 0 {
        items.push(TodoItem {
            id: (items.len() + 1).to_string(),
            subject: fit::not_shown_text(more),
            ..TodoItem::default()
        });
    }
    Some(Event::TodoUpdate(TodoUpdate { items }))
}

/// One thing to do. Most agents give them no ids; their place in the list is one until the next list.
fn todo_item(todo: &Value, place: usize) -> TodoItem {
    let id = match text(todo, "id") {
        "" => place.to_string(),
        id => id.to_owned(),
    };
    TodoItem {
        id,
        subject: text(todo, "content").to_owned(),
        description: String::new(),
        active_form: text(todo, "activeForm").to_owned(),
        status: todo_status(text(todo, "status")).into(),
    }
}

/// An answer that was written to the agent, as its line has it: which request it settles, and how.
pub(super) fn answered(value: &Value) -> Option<Event> {
    let response = object(value, "response");
    let (request_id, answer) = (text(response, "request_id"), object(response, "response"));
    let input = object(answer, "updatedInput");
    let is_question = object(input, "questions").is_array() && object(input, "answers").is_object();
    let how = match (text(answer, "behavior"), text(answer, "message")) {
        ("allow", _) if is_question => "answered".to_owned(),
        ("allow", _) => "allowed".to_owned(),
        ("deny", "") => "denied".to_owned(),
        ("deny", why) => format!("denied: {why}"),
        // An answer to what no client was shown.
        _ => return None,
    };
    Some(settled(request_id, &how))
}

/// The agent wants no answer any more.
pub(super) fn withdrawn(value: &Value) -> Event {
    settled(text(value, "request_id"), "withdrawn")
}

fn settled(request_id: &str, how: &str) -> Event {
    thinking(format!("{}: {how}", fit::cut(request_id)))
}

fn plan_mode(active: bool, plan: &str) -> Event {
    let plan = plan.to_owned();
    Event::PlanMode(PlanModeChange { active, plan })
}

fn thinking(message: String) -> Event {
    status_change(AgentStatus::Thinking, message)
}

fn status_change(status: AgentStatus, message: String) -> Event {
    let status = status.into();
    Event::StatusChange(StatusChange { status, message })
}
