use betcode_schema_grpc::v1::{ErrorEvent, PermissionDecision};

use super::*;
use crate::agents::command::Options;
use crate::agents::signals::{AgentSignal, Ask};
use crate::limits::{
    AGENT_PLACE_MS_MAX, AGENT_PLACE_POLL_MS, EARLY_ANSWER_MS_MAX, INTERRUPT_MS_MAX,
    WAITING_MESSAGES_MAX,
};

const TIMEOUTS: Timeouts = Timeouts {
    idle_ms: 1_000,
    unattended_ms: 500,
};

mod ends;
mod giving_way;

/// Options other than the default ones.
fn plans() -> Arc<Options> {
    Arc::new(Options {
        plan_mode: true,
        ..Options::default()
    })
}

/// A conversation with a stream of `ann` (key 1), who plans, and one of `bob` (key 2).
fn attended() -> Conversation {
    let mut talk = Conversation::new(TIMEOUTS, 10_000, String::new(), 0, 0);
    talk.attached(1, "ann".into(), 0, plans());
    talk.attached(2, "bob".into(), 0, Arc::default());
    talk.take_effects();
    talk
}

fn prompt_of(talk: &mut Conversation, key: StreamKey, text: &str) {
    talk.message(0, key, text.into());
}

/// One whose agent has a prompt.
fn in_turn() -> Conversation {
    let mut talk = attended();
    prompt_of(&mut talk, 1, "go");
    talk.started();
    talk.written(0, InputKind::Prompt, Ok(1));
    talk.take_effects();
    talk
}

fn ask(id: &str) -> AgentSignal {
    AgentSignal::Asks(Ask {
        request_id: id.to_owned(),
        tool_name: "Bash".to_owned(),
        input: "{}".to_owned(),
        object: format!(
            r#"{{"request_id":"{id}","request":{{"subtype":"can_use_tool","tool_name":"Bash"}}}}"#
        ),
    })
}

fn began(session_id: &str, model: &str) -> AgentSignal {
    AgentSignal::Began {
        session_id: session_id.to_owned(),
        model: model.to_owned(),
        plan_mode: None,
        version: String::new(),
        tools: Vec::new(),
    }
}

fn allow(id: &str) -> Reply {
    decide(id, PermissionDecision::AllowOnce)
}

fn decide(id: &str, decision: PermissionDecision) -> Reply {
    Reply::Decision {
        request_id: id.to_owned(),
        decision,
        updated_input: None,
        message: String::new(),
    }
}

/// What is done, without what is sent.
fn done(talk: &mut Conversation) -> Vec<Effect> {
    let effects = talk.take_effects().into_iter();
    effects.filter(|e| !matches!(e, Effect::Tell(..))).collect()
}

fn errors(talk: &mut Conversation) -> Vec<(Recipients, ErrorEvent)> {
    let effects = talk.take_effects().into_iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Tell(to, _, Event::Error(error)) => Some((to, error)),
            _ => None,
        })
        .collect()
}

fn writes(effects: &[Effect]) -> usize {
    effects
        .iter()
        .filter(|e| matches!(e, Effect::Write(..)))
        .count()
}

#[test]
fn the_first_message_starts_the_agent_and_the_next_one_does_not() {
    let mut talk = attended();
    prompt_of(&mut talk, 1, "go");
    assert_eq!(done(&mut talk), [Effect::Start(plans())]);
    talk.started();
    let [Effect::Write(line, InputKind::Prompt)] = &done(&mut talk)[..] else {
        panic!()
    };
    assert!(line.starts_with(b"{\"message\"") || line.starts_with(b"{\"type\""));
    talk.written(0, InputKind::Prompt, Ok(1));
    talk.seen(0, 2, began("a-1", ""));
    assert_eq!(talk.activity(), Activity::Active);
    talk.seen(0, 3, AgentSignal::TurnOver);
    assert_eq!(talk.activity(), Activity::Idle);
    talk.take_effects();
    prompt_of(&mut talk, 1, "again");
    let [Effect::Write(line, _)] = &done(&mut talk)[..] else {
        panic!()
    };
    assert!(String::from_utf8_lossy(line).contains(r#""session_id":"a-1""#));
    // The first one of each process names none.
    talk.written(0, InputKind::Prompt, Ok(4));
    talk.seen(0, 5, AgentSignal::TurnOver);
    talk.exited(&Exit::default());
    prompt_of(&mut talk, 1, "once more");
    talk.started();
    let effects = done(&mut talk);
    let Some(Effect::Write(line, _)) = effects.last() else {
        panic!("{effects:?}")
    };
    assert!(String::from_utf8_lossy(line).contains(r#""session_id":"""#));
}

#[test]
fn messages_wait_for_the_turn_and_are_bounded() {
    let mut talk = in_turn();
    for at in 0..=WAITING_MESSAGES_MAX {
        prompt_of(&mut talk, 1, &at.to_string());
    }
    let refused = errors(&mut talk);
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].1.details["limit"], "waiting_messages");
    talk.seen(0, 2, AgentSignal::TurnOver);
    assert_eq!(writes(&done(&mut talk)), 1);
    assert_eq!(talk.activity(), Activity::Active);
    // A result that came too late for the turn before is not this turn's.
    talk.seen(0, 3, AgentSignal::TurnOver);
    assert_eq!(talk.activity(), Activity::Active);
}

#[test]
fn a_cancelled_turn_is_interrupted_once_the_agent_has_it_and_killed_when_it_goes_on() {
    let mut talk = attended();
    assert!(!talk.cancel(0));
    prompt_of(&mut talk, 1, "go");
    talk.started();
    prompt_of(&mut talk, 1, "more");
    assert!(talk.cancel(5));
    assert_eq!(writes(&done(&mut talk)), 1);
    talk.written(10, InputKind::Prompt, Ok(1));
    assert_eq!(done(&mut talk), [Effect::Interrupt]);
    assert_eq!(talk.next_ms(), Some(10 + INTERRUPT_MS_MAX));
    talk.tick(10 + INTERRUPT_MS_MAX);
    assert_eq!(done(&mut talk), [Effect::Kill]);
    talk.exited(&Exit::default());
    let sent = errors(&mut talk);
    assert_eq!(sent[0].1.code, "AGENT_EXITED");
    assert!(!sent[0].1.is_fatal);
    // What waited is forgotten, and the session goes on.
    assert_eq!(talk.activity(), Activity::Idle);
    prompt_of(&mut talk, 1, "again");
    assert_eq!(done(&mut talk), [Effect::Start(plans())]);
}

#[test]
fn an_agent_starts_as_the_stream_asked_whose_message_starts_it_though_it_has_left() {
    let mut talk = in_turn();
    prompt_of(&mut talk, 1, "plan");
    prompt_of(&mut talk, 2, "do");
    talk.detached(0, 1);
    talk.detached(0, 2);
    talk.attached(3, "eve".into(), 1, Arc::default());
    // It closes its input: another one gets what waits.
    talk.input_closed(0, InputKind::Answer);
    talk.seen(0, 2, AgentSignal::TurnOver);
    talk.take_effects();
    talk.exited(&Exit::default());
    assert_eq!(done(&mut talk), [Effect::Start(plans())]);
    talk.started();
    talk.written(0, InputKind::Prompt, Ok(3));
    talk.input_closed(0, InputKind::Answer);
    talk.seen(0, 4, AgentSignal::TurnOver);
    talk.take_effects();
    talk.exited(&Exit::default());
    assert_eq!(done(&mut talk), [Effect::Start(Arc::default())]);
}

#[test]
fn an_agent_that_ends_with_its_conversation_is_not_said_to_be_started_again() {
    let mut talk = in_turn();
    talk.close(0);
    talk.take_effects();
    talk.exited(&Exit::default());
    let sent = errors(&mut talk);
    assert_eq!(sent[0].1.code, "AGENT_EXITED");
    assert!(!sent[0].1.message.contains("next message"), "{sent:?}");
}

#[test]
fn a_cancelled_turn_that_ends_leaves_the_agent_alive() {
    let mut talk = in_turn();
    talk.cancel(0);
    talk.seen(1, 2, AgentSignal::TurnOver);
    talk.take_effects();
    talk.tick(INTERRUPT_MS_MAX);
    // It rests now, and ends like any other.
    assert_eq!(done(&mut talk), [Effect::EndInput]);
}

#[test]
fn an_idle_agent_ends_after_a_while_and_a_message_meanwhile_starts_another() {
    let mut talk = in_turn();
    talk.seen(0, 2, AgentSignal::TurnOver);
    talk.take_effects();
    assert_eq!(talk.next_ms(), Some(1_000));
    talk.tick(1_000);
    assert_eq!(done(&mut talk), [Effect::EndInput]);
    prompt_of(&mut talk, 1, "wait");
    assert_eq!(done(&mut talk), []);
    talk.exited(&Exit {
        success: true,
        ..Exit::default()
    });
    assert_eq!(done(&mut talk), [Effect::Start(plans())]);
}

#[test]
fn a_crash_is_told_with_what_the_agent_said_last() {
    let mut talk = in_turn();
    talk.heard(0, 2, vec![(2, ask("r"))]);
    talk.take_effects();
    talk.exited(&Exit {
        success: false,
        how: "exit status: 3".to_owned(),
        stderr: vec!["a".to_owned(), "b".to_owned()],
    });
    let sent = errors(&mut talk);
    assert_eq!(sent[0].0, Recipients::All);
    assert_eq!(sent[0].1.details["exit"], "exit status: 3");
    assert_eq!(sent[0].1.details["stderr"], "a\nb");
    assert_eq!(talk.activity(), Activity::Idle);
    talk.replied(0, 1, 2, allow("r"));
    assert_eq!(errors(&mut talk)[0].1.code, "UNKNOWN_REQUEST");
}

#[test]
fn a_prompt_that_cannot_be_recorded_never_reaches_the_agent() {
    let mut talk = attended();
    prompt_of(&mut talk, 1, "go");
    talk.started();
    talk.take_effects();
    let full = Refusal::new("RESOURCE_EXHAUSTED", "full");
    talk.written(0, InputKind::Prompt, Err(full));
    assert_eq!(errors(&mut talk)[0].1.message, "full");
    assert_eq!(talk.activity(), Activity::Idle);
}

#[test]
fn while_nothing_can_be_recorded_messages_are_refused() {
    let mut talk = in_turn();
    talk.recording_stalled(Refusal::new("RESOURCE_EXHAUSTED", "full"));
    talk.take_effects();
    prompt_of(&mut talk, 1, "more");
    assert_eq!(errors(&mut talk)[0].0, Recipients::One(1));
    // Who comes now learns it as well.
    talk.attached(3, "eve".into(), 1, Arc::default());
    assert_eq!(errors(&mut talk).len(), 1);
    talk.recording_resumed();
    talk.take_effects();
    prompt_of(&mut talk, 1, "more");
    assert!(errors(&mut talk).is_empty());
}

#[test]
fn a_request_waits_while_somebody_is_there_and_is_denied_when_nobody_is_for_long() {
    let mut talk = in_turn();
    talk.seen(0, 2, ask("r"));
    assert_eq!(talk.activity(), Activity::Waiting);
    talk.take_effects();
    talk.tick(1_000_000);
    assert_eq!(done(&mut talk), []);
    talk.detached(2_000_000, 1);
    talk.detached(2_000_000, 2);
    assert_eq!(talk.next_ms(), Some(2_000_500));
    talk.tick(2_000_500);
    assert_eq!(writes(&done(&mut talk)), 1);
    assert_eq!(talk.activity(), Activity::Active);
}

#[test]
fn who_attaches_later_is_told_what_is_open() {
    let mut talk = in_turn();
    talk.seen(0, 2, ask("r"));
    talk.take_effects();
    talk.attached(3, "eve".into(), 1, Arc::default());
    let sent = |talk: &mut Conversation| {
        let effects = talk.take_effects().into_iter();
        effects
            .filter(|e| matches!(e, Effect::Tell(_, _, Event::PermissionRequest(_))))
            .count()
    };
    // Line 2 comes to it by itself.
    assert_eq!(sent(&mut talk), 0);
    talk.attached(4, "eve".into(), 2, Arc::default());
    assert_eq!(sent(&mut talk), 1);
    // It attached behind a line of which we hear only now.
    talk.attached(5, "eve".into(), 7, Arc::default());
    talk.take_effects();
    talk.seen(0, 6, ask("s"));
    assert_eq!(sent(&mut talk), 1);
}

#[test]
fn an_answer_may_be_faster_than_the_line_that_it_is_about() {
    let mut talk = in_turn();
    talk.replied(0, 1, 5, allow("r"));
    talk.replied(0, 2, 5, allow("nonsense"));
    assert!(talk.take_effects().is_empty());
    talk.heard(1, 4, Vec::new());
    assert!(talk.take_effects().is_empty());
    talk.heard(2, 5, vec![(5, ask("r"))]);
    let effects = talk.take_effects();
    assert_eq!(writes(&effects), 1);
    let refused = |e: &&Effect| matches!(e, Effect::Tell(Recipients::One(2), _, Event::Error(_)));
    assert_eq!(effects.iter().filter(refused).count(), 1);
    // About lines that are nobody's: somebody else has appended them.
    talk.replied(10, 1, 9, allow("late"));
    assert_eq!(talk.next_ms(), Some(10 + EARLY_ANSWER_MS_MAX));
    talk.tick(10 + EARLY_ANSWER_MS_MAX);
    assert_eq!(errors(&mut talk)[0].1.code, "UNKNOWN_REQUEST");
    assert_eq!(talk.next_ms(), None);
}

#[test]
fn the_input_lock_has_one_holder_who_is_there() {
    let mut talk = attended();
    assert_eq!(talk.lock(&"eve".into()), (false, None));
    assert_eq!(talk.lock(&"ann".into()), (true, None));
    prompt_of(&mut talk, 2, "me too");
    let refused = errors(&mut talk);
    assert_eq!(
        (refused[0].0, refused[0].1.code.as_str()),
        (Recipients::One(2), "INPUT_LOCKED")
    );
    assert_eq!(talk.lock(&"bob".into()), (true, Some("ann".into())));
    let lost = errors(&mut talk);
    assert_eq!(
        (lost[0].0, lost[0].1.code.as_str()),
        (Recipients::One(1), "INPUT_LOCK_TAKEN")
    );
    talk.detached(0, 2);
    prompt_of(&mut talk, 1, "go");
    assert!(errors(&mut talk).is_empty());
}

#[test]
fn closing_interrupts_the_turn_then_ends_the_agent() {
    let mut talk = in_turn();
    talk.close(0);
    assert_eq!(done(&mut talk), [Effect::Interrupt]);
    talk.seen(0, 2, AgentSignal::TurnOver);
    assert_eq!(done(&mut talk), [Effect::EndInput]);
    assert!(!talk.is_over());
    talk.exited(&Exit::default());
    assert!(talk.is_over());
    prompt_of(&mut talk, 1, "no");
    assert_eq!(errors(&mut talk)[0].1.code, "UNAVAILABLE");
}

#[test]
fn a_conversation_is_over_when_nothing_would_be_forgotten() {
    let mut talk = attended();
    talk.set_grant(0, "Bash", true).unwrap();
    talk.detached(0, 1);
    talk.detached(0, 2);
    assert!(!talk.is_over());
    talk.clear_grants("");
    assert!(talk.is_over());
}

#[test]
fn a_request_that_nobody_knows_is_answered_with_an_error() {
    let mut talk = in_turn();
    let signal = AgentSignal::AsksOther {
        request_id: "x".to_owned(),
        subtype: "mood".to_owned(),
    };
    talk.seen(0, 2, signal);
    let [Effect::Write(line, InputKind::Answer)] = &done(&mut talk)[..] else {
        panic!()
    };
    assert!(String::from_utf8_lossy(line).contains("error"));
}

#[test]
fn a_cancellation_says_how_many_messages_it_forgets_whether_the_agent_had_the_first_or_not() {
    for had in [false, true] {
        let mut talk = in_turn();
        if !had {
            talk.seen(0, 2, AgentSignal::TurnOver);
            talk.tick(TIMEOUTS.idle_ms);
            // The agent is ending: the next one gets this.
            prompt_of(&mut talk, 1, "two");
        }
        prompt_of(&mut talk, 1, "three");
        prompt_of(&mut talk, 1, "four");
        talk.take_effects();
        assert!(talk.cancel(2_000));
        let sent = talk.take_effects().into_iter().any(|effect| match effect {
            Effect::Tell(Recipients::All, _, Event::StatusChange(status)) => {
                status.message.contains("2 messages forgotten")
            }
            _ => false,
        });
        assert!(sent, "{had}");
    }
}

/// The statuses that are sent.
fn statuses(talk: &mut Conversation) -> Vec<AgentStatus> {
    let effects = talk.take_effects().into_iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Tell(Recipients::All, _, Event::StatusChange(change)) => Some(change.status()),
            _ => None,
        })
        .collect()
}

#[test]
fn an_agent_that_asks_without_a_turn_is_kept_until_it_is_answered_and_a_while_longer() {
    let mut talk = in_turn();
    talk.seen(0, 2, AgentSignal::TurnOver);
    talk.seen(10, 3, ask("r"));
    assert_eq!(talk.next_ms(), None);
    talk.tick(10 * TIMEOUTS.idle_ms);
    assert!(done(&mut talk).is_empty());
    let now_ms = 20 * TIMEOUTS.idle_ms;
    talk.replied(now_ms, 1, 3, allow("r"));
    assert_eq!(writes(&done(&mut talk)), 1);
    assert_eq!(talk.next_ms(), Some(now_ms + TIMEOUTS.idle_ms));
    talk.tick(now_ms + TIMEOUTS.idle_ms);
    assert_eq!(done(&mut talk), [Effect::EndInput]);
}

#[test]
fn recording_goes_on_when_the_last_that_waited_for_room_has_some() {
    let mut talk = in_turn();
    let full = || Refusal::new("RESOURCE_EXHAUSTED", "the disk is full");
    talk.recording_stalled(full());
    talk.recording_stalled(full());
    talk.recording_resumed();
    talk.take_effects();
    prompt_of(&mut talk, 1, "more");
    assert_eq!(errors(&mut talk)[0].1.code, "RESOURCE_EXHAUSTED");
    talk.recording_resumed();
    assert_eq!(statuses(&mut talk), [AgentStatus::Thinking]);
}

#[test]
fn a_grant_answers_what_is_open_and_what_comes() {
    let mut talk = in_turn();
    talk.heard(0, 3, vec![(2, ask("p1")), (3, ask("p2"))]);
    talk.take_effects();
    talk.replied(0, 1, 3, decide("p1", PermissionDecision::AllowSession));
    assert_eq!(writes(&talk.take_effects()), 2);
    talk.heard(0, 4, vec![(4, ask("p3"))]);
    assert_eq!(writes(&talk.take_effects()), 1);
    talk.clear_grants("Bash");
    talk.heard(0, 5, vec![(5, ask("p4"))]);
    talk.take_effects();
    talk.set_grant(0, "Bash", false).unwrap();
    assert_eq!(writes(&talk.take_effects()), 1);
}

#[test]
fn how_things_stand_is_said_behind_the_line_of_an_answer() {
    let mut talk = in_turn();
    talk.heard(0, 3, vec![(2, ask("p1")), (3, ask("p2"))]);
    talk.take_effects();
    let statuses = |talk: &mut Conversation| -> Vec<_> {
        let effects = talk.take_effects().into_iter();
        effects
            .filter_map(|effect| match effect {
                Effect::Tell(Recipients::All, after, Event::StatusChange(change)) => {
                    Some((after, change.status(), change.message))
                }
                _ => None,
            })
            .collect()
    };
    for (id, line, status) in [
        ("p1", 4, AgentStatus::WaitingForUser),
        ("p2", 5, AgentStatus::Thinking),
    ] {
        talk.replied(0, 1, 3, allow(id));
        // The line tells which request has an answer, live as in a replay.
        assert_eq!(statuses(&mut talk), [], "{id}");
        talk.written(0, InputKind::Answer, Ok(line));
        assert_eq!(statuses(&mut talk), [(line, status, String::new())], "{id}");
    }
}

#[test]
fn what_is_said_after_a_cancellation_begins_the_next_turn() {
    let mut talk = in_turn();
    prompt_of(&mut talk, 1, "before");
    assert!(talk.cancel(0));
    prompt_of(&mut talk, 1, "after");
    talk.take_effects();
    talk.exited(&Exit::default());
    let effects = done(&mut talk);
    assert_eq!(effects, [Effect::Start(plans())]);
    talk.started();
    assert_eq!(writes(&done(&mut talk)), 1);
}

#[test]
fn messages_that_are_forgotten_are_said_to_be() {
    let mut talk = in_turn();
    prompt_of(&mut talk, 1, "waits");
    talk.take_effects();
    talk.exited(&Exit::default());
    let sent = errors(&mut talk);
    assert_eq!(sent[0].1.details["messages_forgotten"], "1");
    assert!(sent[0].1.message.contains("1 message"), "{sent:?}");

    let mut talk = in_turn();
    prompt_of(&mut talk, 1, "waits");
    talk.take_effects();
    talk.close(0);
    let sent = errors(&mut talk);
    assert_eq!(sent[0].1.code, "UNAVAILABLE");
    assert_eq!(sent[0].1.details["messages_forgotten"], "1");
}

#[test]
fn a_turn_is_at_work_on_its_tools_until_all_have_results() {
    let ids = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect();
    let mut talk = in_turn();
    talk.seen(0, 2, AgentSignal::ToolsBegin(ids(&["a", "b"])));
    assert_eq!(statuses(&mut talk), [AgentStatus::ExecutingTool]);
    talk.seen(0, 3, ask("r"));
    assert_eq!(statuses(&mut talk), [AgentStatus::WaitingForUser]);
    talk.replied(0, 1, 3, allow("r"));
    talk.written(0, InputKind::Answer, Ok(4));
    assert_eq!(statuses(&mut talk), [AgentStatus::ExecutingTool]);
    talk.seen(0, 5, AgentSignal::ToolsEnd(ids(&["a", "x"])));
    assert_eq!(statuses(&mut talk), []);
    talk.seen(0, 6, AgentSignal::ToolsEnd(ids(&["b"])));
    assert_eq!(statuses(&mut talk), [AgentStatus::Thinking]);
    // Who attaches while it compacts learns that.
    talk.seen(0, 7, AgentSignal::Compacts(true));
    talk.attached(3, "eve".into(), 7, Arc::default());
    let compacts = talk.take_effects().into_iter().any(|effect| match effect {
        Effect::Tell(Recipients::One(3), _, Event::StatusChange(change)) => {
            change.status() == AgentStatus::Compacting
        }
        _ => false,
    });
    assert!(compacts);
    talk.seen(0, 8, ask("s"));
    talk.take_effects();
    talk.seen(0, 8, AgentSignal::Compacts(false));
    assert_eq!(statuses(&mut talk), [AgentStatus::WaitingForUser]);
    talk.replied(0, 1, 8, allow("s"));
    talk.take_effects();
    talk.seen(0, 8, AgentSignal::Compacts(false));
    assert_eq!(statuses(&mut talk), []);
    // All of it ends with the turn, and tools without one are nobody's work.
    talk.seen(0, 8, AgentSignal::ToolsBegin(ids(&["c"])));
    talk.seen(0, 9, AgentSignal::TurnOver);
    talk.seen(0, 10, AgentSignal::ToolsBegin(ids(&["d"])));
    let expected = [AgentStatus::ExecutingTool, AgentStatus::Idle];
    assert_eq!(statuses(&mut talk), expected);
    prompt_of(&mut talk, 1, "next");
    talk.written(0, InputKind::Prompt, Ok(12));
    assert_eq!(statuses(&mut talk), [AgentStatus::Thinking]);
}
