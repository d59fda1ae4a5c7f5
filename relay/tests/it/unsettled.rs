//! Deliveries whose outcome cannot be written.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use betcode_relay::buffer::{
    Buffer, BufferCounts, BufferError, BufferFuture, BufferOptions, EmbeddedBuffer, KeyState,
    PendingRequest, PutOutcome, TakenRequest, Ticket,
};
use betcode_relay::limits;
use betcode_schema_tunnel::MachineId;
use betcode_storage::ManualClock;
use tonic::Code;

use super::harness::{Relay, RelayOptions, until};
use super::waiting::request;

/// A buffer that fails to write the first outcome.
struct FailsToSettleOnce(EmbeddedBuffer);

static HAS_FAILED: AtomicBool = AtomicBool::new(false);

impl Buffer for FailsToSettleOnce {
    fn put(&self, request: PendingRequest) -> BufferFuture<'_, PutOutcome> {
        self.0.put(request)
    }

    fn key_state(&self, machine: &MachineId, key: &str) -> Option<KeyState> {
        self.0.key_state(machine, key)
    }

    fn take_first<'a>(&'a self, machine: &'a MachineId) -> BufferFuture<'a, Option<TakenRequest>> {
        self.0.take_first(machine)
    }

    fn put_back(&self, ticket: &Ticket) {
        self.0.put_back(ticket);
    }

    fn settle<'a>(&'a self, ticket: &'a Ticket, code: Code) -> BufferFuture<'a, ()> {
        if HAS_FAILED.swap(true, Ordering::Relaxed) {
            return self.0.settle(ticket, code);
        }
        let why = "no space left on device".to_owned();
        Box::pin(std::future::ready(Err(BufferError::NoSpace { why })))
    }

    fn expire(&self) -> BufferFuture<'_, usize> {
        self.0.expire()
    }

    fn waiting(&self, machine: &MachineId) -> usize {
        self.0.waiting(machine)
    }

    fn counts(&self) -> BufferCounts {
        self.0.counts()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_whose_outcome_was_not_written_becomes_too_old_like_any_other() {
    let clock = Arc::new(ManualClock::at(1_000_000_000_000));
    let relay = Relay::start(RelayOptions {
        buffer: BufferOptions {
            clock: clock.clone(),
            ..BufferOptions::default()
        },
        wrap_buffer: |buffer| Arc::new(FailsToSettleOnce(buffer)),
        ..RelayOptions::default()
    })
    .await;
    let client = relay.client("m-1").await;
    let told = client.unary("Record", request("a", None, b"once")).await;
    told.unwrap_err();
    let (tunnel, echo) = relay.daemon("m-1").await;
    until("its outcome was not written", || {
        HAS_FAILED.load(Ordering::Relaxed)
    })
    .await;
    assert_eq!(echo.recorded().len(), 1);
    drop(tunnel);
    until("the tunnel is gone", || {
        relay.table.find(&"m-1".parse().unwrap()).is_none()
    })
    .await;
    assert_eq!(relay.buffer.counts().requests, 1);

    // In steps that do not look like a clock which was set.
    let age_ms = limits::BUFFER_AGE_MS_MAX_DEFAULT;
    let step_ms = limits::BUFFER_CLOCK_JUMP_MS_MAX;
    let mut expired = 0;
    for _ in 0..=age_ms / step_ms + 1 {
        clock.advance(step_ms);
        expired += relay.buffer.expire().await.unwrap();
    }
    assert_eq!(expired, 1);
    assert_eq!(relay.buffer.counts().requests, 0);
}
