//! Lines that are JSON, and not such as every reader of JSON takes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::agent_event::Event;
use support::read_all;
use support::talk::{Talk, printing, said, serve, start};

fn delta(text: &str) -> String {
    let delta = format!(r#"{{"type":"text_delta","text":"{text}"}}"#);
    let event = format!(r#"{{"type":"content_block_delta","index":0,"delta":{delta}}}"#);
    printing(&format!(r#"{{"type":"stream_event","event":{event}}}"#))
}

fn ask(id: &str, input: &str) -> String {
    let request = format!(r#"{{"subtype":"can_use_tool","tool_name":"Bash","input":{input}}}"#);
    let line = format!(r#"{{"type":"control_request","request_id":"{id}","request":{request}}}"#);
    format!("{} await:{id}", printing(&line))
}

#[tokio::test]
async fn text_that_was_cut_within_a_character_is_told_and_so_is_the_end_of_its_turn() {
    let (served, folder) = serve(&[]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    let result = r#"{"type":"result","subtype":"success","stop_reason":"cut","result":"a\ud83d"}"#;
    let words = [delta(r"a\ud83d"), delta(r"\ude00b"), printing(result)];
    talk.say(&words.join(" ")).await;
    assert_eq!(talk.turn_over().await, "cut");
    assert_eq!(said(&talk.told), "a\u{fffd}\u{fffd}b");
}

#[tokio::test]
async fn a_request_with_half_a_character_is_told_and_the_agent_gets_back_what_it_wrote() {
    let (served, folder) = serve(&[]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    talk.say(&ask("r", r#"{"command":"echo \ud83d", "n":1.50}"#))
        .await;
    assert_eq!(talk.permission().await.request_id, "r");
    talk.decide("r", proto::PermissionDecision::AllowOnce).await;
    talk.turn_over().await;
    let lines = read_all(&mut served.history().await, "s", 1).await.unwrap();
    let answered = br#""updatedInput":{"command":"echo \ud83d", "n":1.50}"#;
    let holds = |line: &[u8]| line.windows(answered.len()).any(|part| part == answered);
    assert!(lines.iter().any(|(_, line)| holds(line)));
}

#[tokio::test]
async fn a_request_that_is_nested_deep_is_told() {
    let (served, folder) = serve(&[]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    // Deeper than protobuf is read, and than JSON is.
    for depth in [40, 300] {
        let (open, shut) = (r#"{"a":[{"b":"#.repeat(depth), "}]}".repeat(depth));
        let tree = format!(r#"{{"command":"ls","tree":{open}1{shut}}}"#);
        let id = depth.to_string();
        talk.say(&ask(&id, &tree)).await;
        let request = talk.permission().await;
        assert!(request.input.unwrap().fields.contains_key("command"));
        talk.decide(&id, proto::PermissionDecision::AllowOnce).await;
        talk.turn_over().await;
        talk.idle().await;
    }
}

#[tokio::test]
async fn a_result_whose_other_fields_are_odd_ends_its_turn() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    for (session, fields) in [
        ("number", r#""session_id":7,"subtype":"odd""#),
        ("twice", r#""subtype":"a","subtype":"odd""#),
        ("object", r#""request_id":{},"subtype":"odd""#),
    ] {
        let mut talk = Talk::open(&channel, start(session, &folder)).await;
        let result = printing(&format!(r#"{{"type":"result",{fields}}}"#));
        talk.say(&format!("{result} hang")).await;
        assert_eq!(talk.turn_over().await, "odd");
        talk.idle().await;
    }
}

#[tokio::test]
async fn a_line_that_is_not_utf_8_is_told_as_far_as_it_is() {
    let (served, folder) = serve(&[]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    // {"type":"assistant","message":{"content":"a<FF>"}}
    let line = "eyJ0eXBlIjoiYXNzaXN0YW50IiwibWVzc2FnZSI6eyJjb250ZW50IjoiYf8ifX0=";
    talk.say(&format!("print:{line}")).await;
    talk.turn_over().await;
    let told = |event: &Event| matches!(event, Event::TextDelta(text) if text.text == "a\u{fffd}");
    assert!(talk.told.iter().filter_map(|e| e.event.as_ref()).any(told));
}
