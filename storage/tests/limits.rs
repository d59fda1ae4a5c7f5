//! A store driven against its limits, on real files.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::ops::ControlFlow;

use betcode_storage::capacity::levels::{CapacityEvent, Level};
use betcode_storage::compact::ServiceOptions;
use betcode_storage::{
    Batch, CompactionRequest, ErrorKind, ReadRange, SessionId, SizeLimits, Store, StoreError,
    StoreOptions,
};
use bytes::Bytes;

const LIMIT_BYTES: u64 = 4_000_000;

fn open(folder: &tempfile::TempDir) -> Store {
    let options = StoreOptions {
        reserve_bytes: 0,
        db_bytes_max: LIMIT_BYTES,
        ..StoreOptions::default()
    };
    Store::open(&folder.path().join("h.db"), options).unwrap()
}

fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

fn line(n: u64) -> Bytes {
    Bytes::from(format!(
        "{{\"type\":\"user\",\"n\":{n},\"text\":\"{}\"}}",
        "like the last ".repeat(40)
    ))
}

const BATCH_MESSAGES: u64 = 16;

fn lines(from: u64) -> Batch {
    Batch::new(id("s"), (from..from + BATCH_MESSAGES).map(line).collect())
}

/// Appends until refused; how many were answered.
fn fill(store: &Store, from: u64) -> (u64, StoreError) {
    let mut n = from;
    loop {
        match store.append(lines(n)) {
            Ok(appended) => assert_eq!(appended.first_sequence, n),
            Err(error) => return (n - 1, error),
        }
        n += BATCH_MESSAGES;
        assert!(n < 100_000, "the limit was never reached");
    }
}

fn assert_all_there(store: &Store, count: u64) {
    let read: Vec<_> = store
        .read(&id("s"), ReadRange::all())
        .unwrap()
        .map(|message| message.unwrap().payload)
        .collect();
    assert_eq!(read.len() as u64, count);
    for (n, payload) in (1..).zip(read) {
        assert_eq!(payload, line(n));
    }
}

#[test]
fn each_level_is_an_event_once_and_compaction_makes_room_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let (answered, error) = fill(&store, 1);
    assert!(matches!(error, StoreError::LimitReached { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    let (again, _) = fill(&store, answered + 1);
    assert_eq!(
        again, answered,
        "refused once, admitted later without any room made"
    );
    assert_all_there(&store, answered);

    let events: Vec<_> = store
        .capacity_events()
        .into_iter()
        .map(|timed| timed.event)
        .collect();
    let levels: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            CapacityEvent::LevelChanged { to, .. } => Some(*to),
            _ => None,
        })
        .collect();
    assert_eq!(levels, [Level::Warning, Level::Critical], "{events:?}");
    let reached = events
        .iter()
        .filter(|e| matches!(e, CapacityEvent::LimitReached { .. }))
        .count();
    assert_eq!(reached, 1, "{events:?}");

    store
        .compact(&CompactionRequest::manual(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(store.level(), Level::Ok);
    let (more, _) = fill(&store, answered + 1);
    assert!(
        more > answered + 1000,
        "{answered} before compaction, {more} after"
    );
    assert_all_there(&store, more);
}

#[test]
fn at_the_limit_what_is_stored_already_is_answered_and_what_is_new_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let (count, _) = fill(&store, 1);
    // The answer to the last batch that fitted may have been lost.
    let first = count + 1 - BATCH_MESSAGES;
    let again = || {
        let mut batch = lines(first);
        batch.expected_sequence = Some(first);
        batch
    };
    let appended = store.append(again()).unwrap();
    assert_eq!(appended.duplicates, BATCH_MESSAGES);
    let mut longer = again();
    longer.payloads.push(line(count + 1));
    longer.payloads.extend((0..1000).map(line));
    let refused = store.append(longer).unwrap_err();
    assert!(
        matches!(refused, StoreError::LimitReached { .. }),
        "{refused}"
    );
    assert_all_there(&store, count);
}

#[test]
fn a_raised_limit_and_a_deleted_session_make_room_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let (first, _) = fill(&store, 1);
    store
        .set_limits(SizeLimits {
            db_bytes_max: LIMIT_BYTES + 1_000_000,
            ..store.limits()
        })
        .unwrap();
    let (second, _) = fill(&store, first + 1);
    assert!(second > first);
    assert_all_there(&store, second);
    let elsewhere = Batch {
        session: id("t"),
        ..lines(1)
    };
    store.append(elsewhere.clone()).unwrap_err();
    store.delete(&id("s")).unwrap();
    store.append(Batch::new(id("t"), vec![line(1)])).unwrap();
    let too_small = SizeLimits {
        db_bytes_max: 1,
        session_bytes_max: 1,
    };
    assert!(store.set_limits(too_small).is_err());
}

/// A store whose sessions may take a megabyte each.
fn open_with_limit_of_sessions(folder: &tempfile::TempDir) -> Store {
    let store = open(folder);
    let limits = SizeLimits {
        db_bytes_max: LIMIT_BYTES,
        session_bytes_max: 1_000_000,
    };
    store.set_limits(limits).unwrap();
    store
}

#[test]
fn a_session_at_its_own_limit_leaves_the_others_alone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with_limit_of_sessions(&folder);
    let (count, error) = fill(&store, 1);
    assert!(
        matches!(error, StoreError::SessionLimitReached { .. }),
        "{error}"
    );
    store.append(Batch::new(id("t"), vec![line(1)])).unwrap();
    assert_all_there(&store, count);
    store
        .compact(&CompactionRequest::manual(), &mut |_| {
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(fill(&store, count + 1).0 > count);
}

#[test]
fn what_a_limit_says_that_would_have_fitted_does_fit_and_no_byte_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with_limit_of_sessions(&folder);
    let bytes = |count: u64| {
        let payload = Bytes::from(vec![b'x'; usize::try_from(count).unwrap()]);
        Batch::new(id("s"), vec![payload])
    };
    let (_, of_session) = fill(&store, 1);
    let fits = of_session.fitting_bytes().unwrap();
    let refused = store.append(bytes(fits + 1)).unwrap_err();
    let StoreError::SessionLimitReached { incoming_bytes, .. } = refused else {
        panic!("{refused}")
    };
    assert_eq!(incoming_bytes, fits + 1);
    store.append(bytes(fits)).unwrap();
    assert_eq!(store.append(bytes(1)).unwrap_err().fitting_bytes(), Some(0));
    store
        .set_limits(SizeLimits {
            session_bytes_max: LIMIT_BYTES,
            ..store.limits()
        })
        .unwrap();
    let of_database = store.append(bytes(LIMIT_BYTES - 1_000_000)).unwrap_err();
    assert!(matches!(of_database, StoreError::LimitReached { .. }));
    let fits = of_database.fitting_bytes().unwrap();
    store.append(bytes(fits + 1)).unwrap_err();
    store.append(bytes(fits)).unwrap();
}

#[test]
fn with_compaction_in_the_background_a_writer_goes_on_past_the_limit_of_raw_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder);
    let service = store
        .start_compaction(ServiceOptions {
            interval_ms: 100,
            ..ServiceOptions::default()
        })
        .unwrap();
    let mut raw_bytes = 0;
    let mut n = 1;
    let mut refusals = 0;
    while raw_bytes < 3 * LIMIT_BYTES {
        match store.append(lines(n)) {
            Ok(_) => {
                raw_bytes += lines(n).bytes() as u64;
                n += BATCH_MESSAGES;
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
                refusals += 1;
                assert!(
                    refusals < 3000,
                    "compaction never made room: {:?}",
                    service.status()
                );
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
    assert_eq!(service.status().last_error, None);
    service.stop();
    assert_all_there(&store, n - 1);
    assert!(
        store
            .verify(&mut |_| ControlFlow::Continue(()))
            .unwrap()
            .ok()
    );
}
