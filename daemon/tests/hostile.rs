//! Clients that are broken, slow or ill-meaning: the right answer, no leak, and neighbours that
//! notice nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]
#![allow(clippy::print_stdout, reason = "figures are for people")]

#[path = "support/raw.rs"]
mod raw;
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use betcode_schema_grpc::history::history_service_client::HistoryServiceClient;
use betcode_schema_grpc::history::{
    AppendRequest, FollowRequest, ListSessionsRequest, ReadRequest,
};
use bytes::Bytes;
use prost::Message as _;
use raw::{Raw, framed};
use support::process::Process;
use support::{Appender, Served, batch, connect, followed, read_all, serve, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// HTTP/2's preface and an empty SETTINGS frame.
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
/// A PING frame.
const PING: &[u8] = b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678";
/// A HEADERS frame's head that announces 200 bytes, on stream 1, without an end of headers.
const HEADERS: &[u8] = b"\x00\x00\xc8\x01\x00\x00\x00\x00\x01";

/// A request of an honest client, which must be answered whatever others do.
async fn neighbour(socket: &Path) -> Duration {
    let asked = Instant::now();
    let mut client = HistoryServiceClient::new(connect(socket).await.unwrap());
    within(client.list_sessions(ListSessionsRequest::default()))
        .await
        .unwrap();
    asked.elapsed()
}

/// Waits until nothing is taken of any limit: whoever left has left nothing behind.
async fn nothing_is_held(served: &Served) {
    let admission = &served.daemon.core().admission;
    let held = || {
        let limits = [
            &admission.clients,
            &admission.followers,
            &admission.in_flight_bytes,
        ];
        limits.map(|limit| limit.used())
    };
    let deadline = Instant::now() + Duration::from_secs(30);
    while held() != [0; 3] {
        assert!(Instant::now() < deadline, "still held: {:?}", held());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Open files of a process.
fn files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .count()
}

/// Connects, after a rest while more wait to be accepted than the system lets.
async fn connected(socket: &Path) -> UnixStream {
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return stream,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn idle(connections: usize) {
    let folder = tempfile::tempdir().unwrap();
    let max = (connections + 100).to_string();
    let process = Process::start(folder.path(), &["--max-connections", &max]).await;
    neighbour(&process.socket).await;
    let (files_before, (memory_before, _)) = (files(process.pid()), process.resident_bytes());
    let mut silent = Vec::new();
    let mut polite = Vec::new();
    for at in 0..connections {
        let mut stream = connected(&process.socket).await;
        if at % 2 == 0 {
            silent.push(stream);
        } else {
            stream.write_all(HELLO).await.unwrap();
            polite.push(stream);
        }
    }
    let mut waits = Vec::new();
    for _ in 0..50 {
        waits.push(neighbour(&process.socket).await);
    }
    waits.sort();
    let (memory, _) = process.resident_bytes();
    println!(
        "{connections} idle connections: {} KiB each; a neighbour connects and lists in {:?} \
         (median), {:?} (p95)",
        memory.saturating_sub(memory_before) / connections as u64 / 1024,
        waits[25],
        waits[47]
    );
    // Those that said nothing are closed; the others are there.
    let mut sink = [0; 1024];
    within(async { while matches!(silent[0].read(&mut sink).await, Ok(1..)) {} }).await;
    polite[0].write_all(PING).await.unwrap();
    let answered = async {
        loop {
            let bytes = polite[0].read(&mut sink).await.unwrap();
            assert!(bytes > 0, "closed though it has said hello");
            if sink[..bytes].ends_with(b"12345678") {
                return;
            }
        }
    };
    within(answered).await;
    drop((silent, polite));
    let deadline = Instant::now() + Duration::from_secs(60);
    while files(process.pid()) > files_before {
        assert!(Instant::now() < deadline, "{} files", files(process.pid()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    neighbour(&process.socket).await;
}

#[tokio::test]
async fn idle_connections_hold_up_nobody_and_leave_nothing() {
    idle(300).await;
}

#[tokio::test]
#[ignore = "needs 10,000 file descriptors, and has figures for people"]
async fn ten_thousand_idle_connections_hold_up_nobody_and_leave_nothing() {
    idle(10_000).await;
}

/// Sends `bytes` one by one until the other side closes or `patience` is over; whether it closed.
async fn drip(mut stream: UnixStream, bytes: &[u8], patience: Duration) -> bool {
    let (mut reader, mut writer) = stream.split();
    let closed = async {
        let mut sink = [0; 1024];
        while matches!(reader.read(&mut sink).await, Ok(1..)) {}
    };
    let dripping = async {
        for byte in bytes {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(patience / 200).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = closed => true,
        () = dripping => true,
        () = tokio::time::sleep(patience) => false,
    }
}

async fn drips(patience: Duration) -> [bool; 2] {
    let served = serve(&[]).await;
    let socket = served.settings.socket.clone();
    let open = async || UnixStream::connect(&socket).await.unwrap();
    let preface = drip(open().await, HELLO, patience);
    let mut begun = open().await;
    begun.write_all(HELLO).await.unwrap();
    begun.write_all(HEADERS).await.unwrap();
    let headers = drip(begun, &[0; 200], patience);
    let neighbours = async {
        for _ in 0..20 {
            neighbour(&socket).await;
        }
    };
    let (preface, headers, ()) = tokio::join!(preface, headers, neighbours);
    nothing_is_held(&served).await;
    [preface, headers]
}

#[tokio::test]
async fn dripping_connections_hold_up_nobody() {
    drips(Duration::from_secs(2)).await;
}

#[tokio::test]
#[ignore = "long"]
async fn dripping_connections_are_closed() {
    assert_eq!(drips(Duration::from_secs(45)).await, [true, true]);
}

#[tokio::test]
async fn a_body_that_drips_is_taken_as_it_comes_and_holds_up_nobody() {
    let served = serve(&[]).await;
    let method = "/betcode.history.v1.HistoryService/Append";
    let mut slow = Raw::begin(&served.settings.socket, method, None).await;
    let message = framed(&batch("s", &["slow"]).encode_to_vec());
    // Half a message, then others' work, then the rest, a byte at a time.
    let tail = message.slice(message.len() / 2..);
    let head = message.slice(..message.len() / 2);
    slow.body.send_data(head, false).unwrap();
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    within(appender.send(batch("t", &["x"]))).await.unwrap();
    assert!(read_all(&mut client, "s", 1).await.is_err());
    for at in 0..tail.len() {
        slow.body.send_data(tail.slice(at..=at), false).unwrap();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    slow.body.send_data(Bytes::new(), true).unwrap();
    assert_eq!(slow.status().await, Code::Ok);
    assert_eq!(read_all(&mut client, "s", 1).await.unwrap().len(), 1);
    drop((client, appender));
    nothing_is_held(&served).await;
}

#[tokio::test]
async fn a_client_that_closes_its_half_gets_its_answers() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let appender = Appender::open(&mut client).await;
    for _ in 0..100 {
        appender.requests.send(batch("s", &["x"])).await.unwrap();
    }
    let Appender {
        requests,
        mut answers,
    } = appender;
    drop(requests);
    let mut answered = 0;
    while within(answers.message()).await.unwrap().is_some() {
        answered += 1;
    }
    assert_eq!(answered, 100);
    drop((client, answers));
    nothing_is_held(&served).await;
}

#[tokio::test]
async fn clients_that_vanish_in_the_middle_leave_nothing_behind() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["1"])).await.unwrap();
    for round in 0..20 {
        let mut client = served.history().await;
        let mut vanishing = Appender::open(&mut client).await;
        let request = FollowRequest {
            session_id: "s".into(),
            from_sequence: 1,
        };
        let mut following = client.follow(request).await.unwrap().into_inner();
        followed(&mut following).await;
        for _ in 0..=round {
            vanishing.requests.send(batch("v", &["x"])).await.unwrap();
        }
        if round % 2 == 0 {
            vanishing.answer().await.unwrap();
        }
    }
    drop((appender, client));
    nothing_is_held(&served).await;
    assert_eq!(served.daemon.core().hub.followers(), 0);
    // What arrived is there in order; whatever was answered is among it.
    let mut client = served.history().await;
    assert!(read_all(&mut client, "v", 1).await.unwrap().len() >= 10);
}

#[tokio::test]
async fn a_reader_and_a_follower_that_never_read_hold_up_nobody() {
    let served = serve(&[("max_follower_buffer_bytes", "4096")]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    let line = "x".repeat(100_000);
    for _ in 0..100 {
        appender.send(batch("s", &[&line])).await.unwrap();
    }
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut client = served.history().await;
        let request = FollowRequest {
            session_id: "s".into(),
            from_sequence: 1,
        };
        let following = client.follow(request).await.unwrap();
        let request = ReadRequest {
            session_id: "s".into(),
            ..ReadRequest::default()
        };
        idle.push((client.read(request).await.unwrap(), following, client));
    }
    for _ in 0..20 {
        within(appender.send(batch("s", &[&line]))).await.unwrap();
    }
    assert_eq!(read_all(&mut client, "s", 1).await.unwrap().len(), 120);
    drop((idle, appender, client));
    nothing_is_held(&served).await;
}

/// Calls `method` with these bytes where its message should be.
async fn call(served: &Served, method: &str, bytes: &[u8]) -> Code {
    let mut raw = Raw::begin(&served.settings.socket, method, None).await;
    raw.body.send_data(framed(bytes), true).unwrap();
    raw.status().await
}

#[tokio::test]
async fn malformed_messages_end_their_call_and_nothing_else() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    for method in [
        "/betcode.history.v1.HistoryService/Append",
        "/betcode.history.v1.HistoryService/Read",
        "/betcode.history.v1.HistoryService/ListSessions",
        "/betcode.v1.AgentService/ResumeSession",
    ] {
        for bytes in [
            // A length beyond the end, an unfinished varint, a wrong wire type for a text.
            &b"\x12\xff\xff\xff\xff\x0f"[..],
            &b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"[..],
            &b"\x0d\x00\x00\x00\x00\x15"[..],
        ] {
            // What gRPC prescribes for a request that cannot be parsed.
            let code = call(&served, method, bytes).await;
            assert_eq!(code, Code::Internal, "{method} {bytes:?}");
        }
    }
    let unknown = "/betcode.history.v1.HistoryService/Erase";
    let mut unknown = Raw::begin(&served.settings.socket, unknown, None).await;
    unknown.body.send_data(framed(b""), true).unwrap();
    let answer = within(unknown.answer).await.unwrap();
    unknown.driving.abort();
    let unknown = Status::from_header_map(answer.headers()).unwrap();
    assert_eq!(unknown.code(), Code::Unimplemented);
    let details = unknown.get_error_details();
    assert_eq!(details.error_info().unwrap().reason, "UNIMPLEMENTED");
    assert!(unknown.message().contains("reflection"), "{unknown}");
    appender.send(batch("s", &["fine"])).await.unwrap();
    drop((appender, client));
    nothing_is_held(&served).await;
}

#[tokio::test]
async fn ids_that_are_paths_and_batches_out_of_bounds_say_what_to_do() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    for id in [
        "../../etc/passwd",
        "/etc/passwd",
        "a/b",
        ".",
        "a\0b",
        &"x".repeat(129),
    ] {
        let status = read_all(&mut client, id, 1).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{id:?}: {status}");
        let request = FollowRequest {
            session_id: id.into(),
            from_sequence: 1,
        };
        let status = client.follow(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{id:?}: {status}");
    }
    let mut appender = Appender::open(&mut client).await;
    let many = AppendRequest {
        payloads: vec![Bytes::new(); 16_385],
        ..batch("s", &[])
    };
    let refused = within(appender.send(many)).await.unwrap_err();
    assert_eq!(refused.code, i32::from(Code::InvalidArgument));
    assert!(refused.message.contains("16,384"), "{}", refused.message);
    let wrong = AppendRequest {
        expected_sequence: Some(7),
        ..batch("t", &["x"])
    };
    let refused = within(appender.send(wrong)).await.unwrap_err();
    assert_eq!(refused.code, i32::from(Code::AlreadyExists));
    assert_eq!(
        (refused.reason.as_str(), refused.next_sequence),
        ("CONFLICT", 1)
    );
    appender.send(batch("t", &["x"])).await.unwrap();
    let beyond = read_all(&mut client, "t", 3).await.unwrap_err();
    assert_eq!(beyond.code(), Code::OutOfRange);
    assert!(beyond.message().contains("read from 2"), "{beyond}");
}
