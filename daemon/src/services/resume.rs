//! `AgentService.ResumeSession`: a session's lines after a sequence, as events.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use betcode_schema_grpc::v1::{AgentEvent, ResumeSessionRequest};
use betcode_storage::{ReadRange, Result, SessionId, Store};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Answers;
use super::read::check_start;
use crate::core::{Core, session_id};
use crate::limits::{ANSWERS_AHEAD_MAX, TRANSLATE_CONTEXT_LINES_MAX};
use crate::reading::Pages;
use crate::status::from_store;
use crate::translate::{Line, Translator};

pub(super) async fn resume(
    core: Arc<Core>,
    request: ResumeSessionRequest,
) -> std::result::Result<Answers<AgentEvent>, Status> {
    let session = session_id(&request.session_id)?;
    let after = request.from_sequence;
    core.admission.memory.check()?;
    check_start(&core, &session, after.saturating_add(1)).await?;
    let (store, id) = (core.store.clone(), session.clone());
    let ready = core
        .blocking
        .read(move || in_context(&store, &id, after))
        .await;
    let translator = ready.map_err(|error| from_store(&error))?;
    let range = ReadRange::from(after + 1);
    let opened = Pages::open(Arc::clone(&core), session, range).await;
    let pages = opened.map_err(|error| from_store(&error))?;
    let (sender, receiver) = mpsc::channel(ANSWERS_AHEAD_MAX);
    tokio::spawn(async move { pump(pages, translator, &sender).await });
    // A page's events come out together: those of one line share a transport frame.
    Ok(Box::pin(Events::of(ReceiverStream::new(receiver))))
}

/// Events that go out together, or why there are no more.
pub(super) type Page = std::result::Result<Vec<AgentEvent>, Status>;

/// The events of the pages, one by one.
pub(super) struct Events {
    pages: ReceiverStream<Page>,
    page: std::vec::IntoIter<AgentEvent>,
}

impl Events {
    pub(super) fn of(pages: ReceiverStream<Page>) -> Self {
        Self {
            pages,
            page: Vec::new().into_iter(),
        }
    }
}

impl Stream for Events {
    type Item = std::result::Result<AgentEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.page.next() {
                return Poll::Ready(Some(Ok(event)));
            }
            match ready!(Pin::new(&mut self.pages).poll_next(context)) {
                Some(Ok(page)) => self.page = page.into_iter(),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

async fn pump(mut pages: Pages, mut translator: Translator, sender: &mpsc::Sender<Page>) {
    loop {
        let page = match pages.next().await {
            Ok(Some(page)) => page,
            Ok(None) => return,
            Err(error) => {
                // These clients cannot be told of damage between events: the replay ends with it.
                let _ = sender.send(Err(from_store(&error))).await;
                return;
            }
        };
        let mut events = Vec::new();
        for message in &page {
            events.extend(translator.translate(Line {
                sequence: message.sequence,
                received_ms: message.received_ms,
                bytes: &message.payload,
            }));
        }
        if !events.is_empty() && pages.hand_to(sender, Ok(events)).await.is_err() {
            return;
        }
        if sender.is_closed() {
            return;
        }
    }
}

/// A translator that has seen the lines of the message under way at `after`.
pub(super) fn in_context(store: &Store, session: &SessionId, after: u64) -> Result<Translator> {
    let mut translator = Translator::new(session.as_str());
    let mut lines = Vec::new();
    let mut first = after + 1;
    let mut step = 64;
    let oldest = first.saturating_sub(TRANSLATE_CONTEXT_LINES_MAX).max(1);
    // Backwards in growing steps, until the beginning of a message.
    'search: while first > oldest {
        let from = first.saturating_sub(step).max(oldest);
        let range = ReadRange {
            to: Some(first - 1),
            ..ReadRange::from(from)
        };
        // Damage hides context, not events: it is told when the replay comes to it.
        let read: Vec<_> = store.read(session, range)?.filter_map(Result::ok).collect();
        for message in read.into_iter().rev() {
            let begins = Translator::begins_message(&message.payload);
            lines.push(message);
            if begins {
                break 'search;
            }
        }
        (first, step) = (from, step * 4);
    }
    for message in lines.iter().rev() {
        translator.translate(Line {
            sequence: message.sequence,
            received_ms: message.received_ms,
            bytes: &message.payload,
        });
    }
    Ok(translator)
}
