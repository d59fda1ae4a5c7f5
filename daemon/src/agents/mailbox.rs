//! The daemon's own events on their way to one stream.
//!
//! They are not history, so they are not in the store: each waits here until its stream has been sent
//! the lines that it comes after. The mailbox is bounded; a stream that does not read loses the oldest
//! of them, and is sent the newest, which have the present state.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Instant;

use betcode_schema_grpc::v1::agent_event::Event;
use betcode_service::sync::lock;
use tokio::sync::Notify;

use crate::limits::{MAILBOX_EVENTS_MAX, READ_TIMES_MAX};

/// Events for one stream.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    mail: Mutex<Mail>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Mail {
    events: VecDeque<(u64, Event)>,
    /// The stream ends when it was sent the lines up to this one.
    end_after: Option<u64>,
}

impl Mailbox {
    /// Puts an event in, to be sent after the lines up to `after`.
    pub(crate) fn put(&self, after: u64, event: Event) {
        let mut mail = lock(&self.mail);
        if mail.events.len() >= MAILBOX_EVENTS_MAX {
            mail.events.pop_front();
        }
        mail.events.push_back((after, event));
        drop(mail);
        self.changed.notify_one();
    }

    /// The stream ends behind what was put in, once it was sent the lines up to `after`.
    pub(crate) fn end(&self, after: u64) {
        lock(&self.mail).end_after = Some(after);
        self.changed.notify_one();
    }

    /// Whether a stream ends that was sent the lines up to `sequence`.
    pub(crate) fn ends_at(&self, sequence: u64) -> bool {
        let end_after = lock(&self.mail).end_after;
        end_after.is_some_and(|after| after <= sequence)
    }

    /// The next event that comes before line `sequence`.
    pub(crate) fn take_before(&self, sequence: u64) -> Option<Event> {
        let mut mail = lock(&self.mail);
        match mail.events.front() {
            Some((after, _)) if *after < sequence => {
                mail.events.pop_front().map(|(_, event)| event)
            }
            _ => None,
        }
    }

    /// Waits until something was put in.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }
}

/// When lines were read off an agent's pipe, the newest ones.
#[derive(Debug, Default)]
pub(crate) struct ReadTimes(Mutex<Times>);

#[derive(Debug, Default)]
struct Times {
    recorded: VecDeque<(u64, Instant)>,
    /// Of the batch that is being committed. Its lines reach the clients before we know their
    /// sequences.
    under_way: Option<Instant>,
}

impl ReadTimes {
    /// The lines that are recorded next were read then.
    pub(crate) fn begin(&self, at: Instant) {
        lock(&self.0).under_way = Some(at);
    }

    /// They are recorded, and `sequence` is the last of them.
    pub(crate) fn done(&self, sequence: u64) {
        let mut times = lock(&self.0);
        if let Some(at) = times.under_way.take() {
            if times.recorded.len() >= READ_TIMES_MAX {
                times.recorded.pop_front();
            }
            times.recorded.push_back((sequence, at));
        }
    }

    /// When a line was read; `None` when it is no agent's, or long ago.
    pub(crate) fn of(&self, sequence: u64) -> Option<Instant> {
        let times = lock(&self.0);
        let at = times.recorded.partition_point(|(last, _)| *last < sequence);
        match times.recorded.get(at) {
            Some(_) if at == 0 && times.recorded.len() >= READ_TIMES_MAX => None,
            Some((_, at)) => Some(*at),
            None => times.under_way,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use betcode_schema_grpc::v1::TurnComplete;

    #[test]
    fn an_event_waits_for_the_lines_before_it() {
        let mailbox = Mailbox::default();
        let event = Event::TurnComplete(TurnComplete::default());
        mailbox.put(5, event.clone());
        assert_eq!(mailbox.take_before(5), None);
        assert_eq!(mailbox.take_before(6), Some(event.clone()));
        for _ in 0..2 * MAILBOX_EVENTS_MAX {
            mailbox.put(0, event.clone());
        }
        let left = std::iter::from_fn(|| mailbox.take_before(1)).count();
        assert_eq!(left, MAILBOX_EVENTS_MAX);
    }

    #[test]
    fn a_stream_ends_when_it_was_sent_the_lines_before_its_end() {
        let mailbox = Mailbox::default();
        assert!(!mailbox.ends_at(u64::MAX));
        mailbox.end(5);
        assert!(!mailbox.ends_at(4) && mailbox.ends_at(5) && mailbox.ends_at(6));
    }
}
