//! Conversations with agents: real processes, real sockets, a fake agent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::AgentStatus;
use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::agent_request::Request as Asked;
use betcode_schema_grpc::v1::agent_service_client::AgentServiceClient;
use support::read_all;
use support::talk::{Talk, is_of_line, resume, said, serve, start};
use tonic::Code;

#[tokio::test]
async fn a_turn_is_recorded_told_and_resumed_from_every_line_as_it_was_told() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("say:hello raw say:again").await;
    assert_eq!(talk.turn_over().await, "success");
    talk.idle().await;
    assert_eq!(said(&talk.told), "helloagain");
    let inputs = talk.told.iter().filter(
        |e| matches!(&e.event, Some(Event::UserInput(i)) if i.content == "say:hello raw say:again"),
    );
    assert_eq!(inputs.count(), 1);
    assert!(talk.told.is_sorted_by_key(|event| event.sequence));
    let told = talk.recorded();
    for from in 0..=told.last().unwrap().sequence {
        let again = resume(&channel, "s", from).await;
        let again: Vec<_> = again.into_iter().filter(is_of_line).collect();
        let rest: Vec<_> = told.iter().filter(|e| e.sequence > from).cloned().collect();
        assert_eq!(again, rest, "from {from}");
    }
    // Every line, as it was printed: blank, torn, NUL, invalid UTF-8, a carriage return.
    let lines = read_all(&mut served.history().await, "s", 1).await.unwrap();
    let lines: Vec<_> = lines.into_iter().map(|(_, line)| line).collect();
    let raw: [&[u8]; 5] = [
        b"",
        b"prose",
        b"{\"type\":",
        b"\0\xff\r",
        b"{\"type\":\"rate_limit_event\"}{\"type\":\"x\"}",
    ];
    assert!(lines.windows(5).any(|window| window == raw), "{lines:?}");
    assert!(lines[0].starts_with(b"{\"message\":") || lines[0].starts_with(b"{\"type\":\"user\""));
}

#[tokio::test]
async fn two_clients_see_the_same_and_the_agent_is_kept_between_turns() {
    let (served, folder) = serve(&[]).await;
    let (one, two) = (served.channel().await, served.channel().await);
    let mut phone = Talk::open(&one, start("s", &folder)).await;
    let mut terminal = Talk::open(
        &two,
        proto::StartConversation {
            working_directory: String::new(),
            ..start("s", &folder)
        },
    )
    .await;
    for turn in ["say:one args", "say:two", "say:three"] {
        phone.say(turn).await;
        for talk in [&mut phone, &mut terminal] {
            talk.turn_over().await;
        }
    }
    assert_eq!(phone.recorded(), terminal.recorded());
    let starts = said(&phone.told).matches("stream-json").count();
    assert_eq!(starts, 2, "one process, which says both of its formats");
    let lines = read_all(&mut served.history().await, "s", 1).await.unwrap();
    let agents: std::collections::BTreeSet<_> = lines
        .iter()
        .filter_map(|(_, line)| {
            let value: serde_json::Value = serde_json::from_slice(line).ok()?;
            (value["subtype"] == "init").then(|| value["session_id"].to_string())
        })
        .collect();
    assert_eq!(agents.len(), 1);
}

#[tokio::test]
async fn a_session_goes_on_where_it_was_with_its_model_and_directory() {
    let (served, folder) = serve(&[("agent_idle_ms", "1")]).await;
    let channel = served.channel().await;
    let first = proto::StartConversation {
        model: "fake-9".into(),
        plan_mode: true,
        allowed_tools: vec!["Read".into(), "Bash(ls:*)".into()],
        worktree_id: "w".into(),
        metadata: [("name".to_owned(), "named".to_owned())].into(),
        ..start("s", &folder)
    };
    let mut talk = Talk::open(&channel, first).await;
    talk.say("args").await;
    talk.turn_over().await;
    let text = said(&talk.told);
    for part in [
        "--permission-mode",
        "plan",
        "fake-9",
        "Bash(ls:*)",
        folder.to_str().unwrap(),
    ] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("--resume"), "{text}");
    drop(talk);
    // Ended, for it had nothing to do.
    let limit = &served.daemon.core().admission.subprocesses;
    while limit.used() > 0 {
        tokio::task::yield_now().await;
    }
    let mut talk = Talk::open(
        &channel,
        proto::StartConversation {
            session_id: "s".into(),
            ..proto::StartConversation::default()
        },
    )
    .await;
    let Some(Event::SessionInfo(info)) = &talk.told[0].event else {
        panic!()
    };
    assert!(info.is_resumed && info.message_count > 0);
    assert_eq!(
        (info.model.as_str(), info.worktree_id.as_str()),
        ("fake-9", "w")
    );
    talk.say("args").await;
    talk.turn_over().await;
    let text = said(&talk.told);
    assert!(
        text.contains("--resume") && text.contains("agent-"),
        "{text}"
    );
    assert!(text.contains("fake-9"), "{text}");
    let mut client = AgentServiceClient::new(channel.clone());
    let list = client
        .list_sessions(proto::ListSessionsRequest::default())
        .await;
    let list = list.unwrap().into_inner();
    assert_eq!(list.sessions[0].name, "named");
}

#[tokio::test]
async fn who_comes_in_the_middle_may_begin_where_it_left_off() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let gate = folder.join("gate");
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say(&format!("say:before stop:{} say:after", gate.display()))
        .await;
    talk.hears("before").await;
    let from = talk.told.last().unwrap().sequence - 2;
    let mut late = Talk::open(
        &channel,
        proto::StartConversation {
            metadata: [("from_sequence".to_owned(), from.to_string())].into(),
            ..start("s", &folder)
        },
    )
    .await;
    std::fs::write(&gate, "").unwrap();
    talk.turn_over().await;
    late.turn_over().await;
    let rest: Vec<_> = talk
        .recorded()
        .into_iter()
        .filter(|e| e.sequence > from)
        .collect();
    assert_eq!(late.recorded(), rest);
}

#[tokio::test]
async fn a_cancelled_turn_ends_and_another_one_follows() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    let mut client = AgentServiceClient::new(channel.clone());
    let cancel = || proto::CancelTurnRequest {
        session_id: "s".into(),
    };
    let status = async |client: &mut AgentServiceClient<_>| {
        let list = client
            .list_sessions(proto::ListSessionsRequest::default())
            .await;
        list.unwrap().into_inner().sessions[0].status.clone()
    };
    assert!(
        !client
            .cancel_turn(cancel())
            .await
            .unwrap()
            .into_inner()
            .was_active
    );
    talk.say("hang").await;
    talk.hears("hanging").await;
    assert_eq!(status(&mut client).await, "active");
    assert!(
        client
            .cancel_turn(cancel())
            .await
            .unwrap()
            .into_inner()
            .was_active
    );
    assert_eq!(talk.turn_over().await, "error_during_execution");
    talk.idle().await;
    assert_eq!(status(&mut client).await, "idle");
    talk.say("hang").await;
    talk.hears("hanginghanging").await;
    talk.ask(Asked::Cancel(proto::CancelRequest::default()))
        .await;
    assert_eq!(talk.turn_over().await, "error_during_execution");
    talk.say("say:on").await;
    assert_eq!(talk.turn_over().await, "success");
}

#[tokio::test]
async fn a_crash_in_the_middle_is_told_and_the_session_stays_usable() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("say:x err:why err:oh exit:3").await;
    let error = talk.error().await;
    assert_eq!(error.code, "AGENT_EXITED");
    assert!(error.details["exit"].contains('3'), "{error:?}");
    assert_eq!(error.details["stderr"], "why\noh");
    talk.idle().await;
    // Torn, and history all the same.
    let lines = read_all(&mut served.history().await, "s", 1).await.unwrap();
    assert_eq!(lines.last().unwrap().1, "{\"type\":\"assist");
    talk.say("args").await;
    talk.turn_over().await;
    assert!(said(&talk.told).contains("--resume"));
    // One that ends a turn by ending is no other thing.
    talk.say("silent").await;
    assert_eq!(talk.error().await.code, "AGENT_EXITED");
}

#[tokio::test]
async fn what_the_agent_left_behind_ends_with_it() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("child exit:0").await;
    talk.error().await;
    let text = said(&talk.told);
    let child: i32 = text.trim_start_matches("child ").parse().unwrap();
    let path = format!("/proc/{child}/stat");
    // Dead, and perhaps not yet waited for by whoever inherited it.
    let gone = || std::fs::read_to_string(&path).map_or(true, |stat| stat.contains(") Z "));
    while !gone() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_line_that_is_too_long_is_recorded_in_pieces_and_said_so() {
    let (served, folder) = serve(&[("max_payload_bytes", "4096")]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("big:8192 say:after").await;
    let (mut error, mut is_over) = (None, false);
    while error.is_none() || !is_over {
        match talk.next().await.unwrap().event {
            Some(Event::Error(told)) => error = Some(told),
            Some(Event::TurnComplete(_)) => is_over = true,
            _ => {}
        }
    }
    let error = error.unwrap();
    assert_eq!(error.code, "LINE_IN_PIECES");
    let first: usize = error.details["sequence"].parse().unwrap();
    let lines = read_all(&mut served.history().await, "s", 1).await.unwrap();
    let lengths: Vec<_> = lines[first - 1..first + 2]
        .iter()
        .map(|l| l.1.len())
        .collect();
    assert_eq!(lengths, [4096, 4096, 0]);
}

#[tokio::test]
async fn a_start_that_is_refused_for_where_it_begins_leaves_no_session() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::silent(&channel).await;
    talk.ask(Asked::Start(proto::StartConversation {
        metadata: [("from_sequence".to_owned(), "1".to_owned())].into(),
        ..start("new", &folder)
    }))
    .await;
    assert_eq!(talk.ended().await.code(), Code::OutOfRange);
    let mut client = AgentServiceClient::new(channel.clone());
    let list = client
        .list_sessions(proto::ListSessionsRequest::default())
        .await;
    assert_eq!(list.unwrap().into_inner().total, 0);
}

#[tokio::test]
async fn what_is_missing_is_told_and_costs_nothing_else() {
    let (served, folder) = serve(&[("agent_command", "/nowhere/claude")]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("say:x").await;
    let error = talk.error().await;
    assert_eq!(error.code, "AGENT_MISSING");
    assert!(error.message.contains("agent_command") && !error.is_fatal);
    talk.idle().await;
    for wrong in ["", "relative", "/no/such/place", "/etc/passwd"] {
        let mut talk = Talk::silent(&channel).await;
        talk.ask(Asked::Start(proto::StartConversation {
            working_directory: wrong.into(),
            ..start("new", &folder)
        }))
        .await;
        let refused = talk.ended().await;
        assert_eq!(
            refused.code(),
            Code::FailedPrecondition,
            "{wrong}: {refused}"
        );
    }
    let mut client = AgentServiceClient::new(channel.clone());
    let list = client
        .list_sessions(proto::ListSessionsRequest::default())
        .await;
    assert_eq!(list.unwrap().into_inner().total, 1, "no session was made");
    let mut health = proto::bet_code_health_client::BetCodeHealthClient::new(channel.clone());
    let told = health
        .get_health_details(proto::HealthDetailsRequest {})
        .await;
    let told = told.unwrap().into_inner();
    assert!(told.degraded && told.degraded_reason.contains("/nowhere/claude"));
    assert_eq!(told.overall_status(), proto::ServingStatus::Serving);
}

#[tokio::test]
async fn a_directory_that_went_away_is_told_when_the_agent_is_to_start() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let place = folder.join("place");
    std::fs::create_dir(&place).unwrap();
    let mut talk = Talk::open(&channel, start("s", &place)).await;
    std::fs::remove_dir(&place).unwrap();
    talk.say("say:x").await;
    assert_eq!(talk.error().await.code, "WORKING_DIRECTORY");
    std::fs::create_dir(&place).unwrap();
    talk.say("say:x").await;
    talk.turn_over().await;
}

#[tokio::test]
async fn agents_are_bounded_and_the_limit_is_named() {
    let (served, folder) = serve(&[("max_subprocesses", "1"), ("agent_idle_ms", "1")]).await;
    let channel = served.channel().await;
    let mut second = Talk::open(&channel, start("b", &folder)).await;
    let mut first = Talk::open(&channel, start("a", &folder)).await;
    first.say("hang").await;
    first.hears("hanging").await;
    second.say("say:x").await;
    let refused = second.error().await;
    assert_eq!(refused.code, "RESOURCE_EXHAUSTED");
    assert_eq!(refused.details["limit"], "subprocesses");
    // A session that is new is not even made.
    let mut third = Talk::silent(&channel).await;
    third.ask(Asked::Start(start("c", &folder))).await;
    let refused = third.ended().await;
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("subprocesses"), "{refused}");
    first
        .ask(Asked::Cancel(proto::CancelRequest::default()))
        .await;
    first.turn_over().await;
    let limit = &served.daemon.core().admission.subprocesses;
    while limit.used() > 0 {
        tokio::task::yield_now().await;
    }
    second.say("say:x").await;
    second.turn_over().await;
}

#[tokio::test]
async fn agents_at_rest_make_room_for_those_that_are_needed() {
    let (served, folder) = serve(&[("max_subprocesses", "2")]).await;
    let channel = served.channel().await;
    let mut talks = Vec::new();
    // A new session each: there is no place for the last two unless one is made.
    for name in ["a", "b", "c", "d"] {
        let mut talk = Talk::open(&channel, start(name, &folder)).await;
        talk.say(&format!("say:{name}")).await;
        talk.turn_over().await;
        talk.idle().await;
        talks.push(talk);
    }
    let limit = &served.daemon.core().admission.subprocesses;
    assert_eq!((limit.used(), limit.refused()), (2, 0));
    // Those that were ended go on when they are wanted, and the one at work stays.
    talks[3].say("hang").await;
    talks[3].hears("hanging").await;
    for at in [0, 1, 2] {
        talks[at].say("say:again").await;
        talks[at].turn_over().await;
        talks[at].idle().await;
    }
    assert!(
        !talks[3]
            .told
            .iter()
            .any(|e| matches!(e.event, Some(Event::Error(_))))
    );
    talks[3]
        .ask(Asked::Cancel(proto::CancelRequest::default()))
        .await;
    talks[3].turn_over().await;
}

#[tokio::test]
async fn a_message_that_waits_for_room_takes_what_another_agent_at_rest_makes_later() {
    let (served, folder) = serve(&[("max_subprocesses", "2")]).await;
    let channel = served.channel().await;
    // It is asked to end, and does not.
    let mut first = Talk::open(&channel, start("a", &folder)).await;
    first.say("stay").await;
    first.turn_over().await;
    first.idle().await;
    let said_of_it = said(&first.told);
    let process = std::path::Path::new("/proc").join(said_of_it.strip_prefix("stays ").unwrap());
    let gate = folder.join("gate");
    let mut second = Talk::open(&channel, start("b", &folder)).await;
    second
        .say(&format!("say:begun stop:{}", gate.display()))
        .await;
    second.hears("begun").await;
    let mut third = Talk::open(&channel, start("c", &folder)).await;
    third.say("say:c").await;
    let why = third.status(AgentStatus::Thinking).await;
    assert!(why.contains("made room"), "{why}");
    // One that is at rest by now makes room as well.
    std::fs::write(&gate, "").unwrap();
    second.turn_over().await;
    assert_eq!(third.turn_over().await, "success");
    assert!(process.exists());
}

#[tokio::test]
async fn a_deleted_session_takes_its_agent_along_and_does_not_come_back() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say("deaf hang").await;
    talk.hears("hanging").await;
    let mut client = AgentServiceClient::new(channel.clone());
    let delete = proto::DeleteSessionRequest {
        session_id: "s".into(),
    };
    assert!(
        client
            .delete_session(delete)
            .await
            .unwrap()
            .into_inner()
            .deleted
    );
    assert_eq!(served.daemon.core().admission.subprocesses.used(), 0);
    assert_eq!(talk.ended().await.code(), Code::NotFound);
    let list = client
        .list_sessions(proto::ListSessionsRequest::default())
        .await;
    assert_eq!(list.unwrap().into_inner().total, 0);
}

#[tokio::test]
async fn a_message_during_a_turn_waits_for_its_end() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let gate = folder.join("gate");
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    talk.say(&format!("say:one stop:{}", gate.display())).await;
    talk.hears("one").await;
    talk.say("say:two").await;
    assert!(
        talk.status(AgentStatus::Thinking)
            .await
            .contains("1 message")
    );
    std::fs::write(&gate, "").unwrap();
    talk.turn_over().await;
    talk.turn_over().await;
    assert_eq!(said(&talk.told), "onetwo");
}

#[tokio::test]
async fn pictures_and_texts_reach_the_agent_as_blocks() {
    let (served, folder) = serve(&[]).await;
    let channel = served.channel().await;
    let mut talk = Talk::open(&channel, start("s", &folder)).await;
    let attachment = |mime_type: &str, data: &'static [u8]| proto::Attachment {
        filename: "f".into(),
        mime_type: mime_type.into(),
        data: data.to_vec(),
    };
    let message = |attachments| {
        Asked::Message(proto::UserMessage {
            content: "say:seen".into(),
            attachments,
            agent_id: String::new(),
        })
    };
    talk.ask(message(vec![attachment("video/mp4", b"")])).await;
    assert_eq!(talk.error().await.code, "ATTACHMENT");
    assert_eq!(talk.turn_over().await, "error");
    talk.ask(message(vec![attachment("image/png", b"\x89PNG")]))
        .await;
    talk.turn_over().await;
    assert_eq!(said(&talk.told), "[\"image\", \"text\"]seen");
}
