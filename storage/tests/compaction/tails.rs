//! Segments whose last bytes stand in a table of their own.

use rusqlite::Connection;

use super::*;

/// A store of small sessions, compacted deeply.
fn small_sessions(path: &Path) -> Store {
    let store = open(path);
    for seed in 1..=20 {
        record(&store, &format!("s{seed}"), &lines(10 + 7 * seed, seed));
    }
    compact(&store, Tier::Deep);
    store
}

fn number(connection: &Connection, sql: &str) -> i64 {
    connection.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn assert_reads_back(store: &Store, seeds: std::ops::RangeInclusive<usize>) {
    for seed in seeds {
        assert_eq!(
            contents(store, &format!("s{seed}")),
            lines(10 + 7 * seed, seed)
        );
    }
}

#[test]
fn small_segments_are_stored_in_two_tables_and_come_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = small_sessions(&path);
    assert_sound(&store);
    assert_reads_back(&store, 1..=20);
    let connection = Connection::open(&path).unwrap();
    let with_tail = number(&connection, "SELECT count(*) FROM segments WHERE tier > 3");
    assert!(with_tail > 5, "{with_tail} of 20 segments have a tail");
    let stored = number(
        &connection,
        "SELECT (SELECT sum(length(encoded)) FROM segments) + (SELECT sum(length(bytes)) FROM segment_tails)",
    );
    assert_eq!(store.totals().unwrap().segment_bytes, stored as u64);
}

#[test]
fn a_tail_goes_with_its_segment() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = small_sessions(&path);
    for seed in 1..=10 {
        store.delete(&id(&format!("s{seed}"))).unwrap();
    }
    assert_sound(&store);
    assert_reads_back(&store, 11..=20);
    // Another run replaces the segment of a session that went on.
    record(&store, "s11", &lines(50, 99));
    compact(&store, Tier::Deep);
    assert_sound(&store);
    assert_reads_back(&store, 12..=20);
    let went_on = [lines(10 + 7 * 11, 11), lines(50, 99)].concat();
    assert_eq!(contents(&store, "s11"), went_on);
    for seed in 11..=20 {
        store.delete(&id(&format!("s{seed}"))).unwrap();
    }
    let connection = Connection::open(&path).unwrap();
    assert_eq!(number(&connection, "SELECT count(*) FROM segment_tails"), 0);
}

#[test]
fn a_tail_that_is_damaged_or_left_over_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    small_sessions(&path).close().unwrap();
    let first = "(SELECT min(piece_key) FROM segment_tails)";
    for (change, kind) in [
        (
            format!(
                "UPDATE segment_tails SET bytes = zeroblob(length(bytes)) WHERE piece_key = {first}"
            ),
            ProblemKind::Segment,
        ),
        (
            format!("DELETE FROM segment_tails WHERE piece_key = {first}"),
            ProblemKind::Segment,
        ),
        (
            "INSERT INTO segment_tails VALUES ((40 << 32) + 7, x'00')".to_owned(),
            ProblemKind::Orphan,
        ),
    ] {
        let copy = folder.path().join("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        let connection = Connection::open(&copy).unwrap();
        assert_eq!(connection.execute(&change, []), Ok(1));
        connection.close().unwrap();
        let store = open(&copy);
        let report = verify(&store);
        let [problem] = &report.problems[..] else {
            panic!("{change}: {:#?}", report.problems);
        };
        assert_eq!(problem.kind, kind, "{change}");
        if kind == ProblemKind::Segment {
            let damaged = problem.session.clone().unwrap();
            let read = |s: &str| {
                store
                    .read(&id(s), ReadRange::all())
                    .unwrap()
                    .all(|m| m.is_ok())
            };
            assert!(!read(&damaged));
            let intact = (1..=20).filter(|seed| read(&format!("s{seed}"))).count();
            assert_eq!(intact, 19, "{change}");
        }
        store.close().unwrap();
    }
}
