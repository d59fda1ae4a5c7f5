//! Running agents: each session's conversation, its process, and what goes between them.
//!
//! ```text
//!  client's stream ──Command──▶ inbox ──▶ session ──▶ conversation (pure)
//!   ▲   ▲                         ▲          │ Effect      │ requests (pure)
//!   │   └──────── mailbox ◀───────┼──────────┤
//!   │                             │          ▼
//!   │            recorder ────────┘       running ──▶ process (stdin, stdout, stderr)
//!   │             │   ▲ lines, signals                     │
//!   └── hub ◀── store └────────────────────────────────────┘
//! ```
//!
//! * `conversation` decides, with `requests` for what the agent asks: commands, lines and exits in, effects out. It
//!   does no I/O. `command`, `prompt`, `lines` and `signals` are pure as well: how an agent is started, what is written
//!   to it, how its output is cut into lines, and what these mean to the conversation.
//! * `session` is the task of one conversation. It receives commands through its `inbox` and carries effects out.
//! * `running` is a running agent: `process` starts and ends it, `recorder` records its pipes.
//! * `mailbox` holds the daemon's own events for one stream; `replays` knows where clients' replays ended.
//!
//! Where state is: of the agent, its turn, the messages that wait, the input lock and the streams in
//! `Conversation`; of open requests and grants in `Requests`; of
//! which sessions have a conversation, and which are being deleted, in [`Agents`]; of the lines that are not
//! committed yet in `recorder`. Nothing of it outlives the daemon: what has to is history.
//!
//! Every line is recorded before anything is sent of it: clients get it from the store's commits,
//! as followers do, never from the pipe. `docs/design/agents.md` has the reasons.

mod command;
mod conversation;
mod inbox;
mod lines;
mod mailbox;
mod process;
mod prompt;
mod recorder;
mod refusal;
mod replays;
mod requests;
mod running;
mod session;
mod signals;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use betcode_service::sync::lock;
use betcode_storage::{
    ReadRange, Session as StoredSession, SessionId, SessionKey, Store, StoreError,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;
use tonic::Status;

pub(crate) use command::{Options, executable, working_directory};
pub(crate) use conversation::{Reply, StreamKey};
pub(crate) use inbox::Command;
pub(crate) use mailbox::{Mailbox, ReadTimes};
pub(crate) use prompt::content as prompt_content;
pub(crate) use refusal::Refusal;
pub(crate) use replays::Device;

use crate::core::Core;
use crate::limits::{
    AGENT_ID_LINES_MAX, CONVERSATION_ENTRIES_MAX, CONVERSATION_INBOX_MAX, CONVERSATIONS_MAX,
    LAST_LINES_MS, TOOL_NAME_BYTES_MAX,
};
use crate::observe::ms;
use crate::status::{being_deleted, draining, from_store, internal};
use conversation::Activity;
use replays::Replays;
use session::{ConversationTask, StoredConversation};
use signals::AgentSignal;

/// The conversations of this daemon.
#[derive(Debug, Default)]
pub struct Agents {
    live: Mutex<HashMap<SessionId, ConversationHandle>>,
    deletions: Mutex<Deletions>,
    streams: AtomicU64,
    /// The last number given to an agent that became idle.
    idle_numbers: AtomicU64,
    /// What the agent which began last said of itself.
    last_began: Mutex<AgentInfo>,
    /// Where clients' replays ended.
    pub(crate) replays: Replays,
    tasks: TaskTracker,
}

/// What an agent says of itself when it begins.
#[derive(Debug, Clone, Default)]
pub(crate) struct AgentInfo {
    /// Its version, if it has said one.
    pub(crate) version: Option<String>,
    /// The tools that it has.
    pub(crate) tools: Vec<String>,
}

/// How a conversation is reached.
#[derive(Debug, Clone)]
struct ConversationHandle {
    /// The session's key: one deleted and made anew has another.
    key: SessionKey,
    inbox: mpsc::Sender<Command>,
    activity: Arc<AtomicU8>,
    /// Which agent became idle first: the lowest number has been idle longest; 0 while it is not idle.
    idle_number: Arc<AtomicU64>,
}

/// Sessions that are being deleted: no conversation begins in them.
#[derive(Debug, Default)]
struct Deletions {
    under_way: HashMap<SessionId, usize>,
    /// Deletions completed so far. Whoever read a session before this changed must read it again.
    completed: u64,
}

/// A session that is being deleted, while this is kept.
pub(crate) struct DeletionGuard {
    core: Arc<Core>,
    id: SessionId,
}

impl Drop for DeletionGuard {
    fn drop(&mut self) {
        let mut deletions = self.core.agents.lock_deletions();
        deletions.completed += 1;
        if let Some(count) = deletions.under_way.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                deletions.under_way.remove(&self.id);
            }
        }
    }
}

impl Agents {
    fn lock_deletions(&self) -> MutexGuard<'_, Deletions> {
        lock(&self.deletions)
    }

    /// How many deletions are over, unless one of this session is under way.
    fn completed_deletions(&self, id: &SessionId) -> Result<u64, Status> {
        let deletions = self.lock_deletions();
        match deletions.under_way.contains_key(id) {
            true => Err(being_deleted()),
            false => Ok(deletions.completed),
        }
    }

    /// Whether a session is being deleted.
    pub(crate) fn is_being_deleted(&self, id: &SessionId) -> bool {
        self.lock_deletions().under_way.contains_key(id)
    }

    fn live(&self) -> MutexGuard<'_, HashMap<SessionId, ConversationHandle>> {
        lock(&self.live)
    }

    /// A key for a stream.
    pub(crate) fn stream_key(&self) -> StreamKey {
        self.streams.fetch_add(1, Ordering::Relaxed)
    }

    /// What a session is doing: `idle`, `active`, or `waiting` for somebody's answer.
    #[must_use]
    pub fn status(&self, session: &StoredSession) -> &'static str {
        let live = self.live();
        let live = live.get(&session.id).filter(|live| live.key == session.key);
        match live.map(|live| session::activity(&live.activity)) {
            None | Some(Activity::Idle) => "idle",
            Some(Activity::Active) => "active",
            Some(Activity::Waiting) => "waiting",
        }
    }

    /// Records whether a conversation's agent is idle.
    fn note_idle(&self, idle_number: &AtomicU64, is_idle: bool) {
        if !is_idle {
            idle_number.store(0, Ordering::Relaxed);
        } else if idle_number.load(Ordering::Relaxed) == 0 {
            let number = self.idle_numbers.fetch_add(1, Ordering::Relaxed) + 1;
            idle_number.store(number, Ordering::Relaxed);
        }
    }

    /// Whether an agent is idle, and so could make room.
    pub(crate) fn could_make_room(&self) -> bool {
        let live = self.live();
        live.values()
            .any(|live| live.idle_number.load(Ordering::Relaxed) > 0)
    }

    /// Asks the agent that has been idle longest to end; whether there is one. Each is asked once.
    fn make_room(&self) -> bool {
        let live = self.live();
        let numbered = live
            .values()
            .map(|live| (live.idle_number.load(Ordering::Relaxed), live));
        let mut at_rest: Vec<_> = numbered.filter(|(number, _)| *number > 0).collect();
        at_rest.sort_unstable_by_key(|(number, _)| *number);
        at_rest.into_iter().any(|(_, live)| {
            live.idle_number.swap(0, Ordering::Relaxed) > 0
                && live.inbox.try_send(Command::YieldSlot).is_ok()
        })
    }

    /// Records what an agent says of itself when it begins.
    fn note_began(&self, signals: &[(u64, AgentSignal)]) {
        for (_, signal) in signals {
            if let AgentSignal::Began { version, tools, .. } = signal {
                let mut last = self.lock_last_began();
                if (1..=TOOL_NAME_BYTES_MAX).contains(&version.len()) {
                    last.version = Some(version.clone());
                }
                last.tools.clone_from(tools);
            }
        }
    }

    /// What the agent that began last in this daemon said of itself.
    pub(crate) fn last_began(&self) -> AgentInfo {
        self.lock_last_began().clone()
    }

    fn lock_last_began(&self) -> MutexGuard<'_, AgentInfo> {
        lock(&self.last_began)
    }

    /// How many conversations there are.
    #[must_use]
    pub fn conversations(&self) -> usize {
        self.live().len()
    }

    fn handle(&self, id: &SessionId) -> Option<ConversationHandle> {
        self.live().get(id).cloned()
    }

    /// The conversation of a session that is in the store, begun when there is none. One of a session
    /// that had its name, and was deleted by another process, ends first.
    ///
    /// # Errors
    /// NOT_FOUND, FAILED_PRECONDITION while it is being deleted, RESOURCE_EXHAUSTED for too many,
    /// UNAVAILABLE when the daemon stops.
    pub(crate) async fn enter(
        &self,
        core: &Arc<Core>,
        session: &StoredSession,
    ) -> Result<mpsc::Sender<Command>, Status> {
        let id = &session.id;
        loop {
            let deletions = self.completed_deletions(id)?;
            let handle = self.handle(id);
            if let Some(ConversationHandle { inbox, .. }) =
                handle.as_ref().filter(|live| live.key == session.key)
            {
                return Ok(inbox.clone());
            }
            let (store, wanted) = (core.store.clone(), id.clone());
            let known = core.blocking.read(move || known(&store, wanted)).await;
            let known = known.map_err(|error| from_store(&error))?;
            if known.key != session.key {
                let id = id.clone();
                return Err(from_store(&StoreError::SessionNotFound { id }));
            }
            if let Some(of_another) = handle {
                end_conversation(&of_another.inbox).await;
                continue;
            }
            // Under this lock: a deletion that begins from now on finds the conversation.
            let mut live = self.live();
            if core.is_draining() {
                return Err(draining());
            }
            if self.completed_deletions(id)? != deletions {
                // It may have been this session's.
                continue;
            }
            if live.contains_key(id) {
                continue;
            }
            return self.begin(core, &mut live, known);
        }
    }

    fn begin(
        &self,
        core: &Arc<Core>,
        live: &mut HashMap<SessionId, ConversationHandle>,
        known: StoredConversation,
    ) -> Result<mpsc::Sender<Command>, Status> {
        let used = live.len() as u64;
        if used >= CONVERSATIONS_MAX {
            core.admission.conversations.observe(used);
            core.admission.conversations.check()?;
        }
        let (inbox, commands) = mpsc::channel(CONVERSATION_INBOX_MAX);
        let activity = Arc::new(AtomicU8::new(0));
        let idle_number = Arc::new(AtomicU64::new(0));
        let begun = ConversationHandle {
            key: known.key,
            inbox: inbox.clone(),
            activity: Arc::clone(&activity),
            idle_number: Arc::clone(&idle_number),
        };
        live.insert(known.id.clone(), begun);
        let session = ConversationTask::new(
            Arc::clone(core),
            known,
            activity,
            idle_number,
            inbox.clone(),
        );
        self.tasks.spawn(session.run(commands));
        Ok(inbox)
    }

    /// Asks a session's conversation something.
    ///
    /// # Errors
    /// Those of [`Agents::enter`]; INTERNAL when the conversation ends by a panic again and again.
    pub(crate) async fn ask<T>(
        &self,
        core: &Arc<Core>,
        session: &StoredSession,
        command: impl Fn(oneshot::Sender<T>) -> Command,
    ) -> Result<(T, mpsc::Sender<Command>), Status> {
        for _ in 0..CONVERSATION_ENTRIES_MAX {
            let inbox = self.enter(core, session).await?;
            let (reply, answer) = oneshot::channel();
            let _ = inbox.send(command(reply)).await;
            // It may have left just when we entered.
            if let Ok(answer) = answer.await {
                return Ok((answer, inbox));
            }
        }
        Err(internal(
            "the conversation ends before it answers; try again",
        ))
    }

    /// Interrupts a session's turn; whether there was one.
    pub(crate) async fn cancel(&self, id: &SessionId) -> bool {
        let Some(ConversationHandle { inbox, .. }) = self.handle(id) else {
            return false;
        };
        let (reply, answer) = oneshot::channel();
        let _ = inbox.send(Command::Cancel(Some(reply))).await;
        answer.await.unwrap_or(false)
    }

    /// A conversation that is over leaves, unless somebody has just asked it something.
    fn leave(&self, id: &SessionId, commands: &mpsc::Receiver<Command>) -> bool {
        // Handles are given out under this lock. Whoever has one and uses it from now on gets no answer,
        // and enters anew.
        let mut live = self.live();
        let leaves = commands.is_empty();
        if leaves {
            live.remove(id);
        }
        leaves
    }

    /// A conversation's task has ended, by a panic also: nobody is sent to it any more.
    fn left(&self, id: &SessionId, inbox: &mpsc::Sender<Command>) {
        let mut live = self.live();
        if live
            .get(id)
            .is_some_and(|found| found.inbox.same_channel(inbox))
        {
            live.remove(id);
        }
    }

    /// Ends a session's agent, for the session is to go; what of its lines cannot be recorded goes
    /// with it. No conversation begins in the session while the answer is kept: what its agent
    /// printed would begin the session anew.
    pub(crate) async fn end(&self, core: &Arc<Core>, id: &SessionId) -> DeletionGuard {
        *self
            .lock_deletions()
            .under_way
            .entry(id.clone())
            .or_default() += 1;
        let guard = DeletionGuard {
            core: Arc::clone(core),
            id: id.clone(),
        };
        if let Some(ConversationHandle { inbox, .. }) = self.handle(id) {
            end_conversation(&inbox).await;
        }
        guard
    }

    /// Waits until all agents are gone and recorded, which begins with the drain. Those that are
    /// there after `drain_ms_max` are killed. Whether none had to be.
    pub(crate) async fn stop(&self, drain_ms_max: u64) -> bool {
        self.tasks.close();
        if tokio::time::timeout(ms(drain_ms_max), self.tasks.wait())
            .await
            .is_ok()
        {
            return true;
        }
        let inboxes: Vec<_> = self
            .live()
            .values()
            .map(|live| live.inbox.clone())
            .collect();
        let killed = async {
            for inbox in inboxes {
                let _ = inbox.send(Command::Kill).await;
            }
            self.tasks.wait().await;
        };
        if tokio::time::timeout(ms(LAST_LINES_MS), killed)
            .await
            .is_err()
        {
            tracing::error!("what some agents printed last could not be recorded in time");
        }
        false
    }
}

/// Ends a conversation whose session is to go, or has gone.
async fn end_conversation(inbox: &mpsc::Sender<Command>) {
    let _ = inbox.send(Command::SessionDeleted).await;
    inbox.closed().await;
}

/// What the store knows of a session. The agent's name for the conversation is the one that its
/// last lines have, for it may take a new one when it resumes; else the first that it ever had.
fn known(store: &Store, id: SessionId) -> betcode_storage::Result<StoredConversation> {
    let session = store.session(&id)?;
    let mut agent_session_id = session.meta.agent_session_id;
    let range = ReadRange {
        last: Some(AGENT_ID_LINES_MAX),
        ..ReadRange::all()
    };
    // Damage hides names, not the session.
    for message in store.read(&id, range)?.flatten() {
        let named = betcode_storage::classify::classify(&message.payload).session;
        if let Some(named) = named.filter(|named| !named.agent_session_id.is_empty()) {
            agent_session_id = named.agent_session_id;
        }
    }
    Ok(StoredConversation {
        id,
        key: session.key,
        model: session.meta.model,
        agent_session_id,
        messages: session.messages,
    })
}
