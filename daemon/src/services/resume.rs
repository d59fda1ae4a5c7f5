//! `AgentService.ResumeSession`: a session's lines after a sequence, as events.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use betcode_schema_grpc::v1::{AgentEvent, ResumeSessionRequest};
use betcode_storage::{Message, ReadRange, Result, SessionId, Store};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::ResponseStream;
use crate::agents::Device;
use crate::core::{Core, session_id};
use crate::limits::{
    ANSWERS_AHEAD_MAX, FIRST_INIT_LINES_MAX, TRANSLATE_CONTEXT_BYTES_MAX,
    TRANSLATE_CONTEXT_LINES_MAX,
};
use crate::long_lines::LongLinePermit;
use crate::observe::traffic::StreamMeter;
use crate::reading::{Gone, Page, Pages, together};
use crate::status::{from_store, out_of_range};
use crate::translate::{Line, Matters, TaskChange, Translator, task_changes};

pub(super) async fn resume(
    core: Arc<Core>,
    device: Device,
    request: ResumeSessionRequest,
) -> std::result::Result<ResponseStream<AgentEvent>, Status> {
    let session = session_id(&request.session_id)?;
    let after = request.from_sequence;
    core.admission.memory.check()?;
    let (store, id) = (core.store.clone(), session.clone());
    let found = core.blocking.read(move || store.session(&id)).await;
    let found = found.map_err(|error| from_store(&error))?;
    let last = found.messages;
    if after > last {
        let message = format!(
            "session {session} ends at sequence {last}, and it was to be resumed behind {after}; \
             resume from {last} or earlier"
        );
        return Err(out_of_range(message));
    }
    let (store, id) = (core.store.clone(), session.clone());
    let lines = Lines {
        core: Arc::clone(&core),
        session: session.clone(),
    };
    let ready = core
        .blocking
        .read(move || in_context(&store, &id, after))
        .await;
    let translator = ready.map_err(|error| from_store(&error))?;
    let range = ReadRange::from(after + 1);
    let pages = Pages::of(Arc::clone(&core), &found, range);
    let (sender, receiver) = mpsc::channel(ANSWERS_AHEAD_MAX);
    let meter = StreamMeter::new(&core.metrics.traffic.replayed);
    tokio::spawn(async move {
        if pump(pages, lines, translator, meter, &sender).await.is_ok() {
            let replays = &core.agents.replays;
            // Before its client sees the end.
            replays.note(Instant::now(), device, found.key, last);
        }
    });
    // Events of some lines come out together: those of one line share a transport frame.
    Ok(Box::pin(EventStream::of(ReceiverStream::new(receiver))))
}

/// Events that go out together.
#[derive(Default)]
pub(super) struct EventBatch {
    events: std::vec::IntoIter<AgentEvent>,
    /// Of the long lines that they are made of. Kept until more is asked for: the last of them has
    /// been taken then.
    _room: Option<LongLinePermit>,
}

impl EventBatch {
    pub(super) fn new(events: Vec<AgentEvent>, room: Option<LongLinePermit>) -> Self {
        Self {
            events: events.into_iter(),
            _room: room,
        }
    }
}

/// What goes out next, or why there is no more.
pub(super) type NextBatch = std::result::Result<EventBatch, Status>;

/// Events, one by one.
pub(super) struct EventStream {
    batches: ReceiverStream<NextBatch>,
    batch: EventBatch,
}

impl EventStream {
    pub(super) fn of(batches: ReceiverStream<NextBatch>) -> Self {
        Self {
            batches,
            batch: EventBatch::default(),
        }
    }
}

impl Stream for EventStream {
    type Item = std::result::Result<AgentEvent, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.batch.events.next() {
                return Poll::Ready(Some(Ok(event)));
            }
            self.batch = EventBatch::default();
            match ready!(Pin::new(&mut self.batches).poll_next(context)) {
                Some(Ok(batch)) => self.batch = batch,
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }
}

/// The lines of a session, for what stands before others.
#[derive(Clone)]
pub(super) struct Lines {
    pub(super) core: Arc<Core>,
    pub(super) session: SessionId,
}

impl Lines {
    /// Tells a translator the things to do before a line, if it needs them for that line.
    pub(super) async fn tell_tasks(&self, translator: &mut Translator, message: &Message) {
        if !translator.lacks_tasks(&message.payload) {
            return;
        }
        let (store, session) = (self.core.store.clone(), self.session.clone());
        let before = message.sequence.saturating_sub(1);
        let look = move || tasks_up_to(&store, &session, before);
        // What cannot be read hides the list, not the events of the line.
        let found = self.core.blocking.read(look).await;
        translator.begin_tasks(found.unwrap_or_default());
    }
}

/// Sends a replay to its end, unless its client leaves or damage ends it.
async fn pump(
    mut pages: Pages,
    lines: Lines,
    mut translator: Translator,
    mut meter: StreamMeter,
    sender: &mpsc::Sender<NextBatch>,
) -> std::result::Result<(), Gone> {
    loop {
        let Page { messages, room } = match pages.next().await {
            Ok(Some(page)) => page,
            Ok(None) => return Ok(()),
            Err(error) => {
                // These clients cannot be told of damage between events: the replay ends with it.
                let _ = sender.send(Err(error.into())).await;
                return Err(Gone);
            }
        };
        for messages in together(&messages) {
            let mut events = Vec::new();
            for message in messages {
                lines.tell_tasks(&mut translator, message).await;
                events.extend(translator.translate(line(message)));
            }
            if events.is_empty() {
                continue;
            }
            let batch = EventBatch::new(events, room.clone());
            pages.hand_to(sender, Ok(batch)).await?;
            meter.add(payload_bytes(messages));
        }
        if sender.is_closed() {
            return Err(Gone);
        }
    }
}

/// Bytes of lines as they were recorded.
pub(super) fn payload_bytes(lines: &[Message]) -> u64 {
    lines.iter().map(|line| line.payload.len() as u64).sum()
}

/// A translator that has seen the lines of the message under way at `after`.
pub(super) fn in_context(store: &Store, session: &SessionId, after: u64) -> Result<Translator> {
    let worktree_id = store.session(session)?.meta.worktree_id;
    let mut translator = Translator::new(session.as_str()).in_worktree(worktree_id);
    if let Some(sequence) = first_init(store, session, after)? {
        translator.began_before(sequence);
    }
    for message in context(store, session, after, TRANSLATE_CONTEXT_BYTES_MAX)? {
        translator.translate(line(&message));
    }
    // Of what the agent has to do, these lines have parts.
    translator.forget_tasks();
    Ok(translator)
}

/// Where the session's first agent began, if it did up to `after`.
fn first_init(store: &Store, session: &SessionId, after: u64) -> Result<Option<u64>> {
    let range = ReadRange {
        to: Some(after.min(FIRST_INIT_LINES_MAX)),
        ..ReadRange::all()
    };
    // As a replay from the beginning takes it: what may be the rest of a torn line begins nothing.
    let mut replayed = Translator::new(session.as_str());
    // Damage hides who began, not what comes after it.
    for message in store.read(session, range)?.flatten() {
        replayed.translate(line(&message));
        if replayed.began().is_some() {
            break;
        }
    }
    Ok(replayed.began())
}

fn line(message: &Message) -> Line<'_> {
    Line {
        sequence: message.sequence,
        received_ms: message.received_ms,
        bytes: &message.payload,
    }
}

/// Chooses, line by line, what the translator must have seen.
struct Choice {
    /// A line that was chosen is torn, and no whole one has been seen since.
    torn: bool,
}

impl Choice {
    fn takes(&mut self, matters: Matters) -> bool {
        match matters {
            Matters::Nothing => false,
            Matters::IsWhole => std::mem::take(&mut self.torn),
            Matters::Something => true,
            Matters::IsTorn => {
                self.torn = true;
                true
            }
            Matters::Begins => {
                self.torn = false;
                true
            }
        }
    }
}

/// Lines up to `after` that matter for what comes after it, looked for backwards until the beginning
/// of a message, within `bytes_max`.
fn context(
    store: &Store,
    session: &SessionId,
    after: u64,
    bytes_max: usize,
) -> Result<Vec<Message>> {
    // The newest part first.
    let mut parts = Vec::new();
    let mut first = after + 1;
    let oldest = first.saturating_sub(TRANSLATE_CONTEXT_LINES_MAX).max(1);
    let (mut step, mut left) = (64, bytes_max);
    while first > oldest {
        let from = first.saturating_sub(step).max(oldest);
        let range = ReadRange {
            to: Some(first - 1),
            ..ReadRange::from(from)
        };
        match part(store, session, range, left)? {
            Some(part) => {
                left -= part.read_bytes;
                let begins = part.begins;
                parts.push(part.lines);
                if begins {
                    break;
                }
                (first, step) = (from, step * 4);
            }
            None if step > 1 => step = (step / 16).max(1),
            None => break,
        }
    }
    let mut choice = Choice { torn: false };
    let lines = parts.into_iter().rev().flatten();
    let chosen = lines.filter(|(matters, _)| choice.takes(*matters));
    Ok(chosen.map(|(_, message)| message).collect())
}

/// What the lines up to `last` say of things to do, from the last beginning of a list on; nothing if that is not among
/// the last [`TRANSLATE_CONTEXT_LINES_MAX`] lines and [`TRANSLATE_CONTEXT_BYTES_MAX`] bytes.
fn tasks_up_to(store: &Store, session: &SessionId, last: u64) -> Result<Vec<TaskChange>> {
    // The newest part first.
    let mut parts = Vec::new();
    let mut first = last + 1;
    let oldest = first.saturating_sub(TRANSLATE_CONTEXT_LINES_MAX).max(1);
    let (mut step, mut left) = (64, TRANSLATE_CONTEXT_BYTES_MAX);
    while first > oldest {
        let from = first.saturating_sub(step).max(oldest);
        let range = ReadRange {
            to: Some(first - 1),
            ..ReadRange::from(from)
        };
        let (mut changes, mut begins) = (Vec::new(), false);
        // Damage hides what was done in it.
        for message in store.read(session, range)?.filter_map(Result::ok) {
            left = match left.checked_sub(message.payload.len()) {
                Some(left) => left,
                None => return Ok(Vec::new()),
            };
            for change in task_changes(&message.payload) {
                if change.begins() {
                    (begins, changes) = (true, Vec::new());
                }
                changes.push(change);
            }
        }
        parts.push(changes);
        if begins {
            return Ok(parts.into_iter().rev().flatten().collect());
        }
        (first, step) = (from, step * 4);
    }
    Ok(Vec::new())
}

/// Context from one part of a session.
struct Part {
    lines: Vec<(Matters, Message)>,
    /// Its first line begins a message: what is before matters no more.
    begins: bool,
    read_bytes: usize,
}

/// Looks through a part of a session; `None` when it is longer than `bytes_max`.
fn part(
    store: &Store,
    session: &SessionId,
    range: ReadRange,
    bytes_max: usize,
) -> Result<Option<Part>> {
    let mut part = Part {
        lines: Vec::new(),
        begins: false,
        read_bytes: 0,
    };
    // It is not known yet whether the part before it ends with a torn line.
    let mut choice = Choice { torn: true };
    // Damage hides context, not events: it is reported when the replay comes to it.
    for message in store.read(session, range)?.filter_map(Result::ok) {
        part.read_bytes += message.payload.len();
        if part.read_bytes > bytes_max {
            return Ok(None);
        }
        let matters = Translator::matters(&message.payload);
        if matters == Matters::Begins {
            part.begins = true;
            part.lines.clear();
        }
        if choice.takes(matters) {
            // In memory of its own: a line must not keep its whole segment.
            let payload = Bytes::copy_from_slice(&message.payload);
            part.lines.push((matters, Message { payload, ..message }));
        }
    }
    Ok(Some(part))
}

#[cfg(test)]
mod tests {
    use betcode_storage::{Batch, StoreOptions};
    use proptest::prelude::*;

    use super::*;

    const BEGINS: &str =
        r#"{"type":"stream_event","event":{"type":"message_start","message":{"id":"m"}}}"#;
    const GOES_ON: &str = r#"{"type":"stream_event","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}}}"#;

    fn tool_result(bytes: usize) -> String {
        let text = "x".repeat(bytes);
        format!(r#"{{"type":"user","message":{{"content":"{text}"}}}}"#)
    }

    /// The sequences that are kept as context of what follows these lines.
    fn kept(lines: &[String], bytes_max: usize) -> Vec<u64> {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("db"), StoreOptions::default()).unwrap();
        let session = SessionId::new("s").unwrap();
        for lines in lines.chunks(1000) {
            let payloads = lines.iter().cloned().map(Bytes::from).collect();
            store.append(Batch::new(session.clone(), payloads)).unwrap();
        }
        let kept = context(&store, &session, lines.len() as u64, bytes_max).unwrap();
        kept.into_iter().map(|message| message.sequence).collect()
    }

    #[test]
    fn lines_that_change_no_context_are_not_kept() {
        let mut lines = vec![tool_result(100); 3000];
        assert!(kept(&lines, TRANSLATE_CONTEXT_BYTES_MAX).is_empty());
        lines[1000] = BEGINS.to_owned();
        lines[2000] = GOES_ON.to_owned();
        assert_eq!(kept(&lines, TRANSLATE_CONTEXT_BYTES_MAX), [1001, 2001]);
        // Only the message under way.
        lines[2500] = BEGINS.to_owned();
        assert_eq!(kept(&lines, TRANSLATE_CONTEXT_BYTES_MAX), [2501]);
    }

    #[test]
    fn context_is_looked_for_within_a_bound_of_bytes_as_near_as_it_is() {
        let mut lines = vec![tool_result(10_000); 60];
        lines[2] = BEGINS.to_owned();
        lines[50] = BEGINS.to_owned();
        lines[51] = GOES_ON.to_owned();
        assert_eq!(kept(&lines, 100_000), [51, 52]);
        lines[50] = GOES_ON.to_owned();
        assert_eq!(kept(&lines, 1_000_000), [3, 51, 52]);
        assert_eq!(kept(&lines, 200_000), [51, 52]);
        assert!(kept(&lines, 20_000).is_empty());
    }

    /// Values that lines are made of: those that change what is known, and those that tell it.
    const VALUES: [&str; 17] = [
        r#"{"type":"rate_limit_event"}"#,
        r#"{"type":"result","subtype":"success","result":"/x is not known"}"#,
        r#"{"type":"assistant","message":{"id":"o","content":[{"type":"text","text":"/x is not known"}]}}"#,
        r#"{"type":"user","message":{"content":"hi"},"session_id":""}"#,
        r#"{"type":"user","message":{"content":"hi"},"session_id":"a"}"#,
        r#"{"type":"user","message":{"content":"<local-command-stdout>x</local-command-stdout>"}}"#,
        r#"{"type":"system","subtype":"local_command_output","content":"x"}"#,
        BEGINS,
        GOES_ON,
        r#"{"type":"system","subtype":"init","session_id":"a"}"#,
        r#"{"type":"assistant","message":{"id":"m","content":[{"type":"text","text":"xy"}]}}"#,
        r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t","content":"r"}]}}"#,
        r#"{"type":"result","subtype":"success"}"#,
        r#"{"type":"user","message":{"content":[{"type":"tool_result"}]},"tool_use_result":{"task":{"id":"1","subject":"a"}}}"#,
        r#"{"type":"user","message":{"content":[{"type":"tool_result"}]},"tool_use_result":{"task":{"id":"2","subject":"b"}}}"#,
        r#"{"type":"user","message":{"content":[{"type":"tool_result"}]},"toolUseResult":{"success":true,"taskId":"1","statusChange":{"to":"completed"}}}"#,
        r#"{"type":"user","message":{"content":[{"type":"tool_result"}]},"toolUseResult":{"success":true,"taskId":"2","statusChange":{"to":"deleted"}}}"#,
    ];
    const ENDS: [&str; 5] = ["", "", "", r#"{"type":"ass"#, r#""}]}}"#];

    /// Lines with one value, two, or none, of which some are torn and some end with what is no JSON.
    fn any_lines() -> impl Strategy<Value = Vec<String>> {
        let value = prop::sample::select(&VALUES[..]);
        let values = prop::collection::vec(value, 0..3);
        let line = (values, prop::sample::select(&ENDS[..]));
        // A plain line among them changes nothing but that it is whole.
        let line = line.prop_map(|(values, end)| values.concat() + end);
        let plain = Just(VALUES[0].to_owned());
        prop::collection::vec(prop_oneof![line, plain], 1..100)
    }

    fn events(
        store: &Store,
        translator: &mut Translator,
        lines: &[String],
        after: usize,
    ) -> Vec<AgentEvent> {
        let session = SessionId::new("s").unwrap();
        let events = lines.iter().enumerate().skip(after).map(|(at, bytes)| {
            if translator.lacks_tasks(bytes.as_bytes()) {
                translator.begin_tasks(tasks_up_to(store, &session, at as u64).unwrap());
            }
            translator.translate(Line {
                sequence: at as u64 + 1,
                received_ms: 0,
                bytes: bytes.as_bytes(),
            })
        });
        events.flatten().collect()
    }

    #[test]
    fn things_to_do_are_looked_for_within_a_bound() {
        let create = VALUES[13].to_owned();
        let found = |before: Vec<String>| {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(&folder.path().join("db"), StoreOptions::default()).unwrap();
            let session = SessionId::new("s").unwrap();
            let lines = [vec![create.clone()], before].concat();
            for lines in lines.chunks(1000) {
                let payloads = lines.iter().cloned().map(Bytes::from).collect();
                store.append(Batch::new(session.clone(), payloads)).unwrap();
            }
            tasks_up_to(&store, &session, lines.len() as u64)
                .unwrap()
                .len()
        };
        assert_eq!(found(vec![VALUES[14].to_owned(); 2]), 3);
        assert_eq!(found(vec![tool_result(100); 3000]), 1);
        assert_eq!(found(vec![tool_result(1 << 20); 17]), 0);
        assert_eq!(
            found(vec![String::new(); TRANSLATE_CONTEXT_LINES_MAX as usize]),
            0
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn events_are_the_same_wherever_a_replay_begins(lines in any_lines()) {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(&folder.path().join("db"), StoreOptions::default()).unwrap();
            let session = SessionId::new("s").unwrap();
            let payloads = lines.iter().cloned().map(Bytes::from).collect();
            store.append(Batch::new(session.clone(), payloads)).unwrap();
            let all = events(&store, &mut Translator::new("s"), &lines, 0);
            for after in 0..=lines.len() {
                let mut resumed = in_context(&store, &session, after as u64).unwrap();
                let sent = events(&store, &mut resumed, &lines, after);
                let rest = all.iter().filter(|event| event.sequence > after as u64);
                prop_assert_eq!(sent, rest.cloned().collect::<Vec<_>>(), "after {}", after);
            }
        }
    }
}
