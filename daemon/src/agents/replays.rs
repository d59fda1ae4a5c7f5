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

/// One device of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) client: Arc<str>,
    /// Its connection to the relay, which tells it from the client's others; `None` where the client is a connection
    /// itself, or the relay does not say.
    pub(crate) connection: Option<Arc<str>>,
}

/// A session that a device was sent up to a line.
#[derive(Debug)]
struct Replayed {
    device: Device,
    session: SessionKey,
    last: u64,
    ended: Instant,
    /// It was told to another connection of the client, which may be the same device or not.
    told_to_another: bool,
}

/// The ends of the newest replays.
#[derive(Debug, Default)]
pub(crate) struct Replays(Mutex<VecDeque<Replayed>>);

impl Replays {
    /// A device was sent all of a session up to `last`.
    pub(crate) fn note(&self, now: Instant, device: Device, session: SessionKey, last: u64) {
        let mut ends = lock(&self.0);
        ends.retain(|end| end.is_fresh(now) && !end.is_of(&device, session));
        if ends.len() >= REPLAYS_NOTED_MAX {
            ends.pop_front();
        }
        ends.push_back(Replayed {
            device,
            session,
            last,
            ended: now,
            told_to_another: false,
        });
    }

    /// The last line of a session that a device was sent by a replay just now. It is told once: what the device
    /// is sent from then on is not known here.
    ///
    /// A device may have connected again since its replay. On a connection without one, the client's end that is
    /// furthest back counts, so that no line is missed, whichever of its devices this is. It is kept for the
    /// connection that it is of.
    pub(crate) fn take(&self, now: Instant, device: &Device, session: SessionKey) -> Option<u64> {
        let mut ends = lock(&self.0);
        ends.retain(|end| end.is_fresh(now));
        if let Some(at) = ends.iter().position(|end| end.is_of(device, session)) {
            return ends.remove(at).map(|end| end.last);
        }
        let of_client = |end: &&mut Replayed| {
            end.device.client == device.client && end.session == session && !end.told_to_another
        };
        let furthest_back = ends
            .iter_mut()
            .filter(of_client)
            .min_by_key(|end| end.last)?;
        furthest_back.told_to_another = true;
        Some(furthest_back.last)
    }
}

impl Replayed {
    fn is_of(&self, device: &Device, session: SessionKey) -> bool {
        self.device == *device && self.session == session
    }

    fn is_fresh(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.ended) < ms(REPLAY_NOTED_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hub::tests::keys;

    fn client(name: &str) -> Device {
        Device {
            client: name.into(),
            connection: None,
        }
    }

    fn connection(name: &str) -> Device {
        Device {
            connection: Some(name.into()),
            ..client("ann")
        }
    }

    #[test]
    fn a_replays_end_is_told_once_to_its_client_for_its_session_and_for_a_while() {
        let ([s, t], replays, now) = (keys(), Replays::default(), Instant::now());
        let late = now + ms(REPLAY_NOTED_MS);
        let (ann, bob) = (client("ann"), client("bob"));
        replays.note(now, ann.clone(), s, 3);
        assert_eq!(replays.take(now, &bob, s), None);
        assert_eq!(replays.take(now, &ann, t), None);
        assert_eq!(replays.take(now, &ann, s), Some(3));
        assert_eq!(replays.take(now, &ann, s), None);
        // The last one counts.
        replays.note(now, ann.clone(), s, 3);
        replays.note(now, ann.clone(), s, 2);
        assert_eq!(replays.take(now, &ann, s), Some(2));
        assert_eq!(replays.take(now, &ann, s), None);
        replays.note(now, ann.clone(), s, 3);
        assert_eq!(replays.take(late, &ann, s), None);
    }

    #[test]
    fn devices_of_one_client_have_each_its_own() {
        let ([s, _], replays, now) = (keys(), Replays::default(), Instant::now());
        replays.note(now, connection("phone"), s, 3);
        replays.note(now, connection("laptop"), s, 5);
        assert_eq!(replays.take(now, &connection("laptop"), s), Some(5));
        assert_eq!(replays.take(now, &connection("phone"), s), Some(3));
        assert_eq!(replays.take(now, &connection("phone"), s), None);
    }

    #[test]
    fn a_device_that_connected_again_gets_what_is_furthest_back_and_takes_it_from_nobody() {
        let ([s, t], replays, now) = (keys(), Replays::default(), Instant::now());
        replays.note(now, connection("phone"), s, 5);
        replays.note(now, connection("laptop"), s, 3);
        replays.note(now, connection("laptop"), t, 1);
        assert_eq!(replays.take(now, &client("bob"), s), None);
        assert_eq!(replays.take(now, &connection("phone again"), s), Some(3));
        assert_eq!(replays.take(now, &connection("laptop"), s), Some(3));
        assert_eq!(replays.take(now, &connection("laptop again"), s), Some(5));
        // Each is told to one other connection only.
        assert_eq!(replays.take(now, &connection("third"), s), None);
        assert_eq!(replays.take(now, &connection("phone"), s), Some(5));
    }

    #[test]
    fn so_many_ends_are_kept_and_none_for_long() {
        let ([s, _], replays, now) = (keys(), Replays::default(), Instant::now());
        for number in 0..=REPLAYS_NOTED_MAX {
            replays.note(now, client(&number.to_string()), s, 1);
        }
        assert_eq!(lock(&replays.0).len(), REPLAYS_NOTED_MAX);
        assert_eq!(replays.take(now, &client("0"), s), None);
        replays.note(now + ms(REPLAY_NOTED_MS), client("ann"), s, 1);
        assert_eq!(lock(&replays.0).len(), 1);
    }
}
