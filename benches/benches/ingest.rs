//! 20 sessions at once, 5 KB messages, one message per append, `synchronous=FULL`: messages per
//! second and how long each answer takes, against one INSERT per commit into a plain table.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(missing_docs)]

use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use betcode_benches::corpus::Corpus;
use betcode_benches::figures::{Durations, load, median, runs, setting};
use betcode_benches::plain::{Journal, Plain};
use betcode_benches::stores;
use betcode_storage::Batch;
use bytes::Bytes;

const SESSIONS: usize = 20;
const MESSAGE_BYTES: usize = 5_000;

/// Calls `append(session, sequence, payload)` from one thread per session until the time is over.
fn measure(
    messages: &[Bytes],
    time: Duration,
    append: &(impl Fn(usize, u64, Bytes) + Sync),
) -> (f64, Durations) {
    let started = Instant::now();
    let mut all = Durations::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SESSIONS)
            .map(|session| {
                scope.spawn(move || {
                    let mut durations = Durations::default();
                    let mut sequence = 0;
                    while started.elapsed() < time {
                        sequence += 1;
                        // Each session walks through the messages from a place of its own.
                        let index = session * 997 + sequence as usize;
                        let payload = messages[index % messages.len()].clone();
                        let asked = Instant::now();
                        append(session, sequence, payload);
                        durations.push(asked.elapsed());
                    }
                    durations
                })
            })
            .collect();
        for thread in threads {
            all.extend(thread.join().unwrap());
        }
    });
    (all.count() as f64 / started.elapsed().as_secs_f64(), all)
}

fn ours(folder: &Path, messages: &[Bytes], time: Duration) -> (f64, Durations) {
    let store = stores::open(&folder.join("ours.db"));
    let ids: Vec<_> = (0..SESSIONS)
        .map(|n| stores::id(&format!("s{n}")))
        .collect();
    measure(messages, time, &|session, _, payload| {
        store
            .append(Batch::new(ids[session].clone(), vec![payload]))
            .unwrap();
    })
}

fn plain(folder: &Path, messages: &[Bytes], time: Duration, journal: Journal) -> (f64, Durations) {
    let table = Mutex::new(Plain::create(&folder.join("plain.db"), journal));
    let ids: Vec<_> = (0..SESSIONS).map(|n| format!("s{n}")).collect();
    measure(messages, time, &|session, sequence, payload| {
        let table = table.lock().unwrap();
        table.insert(&ids[session], sequence, &payload);
    })
}

fn main() {
    let corpus = Corpus::load();
    let messages = corpus.messages_of(MESSAGE_BYTES, 10_000);
    let time = Duration::from_secs(setting("BETCODE_BENCH_SECONDS", 5) as u64);
    println!(
        "{SESSIONS} sessions, one thread each, {MESSAGE_BYTES} B messages cut from the corpus, one \
         message per append, synchronous=FULL, {} s each",
        time.as_secs()
    );
    let mut rates: [Vec<f64>; 3] = Default::default();
    for run in 1..=runs(3) {
        println!("run {run}, {}", load());
        type Contender<'a> = (&'a str, &'a dyn Fn(&Path) -> (f64, Durations));
        let contenders: [Contender<'_>; 3] = [
            ("ours, group commit", &|folder| {
                ours(folder, &messages, time)
            }),
            ("plain, WAL, INSERT per commit", &|folder| {
                plain(folder, &messages, time, Journal::Wal)
            }),
            ("plain, rollback journal", &|folder| {
                plain(folder, &messages, time, Journal::Rollback)
            }),
        ];
        for (rates, (name, run)) in rates.iter_mut().zip(contenders) {
            let folder = tempfile::tempdir().unwrap();
            let (rate, mut durations) = run(folder.path());
            println!(
                "  {name:<32} {rate:>8.0} messages/s   {}",
                durations.summary()
            );
            rates.push(rate);
        }
    }
    let [ours, wal, rollback] = rates.map(median);
    println!(
        "median: ours {ours:.0} messages/s = {:.1} times one INSERT per commit in WAL ({wal:.0}/s), \
         {:.1} times the default journal ({rollback:.0}/s)",
        ours / wal,
        ours / rollback
    );
}
