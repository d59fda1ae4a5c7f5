//! The task of one session's conversation: it gives the state what happens, and carries out the effects.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use betcode_storage::{SessionId, SessionKey};
use rustix::process::Signal;
use tokio::sync::mpsc;
use tokio::time::{Instant as Moment, MissedTickBehavior, interval_at, sleep_until};
use tokio_util::sync::CancellationToken;

use super::command::Options;
use super::conversation::{
    Activity, Conversation, Effect, InputKind, Recipients, StreamKey, Timeouts,
};
use super::inbox::{Attachment, Command};
use super::mailbox::{Mailbox, ReadTimes};
use super::recorder::Recorder;
use super::refusal::Refusal;
use super::running::{InputLine, Running};
use crate::core::Core;
use crate::limits::AGENT_TOUCH_MS;
use crate::observe::{add, ms};

/// What is known of the session when its conversation begins.
#[derive(Debug)]
pub(crate) struct StoredConversation {
    pub(crate) id: SessionId,
    pub(crate) key: SessionKey,
    pub(crate) model: String,
    pub(crate) agent_session_id: String,
    pub(crate) messages: u64,
}

/// The task of one conversation.
pub(crate) struct ConversationTask {
    core: Arc<Core>,
    id: SessionId,
    key: SessionKey,
    began: Instant,
    conversation: Conversation,
    mailboxes: HashMap<StreamKey, Arc<Mailbox>>,
    times: Arc<ReadTimes>,
    activity: Arc<AtomicU8>,
    idle_number: Arc<AtomicU64>,
    running: Option<Running>,
    /// When the command that is being handled was received, if the conversation may answer its agent because of it.
    heard: Option<Instant>,
    /// Cancelled when the session is to go.
    session_deleted: CancellationToken,
    inbox: mpsc::Sender<Command>,
}

/// Takes the conversation out of the list however its task ends.
struct DeregisterOnDrop {
    core: Arc<Core>,
    id: SessionId,
    inbox: mpsc::Sender<Command>,
}

impl Drop for DeregisterOnDrop {
    fn drop(&mut self) {
        self.core.agents.left(&self.id, &self.inbox);
    }
}

impl ConversationTask {
    pub(crate) fn new(
        core: Arc<Core>,
        known: StoredConversation,
        activity: Arc<AtomicU8>,
        idle_number: Arc<AtomicU64>,
        inbox: mpsc::Sender<Command>,
    ) -> Self {
        let timeouts = Timeouts {
            idle_ms: core.settings.agent_idle_ms,
            unattended_ms: core.settings.agent_request_wait_ms,
        };
        let conversation = Conversation::new(
            timeouts,
            core.settings.max_payload_bytes,
            known.agent_session_id,
            known.messages,
            0,
        )
        .with_model(known.model);
        Self {
            core,
            id: known.id,
            key: known.key,
            began: Instant::now(),
            conversation,
            mailboxes: HashMap::new(),
            times: Arc::default(),
            activity,
            idle_number,
            running: None,
            heard: None,
            session_deleted: CancellationToken::new(),
            inbox,
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Handles commands until the conversation has no state that is worth keeping.
    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        let core = Arc::clone(&self.core);
        let _leaving = DeregisterOnDrop {
            core: Arc::clone(&core),
            id: self.id.clone(),
            inbox: self.inbox.clone(),
        };
        // The first tick is not at once: a conversation must not end before it has received the command that it was
        // begun for.
        let mut touch = interval_at(Moment::now() + ms(AGENT_TOUCH_MS), ms(AGENT_TOUCH_MS));
        touch.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut closing = false;
        loop {
            let wake = self.conversation.next_ms();
            let wake = wake.map(|at| self.began + Duration::from_millis(at));
            tokio::select! {
                command = commands.recv() => match command {
                    Some(command) => self.take(command),
                    None => return,
                },
                () = at(wake) => {
                    let now_ms = self.now_ms();
                    self.conversation.tick(now_ms);
                }
                _ = touch.tick() => {
                    if self.running.is_some() {
                        // It was admitted when the agent started, and goes on whatever the limit.
                        core.admission.note_recorded(&self.id);
                    }
                }
                () = core.drained(), if !closing => {
                    closing = true;
                    let now_ms = self.now_ms();
                    self.conversation.close(now_ms);
                }
            }
            self.carry_out().await;
            self.heard = None;
            if self.conversation.is_over() && core.agents.leave(&self.id, &commands) {
                return;
            }
        }
    }

    fn take(&mut self, command: Command) {
        let now_ms = self.now_ms();
        let conversation = &mut self.conversation;
        match command {
            Command::Attach {
                key,
                client,
                from,
                options,
                mailbox,
                attached,
            } => {
                self.mailboxes.insert(key, mailbox);
                conversation.attached(key, client, from, Arc::new(options));
                let _ = attached.send(Attachment {
                    times: Arc::clone(&self.times),
                    model: conversation.model().to_owned(),
                });
            }
            Command::Detach(key) => {
                self.mailboxes.remove(&key);
                conversation.detached(now_ms, key);
            }
            Command::HalfClosed(key) => conversation.half_closed(now_ms, key),
            Command::Message(key, content) => conversation.message(now_ms, key, content),
            Command::MessageRefused(key, refusal) => conversation.message_refused(key, refusal),
            Command::Reply {
                stream,
                last_sent,
                reply,
                heard,
            } => {
                self.heard = Some(heard);
                conversation.replied(now_ms, stream, last_sent, reply);
            }
            Command::Cancel(reply) => {
                let was_active = conversation.cancel(now_ms);
                // Whoever asked may have left; so it is with the other replies.
                let _ = reply.map(|reply| reply.send(was_active));
            }
            Command::Lock(client, reply) => {
                let _ = reply.send(conversation.lock(&client));
            }
            Command::Grants(reply) => {
                let _ = reply.send(conversation.grants().clone());
            }
            Command::SetGrant(tool, granted, reply) => {
                let _ = reply.send(conversation.set_grant(now_ms, &tool, granted));
            }
            Command::ClearGrants(tool, reply) => {
                conversation.clear_grants(&tool);
                let _ = reply.send(());
            }
            Command::Recorded { last, signals } => {
                self.heard = Some(Instant::now());
                self.core.agents.note_began(&signals);
                conversation.heard(now_ms, last, signals);
            }
            Command::RecordingStalled(refusal) => conversation.recording_stalled(refusal),
            Command::RecordingResumed => conversation.recording_resumed(),
            Command::LineSplit { first, bytes_max } => conversation.line_split(first, bytes_max),
            Command::InputWritten(what, result) => conversation.written(now_ms, what, result),
            Command::InputClosed(what) => conversation.input_closed(now_ms, what),
            Command::Exited(exit) => {
                self.running = None;
                conversation.exited(&exit);
            }
            Command::YieldSlot => conversation.yield_slot(now_ms),
            Command::Kill => {
                conversation.close(now_ms);
                conversation.kill();
            }
            Command::SessionDeleted => {
                self.session_deleted.cancel();
                conversation.close(now_ms);
                conversation.kill();
            }
            #[cfg(test)]
            Command::Panic => panic!("a test wants it"),
        }
    }

    async fn carry_out(&mut self) {
        loop {
            let effects = self.conversation.take_effects();
            // Before anything is sent, so that a client that is sent a change finds it in the list of sessions.
            let activity = self.conversation.activity();
            self.activity.store(activity as u8, Ordering::Relaxed);
            self.core
                .agents
                .note_idle(&self.idle_number, self.conversation.is_idle());
            if effects.is_empty() {
                return;
            }
            for effect in effects {
                self.carry_out_one(effect).await;
            }
        }
    }

    async fn carry_out_one(&mut self, effect: Effect) {
        match effect {
            Effect::Start(_) if self.must_wait_for_place() => {
                let now_ms = self.now_ms();
                self.conversation.wait_for_place(now_ms);
            }
            Effect::Start(options) => match self.start(&options).await {
                Ok(running) => {
                    self.running = Some(running);
                    self.conversation.started();
                }
                Err(refusal) => self.conversation.not_started(refusal),
            },
            Effect::Write(line, what) => {
                if what == InputKind::Prompt {
                    add(&self.core.metrics.agent_turns, 1);
                }
                let running = self.running.as_ref();
                let sent = running.is_some_and(|running| {
                    let heard = self.heard.filter(|_| what == InputKind::Answer);
                    running.write(InputLine { line, what, heard })
                });
                if !sent {
                    tracing::debug!(session = %self.id, "the agent is gone: it gets no more lines");
                }
            }
            Effect::Interrupt => self.signal(Signal::INT),
            Effect::Kill => self.signal(Signal::KILL),
            Effect::EndInput => {
                if let Some(running) = &mut self.running {
                    running.end_input();
                }
            }
            Effect::Tell(Recipients::All, after, event) => {
                for mailbox in self.mailboxes.values() {
                    mailbox.put(after, event.clone());
                }
            }
            Effect::Tell(Recipients::One(key), after, event) => {
                if let Some(mailbox) = self.mailboxes.get(&key) {
                    mailbox.put(after, event);
                }
            }
            Effect::EndStream(key, after) => {
                if let Some(mailbox) = self.mailboxes.get(&key) {
                    mailbox.end(after);
                }
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(running) = &self.running {
            running.signal(signal);
        }
    }

    /// Whether an agent of another session is making room for this one's.
    fn must_wait_for_place(&mut self) -> bool {
        let limit = &self.core.admission.subprocesses;
        if limit.used() < limit.max() {
            return false;
        }
        let now_ms = self.now_ms();
        match self.conversation.awaits_place_until_ms() {
            Some(until_ms) => {
                if self.conversation.asks_again_for_place(now_ms) {
                    self.core.agents.make_room();
                }
                now_ms < until_ms
            }
            None => limit.max() > 0 && self.core.agents.make_room(),
        }
    }

    async fn start(&self, options: &Options) -> Result<Running, Refusal> {
        let recorder = Recorder {
            core: Arc::clone(&self.core),
            session: self.id.clone(),
            key: self.key,
            inbox: self.inbox.clone(),
            times: Arc::clone(&self.times),
            session_deleted: self.session_deleted.clone(),
        };
        Running::start(recorder, options, self.conversation.agent_session_id()).await
    }
}

async fn at(wake: Option<Instant>) {
    match wake {
        Some(wake) => sleep_until(wake.into()).await,
        None => std::future::pending().await,
    }
}

/// What a conversation was doing when it last said so.
pub(crate) fn activity(state: &AtomicU8) -> Activity {
    match state.load(Ordering::Relaxed) {
        1 => Activity::Active,
        2 => Activity::Waiting,
        _ => Activity::Idle,
    }
}
