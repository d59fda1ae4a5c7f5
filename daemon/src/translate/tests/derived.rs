//! What clients learn beside the conversation itself: lists of things to do, modes, compaction, decisions.

use betcode_schema_grpc::v1::{AgentStatus, PlanModeChange, TodoStatus};

use super::*;

/// The events of lines, the same wherever a replay begins.
pub(super) fn events(lines: &[&str]) -> Vec<Event> {
    let whole = translate_all(lines, 0);
    for from in 1..=lines.len() {
        let rest: Vec<_> = whole
            .iter()
            .filter(|(sequence, _)| *sequence > from as u64)
            .cloned()
            .collect();
        assert_eq!(translate_all(lines, from), rest, "from {from}");
    }
    whole.into_iter().map(|(_, event)| event).collect()
}

fn statuses(lines: &[&str]) -> Vec<(AgentStatus, String)> {
    let events = events(lines).into_iter();
    events
        .filter_map(|event| match event {
            Event::StatusChange(change) => Some((change.status(), change.message)),
            _ => None,
        })
        .collect()
}

fn plan_modes(lines: &[&str]) -> Vec<(bool, String)> {
    let events = events(lines).into_iter();
    events
        .filter_map(|event| match event {
            Event::PlanMode(PlanModeChange { active, plan }) => Some((active, plan)),
            _ => None,
        })
        .collect()
}

const TODOS: &str = r#"{"type":"tool_use","id":"t","name":"TodoWrite","input":{"todos":[{"content":"Read","status":"completed","activeForm":"Reading"},{"content":"Write","status":"in_progress","activeForm":"Writing"},{"id":"x","content":"Test","status":"pending"},{"content":"Odd","status":"new"}]}}"#;

#[test]
fn a_list_of_things_to_do_is_sent_whether_partial_output_began_it_or_not() {
    let whole = format!(r#"{{"type":"assistant","message":{{"id":"m","content":[{TODOS}]}}}}"#);
    let start = r#"{"type":"stream_event","event":{"type":"message_start","message":{"id":"m"}}}"#;
    let begun = format!(
        r#"{{"type":"stream_event","event":{{"type":"content_block_start","content_block":{TODOS}}}}}"#
    );
    for lines in [&[whole.as_str()][..], &[start, &begun, &whole]] {
        let events = events(lines);
        let [Event::ToolCallStart(_), Event::TodoUpdate(update)] = &events[..] else {
            panic!("{events:?}")
        };
        let items: Vec<_> = update
            .items
            .iter()
            .map(|item| {
                let (subject, active) = (item.subject.as_str(), item.active_form.as_str());
                (item.id.as_str(), subject, active, item.status())
            })
            .collect();
        assert_eq!(
            items,
            [
                ("1", "Read", "Reading", TodoStatus::Completed),
                ("2", "Write", "Writing", TodoStatus::InProgress),
                ("x", "Test", "", TodoStatus::Pending),
                ("4", "Odd", "", TodoStatus::Unspecified),
            ]
        );
    }
}

#[test]
fn a_tool_called_todo_write_without_a_list_changes_none() {
    for input in ["{}", r#"{"todos":7}"#] {
        let line = format!(
            r#"{{"type":"assistant","message":{{"content":[{{"type":"tool_use","id":"t","name":"TodoWrite","input":{input}}}]}}}}"#
        );
        assert_eq!(events(&[&line]).len(), 1, "{input}");
    }
}

#[test]
fn plan_mode_is_what_the_agent_says_that_it_is() {
    let init = |mode: &str| {
        format!(
            r#"{{"type":"system","subtype":"init","session_id":"a","permissionMode":"{mode}"}}"#
        )
    };
    let status = |mode: &str| {
        format!(r#"{{"type":"system","subtype":"status","status":null,"permissionMode":"{mode}"}}"#)
    };
    let plan = r##"{"type":"assistant","message":{"content":[{"type":"tool_use","id":"p","name":"ExitPlanMode","input":{"plan":"# Plan"}}]}}"##;
    let approved = r##"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"p","content":"approved"}]},"tool_use_result":{"plan":"# Plan","isAgent":false,"filePath":"/p.md"}}"##;
    let of_sub_agent = r#"{"type":"assistant","parent_tool_use_id":"x","message":{"content":[{"type":"tool_use","id":"p","name":"ExitPlanMode","input":{"plan":"other"}}]}}"#;
    let lines = [
        &init("plan"),
        plan,
        of_sub_agent,
        approved,
        &status("plan"),
        &status("acceptEdits"),
        &init("default"),
        r#"{"type":"system","subtype":"init","session_id":"a"}"#,
    ];
    let expected = [
        (true, ""),
        (true, "# Plan"),
        (false, "# Plan"),
        (true, ""),
        (false, ""),
        (false, ""),
    ];
    let expected: Vec<_> = expected
        .into_iter()
        .map(|(active, plan)| (active, plan.to_owned()))
        .collect();
    assert_eq!(plan_modes(&lines), expected);
}

#[test]
fn compaction_of_the_agents_memory_is_a_status_until_it_ends() {
    let compacting = r#"{"type":"system","subtype":"status","status":"compacting"}"#;
    let ended = [
        (r#"{"type":"system","subtype":"status","status":null}"#, ""),
        (
            r#"{"type":"system","subtype":"status","status":null,"compact_result":"success"}"#,
            "",
        ),
        (
            r#"{"type":"system","subtype":"status","status":null,"compact_result":"failed","compact_error":"too_few_groups"}"#,
            "compaction failed: too_few_groups",
        ),
        (
            r#"{"type":"system","subtype":"compact_boundary","compact_metadata":{"trigger":"auto","pre_tokens":71895,"post_tokens":14640}}"#,
            "the agent has compacted its memory of the conversation: 71895 tokens before, 14640 after",
        ),
        (
            r#"{"type":"system","subtype":"compact_boundary","compactMetadata":{"preTokens":5}}"#,
            "the agent has compacted its memory of the conversation: 5 tokens before",
        ),
        (
            r#"{"type":"system","subtype":"compact_boundary"}"#,
            "the agent has compacted its memory of the conversation",
        ),
    ];
    for (end, message) in ended {
        assert_eq!(
            statuses(&[compacting, end]),
            [
                (AgentStatus::Compacting, String::new()),
                (AgentStatus::Thinking, message.to_owned())
            ],
            "{end}"
        );
    }
    // A new mode, and a state that is not known here, end no compaction.
    for other in [
        r#"{"type":"system","subtype":"status","status":null,"permissionMode":"default"}"#,
        r#"{"type":"system","subtype":"status","status":"requesting"}"#,
        r#"{"type":"system","subtype":"status"}"#,
    ] {
        assert_eq!(statuses(&[other]), [], "{other}");
    }
}

#[test]
fn a_recorded_answer_says_which_request_it_settles_and_how() {
    let answer = |response: &str| {
        format!(
            r#"{{"type":"control_response","response":{{"subtype":"success","request_id":"r","response":{response}}}}}"#
        )
    };
    for (response, message) in [
        (
            r#"{"behavior":"allow","updatedInput":{"command":"ls"}}"#,
            "r: allowed",
        ),
        (
            r#"{"behavior":"deny","message":"the user said no"}"#,
            "r: denied: the user said no",
        ),
        (r#"{"behavior":"deny"}"#, "r: denied"),
        (
            r#"{"behavior":"allow","updatedInput":{"questions":[],"answers":{"Which?":"A"}}}"#,
            "r: answered",
        ),
    ] {
        assert_eq!(
            statuses(&[&answer(response)]),
            [(AgentStatus::Thinking, message.to_owned())],
            "{response}"
        );
    }
    let withdrawn = r#"{"type":"control_cancel_request","request_id":"r"}"#;
    assert_eq!(
        statuses(&[withdrawn]),
        [(AgentStatus::Thinking, "r: withdrawn".to_owned())]
    );
    // Clients were never shown what these answer.
    for other in [
        answer(r#"{"commands":[]}"#),
        r#"{"type":"control_response","response":{"subtype":"error","request_id":"r","error":"no"}}"#.to_owned(),
        r#"{"type":"control_response"}"#.to_owned(),
    ] {
        assert_eq!(events(&[&other]), [], "{other}");
    }
}

#[test]
fn a_result_of_a_tool_has_the_time_that_the_agent_tells() {
    for (field, duration_ms) in [
        (r#""tool_use_result":{"durationMs":12.7}"#, 12),
        (r#""toolUseResult":{"totalDurationMs":34}"#, 34),
        (r#""tool_use_result":{"durationSeconds":1.25}"#, 1_250),
        (r#""tool_use_result":{"durationMs":1e30}"#, u32::MAX),
        (r#""tool_use_result":{"durationMs":-3}"#, 0),
        (r#""tool_use_result":"Error: no""#, 0),
        (r#""other":1"#, 0),
    ] {
        let line = format!(
            r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"t","content":"x"}}]}},{field}}}"#
        );
        let events = events(&[&line]);
        let [Event::ToolCallResult(result)] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(result.duration_ms, duration_ms, "{field}");
    }
    // It cannot be known which of two it is of.
    let two = r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t"},{"type":"tool_result","tool_use_id":"u"}]},"tool_use_result":{"durationMs":12}}"#;
    for event in events(&[two]) {
        assert!(matches!(event, Event::ToolCallResult(result) if result.duration_ms == 0));
    }
}

#[test]
fn usage_has_the_model_that_wrote_most() {
    for (field, model) in [
        (r#"{"claude-x":{"outputTokens":0}}"#, "claude-x"),
        (
            r#"{"a":{"outputTokens":5},"b":{"outputTokens":70},"c":{"outputTokens":6}}"#,
            "b",
        ),
        ("{}", ""),
        ("7", ""),
    ] {
        let line = format!(r#"{{"type":"result","subtype":"success","modelUsage":{field}}}"#);
        let events = events(&[&line]);
        let Some(Event::Usage(usage)) = events.first() else {
            panic!("{events:?}")
        };
        assert_eq!(usage.model, model, "{field}");
    }
}
