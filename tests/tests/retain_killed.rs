//! `betcode-db retain --archive` killed at any moment: each session still stands in the store, or
//! whole in the archive.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::HashMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use betcode_storage::{Batch, Store};
use betcode_test_support::{Random, seed, setting};
use betcode_tests::history::{assert_sound, contents, id, options};
use betcode_tests::lines;

const WORKER: &str = env!("CARGO_BIN_EXE_worker");
const SESSIONS: u64 = 8;
const MESSAGES: u64 = 40;

fn retain(db: &Path, archive: &Path) -> Command {
    let mut command = Command::new(WORKER);
    command.args(["tool", "retain", "--quiet", "--yes", "--db"]);
    command.arg(db).arg("--archive").arg(archive);
    let store = Store::open_read_only(db, options()).unwrap();
    for session in contents(&store).keys() {
        command.args(["--session", session]);
    }
    command.stdin(Stdio::null()).stdout(Stdio::null());
    command
}

type Contents = HashMap<String, Vec<(u64, u64)>>;

/// What a store holds, checked; nothing when it was not born yet.
fn held(path: &Path) -> Contents {
    match Store::open(path, options()) {
        Ok(store) => {
            assert_sound(&store);
            contents(&store)
        }
        Err(error) => panic!("{}: {error}", path.display()),
    }
}

fn kill_rounds(rounds: u64) {
    let mut random = Random::new(seed());
    let (mut killed, mut in_archive) = (0, 0);
    for round in 0..rounds {
        let folder = tempfile::tempdir().unwrap();
        let (db, archive) = (folder.path().join("h.db"), folder.path().join("archive.db"));
        let store = Store::open(&db, options()).unwrap();
        for session in 0..SESSIONS {
            let payloads = (0..MESSAGES).map(|n| lines::payload(session, n)).collect();
            let batch = Batch::new(id(&format!("s{session}")), payloads);
            store.append(batch).unwrap();
        }
        let all = contents(&store);
        store.close().unwrap();
        let mut child = retain(&db, &archive).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(random.between(10, 1500)));
        killed += u64::from(child.try_wait().unwrap().is_none());
        // Fails only when it has ended already.
        let _ = child.kill();
        child.wait().unwrap();
        let (left, archived) = (held(&db), held(&archive));
        for (session, messages) in &all {
            let whole = |there: &Contents| there.get(session) == Some(messages);
            assert!(
                whole(&left) || (!left.contains_key(session) && whole(&archived)),
                "round {round}: {session} is neither in the store nor whole in the archive"
            );
        }
        in_archive += (SESSIONS as usize - left.len()) as u64;
        if !left.is_empty() {
            assert!(retain(&db, &archive).status().unwrap().success());
        }
        assert!(held(&db).is_empty());
        assert!(
            held(&archive) == all,
            "round {round}: the archive is not complete"
        );
    }
    eprintln!(
        "{rounds} rounds, {killed} killed while running, {in_archive} sessions removed by then"
    );
}

#[test]
fn a_session_is_in_the_store_or_whole_in_the_archive_after_kill_9() {
    kill_rounds(8);
}

/// `BETCODE_KILL_ROUNDS` sets the number of rounds.
#[test]
#[ignore = "100 rounds take minutes"]
fn a_session_is_in_the_store_or_whole_in_the_archive_after_kill_9_at_100_moments() {
    kill_rounds(setting("BETCODE_KILL_ROUNDS", 100));
}
