//! Events as clients take them: gRPC's usual bound for a message is 4 MiB, and a client that is sent
//! more can never get past that line.
//!
//! A long text is sent in parts, one event after the other; put together they are the text. What a
//! tool is to be given, and what the user is asked, is sent whole, or, when it is too large, with what
//! is long in it cut short, which it says. So is any other text, which none is that is not hostile.

use std::collections::BTreeMap;

use betcode_schema_grpc::v1::QuestionOption;
use betcode_schema_grpc::v1::agent_event::Event;
use prost::Message as _;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct};
use serde_json::Value;

use super::json;
use crate::limits::{
    DESCRIPTION_BYTES_MAX, EVENT_BYTES_MAX, LARGE_INPUT_TEXT_BYTES_MAX, LARGE_INPUT_VALUES_MAX,
};

/// An event that fits, or the parts of one whose text is long.
pub(super) fn parts(mut event: Event) -> Vec<Event> {
    cut_names(&mut event);
    let Some(text) = text_of(&mut event).filter(|text| text.len() > EVENT_BYTES_MAX) else {
        return vec![event];
    };
    let whole = std::mem::take(text);
    let mut rest = whole.as_str();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(rest.floor_char_boundary(EVENT_BYTES_MAX));
        let mut next = event.clone();
        if let Some(text) = text_of(&mut next) {
            part.clone_into(text);
        }
        if let Event::TextDelta(delta) = &mut next {
            delta.is_complete &= behind.is_empty();
        }
        parts.push(next);
        rest = behind;
    }
    parts
}

fn text_of(event: &mut Event) -> Option<&mut String> {
    match event {
        Event::TextDelta(delta) => Some(&mut delta.text),
        Event::UserInput(input) => Some(&mut input.content),
        Event::ToolCallResult(result) => Some(&mut result.output),
        _ => None,
    }
}

/// Cuts what is no text that is sent in parts: ids, names, reasons, and what is asked.
fn cut_names(event: &mut Event) {
    match event {
        Event::SessionInfo(info) => cut_each([&mut info.model, &mut info.working_directory]),
        Event::ToolCallStart(start) => cut_each([&mut start.tool_id, &mut start.tool_name]),
        Event::ToolCallResult(result) => cut_each([&mut result.tool_id]),
        Event::PermissionRequest(ask) => cut_each([&mut ask.request_id, &mut ask.tool_name]),
        Event::UserQuestion(ask) if ask.encoded_len() > EVENT_BYTES_MAX => {
            cut_each([&mut ask.question_id, &mut ask.question]);
            ask.options.truncate(LARGE_INPUT_VALUES_MAX);
            for option in &mut ask.options {
                let QuestionOption {
                    value,
                    label,
                    description,
                } = option;
                cut_each([value, label, description]);
            }
        }
        Event::TurnComplete(turn) => cut_each([&mut turn.stop_reason]),
        Event::Error(error) => cut_each([&mut error.message]),
        Event::Usage(usage) => cut_each([&mut usage.model]),
        Event::StatusChange(change) => cut_each([&mut change.message]),
        Event::PlanMode(change) if change.plan.len() > EVENT_BYTES_MAX => {
            change.plan = cut_to(&change.plan, EVENT_BYTES_MAX);
        }
        Event::TodoUpdate(update) if update.encoded_len() > EVENT_BYTES_MAX => {
            for item in &mut update.items {
                cut_each([&mut item.id, &mut item.subject, &mut item.active_form]);
            }
        }
        _ => {}
    }
}

fn cut_each<const N: usize>(texts: [&mut String; N]) {
    for text in texts {
        if text.len() > LARGE_INPUT_TEXT_BYTES_MAX {
            *text = cut(text);
        }
    }
}

/// Fields that say most of a tool's use, for tools whose calls have no description of their own.
const TELLING_FIELDS: [&str; 9] = [
    "command",
    "file_path",
    "notebook_path",
    "pattern",
    "url",
    "query",
    "path",
    "subject",
    "skill",
];

/// What the agent says that a tool is used for; else what it is used on.
pub(super) fn description(input: &Value) -> String {
    let text = json::text(input, "description");
    if text.is_empty() {
        let mut fields = TELLING_FIELDS.iter().map(|name| json::text(input, name));
        let text = fields.find(|text| !text.is_empty()).unwrap_or_default();
        let (shown, more) = text.split_at(text.floor_char_boundary(DESCRIPTION_BYTES_MAX));
        return if more.is_empty() {
            shown.to_owned()
        } else {
            format!("{shown}…")
        };
    }
    match text.len() <= EVENT_BYTES_MAX {
        true => text.to_owned(),
        false => cut(text),
    }
}

/// What a tool is to be given, as it is sent.
pub(super) fn input(value: &Value) -> Option<Struct> {
    let whole = json::to_struct(value)?;
    match whole.encoded_len() <= EVENT_BYTES_MAX {
        true => Some(whole),
        // What is nested deep is text by now, escaped, and cut as such.
        false => Some(shortened(whole, &mut { LARGE_INPUT_VALUES_MAX })),
    }
}

/// Whether all of what a tool is to be given is sent.
pub(crate) fn is_sent_whole(value: &Value) -> bool {
    json::to_struct(value).is_none_or(|whole| whole.encoded_len() <= EVENT_BYTES_MAX)
}

/// An object with its long texts cut, and no more values in it than are `left`.
fn shortened(object: Struct, left: &mut usize) -> Struct {
    let count = object.fields.len();
    let mut fields = BTreeMap::new();
    for (name, value) in object.fields {
        if *left == 0 {
            fields.insert("...".to_owned(), not_shown(count - fields.len()));
            break;
        }
        fields.insert(cut(&name), shortened_value(value, left));
    }
    Struct { fields }
}

fn shortened_value(value: prost_types::Value, left: &mut usize) -> prost_types::Value {
    *left = left.saturating_sub(1);
    let kind = value.kind.map(|kind| match kind {
        Kind::StringValue(text) => Kind::StringValue(cut(&text)),
        Kind::StructValue(object) => Kind::StructValue(shortened(object, left)),
        Kind::ListValue(list) => {
            let count = list.values.len();
            let mut values = Vec::new();
            for value in list.values {
                if *left == 0 {
                    values.push(not_shown(count - values.len()));
                    break;
                }
                values.push(shortened_value(value, left));
            }
            Kind::ListValue(ListValue { values })
        }
        other => other,
    });
    prost_types::Value { kind }
}

fn not_shown(more: usize) -> prost_types::Value {
    let kind = Some(Kind::StringValue(not_shown_text(more)));
    prost_types::Value { kind }
}

/// What stands for values that are left out.
pub(super) fn not_shown_text(more: usize) -> String {
    format!("[{more} more are not shown]")
}

/// The beginning of a long text.
pub(super) fn cut(text: &str) -> String {
    cut_to(text, LARGE_INPUT_TEXT_BYTES_MAX)
}

fn cut_to(text: &str, bytes_max: usize) -> String {
    let (shown, more) = text.split_at(text.floor_char_boundary(bytes_max));
    match more.len() {
        0 => text.to_owned(),
        more => format!("{shown} [{more} bytes more are not shown]"),
    }
}
