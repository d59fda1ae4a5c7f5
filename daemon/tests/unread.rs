//! Clients that ask for much and read nothing. Alone in its process, whose memory is the daemon's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use betcode_schema_grpc::v1::ResumeSessionRequest;
use betcode_schema_grpc::v1::agent_service_client::AgentServiceClient;
use betcode_service::process::resident_bytes;
use support::{Appender, batch, connect, serve, within};

/// Replays that nobody reads, of three lines of 5 MB each.
const UNREAD: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replays_of_long_lines_that_nobody_reads_take_no_more_than_their_room() {
    let served = serve(&[]).await;
    let mut appender = Appender::open(&mut served.history().await).await;
    let text = "x".repeat(5_000_000);
    let line = format!(r#"{{"type":"user","message":{{"content":"{text}"}}}}"#);
    for _ in 0..3 {
        appender.send(batch("s", &[&line])).await.unwrap();
    }
    let mut client = AgentServiceClient::new(connect(&served.settings.socket).await.unwrap());
    let request = ResumeSessionRequest {
        session_id: "s".into(),
        from_sequence: 0,
    };
    let before = resident_bytes().now;
    let mut unread = Vec::new();
    for _ in 0..UNREAD {
        let answers = client.resume_session(request.clone()).await.unwrap();
        unread.push(answers.into_inner());
    }
    // Each that has room has begun to answer when one of the first has; the others wait for it.
    within(unread[0].message()).await.unwrap().unwrap();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let taken = resident_bytes().peak.saturating_sub(before);
    assert!(taken < 250_000_000, "{taken} bytes for {UNREAD} replays");
    // Those that waited go on when others leave, and lack nothing.
    let mut last = unread.pop().unwrap();
    drop(unread);
    let mut bytes = 0;
    let mut sequences = Vec::new();
    while let Some(event) = within(last.message()).await.unwrap() {
        bytes += prost::Message::encoded_len(&event);
        sequences.push(event.sequence);
    }
    assert!(bytes >= 15_000_000, "{bytes}");
    sequences.dedup();
    assert_eq!(sequences, [1, 2, 3]);
}
