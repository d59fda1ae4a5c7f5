//! How time and bytes of a session add up: pure accounting, kept with each commit.
//!
//! A message counts in the Unix hour of its time: its timestamp, or else its arrival. Active time is the sum of
//! the gaps between a message and the latest time before it. Each gap is capped at [`ACTIVE_GAP_MS_MAX`] and
//! counts in the hour of the later message. A message with an earlier time than the latest adds nothing, so
//! clock jumps and disorder never count twice.
//!
//! Imported streams have few timestamps or none. There the `result` that ends a turn says how long the turn took
//! ([`TurnEnd`]), and the turn counts as that long if its lines show less. It begins at its first line with a
//! timestamp, else at the session's latest time, and moves the session's latest time to its end. So active time
//! stays within wall-clock time, and a line of the next turn with a time before that end adds nothing. For live
//! messages durations are ignored, because each has a time.

#[cfg(test)]
mod tests;

use std::iter;

use serde::{Deserialize, Serialize};

use crate::limits::{
    ACTIVE_GAP_MS_MAX, PAGE_BYTES, TIMESTAMP_AFTER_ARRIVAL_MS_MAX, TIMESTAMP_MS_MIN, TURN_MS_MAX,
};
use crate::message::Arrival;

/// Milliseconds of an hour.
pub const HOUR_MS: i64 = 3_600_000;

/// What the line that ends a turn says about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TurnEnd {
    /// How long the turn took, from 0 to [`TURN_MS_MAX`]; `None` when the line does not say.
    ///
    /// **Assumption:** `duration_ms` of a `result` line is wall-clock time of the turn that the line
    /// ends, from its prompt on, as Claude Code and its SDK measure it. It is not a sum over the turns
    /// before, as `total_cost_usd` is, and not the time spent waiting for the model, which is
    /// `duration_api_ms`. Streams with a few timestamps confirm this; that it starts from zero in each turn of one
    /// process is not confirmed.
    pub duration_ms: Option<i64>,
}

/// What is known of the times of one line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineTimes {
    /// Its own timestamp.
    pub timestamp_ms: Option<i64>,
    /// The turn that it ends.
    pub turn_end: Option<TurnEnd>,
    /// When it was received.
    pub received_ms: i64,
    /// When the head of its session ends, see [`head_ends_ms`]; `None` if no line received with it says.
    pub head_ends_ms: Option<i64>,
}

/// When the head of a session ends. The head is the lines before the first with a timestamp, such as the
/// summaries that a transcript begins with. `lines` are the first that were received. `None` if none has a
/// timestamp, or if a turn's end with a duration comes first: then these are lines of a stream.
#[must_use]
pub fn head_ends_ms(lines: impl IntoIterator<Item = LineTimes>) -> Option<i64> {
    let has_duration =
        |line: &LineTimes| line.turn_end.is_some_and(|end| end.duration_ms.is_some());
    let mut head = lines.into_iter();
    let end = head.find(|line| line.timestamp_ms.is_some() || has_duration(line))?;
    end.timestamp_ms
}

/// A line's timestamp, if it is plausible. Any other would be its session's first or last time for good.
#[must_use]
pub fn plausible_timestamp(timestamp_ms: Option<i64>, received_ms: i64) -> Option<i64> {
    let latest_ms = received_ms.saturating_add(TIMESTAMP_AFTER_ARRIVAL_MS_MAX);
    timestamp_ms.filter(|timestamp_ms| (TIMESTAMP_MS_MIN..=latest_ms).contains(timestamp_ms))
}

/// The state of an imported turn that has not ended. Stored with the session, because an import may end within
/// a turn and a later one continue there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TurnTimes {
    /// The latest time just after the turn's first line with a timestamp.
    #[serde(
        rename = "s",
        alias = "start_ms",
        skip_serializing_if = "Option::is_none"
    )]
    start_ms: Option<i64>,
    /// Active time since then.
    #[serde(rename = "a", alias = "active_ms")]
    active_ms: i64,
}

impl TurnTimes {
    /// Whether nothing is known of the turn.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A session's times so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionTimes {
    /// The earliest time of a message.
    pub first_ms: Option<i64>,
    /// Latest.
    pub last_ms: Option<i64>,
    /// Active time.
    pub active_ms: i64,
    /// The turn that has not ended.
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
    /// Adds a message.
    pub fn step(&mut self, line: LineTimes, arrival: Arrival) -> TimeStep {
        match arrival {
            Arrival::Live => {
                self.turn = TurnTimes::default();
                self.add_at(line.timestamp_ms.unwrap_or(line.received_ms))
            }
            Arrival::Historical => self.historical(line),
        }
    }

    fn historical(&mut self, line: LineTimes) -> TimeStep {
        let step = match (line.timestamp_ms, line.turn_end) {
            (Some(time_ms), _) => {
                let step = self.add_at(time_ms);
                match self.turn.start_ms {
                    // The gap before its first line is not part of the turn.
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
            ) => self.end_turn(duration_ms, line.received_ms),
            // An old line without a timestamp has the time of the line before it, and in the head of a session
            // that of the first line with one. Otherwise only its arrival is known, which must not stretch the
            // session.
            (None, _) => TimeStep {
                hour: self
                    .last_ms
                    .or(line.head_ends_ms)
                    .unwrap_or(line.received_ms)
                    .div_euclid(HOUR_MS),
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

    fn add_at(&mut self, time_ms: i64) -> TimeStep {
        let wall_before = self.wall_ms();
        let gap_ms = self.last_ms.map_or(0, |last| time_ms.saturating_sub(last));
        let active_ms = gap_ms.clamp(0, ACTIVE_GAP_MS_MAX);
        // Turns that ended before the first timestamp took place before it.
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

    /// Ends a turn whose last line has a duration and no timestamp.
    fn end_turn(&mut self, duration_ms: i64, received_ms: i64) -> TimeStep {
        let wall_before = self.wall_ms();
        // No turn ends long after its end arrived. A day allows for clocks that differ, and for a
        // beginning that is known late, so that it does not matter how soon a stream is imported.
        let plausible_ms = |start_ms: i64| {
            let latest_ms = received_ms.saturating_add(TURN_MS_MAX);
            duration_ms.clamp(0, latest_ms.saturating_sub(start_ms).clamp(0, TURN_MS_MAX))
        };
        let (took_ms, hour_ms, end_ms) = match self.last_ms {
            Some(last) => {
                let start_ms = self.turn.start_ms.map_or(last, |start| start.min(last));
                let took_ms = plausible_ms(start_ms);
                let end_ms = last.max(start_ms.saturating_add(took_ms));
                self.last_ms = Some(end_ms);
                (took_ms, end_ms, end_ms)
            }
            // Where no time is known, turns are laid one before the other, back from their arrival.
            // Each begins within a day of it, so that many that claim much make no more hours.
            None => {
                let laid_ms = self.active_ms.rem_euclid(TURN_MS_MAX);
                let end_ms = received_ms.saturating_sub(laid_ms);
                (plausible_ms(received_ms), received_ms, end_ms)
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
    /// long its turns took. Never negative: only a damaged row has its last time before its first.
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        match (self.first_ms, self.last_ms) {
            (Some(first), Some(last)) => last.saturating_sub(first).max(0),
            _ => self.active_ms,
        }
    }
}

/// Bytes that one message takes uncompacted: as a row of its own, in SQLite's table format.
///
/// Follows <https://www.sqlite.org/fileformat2.html> (b-tree cells and overflow pages): a record
/// that does not fit a page keeps a part in the cell and the rest in pages of its own.
#[must_use]
pub fn uncompacted_row_bytes(payload_bytes: u64) -> u64 {
    let usable = u64::from(PAGE_BYTES);
    // Record header: its own size, three serial types of a byte each (NULL key, two integers),
    // and the payload's; then the two integers (6 and 8 bytes).
    let record = 4 + varint_bytes(payload_bytes * 2 + 12) + 6 + 8 + payload_bytes;
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

/// A history, or a session: what all its messages take as rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) messages: u64,
    pub(crate) raw_bytes: u64,
    pub(crate) uncompacted_bytes: u64,
}

impl Rows {
    /// Bytes that its hot messages take as rows: their payloads, and beside each what a row of it has
    /// on average. Exact while all of it is hot.
    pub(crate) fn hot_bytes(&self, messages: u64, payload_bytes: u64) -> u64 {
        let beside = self.uncompacted_bytes.saturating_sub(self.raw_bytes);
        let hot_messages = messages.min(self.messages);
        let share =
            u128::from(beside) * u128::from(hot_messages) / u128::from(self.messages.max(1));
        payload_bytes.saturating_add(u64::try_from(share).unwrap_or(u64::MAX))
    }
}

fn varint_bytes(value: u64) -> u64 {
    u64::from((64 - value.max(1).leading_zeros()).div_ceil(7)).min(9)
}
