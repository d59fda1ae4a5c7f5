//! Footprint and replay against plain SQLite rows, and against zstd -19 over whole sessions,
//! which is what existing tools reach. One table, by folder of the corpus and for all of it.

#![allow(clippy::unwrap_used, clippy::expect_used)]
#![allow(missing_docs)]

use betcode_benches::corpus::Corpus;
use betcode_benches::figures::{load, median, runs, timed};
use betcode_benches::plain::{Journal, Plain, bytes_on_disk};
use betcode_benches::stores;
use betcode_storage::Tier;

struct Row {
    plain_bytes: u64,
    plain_mb_s: f64,
    zstd_bytes: u64,
    zstd_mb_s: f64,
    our_bytes: u64,
    our_mb_s: f64,
    compaction_mb_s: f64,
}

/// Median MB/s of `read` over all sessions of the corpus.
fn rate(corpus: &Corpus, read: &dyn Fn(usize)) -> f64 {
    let mb = corpus.bytes() as f64 / 1e6;
    let rates = (0..runs(5))
        .map(|_| {
            let (took, ()) = timed(|| (0..corpus.sessions.len()).for_each(read));
            mb / took.as_secs_f64()
        })
        .collect();
    median(rates)
}

fn compare(corpus: &Corpus) -> Row {
    let folder = tempfile::tempdir().unwrap();
    let plain_path = folder.path().join("plain.db");
    let plain = Plain::create(&plain_path, Journal::Wal);
    for (index, session) in corpus.sessions.iter().enumerate() {
        // As long as the ids that agents use.
        let name = format!("{:036}", index);
        plain.insert_all(&name, session.lines.iter().map(AsRef::as_ref));
    }
    plain.vacuum();
    let plain_mb_s = rate(corpus, &|index| {
        let _ = plain.scan(&format!("{index:036}"));
    });

    let compressed: Vec<Vec<u8>> = corpus
        .sessions
        .iter()
        .map(|session| zstd::bulk::compress(&session.file, 19).unwrap())
        .collect();
    let zstd_mb_s = rate(corpus, &|index| {
        let bytes = corpus.sessions[index].file.len();
        let file = zstd::bulk::decompress(&compressed[index], bytes).unwrap();
        assert_eq!(file.len(), bytes);
    });

    let our_path = folder.path().join("history.db");
    let store = stores::open(&our_path);
    stores::record_corpus(&store, "s", corpus);
    let outcome = stores::compact(&store, Tier::Deep);
    let our_mb_s = rate(corpus, &|index| {
        let _ = stores::replay(&store, &stores::name("s", index));
    });
    Row {
        plain_bytes: bytes_on_disk(&plain_path),
        plain_mb_s,
        zstd_bytes: compressed.iter().map(|file| file.len() as u64).sum(),
        zstd_mb_s,
        our_bytes: bytes_on_disk(&our_path),
        our_mb_s,
        compaction_mb_s: outcome.raw_bytes as f64 / 1e6 / outcome.seconds,
    }
}

fn main() {
    let corpus = Corpus::load();
    println!("{}", load());
    println!(
        "footprint: bytes over those of plain rows (whole files with their logs; zstd -19: sum of \
         its files). Read: MB/s, one session after the other, files in the page cache."
    );
    println!(
        "{:<22} {:>8} {:>10} | {:>8} {:>8} | {:>8} {:>8} | {:>8} {:>8} {:>8}",
        "", "MB", "plain MB", "plain", "read", "zstd-19", "read", "ours", "read", "compact"
    );
    let all = corpus.folders().into_iter().map(|folder| {
        let of_folder = corpus.of_folder(&folder);
        (folder, of_folder)
    });
    for (name, part) in all.chain([("all".to_owned(), corpus.clone())]) {
        let row = compare(&part);
        let footprint = |bytes: u64| bytes as f64 / row.plain_bytes as f64;
        println!(
            "{name:<22} {:>8.1} {:>10.1} | {:>8.3} {:>8.0} | {:>8.3} {:>8.0} | {:>8.3} {:>8.0} {:>8.1}",
            part.bytes() as f64 / 1e6,
            row.plain_bytes as f64 / 1e6,
            1.0,
            row.plain_mb_s,
            footprint(row.zstd_bytes),
            row.zstd_mb_s,
            footprint(row.our_bytes),
            row.our_mb_s,
            row.compaction_mb_s
        );
    }
}
