//! Retention carried out: nothing goes before it stands, compared, in the archive.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, as tests do"
)]

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use betcode_storage::capacity::retention::RetentionPolicy;
use betcode_storage::{
    Arrival, Batch, CompactionRequest, ErrorKind, ImportMark, ManualClock, Message, ReadRange,
    RetentionPhase, RetentionProgress, SessionFilter, SessionId, SessionMeta, Store, StoreError,
    StoreOptions,
};
use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128;

const START_MS: i64 = 1_771_070_400_000;
const DAY_MS: i64 = 86_400_000;

struct Case {
    folder: tempfile::TempDir,
    clock: Arc<ManualClock>,
    store: Store,
}

fn go_on(_: &RetentionProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

impl Case {
    /// A store with a live session `old`, an imported one `older`, and `new` 100 days later.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::at(START_MS));
        let options = StoreOptions {
            clock: clock.clone(),
            reserve_bytes: 0,
            ..StoreOptions::default()
        };
        let store = Store::open(&folder.path().join("history.db"), options).unwrap();
        let case = Self {
            folder,
            clock,
            store,
        };
        for n in 0..300 {
            case.clock.set(START_MS + n * 1000);
            case.live(
                "old",
                &format!("line {n} \u{0} of the old session, {}", n * 7919),
            );
        }
        let lines: Vec<_> = (0..500)
            .map(|n| Bytes::from(format!(r#"{{"type":"user","n":{n}}}"#)))
            .chain([Bytes::from(r#"{"type":"result","duration_ms":60000}"#)])
            .collect();
        let joins = vec![3, 7];
        let mut file = Vec::new();
        for (sequence, line) in (1..).zip(&lines) {
            file.extend_from_slice(line);
            if !joins.contains(&sequence) && sequence < lines.len() as u64 {
                file.push(b'\n');
            }
        }
        let mut batch = Batch::new(id("older"), lines);
        batch.arrival = Arrival::Historical;
        batch.meta.name = "imported".into();
        batch.import = Some(ImportMark {
            source_path: b"/src/\xff.jsonl".to_vec(),
            relative_path: b"\xff.jsonl".to_vec(),
            taken_bytes: file.len() as u64,
            taken_digest: xxh3_128(&file),
            unterminated: true,
            joins,
        });
        case.store.append(batch).unwrap();
        case.clock.set(START_MS + 100 * DAY_MS);
        case.live("new", "what was just said");
        case
    }

    fn live(&self, session: &str, line: &str) {
        let payload = Bytes::copy_from_slice(line.as_bytes());
        self.store
            .append(Batch::new(id(session), vec![payload]))
            .unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn by_age(&self) -> betcode_storage::capacity::retention::RetentionPlan {
        let policy = RetentionPolicy {
            age_ms_max: Some(90 * DAY_MS),
            ..RetentionPolicy::default()
        };
        self.store.plan_retention(&policy).unwrap()
    }

    fn ids(&self) -> Vec<String> {
        ids(&self.store)
    }
}

fn id(text: &str) -> SessionId {
    text.parse().unwrap()
}

fn ids(store: &Store) -> Vec<String> {
    let sessions = store.sessions(&SessionFilter::default()).unwrap().sessions;
    let mut ids: Vec<_> = sessions.iter().map(|s| s.id.to_string()).collect();
    ids.sort();
    ids
}

fn messages(store: &Store, session: &str) -> Vec<Message> {
    store
        .read(&id(session), ReadRange::all())
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn archive(case: &Case) -> Store {
    Store::open_read_only(&case.path("archive.db"), StoreOptions::default()).unwrap()
}

#[test]
fn without_a_rule_nothing_goes_and_planning_changes_nothing() {
    let case = Case::new();
    let off = case
        .store
        .plan_retention(&RetentionPolicy::default())
        .unwrap();
    assert!(off.removals.is_empty());
    assert_eq!(case.by_age().removals.len(), 2);
    assert_eq!(case.ids(), ["new", "old", "older"]);
}

#[test]
fn what_is_removed_stands_in_the_archive_with_its_times_and_its_source() {
    let case = Case::new();
    let before = [messages(&case.store, "old"), messages(&case.store, "older")];
    let mark = case.store.import_of(&id("older")).unwrap().unwrap().mark;
    let times = case.store.session(&id("old")).unwrap();
    let path = case.path("archive.db");
    let outcome = case
        .store
        .retain(&case.by_age(), Some(&path), &mut go_on)
        .unwrap();
    assert_eq!((outcome.removed.len(), outcome.kept.len()), (2, 0));
    assert_eq!(
        outcome.archive_bytes,
        Some(std::fs::metadata(&path).unwrap().len())
    );
    assert_eq!(case.ids(), ["new"]);
    assert!(
        case.store
            .verify(&mut |_| ControlFlow::Continue(()))
            .unwrap()
            .ok()
    );

    let archive = archive(&case);
    assert_eq!(ids(&archive), ["old", "older"]);
    assert_eq!(
        [messages(&archive, "old"), messages(&archive, "older")],
        before
    );
    assert_eq!(archive.import_of(&id("older")).unwrap().unwrap().mark, mark);
    assert_eq!(archive.session(&id("older")).unwrap().meta.name, "imported");
    let archived = archive.session(&id("old")).unwrap();
    assert_eq!(archived.active_ms, times.active_ms);
    assert_eq!(archive.session(&id("older")).unwrap().active_ms, 60_000);
    assert_eq!(
        (archived.first_time_ms, archived.last_time_ms),
        (times.first_time_ms, times.last_time_ms)
    );
    assert_eq!(
        archive.totals().unwrap().hot_messages,
        0,
        "it is compressed"
    );
    assert!(
        archive
            .verify(&mut |_| ControlFlow::Continue(()))
            .unwrap()
            .ok()
    );
}

#[test]
fn an_archive_that_cannot_be_written_removes_nothing() {
    let case = Case::new();
    let plan = case.by_age();
    // A file where a folder would have to be, a foreign file, and the store itself.
    std::fs::write(case.path("file"), "not a store, and nobody's folder").unwrap();
    for path in [
        case.path("file/archive.db"),
        case.path("file"),
        case.path("history.db"),
    ] {
        assert!(case.store.retain(&plan, Some(&path), &mut go_on).is_err());
        assert_eq!(case.ids(), ["new", "old", "older"], "{}", path.display());
    }
}

/// SQLite deletes a log, and whoever makes room the reserve: an archive there would be lost.
#[test]
fn an_archive_under_a_name_that_belongs_to_the_store_removes_nothing() {
    for suffix in ["-wal", "-shm", "-journal", "-reserve", "-compaction.lock"] {
        let case = Case::new();
        let plan = case.by_age();
        // Before the log has anything in it, and after it was cut, it is an empty file.
        let path = case.path(&format!("history.db{suffix}"));
        let refused = case.store.retain(&plan, Some(&path), &mut go_on);
        let error = refused.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{suffix}: {error}");
        assert_eq!(case.ids(), ["new", "old", "older"], "{suffix}");
    }
}

#[test]
fn an_archive_that_holds_something_else_under_the_same_id_removes_nothing() {
    let case = Case::new();
    let path = case.path("archive.db");
    let other = Store::open(&path, StoreOptions::default()).unwrap();
    let payload = Bytes::from_static(b"somebody else's line");
    other
        .append(Batch::new(id("older"), vec![payload]))
        .unwrap();
    other.close().unwrap();
    let error = case
        .store
        .retain(&case.by_age(), Some(&path), &mut go_on)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert_eq!(case.ids(), ["new", "old", "older"]);
}

#[test]
fn an_archive_with_the_same_messages_of_another_time_or_place_removes_nothing() {
    for (late_ms, directory) in [(1, "/here"), (0, "/there")] {
        let case = Case::new();
        let meta = SessionMeta {
            working_directory: "/here".into(),
            ..SessionMeta::default()
        };
        let said = Batch {
            meta: meta.clone(),
            ..Batch::new(id("said"), vec![Bytes::from_static(b"once")])
        };
        case.clock.set(START_MS);
        case.store.append(said.clone()).unwrap();
        let options = StoreOptions {
            clock: Arc::new(ManualClock::at(START_MS + late_ms)),
            ..StoreOptions::default()
        };
        let path = case.path("archive.db");
        let archive = Store::open(&path, options).unwrap();
        let meta = SessionMeta {
            working_directory: directory.into(),
            ..meta
        };
        archive.append(Batch { meta, ..said }).unwrap();
        archive.close().unwrap();
        case.clock.set(START_MS + 100 * DAY_MS);
        let before = case.ids();
        let refused = case.store.retain(&case.by_age(), Some(&path), &mut go_on);
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid, "{refused}");
        assert!(refused.to_string().contains("session said"), "{refused}");
        assert_eq!(case.ids(), before);
    }
}

#[test]
fn stopped_anywhere_it_loses_nothing_and_the_next_run_finishes() {
    for phase in [
        RetentionPhase::Archiving,
        RetentionPhase::Compacting,
        RetentionPhase::Comparing,
    ] {
        let case = Case::new();
        let before = [messages(&case.store, "old"), messages(&case.store, "older")];
        let path = case.path("archive.db");
        let stopped = case.store.retain(&case.by_age(), Some(&path), &mut |at| {
            if at.phase == phase {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        });
        assert!(matches!(stopped, Err(StoreError::Cancelled)), "{phase:?}");
        assert_eq!(case.ids(), ["new", "old", "older"], "{phase:?}");
        let outcome = case
            .store
            .retain(&case.by_age(), Some(&path), &mut go_on)
            .unwrap();
        assert_eq!(outcome.removed.len(), 2, "{phase:?}");
        let archive = archive(&case);
        assert_eq!(
            [messages(&archive, "old"), messages(&archive, "older")],
            before
        );
    }
}

#[test]
fn stopped_while_removing_it_says_what_went() {
    let case = Case::new();
    let outcome = case
        .store
        .retain(&case.by_age(), None, &mut |at| match at.sessions_done {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        })
        .unwrap();
    assert!(outcome.cancelled);
    assert_eq!((outcome.removed.len(), case.ids().len()), (1, 2));
}

#[test]
fn a_session_that_grew_after_it_was_planned_or_archived_stays() {
    let case = Case::new();
    let plan = case.by_age();
    case.live("old", "said after the plan was made");
    let path = case.path("archive.db");
    let outcome = case
        .store
        .retain(&plan, Some(&path), &mut |at| {
            if at.phase == RetentionPhase::Removing {
                case.live("older", "said after it was archived");
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(outcome.removed.is_empty());
    let kept: Vec<_> = outcome.kept.iter().map(|k| k.session_id.as_str()).collect();
    assert_eq!(kept, ["old", "older"]);
    assert_eq!(case.ids(), ["new", "old", "older"]);
}

#[test]
fn a_session_whose_name_or_source_changed_after_it_was_archived_stays() {
    let case = Case::new();
    let plan = case.by_age();
    let path = case.path("archive.db");
    let mut changed = false;
    let outcome = case
        .store
        .retain(&plan, Some(&path), &mut |at| {
            if at.phase == RetentionPhase::Removing && !std::mem::replace(&mut changed, true) {
                case.store.rename(&id("old"), "named since").unwrap();
                // An import saw the newline that the file's last line had lacked.
                let mut mark = case.store.import_of(&id("older")).unwrap().unwrap().mark;
                mark.unterminated = false;
                mark.taken_bytes += 1;
                let mut batch = Batch::new(id("older"), Vec::new());
                batch.import = Some(mark);
                case.store.append(batch).unwrap();
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(outcome.removed.is_empty(), "{outcome:?}");
    assert_eq!(case.ids(), ["new", "old", "older"]);
}

#[test]
fn a_session_named_between_two_runs_has_its_name_in_the_archive() {
    let case = Case::new();
    let path = case.path("archive.db");
    let stopped = case.store.retain(&case.by_age(), Some(&path), &mut |at| {
        case.store.rename(&id("older"), "named since").unwrap();
        match at.phase {
            RetentionPhase::Comparing => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert!(matches!(stopped, Err(StoreError::Cancelled)));
    // Naming uses a session: so long until it is old again.
    case.clock.set(START_MS + 200 * DAY_MS);
    case.live("new", "said then");
    let outcome = case
        .store
        .retain(&case.by_age(), Some(&path), &mut go_on)
        .unwrap();
    assert_eq!(outcome.removed.len(), 2, "{outcome:?}");
    let session = archive(&case).session(&id("older")).unwrap();
    assert_eq!(session.meta.name, "named since");
}

#[test]
fn a_session_made_anew_or_renamed_after_it_was_planned_stays() {
    let case = Case::new();
    let plan = case.by_age();
    assert!(case.store.delete(&id("old")).unwrap());
    for n in 0..300 {
        case.live("old", &format!("line {n} of another session"));
    }
    case.store.rename(&id("older"), "in use again").unwrap();
    let outcome = case.store.retain(&plan, None, &mut go_on).unwrap();
    assert!(outcome.removed.is_empty(), "{outcome:?}");
    assert_eq!(case.ids(), ["new", "old", "older"]);
}

/// Runs a statement on the file of a case, beside its store.
fn damage(case: &Case, sql: &str) {
    let connection = rusqlite::Connection::open(case.path("history.db")).unwrap();
    assert_eq!(connection.execute(sql, []).unwrap(), 1, "{sql}");
}

/// What keeps the session `old`, and only that one, from being removed.
fn what_keeps_old(case: &Case, archive: Option<&Path>) -> String {
    let done = case.store.retain(&case.by_age(), archive, &mut go_on);
    let done = done.unwrap();
    assert_eq!(case.ids(), ["new", "old"]);
    let removed = done.removed.iter().map(|gone| gone.session_id.as_str());
    assert_eq!(removed.collect::<Vec<_>>(), ["older"]);
    let [kept] = done.kept.as_slice() else {
        panic!("{:?}", done.kept);
    };
    assert_eq!(kept.session_id.as_str(), "old");
    kept.why.to_owned()
}

#[test]
fn a_damaged_session_stays_and_keeps_no_other_from_being_removed() {
    for sql in [
        "UPDATE sessions SET last_sequence = 299 WHERE session_id = 'old'",
        "UPDATE sessions SET raw_bytes = raw_bytes - 1 WHERE session_id = 'old'",
    ] {
        for compacted in [false, true] {
            let case = Case::new();
            if compacted {
                let request = CompactionRequest::manual();
                let go_on = &mut |_: &_| ControlFlow::Continue(());
                case.store.compact(&request, go_on).unwrap();
            }
            damage(&case, sql);
            let why = what_keeps_old(&case, Some(&case.path("archive.db")));
            assert!(why.contains("damaged"), "{sql}: {why}");
        }
    }
}

#[test]
fn a_session_with_a_damaged_message_stays_and_keeps_no_other_from_being_removed() {
    let case = Case::new();
    let older = messages(&case.store, "older");
    damage(
        &case,
        "UPDATE hot_messages SET payload = x'00' WHERE message_key =
            (SELECT (session_key << 32) | 200 FROM sessions WHERE session_id = 'old')",
    );
    let why = what_keeps_old(&case, Some(&case.path("archive.db")));
    assert!(why.contains("damaged"), "{why}");
    assert_eq!(messages(&archive(&case), "older"), older);
}

#[test]
fn a_session_whose_row_has_too_few_messages_is_neither_archived_nor_removed() {
    for archived in [false, true] {
        let case = Case::new();
        damage(
            &case,
            "UPDATE sessions SET last_sequence = 299 WHERE session_id = 'old'",
        );
        let path = case.path("archive.db");
        what_keeps_old(&case, archived.then_some(path.as_path()));
        if archived {
            assert_eq!(ids(&archive(&case)), ["older"]);
        }
    }
}

#[test]
fn an_archive_that_is_refused_is_as_it_was() {
    let case = Case::new();
    let path = case.path("archive.db");
    case.store.rename(&id("older"), "first name").unwrap();
    let policy = RetentionPolicy {
        sessions: vec![id("older")],
        ..RetentionPolicy::default()
    };
    let plan = case.store.plan_retention(&policy).unwrap();
    case.store.retain(&plan, Some(&path), &mut go_on).unwrap();
    let archived = messages(&archive(&case), "older");
    // The same messages, received at another time, and more of them.
    case.clock.set(START_MS + 200 * DAY_MS);
    let payloads = archived.iter().map(|m| m.payload.clone());
    let more = [Bytes::from_static(b"one more")];
    let mut batch = Batch::new(id("older"), payloads.chain(more).collect());
    batch.meta.name = "second name".into();
    case.store.append(batch).unwrap();
    let policy = RetentionPolicy {
        sessions: vec![id("old"), id("older")],
        ..RetentionPolicy::default()
    };
    let plan = case.store.plan_retention(&policy).unwrap();
    let refused = case.store.retain(&plan, Some(&path), &mut go_on);
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid);
    let archive = archive(&case);
    assert_eq!(ids(&archive), ["older"]);
    assert_eq!(messages(&archive, "older"), archived);
    let name = archive.session(&id("older")).unwrap().meta.name;
    assert_eq!(name, "first name");
}
