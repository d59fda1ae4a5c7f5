//! A budget for the bytes of long lines on their way to clients.
//!
//! What a client has asked for and does not read stays in memory. For short lines, the number of answers that are read
//! ahead bounds that. Long lines count against this budget, with the events made of them, until the client has taken
//! them. A replay of lines that exceed what is left of it waits, and holds nothing meanwhile.

use std::sync::Arc;
use std::time::Duration;

use betcode_storage::Message;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tonic::Status;

use crate::admission::Limit;
use crate::limits::{
    LONG_LINE_BYTES_MIN, LONG_LINES_BYTES_MAX, LONG_LINES_UNIT_BYTES, LONG_LINES_WAIT_MS_MAX,
};
use crate::observe::ms;
use crate::status::exhausted;

const HINT: &str = "read the replays that are open, or end them, and go on after the last sequence";
const UNITS_MAX: u32 = (LONG_LINES_BYTES_MAX / LONG_LINES_UNIT_BYTES) as u32;

/// Bytes that long lines may take together.
#[derive(Debug, Clone)]
pub(crate) struct LongLineBudget {
    units: Arc<Semaphore>,
    /// Counts what is refused; what is used of it is in `units`.
    limit: Arc<Limit>,
    /// How long a replay waits for some.
    wait_max: Duration,
}

/// Bytes of the budget; given back when the last clone is dropped.
#[derive(Debug, Clone)]
pub(crate) struct LongLinePermit(Arc<OwnedSemaphorePermit>);

impl Default for LongLineBudget {
    fn default() -> Self {
        Self {
            units: Arc::new(Semaphore::new(UNITS_MAX as usize)),
            limit: Limit::new("long_lines_bytes", HINT, LONG_LINES_BYTES_MAX as u64),
            wait_max: ms(LONG_LINES_WAIT_MS_MAX),
        }
    }
}

impl LongLineBudget {
    /// Takes so many bytes if there are as many left now.
    pub(crate) fn try_take(&self, bytes: usize) -> Option<LongLinePermit> {
        let permit = Arc::clone(&self.units).try_acquire_many_owned(units(bytes));
        permit.ok().map(|permit| LongLinePermit(Arc::new(permit)))
    }

    /// Waits for its turn to take so many bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when those who have them do not read for long.
    pub(crate) async fn take(&self, bytes: usize) -> Result<LongLinePermit, Status> {
        let taking = Arc::clone(&self.units).acquire_many_owned(units(bytes));
        match timeout(self.wait_max, taking).await {
            Ok(Ok(permit)) => Ok(LongLinePermit(Arc::new(permit))),
            _ => {
                let limit = self.limit();
                limit.note_refused();
                Err(exhausted(limit.name(), limit.used(), limit.max(), HINT))
            }
        }
    }

    /// The limit, with what is used of it now.
    pub(crate) fn limit(&self) -> &Arc<Limit> {
        let left = self.units.available_permits() * LONG_LINES_UNIT_BYTES;
        let used = LONG_LINES_BYTES_MAX.saturating_sub(left) as u64;
        self.limit.observe(used);
        &self.limit
    }
}

impl LongLinePermit {
    /// Whether it is enough for so many bytes.
    pub(crate) fn covers(&self, bytes: usize) -> bool {
        self.0.num_permits() >= units(bytes) as usize
    }
}

/// A line larger than the whole budget passes when no other is there: otherwise it never could.
fn units(bytes: usize) -> u32 {
    let units = bytes.div_ceil(LONG_LINES_UNIT_BYTES);
    u32::try_from(units).map_or(UNITS_MAX, |units| units.min(UNITS_MAX))
}

/// Bytes that lines take of the budget, each with what is made of it; 0 when none of them is long.
pub(crate) fn bytes_needed(lines: &[Message]) -> usize {
    let long = |bytes: &usize| *bytes >= LONG_LINE_BYTES_MIN;
    let lines = lines.iter().map(|line| line.payload.len()).filter(long);
    2 * lines.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn line(bytes: usize) -> Message {
        Message {
            sequence: 1,
            received_ms: 0,
            payload: Bytes::from(vec![b'x'; bytes]),
        }
    }

    #[test]
    fn only_long_lines_count() {
        let short = vec![line(LONG_LINE_BYTES_MIN - 1); 100];
        assert_eq!(bytes_needed(&short), 0);
        let mixed = [line(10), line(LONG_LINE_BYTES_MIN)];
        assert_eq!(bytes_needed(&mixed), 2 * LONG_LINE_BYTES_MIN);
    }

    #[tokio::test]
    async fn a_replay_that_waits_goes_on_when_the_last_permit_is_dropped() {
        let budget = LongLineBudget::default();
        // More than there is: it passes alone.
        let all = budget.try_take(10 * LONG_LINES_BYTES_MAX).unwrap();
        let with_the_events = all.clone();
        assert!(budget.try_take(1).is_none());
        let waiting = tokio::spawn({
            let budget = budget.clone();
            async move { budget.take(LONG_LINES_BYTES_MAX).await }
        });
        drop(all);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(with_the_events);
        assert!(waiting.await.unwrap().unwrap().covers(LONG_LINES_BYTES_MAX));
    }

    #[tokio::test]
    async fn a_replay_that_waits_in_vain_gets_the_name_of_the_limit() {
        let budget = LongLineBudget {
            wait_max: Duration::from_millis(1),
            ..LongLineBudget::default()
        };
        let _all = budget.try_take(LONG_LINES_BYTES_MAX).unwrap();
        let refused = budget.take(1).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
        assert!(refused.message().contains("long_lines_bytes"), "{refused}");
    }
}
