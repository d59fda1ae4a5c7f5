//! Damage that a run, a replay or a check meets, and what stands beside it.

use super::*;

#[test]
fn a_flipped_bit_is_found_and_named_and_takes_nothing_else_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = open(&path);
    record(&store, "good", &lines(500, 1));
    record(&store, "bad", &lines(4000, 2));
    compact(&store, Tier::Quick);
    record(&store, "bad", &lines(100, 3));
    store.close().unwrap();
    // In the middle of the blob, where SQLite itself does not look.
    let connection = rusqlite::Connection::open(&path).unwrap();
    let blob: Vec<u8> = connection
        .query_row(
            "SELECT encoded FROM segments ORDER BY length(encoded) DESC LIMIT 1",
            [],
            |r| r.get(0),
        )
        .unwrap();
    let mut broken = blob.clone();
    broken[blob.len() / 2] ^= 1;
    connection
        .execute(
            "UPDATE segments SET encoded = ?1 WHERE encoded = ?2",
            [&broken, &blob],
        )
        .unwrap();
    drop(connection);

    let store = open(&path);
    let report = verify(&store);
    assert_eq!(report.problems.len(), 1, "{:#?}", report.problems);
    assert_eq!(report.problems[0].kind, ProblemKind::Segment);
    assert_eq!(report.problems[0].session.as_deref(), Some("bad"));
    let read: Vec<_> = store.read(&id("bad"), ReadRange::all()).unwrap().collect();
    assert_eq!(read.iter().filter(|m| m.is_err()).count(), 1);
    let last = read.last().unwrap().as_ref().unwrap();
    assert_eq!(last.sequence, 4100, "the replay went on behind the damage");
    assert_eq!(contents(&store, "good"), lines(500, 1));
    let outcome = compact(&store, Tier::Deep);
    assert_eq!(outcome.failures.len(), 1, "{:?}", outcome.failures);
    assert_eq!(contents(&store, "good"), lines(500, 1));
}

#[test]
fn a_damaged_message_takes_the_base_from_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = open(&path);
    for (session, seed) in [("a", 1), ("bad", 2), ("c", 1), ("d", 1)] {
        record(&store, session, &lines(1000, seed));
    }
    store.close().unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    let changed = connection.execute(
        "UPDATE hot_messages SET payload = CAST('X' || substr(payload, 2) AS BLOB)
         WHERE CAST(payload AS TEXT) LIKE '%line 7 of session 2,%'",
        [],
    );
    assert_eq!(changed, Ok(1));
    drop(connection);

    let store = open(&path);
    let outcome = compact(&store, Tier::Deep);
    assert_eq!(outcome.failures.len(), 1, "{:?}", outcome.failures);
    assert_eq!(store.totals().unwrap().bases, 1);
    let alone = folder.path().join("alone.db");
    let without = open(&alone);
    record(&without, "a", &lines(1000, 1));
    compact(&without, Tier::Deep);
    let [shared, alone] = [&store, &without].map(|s| s.totals().unwrap());
    assert!(shared.segment_bytes + shared.base_bytes < 2 * alone.segment_bytes);
}

#[test]
fn damage_is_reported_in_its_place_wherever_it_is_in_a_long_replay() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = open(&path);
    let all = lines(20_000, 1);
    record(&store, "s", &all);
    compact(&store, Tier::Quick);
    store.close().unwrap();
    let connection = rusqlite::Connection::open(&path).unwrap();
    let segments: Vec<(i64, i64, Vec<u8>)> = connection
        .prepare("SELECT segment_key, last_sequence, encoded FROM segments ORDER BY segment_key")
        .unwrap()
        .query_map([], |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap();
    assert!(segments.len() >= 5, "{}", segments.len());
    let put = |key: i64, encoded: &[u8]| {
        let changed = connection.execute(
            "UPDATE segments SET encoded = ?2 WHERE segment_key = ?1",
            rusqlite::params![key, encoded],
        );
        assert_eq!(changed.unwrap(), 1);
    };
    for (key, last, encoded) in &segments {
        let mut broken = encoded.clone();
        broken[encoded.len() / 2] ^= 1;
        put(*key, &broken);
        // Lossless: the low half of the key is the sequence.
        let (first, last) = ((key & 0xffff_ffff) as usize, *last as usize);
        let store = open(&path);
        let mut replay = store.read(&id("s"), ReadRange::all()).unwrap();
        for line in &all[..first - 1] {
            assert_eq!(replay.next().unwrap().unwrap().payload, line);
        }
        let error = replay.next().unwrap().unwrap_err();
        assert!(
            matches!(error, StoreError::Segment { first_sequence, .. } if first_sequence == first as u64),
            "{error}"
        );
        for line in &all[last..] {
            assert_eq!(replay.next().unwrap().unwrap().payload, line);
        }
        assert!(replay.next().is_none());
        store.close().unwrap();
        put(*key, encoded);
    }
}

#[test]
fn a_damaged_segment_that_is_not_due_fails_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let store = outgrown(&folder.path().join("h.db"));
    let plan = store.plan_compaction(&CompactionRequest::manual()).unwrap();
    assert_eq!(sessions_of(&plan), ["a", "b", "c"]);
    let outcome = compact(&store, Tier::Deep);
    assert_eq!(outcome.failures, []);
    assert_eq!(store.totals().unwrap().hot_messages, 0);
    assert_eq!(
        store.compaction_runs(1).unwrap()[0].outcome,
        RunOutcome::Done
    );
    assert_eq!(contents(&store, "c"), lines(4000, 1));
}

#[test]
fn two_segments_that_hold_the_same_messages_are_damage_of_their_session_only() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let store = open(&path);
    for (session, count) in [("s", 20), ("t", 6), ("u", 20)] {
        record(&store, session, &lines(count, count));
    }
    compact(&store, Tier::Quick);
    store.close().unwrap();
    let moved = "UPDATE segments
         SET segment_key = ((SELECT session_key FROM sessions WHERE session_id = 's') << 32) | 15,
             last_sequence = 20
         WHERE segment_key >> 32 = (SELECT session_key FROM sessions WHERE session_id = 't')";
    let db = rusqlite::Connection::open(&path).unwrap();
    assert_eq!(db.execute(moved, []).unwrap(), 1);
    drop(db);

    let store = open(&path);
    let outcome = compact(&store, Tier::Deep);
    let failed: Vec<_> = outcome
        .failures
        .iter()
        .map(|left| left.session.as_str())
        .collect();
    assert!(failed.contains(&"s"), "{outcome:?}");
    let why = outcome
        .failures
        .iter()
        .find(|left| left.session.as_str() == "s");
    assert!(
        why.unwrap().why.contains("two segments hold message 15"),
        "{outcome:?}"
    );
    assert!(!failed.contains(&"u"), "{outcome:?}");
    assert_eq!(contents(&store, "u"), lines(20, 20));
}

#[test]
fn a_segment_under_a_wrong_key_gives_no_message_the_place_of_another() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = open(&path);
    let all = lines(1000, 1);
    record(&store, "s", &all);
    compact(&store, Tier::Quick);
    store.close().unwrap();
    for (change, first) in [
        ("segment_key = segment_key + 4", 5),
        ("segment_key = segment_key + 256", 257),
        ("last_sequence = last_sequence - 1", 1),
    ] {
        let copy = folder.path().join("copy.db");
        std::fs::copy(&path, &copy).unwrap();
        let connection = rusqlite::Connection::open(&copy).unwrap();
        let sql = format!("UPDATE segments SET {change} WHERE segment_key & 4294967295 = 1");
        assert_eq!(connection.execute(&sql, []), Ok(1), "{change}");
        drop(connection);
        let store = open(&copy);
        for from in [first, first + 3, 300, 900] {
            // Few messages, for which not all of the segment is decoded.
            let range = ReadRange {
                from,
                to: Some(from + 5),
                last: None,
            };
            for message in store.read(&id("s"), range).unwrap().flatten() {
                let sent = &all[message.sequence as usize - 1];
                assert_eq!(&message.payload, sent, "{change}: {}", message.sequence);
            }
        }
        assert!(!verify(&store).ok());
        store.close().unwrap();
    }
}
