//! Compacts the store named on the command line, deeply, once: the other process of
//! `append_during_compaction`.

use std::path::PathBuf;

use betcode_benches::stores;
use betcode_storage::Tier;

fn main() {
    let path = std::env::args_os().nth(1).map(PathBuf::from);
    let Some(path) = path else {
        eprintln!("compactor STORE");
        std::process::exit(2);
    };
    let outcome = stores::compact(&stores::open(&path), Tier::Deep);
    println!("{} bytes in {:.1} s", outcome.raw_bytes, outcome.seconds);
}
