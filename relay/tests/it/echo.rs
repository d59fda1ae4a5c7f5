//! A gRPC service of opaque bytes, and a client for it. On the wire a unary call is a stream of
//! one message, so one handler serves every kind of call.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Code, Request, Response, Status, Streaming};

#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// What the service has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) calls: AtomicUsize,
    pub(crate) hanging: AtomicUsize,
    pub(crate) sent_messages: AtomicUsize,
    pub(crate) received_messages: AtomicUsize,
    pub(crate) streaming: AtomicUsize,
    refuse_next: AtomicUsize,
    fail_next: AtomicUsize,
    slow_next: AtomicUsize,
    slow: AtomicUsize,
    recorded: Mutex<Vec<Record>>,
}

/// A request that the service was given for good.
#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) body: String,
    pub(crate) metadata: MetadataMap,
}

#[derive(Clone, Default)]
pub(crate) struct Echo {
    pub(crate) seen: Arc<Seen>,
}

impl Echo {
    pub(crate) fn recorded(&self) -> Vec<Record> {
        self.seen.recorded.lock().unwrap().clone()
    }

    /// Refuses the next records as a daemon does that cannot take them now.
    pub(crate) fn refuse_next(&self, count: usize) {
        self.seen.refuse_next.store(count, Ordering::SeqCst);
    }

    /// Fails at the next records, after those that it refuses.
    pub(crate) fn fail_next(&self, count: usize) {
        self.seen.fail_next.store(count, Ordering::SeqCst);
    }

    /// Takes its time for the next records.
    pub(crate) fn slow_next(&self, count: usize) {
        self.seen.slow_next.store(count, Ordering::SeqCst);
    }

    /// Records that were, or are, slow.
    pub(crate) fn slow(&self) -> usize {
        self.seen.slow.load(Ordering::SeqCst)
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

type Answers = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<B> tower::Service<http::Request<B>> for Echo
where
    B: http_body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let method = Method(self.seen.clone(), path);
        Box::pin(async move {
            let mut grpc = Grpc::new(Raw)
                .max_decoding_message_size(usize::MAX)
                .max_encoding_message_size(usize::MAX);
            Ok(grpc.streaming(method, request).await)
        })
    }
}

struct Method(Arc<Seen>, String);

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = Answers;
    type Future = BoxFuture<Result<Response<Answers>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (seen, path) = (self.0.clone(), self.1.clone());
        Box::pin(answer(seen, path, request))
    }
}

struct Hanging(Arc<Seen>);

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.hanging.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Sending(Arc<Seen>);

impl Drop for Sending {
    fn drop(&mut self) {
        self.0.streaming.fetch_sub(1, Ordering::SeqCst);
    }
}

type Answered = Result<Response<Answers>, Status>;

async fn answer(seen: Arc<Seen>, path: String, request: Request<Streaming<Bytes>>) -> Answered {
    seen.calls.fetch_add(1, Ordering::SeqCst);
    let (metadata, _, messages) = request.into_parts();
    let method = path.rsplit('/').next().unwrap_or_default();
    match method {
        "Unary" => unary(&metadata, messages).await,
        "Metadata" => Ok(lines_of(metadata)),
        "Record" => record(&seen, metadata, messages).await,
        "Fail" => Err(failure()),
        "Many" => many(seen, messages).await,
        "Count" => count(messages).await,
        "Chat" => Ok(chat(seen, messages)),
        // Never answers; whether it is still wanted shows in `hanging`.
        "Hang" => {
            seen.hanging.fetch_add(1, Ordering::SeqCst);
            let _hanging = Hanging(seen);
            std::future::pending().await
        }
        "HangOpen" => Ok(hang_open(seen)),
        // Takes nothing and never answers: the request's body has nowhere to go.
        "Deaf" => {
            let _messages = messages;
            std::future::pending().await
        }
        _ => Err(Status::unimplemented("no such method")),
    }
}

/// The one message back, with its metadata.
async fn unary(metadata: &MetadataMap, mut messages: Streaming<Bytes>) -> Answered {
    let message = messages.message().await?.unwrap_or_default();
    let mut response = Response::new(once(message));
    for name in ["x-echo", "x-echo-bin"] {
        copy(metadata, response.metadata_mut(), name);
    }
    Ok(response)
}

/// What arrived as metadata, a line each.
fn lines_of(metadata: MetadataMap) -> Response<Answers> {
    let headers = metadata.into_headers();
    let lines = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes())));
    Response::new(once(lines.collect::<String>().into()))
}

async fn record(seen: &Seen, metadata: MetadataMap, mut messages: Streaming<Bytes>) -> Answered {
    let message = messages.message().await?.unwrap_or_default();
    let one_less = |n: usize| n.checked_sub(1);
    let order = Ordering::SeqCst;
    let is_next = |count: &AtomicUsize| count.fetch_update(order, order, one_less).is_ok();
    if is_next(&seen.refuse_next) {
        return Err(Status::unavailable("not now"));
    }
    if is_next(&seen.fail_next) {
        return Err(Status::aborted("not like this"));
    }
    if is_next(&seen.slow_next) {
        seen.slow.fetch_add(1, order);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    seen.recorded.lock().unwrap().push(Record {
        body: String::from_utf8_lossy(&message).into_owned(),
        metadata,
    });
    Ok(Response::new(once(Bytes::from_static(b"recorded"))))
}

fn failure() -> Status {
    let mut trailers = MetadataMap::new();
    trailers.insert("x-why", "because".parse().unwrap());
    let details = Bytes::from_static(b"\x08\x07details");
    let text = "naïve — 100 %";
    Status::with_details_and_metadata(Code::DataLoss, text, details, trailers)
}

/// `count size pause_us`: so many messages of so many bytes.
async fn many(seen: Arc<Seen>, mut messages: Streaming<Bytes>) -> Answered {
    let asked = messages.message().await?.unwrap_or_default();
    let asked = String::from_utf8_lossy(&asked).into_owned();
    let numbers: Vec<u64> = asked.split(' ').map(|n| n.parse().unwrap_or(0)).collect();
    let (count, size, pause_us) = (numbers[0], numbers[1] as usize, numbers[2]);
    let (send, receive) = tokio::sync::mpsc::channel(1);
    seen.streaming.fetch_add(1, Ordering::SeqCst);
    let sending = Sending(seen.clone());
    tokio::spawn(async move {
        let _sending = sending;
        for index in 0..count {
            let mut message = vec![b'.'; size.max(8)];
            message[..8].copy_from_slice(&index.to_be_bytes());
            if send.send(Ok(message.into())).await.is_err() {
                return;
            }
            seen.sent_messages.fetch_add(1, Ordering::SeqCst);
            if pause_us > 0 {
                tokio::time::sleep(Duration::from_micros(pause_us)).await;
            }
        }
    });
    Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
}

/// Counts what comes.
async fn count(mut messages: Streaming<Bytes>) -> Answered {
    let (mut count, mut bytes) = (0, 0);
    while let Some(message) = messages.message().await? {
        count += 1;
        bytes += message.len();
    }
    Ok(Response::new(once(format!("{count} {bytes}").into())))
}

/// Each message back as it comes; a message `bye` ends the call from this side.
fn chat(seen: Arc<Seen>, mut messages: Streaming<Bytes>) -> Response<Answers> {
    let (send, receive) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        while let Some(Ok(message)) = messages.next().await {
            seen.received_messages.fetch_add(1, Ordering::SeqCst);
            let bye = message == "bye";
            if send.send(Ok(message)).await.is_err() || bye {
                return;
            }
        }
    });
    Response::new(Box::pin(ReceiverStream::new(receive)))
}

/// Answers at once and then never ends.
fn hang_open(seen: Arc<Seen>) -> Response<Answers> {
    seen.hanging.fetch_add(1, Ordering::SeqCst);
    let hanging = Hanging(seen);
    let first = tokio_stream::once(Ok(Bytes::from_static(b"first")));
    let rest = tokio_stream::pending().map(move |message| {
        let _held = &hanging;
        message
    });
    Response::new(Box::pin(first.chain(rest)))
}

fn once(message: Bytes) -> Answers {
    Box::pin(tokio_stream::once(Ok(message)))
}

fn copy(from: &MetadataMap, to: &mut MetadataMap, name: &'static str) {
    if let Some(value) = from.get(name) {
        to.insert(name, value.clone());
    }
    if name.ends_with("-bin")
        && let Some(value) = from.get_bin(name)
    {
        to.insert_bin(name, value.clone());
    }
}
