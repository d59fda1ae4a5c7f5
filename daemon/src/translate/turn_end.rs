//! The `result` line that ends a turn: what it took, why it ended, and what nobody has said before it.

use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::{ErrorEvent, TextDelta, TurnComplete, UsageReport};
use serde_json::Value;

use super::fit;
use super::json::{flag, narrow, number, object, text};

/// The events of a `result`. `spoken`: the turn had text of the agent's before it.
pub(super) fn events(value: &Value, spoken: bool) -> Vec<Event> {
    let unspoken = failure(value).or_else(|| answer(value).filter(|_| !spoken));
    let ended = [usage(value), turn_complete(value)];
    unspoken.into_iter().chain(ended).collect()
}

/// The errors of a turn that failed, which stand nowhere else.
fn failure(value: &Value) -> Option<Event> {
    let errors = object(value, "errors").as_array()?;
    let errors: Vec<_> = errors.iter().filter_map(Value::as_str).collect();
    let has_failed = failed(value) && !errors.is_empty();
    has_failed.then(|| error(value, errors.join("\n")))
}

/// The text of a turn for which no model was called, such as one with an unknown command. The text of
/// others was sent as the model wrote it.
fn answer(value: &Value) -> Option<Event> {
    let usage = object(value, "usage");
    let tokens = number(usage, "input_tokens").max(number(usage, "output_tokens"));
    let answer = text(value, "result");
    if tokens > 0 || answer.is_empty() {
        return None;
    }
    let answer = answer.to_owned();
    Some(match failed(value) {
        true => error(value, answer),
        false => Event::TextDelta(TextDelta {
            text: answer,
            is_complete: true,
        }),
    })
}

fn error(value: &Value, message: String) -> Event {
    let subtype = fit::cut(text(value, "subtype"));
    Event::Error(ErrorEvent {
        code: "TURN_FAILED".to_owned(),
        message,
        is_fatal: false,
        details: [("subtype".to_owned(), subtype)].into(),
    })
}

fn failed(value: &Value) -> bool {
    text(value, "subtype").starts_with("error") || flag(value, "is_error")
}

fn usage(value: &Value) -> Event {
    let usage = object(value, "usage");
    let count = |name| narrow(usage, name);
    Event::Usage(UsageReport {
        input_tokens: count("input_tokens"),
        output_tokens: count("output_tokens"),
        cache_read_tokens: count("cache_read_input_tokens"),
        cache_creation_tokens: count("cache_creation_input_tokens"),
        model: model_of(object(value, "modelUsage")),
        cost_usd: value
            .get("total_cost_usd")
            .and_then(Value::as_f64)
            .unwrap_or_default(),
        duration_ms: narrow(value, "duration_ms"),
    })
}

/// The model that the agent's process has used, of several the one that wrote most.
fn model_of(usage: &Value) -> String {
    let models = usage.as_object().into_iter().flatten();
    let model = models.max_by_key(|(_, usage)| number(usage, "outputTokens"));
    model.map(|(name, _)| name.clone()).unwrap_or_default()
}

/// Why the turn ended: the model's reason when there is one and nothing failed, else the subtype. The agent
/// says "success" of a turn that an error of its API ended, too: that is none.
fn turn_complete(value: &Value) -> Event {
    let (subtype, reason) = (text(value, "subtype"), text(value, "stop_reason"));
    let stop_reason = match failed(value) {
        true if subtype.starts_with("error") => subtype,
        true => "error",
        false if reason.is_empty() => subtype,
        false => reason,
    };
    Event::TurnComplete(TurnComplete {
        stop_reason: stop_reason.to_owned(),
    })
}
