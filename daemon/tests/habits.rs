//! What clients do that the protocol allows, and what they then wait for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use std::path::Path;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::agent_request::Request as Asked;
use betcode_schema_grpc::v1::agent_service_client::AgentServiceClient;
use betcode_schema_grpc::v1::version_service_client::VersionServiceClient;
use betcode_schema_grpc::v1::{AgentRequest, AgentStatus, PermissionDecision};
use support::talk::{Talk, printing, resume, said, serve, start};
use tonic::transport::Channel;

#[tokio::test]
async fn a_client_may_leave_the_name_of_a_new_session_to_the_daemon() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut names = Vec::new();
    for _ in 0..2 {
        let mut talk = Talk::open(&channel, start("", &folder)).await;
        let Some(Event::SessionInfo(info)) = talk.told[0].event.clone() else {
            panic!("{:?}", talk.told)
        };
        assert!(!info.is_resumed && info.session_id.len() > 20, "{info:?}");
        talk.say("say:x").await;
        talk.turn_over().await;
        let replayed = resume(&channel, &info.session_id, 0).await;
        assert_eq!(said(&replayed), "x");
        names.push(info.session_id);
    }
    assert_ne!(names[0], names[1]);
}

#[tokio::test]
async fn a_session_works_where_it_began_whatever_directory_a_client_is_in() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    drop(Talk::open(&channel, start("s", &folder)).await);
    let mut talk = Talk::open(&channel, start("s", Path::new("/no/such/place"))).await;
    let Some(Event::SessionInfo(info)) = talk.told[0].event.clone() else {
        panic!("{:?}", talk.told)
    };
    let works_in = folder.to_str().unwrap();
    assert_eq!(info.working_directory, works_in);
    let why = talk.status(AgentStatus::Idle).await;
    assert!(
        why.contains(works_in) && why.contains("/no/such/place"),
        "{why}"
    );
    talk.say("args").await;
    talk.turn_over().await;
    assert!(said(&talk.told).contains(works_in));
    // Who names the same one, or none, is told nothing of it.
    for named in [folder.as_path(), Path::new("")] {
        let mut talk = Talk::open(&channel, start("s", named)).await;
        assert_eq!(talk.status(AgentStatus::Idle).await, "");
    }
}

/// What is told from now on until the agent is idle: errors, ends of turns.
async fn ends(talk: &mut Talk) -> Vec<String> {
    let from = talk.told.len();
    talk.idle().await;
    let told = talk.told[from..].iter();
    let end = told.filter_map(|event| match event.event.as_ref().unwrap() {
        Event::Error(error) => Some(error.code.clone()),
        Event::TurnComplete(turn) => Some(turn.stop_reason.clone()),
        _ => None,
    });
    end.collect()
}

#[tokio::test]
async fn a_turn_of_which_the_agent_says_no_end_has_one_all_the_same() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.idle().await;
    for prompt in ["say:x exit:3", "silent"] {
        talk.say(prompt).await;
        assert_eq!(ends(&mut talk).await, ["AGENT_EXITED", "error"], "{prompt}");
    }
    talk.say("say:x").await;
    assert_eq!(ends(&mut talk).await, ["success"]);
    let (served, folder) = serve(&[("agent_command", "/nowhere/claude")]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    talk.idle().await;
    talk.say("say:x").await;
    assert_eq!(ends(&mut talk).await, ["AGENT_MISSING", "error"]);
}

/// The ids of the next requests, so many.
async fn requests(talk: &mut Talk, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    while ids.len() < count {
        ids.push(talk.permission().await.request_id);
    }
    ids
}

#[tokio::test]
async fn who_answers_a_later_request_first_is_shown_the_earlier_ones_again() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    // It shows one request at a time: the newest.
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("asks:a,b,c").await;
    assert_eq!(requests(&mut talk, 3).await, ["a", "b", "c"]);
    let yes = PermissionDecision::AllowOnce;
    talk.decide("c", yes).await;
    assert_eq!(requests(&mut talk, 2).await, ["a", "b"]);
    talk.decide("b", yes).await;
    assert_eq!(requests(&mut talk, 1).await, ["a"]);
    talk.decide("a", yes).await;
    talk.turn_over().await;
    // Who answers in order is shown each once.
    let mut talk = Talk::open(&channel, start("t", &folder)).await;
    talk.say("asks:a,b,c").await;
    for id in ["a", "b", "c"] {
        assert_eq!(talk.permission().await.request_id, id);
        talk.decide(id, yes).await;
    }
    talk.turn_over().await;
    let shown = talk.told.iter().filter(|event| {
        matches!(
            event.event,
            Some(Event::PermissionRequest(_) | Event::Error(_))
        )
    });
    assert_eq!(shown.count(), 3);
}

/// The next question.
async fn question(talk: &mut Talk) -> proto::UserQuestion {
    talk.until(|event| match event {
        Event::UserQuestion(question) => Some(question.clone()),
        _ => None,
    })
    .await
}

fn answer(question: &str) -> Asked {
    Asked::QuestionResponse(proto::UserQuestionResponse {
        question_id: "q-1".into(),
        answers: [(question.to_owned(), "A".to_owned())].into(),
    })
}

#[tokio::test]
async fn who_answers_the_last_question_first_is_asked_the_others_again() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("question").await;
    assert_eq!(question(&mut talk).await.question, "Which?");
    assert_eq!(question(&mut talk).await.question, "When?");
    talk.ask(answer("When?")).await;
    assert_eq!(question(&mut talk).await.question, "Which?");
    // Who comes now is asked what has no answer yet.
    let mut late = Talk::open(&channel, start("s", &folder)).await;
    assert_eq!(question(&mut late).await.question, "Which?");
    talk.ask(answer("Which?")).await;
    talk.turn_over().await;
    late.turn_over().await;
    let asked = late.told.iter();
    let asked = asked.filter(|event| matches!(event.event, Some(Event::UserQuestion(_))));
    assert_eq!(asked.count(), 1);
}

#[tokio::test]
async fn a_request_whose_answer_is_refused_is_shown_again() {
    let (served, folder) = serve(&[]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    talk.say("ask:Bash:a").await;
    talk.permission().await;
    // An edit without what was edited.
    talk.decide("a", PermissionDecision::AllowWithEdit).await;
    assert_eq!(talk.error().await.code, "INVALID");
    assert_eq!(talk.permission().await.request_id, "a");
    talk.decide("a", PermissionDecision::AllowOnce).await;
    talk.turn_over().await;
}

#[tokio::test]
async fn a_request_of_an_unknown_kind_is_refused_and_the_stream_goes_on() {
    let (served, folder) = serve(&[]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    let unknown = AgentRequest { request: None };
    talk.requests.send(unknown).await.unwrap();
    assert_eq!(talk.error().await.code, "INVALID");
    talk.say("say:x").await;
    assert_eq!(talk.turn_over().await, "success");
}

#[tokio::test]
async fn what_a_tool_is_used_on_describes_its_call_unless_the_agent_does() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    let long = "é".repeat(500);
    let inputs = [
        (r#"{"file_path":"/a/b.rs"}"#.to_owned(), "/a/b.rs"),
        (
            r#"{"command":"ls","description":"List"}"#.to_owned(),
            "List",
        ),
        (
            r#"{"description":"","pattern":"x+","path":"/a"}"#.to_owned(),
            "x+",
        ),
        (r#"{"n":1,"other":"x"}"#.to_owned(), ""),
        (format!(r#"{{"command":"{long}"}}"#), "éé"),
    ];
    for (at, (input, wanted)) in inputs.iter().enumerate() {
        let call = format!(
            r#"{{"type":"assistant","message":{{"id":"m{at}","content":[{{"type":"tool_use","id":"t","name":"T","input":{input}}}]}}}}"#
        );
        talk.say(&printing(&call)).await;
        let description = talk.until(|event| match event {
            Event::ToolCallStart(start) => Some(start.description.clone()),
            _ => None,
        });
        let description = description.await;
        assert!(description.starts_with(wanted), "{description}");
        assert!(description.len() < 200 && description.is_empty() == wanted.is_empty());
        talk.turn_over().await;
    }
    let ask = r#"{"type":"control_request","request_id":"a","request":{"subtype":"can_use_tool","tool_name":"Edit","input":{"file_path":"/f"}}}"#;
    let question = r#"{"type":"control_request","request_id":"q","request":{"subtype":"can_use_tool","tool_name":"AskUserQuestion","input":{"questions":[{"question":"Which?","multi_select":true}]}}}"#;
    talk.say(&printing(ask)).await;
    assert_eq!(talk.permission().await.description, "/f");
    talk.turn_over().await;
    talk.say(&printing(question)).await;
    let asked = self::question(&mut talk).await;
    assert!(asked.multi_select, "{asked:?}");
}

/// Has the agent print the result of a tool call, with what it keeps of it itself.
fn tool_result(structured: &str) -> String {
    printing(&format!(
        r#"{{"type":"user","message":{{"content":[{{"type":"tool_result","tool_use_id":"t","content":"x"}}]}},"uuid":"u","parent_tool_use_id":null,"tool_use_result":{structured}}}"#
    ))
}

#[tokio::test]
async fn an_agent_that_enters_plan_mode_by_itself_is_said_to_plan() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    let plan_mode = |event: &Event| match event {
        Event::PlanMode(change) => Some(change.active),
        _ => None,
    };
    talk.say(&tool_result(r#"{"message":"Entered plan mode. Explore."}"#))
        .await;
    assert!(talk.until(plan_mode).await);
    talk.idle().await;
    let mut late = Talk::open(&channel, start("s", &folder)).await;
    assert!(late.until(plan_mode).await);
    // The same agent goes on: nobody asked for another one.
    talk.say(&tool_result(
        r#"{"plan":"do","isAgent":false,"filePath":"/p"}"#,
    ))
    .await;
    assert!(!talk.until(plan_mode).await);
    talk.idle().await;
    let mut later = Talk::open(&channel, start("s", &folder)).await;
    later.say("say:x").await;
    later.turn_over().await;
    let plans = later
        .told
        .iter()
        .filter_map(|event| plan_mode(event.event.as_ref()?));
    assert_eq!(plans.count(), 0);
    let changes = |events: &[proto::AgentEvent]| -> Vec<bool> {
        events
            .iter()
            .filter_map(|event| plan_mode(event.event.as_ref()?))
            .collect()
    };
    assert_eq!(changes(&talk.told), [true, false]);
    assert_eq!(changes(&resume(&channel, "s", 0).await), [true, false]);
}

#[tokio::test]
async fn the_tools_of_the_agent_that_began_last_are_among_the_capabilities() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut client = VersionServiceClient::new(channel.clone());
    let tools = async |client: &mut VersionServiceClient<_>| {
        let asked = proto::NegotiateRequest::default();
        let answer = client.negotiate_capabilities(asked).await.unwrap();
        answer.into_inner().capabilities.unwrap().available_tools
    };
    assert!(tools(&mut client).await.is_empty());
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("say:x").await;
    talk.turn_over().await;
    talk.idle().await;
    assert_eq!(tools(&mut client).await, ["Bash"]);
}

#[tokio::test]
async fn what_an_agent_has_to_do_is_told_as_a_whole_wherever_a_stream_begins() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    let created = |id: u8| {
        tool_result(&format!(
            r#"{{"task":{{"id":"{id}","subject":"do {id}"}}}}"#
        ))
    };
    let moved = |id: u8, to: &str| {
        let change = format!(r#"{{"from":"pending","to":"{to}"}}"#);
        tool_result(&format!(
            r#"{{"success":true,"taskId":"{id}","updatedFields":["status"],"statusChange":{change}}}"#
        ))
    };
    let todo = |event: &Event| match event {
        Event::TodoUpdate(update) => Some(update.items.clone()),
        _ => None,
    };
    let said_of = |items: &[proto::TodoItem]| -> Vec<String> {
        let one =
            |item: &proto::TodoItem| format!("{} {}: {:?}", item.id, item.subject, item.status());
        items.iter().map(one).collect()
    };
    talk.say(&[created(1), created(2), moved(1, "in_progress")].join(" "))
        .await;
    talk.turn_over().await;
    talk.idle().await;
    // One that begins here has none of these lines.
    let mut late = Talk::open(&channel, start("s", &folder)).await;
    talk.say(
        &[
            moved(1, "completed"),
            moved(2, "deleted"),
            moved(7, "completed"),
        ]
        .join(" "),
    )
    .await;
    late.turn_over().await;
    talk.turn_over().await;
    let lists = |events: &[proto::AgentEvent]| -> Vec<Vec<String>> {
        let lists = events
            .iter()
            .filter_map(|event| todo(event.event.as_ref()?));
        lists.map(|items| said_of(&items)).collect()
    };
    let one = |status| format!("1 do 1: {status}");
    let two = "2 do 2: Pending".to_owned();
    let all = [
        vec![one("Pending")],
        vec![one("Pending"), two.clone()],
        vec![one("InProgress"), two.clone()],
        vec![one("Completed"), two],
        vec![one("Completed")],
    ];
    assert_eq!(lists(&talk.told), all);
    assert_eq!(lists(&late.told), all[3..]);
    let replayed = resume(&channel, "s", 0).await;
    assert_eq!(lists(&replayed), all);
    for from in 0..replayed.last().unwrap().sequence {
        let rest: Vec<_> = replayed
            .iter()
            .filter(|event| event.sequence > from)
            .cloned()
            .collect();
        assert_eq!(resume(&channel, "s", from).await, rest, "{from}");
    }
}

#[tokio::test]
async fn a_message_that_is_refused_while_nothing_runs_ends_as_a_turn_does() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    let mut other = Talk::open(&served.channel().await, start("s", &folder)).await;
    talk.idle().await;
    let archive = proto::Attachment {
        filename: "a.zip".into(),
        mime_type: "application/zip".into(),
        data: vec![0],
    };
    for (attachments, code) in [(Vec::new(), "INVALID"), (vec![archive], "ATTACHMENT")] {
        let refused = proto::UserMessage {
            attachments,
            ..proto::UserMessage::default()
        };
        talk.ask(Asked::Message(refused)).await;
        assert_eq!(ends(&mut talk).await, [code, "error"]);
    }
    lock(&channel).await;
    other.idle().await;
    other.say("say:x").await;
    assert_eq!(ends(&mut other).await, ["INPUT_LOCKED", "error"]);
    // While a turn runs there is an end to wait for.
    let gate = folder.join("gate");
    talk.say(&format!("say:before stop:{}", gate.display()))
        .await;
    other.hears("before").await;
    other.say("say:x").await;
    other.error().await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(ends(&mut talk).await, ["success"]);
    assert_eq!(ends(&mut other).await, ["success"]);
}

/// Takes the input lock of the session `s`.
async fn lock(channel: &Channel) {
    let request = proto::InputLockRequest {
        session_id: "s".into(),
    };
    let mut client = AgentServiceClient::new(channel.clone());
    let answer = client.request_input_lock(request).await.unwrap();
    assert!(answer.into_inner().granted);
}

/// Says that nothing more will be said: the client's side of the stream ends.
fn half_close(talk: &mut Talk) {
    talk.requests = tokio::sync::mpsc::channel(1).0;
}

#[tokio::test]
async fn a_stream_ends_with_its_turns_once_its_client_has_said_all() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    // It only watches.
    let mut watches = Talk::open(&channel, start("s", &folder)).await;
    half_close(&mut watches);
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("say:one").await;
    talk.say("say:two").await;
    half_close(&mut talk);
    let ended = talk.ended().await;
    assert_eq!(ended.message(), "the stream has ended");
    let turns = talk.told.iter();
    let turns = turns.filter(|event| matches!(event.event, Some(Event::TurnComplete(_))));
    assert_eq!((said(&talk.told).as_str(), turns.count()), ("onetwo", 2));
    let last = talk.told.last().unwrap().event.clone();
    assert!(
        matches!(last, Some(Event::StatusChange(change)) if change.status() == AgentStatus::Idle)
    );
    // So does one whose message is refused.
    let mut refused = Talk::open(&channel, start("s", &folder)).await;
    refused.say("").await;
    half_close(&mut refused);
    assert_eq!(refused.ended().await.message(), "the stream has ended");
    for _ in 0..2 {
        watches.turn_over().await;
    }
    let later = Talk::open(&channel, start("s", &folder)).await;
    later.say("say:three").await;
    watches.turn_over().await;
    assert_eq!(said(&watches.told), "onetwothree");
}

#[tokio::test]
async fn a_request_is_not_kept_open_by_clients_that_cannot_answer_it() {
    let (served, folder) = serve(&[("agent_request_wait_ms", "200")]).await;
    let channel = served.channel().await;
    let mut watches = Talk::open(&channel, start("s", &folder)).await;
    half_close(&mut watches);
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("ask:Bash:a").await;
    half_close(&mut talk);
    assert_eq!(talk.turn_over().await, "success");
    assert!(said(&talk.told).contains("nobody was there to answer"));
    watches.turn_over().await;
}

#[tokio::test]
async fn who_resumes_and_then_converses_misses_no_line_between_the_two() {
    let (served, folder) = serve(&[]).await;
    let mut talk = Talk::open(&served.channel().await, start("s", &folder)).await;
    let gates: Vec<_> = (0..3).map(|at| folder.join(format!("gate-{at}"))).collect();
    let stops = gates.iter().zip(["b", "c", "d"]);
    let stops = stops.map(|(gate, text)| format!("stop:{} say:{text}", gate.display()));
    talk.say(&format!("say:a {}", stops.collect::<Vec<_>>().join(" ")))
        .await;
    talk.hears("a").await;
    // Comes in the middle of a turn: what there was, then what comes.
    let channel = served.channel().await;
    let mut had = resume(&channel, "s", 0).await;
    std::fs::write(&gates[0], "").unwrap();
    talk.hears("b").await;
    let mut late = Talk::open(&channel, start("s", &folder)).await;
    late.hears("b").await;
    // One that was told where to begin begins there, and one that comes again at the end.
    std::fs::write(&gates[1], "").unwrap();
    talk.hears("c").await;
    late.hears("c").await;
    let mut again = Talk::open(&channel, start("s", &folder)).await;
    std::fs::write(&gates[2], "").unwrap();
    for talk in [&mut talk, &mut late, &mut again] {
        talk.turn_over().await;
    }
    assert_eq!(said(&again.told), "d");
    had.extend(late.recorded());
    had.retain(support::talk::is_of_line);
    assert_eq!(had, talk.recorded());
}
