//! Where clients' replays ended, so that their conversations go on there.
//!
//! Many clients resume a session, show it, and then begin to converse. The lines that are recorded between the
//! two would be in neither, and such a client does not know that it misses them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use betcode_service::sync::lock;
use betcode_storage::SessionKey;

use crate::limits::{REPLAY_NOTED_MS, REPLAYS_NOTED_MAX};
use crate::observe::ms;

/// A session that a client was sent up to a line.
#[derive(Debug)]
struct Replayed {
    client: Arc<str>,
    session: SessionKey,
    last: u64,
    ended: Instant,
}

/// The ends of the newest replays.
#[derive(Debug, Default)]
pub(crate) struct Replays(Mutex<VecDeque<Replayed>>);

impl Replays {
    /// A client was sent all of a session up to `last`.
    pub(crate) fn note(&self, now: Instant, client: Arc<str>, session: SessionKey, last: u64) {
        let mut ends = lock(&self.0);
        ends.retain(|end| end.is_fresh(now) && !end.is_of(&client, session));
        if ends.len() >= REPLAYS_NOTED_MAX {
            ends.pop_front();
        }
        ends.push_back(Replayed {
            client,
            session,
            last,
            ended: now,
        });
    }

    /// The last line of a session that a client was sent by a replay just now. It is told once: what the client
    /// is sent from then on is not known here.
    pub(crate) fn take(&self, now: Instant, client: &str, session: SessionKey) -> Option<u64> {
        let mut ends = lock(&self.0);
        let at = ends.iter().position(|end| end.is_of(client, session))?;
        let end = ends.remove(at)?;
        end.is_fresh(now).then_some(end.last)
    }
}

impl Replayed {
    fn is_of(&self, client: &str, session: SessionKey) -> bool {
        &*self.client == client && self.session == session
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.ended) < ms(REPLAY_NOTED_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::tests::keys;

    #[test]
    fn a_replays_end_is_told_once_to_its_client_for_its_session_and_for_a_while() {
        let ([s, t], replays, now) = (keys(), Replays::default(), Instant::now());
        let late = now + ms(REPLAY_NOTED_MS);
        replays.note(now, "ann".into(), s, 3);
        assert_eq!(replays.take(now, "bob", s), None);
        assert_eq!(replays.take(now, "ann", t), None);
        assert_eq!(replays.take(now, "ann", s), Some(3));
        assert_eq!(replays.take(now, "ann", s), None);
        // The last one counts.
        replays.note(now, "ann".into(), s, 3);
        replays.note(now, "ann".into(), s, 2);
        assert_eq!(replays.take(now, "ann", s), Some(2));
        assert_eq!(replays.take(now, "ann", s), None);
        replays.note(now, "ann".into(), s, 3);
        assert_eq!(replays.take(late, "ann", s), None);
    }

    #[test]
    fn so_many_ends_are_kept_and_none_for_long() {
        let ([s, _], replays, now) = (keys(), Replays::default(), Instant::now());
        for client in 0..=REPLAYS_NOTED_MAX {
            replays.note(now, client.to_string().into(), s, 1);
        }
        assert_eq!(lock(&replays.0).len(), REPLAYS_NOTED_MAX);
        assert_eq!(replays.take(now, "0", s), None);
        replays.note(now + ms(REPLAY_NOTED_MS), "ann".into(), s, 1);
        assert_eq!(lock(&replays.0).len(), 1);
    }
}
