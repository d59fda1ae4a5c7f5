//! How long appends take while other sessions are compacted deeply, in this process and in
//! another one, against the same appends with nothing else going on. As a control, also while another store's sessions
//! are compacted: they share nothing but cores and disk then, but that compaction pauses for nobody.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(missing_docs)]

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use betcode_benches::corpus::Corpus;
use betcode_benches::figures::{Durations, load, median, runs, setting};
use betcode_benches::stores;
use betcode_storage::{Batch, Store, Tier};
use bytes::Bytes;

const SESSIONS: usize = 20;
const MESSAGE_BYTES: usize = 5_000;
/// Pause between two appends of a session: 20 sessions make some 500 messages/s, hundreds of
/// times what 20 busy agents write, and leave the machine room to breathe.
const PACE: Duration = Duration::from_millis(40);

/// No append is to wait longer for a compaction; those that do are named.
const LONG_WAIT: Duration = Duration::from_millis(100);

/// Where the compaction runs beside the appends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    ThisProcess,
    OtherProcess,
    OtherStore,
}

impl Place {
    const ALL: [Self; 3] = [Self::ThisProcess, Self::OtherProcess, Self::OtherStore];

    fn name(self) -> &'static str {
        match self {
            Self::ThisProcess => "this process",
            Self::OtherProcess => "another process",
            Self::OtherStore => "this process, of another store",
        }
    }
}

/// Appends from 20 threads until `done`; how long each answer took.
fn appends(store: &Store, messages: &[Bytes], pace: Duration, done: &AtomicBool) -> Durations {
    let started = Instant::now();
    let mut all = Durations::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SESSIONS)
            .map(|session| {
                scope.spawn(move || {
                    let mut durations = Durations::default();
                    let id = stores::id(&format!("live-{session}"));
                    let mut n = session * 997;
                    std::thread::sleep(pace.mul_f64(session as f64 / SESSIONS as f64));
                    while !done.load(Ordering::SeqCst) {
                        n += 1;
                        let payload = messages[n % messages.len()].clone();
                        let asked = Instant::now();
                        store.append(Batch::new(id.clone(), vec![payload])).unwrap();
                        let took = asked.elapsed();
                        durations.push(took);
                        if took > LONG_WAIT {
                            println!(
                                "    waited {} ms at {:.1} s",
                                took.as_millis(),
                                started.elapsed().as_secs_f64()
                            );
                        }
                        std::thread::sleep(pace.saturating_sub(took));
                    }
                    durations
                })
            })
            .collect();
        for thread in threads {
            all.extend(thread.join().unwrap());
        }
    });
    all
}

/// Appends for as long as `work` takes.
fn appends_during(
    store: &Store,
    messages: &[Bytes],
    pace: Duration,
    work: impl FnOnce() -> String + Send,
) -> (Durations, String) {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let said = work();
            done.store(true, Ordering::SeqCst);
            said
        });
        let durations = appends(store, messages, pace, &done);
        (durations, worker.join().unwrap())
    })
}

fn main() {
    let corpus = Corpus::load();
    let messages = corpus.messages_of(MESSAGE_BYTES, 10_000);
    let bytes = setting("BETCODE_BENCH_MB", 200) as u64 * 1_000_000;
    let alone = Duration::from_secs(setting("BETCODE_BENCH_SECONDS", 10) as u64);
    println!(
        "{SESSIONS} sessions append {MESSAGE_BYTES} B messages, one each, while {} MB of other \
         sessions are compacted deeply (manual: all of one core)",
        bytes / 1_000_000
    );
    let paces = [("paced", PACE), ("as fast as they can", Duration::ZERO)];
    for (kind, pace) in &paces[..setting("BETCODE_BENCH_PACES", 2).min(2)] {
        let pace = *pace;
        let mut ratios: [Vec<f64>; 3] = Default::default();
        for run in 1..=runs(1) {
            println!("{kind}, run {run}, {}", load());
            for (ratios, place) in ratios.iter_mut().zip(Place::ALL) {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("history.db");
                let store = stores::open(&path);
                let elsewhere = stores::open(&folder.path().join("elsewhere.db"));
                let compacted = match place {
                    Place::OtherStore => &elsewhere,
                    _ => &store,
                };
                stores::record_until(compacted, "old", &corpus, bytes);
                let (mut before, _) = appends_during(&store, &messages, pace, || {
                    std::thread::sleep(alone);
                    String::new()
                });
                let (mut during, said) = appends_during(&store, &messages, pace, || {
                    if place == Place::OtherProcess {
                        let output = Command::new(env!("CARGO_BIN_EXE_compactor"))
                            .arg(&path)
                            .stdout(Stdio::piped())
                            .output()
                            .unwrap();
                        assert!(output.status.success());
                        String::from_utf8(output.stdout).unwrap().trim().to_owned()
                    } else {
                        let outcome = stores::compact(compacted, Tier::Deep);
                        format!("{} bytes in {:.1} s", outcome.raw_bytes, outcome.seconds)
                    }
                });
                println!("  alone, {} appends: {}", before.count(), before.summary());
                println!(
                    "  compaction in {} ({said}), {} appends: {}",
                    place.name(),
                    during.count(),
                    during.summary()
                );
                ratios.push(during.percentile_ms(99.0) / before.percentile_ms(99.0));
            }
        }
        let [same, other, store] = ratios.map(median);
        println!(
            "{kind}: p99 {same:.2} times that alone (same process), {other:.2} (another process), {store:.2} (another \
             store)"
        );
    }
}
