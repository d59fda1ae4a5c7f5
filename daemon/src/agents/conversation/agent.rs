//! What the agent does: starts, prints, asks, ends a turn, ends.

use std::sync::Arc;

use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::{AgentStatus, TurnComplete};

use super::clients::messages;
use super::{
    Agent, AwaitedPlace, Conversation, Effect, Exit, InputKind, QueuedPrompt, Recipients,
    StreamKey, Turn,
};
use crate::agents::prompt;
use crate::agents::refusal::Refusal;
use crate::agents::signals::{AgentSignal, Ask};
use crate::limits::{
    AGENT_END_MS_MAX, AGENT_PLACE_ASK_MS, AGENT_PLACE_MS_MAX, AGENT_PLACE_POLL_MS, TOOL_CALLS_MAX,
    TOOL_NAME_BYTES_MAX,
};
use betcode_storage::capacity::text;

/// Why a turn ended that was cancelled, and of which the agent printed no `result`.
pub(super) const CANCELLED: &str = "cancelled";
/// Why a turn ended that did not come about, or not to a `result`.
pub(super) const FAILED: &str = "error";

impl Conversation {
    /// It runs.
    pub(crate) fn started(&mut self) {
        self.place = None;
        self.agent = Agent::Running;
        self.is_fresh = true;
        let plans = self.agent_options.plan_mode;
        if plans || self.shown_plan_mode {
            self.tell_plan_mode(Recipients::All, plans);
        }
        self.shown_plan_mode = plans;
        self.hand_over();
    }

    /// It cannot start before another session's agent has ended, which was asked to.
    pub(crate) fn wait_for_place(&mut self, now_ms: u64) {
        let is_first = self.place.is_none();
        let place = self.place.get_or_insert(AwaitedPlace {
            look_ms: None,
            ask_ms: now_ms + AGENT_PLACE_ASK_MS,
            until_ms: now_ms + AGENT_PLACE_MS_MAX,
        });
        place.look_ms = Some(now_ms + AGENT_PLACE_POLL_MS);
        if is_first {
            self.tell_status("waiting until an agent at rest has made room");
        }
    }

    /// Another session needs the agent's place.
    pub(crate) fn yield_slot(&mut self, now_ms: u64) {
        if self.is_idle() {
            self.end_input();
            self.end_soon(now_ms);
        }
    }

    /// It does not start.
    pub(crate) fn not_started(&mut self, refusal: Refusal) {
        self.turn_failed(refusal);
    }

    pub(super) fn turn_failed(&mut self, mut refusal: Refusal) {
        let turn = self.turn.take();
        self.forget_work();
        self.place = None;
        self.requests.close();
        refusal = self.forget_waiting(refusal);
        self.tell(Recipients::All, refusal.event());
        if let Some(turn) = turn {
            let stop_reason = match turn.cancelled {
                true => CANCELLED,
                false => FAILED,
            };
            self.tell_turn_complete(Recipients::All, stop_reason);
        }
        self.tell_status("");
    }

    /// Tells that a turn is over of which the agent prints no `result`: whoever waits for the end of a turn
    /// has nothing else to wait for.
    pub(super) fn tell_turn_complete(&mut self, to: Recipients, stop_reason: &str) {
        let stop_reason = stop_reason.to_owned();
        let complete = Event::TurnComplete(TurnComplete { stop_reason });
        self.tell(to, complete);
    }

    /// Forgets the messages that wait, and says so.
    fn forget_waiting(&mut self, mut refusal: Refusal) -> Refusal {
        let count = std::mem::take(&mut self.waiting).len();
        if count > 0 {
            refusal.message += &format!(
                "; {} that waited for the turn to end will not be handed over: say them again",
                messages(count)
            );
            refusal = refusal.with("messages_forgotten", count.to_string());
        }
        refusal
    }

    /// The session is recorded up to here.
    pub(super) fn recorded(&mut self, sequence: u64) {
        self.recorded = self.recorded.max(sequence);
    }

    /// Lines of the agent are on disk, the last of them this one; some mean something.
    pub(crate) fn heard(&mut self, now_ms: u64, last: u64, signals: Vec<(u64, AgentSignal)>) {
        for (sequence, signal) in signals {
            self.seen(now_ms, sequence, signal);
        }
        self.recorded(last);
        self.heard = self.heard.max(last);
        self.take_up_early(now_ms);
    }

    pub(super) fn seen(&mut self, now_ms: u64, sequence: u64, signal: AgentSignal) {
        self.recorded(sequence);
        match signal {
            AgentSignal::Began {
                session_id,
                model,
                plan_mode,
                ..
            } => {
                if !session_id.is_empty() {
                    self.agent_session_id = session_id;
                }
                // A longer one is none that a client can ask for.
                if model.len() <= TOOL_NAME_BYTES_MAX {
                    self.reported.model = model;
                }
                if let Some(plan_mode) = plan_mode {
                    self.reports_plan_mode(sequence, plan_mode);
                }
            }
            AgentSignal::Mode { plan_mode } => self.reports_plan_mode(sequence, plan_mode),
            AgentSignal::Asks(ask) => self.asked(now_ms, sequence, ask),
            AgentSignal::AsksOther {
                request_id,
                subtype,
            } => self.write_answers(vec![prompt::no_answer(&request_id, &subtype)]),
            AgentSignal::Withdraws(request_id) => {
                if self.requests.withdrawn(&request_id) {
                    self.rest_again(now_ms);
                }
                self.tell_status("");
            }
            AgentSignal::ToolsBegin(ids) => self.tools_begin(ids),
            AgentSignal::ToolsEnd(ids) => self.tools_end(&ids),
            AgentSignal::Compacts(compacts) => {
                self.compacts = compacts;
                // Clients learn it from the line, whose status is THINKING when it is over.
                if !compacts {
                    self.tell_status_unless(AgentStatus::Thinking);
                }
            }
            AgentSignal::TurnOver => self.turn_over(now_ms),
        }
    }

    fn tools_begin(&mut self, ids: Vec<String>) {
        let before = self.agent_status();
        self.tools.extend(ids);
        // Of more than that some are left out: the turn is at work until those that are known have ended.
        while self.tools.len() > TOOL_CALLS_MAX {
            self.tools.pop_last();
        }
        self.tell_status_unless(before);
    }

    fn tools_end(&mut self, ids: &[String]) {
        let before = self.agent_status();
        for id in ids {
            self.tools.remove(id);
        }
        self.tell_status_unless(before);
    }

    fn tell_status_unless(&mut self, before: AgentStatus) {
        if self.agent_status() != before {
            self.tell_status("");
        }
    }

    /// What the turn was doing is over with it.
    pub(super) fn forget_work(&mut self) {
        self.tools.clear();
        self.compacts = false;
    }

    pub(super) fn asked(&mut self, now_ms: u64, sequence: u64, ask: Ask) {
        // Nobody can answer one whose input is closed.
        if self.agent == Agent::Ending {
            return;
        }
        match self.requests.asked(now_ms, sequence, ask) {
            // Clients are shown the request as an open one until they get the answer's line.
            Some(answer) => self.write_answers(vec![answer]),
            None => {
                // It waits for the answer, in a turn or not.
                self.idle_until_ms = None;
                self.tell_status("");
                self.retell(sequence);
            }
        }
    }

    /// The agent's line says whether it plans only. The line itself tells clients, except those whose
    /// stream began behind it.
    fn reports_plan_mode(&mut self, sequence: u64, plan_mode: bool) {
        self.reported.plan_mode = Some(plan_mode);
        if self.shown_plan_mode != plan_mode {
            for key in self.streams_behind(sequence) {
                self.tell_plan_mode(Recipients::One(key), plan_mode);
            }
        }
        self.shown_plan_mode = plan_mode;
    }

    /// Streams that began behind a line before we heard of it.
    fn streams_behind(&self, sequence: u64) -> Vec<StreamKey> {
        let streams = self.streams.iter();
        let behind = streams.filter(|(_, stream)| stream.from >= sequence);
        behind.map(|(key, _)| *key).collect()
    }

    /// Tells a request again to streams that began behind its line before we heard of it.
    pub(super) fn retell(&mut self, sequence: u64) {
        let behind = self.streams_behind(sequence);
        if behind.is_empty() {
            return;
        }
        for event in self.requests.events_of(sequence) {
            for key in &behind {
                self.tell(Recipients::One(*key), event.clone());
            }
        }
    }

    pub(super) fn turn_over(&mut self, now_ms: u64) {
        // One that the agent does not have yet cannot be over: that was an earlier one.
        if self.turn.as_ref().is_some_and(|turn| !turn.written) {
            return;
        }
        self.turn = None;
        self.forget_work();
        self.requests.close();
        if !self.closing && self.agent == Agent::Running {
            self.kill_at_ms = None;
        }
        if self.agent == Agent::Ending {
            self.end_soon(now_ms);
        }
        match self.waiting.pop_front() {
            Some(said) if !self.closing => self.begin(now_ms, said),
            _ => {
                self.rest(now_ms);
                self.tell_status("");
            }
        }
    }

    /// Nothing to do for the agent.
    pub(super) fn rest(&mut self, now_ms: u64) {
        if self.closing {
            self.end_input();
        } else {
            self.idle_until_ms = Some(now_ms + self.timeouts.idle_ms);
        }
    }

    /// What an agent without a turn asked has its answer.
    pub(super) fn rest_again(&mut self, now_ms: u64) {
        let rests = self.turn.is_none() && !self.requests.waits();
        if rests && self.agent == Agent::Running && self.idle_until_ms.is_none() {
            self.rest(now_ms);
        }
    }

    pub(super) fn end_input(&mut self) {
        if self.agent == Agent::Running {
            self.agent = Agent::Ending;
            self.idle_until_ms = None;
            self.effects.push(Effect::EndInput);
            // No answer reaches it any more.
            if self.requests.waits() {
                self.requests.close();
                self.tell_status("");
            }
        }
    }

    /// A line did not reach the agent, which has closed its input. It may finish a turn that it has;
    /// the next one is another agent's.
    pub(crate) fn input_closed(&mut self, now_ms: u64, what: InputKind) {
        self.end_input();
        let goes_on = self.turn.as_ref().is_some_and(|turn| turn.written);
        if what == InputKind::Prompt || !goes_on {
            self.end_soon(now_ms);
        }
    }

    /// An agent that is to end is given a moment for it.
    pub(super) fn end_soon(&mut self, now_ms: u64) {
        if !self.closing && self.agent == Agent::Ending {
            let at = now_ms + AGENT_END_MS_MAX;
            self.kill_at_ms = Some(self.kill_at_ms.map_or(at, |sooner| sooner.min(at)));
        }
    }

    /// A line for the agent is on disk, and it has it; or not.
    pub(crate) fn written(&mut self, now_ms: u64, what: InputKind, result: Result<u64, Refusal>) {
        match (what, result) {
            (InputKind::Answer, Ok(sequence)) => {
                self.recorded(sequence);
                // Its line says that the agent goes on, and others may be open still.
                self.tell_status("");
            }
            (InputKind::Prompt, Ok(sequence)) => {
                self.recorded(sequence);
                self.is_fresh = false;
                if let Some(turn) = &mut self.turn {
                    turn.written = true;
                    if turn.cancelled {
                        self.interrupt(now_ms);
                    }
                }
                self.tell_status("");
            }
            (InputKind::Prompt, Err(refusal)) => {
                self.turn_failed(refusal);
                self.rest(now_ms);
            }
            (InputKind::Answer, Err(refusal)) => self.tell(Recipients::All, refusal.event()),
        }
    }

    /// Nothing can be recorded: the agent waits, as do we.
    pub(crate) fn recording_stalled(&mut self, refusal: Refusal) {
        self.tell(Recipients::All, refusal.clone().event());
        self.stalled = Some(refusal);
        self.stalls += 1;
        self.tell_status("the agent waits until its lines can be recorded");
    }

    /// Recording goes on, for one of those that waited.
    pub(crate) fn recording_resumed(&mut self) {
        self.stalls = self.stalls.saturating_sub(1);
        if self.stalls == 0 && self.stalled.take().is_some() {
            self.tell_status("recording goes on");
        }
    }

    /// A line was longer than a message may be.
    pub(crate) fn line_split(&mut self, first: u64, bytes_max: usize) {
        let message = format!(
            "a line of the agent is longer than {}, and was recorded in pieces; they give no \
             events; raise max_payload_bytes",
            text::bytes(bytes_max as u64)
        );
        let refusal = Refusal::new("LINE_IN_PIECES", message).with("sequence", first.to_string());
        self.tell(Recipients::All, refusal.event());
    }

    /// It is gone, and all that it printed is on disk.
    pub(crate) fn exited(&mut self, exit: &Exit) {
        let was_ending = self.agent == Agent::Ending;
        let status_before = (self.activity(), self.stalled.is_some());
        self.agent = Agent::Away;
        self.forget_work();
        // Whatever waited for room is recorded, or went with it: the next line finds out for itself.
        (self.stalled, self.stalls) = (None, 0);
        (self.kill_at_ms, self.idle_until_ms) = (None, None);
        match &self.turn {
            // It had nothing to do with this one.
            Some(turn) if turn.prompt.is_some() && !self.closing => {
                let options = Arc::clone(&turn.options);
                self.requests.close();
                self.start(options);
            }
            // What was said after the cancellation was not cancelled.
            Some(turn) if turn.cancelled && !self.closing && !self.waiting.is_empty() => {
                self.requests.close();
                self.turn = None;
                self.tell_turn_complete(Recipients::All, CANCELLED);
                if let Some(said) = self.waiting.pop_front() {
                    self.turn = Some(Turn::of(&said));
                    self.start(said.options);
                }
                self.tell_status("the agent ended with the cancelled turn, and is started again");
            }
            Some(turn) => {
                let cancelled = turn.cancelled;
                self.turn_failed(gone(exit, cancelled, self.closing));
            }
            None if exit.success || was_ending => {
                self.requests.close();
                if status_before != (self.activity(), false) {
                    self.tell_status("");
                }
            }
            None => self.turn_failed(gone(exit, false, self.closing)),
        }
    }

    /// Nothing new is begun. The turn is interrupted, and the agent ends.
    pub(crate) fn close(&mut self, now_ms: u64) {
        if self.closing {
            return;
        }
        self.closing = true;
        // A prompt that the agent does not have is one more message that it will not get.
        if let Some(turn) = self.turn.take_if(|turn| turn.prompt.is_some()) {
            self.place = None;
            self.waiting.push_front(QueuedPrompt {
                content: turn.prompt.unwrap_or_default(),
                options: turn.options,
                stream: turn.stream,
            });
        }
        if !self.waiting.is_empty() {
            let refusal = Refusal::new("UNAVAILABLE", "the conversation is being closed");
            let refusal = self.forget_waiting(refusal);
            self.tell(Recipients::All, refusal.event());
        }
        match self.turn {
            Some(_) => self.interrupt(now_ms),
            None => self.end_input(),
        }
        // The caller has a deadline of its own.
        self.kill_at_ms = None;
    }

    /// The agent ends now, whatever it does.
    pub(crate) fn kill(&mut self) {
        if self.agent != Agent::Away {
            self.agent = Agent::Ending;
            self.effects.push(Effect::Kill);
        }
    }
}

fn gone(exit: &Exit, cancelled: bool, closing: bool) -> Refusal {
    let mut message = match cancelled {
        true => format!("the agent ended with the cancelled turn ({})", exit.how),
        false => format!("the agent ended in the middle ({})", exit.how),
    };
    if !closing {
        message += "; the next message starts it again, where it was";
    }
    Refusal::new("AGENT_EXITED", message)
        .with("exit", exit.how.clone())
        .with("stderr", exit.stderr.join("\n"))
}
