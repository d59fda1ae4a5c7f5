//! What recording and compacting cost in bytes written and bytes kept: the figures behind the
//! page size.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(missing_docs)]

use std::time::Duration;

use betcode_benches::corpus::Corpus;
use betcode_benches::figures::{Durations, load, median, runs, timed, written_bytes};
use betcode_benches::plain::bytes_on_disk;
use betcode_benches::stores;
use betcode_storage::{Batch, Tier};
use bytes::Bytes;

const SESSIONS: usize = 20;
const MESSAGES: usize = 10_000;

/// Records `messages`, one per append, from 20 threads: messages/s, p99 and bytes written per
/// byte of payload, the closing checkpoint included.
fn record(messages: &[Bytes]) -> (f64, f64, f64) {
    let folder = tempfile::tempdir().unwrap();
    let store = stores::open(&folder.path().join("history.db"));
    let before = written_bytes();
    let mut all = Durations::default();
    let (took, ()) = timed(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = messages
                .chunks(messages.len().div_ceil(SESSIONS))
                .enumerate()
                .map(|(session, messages)| {
                    let (store, id) = (&store, stores::id(&format!("s{session}")));
                    scope.spawn(move || {
                        let mut durations = Durations::default();
                        for message in messages {
                            let batch = Batch::new(id.clone(), vec![message.clone()]);
                            durations.push(timed(|| store.append(batch).unwrap()).0);
                        }
                        durations
                    })
                })
                .collect();
            for thread in threads {
                all.extend(thread.join().unwrap());
            }
        });
    });
    store.close().unwrap();
    let payload: usize = messages.iter().map(Bytes::len).sum();
    (
        messages.len() as f64 / took.as_secs_f64(),
        all.percentile_ms(99.0),
        (written_bytes() - before) as f64 / payload as f64,
    )
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn main() {
    let corpus = Corpus::load();
    println!(
        "pages of {} B; {}",
        betcode_storage::limits::PAGE_BYTES,
        load()
    );
    let short: Vec<Bytes> = corpus.messages_of(400, MESSAGES * 2).into_iter().collect();
    for (name, messages) in [
        ("5 KB messages", corpus.messages_of(5_000, MESSAGES)),
        ("400 B messages", short),
    ] {
        let figures: Vec<_> = (0..runs(3)).map(|_| record(&messages)).collect();
        let middle = |pick: fn(&(f64, f64, f64)) -> f64| median(figures.iter().map(pick).collect());
        println!(
            "{name:<15} {:>6.0} messages/s, p99 {:.2} ms, {:.2} bytes written per byte",
            middle(|f| f.0),
            middle(|f| f.1),
            middle(|f| f.2)
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let store = stores::open(&path);
    stores::record_corpus(&store, "s", &corpus);
    let raw = corpus.bytes() as f64;
    println!(
        "corpus hot: {:.4} of its bytes",
        bytes_on_disk(&path) as f64 / raw
    );
    for (name, tier) in [("quick", Tier::Quick), ("deep", Tier::Deep)] {
        let before = written_bytes();
        let (took, outcome) = timed(|| stores::compact(&store, tier));
        println!(
            "{name}: {:.4} of its bytes ({} B), {:.1} MB written, {:.1} s",
            bytes_on_disk(&path) as f64 / raw,
            outcome.bytes_after,
            (written_bytes() - before) as f64 / 1e6,
            seconds(took)
        );
    }
    let rates = (0..runs(5))
        .map(|_| {
            let (took, ()) = timed(|| {
                for index in 0..corpus.sessions.len() {
                    let _ = stores::replay(&store, &stores::name("s", index));
                }
            });
            raw / 1e6 / seconds(took)
        })
        .collect();
    println!("replay {:.0} MB/s", median(rates));
}
