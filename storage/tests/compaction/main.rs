//! Compaction, reclaiming, verification and copies through the façade, on real files.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, as tests do"
)]

mod background;
mod damage;
mod deleted;
mod tails;

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use betcode_storage::{
    Batch, CompactionPhase, CompactionRequest, ErrorKind, Held, ImportMark, ProblemKind, ReadRange,
    RunOutcome, SessionId, SessionMeta, Store, StoreError, StoreOptions, Tier, VerifyReport,
    restore,
};
use betcode_test_support::Random;
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

fn open(path: &Path) -> Store {
    Store::open(
        path,
        StoreOptions {
            reserve_bytes: 0,
            ..StoreOptions::default()
        },
    )
    .unwrap()
}

fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

/// Lines that look like an agent's, different each, with something awkward now and then.
fn lines(count: usize, seed: usize) -> Vec<Bytes> {
    (0..count)
        .map(|n| match n % 97 {
            13 => Bytes::new(),
            14 => Bytes::from_static(b"\xff\0 torn {\"type\":\"user\""),
            _ => Bytes::from(format!(
                r#"{{"type":"assistant","seq":{n},"uuid":"{:08x}-0000","text":"line {n} of session {seed}, which says what it says {}"}}"#,
                n * 2_654_435_761_usize % 0xffff_ffff,
                "again and again ".repeat(n % 23),
            )),
        })
        .collect()
}

fn record(store: &Store, session: &str, lines: &[Bytes]) {
    for chunk in lines.chunks(1000) {
        store
            .append(Batch::new(id(session), chunk.to_vec()))
            .unwrap();
    }
}

fn contents(store: &Store, session: &str) -> Vec<Bytes> {
    store
        .read(&id(session), ReadRange::all())
        .unwrap()
        .map(|m| m.unwrap().payload)
        .collect()
}

fn compact(store: &Store, tier: Tier) -> betcode_storage::CompactionOutcome {
    let request = CompactionRequest {
        tier,
        ..CompactionRequest::manual()
    };
    store
        .compact(&request, &mut |_| ControlFlow::Continue(()))
        .unwrap()
}

fn verify(store: &Store) -> VerifyReport {
    store.verify(&mut |_| ControlFlow::Continue(())).unwrap()
}

fn assert_sound(store: &Store) {
    let report = verify(store);
    assert!(report.ok(), "{:#?}", report.problems);
}

#[test]
fn compaction_loses_nothing_and_the_file_shrinks_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let store = open(&path);
    let sessions: Vec<_> = (0..4).map(|n| (format!("s{n}"), lines(9000, n))).collect();
    for (session, lines) in &sessions {
        record(&store, session, lines);
    }
    let before = store.space().unwrap().used_bytes();
    for tier in [Tier::Quick, Tier::Deep, Tier::Deep] {
        compact(&store, tier);
        for (session, lines) in &sessions {
            assert_eq!(&contents(&store, session), lines);
        }
        assert_sound(&store);
    }
    let on_disk = std::fs::metadata(&path).unwrap().len();
    assert!(
        on_disk < before / 4,
        "{before} bytes before, {on_disk} after"
    );
    assert_eq!(store.space().unwrap().free_bytes, 0);
    assert_eq!(store.totals().unwrap().hot_messages, 0);
}

#[test]
fn a_second_compaction_finds_nothing_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    record(&store, "s", &lines(5000, 1));
    assert!(compact(&store, Tier::Deep).segments > 0);
    let again = compact(&store, Tier::Deep);
    assert_eq!((again.segments, again.messages), (0, 0));
    assert_eq!(store.compaction_runs(10).unwrap().len(), 1);
}

#[test]
fn any_part_of_a_compacted_session_reads_as_before() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    let all = lines(3000, 7);
    record(&store, "s", &all[..2000]);
    compact(&store, Tier::Quick);
    record(&store, "s", &all[2000..2500]);
    compact(&store, Tier::Quick);
    record(&store, "s", &all[2500..]);
    for from in [1, 2, 999, 1999, 2000, 2001, 2499, 2500, 2501, 2999, 3000] {
        let range = ReadRange {
            from,
            to: Some(from + 5),
            last: None,
        };
        let read: Vec<_> = store
            .read(&id("s"), range)
            .unwrap()
            .map(|m| m.unwrap().payload)
            .collect();
        let end = (from as usize + 5).min(all.len());
        assert_eq!(read, all[from as usize - 1..end], "from {from}");
    }
}

#[test]
fn a_plan_says_what_a_run_then_does() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    record(&store, "a", &lines(4000, 1));
    record(&store, "b", &lines(10, 2));
    let plan = store.plan_compaction(&CompactionRequest::manual()).unwrap();
    // The first session is bigger than one segment.
    assert_eq!((plan.messages(), plan.steps().count()), (4010, 3));
    assert_eq!(
        store.totals().unwrap().segments,
        0,
        "planning changed something"
    );
    let outcome = compact(&store, Tier::Deep);
    assert_eq!((outcome.messages, outcome.segments), (4010, 3));
    assert_eq!(outcome.raw_bytes, plan.raw_bytes());
}

#[test]
fn several_threads_make_the_segments_that_one_makes() {
    let folder = tempfile::tempdir().unwrap();
    let paths = [1, 4].map(|threads| folder.path().join(format!("{threads}.db")));
    let store = open(&paths[0]);
    let names: Vec<String> = (0..12).map(|n| format!("s{n}")).collect();
    for (n, name) in names.iter().enumerate() {
        record(&store, name, &lines(400 + n * 300, n % 3));
    }
    store.close().unwrap();
    std::fs::copy(&paths[0], &paths[1]).unwrap();
    let [one, four] = paths.map(|path| open(&path));
    for tier in [Tier::Quick, Tier::Deep] {
        let run = |store: &Store, threads_max| {
            let request = CompactionRequest {
                tier,
                threads_max,
                ..CompactionRequest::manual()
            };
            let mut steps_done = Vec::new();
            let outcome = store.compact(&request, &mut |at| {
                steps_done.push(at.steps_done);
                ControlFlow::Continue(())
            });
            assert!(steps_done.is_sorted());
            let outcome = outcome.unwrap();
            assert!(outcome.segments >= 12 && outcome.failures.is_empty());
            outcome.segments
        };
        assert_eq!(run(&one, 1), run(&four, 4));
        let totals = [&one, &four].map(|store| store.totals().unwrap());
        assert_eq!(totals[0].segment_bytes, totals[1].segment_bytes);
        assert_eq!(totals[0].base_bytes, totals[1].base_bytes);
        for name in &names {
            assert_eq!(contents(&one, name), contents(&four, name));
        }
    }
    assert_sound(&one);
    assert_sound(&four);
}

#[test]
fn a_cancelled_run_keeps_what_is_done_and_another_finishes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    for n in 0..5 {
        record(&store, &format!("s{n}"), &lines(500, n));
    }
    let stopped = store
        .compact(&CompactionRequest::manual(), &mut |progress| {
            if progress.steps_done == 1 {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
        .unwrap();
    assert!(stopped.cancelled);
    assert_eq!(stopped.segments, 1);
    // Measured without the log, which is gone in a moment.
    let main_bytes = std::fs::metadata(store.path()).unwrap().len();
    assert_eq!(stopped.bytes_after, main_bytes);
    assert_eq!(store.compaction_runs(1).unwrap()[0].bytes_after, main_bytes);
    assert_sound(&store);
    assert_eq!(compact(&store, Tier::Deep).segments, 4);
    assert_sound(&store);
}

#[test]
fn a_panic_of_who_watches_a_run_ends_the_run() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    record(&store, "s", &lines(500, 1));
    let watched = store.clone();
    let (ended, end) = std::sync::mpsc::channel::<()>();
    let watcher = std::thread::spawn(move || {
        let _ended = ended;
        let _ = watched.compact(&CompactionRequest::manual(), &mut |_| panic!("on purpose"));
    });
    assert_eq!(
        end.recv_timeout(Duration::from_secs(20)),
        Err(RecvTimeoutError::Disconnected)
    );
    assert!(watcher.join().is_err(), "the panic goes on to the caller");
    compact(&store, Tier::Deep);
    assert_eq!(store.totals().unwrap().hot_messages, 0);
    assert_sound(&store);
}

#[test]
fn only_one_compaction_runs_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let (one, two) = (open(&path), open(&path));
    record(&one, "s", &lines(500, 1));
    let mut refused = None;
    one.compact(&CompactionRequest::manual(), &mut |_| {
        refused.get_or_insert_with(|| {
            two.compact(&CompactionRequest::manual(), &mut |_| {
                ControlFlow::Continue(())
            })
        });
        ControlFlow::Continue(())
    })
    .unwrap();
    let error = refused.unwrap().unwrap_err();
    assert!(
        matches!(
            error,
            StoreError::Busy {
                what: Held::Compaction,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn a_backup_made_while_writing_goes_on_holds_one_moment_and_restores() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    let copy = folder.path().join("copy.db");
    let store = open(&path);
    let all = lines(2000, 1);
    record(&store, "s", &all);
    compact(&store, Tier::Deep);
    let writer = {
        let store = store.clone();
        std::thread::spawn(move || record(&store, "live", &lines(3000, 2)))
    };
    let report = store
        .backup(&copy, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    writer.join().unwrap();
    assert!(report.messages >= 2000);
    assert!(matches!(
        store
            .backup(&copy, &mut |_| ControlFlow::Continue(()))
            .unwrap_err(),
        StoreError::FileExists { .. }
    ));
    store.close().unwrap();

    let refused = restore(&copy, &path, false, &mut |_| ControlFlow::Continue(()));
    assert!(matches!(
        refused.unwrap_err(),
        StoreError::FileExists { .. }
    ));
    let restored = restore(&copy, &path, true, &mut |_| ControlFlow::Continue(())).unwrap();
    assert!(restored.moved_aside.unwrap().exists());
    let store = open(&path);
    assert_eq!(contents(&store, "s"), all);
    assert_sound(&store);
}

#[test]
fn imported_sessions_belong_with_those_of_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    let import = |session: &str, source: &str, directory: &str| {
        let batch = Batch {
            meta: SessionMeta {
                working_directory: directory.to_owned(),
                ..SessionMeta::default()
            },
            import: Some(ImportMark {
                source_path: source.into(),
                relative_path: session.into(),
                taken_bytes: 0,
                taken_digest: xxh3_128(b""),
                unterminated: false,
                joins: Vec::new(),
            }),
            ..Batch::new(id(session), lines(50, 1))
        };
        store.append(batch).unwrap();
    };
    import("a", "/logs/one/a.jsonl", "/home/dev/one");
    import("b", "/logs/one/b.jsonl", "");
    import("c", "/logs/two/c.jsonl", "/home/dev/two");
    import("d", "/logs/two/d.jsonl", "/home/dev/three");
    import("e", "/logs/two/e.jsonl", "");
    let plan = store.plan_compaction(&CompactionRequest::manual()).unwrap();
    let project_of = |session: &str| {
        let mut batches = plan.batches.iter();
        let batch = batches.find(|b| b.steps.iter().any(|s| s.session == id(session)));
        batch.unwrap().project.clone()
    };
    assert_eq!(project_of("b"), "/home/dev/one");
    for session in ["c", "d", "e"] {
        assert_eq!(
            project_of(session),
            "/home/dev/three",
            "first by name of two"
        );
    }
    compact(&store, Tier::Deep);
    for session in ["a", "b", "c", "d", "e"] {
        assert_eq!(contents(&store, session), lines(50, 1));
    }
    assert_sound(&store);
}

#[test]
fn a_run_ends_on_a_file_that_gives_no_space_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("h.db");
    // More than one step of giving back frees.
    let all = lines(9000, 1);
    record(&open(&path), "s", &all);
    // As a copy by other tools may be.
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = 0; VACUUM")
        .unwrap();
    drop(connection);

    let store = open(&path);
    let mut looks = 0;
    let outcome = store
        .compact(&CompactionRequest::manual(), &mut |progress| {
            looks += u32::from(progress.phase == CompactionPhase::Reclaiming);
            match looks < 100 {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })
        .unwrap();
    assert!(
        !outcome.cancelled,
        "it frees pages that stay where they are"
    );
    assert!(outcome.segments > 0);
    assert!(store.space().unwrap().free_bytes > 0);
    assert_eq!(contents(&store, "s"), all);
}

#[test]
fn a_line_longer_than_what_a_base_holds_takes_the_base_from_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("h.db"));
    let mut random = Random::new(7);
    let long: String = (0..7_000_000)
        .map(|_| char::from(random.one_of(b" etaoinshrdlu")))
        .collect();
    let mut all = lines(300, 1);
    all.push(format!(r#"{{"text":"{long}"}}"#).into());
    for session in ["a", "b"] {
        record(&store, session, &all);
    }
    compact(&store, Tier::Quick);
    let totals = store.totals().unwrap();
    assert_eq!(totals.bases, 1);
    assert!(
        totals.segment_bytes + totals.base_bytes < 7_000_000 * 3 / 4,
        "{} and {} bytes: the line is stored twice",
        totals.segment_bytes,
        totals.base_bytes
    );
    for session in ["a", "b"] {
        assert_eq!(contents(&store, session), all);
    }
    assert_sound(&store);
}

/// A store whose project has outgrown its base: deep sessions `a` and `b`, of which `a` has a
/// damaged segment, and `c`, which has not been compacted.
fn outgrown(path: &Path) -> Store {
    let store = open(path);
    record(&store, "a", &lines(1000, 1));
    record(&store, "b", &lines(1000, 1));
    compact(&store, Tier::Deep);
    assert_eq!(store.totals().unwrap().bases, 1);
    record(&store, "c", &lines(4000, 1));
    store.close().unwrap();
    let connection = rusqlite::Connection::open(path).unwrap();
    let key: i64 = connection
        .query_row("SELECT min(segment_key) FROM segments", [], |r| r.get(0))
        .unwrap();
    let encoded: Vec<u8> = connection
        .query_row(
            "SELECT encoded FROM segments WHERE segment_key = ?1",
            [key],
            |r| r.get(0),
        )
        .unwrap();
    let mut broken = encoded.clone();
    broken[encoded.len() / 2] ^= 1;
    connection
        .execute(
            "UPDATE segments SET encoded = ?2 WHERE segment_key = ?1",
            rusqlite::params![key, broken],
        )
        .unwrap();
    open(path)
}

fn sessions_of(plan: &betcode_storage::CompactionPlan) -> Vec<&str> {
    let sessions: BTreeSet<&str> = plan.steps().map(|step| step.session.as_str()).collect();
    sessions.into_iter().collect()
}

#[test]
fn compacting_one_session_writes_no_other_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = outgrown(&folder.path().join("h.db"));
    let request = CompactionRequest {
        session: Some(id("c")),
        ..CompactionRequest::manual()
    };
    let plan = store.plan_compaction(&request).unwrap();
    assert_eq!(sessions_of(&plan), ["c"]);
    let outcome = store
        .compact(&request, &mut |_| ControlFlow::Continue(()))
        .unwrap();
    assert_eq!(outcome.failures, []);
    assert_eq!(outcome.messages, 4000);
    assert_eq!(contents(&store, "c"), lines(4000, 1));
}

#[test]
fn sessions_that_are_left_as_they_are_are_not_written_again_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let store = outgrown(&folder.path().join("h.db"));
    let request = CompactionRequest {
        except: BTreeSet::from([id("a")]),
        ..CompactionRequest::manual()
    };
    let plan = store.plan_compaction(&request).unwrap();
    assert_eq!(sessions_of(&plan), ["b", "c"]);
}

/// The numbers of the pages behind the first one of each base, as they are read.
fn base_pages(path: &Path) -> Vec<Vec<i64>> {
    let connection = rusqlite::Connection::open(path).unwrap();
    let mut statement = connection
        .prepare(
            "SELECT path, pageno FROM dbstat WHERE name = 'bases' AND pagetype = 'overflow'
             ORDER BY path",
        )
        .unwrap();
    let pages = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)));
    let pages: Vec<(String, i64)> = pages.unwrap().map(Result::unwrap).collect();
    let base_of = |page: &(String, i64)| page.0.split('+').next().map(str::to_owned);
    pages
        .chunk_by(|a, b| base_of(a) == base_of(b))
        .map(|base| base.iter().map(|(_, page)| *page).collect())
        .collect()
}

#[test]
fn the_pages_of_new_bases_stand_in_the_order_in_which_they_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    let store = open(&path);
    // What all sessions of a project say, and what cannot be made much smaller.
    let said_in = |project: u32| -> Vec<Bytes> {
        let word = |line: u32, n: u32| {
            format!(
                "{:032x}",
                xxh3_128(&[project, line, n].map(u32::to_le_bytes).concat())
            )
        };
        let words = |line| (0..25).map(|n| word(line, n)).collect::<Vec<_>>().join(" ");
        let line = |line| Bytes::from(format!(r#"{{"text":"{}"}}"#, words(line)));
        (0..600).map(line).collect()
    };
    let said: Vec<_> = (0..3).map(said_in).collect();
    let sessions: Vec<_> = (0..9).map(|n| (format!("session-{n}"), n % 3)).collect();
    for part in 0..20 {
        for (session, project) in &sessions {
            let mut batch = Batch::new(id(session), said[*project][part * 30..][..30].to_vec());
            batch.meta.working_directory = format!("/project/{project}");
            store.append(batch).unwrap();
        }
    }
    compact(&store, Tier::Deep);
    for (session, project) in &sessions {
        assert_eq!(contents(&store, session), said[*project]);
    }
    store.close().unwrap();
    let bases = base_pages(&path);
    assert_eq!(bases.len(), 3, "each project has one");
    for pages in bases {
        let next = pages.windows(2).filter(|pair| pair[1] == pair[0] + 1);
        let share = next.count() as f64 / (pages.len() - 1) as f64;
        assert!(pages.len() > 40 && share > 0.8, "{share:.2} of {pages:?}");
    }
}
