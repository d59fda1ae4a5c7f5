//! What agents ask, who may write, and clients that break the rules.
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
use betcode_schema_grpc::v1::version_service_client::VersionServiceClient;
use betcode_schema_grpc::v1::{AgentStatus, PermissionDecision as Decision};
use support::talk::{Talk, said, serve, start};
use tonic::Code;
use tonic::transport::Channel;

#[tokio::test]
async fn the_first_valid_answer_wins_whoever_gives_it() {
    let (served, folder) = serve(&[]).await;
    let (one, two) = (served.channel().await, served.channel().await);
    let mut phone = Talk::open(&one, start("s", &folder)).await;
    let mut terminal = Talk::open(&two, start("s", &folder)).await;
    phone.say("asks:a,b,c").await;
    for talk in [&mut phone, &mut terminal] {
        for id in ["a", "b", "c"] {
            let request = talk.permission().await;
            assert_eq!(
                (request.request_id.as_str(), request.tool_name.as_str()),
                (id, "Bash")
            );
        }
    }
    // Clients hear of a line by its commit, which may be before the conversation does.
    let client = AgentServiceClient::new(one.clone());
    support::eventually(async || {
        let request = proto::ListSessionsRequest::default();
        let list = client.clone().list_sessions(request).await.unwrap();
        list.into_inner().sessions[0].status == "waiting"
    })
    .await;
    // Who comes now is shown what is open.
    let mut late = Talk::open(&two, start("s", &folder)).await;
    for id in ["a", "b", "c"] {
        assert_eq!(late.permission().await.request_id, id);
    }
    // Nonsense is refused and decides nothing.
    terminal.decide("nope", Decision::AllowOnce).await;
    assert_eq!(terminal.error().await.code, "UNKNOWN_REQUEST");
    terminal.decide("a", Decision::Unspecified).await;
    assert_eq!(terminal.error().await.code, "INVALID");
    terminal.decide("a", Decision::AllowWithEdit).await;
    assert_eq!(terminal.error().await.code, "INVALID");
    // A race: whoever is first, one of them is told that the request has an answer.
    phone.decide("a", Decision::Deny).await;
    phone.decide("a", Decision::AllowOnce).await;
    assert_eq!(phone.error().await.code, "UNKNOWN_REQUEST");
    let input = proto::PermissionResponse {
        request_id: "b".into(),
        decision: Decision::AllowWithEdit.into(),
        updated_input: Some(prost_types::Struct {
            fields: [(
                "command".to_owned(),
                prost_types::Value {
                    kind: Some(prost_types::value::Kind::StringValue("edited".into())),
                },
            )]
            .into(),
        }),
        message: String::new(),
    };
    terminal.ask(Asked::Permission(input)).await;
    late.decide("c", Decision::DenyNoInterrupt).await;
    phone.turn_over().await;
    let text = said(&phone.told);
    assert!(
        text.contains(r#"a {"behavior": "deny", "message": "the user said no"}"#),
        "{text}"
    );
    assert!(
        text.contains(r#"b {"behavior": "allow", "updatedInput": {"command": "edited"}}"#),
        "{text}"
    );
    assert!(text.contains(r#"c {"behavior": "deny""#), "{text}");
    // Each answer that reached the agent was timed, from its client's stream to the agent's pipe.
    assert_eq!(served.daemon.core().metrics.permit.count(), 3);
}

#[tokio::test]
async fn a_replay_says_which_requests_have_an_answer_as_it_was_said_live() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("asks:a,b").await;
    for id in ["a", "b"] {
        assert_eq!(talk.permission().await.request_id, id);
    }
    talk.decide("a", Decision::AllowOnce).await;
    talk.decide("b", Decision::Deny).await;
    talk.turn_over().await;
    let settled = |events: &[proto::AgentEvent]| -> Vec<(u64, String)> {
        let settled = events.iter().filter_map(|event| match &event.event {
            Some(Event::StatusChange(change)) if change.message.contains(": ") => {
                Some((event.sequence, change.message.clone()))
            }
            _ => None,
        });
        settled.collect()
    };
    let live = settled(&talk.told);
    let messages: Vec<_> = live.iter().map(|(_, message)| message.as_str()).collect();
    assert_eq!(messages, ["a: allowed", "b: denied: the user said no"]);
    let replayed = support::talk::resume(&channel, "s", 0).await;
    assert_eq!(settled(&replayed), live);
}

#[tokio::test]
async fn a_tool_at_work_is_said_to_be_until_its_result_comes() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let gate = folder.join("gate");
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say(&format!("tool:t1:{} say:done", gate.display()))
        .await;
    talk.status(AgentStatus::ExecutingTool).await;
    // Who comes now learns it as well.
    let mut late = Talk::open(&channel, start("s", &folder)).await;
    late.status(AgentStatus::ExecutingTool).await;
    std::fs::write(&gate, "").unwrap();
    talk.idle().await;
    let statuses = talk.told.iter().filter_map(|event| match &event.event {
        Some(Event::StatusChange(change)) => Some(change.status()),
        _ => None,
    });
    let statuses: Vec<_> = statuses.collect();
    let [.., tool, then, end] = statuses[..] else {
        panic!("{statuses:?}")
    };
    assert_eq!(
        [tool, then, end],
        [
            AgentStatus::ExecutingTool,
            AgentStatus::Thinking,
            AgentStatus::Idle
        ]
    );
}

#[tokio::test]
async fn the_version_of_the_agent_is_known_once_one_has_run() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut client = VersionServiceClient::new(channel.clone());
    let mut version = async || {
        let version = client
            .get_version(proto::GetVersionRequest::default())
            .await;
        version.unwrap().into_inner().claude_code
    };
    assert_eq!(version().await, None);
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("say:hello").await;
    talk.turn_over().await;
    // Said when the conversation has taken note of the lines.
    talk.idle().await;
    assert_eq!(version().await.unwrap().version, "9.8.7");
}

#[tokio::test]
async fn a_denial_may_interrupt_the_turn() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("ask:Bash:r hang").await;
    talk.permission().await;
    talk.decide("r", Decision::DenyWithInterrupt).await;
    assert_eq!(talk.turn_over().await, "error_during_execution");
}

async fn grants(client: &mut AgentServiceClient<Channel>) -> Vec<(String, bool)> {
    let request = proto::ListSessionGrantsRequest {
        session_id: "s".into(),
    };
    let listed = client
        .list_session_grants(request)
        .await
        .unwrap()
        .into_inner();
    let pair = |entry: proto::SessionGrantEntry| (entry.tool_name, entry.granted);
    listed.grants.into_iter().map(pair).collect()
}

#[tokio::test]
async fn grants_answer_for_the_session_until_they_are_cleared() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut client = AgentServiceClient::new(channel.clone());
    let set = |tool_name: &str, granted| proto::SetSessionGrantRequest {
        session_id: "s".into(),
        tool_name: tool_name.into(),
        granted,
    };
    let unknown = client
        .set_session_grant(set("Edit", true))
        .await
        .unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("ask:Bash ask:Bash").await;
    let id = talk.permission().await.request_id;
    talk.decide(&id, Decision::AllowSession).await;
    talk.turn_over().await;
    assert_eq!(grants(&mut client).await, [("Bash".to_owned(), true)]);
    client.set_session_grant(set("Edit", false)).await.unwrap();
    let wrong = client.set_session_grant(set("", true)).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    talk.say("ask:Edit:e").await;
    talk.turn_over().await;
    assert!(said(&talk.told).contains(r#"e {"behavior": "deny""#));
    // They outlast the stream, for they are the session's.
    drop(talk);
    assert_eq!(grants(&mut client).await.len(), 2);
    let clear = |tool_name: &str| proto::ClearSessionGrantsRequest {
        session_id: "s".into(),
        tool_name: tool_name.into(),
    };
    client.clear_session_grants(clear("Bash")).await.unwrap();
    assert_eq!(grants(&mut client).await, [("Edit".to_owned(), false)]);
    client.clear_session_grants(clear("")).await.unwrap();
    assert!(grants(&mut client).await.is_empty());
}

#[tokio::test]
async fn questions_reach_the_user_and_the_answers_the_agent() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("question").await;
    for _ in 0..2 {
        let question = talk.until(|event| match event {
            Event::UserQuestion(question) => Some(question.clone()),
            _ => None,
        });
        assert_eq!(question.await.options.len(), 2);
    }
    let answer = |pairs: &[(&str, &str)]| {
        Asked::QuestionResponse(proto::UserQuestionResponse {
            question_id: "q-1".into(),
            answers: pairs
                .iter()
                .map(|(q, a)| (q.to_string(), a.to_string()))
                .collect(),
        })
    };
    talk.ask(answer(&[("Who?", "A")])).await;
    assert_eq!(talk.error().await.code, "INVALID");
    talk.ask(answer(&[("Which?", "A")])).await;
    talk.ask(answer(&[("When?", "B")])).await;
    talk.turn_over().await;
    let text = said(&talk.told);
    assert!(
        text.contains(r#""answers": {"When?": "B", "Which?": "A"}"#),
        "{text}"
    );
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_refused_and_the_question_stays_open() {
    let (served, folder) = serve(&[("max_payload_bytes", "65536")]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    talk.say("question").await;
    for _ in 0..2 {
        talk.until(|event| matches!(event, Event::UserQuestion(_)).then_some(()))
            .await;
    }
    let answer = |text: &str| {
        let pair = |question: &str| (question.to_owned(), text.to_owned());
        Asked::QuestionResponse(proto::UserQuestionResponse {
            question_id: "q-1".into(),
            answers: [pair("Which?"), pair("When?")].into(),
        })
    };
    // The first is short until it is escaped.
    for text in ["\u{1}".repeat(8_000), "x".repeat(40_000)] {
        talk.ask(answer(&text)).await;
        let refused = talk.error().await;
        assert_eq!(refused.code, "TOO_LONG", "{}", refused.message);
        assert_eq!(refused.details["request_id"], "q-1");
    }
    talk.ask(answer("short")).await;
    talk.turn_over().await;
    assert!(said(&talk.told).contains(r#""Which?": "short""#));
}

#[tokio::test]
async fn a_request_whose_answer_would_not_fit_a_line_is_denied_and_the_turn_goes_on() {
    let (served, folder) = serve(&[("max_payload_bytes", "65536")]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    let grant = proto::SetSessionGrantRequest {
        session_id: "s".into(),
        tool_name: "Bash".into(),
        granted: true,
    };
    let mut client = AgentServiceClient::new(channel);
    client.set_session_grant(grant).await.unwrap();
    // The answer has what is asked for in it, and more around it.
    talk.say("wide:65530").await;
    talk.turn_over().await;
    let text = said(&talk.told);
    assert!(text.contains(r#"wide {"behavior": "deny""#), "{text}");
}

#[tokio::test]
async fn an_answer_that_can_never_be_recorded_holds_up_its_turn_only() {
    let (served, folder) = serve(&[("max_payload_bytes", "65536")]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    // Any answer repeats the name.
    talk.say("named:65530").await;
    assert_eq!(talk.error().await.code, "INVALID");
    talk.ask(Asked::Cancel(proto::CancelRequest::default()))
        .await;
    assert_eq!(talk.turn_over().await, "error_during_execution");
    talk.say("say:after").await;
    talk.hears("after").await;
}

#[tokio::test]
async fn an_agent_runs_as_the_stream_asks_whose_message_starts_it() {
    let (served, folder) = serve(&[]).await;
    let (one, two) = (served.channel().await, served.channel().await);
    let plan = proto::StartConversation {
        plan_mode: true,
        ..start("s", &folder)
    };
    let mut terminal = Talk::open(&one, plan).await;
    let onlooker = proto::StartConversation {
        allowed_tools: vec!["Bash".into()],
        ..start("s", &folder)
    };
    let _onlooker = Talk::open(&two, onlooker).await;
    terminal.say("args").await;
    terminal.turn_over().await;
    let text = said(&terminal.told);
    assert!(text.contains("--permission-mode"), "{text}");
    assert!(!text.contains("--allowedTools"), "{text}");
}

#[tokio::test]
async fn a_request_of_which_nobody_knows_anything_is_answered() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("odd").await;
    talk.turn_over().await;
    assert!(said(&talk.told).contains("set_mood"));
}

#[tokio::test]
async fn without_anybody_a_request_is_denied_after_a_while() {
    let (served, folder) = serve(&[("agent_request_wait_ms", "50")]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("ask:Bash:r say:done").await;
    talk.permission().await;
    drop(talk);
    let mut again = Talk::open(
        &channel,
        proto::StartConversation {
            metadata: [("from_sequence".to_owned(), "0".to_owned())].into(),
            ..start("nobody", &folder)
        },
    )
    .await;
    again.say("say:other").await;
    again.turn_over().await;
    // Found in the history, which is what is left of it.
    support::eventually(async || {
        let events = support::talk::resume(&channel, "s", 0).await;
        said(&events).contains("nobody was there to answer")
    })
    .await;
}

#[tokio::test]
async fn the_input_lock_is_taken_over_and_ends_with_its_holder() {
    let (served, folder) = serve(&[]).await;
    let (one, two) = (served.channel().await, served.channel().await);
    let mut phone = Talk::open(&one, start("s", &folder)).await;
    let mut terminal = Talk::open(&two, start("s", &folder)).await;
    let lock = async |channel: &Channel| {
        let request = proto::InputLockRequest {
            session_id: "s".into(),
        };
        let mut client = AgentServiceClient::new(channel.clone());
        client
            .request_input_lock(request)
            .await
            .unwrap()
            .into_inner()
    };
    let first = lock(&one).await;
    assert!(first.granted && first.previous_holder.is_empty());
    terminal.say("say:x").await;
    assert_eq!(terminal.error().await.code, "INPUT_LOCKED");
    let second = lock(&two).await;
    assert!(second.granted && !second.previous_holder.is_empty());
    let lost = phone.error().await;
    assert_eq!(lost.code, "INPUT_LOCK_TAKEN");
    phone.say("say:x").await;
    assert_eq!(phone.error().await.code, "INPUT_LOCKED");
    // A stranger to the conversation does not get it.
    let stranger = served.channel().await;
    assert!(!lock(&stranger).await.granted);
    drop(terminal);
    drop(two);
    support::eventually(async || {
        phone.say("say:mine").await;
        let is_told = phone.until(|event| match event {
            Event::Error(_) => Some(false),
            Event::TurnComplete(_) => Some(true),
            _ => None,
        });
        is_told.await
    })
    .await;
}

#[tokio::test]
async fn clients_that_break_the_rules_are_told_which() {
    let (served, folder) = serve(&[("max_payload_bytes", "65536")]).await;
    let channel = served.channel().await;
    let message = |content: &str| {
        Asked::Message(proto::UserMessage {
            content: content.into(),
            ..proto::UserMessage::default()
        })
    };
    let ends = async |requests: Vec<Asked>| {
        let mut talk = Talk::silent(&channel).await;
        for request in requests {
            talk.ask(request).await;
        }
        talk.ended().await
    };
    let begin = || Asked::Start(start("s", &folder));
    let early = ends(vec![message("say:x")]).await;
    assert_eq!(early.code(), Code::InvalidArgument);
    assert!(early.message().contains("start"), "{early}");
    assert_eq!(
        ends(vec![begin(), begin()]).await.code(),
        Code::InvalidArgument
    );
    let sealed = Asked::Encrypted(proto::EncryptedEnvelope::default());
    let sealed = ends(vec![begin(), sealed]).await;
    assert_eq!(sealed.code(), Code::InvalidArgument);
    assert!(sealed.message().contains("encrypt"), "{sealed}");
    for wrong in [
        proto::StartConversation {
            session_id: "../x".into(),
            ..start("s", &folder)
        },
        proto::StartConversation {
            model: "--dangerous".into(),
            ..start("s", &folder)
        },
        proto::StartConversation {
            allowed_tools: vec!["-x".into()],
            ..start("s", &folder)
        },
        proto::StartConversation {
            metadata: (0..100).map(|at| (at.to_string(), String::new())).collect(),
            ..start("s", &folder)
        },
    ] {
        let refused = ends(vec![Asked::Start(wrong)]).await;
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.ask(message("")).await;
    assert_eq!(talk.error().await.code, "INVALID");
    talk.ask(message(&"x".repeat(70_000))).await;
    assert_eq!(talk.error().await.code, "TOO_LONG");
    let attachment = |bytes: usize| proto::Attachment {
        filename: "f".into(),
        mime_type: "image/png".into(),
        data: vec![0; bytes],
    };
    let heavy = proto::UserMessage {
        content: "see".into(),
        attachments: vec![attachment(60_000)],
        ..proto::UserMessage::default()
    };
    talk.ask(Asked::Message(heavy)).await;
    assert_eq!(talk.error().await.code, "TOO_LONG");
    talk.ask(message("say:fine")).await;
    talk.turn_over().await;
    // Beyond what a request may have at all, the stream ends.
    let huge = proto::UserMessage {
        attachments: vec![attachment(1 << 20)],
        ..proto::UserMessage::default()
    };
    talk.ask(Asked::Message(huge)).await;
    let ended = talk.ended().await;
    assert_eq!(ended.code(), Code::OutOfRange);
    assert!(ended.message().contains("max_payload_bytes"), "{ended}");
    let mut client = AgentServiceClient::new(channel.clone());
    let keys = client
        .exchange_keys(proto::KeyExchangeRequest::default())
        .await;
    assert_eq!(keys.unwrap_err().code(), Code::Unimplemented);
}
