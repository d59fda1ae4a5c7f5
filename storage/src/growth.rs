//! How time and bytes of a session add up: pure accounting, kept with each commit.
//!
//! A message is attributed to the Unix hour in which it was said. Active time is the sum of the
//! gaps between one message and the latest said before it, each capped at
//! [`ACTIVE_GAP_MS_MAX`], attributed to the hour of the later message; a message said before
//! the latest adds none, so clock jumps and disorder never count twice.
//!
//! Imported streams tell no times, or few. There the `result` that ends a turn says how long it
//! took ([`TurnEnd`]), and the turn counts as that long when its lines tell less: it lasts from the
//! first of its lines that tells a time, else from the latest time that the session knows, and the
//! session's latest time moves on to its end. So active time stays within wall-clock time, and a line
//! of the next turn that was said before that end adds nothing. Lines received live have times of
//! their own, and durations are left alone there.

use std::iter;

use serde::{Deserialize, Serialize};

use crate::limits::{ACTIVE_GAP_MS_MAX, PAGE_BYTES, TURN_MS_MAX};
use crate::message::Arrival;

/// Milliseconds of an hour.
pub const HOUR_MS: i64 = 3_600_000;

/// What the line that ends a turn tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TurnEnd {
    /// How long the turn took, from 0 to [`TURN_MS_MAX`]; `None` when the line does not tell.
    ///
    /// **Assumption:** `duration_ms` of a `result` line is wall-clock time of the turn that the line
    /// ends, from its prompt on, as Claude Code and its SDK measure it. It is no sum over the turns
    /// before, as `total_cost_usd` is, and not the time spent waiting for the model, which is
    /// `duration_api_ms`. Streams that tell a few times agree; that it begins anew in each turn of
    /// one process is taken on trust.
    pub duration_ms: Option<i64>,
}

/// What is known of the times of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineTimes {
    /// The time that it carries.
    pub said_ms: Option<i64>,
    /// The turn that it ends.
    pub turn_end: Option<TurnEnd>,
    /// When it was received.
    pub received_ms: i64,
}

/// What lines of an imported turn have told so far. Kept with the session, because an import may
/// end within a turn and a later one go on there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TurnTimes {
    /// When the turn began, as far as its lines tell.
    start_ms: Option<i64>,
    /// Active time since then.
    active_ms: i64,
}

impl TurnTimes {
    /// Whether no line has told anything.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A session's times so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionTimes {
    /// Earliest time at which a message was said.
    pub first_ms: Option<i64>,
    /// Latest.
    pub last_ms: Option<i64>,
    /// Active time.
    pub active_ms: i64,
    /// The turn that goes on.
    pub turn: TurnTimes,
}

/// What one message adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeStep {
    /// Unix hour it counts for.
    pub hour: i64,
    /// Active time it adds.
    pub active_ms: i64,
    /// Wall-clock time it adds to the session.
    pub wall_ms: i64,
    /// When the active time ended, if it is spread over the hours in which it passed.
    pub spread_to_ms: Option<i64>,
}

impl TimeStep {
    /// The active time by Unix hour: a gap in the hour of the message, a turn in each hour that it
    /// lasted, so that no hour has more of a turn than passes in it.
    pub fn active_by_hour(&self) -> impl Iterator<Item = (i64, i64)> + use<> {
        let (message_hour, spread_to_ms) = (self.hour, self.spread_to_ms);
        let mut left_ms = self.active_ms;
        let mut end_ms = spread_to_ms.unwrap_or_default();
        iter::from_fn(move || {
            if left_ms <= 0 {
                return None;
            }
            if spread_to_ms.is_none() {
                return Some((message_hour, std::mem::take(&mut left_ms)));
            }
            let hour = end_ms.saturating_sub(1).div_euclid(HOUR_MS);
            let hour_start_ms = hour.saturating_mul(HOUR_MS);
            let part_ms = left_ms.min(end_ms.saturating_sub(hour_start_ms));
            left_ms -= part_ms;
            end_ms = hour_start_ms;
            (part_ms > 0).then_some((hour, part_ms))
        })
    }
}

impl SessionTimes {
    /// Takes in a message.
    pub fn step(&mut self, line: LineTimes, arrival: Arrival) -> TimeStep {
        match arrival {
            Arrival::Live => {
                self.turn = TurnTimes::default();
                self.said_at(line.said_ms.unwrap_or(line.received_ms))
            }
            Arrival::Historical => self.historical(line),
        }
    }

    fn historical(&mut self, line: LineTimes) -> TimeStep {
        let step = match (line.said_ms, line.turn_end) {
            (Some(time_ms), _) => {
                let step = self.said_at(time_ms);
                match self.turn.start_ms {
                    // The gap before its first line is none of the turn's.
                    None => self.turn.start_ms = self.last_ms,
                    Some(_) => {
                        self.turn.active_ms = self.turn.active_ms.saturating_add(step.active_ms);
                    }
                }
                step
            }
            (
                None,
                Some(TurnEnd {
                    duration_ms: Some(duration_ms),
                }),
            ) => self.turn_took(duration_ms, line.received_ms),
            // An old line that tells no time: said when the one before it was. Before the first
            // that tells, only its arrival is known, and that must not stretch the session.
            (None, _) => TimeStep {
                hour: self.last_ms.unwrap_or(line.received_ms).div_euclid(HOUR_MS),
                active_ms: 0,
                wall_ms: 0,
                spread_to_ms: None,
            },
        };
        if line.turn_end.is_some() {
            self.turn = TurnTimes::default();
        }
        step
    }

    fn said_at(&mut self, time_ms: i64) -> TimeStep {
        let wall_before = self.wall_ms();
        let gap_ms = self.last_ms.map_or(0, |last| time_ms.saturating_sub(last));
        let active_ms = gap_ms.clamp(0, ACTIVE_GAP_MS_MAX);
        // Turns that ended before any line told a time took place before this one.
        let earliest_ms = match self.first_ms {
            Some(first) => first.min(time_ms),
            None => time_ms.saturating_sub(self.active_ms),
        };
        self.active_ms += active_ms;
        self.first_ms = Some(earliest_ms);
        self.last_ms = Some(self.last_ms.map_or(time_ms, |last| last.max(time_ms)));
        TimeStep {
            hour: time_ms.div_euclid(HOUR_MS),
            active_ms,
            wall_ms: self.wall_ms() - wall_before,
            spread_to_ms: None,
        }
    }

    /// Ends a turn whose last line tells how long it was and not when.
    fn turn_took(&mut self, duration_ms: i64, received_ms: i64) -> TimeStep {
        let wall_before = self.wall_ms();
        // No turn ends long after its end arrived. A day allows for clocks that differ, and for a
        // beginning that is known late, so that it does not matter how soon a stream is imported.
        let believed_ms = |start_ms: i64| {
            let latest_ms = received_ms.saturating_add(TURN_MS_MAX);
            duration_ms.clamp(0, latest_ms.saturating_sub(start_ms).clamp(0, TURN_MS_MAX))
        };
        let (took_ms, hour_ms, end_ms) = match self.last_ms {
            Some(last) => {
                let start_ms = self.turn.start_ms.map_or(last, |start| start.min(last));
                let took_ms = believed_ms(start_ms);
                let end_ms = last.max(start_ms.saturating_add(took_ms));
                self.last_ms = Some(end_ms);
                (took_ms, end_ms, end_ms)
            }
            // Where no time is known, turns are laid one before the other, back from their arrival.
            // Each begins within a day of it, so that many that claim much make no more hours.
            None => {
                let laid_ms = self.active_ms.rem_euclid(TURN_MS_MAX);
                let end_ms = received_ms.saturating_sub(laid_ms);
                (believed_ms(received_ms), received_ms, end_ms)
            }
        };
        let active_ms = took_ms
            .saturating_sub(self.turn.active_ms)
            .clamp(0, took_ms);
        self.active_ms += active_ms;
        TimeStep {
            hour: hour_ms.div_euclid(HOUR_MS),
            active_ms,
            wall_ms: self.wall_ms() - wall_before,
            spread_to_ms: Some(end_ms),
        }
    }

    /// Time between the first and the last message; of a session of which no time is known, how
    /// long its turns took.
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        match (self.first_ms, self.last_ms) {
            (Some(first), Some(last)) => last.saturating_sub(first),
            _ => self.active_ms,
        }
    }
}

/// Bytes that one message takes uncompacted: as a row of its own, in SQLite's table format.
///
/// Follows <https://www.sqlite.org/fileformat2.html> (b-tree cells and overflow pages): a record
/// that does not fit a page keeps a part in the cell and the rest in pages of its own.
#[must_use]
pub fn uncompacted_row_bytes(payload_bytes: usize) -> u64 {
    let usable = u64::from(PAGE_BYTES);
    let payload = payload_bytes as u64;
    // Record header: its own size, three serial types of a byte each (NULL key, two integers),
    // and the payload's; then the two integers (6 and 8 bytes).
    let record = 4 + varint_bytes(payload * 2 + 12) + 6 + 8 + payload;
    // Cell: size and key as varints, and a two-byte pointer in the page's directory.
    let cell = varint_bytes(record) + 6 + 2;
    let local_max = usable - 35;
    if record <= local_max {
        return cell + record;
    }
    let local_min = (usable - 12) * 32 / 255 - 23;
    let spread = local_min + (record - local_min) % (usable - 4);
    let local = if spread <= local_max {
        spread
    } else {
        local_min
    };
    let overflow_pages = (record - local).div_ceil(usable - 4);
    cell + local + 4 + overflow_pages * usable
}

fn varint_bytes(value: u64) -> u64 {
    u64::from((64 - value.max(1).leading_zeros()).div_ceil(7)).min(9)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const MINUTE_MS: i64 = 60_000;
    const NOW_MS: i64 = 1_800_000_000_000;

    /// An old line that carries the time `said_ms`.
    fn old(said_ms: i64) -> LineTimes {
        LineTimes {
            said_ms: Some(said_ms),
            received_ms: NOW_MS,
            ..LineTimes::default()
        }
    }

    /// A line that carries no time.
    fn silent(received_ms: i64) -> LineTimes {
        LineTimes {
            received_ms,
            ..LineTimes::default()
        }
    }

    /// A `result` line that carries no time.
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
            said_ms: Some(MINUTE_MS),
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
            .prop_map(|(said_ms, turn_end, received_ms, arrival)| {
                let line = LineTimes {
                    said_ms,
                    turn_end,
                    received_ms,
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
            for (said_ms, (line, arrival)) in lines {
                let line = LineTimes { said_ms: Some(said_ms), ..line };
                let step = with.step(line, arrival);
                let plain = LineTimes { turn_end: None, ..line };
                prop_assert_eq!(step, without.step(plain, arrival));
            }
        }
    }
}
