//! `HistoryService.Follow`: history, then live, without gap or repeat.
//!
//! 1. Subscribe to new messages; from here on none is missed.
//! 2. Read from the store up to its end; what arrives meanwhile waits in the bounded buffer.
//! 3. Send what the buffer has, leaving out what the store has given already.
//! 4. When the buffer overflowed, or something is missing in it, go on with 2.

use std::sync::Arc;

use betcode_schema_grpc::history::{self as proto, FollowRequest, FollowResponse};
use betcode_storage::{Message, ReadRange, SessionId, SessionKey, StoreError};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::read::check_start;
use super::{End, ResponseStream};
use crate::admission::LimitGuard;
use crate::core::{Core, session_id};
use crate::hub::{FollowEvent, LiveMessages, Subscription, new_messages};
use crate::limits::ANSWERS_AHEAD_MAX;
use crate::observe::add;
use crate::observe::traffic::StreamMeter;
use crate::reading::{Gone, Page, Pages, frames};
use crate::status::{draining, from_store};

pub(super) async fn follow(
    core: Arc<Core>,
    request: FollowRequest,
) -> Result<ResponseStream<FollowResponse>, Status> {
    let session = session_id(&request.session_id)?;
    core.admission.memory.check()?;
    let slot = core.admission.followers.acquire(1)?;
    let next = request.from_sequence.max(1);
    check_start(&core, &session, next).await?;
    let subscription = core.hub.subscribe(session.clone());
    let (store, id) = (core.store.clone(), session.clone());
    let found = core.blocking.read(move || store.session(&id)).await;
    let key = found.map_err(|error| from_store(&error))?.key;
    subscription.set_key(key);
    let (answers, receiver) = mpsc::channel(ANSWERS_AHEAD_MAX);
    let traffic = &core.metrics.traffic;
    let live = StreamMeter::new(&traffic.live);
    let caught_up = StreamMeter::new(&traffic.replayed);
    let mut follower = Follower {
        core,
        session,
        key,
        next,
        answers,
        live,
        caught_up,
        _slot: slot,
    };
    tokio::spawn(async move {
        if let Err(End::Failed(status)) = follower.run(&subscription).await {
            let _ = follower.answers.send(Err(status)).await;
        }
    });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

struct Follower {
    core: Arc<Core>,
    session: SessionId,
    /// A session deleted and made anew has another key.
    key: SessionKey,
    /// Sequence to send next.
    next: u64,
    answers: mpsc::Sender<Result<FollowResponse, Status>>,
    /// Bytes of new messages, and of history.
    live: StreamMeter,
    caught_up: StreamMeter,
    _slot: LimitGuard,
}

impl Follower {
    async fn run(&mut self, subscription: &Subscription) -> Result<(), End> {
        self.catch_up().await?;
        self.send_caught_up().await?;
        loop {
            let event = tokio::select! {
                biased;
                () = self.answers.closed() => return Err(End::Gone),
                () = self.core.drained() => return Err(End::Failed(draining())),
                event = subscription.next() => event,
            };
            match event {
                FollowEvent::Behind => {
                    add(&self.core.metrics.followers_behind, 1);
                    self.catch_up().await?;
                    self.send_caught_up().await?;
                }
                FollowEvent::CheckStore | FollowEvent::Deleted => self.catch_up().await?,
                FollowEvent::Messages(live) => self.send_live(live).await?,
            }
        }
    }

    /// Sends live messages, those that were not sent yet.
    async fn send_live(&mut self, live: LiveMessages) -> Result<(), End> {
        let committed = live.committed;
        match new_messages(live, self.key, self.next - 1) {
            None => self.catch_up().await,
            Some(fresh) if fresh.is_empty() => Ok(()),
            Some(fresh) => {
                self.send(fresh).await?;
                self.core.metrics.deliver.record(committed.elapsed());
                Ok(())
            }
        }
    }

    /// Reads from the store what there is now.
    async fn catch_up(&mut self) -> Result<(), End> {
        let (store, id) = (self.core.store.clone(), self.session.clone());
        let session = self.core.blocking.read(move || store.session(&id)).await?;
        if session.key != self.key {
            return Err(StoreError::SessionNotFound {
                id: self.session.clone(),
            }
            .into());
        }
        if self.next <= session.messages {
            let range = ReadRange {
                to: Some(session.messages),
                ..ReadRange::from(self.next)
            };
            let mut pages = Pages::of(Arc::clone(&self.core), &session, range);
            while let Some(Page { messages, room }) = pages.next().await? {
                if self.core.is_draining() {
                    return Err(End::Failed(draining()));
                }
                self.count(&messages);
                // Until the last of them is handed on.
                let _room = room;
                for messages in frames(messages) {
                    let bytes = self.count_bytes(&messages);
                    let answer = FollowResponse {
                        messages,
                        caught_up_at: None,
                    };
                    pages.hand_to(&self.answers, Ok(answer)).await?;
                    self.caught_up.add(bytes);
                }
            }
        }
        Ok(())
    }

    /// Tells the client that it has everything that there was.
    async fn send_caught_up(&self) -> Result<(), End> {
        let caught_up_at = Some(self.next - 1);
        let mark = FollowResponse {
            messages: Vec::new(),
            caught_up_at,
        };
        self.answers.send(Ok(mark)).await.map_err(|_| End::Gone)
    }

    fn count(&mut self, messages: &[Message]) {
        if let Some(last) = messages.last() {
            self.next = last.sequence + 1;
        }
        add(&self.core.metrics.messages_followed, messages.len());
    }

    async fn send(&mut self, messages: Vec<Message>) -> Result<(), Gone> {
        self.count(&messages);
        for messages in frames(messages) {
            let bytes = self.count_bytes(&messages);
            let answer = FollowResponse {
                messages,
                caught_up_at: None,
            };
            self.answers.send(Ok(answer)).await.map_err(|_| Gone)?;
            self.live.add(bytes);
        }
        Ok(())
    }

    fn count_bytes(&self, messages: &[proto::Message]) -> u64 {
        let bytes = messages.iter().map(|message| message.payload.len()).sum();
        add(&self.core.metrics.bytes_followed, bytes);
        bytes as u64
    }
}
