//! A buffer of which some bytes are damaged.

use std::path::Path;

use betcode_relay::buffer::{
    Buffer, BufferOptions, EmbeddedBuffer, KeyState, PendingRequest, PutOutcome,
};
use betcode_schema_tunnel::MachineId;
use bytes::Bytes;
use tonic::Code;

use super::harness::until;

fn machine() -> MachineId {
    "m-1".parse().unwrap()
}

fn waiting(key: &str) -> PendingRequest {
    PendingRequest {
        machine: machine(),
        key: key.into(),
        priority: 5,
        user: "ann".into(),
        token: None,
        path: "/test.Echo/Record".into(),
        metadata: Vec::new(),
        body: Bytes::from_static(b"\0\0\0\0\x01b"),
    }
}

async fn settled(buffer: &EmbeddedBuffer, key: &str) {
    buffer.put(waiting(key)).await.unwrap();
    let kept = buffer.take_first(&machine()).await.unwrap().unwrap();
    buffer.settle(&kept.ticket, Code::Ok).await.unwrap();
}

/// Changes one byte wherever the file has this text.
fn damage(path: &Path, text: &[u8]) -> usize {
    let mut bytes = std::fs::read(path).unwrap();
    let mut damaged = 0;
    for at in 0..bytes.len().saturating_sub(text.len()) {
        if bytes[at..].starts_with(text) {
            bytes[at] ^= 1;
            damaged += 1;
        }
    }
    std::fs::write(path, bytes).unwrap();
    damaged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_outcome_keeps_no_other_from_being_known_and_no_request_from_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("buffer.db");
    let open = || EmbeddedBuffer::open(&path, BufferOptions::default());
    let buffer = open().unwrap();
    settled(&buffer, "before").await;
    settled(&buffer, "the-damaged-one").await;
    settled(&buffer, "behind").await;
    buffer.put(waiting("waits")).await.unwrap();
    drop(buffer);
    let log = folder.path().join("buffer.db-wal");
    until("the file is closed", || !log.exists()).await;
    assert!(damage(&path, b"the-damaged-one") > 0);

    let buffer = open().unwrap();
    for key in ["before", "behind"] {
        let known = buffer.key_state(&machine(), key);
        assert_eq!(known, Some(KeyState::Settled(Code::Ok)), "{key}");
    }
    assert_eq!(
        buffer.key_state(&machine(), "waits"),
        Some(KeyState::Waiting)
    );
    assert_eq!(buffer.put(waiting("new")).await, Ok(PutOutcome::Buffered));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_request_keeps_no_other_of_its_machine_from_being_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("buffer.db");
    let buffer = EmbeddedBuffer::open(&path, BufferOptions::default()).unwrap();
    for key in ["the-damaged-one", "behind"] {
        buffer.put(waiting(key)).await.unwrap();
    }
    let connection = rusqlite::Connection::open(&path).unwrap();
    let changed = connection.execute(
        "UPDATE hot_messages SET payload = zeroblob(length(payload)) WHERE instr(payload, ?1) > 0",
        [b"the-damaged-one"],
    );
    assert_eq!(changed, Ok(1));
    let kept = buffer.take_first(&machine()).await.unwrap().unwrap();
    assert_eq!(kept.request.key, "behind");
    buffer.settle(&kept.ticket, Code::Ok).await.unwrap();
    assert!(buffer.take_first(&machine()).await.unwrap().is_none());
}
