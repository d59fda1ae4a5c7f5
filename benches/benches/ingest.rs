//! 20 sessions at once, 5 KB messages, `synchronous=FULL`: messages per second and how long each
//! answer takes, against one INSERT per commit into a plain table, and against what the disk would
//! let through if only the writing and syncing took time.
//!
//! Once with sessions that wait for each answer before their next message, as a client does that
//! appends one by one, and once with sessions that print on meanwhile, as agents do: then what came
//! while the last append was under way is the next one, as in the daemon.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(missing_docs)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use betcode_benches::corpus::Corpus;
use betcode_benches::figures::{Durations, load, median, runs, setting, written_bytes};
use betcode_benches::plain::{Journal, Plain};
use betcode_benches::stores;
use betcode_storage::{Batch, SessionId};
use bytes::Bytes;

const SESSIONS: usize = 20;
const MESSAGE_BYTES: usize = 5_000;
/// What a pipe between an agent and its recorder holds, on Linux.
const PIPE_BYTES: usize = 64 << 10;
/// The raw loop overwrites a file of this size again and again, as the log is overwritten.
const RAW_FILE_BYTES: usize = 8 << 20;

/// Runs `session(n)` in a thread for each of the sessions; messages/s, and how long the answers
/// that it returns took.
fn all_at_once(session: &(impl Fn(usize) -> Durations + Sync)) -> (f64, Durations) {
    let started = Instant::now();
    let mut all = Durations::default();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..SESSIONS)
            .map(|n| scope.spawn(move || session(n)))
            .collect();
        for thread in threads {
            all.extend(thread.join().unwrap());
        }
    });
    (all.count() as f64 / started.elapsed().as_secs_f64(), all)
}

/// What a session says: all messages over and over, each session from a place of its own.
fn said_by(session: usize, messages: &[Bytes]) -> impl Iterator<Item = Bytes> {
    messages.iter().cycle().skip(session * 997).cloned()
}

/// Calls `append(session, sequence, payload)` for one message after the other until the time is
/// over.
fn measure(
    messages: &[Bytes],
    time: Duration,
    append: &(impl Fn(usize, u64, Bytes) + Sync),
) -> (f64, Durations) {
    let started = Instant::now();
    all_at_once(&|session| {
        let mut durations = Durations::default();
        for (sequence, payload) in (1..).zip(said_by(session, messages)) {
            if started.elapsed() >= time {
                break;
            }
            let asked = Instant::now();
            append(session, sequence, payload);
            durations.push(asked.elapsed());
        }
        durations
    })
}

/// As [`measure`], of sessions that do not wait: a pipe holds what they print while their last
/// append is under way, and then it is appended as one batch. An answer's time counts from when
/// the agent printed the line.
fn measure_printing(
    messages: &[Bytes],
    time: Duration,
    append: &(impl Fn(usize, Vec<Bytes>) + Sync),
) -> (f64, Durations) {
    let started = Instant::now();
    all_at_once(&|session| {
        let (pipe, printed) = sync_channel(PIPE_BYTES / MESSAGE_BYTES);
        let mut durations = Durations::default();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                for line in said_by(session, messages).take_while(|_| started.elapsed() < time) {
                    let _ = pipe.send((line, Instant::now()));
                }
            });
            while let Ok(first) = printed.recv() {
                let (batch, times): (Vec<_>, Vec<_>) =
                    std::iter::once(first).chain(printed.try_iter()).unzip();
                append(session, batch);
                for printed in times {
                    durations.push(printed.elapsed());
                }
            }
        });
        durations
    })
}

fn ids() -> Vec<SessionId> {
    (0..SESSIONS)
        .map(|n| stores::id(&format!("s{n}")))
        .collect()
}

fn ours(folder: &Path, messages: &[Bytes], time: Duration) -> (f64, Durations) {
    let (store, ids) = (stores::open(&folder.join("ours.db")), ids());
    measure(messages, time, &|session, _, payload| {
        store
            .append(Batch::new(ids[session].clone(), vec![payload]))
            .unwrap();
    })
}

fn ours_printing(folder: &Path, messages: &[Bytes], time: Duration) -> (f64, Durations) {
    let (store, ids) = (stores::open(&folder.join("ours.db")), ids());
    measure_printing(messages, time, &|session, batch| {
        store
            .append(Batch::new(ids[session].clone(), batch))
            .unwrap();
    })
}

fn plain(folder: &Path, messages: &[Bytes], time: Duration, journal: Journal) -> (f64, Durations) {
    let table = Mutex::new(Plain::create(&folder.join("plain.db"), journal));
    let ids = ids();
    measure(messages, time, &|session, sequence, payload| {
        let table = table.lock().unwrap();
        table.insert(ids[session].as_str(), sequence, &payload);
    })
}

/// One thread that writes and syncs as many bytes as `bytes_per_message` says for one message of
/// each session, and does nothing else: the messages/s that the disk leaves room for.
fn raw(folder: &Path, bytes_per_message: f64, time: Duration) -> (f64, Durations) {
    let group = vec![0xa5; (bytes_per_message * SESSIONS as f64) as usize];
    let file = File::create(folder.join("raw")).unwrap();
    file.write_all_at(&vec![0; RAW_FILE_BYTES + group.len()], 0)
        .unwrap();
    file.sync_all().unwrap();
    let (started, mut durations, mut at) = (Instant::now(), Durations::default(), 0);
    while started.elapsed() < time {
        let asked = Instant::now();
        file.write_all_at(&group, at as u64).unwrap();
        file.sync_all().unwrap();
        durations.push(asked.elapsed());
        at = (at + group.len()) % RAW_FILE_BYTES;
    }
    let groups = durations.count() as f64 / started.elapsed().as_secs_f64();
    (groups * SESSIONS as f64, durations)
}

fn main() {
    let corpus = Corpus::load();
    let messages = corpus.messages_of(MESSAGE_BYTES, 10_000);
    let time = Duration::from_secs(setting("BETCODE_BENCH_SECONDS", 5) as u64);
    println!(
        "{SESSIONS} sessions, {MESSAGE_BYTES} B messages cut from the corpus, synchronous=FULL, \
         {} s each; waiting: one message per append, a thread each; printing: a pipe of {PIPE_BYTES} \
         B ahead, appended as it comes",
        time.as_secs()
    );
    let mut rates: [Vec<f64>; 5] = Default::default();
    for run in 1..=runs(3) {
        println!("run {run}, {}", load());
        type Contender<'a> = (&'a str, &'a dyn Fn(&Path) -> (f64, Durations));
        let contenders: [Contender<'_>; 4] = [
            ("ours, waiting", &|folder| ours(folder, &messages, time)),
            ("ours, printing", &|folder| {
                ours_printing(folder, &messages, time)
            }),
            ("plain, WAL, INSERT per commit", &|folder| {
                plain(folder, &messages, time, Journal::Wal)
            }),
            ("plain, rollback journal", &|folder| {
                plain(folder, &messages, time, Journal::Rollback)
            }),
        ];
        let mut bytes_per_message = f64::NAN;
        for (index, (name, run)) in contenders.iter().enumerate() {
            let folder = tempfile::tempdir().unwrap();
            let before = written_bytes();
            let (rate, mut durations) = run(folder.path());
            let bytes = (written_bytes() - before) as f64 / durations.count() as f64;
            println!(
                "  {name:<32} {rate:>8.0} messages/s   {}   {:.1} bytes written per byte",
                durations.summary(),
                bytes / MESSAGE_BYTES as f64
            );
            rates[index].push(rate);
            if index == 0 {
                bytes_per_message = bytes;
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let (rate, mut durations) = raw(folder.path(), bytes_per_message, time);
        println!(
            "  {:<32} {rate:>8.0} messages/s   {}",
            "our bytes, written and synced",
            durations.summary()
        );
        rates[4].push(rate);
    }
    let [waiting, printing, wal, rollback, raw] = rates.map(median);
    for (kind, ours) in [("waiting", waiting), ("printing", printing)] {
        println!(
            "median, {kind}: ours {ours:.0} messages/s = {:.1} times one INSERT per commit in WAL \
             ({wal:.0}/s), {:.1} times the default journal ({rollback:.0}/s)",
            ours / wal,
            ours / rollback
        );
    }
    println!("the disk would let {raw:.0} messages/s of waiting sessions through");
}
