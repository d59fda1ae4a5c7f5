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
use crate::admission::Taken;
use crate::agents::{Mailbox, ReadTimes};
use crate::core::Core;
use crate::hub::{News, Subscription, fresh};
use crate::limits::LAST_EVENTS_MS;
use crate::observe::{add, ms};
use crate::reading::{Gone, Page, Pages, together};
use crate::services::resume::{Telling, Told};
use crate::status::draining;
use crate::translate::{Line, Translator, timestamp_of};

/// Tells one stream.
pub(super) struct Teller {
    pub(super) core: Arc<Core>,
    pub(super) session: SessionId,
    /// A session deleted and made anew has another key.
    pub(super) key: SessionKey,
    /// The last line that was told.
    pub(super) told: u64,
    /// The same, for who hears the client. Set before it can have seen anything of the line.
    pub(super) tell_told: Arc<AtomicU64>,
    pub(super) translator: Translator,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) times: Arc<ReadTimes>,
    pub(super) subscription: Subscription,
    pub(super) answers: mpsc::Sender<Telling>,
    /// The daemon's own events that come first.
    pub(super) page: Vec<Event>,
    pub(super) _slot: Taken,
}

impl Teller {
    pub(super) async fn run(&mut self) -> Result<(), End> {
        let first = std::mem::take(&mut self.page);
        let page = first.into_iter().map(|event| self.own(event)).collect();
        self.send(page).await?;
        self.catch_up().await?;
        loop {
            let news = tokio::select! {
                biased;
                () = self.answers.closed() => return Err(End::Gone),
                () = self.core.drained() => return self.say_last().await,
                news = self.subscription.next() => news,
                () = self.mailbox.changed() => {
                    let mut page = Vec::new();
                    self.own_before(self.told + 1, &mut page);
                    self.send(page).await?;
                    continue;
                }
            };
            match news {
                News::Behind => {
                    add(&self.core.metrics.followers_behind, 1);
                    self.catch_up().await?;
                }
                News::Look | News::Deleted => self.catch_up().await?,
                News::Messages(live) => {
                    let committed = live.committed;
                    let Some(fresh) = fresh(live, self.key, self.told) else {
                        self.catch_up().await?;
                        continue;
                    };
                    self.tell(&fresh).await?;
                    self.core.metrics.deliver.record(committed.elapsed());
                    if let Some(read) = self.times.of(self.told) {
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
        self.own_before(u64::MAX, &mut page);
        self.send(page).await?;
        Err(draining().into())
    }

    fn deleted(&self) -> End {
        let id = self.session.to_string();
        StoreError::SessionNotFound { id }.into()
    }

    /// Tells what the store has and the stream was not told.
    async fn catch_up(&mut self) -> Result<(), End> {
        let session = find(&self.core, &self.session).await?;
        if session.key != self.key {
            return Err(self.deleted());
        }
        let range = ReadRange {
            to: Some(session.messages),
            ..ReadRange::from(self.told + 1)
        };
        let mut pages = Pages::of(Arc::clone(&self.core), &session, range);
        while self.told < session.messages
            && let Some(Page { messages, room }) = pages.next().await?
        {
            if self.core.is_draining() {
                return Err(draining().into());
            }
            for lines in together(&messages) {
                let events = self.translate(lines);
                if !events.is_empty() {
                    let told = Told::new(events, room.clone());
                    pages.hand_to(&self.answers, Ok(told)).await?;
                }
            }
        }
        Ok(())
    }

    async fn tell(&mut self, messages: &[Message]) -> Result<(), Gone> {
        let events = self.translate(messages);
        self.send(events).await
    }

    async fn send(&mut self, events: Vec<AgentEvent>) -> Result<(), Gone> {
        if events.is_empty() {
            return Ok(());
        }
        let told = Told::new(events, None);
        self.answers.send(Ok(told)).await.map_err(|_| Gone)
    }

    /// Events of lines that were not told yet, the daemon's own between them.
    fn translate(&mut self, messages: &[Message]) -> Vec<AgentEvent> {
        let mut events = Vec::new();
        let told = self.told;
        for message in messages.iter().filter(|m| m.sequence > told) {
            self.own_before(message.sequence, &mut events);
            events.extend(self.translator.translate(Line {
                sequence: message.sequence,
                received_ms: message.received_ms,
                bytes: &message.payload,
            }));
            self.told = message.sequence;
            add(&self.core.metrics.messages_followed, 1);
        }
        self.own_before(self.told + 1, &mut events);
        self.tell_told.store(self.told, Ordering::Release);
        events
    }

    fn own_before(&self, sequence: u64, events: &mut Vec<AgentEvent>) {
        while let Some(event) = self.mailbox.take_before(sequence) {
            events.push(self.own(event));
        }
    }

    fn own(&self, event: Event) -> AgentEvent {
        AgentEvent {
            sequence: self.told,
            timestamp: Some(timestamp_of(SystemClock.now_ms())),
            parent_tool_use_id: String::new(),
            event: Some(event),
        }
    }
}
