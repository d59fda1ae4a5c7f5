//! kill -9 of the relay while requests wait and are delivered.

use std::collections::BTreeMap;
use std::time::Duration;

use betcode_daemon::tunnel::Tunnel;

use super::echo::Echo;
use super::harness::Client;
use super::program::{Folder, Running, client, echo_routes};
use super::waiting::{is_buffered, request};
use betcode_test_support::Random;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_buffered_outlives_the_relay() {
    rounds(3, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes: 100 rounds"]
async fn what_was_buffered_outlives_the_relay_100_times() {
    rounds(100, 2).await;
}

/// Each round: requests are sent while the relay is killed at some moment; it comes back, the
/// daemon too, and is killed once more while it delivers.
async fn rounds(rounds: u64, seed: u64) {
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let folder = Folder::init();
    let mut relay = Running::start(&folder, (0, 0), &[]);
    let options = folder.enrolled(&relay, "m-1").await;
    let token = folder.run(&[
        "token",
        "issue",
        "--user",
        "ann",
        "--machine",
        "m-1",
        "--life-s",
        "80000",
    ]);
    let authority = folder.file("authority.pem");
    let echo = Echo::default();
    let mut acknowledged = Vec::new();
    for round in 0..rounds {
        let caller = client(&relay, &authority, "m-1", Some(&token)).await;
        let sending = tokio::spawn(send(caller, round));
        tokio::time::sleep(Duration::from_millis(random.below(150))).await;
        let ports = relay.ports();
        relay.kill();
        acknowledged.extend(sending.await.unwrap());
        relay = Running::start(&folder, ports, &[]);
        let tunnel = Tunnel::hold(options.clone(), echo_routes(&echo));
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        relay.kill();
        relay = Running::start(&folder, ports, &[]);
        // What was acknowledged arrives, while the tunnel finds its relay again by itself.
        for wait in 0.. {
            let recorded = echo.recorded();
            let arrived = |body: &String| recorded.iter().any(|record| record.body == *body);
            if acknowledged.iter().all(arrived) {
                break;
            }
            assert!(wait < 500, "round {round}: lost after it was acknowledged");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tunnel.stop(Duration::from_secs(1)).await;
    }
    // Once as the daemon sees it: a repeat has the key of the first, and comes right behind it.
    let mut keys = BTreeMap::new();
    let mut repeats = 0;
    let mut order = Vec::new();
    for record in echo.recorded() {
        let key = record.metadata.get("x-betcode-idempotency-key").unwrap();
        let key = key.to_str().unwrap().to_owned();
        match keys.insert(key.clone(), record.body.clone()) {
            None => order.push(record.body),
            Some(before) => {
                assert_eq!(before, record.body, "one key, two requests");
                repeats += 1;
            }
        }
    }
    let mut sorted = order.clone();
    sorted.sort();
    assert_eq!(
        order, sorted,
        "not in the order in which they were acknowledged"
    );
    println!(
        "{} acknowledged, {} arrived, {repeats} repeats by key",
        acknowledged.len(),
        order.len(),
    );
}

/// Sends requests one after the other until the relay is gone; those that it acknowledged.
async fn send(caller: Client, round: u64) -> Vec<String> {
    let mut acknowledged = Vec::new();
    for number in 0..10_000 {
        let body = format!("{round:05}-{number:05}");
        let told = caller
            .unary("Record", request(&body, None, body.as_bytes()))
            .await;
        match told {
            Err(status) if is_buffered(&status) => acknowledged.push(body),
            _ => return acknowledged,
        }
    }
    acknowledged
}
