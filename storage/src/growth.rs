//! How time and bytes of a session add up: pure accounting, kept with each commit.
//!
//! A message is attributed to the Unix hour in which it was said. Active time is the sum of the
//! gaps between one message and the latest said before it, each capped at
//! [`ACTIVE_GAP_MS_MAX`], attributed to the hour of the later message; a message said before
//! the latest adds none, so clock jumps and disorder never count twice.

use crate::limits::{ACTIVE_GAP_MS_MAX, PAGE_BYTES};
use crate::message::Arrival;

/// Milliseconds of an hour.
pub const HOUR_MS: i64 = 3_600_000;

/// A session's times so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionTimes {
    /// Earliest time at which a message was said.
    pub first_ms: Option<i64>,
    /// Latest.
    pub last_ms: Option<i64>,
    /// Active time.
    pub active_ms: i64,
}

/// What one message adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeStep {
    /// Unix hour it counts for.
    pub hour: i64,
    /// Active time it adds to that hour.
    pub active_ms: i64,
    /// Wall-clock time it adds to the session.
    pub wall_ms: i64,
}

impl SessionTimes {
    /// Takes in a message that carries `said_ms` (when it tells) and was received at `received_ms`.
    pub fn step(&mut self, said_ms: Option<i64>, received_ms: i64, arrival: Arrival) -> TimeStep {
        let wall_before = self.wall_ms();
        let known = match arrival {
            Arrival::Live => Some(said_ms.unwrap_or(received_ms)),
            Arrival::Historical => said_ms,
        };
        let Some(time_ms) = known else {
            // An old line that tells no time: said when the one before it was. Before the first
            // that tells, only its arrival is known, and that must not stretch the session.
            let hour_ms = self.last_ms.unwrap_or(received_ms);
            return TimeStep {
                hour: hour_ms.div_euclid(HOUR_MS),
                active_ms: 0,
                wall_ms: 0,
            };
        };
        let gap_ms = self.last_ms.map_or(0, |last| time_ms.saturating_sub(last));
        let active_ms = gap_ms.clamp(0, ACTIVE_GAP_MS_MAX);
        self.active_ms += active_ms;
        self.first_ms = Some(self.first_ms.map_or(time_ms, |first| first.min(time_ms)));
        self.last_ms = Some(self.last_ms.map_or(time_ms, |last| last.max(time_ms)));
        TimeStep {
            hour: time_ms.div_euclid(HOUR_MS),
            active_ms,
            wall_ms: self.wall_ms() - wall_before,
        }
    }

    /// Time between the first and the last message.
    #[must_use]
    pub fn wall_ms(&self) -> i64 {
        match (self.first_ms, self.last_ms) {
            (Some(first), Some(last)) => last.saturating_sub(first),
            _ => 0,
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
    use super::*;

    const MINUTE_MS: i64 = 60_000;

    #[test]
    fn gaps_count_up_to_five_minutes() {
        let mut times = SessionTimes::default();
        for minute in [0, 1, 4, 100] {
            times.step(Some(minute * MINUTE_MS), 0, Arrival::Live);
        }
        assert_eq!(times.active_ms, (1 + 3 + 5) * MINUTE_MS);
        assert_eq!(times.wall_ms(), 100 * MINUTE_MS);
    }

    #[test]
    fn messages_out_of_order_add_no_time_twice() {
        let mut times = SessionTimes::default();
        for minute in [2, 1, 3, 2, 4] {
            times.step(Some(minute * MINUTE_MS), 0, Arrival::Live);
        }
        assert_eq!(times.active_ms, 2 * MINUTE_MS);
        assert_eq!(times.wall_ms(), 3 * MINUTE_MS);
    }

    #[test]
    fn old_messages_without_time_belong_to_the_one_before() {
        let mut times = SessionTimes::default();
        let now_ms = 1_800_000_000_000;
        let leading = times.step(None, now_ms, Arrival::Historical);
        assert_eq!((leading.hour, times.wall_ms()), (now_ms / HOUR_MS, 0));
        times.step(Some(HOUR_MS), now_ms, Arrival::Historical);
        let step = times.step(None, now_ms, Arrival::Historical);
        assert_eq!(
            step,
            TimeStep {
                hour: 1,
                active_ms: 0,
                wall_ms: 0
            }
        );
        assert_eq!(times.last_ms, Some(HOUR_MS));
    }

    #[test]
    fn live_messages_without_time_were_said_on_arrival() {
        let mut times = SessionTimes::default();
        times.step(None, 10_000, Arrival::Live);
        let step = times.step(None, 12_500, Arrival::Live);
        assert_eq!((step.active_ms, step.wall_ms), (2_500, 2_500));
    }

    #[test]
    fn hours_before_1970_round_down() {
        let mut times = SessionTimes::default();
        assert_eq!(times.step(Some(-1), 0, Arrival::Live).hour, -1);
    }
}
