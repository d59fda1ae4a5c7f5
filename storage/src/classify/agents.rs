//! Reads the lines of each agent by their type.
//!
//! To read another agent's lines, add its types to [`READERS`].

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::json::{count, fields, fields_of, find_item, number, string};
use super::preview;
use super::{Line, SessionFacts};
use crate::growth::TurnEnd;
use crate::limits::{
    CONTENT_BLOCKS_MAX, COST_USD_MAX, DURATION_FIELD_MS_MAX, MESSAGE_ID_BYTES_MAX,
    SESSION_TEXT_BYTES_MAX, TURN_MS_MAX,
};
use crate::title::Title;
use crate::usage::{Tokens, UsageFact};

/// What readers find in a line of their type.
#[derive(Default)]
pub(super) struct ContentFacts {
    pub(super) usage: Option<UsageFact>,
    pub(super) preview: Option<String>,
    pub(super) turn_end: Option<TurnEnd>,
    pub(super) session: SessionFacts,
}

/// Adds what lines of one type say beyond the fields that all types have.
type Reader = fn(&Line<'_>, &mut ContentFacts);

/// The reader of each type. So far no two agents give one type different meanings. A reader that does not find
/// its fields adds nothing.
const READERS: &[(&str, Reader)] = &[
    // Claude Code, printed and in transcripts.
    ("assistant", claude_assistant),
    ("result", claude_result),
    ("system", claude_system),
    ("custom-title", claude_custom_title),
    ("ai-title", claude_ai_title),
    // Codex rollouts.
    ("event_msg", codex_event),
    ("response_item", codex_item),
    ("turn_context", codex_context),
    ("session_meta", codex_context),
    // pi and what is built on it.
    ("message", pi_message),
    ("model_change", pi_model),
    ("session", pi_session),
];

/// Runs the reader of this type, if there is one.
pub(super) fn read(kind: &str, line: &Line<'_>, facts: &mut ContentFacts) {
    if let Some((_, reader)) = READERS.iter().find(|(name, _)| *name == kind) {
        reader(line, facts);
    }
}

/// A message's id. It is stored in the session's row until the next one comes, so longer texts are ignored.
fn message_id(value: &RawValue) -> Option<Cow<'_, str>> {
    string(value).filter(|id| id.len() <= MESSAGE_ID_BYTES_MAX)
}

fn claude_assistant(line: &Line<'_>, facts: &mut ContentFacts) {
    let [id, model, usage, content] = fields_of(line.message, &["id", "model", "usage", "content"]);
    // Claude Code's name for messages that no model wrote.
    let model = model.and_then(string).filter(|m| m != "<synthetic>");
    fill(&mut facts.session.model, model);
    let tokens = usage.and_then(claude_tokens);
    if let (Some(id), Some(tokens)) = (id.and_then(message_id), tokens) {
        facts.usage = Some(UsageFact::Assistant {
            message_id: id.into_owned(),
            tokens,
        });
    }
    facts.preview = content.and_then(first_text);
}

fn claude_result(line: &Line<'_>, facts: &mut ContentFacts) {
    facts.usage = Some(UsageFact::Result {
        tokens: line.usage.and_then(claude_tokens).unwrap_or_default(),
        cost_usd: line.total_cost_usd.and_then(cost_usd),
        process_tokens: own_field(line, "modelUsage").and_then(tokens_of_models),
    });
    facts.preview = line.result.and_then(string).and_then(|t| preview::of(&t));
    facts.turn_end = Some(TurnEnd {
        duration_ms: line.duration_ms.and_then(turn_ms),
    });
}

/// A field that only lines of this type have.
fn own_field<'a>(line: &Line<'a>, key: &'static str) -> Option<&'a RawValue> {
    fields(line.text, &[key]).and_then(|[value]| value)
}

/// Written by the agent's user.
fn claude_custom_title(line: &Line<'_>, facts: &mut ContentFacts) {
    facts.session.title = title(own_field(line, "customTitle"), true);
}

fn claude_ai_title(line: &Line<'_>, facts: &mut ContentFacts) {
    facts.session.title = title(own_field(line, "aiTitle"), false);
}

fn title(text: Option<&RawValue>, by_user: bool) -> Option<Title> {
    let text = preview::of(&text.and_then(string)?)?;
    Some(Title { text, by_user })
}

/// Whether this is a line of the list of all prompts that Claude Code keeps beside its transcripts.
pub(super) fn is_of_prompt_history(line: &Line<'_>) -> bool {
    fields(line.text, &["display", "project"])
        .is_some_and(|of_it| of_it.iter().all(Option::is_some))
}

/// The tokens of all models of a `modelUsage`.
fn tokens_of_models(usage: &RawValue) -> Option<u64> {
    #[derive(Deserialize, Default)]
    #[serde(default, rename_all = "camelCase")]
    struct OfModel {
        input_tokens: u64,
        output_tokens: u64,
        cache_read_input_tokens: u64,
        cache_creation_input_tokens: u64,
    }

    struct Sum;

    impl<'de> Visitor<'de> for Sum {
        type Value = u64;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("the usage of each model")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut models: A) -> Result<u64, A::Error> {
            let mut sum = 0_u64;
            while let Some((IgnoredAny, of_model)) = models.next_entry::<_, OfModel>()? {
                let tokens = [
                    of_model.input_tokens,
                    of_model.output_tokens,
                    of_model.cache_read_input_tokens,
                    of_model.cache_creation_input_tokens,
                ];
                sum = tokens.into_iter().fold(sum, u64::saturating_add);
            }
            Ok(sum)
        }
    }

    let mut deserializer = serde_json::Deserializer::from_str(usage.get());
    deserializer.deserialize_map(Sum).ok()
}

fn claude_system(line: &Line<'_>, facts: &mut ContentFacts) {
    if line.subtype.and_then(string).as_deref() == Some("init") {
        facts.usage = Some(UsageFact::Initialized);
    }
}

fn claude_tokens(usage: &RawValue) -> Option<Tokens> {
    let [input, output, cache_read, cache_creation] = fields(
        usage.get(),
        &[
            "input_tokens",
            "output_tokens",
            "cache_read_input_tokens",
            "cache_creation_input_tokens",
        ],
    )?;
    Some(Tokens {
        input: number_of(input),
        output: number_of(output),
        cache_read: number_of(cache_read),
        cache_creation: number_of(cache_creation),
    })
}

fn codex_context(line: &Line<'_>, facts: &mut ContentFacts) {
    let [id, cwd, model] = fields_of(line.payload, &["id", "cwd", "model"]);
    fill(&mut facts.session.agent_session_id, id.and_then(string));
    fill(&mut facts.session.working_directory, cwd.and_then(string));
    fill(&mut facts.session.model, model.and_then(string));
}

fn codex_event(line: &Line<'_>, facts: &mut ContentFacts) {
    let [kind, info, message] = fields_of(line.payload, &["type", "info", "message"]);
    match kind.and_then(string).as_deref() {
        Some("token_count") => {
            let [total] = fields_of(info, &["total_token_usage"]);
            facts.usage = total
                .and_then(codex_tokens)
                .map(|tokens| UsageFact::SoFar { tokens });
        }
        Some("agent_message" | "user_message") => {
            facts.preview = message.and_then(string).and_then(|t| preview::of(&t));
        }
        _ => {}
    }
}

fn codex_item(line: &Line<'_>, facts: &mut ContentFacts) {
    let [kind, role, content] = fields_of(line.payload, &["type", "role", "content"]);
    if kind.and_then(string).as_deref() != Some("message") {
        return;
    }
    facts.preview = match role.and_then(string).as_deref() {
        Some("assistant") => content.and_then(first_text),
        // What Codex itself puts before the user's words comes in the user's name, in tags or
        // under this title.
        Some("user") => content
            .and_then(first_text)
            .filter(|t| !t.starts_with('<') && !t.starts_with("# AGENTS.md")),
        _ => None,
    };
}

/// Codex counts cached tokens among the input.
fn codex_tokens(usage: &RawValue) -> Option<Tokens> {
    let names = &["input_tokens", "cached_input_tokens", "output_tokens"];
    let [input, cached, output] = fields(usage.get(), names)?.map(number_of);
    Some(Tokens {
        input: input.saturating_sub(cached),
        output,
        cache_read: cached.min(input),
        cache_creation: 0,
    })
}

fn pi_message(line: &Line<'_>, facts: &mut ContentFacts) {
    let names = &["role", "model", "usage", "content"];
    let [role, model, usage, content] = fields_of(line.message, names);
    if role.and_then(string).as_deref() != Some("assistant") {
        return;
    }
    fill(&mut facts.session.model, model.and_then(string));
    let id = line.id.and_then(message_id);
    if let (Some(id), Some(usage)) = (id, usage) {
        let names = &["input", "output", "cacheRead", "cacheWrite"];
        let [input, output, cache_read, cache_creation] =
            fields_of(Some(usage), names).map(number_of);
        facts.usage = Some(UsageFact::Assistant {
            message_id: id.into_owned(),
            tokens: Tokens {
                input,
                output,
                cache_read,
                cache_creation,
            },
        });
    }
    facts.preview = content.and_then(first_text);
}

fn pi_model(line: &Line<'_>, facts: &mut ContentFacts) {
    fill(&mut facts.session.model, line.model_id.and_then(string));
}

fn pi_session(line: &Line<'_>, facts: &mut ContentFacts) {
    fill(
        &mut facts.session.agent_session_id,
        line.id.and_then(string),
    );
}

/// Sets a text about the session unless it is set already. A text that is too long for the session's row is
/// dropped here, so that it takes no memory while its message waits for the writer.
pub(super) fn fill(field: &mut String, value: Option<Cow<'_, str>>) {
    let value = value.filter(|text| text.len() <= SESSION_TEXT_BYTES_MAX);
    if field.is_empty() {
        *field = value.unwrap_or_default().into_owned();
    }
}

fn number_of(value: Option<&RawValue>) -> u64 {
    value.and_then(count).unwrap_or(0)
}

fn cost_usd(value: &RawValue) -> Option<f64> {
    number(value).filter(|cost| (0.0..=COST_USD_MAX).contains(cost))
}

/// How long a turn took, if the value can be a duration. A duration beyond [`TURN_MS_MAX`] counts as that.
fn turn_ms(value: &RawValue) -> Option<i64> {
    let ms = number(value).filter(|ms| (0.0..=DURATION_FIELD_MS_MAX).contains(ms))?;
    // Cut off to whole milliseconds.
    Some((ms as i64).min(TURN_MS_MAX))
}

/// The beginning of the first text of a message's content, which is text or blocks.
fn first_text(content: &RawValue) -> Option<String> {
    if let Some(text) = string(content) {
        return preview::of(&text);
    }
    find_item(content, CONTENT_BLOCKS_MAX, |block| {
        let [kind, text] = fields_of(Some(block), &["type", "text"]);
        let kind = kind.and_then(string)?;
        let is_text = matches!(&*kind, "text" | "output_text" | "input_text");
        preview::of(&text.filter(|_| is_text).and_then(string)?)
    })
}
