//! Agents that end for another one, of their own session or of one that needs their place.

use super::*;

#[test]
fn a_message_that_asks_for_another_agent_has_one_that_goes_on_where_the_last_one_was() {
    let cheap = Arc::new(Options {
        model: "cheap".to_owned(),
        ..Options::default()
    });
    let mut talk = in_turn();
    talk.attached(3, "eve".into(), 1, Arc::clone(&cheap));
    // While a turn is on, it waits for its own.
    prompt_of(&mut talk, 3, "cheaply");
    assert!(done(&mut talk).is_empty());
    talk.seen(0, 2, AgentSignal::TurnOver);
    assert_eq!(done(&mut talk), [Effect::EndInput]);
    // One that does not end is not waited for.
    assert!(talk.next_ms().is_some());
    talk.exited(&Exit::default());
    assert_eq!(done(&mut talk), [Effect::Start(cheap)]);
    talk.started();
    talk.written(0, InputKind::Prompt, Ok(3));
    talk.seen(0, 4, AgentSignal::TurnOver);
    talk.take_effects();
    assert_eq!(talk.model(), "cheap");
    // Who asks for nothing, or for the same, takes the one that there is.
    for key in [2, 3] {
        prompt_of(&mut talk, key, "go on");
        assert_eq!(writes(&done(&mut talk)), 1, "{key}");
        talk.written(0, InputKind::Prompt, Ok(5));
        talk.seen(0, 6, AgentSignal::TurnOver);
        talk.take_effects();
    }
}

#[test]
fn a_message_that_asks_for_the_model_that_runs_has_it() {
    let asks_for = |model: &str| {
        Arc::new(Options {
            model: model.to_owned(),
            ..Options::default()
        })
    };
    let mut talk = Conversation::new(TIMEOUTS, 10_000, String::new(), 0, 0)
        .with_model("the-sessions".to_owned());
    talk.attached(1, "ann".into(), 0, Arc::default());
    talk.attached(2, "bob".into(), 0, asks_for("the-sessions"));
    talk.attached(3, "eve".into(), 0, asks_for("as-reported"));
    prompt_of(&mut talk, 1, "go");
    assert_eq!(done(&mut talk), [Effect::Start(asks_for("the-sessions"))]);
    talk.started();
    assert_eq!(talk.model(), "the-sessions");
    talk.take_effects();
    for key in [2, 3] {
        talk.written(0, InputKind::Prompt, Ok(1));
        talk.seen(0, 2, began("a-1", "as-reported"));
        talk.seen(0, 3, AgentSignal::TurnOver);
        talk.take_effects();
        prompt_of(&mut talk, key, "go on");
        assert_eq!(writes(&done(&mut talk)), 1, "{key}");
    }
}

#[test]
fn an_agent_that_ends_while_it_waits_for_an_answer_leaves_nobody_waiting() {
    let mut talk = in_turn();
    talk.seen(0, 2, AgentSignal::TurnOver);
    talk.seen(0, 3, ask("r"));
    assert_eq!(
        statuses(&mut talk).last(),
        Some(&AgentStatus::WaitingForUser)
    );
    let exit = Exit {
        success: true,
        ..Exit::default()
    };
    talk.exited(&exit);
    assert_eq!(statuses(&mut talk), [AgentStatus::Idle]);
    assert_eq!(talk.activity(), Activity::Idle);
}

#[test]
fn an_agent_that_gives_way_to_another_leaves_no_request_open() {
    let mut talk = in_turn();
    talk.attached(
        3,
        "eve".into(),
        1,
        Arc::new(Options {
            model: "other".to_owned(),
            ..Options::default()
        }),
    );
    talk.seen(0, 2, AgentSignal::TurnOver);
    talk.heard(0, 3, vec![(3, ask("r"))]);
    talk.take_effects();
    prompt_of(&mut talk, 3, "go on");
    let sent = talk.take_effects();
    assert!(sent.contains(&Effect::EndInput), "{sent:?}");
    assert!(
        sent.iter().any(|effect| matches!(
            effect,
            Effect::Tell(Recipients::All, _, Event::StatusChange(change))
                if change.status == i32::from(AgentStatus::Thinking)
        )),
        "{sent:?}"
    );
    talk.heard(0, 4, vec![(4, ask("late"))]);
    for id in ["r", "late"] {
        talk.replied(0, 1, 4, allow(id));
        let sent = talk.take_effects();
        assert_eq!(writes(&sent), 0, "{id}");
        let [Effect::Tell(Recipients::One(1), _, Event::Error(refused))] = &sent[..] else {
            panic!("{sent:?}")
        };
        assert_eq!(refused.code, "UNKNOWN_REQUEST");
    }
}

#[test]
fn an_agent_makes_room_when_it_rests_and_not_while_it_has_something_to_do() {
    let mut talk = in_turn();
    talk.yield_slot(0);
    assert!(!talk.is_idle() && done(&mut talk).is_empty());
    talk.seen(0, 2, AgentSignal::TurnOver);
    assert!(talk.is_idle());
    talk.seen(0, 3, ask("r"));
    talk.yield_slot(0);
    assert!(!talk.is_idle() && done(&mut talk).is_empty());
    talk.replied(0, 1, 3, allow("r"));
    talk.take_effects();
    talk.yield_slot(0);
    assert_eq!(done(&mut talk), [Effect::EndInput]);
    assert!(talk.next_ms().is_some(), "one that does not end is killed");
}

#[test]
fn a_message_that_waits_for_a_place_looks_again_until_it_is_cancelled() {
    let mut talk = attended();
    prompt_of(&mut talk, 1, "go");
    assert_eq!(done(&mut talk), [Effect::Start(plans())]);
    for round in 1..4 {
        talk.wait_for_place(round * AGENT_PLACE_POLL_MS);
        assert!(done(&mut talk).is_empty());
        talk.tick((round + 1) * AGENT_PLACE_POLL_MS);
        assert_eq!(done(&mut talk), [Effect::Start(plans())]);
    }
    let until_ms = AGENT_PLACE_POLL_MS + AGENT_PLACE_MS_MAX;
    assert_eq!(talk.awaits_place_until_ms(), Some(until_ms));
    // Another agent is asked for its place now and then.
    let ask_ms = AGENT_PLACE_POLL_MS + AGENT_PLACE_ASK_MS;
    for (now_ms, asks) in [(ask_ms - 1, false), (ask_ms, true), (ask_ms, false)] {
        assert_eq!(talk.asks_again_for_place(now_ms), asks);
    }
    assert!(talk.asks_again_for_place(ask_ms + AGENT_PLACE_ASK_MS));
    talk.wait_for_place(AGENT_PLACE_POLL_MS);
    assert!(talk.cancel(0));
    talk.tick(until_ms);
    assert!(done(&mut talk).is_empty());
}

/// The plan modes that are sent.
fn plan_modes(talk: &mut Conversation) -> Vec<(Recipients, bool)> {
    let effects = talk.take_effects().into_iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Tell(to, _, Event::PlanMode(change)) => Some((to, change.active)),
            _ => None,
        })
        .collect()
}

/// Its turn is over, and the last line has this sequence.
fn turn_over(talk: &mut Conversation, sequence: u64) {
    talk.seen(0, sequence, AgentSignal::TurnOver);
    talk.take_effects();
}

#[test]
fn plan_mode_is_that_of_the_stream_that_sends_the_message_on_and_off() {
    let mut talk = in_turn();
    turn_over(&mut talk, 2);
    for (key, options) in [(2, Arc::default()), (1, plans())] {
        prompt_of(&mut talk, key, "go on");
        assert_eq!(done(&mut talk), [Effect::EndInput], "{key}");
        talk.exited(&Exit::default());
        assert_eq!(done(&mut talk), [Effect::Start(options)], "{key}");
        talk.started();
        assert_eq!(plan_modes(&mut talk), [(Recipients::All, key == 1)]);
        talk.written(0, InputKind::Prompt, Ok(3));
        turn_over(&mut talk, 4);
        prompt_of(&mut talk, key, "and on");
        assert_eq!(writes(&done(&mut talk)), 1, "{key}");
        talk.written(0, InputKind::Prompt, Ok(5));
        turn_over(&mut talk, 6);
    }
}

#[test]
fn an_agent_that_changes_its_mode_keeps_the_model_that_it_has() {
    let planner = Options {
        model: "dear".to_owned(),
        plan_mode: true,
        ..Options::default()
    };
    let mut talk = Conversation::new(TIMEOUTS, 10_000, String::new(), 0, 0)
        .with_model("the-sessions".to_owned());
    talk.attached(1, "ann".into(), 0, Arc::new(planner.clone()));
    talk.attached(2, "bob".into(), 0, Arc::default());
    prompt_of(&mut talk, 1, "plan");
    talk.started();
    talk.written(0, InputKind::Prompt, Ok(1));
    turn_over(&mut talk, 2);
    prompt_of(&mut talk, 2, "do");
    talk.exited(&Exit::default());
    let does = Options {
        plan_mode: false,
        ..planner
    };
    assert!(done(&mut talk).contains(&Effect::Start(Arc::new(does))));
}

#[test]
fn who_attaches_to_an_agent_that_plans_learns_it() {
    let mut talk = attended();
    prompt_of(&mut talk, 1, "plan");
    talk.started();
    assert_eq!(plan_modes(&mut talk), [(Recipients::All, true)]);
    talk.attached(3, "eve".into(), 0, Arc::default());
    assert_eq!(plan_modes(&mut talk), [(Recipients::One(3), true)]);
    let mut talk = attended();
    prompt_of(&mut talk, 2, "do");
    talk.started();
    talk.attached(3, "eve".into(), 0, Arc::default());
    assert_eq!(plan_modes(&mut talk), []);
}

#[test]
fn an_agent_whose_plan_was_approved_is_not_ended_for_who_planned_or_did_not() {
    let mut talk = in_turn();
    talk.seen(0, 2, AgentSignal::Mode { plan_mode: false });
    turn_over(&mut talk, 3);
    for key in [1, 2] {
        prompt_of(&mut talk, key, "go on");
        assert_eq!(writes(&done(&mut talk)), 1, "{key}");
        talk.written(0, InputKind::Prompt, Ok(4));
        turn_over(&mut talk, 5);
    }
    // Told by the line itself, except to a stream that began behind it.
    talk.attached(3, "eve".into(), 9, Arc::default());
    talk.take_effects();
    talk.seen(0, 7, AgentSignal::Mode { plan_mode: true });
    assert_eq!(plan_modes(&mut talk), [(Recipients::One(3), true)]);
}
