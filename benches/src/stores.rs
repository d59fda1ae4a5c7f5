//! Stores to measure.

use std::ops::ControlFlow;
use std::path::Path;

use betcode_storage::{
    Arrival, Batch, CompactionOutcome, CompactionRequest, ReadRange, SessionId, Store,
    StoreOptions, Tier,
};
use bytes::Bytes;

use crate::corpus::Corpus;

/// Messages and bytes of one append when a store is filled.
const FILL_MESSAGES: usize = 1000;
const FILL_BYTES: usize = 1 << 20;

/// Opens a store with limits that a benchmark stays below.
#[must_use]
pub fn open(path: &Path) -> Store {
    let options = StoreOptions {
        db_bytes_max: 100_000_000_000,
        session_bytes_max: 100_000_000_000,
        ..StoreOptions::default()
    };
    Store::open(path, options).unwrap()
}

/// A session id.
#[must_use]
pub fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

/// Records lines quickly, in big batches.
pub fn record(store: &Store, session: &str, lines: &[Bytes]) {
    let mut payloads = Vec::new();
    let mut bytes = 0;
    let flush = |payloads: &mut Vec<Bytes>| {
        let batch = Batch {
            arrival: Arrival::Historical,
            ..Batch::new(id(session), std::mem::take(payloads))
        };
        store.append(batch).unwrap();
    };
    for line in lines {
        if payloads.len() == FILL_MESSAGES || bytes + line.len() > FILL_BYTES {
            flush(&mut payloads);
            bytes = 0;
        }
        bytes += line.len();
        payloads.push(line.clone());
    }
    flush(&mut payloads);
}

/// Name of session `index` of the corpus.
#[must_use]
pub fn name(prefix: &str, index: usize) -> String {
    format!("{prefix}-{index}")
}

/// Records the corpus; the session at `index` becomes `prefix-index`.
pub fn record_corpus(store: &Store, prefix: &str, corpus: &Corpus) {
    for (index, session) in corpus.sessions.iter().enumerate() {
        record(store, &name(prefix, index), &session.lines);
    }
}

/// Records the corpus again and again, in new sessions, until `bytes` are there.
pub fn record_until(store: &Store, prefix: &str, corpus: &Corpus, bytes: u64) -> u64 {
    let mut recorded = 0;
    for round in 0.. {
        for (index, session) in corpus.sessions.iter().enumerate() {
            if recorded >= bytes {
                return recorded;
            }
            record(
                store,
                &name(&format!("{prefix}-{round}"), index),
                &session.lines,
            );
            recorded += session
                .lines
                .iter()
                .map(|line| line.len() as u64)
                .sum::<u64>();
        }
    }
    recorded
}

/// Compacts everything to `tier` with the default settings.
pub fn compact(store: &Store, tier: Tier) -> CompactionOutcome {
    let request = CompactionRequest {
        tier,
        ..CompactionRequest::manual()
    };
    store
        .compact(&request, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

/// Replays a session; messages and bytes.
#[must_use]
pub fn replay(store: &Store, session: &str) -> (u64, u64) {
    let mut replay = store.read(&id(session), ReadRange::all()).unwrap();
    let (mut messages, mut bytes) = (0, 0);
    while let Some(page) = replay.next_page().unwrap() {
        for message in page {
            messages += 1;
            bytes += message.payload.len() as u64;
        }
    }
    (messages, bytes)
}
