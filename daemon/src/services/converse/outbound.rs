//! What is recorded, and the daemon's own events, for one stream.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use betcode_schema_grpc::v1::AgentEvent;
use betcode_schema_grpc::v1::agent_event::Event;
use betcode_storage::{Clock, Message, ReadRange, SessionId, SessionKey, StoreError, SystemClock};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::super::End;
use super::find;
use crate::admission::LimitGuard;
use crate::agents::{Mailbox, ReadTimes};
use crate::core::Core;
use crate::hub::{FollowEvent, Subscription, new_messages};
use crate::limits::LAST_EVENTS_MS;
use crate::observe::traffic::StreamMeter;
use crate::observe::{add, ms};
use crate::reading::{Gone, Page, Pages, together};
use crate::services::resume::{EventBatch, Lines, NextBatch};
use crate::status::draining;
use crate::translate::{Line, Translator, timestamp_of};

/// Sends one stream its events.
pub(super) struct EventSender {
    pub(super) core: Arc<Core>,
    pub(super) session: SessionId,
    /// A session deleted and made anew has another key.
    pub(super) key: SessionKey,
    /// The last line that was sent.
    pub(super) last_sent: u64,
    /// The same, for who hears the client. Set before it can have seen anything of the line.
    pub(super) last_sent_shared: Arc<AtomicU64>,
    pub(super) translator: Translator,
    /// What the translator may have to be told of.
    pub(super) lines: Lines,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) times: Arc<ReadTimes>,
    pub(super) subscription: Subscription,
    pub(super) answers: mpsc::Sender<NextBatch>,
    /// The daemon's own events that come first.
    pub(super) page: Vec<Event>,
    /// Bytes of new lines, and of history.
    pub(super) live: StreamMeter,
    pub(super) caught_up: StreamMeter,
    pub(super) _slot: LimitGuard,
}

impl EventSender {
    pub(super) async fn run(&mut self) -> Result<(), End> {
        let first = std::mem::take(&mut self.page);
        let page = first
            .into_iter()
            .map(|event| self.daemon_event(event))
            .collect();
        self.send(page).await?;
        self.catch_up().await?;
        loop {
            if self.mailbox.ends_at(self.last_sent) {
                let mut page = Vec::new();
                self.daemon_events_before(self.last_sent + 1, &mut page);
                return Ok(self.send(page).await?);
            }
            let news = tokio::select! {
                biased;
                () = self.answers.closed() => return Err(End::Gone),
                () = self.core.drained() => return self.say_last().await,
                news = self.subscription.next() => news,
                () = self.mailbox.changed() => {
                    let mut page = Vec::new();
                    self.daemon_events_before(self.last_sent + 1, &mut page);
                    self.send(page).await?;
                    continue;
                }
            };
            match news {
                FollowEvent::Behind => {
                    add(&self.core.metrics.followers_behind, 1);
                    self.catch_up().await?;
                }
                FollowEvent::CheckStore | FollowEvent::Deleted => self.catch_up().await?,
                FollowEvent::Messages(live) => {
                    let committed = live.committed;
                    let Some(fresh) = new_messages(live, self.key, self.last_sent) else {
                        self.catch_up().await?;
                        continue;
                    };
                    self.send_messages(&fresh).await?;
                    self.core.metrics.deliver.record(committed.elapsed());
                    if let Some(read) = self.times.of(self.last_sent) {
                        self.core.metrics.tell.record(read.elapsed());
                    }
                }
            }
        }
    }

    /// The daemon stops: what it says of that itself, such as which messages are forgotten, and the end.
    async fn say_last(&mut self) -> Result<(), End> {
        // The conversation learns of the stop when we do, and has nothing to say mostly.
        let _ = timeout(ms(LAST_EVENTS_MS), self.mailbox.changed()).await;
        let mut page = Vec::new();
        self.daemon_events_before(u64::MAX, &mut page);
        self.send(page).await?;
        Err(draining().into())
    }

    fn deleted(&self) -> End {
        let id = self.session.clone();
        StoreError::SessionNotFound { id }.into()
    }

    /// Sends what the store has and the stream does not.
    async fn catch_up(&mut self) -> Result<(), End> {
        let session = find(&self.core, &self.session).await?;
        if session.key != self.key {
            return Err(self.deleted());
        }
        let range = ReadRange {
            to: Some(session.messages),
            ..ReadRange::from(self.last_sent + 1)
        };
        let mut pages = Pages::of(Arc::clone(&self.core), &session, range);
        while self.last_sent < session.messages
            && let Some(Page { messages, room }) = pages.next().await?
        {
            if self.core.is_draining() {
                return Err(draining().into());
            }
            for lines in together(&messages) {
                let bytes = self.fresh_bytes(lines);
                let events = self.translate(lines).await;
                if !events.is_empty() {
                    let batch = EventBatch::new(events, room.clone());
                    pages.hand_to(&self.answers, Ok(batch)).await?;
                    self.caught_up.add(bytes);
                }
            }
        }
        Ok(())
    }

    async fn send_messages(&mut self, messages: &[Message]) -> Result<(), Gone> {
        let bytes = self.fresh_bytes(messages);
        let events = self.translate(messages).await;
        self.send(events).await?;
        self.live.add(bytes);
        Ok(())
    }

    /// Bytes of the lines among these that were not sent yet.
    fn fresh_bytes(&self, messages: &[Message]) -> u64 {
        let fresh = messages.iter().filter(|m| m.sequence > self.last_sent);
        let bytes = fresh.map(|message| message.payload.len()).sum();
        add(&self.core.metrics.bytes_followed, bytes);
        bytes as u64
    }

    async fn send(&mut self, events: Vec<AgentEvent>) -> Result<(), Gone> {
        if events.is_empty() {
            return Ok(());
        }
        let batch = EventBatch::new(events, None);
        self.answers.send(Ok(batch)).await.map_err(|_| Gone)
    }

    /// Events of lines that were not sent yet, the daemon's own between them.
    async fn translate(&mut self, messages: &[Message]) -> Vec<AgentEvent> {
        let mut events = Vec::new();
        let last_sent = self.last_sent;
        for message in messages.iter().filter(|m| m.sequence > last_sent) {
            self.daemon_events_before(message.sequence, &mut events);
            self.lines.tell_tasks(&mut self.translator, message).await;
            events.extend(self.translator.translate(Line {
                sequence: message.sequence,
                received_ms: message.received_ms,
                bytes: &message.payload,
            }));
            self.last_sent = message.sequence;
            add(&self.core.metrics.messages_followed, 1);
        }
        self.daemon_events_before(self.last_sent + 1, &mut events);
        self.last_sent_shared
            .store(self.last_sent, Ordering::Release);
        events
    }

    fn daemon_events_before(&self, sequence: u64, events: &mut Vec<AgentEvent>) {
        while let Some(event) = self.mailbox.take_before(sequence) {
            events.push(self.daemon_event(event));
        }
    }

    fn daemon_event(&self, event: Event) -> AgentEvent {
        AgentEvent {
            sequence: self.last_sent,
            timestamp: Some(timestamp_of(SystemClock.now_ms())),
            parent_tool_use_id: String::new(),
            event: Some(event),
        }
    }
}
