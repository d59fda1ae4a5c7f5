//! Requests that may wait, while they are taken in.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tonic::{Code, Status};

use super::harness::{Relay, RelayOptions, until_async};
use super::waiting::{is_buffered, request};
use super::wire::{Call, Wire, message};

async fn may_wait(wire: &Wire, machine: &str, key: &str, more: &[(&str, &str)]) -> Call {
    let mut metadata = vec![
        ("x-betcode-may-wait", "true"),
        ("x-betcode-idempotency-key", key),
    ];
    metadata.extend_from_slice(more);
    wire.call(machine, "Record", &metadata).await
}

async fn soon<T>(answer: impl Future<Output = T>) -> T {
    let answer = tokio::time::timeout(Duration::from_secs(20), answer).await;
    answer.expect("no answer in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_does_not_end_is_given_up_at_its_deadline() {
    let relay = Relay::start(RelayOptions::default()).await;
    let (_tunnel, _) = relay.daemon("here").await;
    let wire = Wire::connect(relay.clients).await;
    for machine in ["away", "here"] {
        let mut call = may_wait(&wire, machine, "k", &[("grpc-timeout", "300m")]).await;
        call.say(message(b"whole"));
        let status = soon(call.status()).await;
        assert_eq!(
            status.code(),
            Code::DeadlineExceeded,
            "{machine}: {status:?}"
        );
    }
    assert_eq!(relay.buffer.counts().requests, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_taken_in_has_a_place_among_the_calls() {
    let relay = Relay::start(RelayOptions {
        calls_max: 1,
        ..RelayOptions::default()
    })
    .await;
    let wire = Wire::connect(relay.clients).await;
    let client = relay.client("away").await;
    let mut first = None;
    // Begun anew each time: where the other one comes first, this one is refused.
    until_async("there is no slot for another", async || {
        drop(first.take());
        let mut call = may_wait(&wire, "away", "1", &[]).await;
        call.say(message(b"whole"));
        first = Some(call);
        tokio::time::sleep(Duration::from_millis(20)).await;
        let told = client.unary("Record", request("2", None, b"b")).await;
        told.is_err_and(|status| status.code() == Code::ResourceExhausted)
    })
    .await;
    drop(first);
    until_async("the slot is free again", async || {
        let told = client.unary("Record", request("3", None, b"c")).await;
        told.is_err_and(|status| is_buffered(&status))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_do_not_end_are_held_only_up_to_a_bound() {
    let relay = Relay::start(RelayOptions::default()).await;
    let wire = Wire::connect(relay.clients).await;
    let mut calls: JoinSet<Status> = JoinSet::new();
    for key in 0..100 {
        let mut call = may_wait(&wire, "away", &key.to_string(), &[]).await;
        call.say(Bytes::from(vec![0; 999_000]));
        calls.spawn(call.status());
    }
    let refused = soon(calls.join_next()).await.unwrap().unwrap();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
    calls.shutdown().await;
    let client = relay.client("away").await;
    until_async("there is room again", async || {
        let told = client
            .unary("Record", request("k", None, &[7; 900_000]))
            .await;
        told.is_err_and(|status| is_buffered(&status))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_may_wait_is_one_message_whether_its_machine_is_there_or_not() {
    let relay = Relay::start(RelayOptions::default()).await;
    let (_tunnel, echo) = relay.daemon("here").await;
    let wire = Wire::connect(relay.clients).await;
    for machine in ["away", "here"] {
        let mut call = may_wait(&wire, machine, "k", &[]).await;
        call.say(message(b"one"));
        call.say_last(message(b"two"));
        let status = soon(call.status()).await;
        assert_eq!(
            status.code(),
            Code::InvalidArgument,
            "{machine}: {status:?}"
        );
    }
    assert!(echo.recorded().is_empty());
    let mut call = may_wait(&wire, "here", "k", &[]).await;
    call.say_last(message(b"one"));
    assert_eq!(soon(call.status()).await.code(), Code::Ok);
    assert_eq!(echo.recorded().len(), 1);
}
