//! What time does: requests expire, idle agents end, those that do not end are killed, those that
//! found no place look for one again.

use std::sync::Arc;

use super::{Conversation, Effect};
use crate::limits::AGENT_END_MS_MAX;

impl Conversation {
    /// When [`Conversation::tick`] has something to do.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        let early = self.early.iter().map(|early| early.until_ms).min();
        let times = [
            self.idle_until_ms,
            self.kill_at_ms,
            self.expires_ms(),
            early,
            self.place.as_ref().and_then(|place| place.look_ms),
        ];
        times.into_iter().flatten().min()
    }

    pub(super) fn expires_ms(&self) -> Option<u64> {
        let unattended = self.is_unattended().then_some(self.unattended_since_ms)?;
        let oldest = self.requests.oldest_ms()?.max(unattended);
        Some(oldest + self.timeouts.unattended_ms)
    }

    /// Time has passed.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        if self.expires_ms().is_some_and(|at| at <= now_ms) {
            let opened_before = (now_ms + 1).saturating_sub(self.timeouts.unattended_ms);
            let why = "nobody was there to answer";
            let answers = self.requests.expire(opened_before, why);
            self.write_answers(answers);
            self.rest_again(now_ms);
        }
        self.take_up_early(now_ms);
        if let Some(place) = &mut self.place
            && place.look_ms.take_if(|at| *at <= now_ms).is_some()
        {
            let options = Arc::clone(&self.agent_options);
            self.effects.push(Effect::Start(options));
        }
        if self.idle_until_ms.is_some_and(|at| at <= now_ms) {
            self.idle_until_ms = None;
            self.end_input();
            self.kill_at_ms = Some(now_ms + AGENT_END_MS_MAX);
        }
        if self.kill_at_ms.is_some_and(|at| at <= now_ms) {
            self.kill_at_ms = None;
            self.kill();
        }
    }
}
