//! Turns of which the agent says no end.

use super::*;

/// Why turns ended, as all clients are told.
fn ends(talk: &mut Conversation) -> Vec<String> {
    let effects = talk.take_effects().into_iter();
    effects
        .filter_map(|effect| match effect {
            Effect::Tell(Recipients::All, _, Event::TurnComplete(turn)) => Some(turn.stop_reason),
            _ => None,
        })
        .collect()
}

#[test]
fn a_turn_that_is_cancelled_before_the_agent_has_it_ends_with_the_cancellation() {
    let mut talk = attended();
    prompt_of(&mut talk, 1, "go");
    assert!(talk.cancel(0));
    assert_eq!(ends(&mut talk), ["cancelled"]);
}

#[test]
fn a_cancelled_turn_ends_once_however_its_agent_does() {
    let with_another = [false, true];
    for waits in with_another {
        let mut talk = in_turn();
        assert!(talk.cancel(0));
        if waits {
            prompt_of(&mut talk, 1, "what I meant");
        }
        assert!(
            ends(&mut talk).is_empty(),
            "it goes on until the agent ends it"
        );
        talk.exited(&Exit::default());
        assert_eq!(ends(&mut talk), ["cancelled"], "{waits}");
    }
    // One that the agent ends itself is told by its line.
    let mut talk = in_turn();
    assert!(talk.cancel(0));
    talk.seen(0, 2, AgentSignal::TurnOver);
    talk.exited(&Exit::default());
    assert!(ends(&mut talk).is_empty());
}

#[test]
fn an_agent_that_ends_at_rest_ends_no_turn() {
    let mut talk = in_turn();
    talk.seen(0, 2, AgentSignal::TurnOver);
    ends(&mut talk);
    talk.exited(&Exit::default());
    assert!(ends(&mut talk).is_empty());
}

#[test]
fn who_denies_a_request_and_stops_the_turn_is_shown_no_other_again() {
    for (decision, shown) in [
        (PermissionDecision::Deny, 1),
        (PermissionDecision::DenyWithInterrupt, 0),
    ] {
        let mut talk = in_turn();
        talk.seen(0, 2, ask("a"));
        talk.seen(0, 3, ask("b"));
        talk.take_effects();
        talk.replied(0, 1, 3, decide("b", decision));
        let effects = talk.take_effects().into_iter();
        let again = effects.filter(|effect| {
            matches!(
                effect,
                Effect::Tell(Recipients::One(1), _, Event::PermissionRequest(_))
            )
        });
        assert_eq!(again.count(), shown, "{decision:?}");
    }
}
