//! Events as clients take them: gRPC's usual bound for a message is 4 MiB, and a client that is sent
//! more can never get past that line.
//!
//! A long text is told in parts, one event after the other; put together they are the text. What a
//! tool is to be given is told whole, or, when it is too large, with what is long in it cut short,
//! which it says.

use betcode_schema_grpc::v1::agent_event::Event;
use prost::Message as _;
use prost_types::Struct;
use serde_json::Value;

use super::json;
use crate::limits::{EVENT_BYTES_MAX, LARGE_INPUT_TEXT_BYTES_MAX, LARGE_INPUT_VALUES_MAX};

/// An event, or the parts of one whose text is long.
pub(super) fn parts(event: Event) -> Vec<Event> {
    let mut event = event;
    let Some(text) = text_of(&mut event).filter(|text| text.len() > EVENT_BYTES_MAX) else {
        return vec![event];
    };
    let whole = std::mem::take(text);
    let mut rest = whole.as_str();
    let mut parts = Vec::new();
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(rest.floor_char_boundary(EVENT_BYTES_MAX));
        let mut told = event.clone();
        if let Some(text) = text_of(&mut told) {
            part.clone_into(text);
        }
        if let Event::TextDelta(delta) = &mut told {
            delta.is_complete &= behind.is_empty();
        }
        parts.push(told);
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

/// What the agent says that a tool is used for.
pub(super) fn description(input: &Value) -> String {
    let text = json::text(input, "description");
    match text.len() <= EVENT_BYTES_MAX {
        true => text.to_owned(),
        false => cut(text),
    }
}

/// What a tool is to be given, as it is told.
pub(super) fn input(value: &Value) -> Option<Struct> {
    let whole = json::to_struct(value)?;
    match whole.encoded_len() <= EVENT_BYTES_MAX {
        true => Some(whole),
        false => json::to_struct(&shortened(value, &mut { LARGE_INPUT_VALUES_MAX })),
    }
}

/// Whether all of what a tool is to be given is told.
pub(crate) fn is_told_whole(value: &Value) -> bool {
    json::to_struct(value).is_none_or(|whole| whole.encoded_len() <= EVENT_BYTES_MAX)
}

/// A value with its long texts cut, and no more values in it than are `left`.
fn shortened(value: &Value, left: &mut usize) -> Value {
    *left = left.saturating_sub(1);
    match value {
        Value::String(text) => Value::String(cut(text)),
        Value::Array(values) => {
            let mut told = Vec::new();
            for value in values {
                if *left == 0 {
                    let more = values.len() - told.len();
                    told.push(Value::String(format!("[{more} more are not shown]")));
                    break;
                }
                told.push(shortened(value, left));
            }
            Value::Array(told)
        }
        Value::Object(fields) => {
            let mut told = serde_json::Map::new();
            for (name, value) in fields {
                if *left == 0 {
                    let more = fields.len() - told.len();
                    told.insert(
                        "...".to_owned(),
                        format!("[{more} more are not shown]").into(),
                    );
                    break;
                }
                told.insert(cut(name), shortened(value, left));
            }
            Value::Object(told)
        }
        other => other.clone(),
    }
}

fn cut(text: &str) -> String {
    let (told, more) = text.split_at(text.floor_char_boundary(LARGE_INPUT_TEXT_BYTES_MAX));
    match more.len() {
        0 => text.to_owned(),
        more => format!("{told} [{more} bytes more are not shown]"),
    }
}
