//! What must not depend on the size of the history: opening, and what a report asks for.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(missing_docs)]

use std::path::Path;
use std::time::Duration;

use betcode_benches::corpus::Corpus;
use betcode_benches::figures::{load, median, runs, setting, timed};
use betcode_benches::plain::bytes_on_disk;
use betcode_benches::stores;
use betcode_storage::{CompactionRequest, SessionFilter, Store, Tier};

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn opening(path: &Path) -> f64 {
    let times = (0..runs(9))
        .map(|_| {
            let (took, store) = timed(|| stores::open(path));
            store.close().unwrap();
            ms(took)
        })
        .collect();
    median(times)
}

fn reports(name: &str, store: &Store) {
    type Query<'a> = (&'a str, &'a dyn Fn());
    let newest = SessionFilter {
        limit: Some(20),
        ..SessionFilter::default()
    };
    let queries: [Query<'_>; 5] = [
        ("totals", &|| drop(store.totals().unwrap())),
        ("space", &|| {
            store.space().unwrap();
        }),
        ("growth by type", &|| drop(store.growth_by_type().unwrap())),
        ("growth by hour", &|| drop(store.growth_by_hour(0).unwrap())),
        ("newest 20 sessions", &|| {
            drop(store.sessions(&newest).unwrap())
        }),
    ];
    let times: Vec<String> = queries
        .iter()
        .map(|(what, query)| {
            let times = (0..50).map(|_| ms(timed(query).0)).collect();
            format!("{what} {:.3} ms", median(times))
        })
        .collect();
    println!("  {name:<26} {}", times.join(", "));
}

fn main() {
    let corpus = Corpus::load();
    let big = setting("BETCODE_BENCH_MB", 1000) as u64 * 1_000_000;
    println!("{}", load());
    let folder = tempfile::tempdir().unwrap();
    println!("opening (median), and what a report asks for (median of 50):");
    for (name, bytes) in [("empty", 0), ("10 MB", 10_000_000), ("big", big)] {
        let path = folder.path().join(format!("{bytes}.db"));
        let store = stores::open(&path);
        let recorded = stores::record_until(&store, "s", &corpus, bytes);
        store.close().unwrap();
        for state in ["hot", "compacted"] {
            if state == "compacted" && bytes > 0 {
                let store = stores::open(&path);
                // A fast level: what counts here is how many segments there are.
                let mut request = CompactionRequest {
                    tier: Tier::Quick,
                    ..CompactionRequest::manual()
                };
                request.policy.quick.level = 1;
                store
                    .compact(&request, &mut |_| std::ops::ControlFlow::Continue(()))
                    .unwrap();
                store.close().unwrap();
            }
            println!(
                "{name}, {state}: {:.0} MB raw, {:.0} MB on disk: opens in {:.2} ms",
                recorded as f64 / 1e6,
                bytes_on_disk(&path) as f64 / 1e6,
                opening(&path)
            );
            let store = stores::open(&path);
            reports("", &store);
        }
    }
}
