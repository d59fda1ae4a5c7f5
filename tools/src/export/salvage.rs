//! What can still be read of a damaged session.

use std::ops::ControlFlow;

use betcode_storage::{ErrorKind, ReadRange, SessionId, Store};
use serde::Serialize;

use super::content::{LineEnds, Written};
use crate::error::Result;

/// Messages that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// The first.
    pub first_sequence: u64,
    /// The last.
    pub last_sequence: u64,
}

/// Hands out every message of a session that can be read, as [`super::content::pieces`] does, and
/// says which cannot. `Break` ends it early.
///
/// # Errors
/// Of `sink`, and of reading when it is not damage.
pub fn pieces(
    store: &Store,
    session: &SessionId,
    sink: &mut dyn FnMut(&[u8]) -> Result<ControlFlow<()>>,
) -> Result<(Written, Vec<Missing>)> {
    // Without them each message ends its line.
    let ends = LineEnds::of(store, session).unwrap_or_default();
    let mut written = Written::default();
    let mut missing = Vec::new();
    let mut next = 1;
    // Up to the last message in the database, also beyond what the session's row or import record says.
    let mut replay = store.salvage(session, ReadRange::all())?;
    for message in replay.by_ref() {
        let message = match message {
            Ok(message) => message,
            // The replay continues after the damage.
            Err(error) if error.kind() == ErrorKind::Damaged => continue,
            Err(error) => return Err(error.into()),
        };
        note(&mut missing, next, message.sequence.saturating_sub(1));
        next = message.sequence + 1;
        written.messages += 1;
        written.last_sequence = Some(message.sequence);
        let newline: &[u8] = match ends.newline_after(message.sequence) {
            true => b"\n",
            false => b"",
        };
        for piece in [&message.payload, newline] {
            written.bytes += piece.len() as u64;
            if sink(piece)?.is_break() {
                return Ok((written, missing));
            }
        }
    }
    note(&mut missing, next, replay.end());
    Ok((written, missing))
}

/// Adds `first` to `last`, if there are any, to what is missing.
fn note(missing: &mut Vec<Missing>, first: u64, last: u64) {
    if first > last {
        return;
    }
    match missing.last_mut() {
        Some(run) if run.last_sequence + 1 >= first => run.last_sequence = last,
        _ => missing.push(Missing {
            first_sequence: first,
            last_sequence: last,
        }),
    }
}
