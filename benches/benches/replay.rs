//! Reading compacted and hot history against a scan of the plain table, and single messages.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(missing_docs)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use betcode_benches::corpus::Corpus;
use betcode_benches::figures::{Durations, load, median, runs, timed};
use betcode_benches::plain::{Journal, Plain};
use betcode_benches::stores;
use betcode_db::generator::Rng;
use betcode_storage::{ReadRange, Store, StoreOptions, Tier};

const SINGLE_READS: usize = 3000;
/// Reads with nothing cached in the process: each opens the store anew.
const COLD_READS: usize = 200;

/// MB/s of reading all sessions with `read`.
fn rate(corpus: &Corpus, read: &dyn Fn(&str) -> (u64, u64)) -> f64 {
    let bytes = corpus.bytes();
    let lines = corpus.lines().count() as u64;
    let (took, sums) = timed(|| {
        (0..corpus.sessions.len())
            .map(|index| read(&stores::name("s", index)))
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
    });
    assert_eq!(sums, (lines, bytes));
    bytes as f64 / 1e6 / took.as_secs_f64()
}

/// MB/s of the scan, of ours, and the share, each the median over runs. The two take turns: what
/// else the machine does, and how fast it runs at the moment, concerns both.
fn rates(corpus: &Corpus, plain: &Plain, store: &Store) -> [f64; 3] {
    let (mut scans, mut ours, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs(9) {
        let scan = rate(corpus, &|session| plain.scan(session));
        let replay = rate(corpus, &|session| stores::replay(store, session));
        scans.push(scan);
        ours.push(replay);
        shares.push(replay / scan);
    }
    [scans, ours, shares].map(median)
}

/// Sessions and sequences at random.
fn places(corpus: &Corpus) -> Vec<(String, u64)> {
    let mut random = Rng::new(7);
    (0..SINGLE_READS)
        .map(|_| {
            let index = random.below(corpus.sessions.len());
            let lines = corpus.sessions[index].lines.len();
            (stores::name("s", index), 1 + random.below(lines) as u64)
        })
        .collect()
}

fn single(store: &Store, places: &[(String, u64)]) -> Durations {
    let mut durations = Durations::default();
    for (session, sequence) in places {
        let range = ReadRange {
            from: *sequence,
            to: Some(*sequence),
            last: None,
        };
        let asked = Instant::now();
        let message = store.read(&stores::id(session), range).unwrap().next();
        durations.push(asked.elapsed());
        assert_eq!(message.unwrap().unwrap().sequence, *sequence);
    }
    durations
}

/// Single messages and first messages from the middle, each from a store just opened; with its file
/// `evicted` from the system's page cache, if this system's `dd` can do that. Opening is not counted.
fn fresh(path: &Path, places: &[(String, u64)], evicted: bool) -> [Durations; 2] {
    let mut durations = [Durations::default(), Durations::default()];
    for (turn, (session, sequence)) in places.iter().take(2 * COLD_READS).enumerate() {
        let single = turn % 2 == 0;
        if evicted {
            let _ = Command::new("dd")
                .arg(format!("of={}", path.display()))
                .args(["oflag=nocache", "conv=notrunc,fdatasync", "count=0"])
                .stderr(Stdio::null())
                .status();
        }
        let store = Store::open_read_only(path, StoreOptions::default()).unwrap();
        let range = ReadRange {
            from: *sequence,
            to: single.then_some(*sequence),
            last: None,
        };
        let asked = Instant::now();
        let message = store.read(&stores::id(session), range).unwrap().next();
        durations[turn % 2].push(asked.elapsed());
        assert_eq!(message.unwrap().unwrap().sequence, *sequence);
    }
    durations
}

fn first_of_rest(store: &Store, places: &[(String, u64)]) -> Durations {
    let mut durations = Durations::default();
    for (session, sequence) in places {
        let asked = Instant::now();
        let mut replay = store
            .read(&stores::id(session), ReadRange::from(*sequence))
            .unwrap();
        let message = replay.next();
        durations.push(asked.elapsed());
        assert_eq!(message.unwrap().unwrap().sequence, *sequence);
    }
    durations
}

fn main() {
    let corpus = Corpus::load();
    println!(
        "{}; files in the page cache; medians of {} runs, the scan of plain rows and ours in turn",
        load(),
        runs(9)
    );
    let folder = tempfile::tempdir().unwrap();
    let plain = Plain::create(&folder.path().join("plain.db"), Journal::Wal);
    let path = folder.path().join("history.db");
    let store = stores::open(&path);
    for (index, session) in corpus.sessions.iter().enumerate() {
        let name = stores::name("s", index);
        plain.insert_all(&name, session.lines.iter().map(AsRef::as_ref));
        stores::record(&store, &name, &session.lines);
    }
    plain.vacuum();
    let places = places(&corpus);

    let mut plain_single = Durations::default();
    for (session, sequence) in &places {
        let (took, _) = timed(|| plain.one(session, *sequence));
        plain_single.push(took);
    }
    println!(
        "plain rows, single message         {}",
        plain_single.summary()
    );
    for (state, tier) in [
        ("hot", None),
        ("quick", Some(Tier::Quick)),
        ("deep", Some(Tier::Deep)),
    ] {
        if let Some(tier) = tier {
            let outcome = stores::compact(&store, tier);
            println!(
                "compacted {state}: {:.1} MB became {:.1} MB in {:.1} s",
                outcome.bytes_before as f64 / 1e6,
                outcome.bytes_after as f64 / 1e6,
                outcome.seconds
            );
        }
        let [scan, ours, share] = rates(&corpus, &plain, &store);
        println!(
            "{state:<5} replay                       {ours:>7.0} MB/s = {share:.2} of the scan's \
             {scan:.0} MB/s"
        );
        println!(
            "{state:<5} single message               {}",
            single(&store, &places).summary()
        );
        println!(
            "{state:<5} first message from the middle {}",
            first_of_rest(&store, &places).summary()
        );
        for (how, evicted) in [("fresh", false), ("cold ", true)] {
            let [mut single, mut first] = fresh(&path, &places, evicted);
            println!(
                "{state:<5} single message, {how}        {}",
                single.summary()
            );
            println!(
                "{state:<5} first from the middle, {how} {}",
                first.summary()
            );
        }
    }
}
