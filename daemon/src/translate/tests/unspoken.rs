//! What nobody typed, and what no model said.

use super::derived::events;
use super::*;

fn texts(lines: &[&str]) -> Vec<String> {
    let events = events(lines).into_iter();
    events
        .filter_map(|event| match event {
            Event::TextDelta(delta) if !delta.text.is_empty() => Some(delta.text),
            _ => None,
        })
        .collect()
}

#[test]
fn lines_that_the_agent_makes_itself_are_not_the_users() {
    let message = r#""message":{"content":"This session is being continued"}"#;
    for flag in ["isSynthetic", "isMeta", "isCompactSummary"] {
        let line = format!(r#"{{"type":"user",{message},"{flag}":true}}"#);
        assert_eq!(events(&[&line]), [], "{flag}");
        let line = format!(r#"{{"type":"user",{message},"{flag}":false}}"#);
        assert_eq!(events(&[&line]).len(), 1, "{flag}");
    }
    for text in [
        "<local-command-caveat>Caveat: these messages</local-command-caveat>",
        "<command-name>/model</command-name>\\n<command-args></command-args>",
        "<command-message>review</command-message>",
        "<system-reminder>today</system-reminder>",
        "<task-notification>b1 done</task-notification>",
        "<local-command-stdout></local-command-stdout>",
    ] {
        let line = format!(r#"{{"type":"user","message":{{"content":"{text}"}}}}"#);
        assert_eq!(events(&[&line]), [], "{text}");
    }
    // Results of tools are results, whoever made the line, and users may write of tags.
    let result = r#"{"type":"user","isSynthetic":true,"message":{"content":[{"type":"tool_result","tool_use_id":"t","content":"x"}]}}"#;
    assert_eq!(events(&[result]).len(), 1);
    for text in ["what is <system-reminder>?", "<b>hi</b>"] {
        let line = format!(r#"{{"type":"user","message":{{"content":"{text}"}}}}"#);
        assert!(
            matches!(&events(&[&line])[..], [Event::UserInput(input)] if input.content == text)
        );
    }
}

#[test]
fn what_a_command_of_the_agent_prints_is_text_without_its_tags() {
    for line in [
        r#"{"type":"user","message":{"content":"<local-command-stdout>Total cost: $1 </local-command-stdout>"}}"#,
        r#"{"type":"user","isReplay":true,"message":{"content":[{"type":"text","text":"<local-command-stderr>Total cost: $1</local-command-stderr>"}]}}"#,
        r#"{"type":"system","subtype":"local_command_output","content":"Total cost: $1"}"#,
    ] {
        assert_eq!(texts(&[line]), ["Total cost: $1"], "{line}");
        assert_eq!(events(&[line]).len(), 1, "{line}");
    }
}

const PROMPT: &str = r#"{"type":"user","message":{"content":"/foo"},"session_id":"a"}"#;
const INIT: &str = r#"{"type":"system","subtype":"init","session_id":"a"}"#;
const UNKNOWN: &str = r#"{"type":"result","subtype":"success","result":"Unknown command: /foo","usage":{"input_tokens":0,"output_tokens":0}}"#;

fn spoken(model: &str) -> String {
    format!(
        r#"{{"type":"assistant","message":{{"id":"m","model":"{model}","content":[{{"type":"text","text":"Unknown command: /foo"}}]}}}}"#
    )
}

#[test]
fn a_result_without_a_message_before_it_is_told_and_no_other() {
    assert_eq!(texts(&[PROMPT, INIT, UNKNOWN]), ["Unknown command: /foo"]);
    // At each such turn again.
    let again = [
        PROMPT, INIT, UNKNOWN, PROMPT, INIT, UNKNOWN, PROMPT, UNKNOWN,
    ];
    assert_eq!(texts(&again).len(), 3);
    // Some agents print it as a message as well.
    let spoken = spoken("<synthetic>");
    let both = [PROMPT, INIT, &spoken, UNKNOWN, PROMPT, INIT, UNKNOWN];
    assert_eq!(texts(&both).len(), 2);
    let printed =
        r#"{"type":"system","subtype":"local_command_output","content":"Unknown command: /foo"}"#;
    assert_eq!(texts(&[PROMPT, INIT, printed, UNKNOWN]).len(), 1);
    // A model was called: it has said what there is to say, or a tool was the last word.
    let called = r#"{"type":"result","subtype":"success","result":"x","usage":{"input_tokens":3,"output_tokens":4}}"#;
    assert!(texts(&[PROMPT, INIT, called]).is_empty());
    // What a sub-agent says is not the answer.
    let of_sub_agent = spoken.replacen('{', r#"{"parent_tool_use_id":"t","#, 1);
    assert_eq!(texts(&[PROMPT, INIT, &of_sub_agent, UNKNOWN]).len(), 2);
    let begun = r#"{"type":"stream_event","event":{"type":"message_start","message":{"id":"m"}}}"#;
    assert!(texts(&[PROMPT, INIT, begun, UNKNOWN]).is_empty());
}

#[test]
fn the_errors_of_a_failed_turn_reach_clients() {
    let errors = |lines: &[&str]| -> Vec<(String, String, bool)> {
        let events = events(lines).into_iter();
        events
            .filter_map(|event| match event {
                Event::Error(error) => Some((error.code, error.message, error.is_fatal)),
                _ => None,
            })
            .collect()
    };
    let failed = |message: &str| ("TURN_FAILED".to_owned(), message.to_owned(), false);
    let line = r#"{"type":"result","subtype":"error_max_turns","is_error":true,"errors":["Reached maximum number of turns (3)","x"],"usage":{"input_tokens":3,"output_tokens":4}}"#;
    assert_eq!(
        errors(&[PROMPT, INIT, &spoken("m"), line]),
        [failed("Reached maximum number of turns (3)\nx")]
    );
    let line = r#"{"type":"result","subtype":"success","is_error":true,"result":"Not logged in","usage":{"output_tokens":0}}"#;
    assert_eq!(errors(&[PROMPT, INIT, line]), [failed("Not logged in")]);
    assert!(texts(&[PROMPT, INIT, line]).is_empty());
    assert!(errors(&[PROMPT, INIT, &spoken("<synthetic>"), line]).is_empty());
    for none in [
        r#"{"type":"result","subtype":"error_during_execution","errors":[]}"#,
        r#"{"type":"result","subtype":"error_during_execution","errors":[{}]}"#,
        r#"{"type":"result","subtype":"error_during_execution"}"#,
    ] {
        assert!(errors(&[none]).is_empty(), "{none}");
    }
}

#[test]
fn an_agent_that_prints_init_at_each_turn_resumes_nothing() {
    let resumed = |lines: &[&str]| -> Vec<bool> {
        let events = events(lines).into_iter();
        events
            .filter_map(|event| match event {
                Event::SessionInfo(info) => Some(info.is_resumed),
                _ => None,
            })
            .collect()
    };
    let first = PROMPT.replace(r#""session_id":"a""#, r#""session_id":"""#);
    let result = r#"{"type":"result","subtype":"success"}"#;
    let started = [
        &first, INIT, result, PROMPT, INIT, result, // One process,
        &first, INIT, result, PROMPT, INIT,
        INIT, // and another, which prints a line once more.
    ];
    assert_eq!(resumed(&started), [false, false, true, false, false]);
    // A process that ended within its first turn.
    assert_eq!(resumed(&[&first, INIT, &first, INIT]), [false, true]);
    // Where prompts are not recorded, each is taken for another process.
    assert_eq!(resumed(&[INIT, result, INIT]), [false, true]);
}

#[test]
fn what_a_sub_agent_is_asked_is_nothing_that_the_user_typed() {
    let live = r#"{"type":"user","message":{"content":[{"type":"text","text":"look"},{"type":"image"}]},"parent_tool_use_id":"t","session_id":"a","uuid":"u"}"#;
    // In transcripts that hold what sub-agents do among their agent's own lines.
    let beside = r#"{"type":"user","isSidechain":true,"message":{"content":"look"},"uuid":"u"}"#;
    for line in [live, beside] {
        assert!(events(&[line]).is_empty(), "{line}");
    }
    let inputs = |line: &str| {
        let events = events(&[line]).into_iter();
        let inputs = events.filter(|event| matches!(event, Event::UserInput(_)));
        inputs.count()
    };
    // A transcript of its own begins with it.
    let own = beside.replacen('{', r#"{"agentId":"1","#, 1);
    assert_eq!(inputs(&own), 1);
    let typed = beside.replace("true", "false");
    assert_eq!(inputs(&typed), 1);
    // What tools give it is told.
    let result = r#"{"type":"user","isSidechain":true,"message":{"content":[{"type":"tool_result","tool_use_id":"r","content":"x"}]}}"#;
    assert!(matches!(&events(&[result])[..], [Event::ToolCallResult(_)]));
}
