//! Sessions that are deleted while they are compacted, replayed or looked at.

use super::*;

#[test]
fn sessions_deleted_during_a_run_take_no_base_with_them_that_it_goes_on_to_use() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    let of_one_project = |session: String, lines: &[Bytes]| {
        let mut batch = Batch::new(id(&session), lines.to_vec());
        batch.meta.working_directory = "/project".into();
        store.append(batch).unwrap();
    };
    for n in 0..4 {
        of_one_project(format!("first-{n}"), &lines(1000, n));
    }
    compact(&store, Tier::Deep);
    assert_eq!(store.totals().unwrap().bases, 1);
    let later = lines(100, 5);
    for n in 0..3 {
        of_one_project(format!("later-{n}"), &later);
    }

    // Between two steps of a run that keeps the base, all segments that use it are deleted.
    let mut steps = 0;
    let request = CompactionRequest::manual();
    store
        .compact(&request, &mut |progress| {
            if progress.steps_done > steps {
                steps = progress.steps_done;
                if steps == 1 {
                    for session in ["first-0", "first-1", "first-2", "first-3", "later-0"] {
                        assert!(store.delete(&id(session)).unwrap());
                    }
                    assert_eq!(store.totals().unwrap().bases, 0);
                }
            }
            ControlFlow::Continue(())
        })
        .unwrap();

    assert_eq!(steps, 3);
    assert_sound(&store);
    for session in ["later-1", "later-2"] {
        assert_eq!(contents(&store, session), later);
    }
    let totals = store.totals().unwrap();
    assert_eq!((totals.hot_messages, totals.bases), (0, 1));
}

#[test]
fn a_session_deleted_while_it_is_replayed_ends_the_replay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    record(&store, "s", &lines(20_000, 1));
    let mut replay = store.read(&id("s"), ReadRange::all()).unwrap();
    replay.next_page().unwrap().unwrap();
    store.delete(&id("s")).unwrap();
    let error = loop {
        match replay.next_page() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the replay ended as if it were whole"),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_sound(&store);
}

#[test]
fn a_session_made_anew_while_it_is_replayed_does_not_continue_the_one_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    for compacted in [false, true] {
        let (old, new) = (lines(20_000, 1), lines(20_000, 2));
        record(&store, "s", &old);
        if compacted {
            compact(&store, Tier::Quick);
        }
        let mut replay = store.read(&id("s"), ReadRange::all()).unwrap();
        let mut replayed = replay.next_page().unwrap().unwrap();
        store.delete(&id("s")).unwrap();
        record(&store, "s", &new);
        let error = loop {
            match replay.next_page() {
                Ok(Some(page)) => replayed.extend(page),
                Ok(None) => panic!("the replay ended as if it were whole"),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let replayed: Vec<_> = replayed.into_iter().map(|m| m.payload).collect();
        assert_eq!(replayed, old[..replayed.len()]);
        store.delete(&id("s")).unwrap();
    }
}

#[test]
fn a_session_deleted_while_it_is_inspected_is_whole_or_not_found() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    let sessions: Vec<SessionId> = (0..50).map(|n| id(&format!("s{n}"))).collect();
    for session in &sessions {
        store
            .append(Batch::new(session.clone(), lines(5, 1)))
            .unwrap();
    }
    compact(&store, Tier::Quick);
    for session in &sessions {
        let (begun, begin) = std::sync::mpsc::channel();
        let inspector = {
            let (store, session) = (store.clone(), session.clone());
            std::thread::spawn(move || {
                loop {
                    let inspected = store.inspect(&session);
                    let _ = begun.send(());
                    match inspected {
                        Ok(found) => {
                            let in_segments = found.segments.iter().map(|s| s.info.messages());
                            assert_eq!(in_segments.sum::<u64>() + found.hot_messages, 5);
                        }
                        Err(error) => break error.kind(),
                    }
                }
            })
        };
        begin.recv().unwrap();
        store.delete(session).unwrap();
        assert_eq!(inspector.join().unwrap(), ErrorKind::NotFound);
    }
}
