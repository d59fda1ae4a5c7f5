//! Compaction as the background asks for it: what is due, beside work that matters more.

use std::sync::Arc;
use std::time::{Duration, Instant};

use betcode_storage::compact::{ServiceOptions, ServiceState};
use betcode_storage::{CompactionPolicy, ManualClock};

use super::*;

#[test]
fn the_history_of_runs_has_the_tier_of_what_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let options = StoreOptions {
        clock: clock.clone(),
        ..StoreOptions::default()
    };
    let store = Store::open(&folder.path().join("h.db"), options).unwrap();
    for session in ["a", "b"] {
        record(&store, session, &lines(500, 1));
    }
    let request = CompactionRequest {
        force: false,
        trigger: "background",
        ..CompactionRequest::manual()
    };
    let run = |after_ms: i64| {
        clock.advance(after_ms);
        store
            .compact(&request, &mut |_| ControlFlow::Continue(()))
            .unwrap();
        store.compaction_runs(1).unwrap().remove(0).tier
    };
    assert_eq!(run(request.policy.quick_idle_ms_min), "quick");
    assert_eq!(run(request.policy.deep_idle_ms_min), "deep");
}

#[test]
fn a_service_that_works_slowly_stops_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    for session in ["a", "b", "c"] {
        record(&store, session, &lines(500, 1));
    }
    let options = ServiceOptions {
        policy: CompactionPolicy {
            quick_idle_ms_min: 0,
            deep_idle_ms_min: 0,
            ..CompactionPolicy::default()
        },
        interval_ms: 10,
        // It then works a hundredth of the time.
        cpu_fraction_max: 0.000_1,
    };
    let service = store.start_compaction(options).unwrap();
    betcode_test_support::wait_for(
        "a run",
        || service.status().state,
        |state| *state == ServiceState::Running,
    );
    // It is in one of its pauses then.
    std::thread::sleep(Duration::from_secs(1));
    let stopped = Instant::now();
    service.stop();
    let took = stopped.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
}
