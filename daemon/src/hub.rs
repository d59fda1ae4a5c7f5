//! New messages on their way to followers.
//!
//! The writer's thread hands each commit to [`Hub::publish`], which puts the messages (shared,
//! not copied) into the buffer of each follower of that session and returns. A buffer is bounded:
//! when it is full it forgets what it holds and says so, and its follower reads from the store
//! until it has caught up. So a follower that does not read costs the writer nothing.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use betcode_service::sync::lock;
use betcode_storage::{Committed, Message, Session, SessionId, SessionKey};
use tokio::sync::Notify;

use crate::limits::MESSAGE_FOLLOWED_BYTES;

/// Followers by session.
#[derive(Debug)]
pub struct Hub {
    sessions: Mutex<HashMap<SessionId, Followed>>,
    buffer_bytes_max: AtomicUsize,
}

/// One session's followers.
#[derive(Debug, Default)]
struct Followed {
    buffers: Vec<Arc<Buffer>>,
    /// The session that was published to them last, and how far.
    published: Option<(SessionKey, u64)>,
}

/// What a follower gets next.
#[derive(Debug)]
pub enum FollowEvent {
    /// New messages.
    Messages(LiveMessages),
    /// There is more in the store than the buffer could hold.
    Behind,
    /// Another process may have appended, or made the session anew: the store has to be read.
    CheckStore,
    /// The session was deleted. Subscribers to a newer session of that name get this too, and must check
    /// the key in the store.
    Deleted,
}

/// Messages of one session as they were committed.
#[derive(Debug)]
pub struct LiveMessages {
    /// The session: one deleted and made anew under its name has another key.
    pub key: SessionKey,
    /// In order.
    pub messages: Vec<Message>,
    /// When the last of them was committed.
    pub committed: Instant,
}

#[derive(Debug, Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
    /// The session that they are of, and when the last of them was committed.
    committed: Option<(SessionKey, Instant)>,
    behind: bool,
    check_store: bool,
    deleted: bool,
}

#[derive(Debug, Default)]
struct Buffer {
    /// The session's key, once its follower has found it: one deleted and made anew has another.
    key: OnceLock<SessionKey>,
    state: Mutex<State>,
    changed: Notify,
}

/// Which of live messages are new to a follower of session `key` that has those up to sequence `last`.
/// `None` when the store has to say: they are of another session, or some are missing, before
/// them or between, for another process appended them.
pub(crate) fn new_messages(live: LiveMessages, key: SessionKey, last: u64) -> Option<Vec<Message>> {
    if live.key != key {
        return None;
    }
    let fresh = live.messages.into_iter().skip_while(|m| m.sequence <= last);
    let fresh: Vec<_> = fresh.collect();
    let expected = last + 1..=last + fresh.len() as u64;
    let whole = fresh.iter().map(|m| m.sequence).eq(expected);
    whole.then_some(fresh)
}

impl Buffer {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.state));
        self.changed.notify_one();
    }
}

impl Hub {
    /// A hub whose followers' buffers hold `buffer_bytes_max` bytes each.
    #[must_use]
    pub fn new(buffer_bytes_max: usize) -> Self {
        Self {
            sessions: Mutex::default(),
            buffer_bytes_max: AtomicUsize::new(buffer_bytes_max),
        }
    }

    /// Changes the bound of the buffers.
    pub fn set_buffer_bytes_max(&self, bytes: usize) {
        self.buffer_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// Puts a commit's messages into the followers' buffers. Called on the writer's thread: it must not wait.
    pub fn publish(&self, commit: &Committed) {
        let buffers = {
            let mut sessions = lock(&self.sessions);
            let Some(followed) = sessions.get_mut(&commit.session) else {
                return;
            };
            let last = commit.messages.last().map_or(0, |message| message.sequence);
            followed.published = Some((commit.key, last));
            followed.buffers.clone()
        };
        let now = Instant::now();
        let size = |message: &Message| message.payload.len() + MESSAGE_FOLLOWED_BYTES;
        let bytes: usize = commit.messages.iter().map(size).sum();
        let bytes_max = self.buffer_bytes_max.load(Ordering::Relaxed);
        for buffer in buffers {
            buffer.change(|state| {
                if state.behind {
                    return;
                }
                let is_another = state.committed.is_some_and(|(key, _)| key != commit.key);
                if is_another || state.bytes + bytes > bytes_max {
                    state.messages = VecDeque::new();
                    state.bytes = 0;
                    state.behind = true;
                } else {
                    state.messages.extend(commit.messages.iter().cloned());
                    state.bytes += bytes;
                    state.committed = Some((commit.key, now));
                }
            });
        }
    }

    /// The session was deleted, which ends its followers.
    pub fn deleted(&self, session: &SessionId) {
        for buffer in self.buffers(session) {
            buffer.change(|state| state.deleted = true);
        }
    }

    /// Compares the session, as the store has it now, with what was published. If it has more messages, another
    /// process has appended; if it has another key, it was deleted and made anew. Its followers then have to
    /// read the store.
    pub fn compare(&self, session: &Session) {
        let published = lock(&self.sessions)
            .get(&session.id)
            .and_then(|followed| followed.published)
            .map_or(0, |(key, last)| if key == session.key { last } else { 0 });
        for buffer in self.buffers(&session.id) {
            let is_another = buffer.key.get().is_some_and(|key| *key != session.key);
            if is_another || session.messages > published {
                buffer.change(|state| state.check_store = true);
            }
        }
    }

    fn buffers(&self, session: &SessionId) -> Vec<Arc<Buffer>> {
        lock(&self.sessions)
            .get(session)
            .map(|f| f.buffers.clone())
            .unwrap_or_default()
    }

    /// Sessions that are followed now.
    #[must_use]
    pub fn followed(&self) -> Vec<SessionId> {
        lock(&self.sessions).keys().cloned().collect()
    }

    /// Followers in all.
    #[must_use]
    pub fn followers(&self) -> usize {
        lock(&self.sessions)
            .values()
            .map(|followed| followed.buffers.len())
            .sum()
    }

    /// From now on every commit of `session` reaches the subscription.
    #[must_use]
    pub fn subscribe(self: &Arc<Self>, session: SessionId) -> Subscription {
        let buffer = Arc::new(Buffer::default());
        lock(&self.sessions)
            .entry(session.clone())
            .or_default()
            .buffers
            .push(Arc::clone(&buffer));
        Subscription {
            hub: Arc::clone(self),
            session,
            buffer,
        }
    }
}

/// A follower's end of its buffer; it leaves the hub when this goes.
#[derive(Debug)]
pub struct Subscription {
    hub: Arc<Hub>,
    session: SessionId,
    buffer: Arc<Buffer>,
}

impl Subscription {
    /// Sets the key of the session that is followed.
    pub fn set_key(&self, key: SessionKey) {
        // Set once.
        let _ = self.buffer.key.set(key);
    }

    /// Waits for the next event. May be dropped and called again without losing any.
    pub async fn next(&self) -> FollowEvent {
        loop {
            if let Some(event) = self.take() {
                return event;
            }
            self.buffer.changed.notified().await;
        }
    }

    /// What there is now.
    fn take(&self) -> Option<FollowEvent> {
        let mut state = lock(&self.buffer.state);
        if std::mem::take(&mut state.deleted) {
            return Some(FollowEvent::Deleted);
        }
        if state.behind {
            state.behind = false;
            // What came before it is in the store as well.
            state.messages.clear();
            state.committed = None;
            state.bytes = 0;
            return Some(FollowEvent::Behind);
        }
        if let Some((key, committed)) = state.committed.take() {
            state.bytes = 0;
            return Some(FollowEvent::Messages(LiveMessages {
                key,
                messages: std::mem::take(&mut state.messages).into(),
                committed,
            }));
        }
        std::mem::take(&mut state.check_store).then_some(FollowEvent::CheckStore)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut sessions = lock(&self.hub.sessions);
        if let Some(Followed { buffers, .. }) = sessions.get_mut(&self.session) {
            buffers.retain(|buffer| !Arc::ptr_eq(buffer, &self.buffer));
            if buffers.is_empty() {
                sessions.remove(&self.session);
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use betcode_storage::{Batch, Store, StoreOptions};
    use bytes::Bytes;

    /// What one of the messages below takes.
    const MESSAGE_BYTES: usize = MESSAGE_FOLLOWED_BYTES + 10;

    fn session() -> SessionId {
        SessionId::new("s").unwrap()
    }

    /// Keys as a store gives them, to a session and to another one.
    pub(crate) fn keys() -> [SessionKey; 2] {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("h.db"), StoreOptions::default()).unwrap();
        ["s", "t"].map(|id| {
            let id = SessionId::new(id).unwrap();
            store.append(Batch::new(id.clone(), Vec::new())).unwrap();
            store.session(&id).unwrap().key
        })
    }

    fn committed(key: SessionKey, sequences: std::ops::RangeInclusive<u64>) -> Committed {
        let messages = sequences
            .map(|sequence| Message {
                sequence,
                received_ms: 0,
                payload: Bytes::from_static(b"0123456789"),
            })
            .collect();
        Committed {
            session: session(),
            key,
            messages,
        }
    }

    async fn live(follower: &Subscription) -> LiveMessages {
        match follower.next().await {
            FollowEvent::Messages(live) => live,
            event => panic!("{event:?}"),
        }
    }

    fn sequences(messages: &[Message]) -> Vec<u64> {
        messages.iter().map(|m| m.sequence).collect()
    }

    #[tokio::test]
    async fn a_follower_gets_commits_in_order() {
        let [key, _] = keys();
        let hub = Arc::new(Hub::new(10 * MESSAGE_BYTES));
        let follower = hub.subscribe(session());
        hub.publish(&committed(key, 1..=2));
        hub.publish(&committed(key, 3..=3));
        assert_eq!(sequences(&live(&follower).await.messages), [1, 2, 3]);
    }

    #[tokio::test]
    async fn a_full_buffer_is_forgotten_and_said_so_once() {
        let [key, _] = keys();
        let hub = Arc::new(Hub::new(5 * MESSAGE_BYTES / 2));
        let follower = hub.subscribe(session());
        hub.publish(&committed(key, 1..=2));
        hub.publish(&committed(key, 3..=3));
        hub.publish(&committed(key, 4..=4));
        assert!(matches!(follower.next().await, FollowEvent::Behind));
        hub.publish(&committed(key, 5..=5));
        assert_eq!(sequences(&live(&follower).await.messages), [5]);
    }

    #[tokio::test]
    async fn a_buffer_is_filled_by_messages_without_bytes_too() {
        let [key, _] = keys();
        let hub = Arc::new(Hub::new(100 * MESSAGE_FOLLOWED_BYTES));
        let follower = hub.subscribe(session());
        let mut empty = committed(key, 1..=101);
        for message in &mut empty.messages {
            message.payload = Bytes::new();
        }
        hub.publish(&empty);
        assert!(matches!(follower.next().await, FollowEvent::Behind));
    }

    #[tokio::test]
    async fn messages_of_two_sessions_of_one_name_are_never_given_together() {
        let [old, new] = keys();
        let hub = Arc::new(Hub::new(10 * MESSAGE_BYTES));
        let follower = hub.subscribe(session());
        hub.publish(&committed(old, 1..=2));
        hub.publish(&committed(new, 3..=3));
        assert!(matches!(follower.next().await, FollowEvent::Behind));
        hub.publish(&committed(new, 4..=4));
        let messages = live(&follower).await;
        assert_eq!(messages.key, new);
        assert_eq!(new_messages(messages, old, 3), None);
        hub.publish(&committed(new, 5..=5));
        let messages = live(&follower).await;
        assert_eq!(sequences(&new_messages(messages, new, 4).unwrap()), [5]);
    }

    #[tokio::test]
    async fn a_follower_that_leaves_is_forgotten() {
        let hub = Arc::new(Hub::new(5 * MESSAGE_BYTES / 2));
        let (one, two) = (hub.subscribe(session()), hub.subscribe(session()));
        drop(one);
        assert_eq!(hub.followers(), 1);
        hub.deleted(&session());
        assert!(matches!(two.next().await, FollowEvent::Deleted));
        drop(two);
        assert!(hub.followed().is_empty());
    }
}
