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

/// Changes rows of a closed store as no statement of ours does.
fn change(path: &Path, sql: &str) -> usize {
    let connection = Connection::open(path).unwrap();
    connection.execute(sql, []).unwrap()
}

#[test]
fn stray_pieces_keep_no_session_from_being_compacted_and_go_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = open(&path);
    let small = lines(100, 1);
    record(&store, "s", &small);
    store.close().unwrap();
    for sequence in [1, 2, 60] {
        let stray = format!(
            "INSERT INTO segment_tails
             SELECT session_key << 32 | {sequence}, x'00ff' FROM sessions"
        );
        assert_eq!(change(&path, &stray), 1);
    }
    let store = open(&path);
    let [problem] = &verify(&store).problems[..] else {
        panic!("{:#?}", verify(&store).problems);
    };
    assert_eq!(problem.kind, ProblemKind::Orphan);
    for tier in [Tier::Quick, Tier::Deep] {
        compact(&store, tier);
        assert_sound(&store);
        assert_eq!(contents(&store, "s"), small);
    }
}

#[test]
fn surplus_pieces_of_a_tail_hide_no_message_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    small_sessions(&path).close().unwrap();
    const LAST_PIECE: &str = "(SELECT max(piece_key) FROM segment_tails
        WHERE piece_key >> 32 = (SELECT min(piece_key) >> 32 FROM segment_tails))";
    for surplus in [
        // A piece more.
        format!("INSERT INTO segment_tails VALUES ({LAST_PIECE} + 1, zeroblob(1000))"),
        // One that is longer than it was.
        format!(
            "UPDATE segment_tails SET bytes = CAST(bytes || x'00' AS BLOB)
             WHERE piece_key = {LAST_PIECE}"
        ),
    ] {
        let copy = folder.path().join("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        assert_eq!(change(&copy, &surplus), 1);
        let store = open(&copy);
        assert_reads_back(&store, 1..=20);
        let [problem] = &verify(&store).problems[..] else {
            panic!("{surplus}: {:#?}", verify(&store).problems);
        };
        assert_eq!(problem.kind, ProblemKind::Orphan, "{surplus}");
        store.close().unwrap();
    }
}

#[test]
fn a_segment_whose_row_says_the_impossible_keeps_no_session_from_being_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    small_sessions(&path).close().unwrap();
    for column in [
        "last_sequence",
        "tier",
        "raw_bytes",
        "created_ms",
        "base_id",
    ] {
        for value in [i64::MIN, -1, 0, 1 << 32, 1 << 40, i64::MAX] {
            let copy = folder.path().join("copy.db");
            std::fs::copy(&path, &copy).unwrap();
            change(&copy, &format!("UPDATE segments SET {column} = {value}"));
            let store = open(&copy);
            for seed in 1..=20 {
                assert!(
                    store.delete(&id(&format!("s{seed}"))).unwrap(),
                    "{column} is {value}"
                );
            }
            store.close().unwrap();
            assert_eq!(pieces_of_sessions(&copy), 0, "{column} is {value}");
        }
    }
}

/// How many pieces of tails there are of the sessions.
fn pieces_of_sessions(path: &Path) -> i64 {
    let sql = "SELECT count(*) FROM segment_tails WHERE piece_key >> 32 BETWEEN 1 AND 20";
    number(&Connection::open(path).unwrap(), sql)
}

/// One of the ways in which rows of a segment with a tail can be wrong.
fn damage(random: &mut Random) -> String {
    let mut one_of = |column: &str, rows: &str| {
        let at = random.below(1000);
        format!(
            "(SELECT {column} FROM {rows} ORDER BY {column}
              LIMIT 1 OFFSET {at} % (SELECT count(*) FROM {rows}))"
        )
    };
    let [piece, other] = [(); 2].map(|()| one_of("piece_key", "segment_tails"));
    let segment = one_of("segment_key", "segments WHERE tier > 3");
    let set =
        |what: &str| format!("UPDATE OR IGNORE segment_tails SET {what} WHERE piece_key = {piece}");
    let add = |column: &str, by: i64| {
        format!("UPDATE segments SET {column} = {column} + {by} WHERE segment_key = {segment}")
    };
    let by = random.between(1, 12);
    match random.index(11) {
        0 => format!("DELETE FROM segment_tails WHERE piece_key = {piece}"),
        1 => set("bytes = zeroblob(length(bytes))"),
        2 => set("bytes = CAST(substr(bytes, 2) AS BLOB)"),
        3 => set("bytes = CAST(bytes || x'00' AS BLOB)"),
        4 => set("bytes = x''"),
        5 => set(&format!("piece_key = piece_key + {by}")),
        6 => set(&format!("piece_key = piece_key - {by}")),
        7 => set(&format!(
            "bytes = (SELECT bytes FROM segment_tails WHERE piece_key = {other})"
        )),
        8 => format!("INSERT OR IGNORE INTO segment_tails SELECT {piece} + {by}, zeroblob({by})"),
        9 => add("tier", random.one_of(&[-4, -1, 1, 4, 400, 1 << 40])),
        _ => add("last_sequence", random.one_of(&[-1, 1, 9, 1 << 40])),
    }
}

/// How many messages of the sessions can be read. Asserts that they are those that were recorded.
fn readable(store: &Store) -> usize {
    let read = |seed: usize| {
        let sent = lines(10 + 7 * seed, seed);
        let messages = store
            .read(&id(&format!("s{seed}")), ReadRange::all())
            .unwrap();
        let good = messages.flatten().inspect(|message| {
            assert_eq!(message.payload, sent[message.sequence as usize - 1]);
        });
        good.count()
    };
    (1..=20).map(read).sum()
}

#[test]
fn whatever_rows_of_tails_hold_no_message_is_altered_and_a_check_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = small_sessions(&path);
    let whole = readable(&store);
    store.close().unwrap();
    let seed = betcode_test_support::seed();
    for round in 0..15 {
        let mut random = Random::new(seed.wrapping_add(round));
        let copy = folder.path().join("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        let sql = damage(&mut random);
        eprintln!("BETCODE_TEST_SEED={}: {sql}", seed.wrapping_add(round));
        change(&copy, &sql);
        let store = open(&copy);
        let before = readable(&store);
        assert!(before == whole || !verify(&store).ok());
        let go_on = &mut |_: &_| ControlFlow::Continue(());
        let _ = store.compact(&CompactionRequest::manual(), go_on);
        assert_eq!(readable(&store), before);
        for seed in 1..=20 {
            assert!(store.delete(&id(&format!("s{seed}"))).unwrap());
        }
        store.close().unwrap();
        assert_eq!(pieces_of_sessions(&copy), 0);
    }
}
