//! Clients with the usual bounds of gRPC: 4 MiB for a message, 8 KiB for headers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::agent_request::Request as Asked;
use betcode_schema_grpc::v1::agent_service_client::AgentServiceClient;
use prost_types::value::Kind;
use support::talk::{Talk, serve, start};
use support::{Appender, batch, within};
use tonic::{Code, Status};

const LONG: usize = 5 << 20;

/// As much as a client takes of a status: its headers hold the message twice.
fn fits(status: &Status) -> bool {
    // Percent-encoded, a byte takes three.
    3 * status.message().len() + status.details().len() / 3 * 4 < 8 << 10
}

#[tokio::test]
async fn lines_longer_than_a_message_may_be_are_told_in_parts_and_nothing_behind_them_is_lost() {
    let served = support::serve(&[]).await;
    let long: String = "añb".repeat(LONG / 4);
    let of = |kind: &str, block: &str| {
        format!(r#"{{"type":"{kind}","message":{{"id":"m","content":[{block}]}}}}"#)
    };
    let input = format!(
        r#"{{"a":"{long}","file_path":"/f","list":[{}1]}}"#,
        "1,".repeat(100_000)
    );
    let request = format!(r#"{{"subtype":"can_use_tool","tool_name":"Write","input":{input}}}"#);
    let lines = [
        of(
            "assistant",
            &format!(r#"{{"type":"text","text":"{long}"}}"#),
        ),
        of("user", &format!(r#"{{"type":"text","text":"{long}"}}"#)),
        of(
            "user",
            &format!(
                r#"{{"type":"tool_result","tool_use_id":"t","is_error":true,"content":"{long}"}}"#
            ),
        ),
        of(
            "assistant",
            &format!(r#"{{"type":"tool_use","id":"t","name":"Write","input":{input}}}"#),
        ),
        format!(r#"{{"type":"control_request","request_id":"r","request":{request}}}"#),
        r#"{"type":"result","subtype":"success"}"#.to_owned(),
    ];
    let mut appender = Appender::open(&mut served.history().await).await;
    for line in &lines {
        appender.send(batch("s", &[line])).await.unwrap();
    }
    let mut client = AgentServiceClient::new(served.channel().await);
    let request = proto::ResumeSessionRequest {
        session_id: "s".into(),
        from_sequence: 0,
    };
    let mut answers = client.resume_session(request).await.unwrap().into_inner();
    let mut texts = vec![String::new(); 3];
    let (mut complete, mut inputs, mut is_over) = (0, Vec::new(), false);
    while let Some(told) = within(answers.message()).await.unwrap() {
        match told.event.unwrap() {
            Event::TextDelta(delta) => {
                assert_eq!(complete, 0, "the last part says that it is complete");
                texts[0] += &delta.text;
                complete += usize::from(delta.is_complete);
            }
            Event::UserInput(input) => texts[1] += &input.content,
            Event::ToolCallResult(result) => {
                assert!(result.is_error && result.tool_id == "t");
                texts[2] += &result.output;
            }
            Event::ToolCallStart(start) => inputs.push(start.input.unwrap()),
            Event::PermissionRequest(request) => inputs.push(request.input.unwrap()),
            Event::TurnComplete(_) => is_over = true,
            _ => {}
        }
    }
    assert!(is_over && complete == 1);
    assert!(texts.iter().all(|text| *text == long));
    assert_eq!(inputs.len(), 2);
    for input in inputs {
        let Some(Kind::StringValue(path)) = &input.fields["file_path"].kind else {
            panic!()
        };
        assert_eq!(path, "/f");
    }
}

#[tokio::test]
async fn what_was_not_told_whole_is_not_edited() {
    let (served, folder) = serve(&[]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    talk.say(&format!("long:{LONG}")).await;
    let request = talk.permission().await.request_id;
    let edited = proto::PermissionResponse {
        request_id: request.clone(),
        decision: proto::PermissionDecision::AllowWithEdit.into(),
        updated_input: Some(prost_types::Struct::default()),
        ..proto::PermissionResponse::default()
    };
    talk.ask(Asked::Permission(edited)).await;
    assert_eq!(talk.error().await.code, "INVALID");
    talk.decide(&request, proto::PermissionDecision::AllowOnce)
        .await;
    // All of it is given to the agent.
    talk.hears(&format!("{LONG} bytes")).await;
    talk.turn_over().await;
}

#[tokio::test]
async fn what_is_refused_is_told_in_few_words_however_long_it_is() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let ends = async |start: proto::StartConversation| {
        let mut talk = Talk::silent(&channel).await;
        talk.ask(Asked::Start(start)).await;
        talk.ended().await
    };
    let long = "ü".repeat(200_000);
    for (code, wrong) in [
        (
            Code::FailedPrecondition,
            proto::StartConversation {
                working_directory: format!("/{long}"),
                ..start("s", &folder)
            },
        ),
        (
            Code::InvalidArgument,
            proto::StartConversation {
                allowed_tools: vec![long.clone()],
                ..start("s", &folder)
            },
        ),
    ] {
        let status = ends(wrong).await;
        assert_eq!(status.code(), code);
        assert!(fits(&status), "{} bytes", status.message().len());
    }
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.decide(&"ü".repeat(LONG / 2), proto::PermissionDecision::AllowOnce)
        .await;
    let error = talk.error().await;
    assert_eq!(error.code, "UNKNOWN_REQUEST");
    let bytes = error.details.values().map(String::len).sum::<usize>() + error.message.len();
    assert!(bytes < 1 << 20, "{bytes}");
}
