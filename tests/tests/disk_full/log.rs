//! Room that the log holds, and gives back where appends need it.

use super::*;

/// Keeps the log of the store at `path` from being moved into the main file, until it is dropped.
fn reader_in_the_way(path: &Path) -> rusqlite::Connection {
    let reader = rusqlite::Connection::open(path).unwrap();
    reader.execute_batch("BEGIN").unwrap();
    reader
        .query_row("SELECT count(*) FROM sessions", [], |row| {
            row.get::<_, i64>(0)
        })
        .unwrap();
    reader
}

#[test]
fn a_log_that_a_crash_left_is_moved_into_the_file_where_appends_need_its_room() {
    let crashed = tempfile::tempdir().unwrap();
    let before = crashed.path().join("history.db");
    let mut recorder = Recorder::new();
    let store = Store::open(&before, options()).unwrap();
    let reader = reader_in_the_way(&before);
    for _ in 0..400 {
        recorder.append(&store).unwrap();
    }
    let log = crashed.path().join("history.db-wal");
    let pages_bytes: i64 = reader_in_the_way(&before)
        .query_row(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
            [],
            |row| row.get(0),
        )
        .unwrap();
    let grows_by = pages_bytes as u64 - std::fs::metadata(&before).unwrap().len();
    assert!(grows_by > 4 << 20, "{grows_by}");

    let disk = match Mount::in_memory(64 << 20) {
        Ok(disk) => disk,
        Err(why) => return skipped("disk full, log left", &why),
    };
    let path = disk.path().join("history.db");
    std::fs::copy(&before, &path).unwrap();
    std::fs::copy(&log, disk.path().join("history.db-wal")).unwrap();
    drop((reader, store));
    // Room for the log in the main file and for a reserve, and for nothing else while it is there.
    let reserve_bytes = 2 << 20;
    leave_room(
        &disk.path().join("other"),
        grows_by + reserve_bytes + (200 << 10),
    );
    let options = StoreOptions {
        reserve_bytes,
        ..options()
    };
    let store = Store::open(&path, options).unwrap();
    for _ in 0..3 {
        recorder.append(&store).unwrap();
    }
    recorder.assert_all_is_there(&store);
}

#[test]
fn a_batch_that_is_refused_for_want_of_room_leaves_the_room_to_smaller_ones() {
    // SQLite writes some 17 MB of the batch to the log before it is counted; little is to be left then.
    for room_kib in (16_400..17_800).step_by(200) {
        let disk = match Mount::in_memory(64 << 20) {
            Ok(disk) => disk,
            Err(why) => return skipped("disk full, large batch", &why),
        };
        let path = disk.path().join("history.db");
        let store = Store::open(&path, with_reserve()).unwrap();
        let mut recorder = Recorder::new();
        recorder.append(&store).unwrap();
        leave_room(&disk.path().join("other"), room_kib << 10);
        let large = vec![vec![b'x'; 1_000_000].into(); 32];
        let refused = store.append(Batch::new(id("large"), large)).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::NoSpace, "{refused}");
        for n in 0..20 {
            recorder
                .append(&store)
                .unwrap_or_else(|error| panic!("{room_kib} KiB, append {n}: {error}"));
        }
        recorder.assert_all_is_there(&store);
    }
}

#[test]
fn a_limit_reached_because_of_a_readers_log_is_none_once_the_reader_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let options = StoreOptions {
        db_bytes_max: 24 << 20,
        ..options()
    };
    let store = Store::open(&path, options).unwrap();
    let reader = reader_in_the_way(&path);
    let mut recorder = Recorder::new();
    let refused = recorder.fill(&store);
    assert!(
        matches!(refused, StoreError::LimitReached { .. }),
        "{refused:?}"
    );
    let in_file = store.space().unwrap();
    drop(reader);
    let began = std::time::Instant::now();
    let again = loop {
        match recorder.append(&store) {
            Err(_) if began.elapsed().as_secs() < 20 => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            answer => break answer,
        }
    };
    again.unwrap_or_else(|error| panic!("{error}; before: {in_file:?}"));
    recorder.assert_all_is_there(&store);
}
