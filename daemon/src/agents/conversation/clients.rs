//! What clients do: come and go, write, decide, cancel, take the input lock.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use betcode_schema_grpc::v1::agent_event::Event;
use bytes::Bytes;
use serde_json::Value;

use super::agent::{CANCELLED, FAILED};
use super::{
    Agent, Conversation, EarlyReply, Effect, InputKind, QueuedPrompt, Recipients, Reply, Stream,
    StreamKey, Turn,
};
use crate::agents::command::{Options, Reported};
use crate::agents::prompt;
use crate::agents::refusal::Refusal;
use crate::agents::requests::Decided;
use crate::limits::{
    EARLY_ANSWER_MS_MAX, INTERRUPT_MS_MAX, OPEN_REQUESTS_MAX, WAITING_MESSAGES_MAX,
};

impl Conversation {
    /// A stream is there that has the lines up to `from`.
    pub(crate) fn attached(
        &mut self,
        key: StreamKey,
        client: Arc<str>,
        from: u64,
        options: Arc<Options>,
    ) {
        let stream = Stream {
            client,
            options,
            from,
            has_spoken: false,
            half_closed: false,
            ends: false,
        };
        self.streams.insert(key, stream);
        self.recorded = self.recorded.max(from);
        if let Some(refusal) = &self.stalled {
            let event = refusal.clone().event();
            self.tell(Recipients::One(key), event);
        }
        let status = self.status("");
        self.tell(Recipients::One(key), status);
        if self.agent == Agent::Running && self.shown_plan_mode {
            self.tell_plan_mode(Recipients::One(key), true);
        }
        // What is open and stands in lines that it does not get.
        for event in self.requests.events_up_to(from) {
            self.tell(Recipients::One(key), event);
        }
    }

    /// A stream is gone. A lock goes with its holder's last one.
    pub(crate) fn detached(&mut self, now_ms: u64, key: StreamKey) {
        let was_unattended = self.is_unattended();
        let Some(gone) = self.streams.remove(&key) else {
            return;
        };
        if !was_unattended && self.is_unattended() {
            self.unattended_since_ms = now_ms;
        }
        if !self.is_attached(&gone.client) && self.holder.as_ref() == Some(&gone.client) {
            self.holder = None;
        }
    }

    /// The client of a stream has closed its side, and listens on: it cannot answer the agent any more.
    pub(crate) fn half_closed(&mut self, now_ms: u64, key: StreamKey) {
        let was_unattended = self.is_unattended();
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.half_closed = true;
        }
        if !was_unattended && self.is_unattended() {
            self.unattended_since_ms = now_ms;
        }
    }

    /// Whether there is nobody who could answer the agent.
    pub(super) fn is_unattended(&self) -> bool {
        self.streams.values().all(|stream| stream.half_closed)
    }

    /// Ends the streams whose clients have said all that they wanted, once the turns of that are over: such
    /// a client may wait for the stream's end. One that has said nothing watches, and does not wait.
    pub(super) fn end_streams(&mut self) {
        let turn = self.turn.iter().map(|turn| turn.stream);
        let waiting = self.waiting.iter().map(|said| said.stream);
        let at_work: Vec<StreamKey> = turn.chain(waiting).collect();
        for (key, stream) in &mut self.streams {
            let has_all = stream.half_closed && stream.has_spoken && !at_work.contains(key);
            if has_all && !std::mem::replace(&mut stream.ends, true) {
                self.effects.push(Effect::EndStream(*key, self.recorded));
            }
        }
    }

    pub(super) fn is_attached(&self, client: &str) -> bool {
        self.streams.values().any(|s| &*s.client == client)
    }

    /// A client takes the input lock. Whether it has it, and who had it before.
    pub(crate) fn lock(&mut self, client: &Arc<str>) -> (bool, Option<Arc<str>>) {
        let before = self.holder.clone();
        if !self.is_attached(client) {
            return (false, before);
        }
        self.holder = Some(Arc::clone(client));
        let Some(other) = before.filter(|other| other != client) else {
            return (true, None);
        };
        let message = format!("{client} has taken the input lock; request it to write again");
        let lost = Refusal::new("INPUT_LOCK_TAKEN", message).with("holder", &**client);
        let of_other =
            |(key, stream): (&StreamKey, &Stream)| (stream.client == other).then_some(*key);
        let streams: Vec<_> = self.streams.iter().filter_map(of_other).collect();
        for key in streams {
            self.tell(Recipients::One(key), lost.clone().event());
        }
        (true, Some(other))
    }

    /// The user says something.
    pub(crate) fn message(&mut self, now_ms: u64, key: StreamKey, content: Value) {
        let mut options = Arc::default();
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.has_spoken = true;
            options = Arc::clone(&stream.options);
        }
        let said = QueuedPrompt {
            content,
            options,
            stream: key,
        };
        if let Err(refusal) = self.may_write(key) {
            self.refuse(key, refusal);
        } else if self.turn.is_none() {
            self.begin(now_ms, said);
        } else if self.waiting.len() < WAITING_MESSAGES_MAX {
            self.waiting.push_back(said);
            let text = format!(
                "{} waiting for the turn to end",
                messages(self.waiting.len())
            );
            self.tell_status(&text);
        } else {
            let message = format!(
                "{} wait for the turn to end already; wait as well, or cancel it",
                messages(WAITING_MESSAGES_MAX)
            );
            let refusal =
                Refusal::new("RESOURCE_EXHAUSTED", message).with("limit", "waiting_messages");
            self.tell(Recipients::One(key), refusal.event());
        }
    }

    /// A message cannot be taken as it is.
    pub(crate) fn message_refused(&mut self, key: StreamKey, refusal: Refusal) {
        if let Some(stream) = self.streams.get_mut(&key) {
            stream.has_spoken = true;
        }
        self.refuse(key, refusal);
    }

    /// Tells a stream that its message is not taken. While nothing runs, that is the end of its turn: there
    /// will be no other that its client could wait for.
    fn refuse(&mut self, key: StreamKey, refusal: Refusal) {
        let stream = Recipients::One(key);
        self.tell(stream, refusal.event());
        if self.turn.is_none() {
            self.tell_turn_complete(stream, FAILED);
            let status = self.status("");
            self.tell(stream, status);
        }
    }

    pub(super) fn may_write(&self, key: StreamKey) -> Result<(), Refusal> {
        if self.closing {
            return Err(Refusal::new(
                "UNAVAILABLE",
                "the conversation is being closed",
            ));
        }
        let client = self.streams.get(&key).map(|stream| &stream.client);
        if let Some(holder) = self
            .holder
            .as_ref()
            .filter(|holder| Some(*holder) != client)
        {
            let message = format!("{holder} has the input lock; request it to write yourself");
            return Err(Refusal::new("INPUT_LOCKED", message).with("holder", &**holder));
        }
        self.stalled.clone().map_or(Ok(()), Err)
    }

    pub(super) fn begin(&mut self, now_ms: u64, said: QueuedPrompt) {
        self.idle_until_ms = None;
        self.forget_work();
        let running = &self.agent_options;
        let asks_for_other = said.options.ask_for_other_than(running, &self.reported);
        let mut turn = Turn::of(&said);
        if self.agent == Agent::Running && asks_for_other && said.options.model.is_empty() {
            // `SessionInfo` has said that this model answers them.
            Arc::make_mut(&mut turn.options)
                .model
                .clone_from(&running.model);
        }
        self.turn = Some(turn);
        match self.agent {
            Agent::Away => self.start(said.options),
            // What it is started with, it keeps: another one goes on where it was.
            Agent::Running if asks_for_other => {
                self.end_input();
                self.end_soon(now_ms);
            }
            Agent::Running => self.hand_over(),
            // Starts again once this one is gone.
            Agent::Ending => {}
        }
    }

    pub(super) fn start(&mut self, mut options: Arc<Options>) {
        if options.model.is_empty() {
            Arc::make_mut(&mut options)
                .model
                .clone_from(&self.session_model);
        }
        self.reported = Reported::default();
        self.agent_options = Arc::clone(&options);
        self.effects.push(Effect::Start(options));
    }

    pub(super) fn hand_over(&mut self) {
        let turn = self.turn.as_mut();
        if let Some(content) = turn.and_then(|turn| turn.prompt.take()) {
            // The first one names no session, which the command line does. So the lines show where a process
            // begins, and `SessionInfo` knows which `init` resumes the session.
            let session_id = match self.is_fresh {
                true => "",
                false => &self.agent_session_id,
            };
            let line = prompt::line(&content, session_id);
            self.effects.push(Effect::Write(line, InputKind::Prompt));
        }
    }

    /// The user replies to a request. `last_sent` is the last line that the stream had been sent then.
    pub(crate) fn replied(&mut self, now_ms: u64, key: StreamKey, last_sent: u64, reply: Reply) {
        let (Reply::Decision { request_id: id, .. }
        | Reply::Answers {
            question_id: id, ..
        }) = &reply;
        let may_come = last_sent > self.heard && self.early.len() < OPEN_REQUESTS_MAX;
        if may_come && !self.requests.is_open(id) {
            self.early.push_back(EarlyReply {
                key,
                reply,
                last_sent,
                until_ms: now_ms + EARLY_ANSWER_MS_MAX,
            });
            return;
        }
        let id = id.clone();
        let sequence = self.requests.sequence_of(&id);
        let answered = match reply {
            Reply::Decision {
                request_id,
                decision,
                updated_input,
                message,
            } => {
                let input = updated_input.as_deref();
                let decided = self.requests.decide(&request_id, decision, input, &message);
                self.decided(now_ms, decided)
            }
            Reply::Answers {
                question_id,
                answers,
            } => self.questions_answered(now_ms, &question_id, answers),
        };
        match answered {
            Ok(()) => self.retell_earlier(key, &id, sequence),
            Err(refusal) => {
                self.tell(Recipients::One(key), refusal.event());
                // A client that has put it away needs it again.
                let open = self.requests.events_of_request(&id);
                self.tell_each(key, open);
            }
        }
    }

    fn decided(&mut self, now_ms: u64, decided: Result<Decided, Refusal>) -> Result<(), Refusal> {
        let Decided {
            answers,
            interrupts,
        } = decided?;
        self.write_answers(answers);
        self.rest_again(now_ms);
        if interrupts {
            self.interrupt(now_ms);
        }
        Ok(())
    }

    fn questions_answered(
        &mut self,
        now_ms: u64,
        question_id: &str,
        answers: HashMap<String, String>,
    ) -> Result<(), Refusal> {
        match self.requests.answer(question_id, answers)? {
            Some(line) => {
                self.write_answers(vec![line]);
                self.rest_again(now_ms);
            }
            None => self.tell_status(&format!("{question_id}: answered in part")),
        }
        Ok(())
    }

    /// Tells a stream again what it has left unanswered, when it answered something that came later. Some
    /// clients show one request at a time, the newest: they would never show the earlier ones again, and the
    /// agent would wait for ever. Who answers in order is told nothing twice.
    fn retell_earlier(&mut self, key: StreamKey, id: &str, sequence: Option<u64>) {
        // A turn that is being cancelled takes its requests along.
        if self.turn.as_ref().is_some_and(|turn| turn.cancelled) {
            return;
        }
        let mut earlier = match sequence {
            Some(sequence) => self.requests.events_before(sequence),
            None => Vec::new(),
        };
        earlier.extend(self.requests.skipped_questions(id));
        self.tell_each(key, earlier);
    }

    fn tell_each(&mut self, key: StreamKey, events: Vec<Event>) {
        for event in events {
            self.tell(Recipients::One(key), event);
        }
    }

    /// Takes up the replies that came early and need not wait any more.
    pub(super) fn take_up_early(&mut self, now_ms: u64) {
        for early in std::mem::take(&mut self.early) {
            // Late enough: it is answered now, or found to be about nothing.
            let last_sent = if early.until_ms <= now_ms {
                0
            } else {
                early.last_sent
            };
            let until_ms = early.until_ms;
            self.replied(now_ms, early.key, last_sent, early.reply);
            // One that still waits keeps its time.
            if let Some(last) = self.early.back_mut() {
                last.until_ms = last.until_ms.min(until_ms.max(now_ms + 1));
            }
        }
    }

    /// Clients learn of the answers from their lines.
    pub(super) fn write_answers(&mut self, answers: Vec<Bytes>) {
        let write = |line| Effect::Write(line, InputKind::Answer);
        self.effects.extend(answers.into_iter().map(write));
    }

    /// Grants, by tool.
    pub(crate) fn grants(&self) -> &BTreeMap<String, bool> {
        self.requests.grants()
    }

    pub(crate) fn set_grant(
        &mut self,
        now_ms: u64,
        tool: &str,
        granted: bool,
    ) -> Result<(), Refusal> {
        let answers = self.requests.set_grant(tool, granted)?;
        if !answers.is_empty() {
            self.write_answers(answers);
            self.rest_again(now_ms);
        }
        Ok(())
    }

    pub(crate) fn clear_grants(&mut self, tool: &str) {
        self.requests.clear_grants(tool);
    }

    /// The turn is to end, and what waits behind it is forgotten. Whether there was one.
    pub(crate) fn cancel(&mut self, now_ms: u64) -> bool {
        let forgotten = match std::mem::take(&mut self.waiting).len() {
            0 => String::new(),
            n => format!("; {} forgotten", messages(n)),
        };
        let Some(turn) = &mut self.turn else {
            return false;
        };
        if turn.prompt.is_some() {
            // The agent does not know of it.
            self.turn = None;
            self.place = None;
            self.tell_turn_complete(Recipients::All, CANCELLED);
            self.tell_status(&format!("cancelled before the agent had it{forgotten}"));
        } else {
            self.interrupt(now_ms);
            self.tell_status(&format!("cancelling{forgotten}"));
        }
        true
    }

    pub(super) fn interrupt(&mut self, now_ms: u64) {
        let Some(turn) = &mut self.turn else { return };
        turn.cancelled = true;
        if turn.written {
            self.effects.push(Effect::Interrupt);
            let at = now_ms + INTERRUPT_MS_MAX;
            self.kill_at_ms = Some(self.kill_at_ms.map_or(at, |sooner| sooner.min(at)));
        }
    }
}

pub(super) fn messages(count: usize) -> String {
    match count {
        1 => "1 message".to_owned(),
        count => format!("{count} messages"),
    }
}
