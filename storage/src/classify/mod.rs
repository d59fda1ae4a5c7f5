//! Reads what a line says about itself: its type, its timestamp, and its usage.
//!
//! Lines are input. A line that cannot be read is recorded like any other, with a type that says so.

mod agents;
pub mod json;
mod preview;

use chrono::DateTime;
use serde_json::value::RawValue;

use self::agents::{ContentFacts, fill};
use self::json::{number, string};
use crate::growth::TurnEnd;
use crate::limits::MESSAGE_TYPE_BYTES_MAX;
use crate::title::Title;
use crate::usage::UsageFact;

/// Type of lines that are not a JSON object.
pub const TYPE_NOT_JSON: &str = "(not json)";
/// Type of JSON objects without a usable `type`.
pub const TYPE_UNTYPED: &str = "(untyped)";

/// What was read from one line.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LineFacts {
    /// The top-level `type`, or one of the names in parentheses.
    pub message_type: String,
    /// The line's own timestamp, Unix milliseconds.
    pub timestamp_ms: Option<i64>,
    /// The turn that it ends.
    pub turn_end: Option<TurnEnd>,
    /// What it adds to the session's usage.
    pub usage: Option<UsageFact>,
    /// Text for the session's preview.
    pub preview: Option<String>,
    /// What it says about the session itself.
    pub session: Option<SessionFacts>,
}

/// What a line says about its session.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SessionFacts {
    /// The agent's working directory.
    pub working_directory: String,
    /// The model.
    pub model: String,
    /// The agent's own session id.
    pub agent_session_id: String,
    /// A title for the session.
    pub title: Option<Title>,
}

/// The top-level fields that are read, each with its key, as it stands.
macro_rules! line {
    ($($field:ident: $key:literal),* $(,)?) => {
        struct Line<'a> {
            /// For fields that only lines of one type have.
            text: &'a str,
            $($field: Option<&'a RawValue>),*
        }

        impl<'a> Line<'a> {
            const KEYS: [&'static str; [$($key),*].len()] = [$($key),*];

            fn read(text: &'a str) -> Option<Self> {
                let [$($field),*] = json::fields(text, &Self::KEYS)?;
                Some(Self { text, $($field),* })
            }
        }
    };
}

line! {
    kind: "type",
    subtype: "subtype",
    timestamp: "timestamp",
    message: "message",
    payload: "payload",
    usage: "usage",
    total_cost_usd: "total_cost_usd",
    duration_ms: "duration_ms",
    result: "result",
    cwd: "cwd",
    model: "model",
    model_id: "modelId",
    id: "id",
    conversation_id: "sessionId",
    process_id: "session_id",
}

/// Reads one line. Never fails: what cannot be read has a type that says so.
#[must_use]
pub fn classify(line: &[u8]) -> LineFacts {
    let text = std::str::from_utf8(line).ok();
    let Some(line) = text.and_then(Line::read) else {
        return LineFacts {
            message_type: TYPE_NOT_JSON.to_owned(),
            ..LineFacts::default()
        };
    };
    let kind = line
        .kind
        .and_then(string)
        .filter(|k| !k.is_empty() && k.len() <= MESSAGE_TYPE_BYTES_MAX);
    let mut facts = ContentFacts::default();
    let session = &mut facts.session;
    fill(&mut session.working_directory, line.cwd.and_then(string));
    fill(&mut session.model, line.model.and_then(string));
    // Printed lines have `session_id`, transcripts `sessionId`; transcripts since 2.1.218 have
    // both. There `sessionId` is the one that all lines of the file carry, that names the file
    // and that the agent resumes by. `session_id` is on some lines only and may differ.
    for id in [line.conversation_id, line.process_id] {
        fill(&mut session.agent_session_id, id.and_then(string));
    }
    // Its prompts are in the sessions' own files too, so their times would count twice.
    let is_of_prompt_history = kind.is_none() && agents::is_of_prompt_history(&line);
    if let Some(kind) = &kind {
        agents::read(kind, &line, &mut facts);
    }
    LineFacts {
        message_type: kind.map_or_else(|| TYPE_UNTYPED.to_owned(), Into::into),
        timestamp_ms: line
            .timestamp
            .filter(|_| !is_of_prompt_history)
            .and_then(time_ms),
        turn_end: facts.turn_end,
        usage: facts.usage,
        preview: facts.preview,
        session: (facts.session != SessionFacts::default()).then_some(facts.session),
    }
}

/// RFC 3339 text, or a number of milliseconds (or of seconds, when it is too small for that).
fn time_ms(raw: &RawValue) -> Option<i64> {
    if let Some(text) = string(raw) {
        return DateTime::parse_from_rfc3339(&text)
            .ok()
            .map(|t| t.timestamp_millis());
    }
    let number = number(raw)?;
    // 10^11 ms is 1973 and 10^11 s is the year 5138, so the two cannot be confused.
    let ms = if number < 1e11 {
        number * 1000.0
    } else {
        number
    };
    (ms > 0.0 && ms < 1e14).then_some(ms as i64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::{CONTENT_BLOCKS_MAX, SESSION_TEXT_BYTES_MAX};
    use crate::usage::Tokens;

    #[test]
    fn a_transcript_line_tells_type_time_and_session() {
        let line = br#"{"parentUuid":null,"cwd":"/home/me/x","sessionId":"s-1","type":"user","message":{"role":"user","content":"hi"},"timestamp":"2025-09-03T00:47:19.293Z"}"#;
        let facts = classify(line);
        assert_eq!(facts.message_type, "user");
        assert_eq!(facts.timestamp_ms, Some(1_756_860_439_293));
        let session = facts.session.unwrap();
        assert_eq!(session.working_directory, "/home/me/x");
        assert_eq!(session.agent_session_id, "s-1");
    }

    #[test]
    fn an_assistant_line_tells_usage_model_and_preview() {
        let line = br#"{"type":"assistant","message":{"id":"msg_1","model":"claude","content":[{"type":"thinking","thinking":"x"},{"type":"text","text":"  two\n words "}],"usage":{"input_tokens":3,"output_tokens":5,"cache_read_input_tokens":7,"service_tier":"standard"}},"session_id":"s"}"#;
        let facts = classify(line);
        let tokens = Tokens {
            input: 3,
            output: 5,
            cache_read: 7,
            cache_creation: 0,
        };
        assert_eq!(
            facts.usage,
            Some(UsageFact::Assistant {
                message_id: "msg_1".into(),
                tokens
            })
        );
        assert_eq!(facts.preview.as_deref(), Some("two words"));
        assert_eq!(facts.session.unwrap().model, "claude");
    }

    #[test]
    fn a_text_is_looked_for_among_the_first_blocks_only() {
        let preview = |blocks: usize| {
            let blocks = "1,".repeat(blocks);
            let line = format!(
                r#"{{"type":"assistant","message":{{"content":[{blocks}{{"type":"text","text":"x"}}]}}}}"#
            );
            classify(line.as_bytes()).preview
        };
        assert_eq!(preview(CONTENT_BLOCKS_MAX - 1).as_deref(), Some("x"));
        assert_eq!(preview(CONTENT_BLOCKS_MAX), None);
    }

    #[test]
    fn lines_that_cannot_be_read_are_classed_not_refused() {
        for bad in [
            &b""[..],
            b"prose",
            b"{\"type\":\"user\"",
            b"\xff\xfe",
            b"{} {}",
            b"[1]",
        ] {
            assert_eq!(classify(bad).message_type, TYPE_NOT_JSON, "{bad:?}");
        }
        for untyped in [&b"{}"[..], b"{\"type\":7}", b"{\"type\":\"\"}"] {
            assert_eq!(classify(untyped).message_type, TYPE_UNTYPED, "{untyped:?}");
        }
    }

    #[test]
    fn numeric_timestamps_are_seconds_or_milliseconds() {
        assert_eq!(
            classify(br#"{"type":"x","timestamp":1756860439}"#).timestamp_ms,
            Some(1_756_860_439_000)
        );
        assert_eq!(
            classify(br#"{"type":"x","timestamp":1756860439293}"#).timestamp_ms,
            Some(1_756_860_439_293)
        );
        assert_eq!(
            classify(br#"{"type":"x","timestamp":"yesterday"}"#).timestamp_ms,
            None
        );
    }

    #[test]
    fn a_line_with_both_names_of_the_session_id_is_read_and_the_conversation_wins() {
        let line = br#"{"message":{"model":"claude-opus-5","id":"msg_1","role":"assistant","content":[{"type":"text","text":"I'll start"}],"usage":{"input_tokens":2,"cache_creation_input_tokens":60280,"output_tokens":482,"service_tier":"standard","cache_creation":{"ephemeral_1h_input_tokens":60280}}},"type":"assistant","timestamp":"2026-07-30T18:13:42.637Z","session_id":"process","cwd":"/p","sessionId":"conversation","version":"2.1.220"}"#;
        let facts = classify(line);
        assert_eq!(facts.message_type, "assistant");
        assert_eq!(facts.timestamp_ms, Some(1_785_435_222_637));
        assert_eq!(facts.preview.as_deref(), Some("I'll start"));
        let session = facts.session.unwrap();
        assert_eq!(session.agent_session_id, "conversation");
        assert_eq!(
            (session.model.as_str(), session.working_directory.as_str()),
            ("claude-opus-5", "/p")
        );
        let Some(UsageFact::Assistant { tokens, .. }) = facts.usage else {
            panic!("no usage");
        };
        assert_eq!((tokens.output, tokens.cache_creation), (482, 60_280));
        let odd = classify(br#"{"type":"user","sessionId":null,"session_id":"s"}"#);
        assert_eq!(odd.session.unwrap().agent_session_id, "s");
    }

    #[test]
    fn texts_about_a_session_that_are_too_long_to_keep_are_dropped() {
        let directory = |top: usize, inside: usize| {
            let (top, inside) = ("a".repeat(top), "b".repeat(inside));
            let line = format!(
                r#"{{"type":"turn_context","cwd":"{top}","payload":{{"cwd":"{inside}"}}}}"#
            );
            let session = classify(line.as_bytes()).session.unwrap_or_default();
            session.working_directory
        };
        const MAX: usize = SESSION_TEXT_BYTES_MAX;
        assert_eq!(directory(MAX, 1), "a".repeat(MAX));
        assert_eq!(
            directory(MAX + 1, 2),
            "bb",
            "a shorter one that comes later counts"
        );
        assert_eq!(directory(MAX + 1, MAX + 1), "");
    }

    #[test]
    fn an_odd_block_or_count_does_not_hide_the_others() {
        let line = br#"{"type":"assistant","message":{"id":"m","content":[null,{"type":7},{"text":"x"},{"type":"text","text":null},{"type":"text","text":"here"}],"usage":{"input_tokens":"3","output_tokens":5.0,"cache_read_input_tokens":null}}}"#;
        let facts = classify(line);
        assert_eq!(facts.preview.as_deref(), Some("here"));
        let tokens = Tokens {
            output: 5,
            ..Tokens::default()
        };
        let message_id = "m".into();
        assert_eq!(
            facts.usage,
            Some(UsageFact::Assistant { message_id, tokens })
        );
    }

    #[test]
    fn costs_that_no_turn_has_are_ignored() {
        for cost in ["-1", "1e300", "1e999", "\"7\"", "null"] {
            let line = format!(r#"{{"type":"result","total_cost_usd":{cost}}}"#);
            let Some(UsageFact::Result { cost_usd, .. }) = classify(line.as_bytes()).usage else {
                panic!("no usage for {cost}");
            };
            assert_eq!(cost_usd, None, "{cost}");
        }
    }

    #[test]
    fn a_line_of_the_prompt_history_has_no_time_of_its_own() {
        let line = |rest: &str| format!(r#"{{"timestamp":1756860439293{rest}}}"#);
        let timestamp_ms = |rest: &str| classify(line(rest).as_bytes()).timestamp_ms;
        let history = r#","display":"a prompt","pastedContents":{},"project":"/p""#;
        assert_eq!(timestamp_ms(history), None);
        let typed = format!(r#","type":"x"{history}"#);
        for other in ["", r#","display":"x""#, &typed] {
            assert_eq!(timestamp_ms(other), Some(1_756_860_439_293), "{other}");
        }
    }

    #[test]
    fn titles_say_whether_the_user_gave_them() {
        let title = |line: &str| classify(line.as_bytes()).session.unwrap().title.unwrap();
        let given = title(r#"{"type":"custom-title","customTitle":" a\n name ","sessionId":"s"}"#);
        assert_eq!((given.text.as_str(), given.by_user), ("a name", true));
        let made = title(r#"{"type":"ai-title","aiTitle":"A title","sessionId":"s"}"#);
        assert_eq!((made.text.as_str(), made.by_user), ("A title", false));
        for none in [
            r#"{"type":"custom-title","customTitle":"","sessionId":"s"}"#,
            r#"{"type":"summary","summary":"of another session","leafUuid":"u","sessionId":"s"}"#,
        ] {
            let facts = classify(none.as_bytes()).session.unwrap();
            assert_eq!(facts.title, None, "{none}");
        }
    }

    #[test]
    fn the_tokens_of_a_process_are_those_of_all_its_models() {
        let process_tokens = |usage: &str| {
            let line = format!(r#"{{"type":"result","modelUsage":{usage}}}"#);
            let Some(UsageFact::Result { process_tokens, .. }) = classify(line.as_bytes()).usage
            else {
                panic!("no usage for {usage}");
            };
            process_tokens
        };
        let of_two = r#"{"opus":{"inputTokens":1,"outputTokens":20,"cacheReadInputTokens":300,
            "cacheCreationInputTokens":4000,"costUSD":0.5},"haiku":{"outputTokens":50000}}"#;
        assert_eq!(process_tokens(of_two), Some(54_321));
        for other in [
            "null",
            "7",
            r#"{"opus":{"inputTokens":-1}}"#,
            r#"{"opus":7}"#,
        ] {
            assert_eq!(process_tokens(other), None, "{other}");
        }
    }

    #[test]
    fn a_result_ends_a_turn_and_only_a_duration_says_how_long_it_was() {
        let duration_ms = |duration: &str| {
            let line = format!(r#"{{"type":"result","duration_ms":{duration}}}"#);
            classify(line.as_bytes()).turn_end.unwrap().duration_ms
        };
        assert_eq!(duration_ms("135384"), Some(135_384));
        assert_eq!(duration_ms("0"), Some(0));
        assert_eq!(duration_ms("1.5e3"), Some(1500));
        assert_eq!(duration_ms("86400001"), Some(86_400_000), "a day at most");
        for none in [
            "-1",
            "-0.5",
            "4294967296",
            "1e300",
            "1e999",
            "\"7\"",
            "null",
            "[]",
        ] {
            assert_eq!(duration_ms(none), None, "{none}");
        }
        let silent = classify(br#"{"type":"result"}"#).turn_end;
        assert_eq!(silent, Some(TurnEnd { duration_ms: None }));
        let other = classify(br#"{"type":"tool_result","duration_ms":5}"#);
        assert_eq!(other.turn_end, None);
    }

    /// Facts of a line of the form `{"timestamp":…,"type":kind,"payload":payload}`.
    fn codex(kind: &str, payload: &str) -> LineFacts {
        let line = format!(
            r#"{{"timestamp":"2026-03-23T07:39:39.741Z","type":"{kind}","payload":{payload}}}"#
        );
        let facts = classify(line.as_bytes());
        assert_eq!(facts.message_type, kind);
        assert_eq!(facts.timestamp_ms, Some(1_774_251_579_741));
        facts
    }

    #[test]
    fn codex_rollouts_tell_directory_model_and_id() {
        let meta = codex("session_meta", r#"{"id":"c-1","cwd":"/p","source":"cli"}"#);
        let facts = meta.session.unwrap();
        assert_eq!(facts.agent_session_id, "c-1");
        assert_eq!(facts.working_directory, "/p");
        let turn = codex(
            "turn_context",
            r#"{"cwd":"/q","model":"gpt-5.4","effort":"low"}"#,
        );
        assert_eq!(turn.session.unwrap().model, "gpt-5.4");
    }

    #[test]
    fn codex_rollouts_tell_usage_so_far_with_the_cache_told_apart() {
        let line = r#"{"type":"token_count","info":{"total_token_usage":{"input_tokens":11351,"cached_input_tokens":9600,"output_tokens":179,"reasoning_output_tokens":20,"total_tokens":11530},"last_token_usage":{"input_tokens":1}}}"#;
        let tokens = Tokens {
            input: 1751,
            output: 179,
            cache_read: 9600,
            cache_creation: 0,
        };
        assert_eq!(
            codex("event_msg", line).usage,
            Some(UsageFact::SoFar { tokens })
        );
        let unknown = r#"{"type":"token_count","info":null,"rate_limits":{}}"#;
        assert_eq!(codex("event_msg", unknown).usage, None);
    }

    #[test]
    fn codex_rollouts_tell_what_was_said_and_not_what_was_put_before_it() {
        let said = |kind: &str, payload: &str| codex(kind, payload).preview;
        let item = |role: &str, text: &str| {
            said(
                "response_item",
                &format!(
                    r#"{{"type":"message","role":"{role}","content":[{{"type":"output_text","text":"{text}"}}]}}"#
                ),
            )
        };
        assert_eq!(item("assistant", "done"), Some("done".into()));
        assert_eq!(item("user", "go"), Some("go".into()));
        assert_eq!(item("user", "<environment_context>"), None);
        assert_eq!(item("user", "# AGENTS.md instructions for /p"), None);
        assert_eq!(item("developer", "rules"), None);
        let event = r#"{"type":"agent_message","message":"done\n"}"#;
        assert_eq!(said("event_msg", event), Some("done".into()));
        let call = r#"{"type":"function_call","name":"shell","arguments":"{}"}"#;
        assert_eq!(said("response_item", call), None);
    }

    #[test]
    fn pi_sessions_tell_directory_model_usage_and_text() {
        let head = br#"{"type":"session","version":3,"id":"p-1","timestamp":"2026-04-27T08:10:29.847Z","cwd":"/p"}"#;
        let facts = classify(head).session.unwrap();
        assert_eq!(
            (
                facts.agent_session_id.as_str(),
                facts.working_directory.as_str()
            ),
            ("p-1", "/p")
        );
        let change = br#"{"type":"model_change","id":"9f","provider":"x","modelId":"kimi-k2.5"}"#;
        assert_eq!(classify(change).session.unwrap().model, "kimi-k2.5");
        let line = br#"{"type":"message","id":"e9","message":{"role":"assistant","content":[{"type":"text","text":"I see"},{"type":"toolCall"}],"model":"kimi-k2.5","usage":{"input":3610,"output":66,"cacheRead":5,"cacheWrite":0,"cost":{"total":0}}}}"#;
        let facts = classify(line);
        assert_eq!(facts.preview.as_deref(), Some("I see"));
        let tokens = Tokens {
            input: 3610,
            output: 66,
            cache_read: 5,
            cache_creation: 0,
        };
        let message_id = "e9".into();
        assert_eq!(
            facts.usage,
            Some(UsageFact::Assistant { message_id, tokens })
        );
        let user = br#"{"type":"message","id":"9c","message":{"role":"user","content":"why"}}"#;
        assert_eq!((classify(user).usage, classify(user).preview), (None, None));
    }

    /// A value of any type, as text of JSON.
    fn any_value() -> impl Strategy<Value = String> {
        let plain = prop_oneof![
            Just("null".to_owned()),
            Just("true".to_owned()),
            Just("1e999".to_owned()),
            Just("-99999999999999999999999999".to_owned()),
            any::<f64>().prop_map(|n| if n.is_finite() {
                format!("{n:e}")
            } else {
                "0".into()
            }),
            any::<u64>().prop_map(|n| n.to_string()),
            any::<String>().prop_map(|s| serde_json::to_string(&s).unwrap_or_default()),
            Just(r#""\ud83d""#.to_owned()),
            Just(r#""2026-04-27T08:10:29.847Z""#.to_owned()),
        ];
        plain.prop_recursive(3, 24, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4)
                    .prop_map(|items| format!("[{}]", items.join(","))),
                object(inner),
            ]
        })
    }

    /// An object of known keys, any of them twice, and of others.
    fn object(value: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
        let inner = [
            "role",
            "content",
            "info",
            "input_tokens",
            "text",
            "total_token_usage",
        ];
        let keys: Vec<String> = Line::KEYS
            .iter()
            .chain(&inner)
            .map(|k| k.to_string())
            .collect();
        let key = prop_oneof![
            8 => proptest::sample::select(keys).prop_map(|k| format!("{k:?}")),
            1 => Just(r#""\ud83d""#.to_owned()),
            1 => Just(r#""s\u0065ssionId""#.to_owned()),
        ];
        proptest::collection::vec((key, value), 0..12).prop_map(|fields| {
            let fields: Vec<String> = fields.iter().map(|(k, v)| format!("{k}: {v}")).collect();
            format!("{{{}}}", fields.join(" ,"))
        })
    }

    proptest! {
        #[test]
        fn any_object_keeps_its_type_whatever_its_other_fields_are(
            body in object(any_value()),
            kind in proptest::sample::select(vec![
                "assistant", "result", "system", "user", "event_msg", "response_item",
                "turn_context", "session_meta", "message", "model_change", "session", "new"]),
        ) {
            // The last of equal keys counts.
            let comma = if body == "{}" { "" } else { "," };
            let line = format!("{}{comma}\"type\":\"{kind}\"}}", body.strip_suffix('}').unwrap());
            prop_assert_eq!(classify(line.as_bytes()).message_type, kind);
            // Without: of some type, but JSON.
            prop_assert_ne!(classify(body.as_bytes()).message_type, TYPE_NOT_JSON);
        }

        #[test]
        fn any_bytes_are_classed(line in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(!classify(&line).message_type.is_empty());
        }
    }
}
