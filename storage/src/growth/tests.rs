//! Time and bytes add up, whatever timestamps and durations lines have.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const MINUTE_MS: i64 = 60_000;
const NOW_MS: i64 = 1_800_000_000_000;

/// An old line with this timestamp.
fn old(timestamp_ms: i64) -> LineTimes {
    LineTimes {
        timestamp_ms: Some(timestamp_ms),
        received_ms: NOW_MS,
        ..LineTimes::default()
    }
}

/// A line without a timestamp.
fn silent(received_ms: i64) -> LineTimes {
    LineTimes {
        received_ms,
        ..LineTimes::default()
    }
}

/// A `result` line without a timestamp.
fn result(duration_ms: i64) -> LineTimes {
    LineTimes {
        turn_end: Some(TurnEnd {
            duration_ms: Some(duration_ms),
        }),
        ..silent(NOW_MS)
    }
}

/// Times after `lines`, all imported.
fn imported(lines: &[LineTimes]) -> SessionTimes {
    let mut times = SessionTimes::default();
    for line in lines {
        times.step(*line, Arrival::Historical);
    }
    times
}

#[test]
fn gaps_count_up_to_five_minutes() {
    let mut times = SessionTimes::default();
    for minute in [0, 1, 4, 100] {
        times.step(old(minute * MINUTE_MS), Arrival::Live);
    }
    assert_eq!(times.active_ms, (1 + 3 + 5) * MINUTE_MS);
    assert_eq!(times.wall_ms(), 100 * MINUTE_MS);
}

#[test]
fn messages_out_of_order_add_no_time_twice() {
    let mut times = SessionTimes::default();
    for minute in [2, 1, 3, 2, 4] {
        times.step(old(minute * MINUTE_MS), Arrival::Live);
    }
    assert_eq!(times.active_ms, 2 * MINUTE_MS);
    assert_eq!(times.wall_ms(), 3 * MINUTE_MS);
}

#[test]
fn old_messages_without_time_belong_to_the_one_before() {
    let mut times = SessionTimes::default();
    let leading = times.step(silent(NOW_MS), Arrival::Historical);
    assert_eq!((leading.hour, times.wall_ms()), (NOW_MS / HOUR_MS, 0));
    times.step(old(HOUR_MS), Arrival::Historical);
    let step = times.step(silent(NOW_MS), Arrival::Historical);
    assert_eq!((step.hour, step.active_ms, step.wall_ms), (1, 0, 0));
    assert_eq!(times.last_ms, Some(HOUR_MS));
}

#[test]
fn live_messages_without_time_were_said_on_arrival() {
    let mut times = SessionTimes::default();
    times.step(silent(10_000), Arrival::Live);
    let step = times.step(silent(12_500), Arrival::Live);
    assert_eq!((step.active_ms, step.wall_ms), (2_500, 2_500));
}

#[test]
fn hours_before_1970_round_down() {
    let mut times = SessionTimes::default();
    assert_eq!(times.step(old(-1), Arrival::Live).hour, -1);
}

#[test]
fn turns_of_a_stream_without_times_count_as_long_as_their_results_say() {
    let times = imported(&[
        silent(NOW_MS),
        result(50 * MINUTE_MS),
        silent(NOW_MS),
        result(7 * MINUTE_MS),
    ]);
    assert_eq!(times.active_ms, 57 * MINUTE_MS);
    assert_eq!(times.wall_ms(), 57 * MINUTE_MS);
    // When things were said is still not known.
    assert_eq!((times.first_ms, times.last_ms), (None, None));
}

#[test]
fn a_turn_of_which_few_lines_tell_times_counts_as_long_as_its_result_says() {
    let times = imported(&[
        silent(NOW_MS),
        old(HOUR_MS),
        old(HOUR_MS + 3),
        result(20 * MINUTE_MS),
    ]);
    assert_eq!(times.active_ms, 20 * MINUTE_MS);
    assert_eq!(times.wall_ms(), 20 * MINUTE_MS);
    assert_eq!(times.first_ms, Some(HOUR_MS));
}

#[test]
fn a_turn_whose_lines_tell_more_than_its_result_counts_as_they_tell() {
    let lines = [old(0), old(MINUTE_MS), old(3 * MINUTE_MS)];
    let without = imported(&lines);
    let with = imported(&[&lines[..], &[result(2 * MINUTE_MS)]].concat());
    assert_eq!(
        with,
        SessionTimes {
            turn: TurnTimes::default(),
            ..without
        }
    );
}

#[test]
fn a_result_that_carries_a_time_counts_as_any_line_that_does() {
    let end = LineTimes {
        timestamp_ms: Some(MINUTE_MS),
        ..result(HOUR_MS)
    };
    assert_eq!(imported(&[old(0), end]).active_ms, MINUTE_MS);
}

#[test]
fn a_result_that_tells_no_duration_ends_the_turn_and_adds_nothing() {
    let end = LineTimes {
        turn_end: Some(TurnEnd::default()),
        ..silent(NOW_MS)
    };
    let lines = [old(0), old(MINUTE_MS), end, result(MINUTE_MS / 2)];
    let times = imported(&lines);
    assert_eq!(times.active_ms, MINUTE_MS + MINUTE_MS / 2);
}

#[test]
fn what_a_turn_took_is_not_counted_again_as_a_gap_before_the_next() {
    // The first turn goes on to 2:00, and the second begins at 2:10.
    let second = 130_000;
    let times = imported(&[
        old(0),
        old(MINUTE_MS),
        result(2 * MINUTE_MS),
        old(second),
        result(MINUTE_MS),
    ]);
    assert_eq!(times.active_ms, second + MINUTE_MS);
    assert_eq!(times.wall_ms(), second + MINUTE_MS);
}

#[test]
fn turns_before_the_first_time_lie_before_it() {
    let times = imported(&[result(MINUTE_MS), old(HOUR_MS), old(HOUR_MS + MINUTE_MS)]);
    assert_eq!(times.first_ms, Some(HOUR_MS - MINUTE_MS));
    assert_eq!(
        (times.active_ms, times.wall_ms()),
        (2 * MINUTE_MS, 2 * MINUTE_MS)
    );
}

#[test]
fn a_live_result_adds_what_any_live_line_does() {
    let mut live = SessionTimes::default();
    let mut plain = SessionTimes::default();
    for received_ms in [NOW_MS, NOW_MS + 900, NOW_MS + 2_000] {
        let line = LineTimes {
            received_ms,
            ..result(HOUR_MS)
        };
        let step = live.step(line, Arrival::Live);
        assert_eq!(step, plain.step(silent(received_ms), Arrival::Live));
    }
    assert_eq!(live, plain);
    assert!(live.turn.is_empty());
}

#[test]
fn a_long_turn_counts_in_each_of_its_hours_and_in_none_more_than_an_hour() {
    let mut times = imported(&[old(HOUR_MS / 2)]);
    let step = times.step(result(2 * HOUR_MS), Arrival::Historical);
    let mut hours: Vec<_> = step.active_by_hour().collect();
    hours.sort_unstable();
    assert_eq!(hours, [(0, HOUR_MS / 2), (1, HOUR_MS), (2, HOUR_MS / 2)]);
    assert_eq!(step.hour, 2);
}

#[test]
fn no_turn_ends_more_than_a_day_after_its_end_arrived() {
    let mut times = imported(&[old(NOW_MS - 40 * HOUR_MS)]);
    for _ in 0..1000 {
        times.step(result(TURN_MS_MAX), Arrival::Historical);
    }
    assert_eq!(times.last_ms, Some(NOW_MS + 24 * HOUR_MS));
    assert_eq!(
        (times.active_ms, times.wall_ms()),
        (64 * HOUR_MS, 64 * HOUR_MS)
    );
    let ahead = imported(&[old(NOW_MS + 90 * HOUR_MS), result(HOUR_MS)]);
    assert_eq!((ahead.active_ms, ahead.wall_ms()), (0, 0));
}

#[test]
fn many_turns_of_an_unknown_time_share_no_hour_until_they_fill_a_day() {
    let mut times = SessionTimes::default();
    let mut hours = BTreeMap::<i64, i64>::new();
    for _ in 0..24 {
        for (hour, ms) in times
            .step(result(HOUR_MS), Arrival::Historical)
            .active_by_hour()
        {
            *hours.entry(hour).or_default() += ms;
        }
    }
    assert_eq!(hours.values().sum::<i64>(), 24 * HOUR_MS);
    assert!(hours.values().all(|ms| *ms <= HOUR_MS), "{hours:?}");
    for _ in 0..1000 {
        let step = times.step(result(TURN_MS_MAX), Arrival::Historical);
        hours.extend(step.active_by_hour());
    }
    assert!(hours.len() <= 50, "{} hours", hours.len());
}

#[test]
fn clocks_at_the_ends_of_time_and_damaged_turns_do_no_harm() {
    let ends = [i64::MIN, i64::MAX];
    for (first, then) in ends.into_iter().flat_map(|a| ends.map(|b| (a, b))) {
        let turn = TurnTimes {
            start_ms: Some(first),
            active_ms: then,
        };
        for known in [None, Some(first)] {
            let mut times = SessionTimes {
                turn,
                first_ms: known,
                last_ms: known,
                active_ms: 0,
            };
            let end = LineTimes {
                received_ms: then,
                ..result(i64::MAX)
            };
            let step = times.step(end, Arrival::Historical);
            assert!((0..=TURN_MS_MAX).contains(&step.active_ms));
            assert!(step.active_by_hour().count() <= 25);
            times.turn = turn;
            times.step(old(then), Arrival::Historical);
            times.step(old(first), Arrival::Historical);
        }
    }
}

#[test]
fn a_turn_survives_the_json_between_two_imports() {
    let turn = imported(&[old(5), old(9)]).turn;
    let text = serde_json::to_string(&turn).unwrap();
    assert_eq!(serde_json::from_str::<TurnTimes>(&text).unwrap(), turn);
    assert!(serde_json::from_str::<TurnTimes>("{}").unwrap().is_empty());
}

fn any_time() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -HOUR_MS..100 * HOUR_MS,
        1 => proptest::sample::select(vec![i64::MIN / 4, 0, i64::MAX / 4]),
    ]
}

fn any_line() -> impl Strategy<Value = (LineTimes, Arrival)> {
    let duration = prop_oneof![4 => 0..3 * HOUR_MS, 1 => any::<i64>()];
    let turn_end = proptest::option::of(proptest::option::of(duration))
        .prop_map(|end| end.map(|duration_ms| TurnEnd { duration_ms }));
    let arrival = prop_oneof![4 => Just(Arrival::Historical), 1 => Just(Arrival::Live)];
    (
        proptest::option::of(any_time()),
        turn_end,
        any_time(),
        arrival,
    )
        .prop_map(|(timestamp_ms, turn_end, received_ms, arrival)| {
            let line = LineTimes {
                timestamp_ms,
                turn_end,
                received_ms,
                head_ends_ms: None,
            };
            (line, arrival)
        })
}

proptest! {
    #[test]
    fn active_time_stays_within_wall_clock_time_and_steps_add_up(
        lines in proptest::collection::vec(any_line(), 0..30)
    ) {
        let mut times = SessionTimes::default();
        let (mut active_ms, mut wall_ms) = (0, 0);
        for (line, arrival) in lines {
            let step = times.step(line, arrival);
            active_ms += step.active_ms;
            wall_ms += step.wall_ms;
            let by_hour: Vec<_> = step.active_by_hour().collect();
            prop_assert!(by_hour.len() <= 25);
            prop_assert!(by_hour.iter().all(|(_, ms)| (1..=HOUR_MS).contains(ms)));
            prop_assert!(by_hour.iter().map(|(_, ms)| ms).sum::<i64>() <= step.active_ms);
            prop_assert!((0..=TURN_MS_MAX).contains(&step.active_ms));
            prop_assert!(times.active_ms <= times.wall_ms(), "{times:?}");
        }
        prop_assert_eq!((times.active_ms, times.wall_ms()), (active_ms, wall_ms));
    }

    #[test]
    fn durations_change_nothing_where_every_line_carries_a_time(
        lines in proptest::collection::vec((any_time(), any_line()), 0..30)
    ) {
        let mut with = SessionTimes::default();
        let mut without = SessionTimes::default();
        for (timestamp_ms, (line, arrival)) in lines {
            let line = LineTimes { timestamp_ms: Some(timestamp_ms), ..line };
            let step = with.step(line, arrival);
            let plain = LineTimes { turn_end: None, ..line };
            prop_assert_eq!(step, without.step(plain, arrival));
        }
    }
}
