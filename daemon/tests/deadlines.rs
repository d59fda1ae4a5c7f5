//! The caller's deadline, from `grpc-timeout` to the writer's queue; and a writer that is held up.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

#[path = "support/held.rs"]
mod held;
#[path = "support/raw.rs"]
mod raw;
mod support;

use std::sync::Arc;
use std::time::Duration;

use betcode_schema_grpc::history::{
    AppendRequest, FollowRequest, ReadRequest, Refused, RenameSessionRequest,
};
use betcode_schema_grpc::v1::agent_request::Request as Asked;
use betcode_schema_grpc::v1::{AgentRequest, StartConversation};
use bytes::Bytes;
use held::Held;
use prost::Message as _;
use raw::{Raw, framed};
use support::{Appender, Served, batch, eventually, read_all, serve, within};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};

async fn appender_within(served: &Served, timeout: Duration) -> Appender {
    let mut client = served.history().await;
    let (requests, receiver) = mpsc::channel(1024);
    let mut request = Request::new(ReceiverStream::new(receiver));
    request.set_timeout(timeout);
    let answers = client.append(request).await.unwrap().into_inner();
    Appender { requests, answers }
}

fn code(refused: &Refused) -> (Code, &str) {
    (Code::from(refused.code), refused.reason.as_str())
}

#[tokio::test]
async fn a_batch_whose_deadline_passes_in_the_queue_is_refused_and_not_written() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut patient = Appender::open(&mut client).await;
    patient.send(batch("s", &["1"])).await.unwrap();
    let mut hasty = appender_within(&served, Duration::from_millis(400)).await;
    let held = Held::take(&served.settings.db);
    // The first is in the writer's hands; the others wait behind it.
    patient.requests.send(batch("s", &["2"])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    hasty.requests.send(batch("t", &["late"])).await.unwrap();
    let own = AppendRequest {
        wait_ms_max: 100,
        ..batch("u", &["late as well"])
    };
    patient.requests.send(own).await.unwrap();
    tokio::time::sleep(Duration::from_millis(600)).await;
    held.give_back();
    within(patient.answer()).await.unwrap();
    let late = within(patient.answer()).await.unwrap_err();
    assert_eq!(code(&late), (Code::DeadlineExceeded, "TIMEOUT"));
    let late = within(hasty.answer()).await.unwrap_err();
    assert_eq!(code(&late), (Code::DeadlineExceeded, "TIMEOUT"));
    for session in ["t", "u"] {
        let status = read_all(&mut client, session, 1).await.unwrap_err();
        assert_eq!(status.code(), Code::NotFound, "{session}");
    }
    assert_eq!(read_all(&mut client, "s", 1).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_stream_ends_at_its_deadline() {
    let served = serve(&[]).await;
    let mut hasty = appender_within(&served, Duration::from_millis(300)).await;
    hasty.send(batch("s", &["in time"])).await.unwrap();
    let status = within(hasty.answers.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
    let mut client = served.history().await;
    assert_eq!(read_all(&mut client, "s", 1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn every_other_stream_ends_at_its_deadline_and_holds_nothing_after_it() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    let line = "x".repeat(1000);
    appender.send(batch("s", &[&line])).await.unwrap();
    let follow = FollowRequest {
        session_id: "s".into(),
        from_sequence: 1,
    };
    let read = ReadRequest {
        session_id: "s".into(),
        ..ReadRequest::default()
    };
    // After the line it rests for a minute.
    let slow_read = ReadRequest {
        bytes_per_second_max: 1,
        ..read.clone()
    };
    let start = StartConversation {
        session_id: "s".into(),
        working_directory: served.folder.path().display().to_string(),
        ..StartConversation::default()
    };
    let converse = AgentRequest {
        request: Some(Asked::Start(start)),
    };
    let (reads, follows) = (
        "history.v1.HistoryService/Read",
        "history.v1.HistoryService/Follow",
    );
    let late = Code::DeadlineExceeded;
    for (method, timeout, message, expected) in [
        (follows, "300m", follow.encode_to_vec(), late),
        (reads, "300m", slow_read.encode_to_vec(), late),
        (
            "v1.AgentService/Converse",
            "300m",
            converse.encode_to_vec(),
            late,
        ),
        (reads, "30S", read.encode_to_vec(), Code::Ok),
    ] {
        let path = format!("/betcode.{method}");
        let mut raw = Raw::begin(&served.settings.socket, &path, Some(timeout)).await;
        // Only a conversation goes on behind its first request.
        let last = !method.ends_with("Converse");
        raw.body.send_data(framed(&message), last).unwrap();
        assert_eq!(raw.status().await, expected, "{method}");
    }
    let followers = &served.daemon.core().admission.followers;
    eventually(async || followers.used() == 0).await;
}

#[tokio::test]
async fn a_stream_whose_client_reads_nothing_holds_nothing_after_its_deadline() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    let line = "x".repeat(100_000);
    for _ in 0..20 {
        appender.send(batch("s", &[&line])).await.unwrap();
    }
    let follow = FollowRequest {
        session_id: "s".into(),
        from_sequence: 1,
    };
    let path = "/betcode.history.v1.HistoryService/Follow";
    let mut raw = Raw::begin(&served.settings.socket, path, Some("500m")).await;
    let message = framed(&follow.encode_to_vec());
    raw.body.send_data(message, true).unwrap();
    let followers = &served.daemon.core().admission.followers;
    eventually(async || followers.used() == 1).await;
    eventually(async || followers.used() == 0).await;
    assert_eq!(raw.status().await, Code::DeadlineExceeded);
}

/// How many tasks and connections hold the daemon's parts, at rest.
async fn holders(served: &Served) -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..20 {
        fewest = fewest.min(Arc::strong_count(served.daemon.core()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    fewest
}

#[tokio::test]
async fn an_append_stream_whose_client_reads_no_answers_ends_at_its_deadline() {
    let served = serve(&[]).await;
    let path = "/betcode.history.v1.HistoryService/Append";
    let socket = &served.settings.socket;
    let mut raw = Raw::begin_with_window(socket, path, Some("4S"), 1_000).await;
    // More than the answers that fit the window, the transport and the queue of answers.
    let request = framed(&batch("s", &[""]).encode_to_vec());
    let requests = request.repeat(5_000);
    raw.body.send_data(requests.into(), false).unwrap();
    let mut client = served.history().await;
    let mut recorded = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = read_all(&mut client, "s", 1).await.unwrap().len();
        if std::mem::replace(&mut recorded, now) == now {
            break;
        }
    }
    assert!(recorded < 5_000, "{recorded} answers fit");
    let with_stream = holders(&served).await;
    // Nothing is read, and the stream is gone all the same.
    eventually(async || holders(&served).await < with_stream).await;
    assert_eq!(raw.status().await, Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_call_is_answered_at_its_deadline_though_the_writer_is_held_up() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["1"])).await.unwrap();
    let held = Held::take(&served.settings.db);
    let method = "/betcode.history.v1.HistoryService/RenameSession";
    let mut raw = Raw::begin(&served.settings.socket, method, Some("200m")).await;
    let request = RenameSessionRequest {
        session_id: "s".into(),
        name: "n".into(),
    };
    let message = framed(&request.encode_to_vec());
    raw.body.send_data(message, true).unwrap();
    assert_eq!(raw.status().await, Code::DeadlineExceeded);
    // Reading does not wait for the writer.
    assert_eq!(read_all(&mut client, "s", 1).await.unwrap().len(), 1);
    held.give_back();
}

#[tokio::test]
async fn another_process_that_does_not_let_go_is_told_and_recovered_from() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["1"])).await.unwrap();
    let held = Held::take(&served.settings.db);
    let refused = within(appender.send(batch("s", &["2"]))).await.unwrap_err();
    assert_eq!(
        code(&refused),
        (Code::Unavailable, "BUSY"),
        "{}",
        refused.message
    );
    assert!(refused.retry_ms > 0);
    held.give_back();
    let mut again = Appender::open(&mut client).await;
    again.send(batch("s", &["2"])).await.unwrap();
}

#[tokio::test]
async fn a_full_queue_is_told_after_the_wait_and_recovered_from() {
    let served = serve(&[("max_queue_requests", "1")]).await;
    let mut client = served.history().await;
    let mut one = Appender::open(&mut client).await;
    one.send(batch("a", &["1"])).await.unwrap();
    let held = Held::take(&served.settings.db);
    one.requests.send(batch("a", &["2"])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut two = Appender::open(&mut client).await;
    two.requests.send(batch("b", &["1"])).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut three = Appender::open(&mut client).await;
    let hasty = AppendRequest {
        wait_ms_max: 200,
        ..batch("c", &["1"])
    };
    let refused = within(three.send(hasty)).await.unwrap_err();
    assert_eq!(code(&refused), (Code::ResourceExhausted, "OVERLOADED"));
    assert_eq!(refused.limit, "writer_queue", "{}", refused.message);
    assert!(refused.retry_ms > 0);
    held.give_back();
    within(one.answer()).await.unwrap();
    within(two.answer()).await.unwrap();
    let mut again = Appender::open(&mut client).await;
    for session in ["a", "b", "c"] {
        again.send(batch(session, &["x"])).await.unwrap();
    }
}

#[tokio::test]
async fn messages_without_bytes_count_among_the_bytes_in_flight() {
    let served = serve(&[("max_in_flight_bytes", "1048576")]).await;
    let mut client = served.history().await;
    let mut one = Appender::open(&mut client).await;
    one.send(batch("a", &["1"])).await.unwrap();
    let held = Held::take(&served.settings.db);
    let empty = |session: &str| batch(session, &[""; 1_500]);
    one.requests.send(empty("a")).await.unwrap();
    let limit = &served.daemon.core().admission.in_flight_bytes;
    support::eventually(async || limit.used() > 0).await;
    let mut two = Appender::open(&mut client).await;
    let refused = within(two.send(empty("b"))).await.unwrap_err();
    assert_eq!(refused.limit, "in_flight_bytes", "{}", refused.message);
    held.give_back();
    within(one.answer()).await.unwrap();
}

#[tokio::test]
async fn too_many_bytes_in_flight_are_told_and_recovered_from() {
    let served = serve(&[("max_in_flight_bytes", "1048576")]).await;
    let mut client = served.history().await;
    let mut one = Appender::open(&mut client).await;
    one.send(batch("a", &["1"])).await.unwrap();
    let held = Held::take(&served.settings.db);
    let big = |session: &str| AppendRequest {
        payloads: vec![Bytes::from(vec![b'x'; 700_000])],
        ..batch(session, &[])
    };
    one.requests.send(big("a")).await.unwrap();
    let limit = &served.daemon.core().admission.in_flight_bytes;
    while limit.used() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut two = Appender::open(&mut client).await;
    let refused = within(two.send(big("b"))).await.unwrap_err();
    assert_eq!(code(&refused), (Code::ResourceExhausted, "OVERLOADED"));
    assert_eq!(refused.limit, "in_flight_bytes", "{}", refused.message);
    assert!(refused.retry_ms > 0);
    held.give_back();
    within(one.answer()).await.unwrap();
    let mut again = Appender::open(&mut client).await;
    again.send(big("b")).await.unwrap();
    assert_eq!(limit.used(), 0);
}
