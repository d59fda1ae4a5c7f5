use prost::Message as _;

use super::*;

mod derived;
mod unspoken;

fn translate_all(lines: &[&str], from: usize) -> Vec<(u64, Event)> {
    let mut translator = Translator::new("s-1");
    let mut events = Vec::new();
    let mut first = Translator::new("s-1");
    for (line, sequence) in lines.iter().take(from.min(64)).zip(1..) {
        first.translate(Line {
            sequence,
            received_ms: 0,
            bytes: line.as_bytes(),
        });
    }
    if let Some(sequence) = first.began() {
        translator.began_before(sequence);
    }
    let context = (0..from)
        .rev()
        .find(|&at| Translator::matters(lines[at].as_bytes()) == Matters::Begins);
    for (at, line) in lines.iter().enumerate().skip(context.unwrap_or(0)) {
        if at < from && Translator::matters(line.as_bytes()) == Matters::Nothing {
            continue;
        }
        let line = Line {
            sequence: at as u64 + 1,
            received_ms: 1_500,
            bytes: line.as_bytes(),
        };
        let translated = translator.translate(line);
        if at >= from {
            events.extend(
                translated
                    .into_iter()
                    .filter_map(|e| Some((e.sequence, e.event?))),
            );
        }
    }
    events
}

const TURN: [&str; 13] = [
    r#"{"type":"system","subtype":"init","cwd":"/home/me/x","session_id":"a-1","tools":["Bash"],"model":"claude-x"}"#,
    r#"{"type":"stream_event","event":{"type":"message_start","message":{"id":"msg_1"}},"session_id":"a-1","parent_tool_use_id":null}"#,
    r#"{"type":"stream_event","event":{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}}"#,
    r#"{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hel"}}}"#,
    r#"{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"lo"}}}"#,
    r#"{"type":"assistant","message":{"id":"msg_1","content":[{"type":"text","text":"Hello"}]},"parent_tool_use_id":null}"#,
    r#"{"type":"stream_event","event":{"type":"content_block_start","index":1,"content_block":{"type":"tool_use","id":"t1","name":"Bash","input":{}}}}"#,
    r#"{"type":"stream_event","event":{"type":"content_block_delta","index":1,"delta":{"type":"input_json_delta","partial_json":"{\"c"}}}"#,
    r#"{"type":"assistant","message":{"id":"msg_1","content":[{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"ls"}}]}}"#,
    r#"{"type":"user","message":{"role":"user","content":[{"tool_use_id":"t1","type":"tool_result","content":"a\nb","is_error":false}]}}"#,
    r#"{"type":"assistant","message":{"id":"msg_2","content":[{"type":"text","text":"Done."}]}}"#,
    r#"{"type":"rate_limit_event","x":1}"#,
    r#"{"type":"result","subtype":"success","duration_ms":1234,"total_cost_usd":0.5,"usage":{"input_tokens":3,"output_tokens":5,"cache_read_input_tokens":7,"cache_creation_input_tokens":9}}"#,
];

#[test]
fn a_turn_with_partial_output_is_told_once() {
    let events = translate_all(&TURN, 0);
    let sequences: Vec<u64> = events.iter().map(|(sequence, _)| *sequence).collect();
    assert_eq!(sequences, [1, 4, 5, 6, 9, 10, 11, 13, 13]);
    let spoken: String = events
        .iter()
        .filter_map(|(_, event)| match event {
            Event::TextDelta(delta) => Some(delta.text.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(spoken, "HelloDone.");
    let Event::SessionInfo(info) = &events[0].1 else {
        panic!()
    };
    assert_eq!(
        (info.session_id.as_str(), info.model.as_str()),
        ("s-1", "claude-x")
    );
    let Event::ToolCallStart(tool) = &events[4].1 else {
        panic!()
    };
    assert_eq!(tool.tool_id, "t1");
    assert_eq!(tool.input.as_ref().unwrap().fields.len(), 1);
    let Event::ToolCallResult(result) = &events[5].1 else {
        panic!()
    };
    assert_eq!(
        (result.tool_id.as_str(), result.output.as_str()),
        ("t1", "a\nb")
    );
    let Event::Usage(usage) = &events[7].1 else {
        panic!()
    };
    assert_eq!(
        (
            usage.input_tokens,
            usage.cache_creation_tokens,
            usage.duration_ms
        ),
        (3, 9, 1234)
    );
    let Event::TurnComplete(turn) = &events[8].1 else {
        panic!()
    };
    assert_eq!(turn.stop_reason, "success");
}

#[test]
fn a_replay_from_any_line_gives_what_a_whole_one_gives_after_it() {
    let whole = translate_all(&TURN, 0);
    for from in 0..=TURN.len() {
        let rest: Vec<_> = whole
            .iter()
            .filter(|(sequence, _)| *sequence > from as u64)
            .collect();
        let resumed = translate_all(&TURN, from);
        assert_eq!(resumed.iter().collect::<Vec<_>>(), rest, "from {from}");
    }
}

#[test]
fn without_partial_output_the_message_tells_all() {
    let events = translate_all(
        &[
            r#"{"type":"assistant","timestamp":"2025-09-03T00:47:19.293Z","message":{"id":"m","content":[{"type":"thinking","thinking":"x"},{"type":"text","text":"Hi"},{"type":"tool_use","id":"t","name":"Read","input":{"path":"/x","lines":[1,2.5],"deep":{"a":null}}}]}}"#,
        ],
        0,
    );
    let [(_, Event::TextDelta(text)), (_, Event::ToolCallStart(tool))] = &events[..] else {
        panic!("{events:?}")
    };
    assert!(text.is_complete && text.text == "Hi");
    assert_eq!(tool.tool_name, "Read");
    assert_eq!(tool.input.as_ref().unwrap().fields.len(), 3);
}

#[test]
fn questions_and_permissions_are_told_apart() {
    let events = translate_all(
        &[
            r#"{"type":"control_request","request_id":"r1","request":{"subtype":"can_use_tool","tool_name":"Bash","input":{"command":"rm x","description":"Remove x"}}}"#,
            r#"{"type":"control_request","request_id":"r2","request":{"subtype":"can_use_tool","tool_name":"AskUserQuestion","input":{"questions":[{"question":"Which?","multiSelect":true,"options":[{"label":"A","description":"first"},{"label":"B"}]},{"question":"And?","options":[]}]}}}"#,
            r#"{"type":"control_request","request_id":"r3","request":{"subtype":"interrupt"}}"#,
        ],
        0,
    );
    let [
        (1, Event::PermissionRequest(ask)),
        (2, Event::UserQuestion(one)),
        (2, Event::UserQuestion(two)),
    ] = &events[..]
    else {
        panic!("{events:?}")
    };
    assert_eq!(
        (ask.request_id.as_str(), ask.description.as_str()),
        ("r1", "Remove x")
    );
    assert_eq!(
        (
            one.question_id.as_str(),
            one.options.len(),
            one.multi_select
        ),
        ("r2", 2, true)
    );
    assert_eq!(one.options[0].value, "A");
    assert_eq!(two.question, "And?");
}

#[test]
fn what_cannot_be_read_gives_nothing_and_two_objects_give_both() {
    for line in [
        "",
        "prose",
        "[1]",
        "{\"type\":",
        "{}",
        "{\"type\":7}",
        "null",
        "\u{0}",
    ] {
        assert!(translate_all(&[line], 0).is_empty(), "{line:?}");
    }
    let prompt = r#"{"type":"user","message":{"content":"hi"}}"#;
    assert_eq!(
        translate_all(&[&format!("{prompt} {prompt}{{torn")], 0).len(),
        2
    );
    assert!(
        Translator::new("s")
            .translate(Line {
                sequence: 1,
                received_ms: 0,
                bytes: b"\xff\xfe{}"
            })
            .is_empty()
    );
}

#[test]
fn pieces_of_a_line_give_no_events_whatever_they_look_like_and_wherever_a_replay_begins() {
    let result = r#"{"type":"result","subtype":"success"}"#;
    let prompt = r#"{"type":"user","message":{"content":"hi"}}"#;
    let long = format!(r#"{{"type":"assistant","a":"x","b":{result}}}"#);
    let (first, second) = long.split_at(long.len() - result.len() - 1);
    let middle = format!("{result},");
    let lines = [
        first, second, prompt, first, &middle, "", prompt, first, prompt,
    ];
    let prompts = [(3, true), (7, true), (9, true)];
    for from in 0..lines.len() {
        let events = translate_all(&lines, from).into_iter();
        let seen: Vec<_> = events
            .map(|(sequence, event)| (sequence, matches!(event, Event::UserInput(_))))
            .collect();
        let expected: Vec<_> = prompts
            .into_iter()
            .filter(|prompt| prompt.0 > from as u64)
            .collect();
        assert_eq!(seen, expected, "from {from}");
    }
}

#[test]
fn a_tool_call_is_told_once_whatever_partial_output_says_of_it() {
    let start = r#"{"type":"stream_event","event":{"type":"message_start","message":{"id":"m"}}}"#;
    for input in ["{}", r#"{"command":"ls"}"#] {
        let block = format!(r#"{{"type":"tool_use","id":"t","name":"Bash","input":{input}}}"#);
        let begun = format!(
            r#"{{"type":"stream_event","event":{{"type":"content_block_start","content_block":{block}}}}}"#
        );
        let whole = format!(r#"{{"type":"assistant","message":{{"id":"m","content":[{block}]}}}}"#);
        assert_eq!(
            translate_all(&[start, &begun, &whole], 0).len(),
            1,
            "{input}"
        );
    }
}

#[test]
fn a_question_may_be_a_plain_text_and_one_without_a_text_is_none() {
    let line = r#"{"type":"control_request","request_id":"r","request":{"subtype":"can_use_tool","tool_name":"AskUserQuestion","input":{"questions":["Plain?",{"header":"x"},{"question":"Whole?"}]}}}"#;
    let events = translate_all(&[line], 0).into_iter();
    let asked: Vec<_> = events
        .map(|(_, event)| match event {
            Event::UserQuestion(question) => question.question,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(asked, ["Plain?", "Whole?"]);
}

#[test]
fn an_event_has_the_lines_time_or_its_arrival() {
    let mut translator = Translator::new("s");
    let mut time = |bytes: &str| {
        let line = Line {
            sequence: 1,
            received_ms: 1_500,
            bytes: bytes.as_bytes(),
        };
        let timestamp = translator.translate(line)[0].timestamp.unwrap();
        (timestamp.seconds, timestamp.nanos)
    };
    let user = r#"{"type":"user","message":{"content":"hi"}"#;
    assert_eq!(time(&format!("{user}}}")), (1, 500_000_000));
    let said = format!("{user},\"timestamp\":\"2025-09-03T00:47:19.293Z\"}}");
    assert_eq!(time(&said), (1_756_860_439, 293_000_000));
}

#[test]
fn an_agent_resumes_a_session_when_an_earlier_one_began_there() {
    let init = r#"{"type":"system","subtype":"init"}"#;
    let result = r#"{"type":"result","subtype":"success"}"#;
    let prompt = r#"{"type":"user","message":{"content":"hi"}}"#;
    let lines = [prompt, init, result, init];
    let resumed = |events: &[(u64, Event)]| -> Vec<(u64, bool)> {
        let infos = events.iter().filter_map(|(sequence, event)| match event {
            Event::SessionInfo(info) => Some((*sequence, info.is_resumed)),
            _ => None,
        });
        infos.collect()
    };
    assert_eq!(resumed(&translate_all(&lines, 0)), [(2, false), (4, true)]);
    let late = vec![r#"{"type":"x"}"#; 2 * FIRST_INIT_LINES_MAX as usize];
    let late: Vec<_> = late.into_iter().chain([init]).collect();
    assert!(resumed(&translate_all(&late, 0))[0].1);
}

/// gRPC's usual bound for a message.
const MESSAGE_BYTES_MAX: usize = 4 << 20;

fn hostile_lines() -> Vec<(&'static str, Value)> {
    let long = "x".repeat(5 << 20);
    // A byte that JSON writes as six, below where a Struct ends.
    let mut deep = serde_json::json!(vec!["\u{1}".repeat(4 << 10); 1000]);
    for _ in 0..40 {
        deep = serde_json::json!({ "d": deep });
    }
    let ask = |tool: &str, id: &str, input: Value| {
        serde_json::json!({"type": "control_request", "request_id": id,
            "request": {"subtype": "can_use_tool", "tool_name": tool, "input": input}})
    };
    let question = |question: &str, option: &str, options: usize| {
        let option = serde_json::json!({"label": option, "description": option});
        let options = vec![option; options];
        serde_json::json!({"questions": [{"question": question, "options": options}]})
    };
    let block =
        |block: Value| serde_json::json!({"type": "assistant", "message": {"content": [block]}});
    let tool_use = |name: &str, input: Value| {
        block(serde_json::json!({"type": "tool_use", "id": "t", "name": name, "input": input}))
    };
    let half = "x".repeat(1 << 19);
    vec![
        (
            "model, cwd",
            serde_json::json!({"type": "system", "subtype": "init", "model": long, "cwd": long}),
        ),
        (
            "errors",
            serde_json::json!({"type": "result", "subtype": "error_x", "errors": [long]}),
        ),
        (
            "answer",
            serde_json::json!({"type": "result", "subtype": "success", "result": long}),
        ),
        (
            "failed",
            serde_json::json!({"type": "result", "subtype": long, "is_error": true, "result": long}),
        ),
        (
            "stop_reason",
            serde_json::json!({"type": "result", "stop_reason": long}),
        ),
        (
            "parent",
            serde_json::json!({"type": "assistant", "parent_tool_use_id": long, "message": {"content": "x"}}),
        ),
        (
            "tool",
            block(serde_json::json!({"type": "tool_use", "id": long, "name": long, "input": {}})),
        ),
        (
            "input",
            block(serde_json::json!({"type": "tool_use", "id": "t", "name": "n", "input": deep})),
        ),
        (
            "result",
            serde_json::json!({"type": "user", "message": {"content":
            [{"type": "tool_result", "tool_use_id": long, "content": long}]}}),
        ),
        ("request", ask(&long, &long, serde_json::json!({}))),
        (
            "question",
            ask("AskUserQuestion", "r", question(&long, "x", 2)),
        ),
        (
            "label",
            ask("AskUserQuestion", "r", question("x", &long, 2)),
        ),
        (
            "options",
            ask("AskUserQuestion", "r", question("x", "x", 1_000_000)),
        ),
        (
            "to do",
            tool_use(
                "TodoWrite",
                serde_json::json!({"todos": vec![serde_json::json!({"id": half, "content": half, "activeForm": half}); 4]}),
            ),
        ),
        (
            "many things to do",
            tool_use(
                "TodoWrite",
                serde_json::json!({"todos": vec![serde_json::json!({"content": "x".repeat(8 << 10), "activeForm": "x".repeat(8 << 10)}); 600]}),
            ),
        ),
        (
            "plan",
            tool_use("ExitPlanMode", serde_json::json!({"plan": long})),
        ),
        (
            "answer",
            serde_json::json!({"type": "control_response", "response": {"subtype": "success", "request_id": long,
                "response": {"behavior": "deny", "message": long}}}),
        ),
        (
            "compaction",
            serde_json::json!({"type": "system", "subtype": "status", "status": null, "compact_result": "failed", "compact_error": long}),
        ),
        (
            "model",
            serde_json::json!({"type": "result", "modelUsage": {long.clone(): {}}}),
        ),
    ]
}

#[test]
fn every_event_fits_a_message_whatever_is_long_in_its_line() {
    for (what, line) in hostile_lines() {
        let events = Translator::new("s").translate(Line {
            sequence: 1,
            received_ms: 0,
            bytes: line.to_string().as_bytes(),
        });
        assert!(!events.is_empty(), "{what}");
        for event in events {
            let bytes = event.encoded_len();
            assert!(bytes <= MESSAGE_BYTES_MAX, "{what}: {bytes}");
        }
        for event in asked(&line) {
            let event = AgentEvent {
                event: Some(event),
                ..AgentEvent::default()
            };
            assert!(
                event.encoded_len() <= MESSAGE_BYTES_MAX,
                "{what}, asked again"
            );
        }
    }
}

#[test]
fn a_turn_that_failed_is_not_told_as_a_success() {
    let line = br#"{"type":"result","subtype":"success","is_error":true,"result":"API Error"}"#;
    let mut translator = Translator::new("s");
    let events = translator.translate(Line {
        sequence: 1,
        received_ms: 0,
        bytes: line,
    });
    let reason = events.into_iter().find_map(|event| match event.event {
        Some(Event::TurnComplete(turn)) => Some(turn.stop_reason),
        _ => None,
    });
    assert_eq!(reason.as_deref(), Some("error"));
}
