use super::*;
use proptest::prelude::*;

const NOW_MS: i64 = 1_771_070_400_000;

fn session(id: &str, days_ago: i64, stored_bytes: u64) -> RetentionCandidate {
    RetentionCandidate {
        id: SessionId::new(id).unwrap(),
        key: SessionKey(1),
        name: format!("name of {id}"),
        last_time_ms: Some(NOW_MS - days_ago * DAY_MS),
        updated_ms: NOW_MS - days_ago * DAY_MS,
        messages: 10,
        stored_bytes,
    }
}

fn ids(plan: &RetentionPlan) -> Vec<&str> {
    plan.removals
        .iter()
        .map(|removal| removal.session_id.as_str())
        .collect()
}

fn by_age(days: i64) -> RetentionPolicy {
    RetentionPolicy {
        age_ms_max: Some(days * DAY_MS),
        ..RetentionPolicy::default()
    }
}

fn by_size(bytes: u64) -> RetentionPolicy {
    RetentionPolicy {
        stored_bytes_max: Some(bytes),
        ..RetentionPolicy::default()
    }
}

#[test]
fn without_a_rule_nothing_is_ever_removed() {
    let policy = RetentionPolicy::default();
    assert!(policy.is_off());
    let plan = plan(
        &policy,
        &[session("a", 9000, 1), session("b", 0, 1)],
        NOW_MS,
    )
    .unwrap();
    assert_eq!(plan.removals, []);
    assert_eq!(plan.stored_bytes_after, 2);
}

#[test]
fn age_removes_what_was_unused_for_longer_the_oldest_first() {
    let sessions = [
        session("new", 0, 5),
        session("kept", 30, 7),
        session("old", 31, 11),
        session("older", 90, 13),
    ];
    let plan = plan(&by_age(30), &sessions, NOW_MS).unwrap();
    assert_eq!(ids(&plan), ["older", "old"]);
    assert_eq!(
        plan.removals[1].reason,
        RemovalReason::Age {
            days: 31,
            days_max: 30
        }
    );
    assert_eq!(
        (plan.stored_bytes_before, plan.stored_bytes_after),
        (36, 12)
    );
}

#[test]
fn size_removes_the_longest_unused_until_the_rest_fits() {
    let sessions = [
        session("new", 2, 40),
        session("older", 9, 30),
        session("old", 5, 30),
    ];
    let plan = plan(&by_size(70), &sessions, NOW_MS).unwrap();
    assert_eq!(ids(&plan), ["older"]);
    let reason = RemovalReason::Size {
        stored_bytes: 100,
        stored_bytes_max: 70,
    };
    assert_eq!(plan.removals[0].reason, reason);
    assert_eq!(plan.over_bytes, 0);
}

#[test]
fn a_size_that_used_sessions_exceed_says_by_how_much() {
    let plan = plan(
        &by_size(50),
        &[session("today", 0, 90), session("old", 3, 5)],
        NOW_MS,
    )
    .unwrap();
    assert_eq!(ids(&plan), ["old"]);
    assert_eq!(plan.over_bytes, 40);
}

#[test]
fn sessions_of_today_are_never_removed_by_age_or_size() {
    let plan = plan(&by_size(1), &[session("today", 0, 30)], NOW_MS).unwrap();
    assert_eq!(plan.removals, []);
}

#[test]
fn named_sessions_go_however_new_and_unknown_ones_are_told() {
    let policy = RetentionPolicy {
        sessions: ["today", "gone"]
            .map(|id| SessionId::new(id).unwrap())
            .to_vec(),
        ..RetentionPolicy::default()
    };
    let plan = plan(
        &policy,
        &[session("today", 0, 30), session("old", 90, 60)],
        NOW_MS,
    )
    .unwrap();
    assert_eq!(ids(&plan), ["today"]);
    assert_eq!(plan.removals[0].reason, RemovalReason::Named);
    let kept: Vec<_> = plan
        .kept
        .iter()
        .map(|kept| (kept.session_id.as_str(), kept.why))
        .collect();
    assert_eq!(kept, [("gone", "there is no such session")]);
}

#[test]
fn an_old_session_that_was_just_imported_is_not_removed() {
    let imported = RetentionCandidate {
        updated_ms: NOW_MS,
        ..session("imported", 400, 1)
    };
    let plan = plan(&by_age(30), &[imported], NOW_MS).unwrap();
    assert_eq!(plan.removals, []);
}

#[test]
fn a_clock_that_jumps_years_ahead_removes_nothing_that_was_recent() {
    let sessions = [session("a", 0, 1), session("b", 20, 1), session("c", 40, 1)];
    let plan = plan(&by_age(30), &sessions, NOW_MS + 2000 * DAY_MS).unwrap();
    assert_eq!(ids(&plan), ["c"]);
    assert!(plan.clock_ahead);
}

#[test]
fn a_message_from_the_future_does_not_make_its_session_immortal() {
    let odd = RetentionCandidate {
        last_time_ms: Some(NOW_MS + 900 * DAY_MS),
        ..session("odd", 60, 1)
    };
    let plan = plan(&by_age(30), &[odd, session("new", 0, 1)], NOW_MS).unwrap();
    assert_eq!(ids(&plan), ["odd"]);
}

#[test]
fn policies_that_would_remove_everything_are_refused() {
    for bad in [
        by_age(0),
        RetentionPolicy {
            age_ms_max: Some(-1),
            ..by_age(1)
        },
        by_size(0),
    ] {
        assert!(plan(&bad, &[], NOW_MS).is_err(), "{bad:?}");
    }
}

proptest! {
    /// Nothing goes twice, and the sums agree.
    #[test]
    fn plans_keep_their_promises(
        raw in prop::collection::vec((0i64..100, 0u64..1000), 0..40),
        age_days in prop::option::of(1i64..60), size in prop::option::of(1u64..20_000),
        ahead_days in 0i64..500,
    ) {
        let sessions: Vec<_> = raw
            .into_iter()
            .enumerate()
            .map(|(i, (days, bytes))| session(&format!("s{i}"), days, bytes))
            .collect();
        let policy = RetentionPolicy {
            age_ms_max: age_days.map(|days| days * DAY_MS),
            stored_bytes_max: size,
            ..RetentionPolicy::default()
        };
        let plan = plan(&policy, &sessions, NOW_MS + ahead_days * DAY_MS).unwrap();
        let mut seen = std::collections::HashSet::new();
        let mut removed_bytes = 0;
        for removal in &plan.removals {
            prop_assert!(seen.insert(removal.session_id.clone()));
            let session = sessions.iter().find(|s| s.id == removal.session_id).unwrap();
            removed_bytes += session.stored_bytes;
        }
        prop_assert_eq!(plan.stored_bytes_before - removed_bytes, plan.stored_bytes_after);
        if let (Some(max), 0) = (size, plan.over_bytes) {
            prop_assert!(plan.stored_bytes_after <= max);
        }
    }
}
