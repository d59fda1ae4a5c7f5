//! `HistoryService.Read`.

use std::sync::Arc;

use betcode_schema_grpc::history::{Damage, ReadRequest, ReadResponse};
use betcode_storage::{ReadRange, SessionId};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::ResponseStream;
use crate::core::{Core, session_id};
use crate::limits::{ANSWERS_AHEAD_MAX, PACE_PAUSE_MS_MAX, SLOW_CLIENT_MS};
use crate::observe::traffic::StreamMeter;
use crate::observe::{add, ms};
use crate::reading::{Page, Pages, ReadError, frames, is_damage};
use crate::status::{beyond_the_end, from_store};

/// The last sequence of a session.
///
/// # Errors
/// NOT_FOUND.
async fn last_of(core: &Core, session: &SessionId) -> Result<u64, Status> {
    let (store, id) = (core.store.clone(), session.clone());
    let read = core.blocking.read(move || store.session(&id)).await;
    read.map(|session| session.messages)
        .map_err(|error| from_store(&error))
}

/// Refuses to begin beyond the end: the caller knows more than the store, and should learn so.
///
/// # Errors
/// NOT_FOUND, OUT_OF_RANGE.
pub(super) async fn check_start(core: &Core, session: &SessionId, from: u64) -> Result<(), Status> {
    let last = last_of(core, session).await?;
    if from > last + 1 {
        let message = format!(
            "session {session} ends at sequence {last}, and {from} was asked for; read from {} or \
             earlier",
            last + 1
        );
        return Err(beyond_the_end(message, last));
    }
    Ok(())
}

pub(super) async fn read(
    core: Arc<Core>,
    request: ReadRequest,
) -> Result<ResponseStream<ReadResponse>, Status> {
    let session = session_id(&request.session_id)?;
    core.admission.memory.check()?;
    check_start(&core, &session, request.from_sequence).await?;
    let some = |number: u64| (number > 0).then_some(number);
    let range = ReadRange {
        from: request.from_sequence,
        to: some(request.to_sequence),
        last: some(request.last),
    };
    let opened = Pages::open(Arc::clone(&core), session, range).await;
    let pages = opened.map_err(|error| from_store(&error))?;
    let (answers, receiver) = mpsc::channel(ANSWERS_AHEAD_MAX);
    let pace = Pace::new(request.bytes_per_second_max);
    let skip_damaged = request.skip_damaged;
    tokio::spawn(async move { pump(&core, pages, pace, skip_damaged, &answers).await });
    Ok(Box::pin(ReceiverStream::new(receiver)))
}

/// Sends pages until the end, an error, or the caller's leaving.
async fn pump(
    core: &Core,
    mut pages: Pages,
    mut pace: Pace,
    skip_damaged: bool,
    answers: &mpsc::Sender<Result<ReadResponse, Status>>,
) {
    let mut meter = StreamMeter::new(&core.metrics.traffic.replayed);
    loop {
        let first_sequence = pages.position();
        let Page { messages, room } = match pages.next().await {
            Ok(Some(page)) => page,
            Ok(None) => return,
            Err(ReadError::Store(error)) if skip_damaged && is_damage(&error) => {
                let damage = Some(Damage {
                    first_sequence,
                    next_sequence: pages.position(),
                    what: error.to_string(),
                });
                let answer = ReadResponse {
                    messages: Vec::new(),
                    damage,
                };
                if pages.hand_to(answers, Ok(answer)).await.is_err() {
                    return;
                }
                continue;
            }
            Err(error) => {
                let _ = answers.send(Err(error.into())).await;
                return;
            }
        };
        add(&core.metrics.messages_read, messages.len());
        // Until the last of them is handed on.
        let _room = room;
        for messages in frames(messages) {
            let bytes: usize = messages.iter().map(|m| m.payload.len()).sum();
            let answer = ReadResponse {
                messages,
                damage: None,
            };
            if pages.hand_to(answers, Ok(answer)).await.is_err() {
                return;
            }
            meter.add(bytes as u64);
            add(&core.metrics.bytes_read, bytes);
            let until = pace.next_after(bytes);
            if until > Instant::now() + ms(SLOW_CLIENT_MS) {
                pages.step_aside();
            }
            tokio::select! {
                () = sleep_until(until) => {}
                () = answers.closed() => return,
            }
        }
    }
}

/// Keeps a stream at a number of bytes a second.
struct Pace {
    bytes_per_second: u64,
    next: Instant,
}

impl Pace {
    fn new(bytes_per_second: u64) -> Self {
        Self {
            bytes_per_second,
            next: Instant::now(),
        }
    }

    /// When to go on behind `bytes` more, to keep the pace. Pauses of the client are not caught up.
    fn next_after(&mut self, bytes: usize) -> Instant {
        if self.bytes_per_second > 0 {
            let takes = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            self.next = self.next.max(Instant::now()) + takes.min(ms(PACE_PAUSE_MS_MAX));
        }
        self.next
    }
}
