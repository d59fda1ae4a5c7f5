//! When the store received each message.
//!
//! Many messages arrive together, so the times are stored as runs: how many messages have the same time,
//! and how many milliseconds that is after the run before (at first after 1970).

use super::super::{Entry, SegmentError};
use super::varint::{Cursor, put, unzigzag, zigzag};

/// The runs of the messages' received times.
pub(super) fn write(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut times = Vec::new();
    let mut before_ms = 0_i64;
    for run in entries.chunk_by(|a, b| a.received_ms == b.received_ms) {
        let Some(first) = run.first() else { continue };
        put(&mut times, run.len() as u64);
        put(
            &mut times,
            zigzag(first.received_ms.wrapping_sub(before_ms)),
        );
        before_ms = first.received_ms;
    }
    times
}

/// The received times of so many messages.
pub(super) fn read(times: &[u8], messages: usize) -> Result<Vec<i64>, SegmentError> {
    let mut cursor = Cursor::new(times);
    let mut received_ms = Vec::with_capacity(messages);
    let mut now_ms = 0_i64;
    while received_ms.len() < messages {
        let count = cursor.length()?;
        now_ms = now_ms.wrapping_add(unzigzag(cursor.varint()?));
        if count == 0 || count > messages - received_ms.len() {
            return Err(SegmentError::Inconsistent {
                what: "times do not fit the messages",
            });
        }
        received_ms.resize(received_ms.len() + count, now_ms);
    }
    Ok(received_ms)
}
