//! `AgentService.Converse`: what a client says, to its session's conversation; what is recorded, to
//! the client.
//!
//! 1. The first request is `start`. It finds the session, or makes it.
//! 2. Subscribe to what is committed; from here on none is missed. Then look where the session ends:
//!    the stream begins there (or where the client says that it is, or where a replay that it was sent just
//!    now ended).
//! 3. Attach to the conversation, so that the daemon's own events come.
//! 4. Tell: `SessionInfo`, then lines as they are committed, translated; the daemon's own events
//!    between them. A stream that is too slow for its buffer is served from the store.
//!
//! Every event carries the sequence of its line. The daemon's own carry that of the last line the
//! stream was sent, so that a client may resume from whatever it saw last.

mod inbound;
mod open;
mod outbound;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use betcode_schema_grpc::v1::agent_request::Request as Asked;
use betcode_schema_grpc::v1::{AgentEvent, AgentRequest};
use betcode_schema_tunnel::metadata;
use betcode_storage::{Session, SessionId};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::resume::{EventStream, Lines, NextBatch, in_context};
use super::{End, ResponseStream};
use crate::admission::LimitGuard;
use crate::agents::{Command, Device, Mailbox, StreamKey};
use crate::core::Core;
use crate::limits::{ANSWERS_AHEAD_MAX, CONNECTION_NAME_BYTES_MAX};
use crate::observe::traffic::StreamMeter;
use crate::status::{draining, internal, invalid};
use crate::transport::Client;
use inbound::{forward_requests, inbound_status};
use open::{Opened, directory_ignored, info, open};
use outbound::EventSender;

/// What a client is called.
pub(super) fn client_name<T>(request: &Request<T>) -> Arc<str> {
    let client = request.extensions().get::<Client>();
    client.map_or_else(|| "a client".into(), |client| Arc::clone(client.name()))
}

/// Which device a request comes from.
pub(super) fn device<T>(request: &Request<T>) -> Device {
    let connection = request.metadata().get(metadata::CONNECTION);
    let connection = connection.and_then(|name| name.to_str().ok());
    let is_short = |name: &&str| name.len() <= CONNECTION_NAME_BYTES_MAX;
    Device {
        client: client_name(request),
        connection: connection.filter(is_short).map(Into::into),
    }
}

pub(super) fn converse(
    core: Arc<Core>,
    request: Request<Streaming<AgentRequest>>,
) -> ResponseStream<AgentEvent> {
    let device = device(&request);
    let (answers, receiver) = mpsc::channel(ANSWERS_AHEAD_MAX);
    let requests = request.into_inner();
    // At once: many clients send their first request when they have the answer's headers.
    tokio::spawn(async move {
        if let Err(End::Failed(status)) = run(core, device, requests, &answers).await {
            let _ = answers.send(Err(status)).await;
        }
    });
    Box::pin(EventStream::of(ReceiverStream::new(receiver)))
}

async fn run(
    core: Arc<Core>,
    device: Device,
    mut requests: Streaming<AgentRequest>,
    answers: &mpsc::Sender<NextBatch>,
) -> Result<(), End> {
    let first = tokio::select! {
        () = answers.closed() => return Err(End::Gone),
        () = core.drained() => return Err(draining().into()),
        first = requests.message() => first.map_err(|status| inbound_status(&core, status))?,
    };
    let Some(Asked::Start(start)) = first.and_then(|first| first.request) else {
        return Err(invalid("request", "the first one of a conversation is start").into());
    };
    core.admission.memory.check()?;
    let slot = core.admission.followers.acquire(1)?;
    let opened = open(&core, start).await?;
    let (mut sender, attached) = attach(core, device, opened, answers.clone(), slot).await?;
    tokio::select! {
        end = sender.run() => end,
        refused = forward_requests(&attached, requests) => Err(refused.into()),
        lost = conversation_crashed(&attached) => Err(lost.into()),
    }
}

async fn find(core: &Arc<Core>, id: &SessionId) -> betcode_storage::Result<Session> {
    let (store, id) = (core.store.clone(), id.clone());
    core.blocking.read(move || store.session(&id)).await
}

/// A stream's place in its conversation; leaves it when it goes.
struct Attached {
    core: Arc<Core>,
    session: Session,
    key: StreamKey,
    inbox: mpsc::Sender<Command>,
    mailbox: Arc<Mailbox>,
    /// The last line that the stream was sent.
    last_sent: Arc<AtomicU64>,
}

/// Returns when the conversation has ended by a bug: nothing that the client says is heard any more.
async fn conversation_crashed(attached: &Attached) -> Status {
    let Attached { core, session, .. } = attached;
    attached.inbox.closed().await;
    let is_expected = core.is_draining() || core.agents.is_being_deleted(&session.id);
    match find(core, &session.id).await {
        Ok(found) if !is_expected && found.key == session.key => {
            internal("the conversation ended by an internal error; begin it again")
        }
        // Whoever tells what is recorded comes to it.
        _ => std::future::pending().await,
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let (inbox, key) = (self.inbox.clone(), self.key);
        tokio::spawn(async move {
            let _ = inbox.send(Command::Detach(key)).await;
        });
    }
}

async fn attach(
    core: Arc<Core>,
    device: Device,
    opened: Opened,
    answers: mpsc::Sender<NextBatch>,
    slot: LimitGuard,
) -> Result<(EventSender, Attached), End> {
    let id = opened.session.id.clone();
    let subscription = core.hub.subscribe(id.clone());
    let session = find(&core, &id).await?;
    subscription.set_key(session.key);
    // A replay that the client was sent just now: the conversation goes on behind it, without a gap.
    let replays = &core.agents.replays;
    let replayed = replays.take(Instant::now(), &device, session.key);
    let from = opened.from.or(replayed).unwrap_or(session.messages);
    let (store, in_session) = (core.store.clone(), id.clone());
    let context = move || in_context(&store, &in_session, from);
    let mut translator = core.blocking.read(context).await?;
    translator.say_compacted(session.segments > 0);
    let (key, mailbox) = (core.agents.stream_key(), Arc::new(Mailbox::default()));
    let command = |attached| Command::Attach {
        key,
        client: Arc::clone(&device.client),
        from,
        options: opened.options.clone(),
        mailbox: Arc::clone(&mailbox),
        attached,
    };
    let (place, inbox) = core.agents.ask(&core, &session, command).await?;
    let attached = Attached {
        core: Arc::clone(&core),
        session: session.clone(),
        key,
        inbox,
        mailbox: Arc::clone(&mailbox),
        last_sent: Arc::new(AtomicU64::new(from)),
    };
    let mut first = vec![info(&session, opened.known, &opened.options, &place.model)];
    if let Some(named) = &opened.ignored_directory {
        let works_in = &opened.options.working_directory;
        first.push(directory_ignored(
            core.agents.status(&session),
            works_in,
            named,
        ));
    }
    let lines = Lines {
        core: Arc::clone(&core),
        session: id.clone(),
    };
    let traffic = &core.metrics.traffic;
    let live = StreamMeter::new(&traffic.live);
    let caught_up = StreamMeter::new(&traffic.replayed);
    let sender = EventSender {
        core,
        session: id,
        key: session.key,
        last_sent: from,
        last_sent_shared: Arc::clone(&attached.last_sent),
        translator,
        lines,
        mailbox,
        times: place.times,
        subscription,
        answers,
        page: first,
        live,
        caught_up,
        _slot: slot,
    };
    Ok((sender, attached))
}
