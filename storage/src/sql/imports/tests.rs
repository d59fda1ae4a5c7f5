//! What is written is found, by either path, and goes without a trace.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::limits::IMPORT_PATH_PARTS_MAX;
use crate::message::SessionMeta;
use crate::options::Durability;
use crate::sql::db::Db;
use crate::sql::{migrate, sessions};

fn any_path() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![3 => Just(b'/'), 4 => b'a'..=b'c', 1 => any::<u8>()];
    prop::collection::vec(byte, 0..24)
}

/// A path, and mostly one of its ends.
fn any_mark() -> impl Strategy<Value = ImportMark> {
    let relative = prop_oneof![
        4 => any::<prop::sample::Index>().prop_map(Ok),
        1 => any_path().prop_map(Err),
    ];
    (any_path(), relative).prop_map(|(source_path, relative)| {
        let relative_path = match relative {
            Ok(at) => source_path[at.index(source_path.len() + 1)..].to_vec(),
            Err(other) => other,
        };
        ImportMark {
            taken_bytes: source_path.len() as u64,
            taken_digest: 7,
            unterminated: relative_path.len() % 2 == 1,
            source_path,
            relative_path,
            joins: Vec::new(),
        }
    })
}

fn store(folder: &tempfile::TempDir) -> Connection {
    let db = Db::at(&folder.path().join("s.db"));
    let mut connection = db.connect_writer(Durability::Full).unwrap();
    migrate::bring_up(&db, &mut connection, 0, |_, _| Ok(())).unwrap();
    connection
}

fn rows_of(connection: &Connection, table: &str) -> i64 {
    let count = format!("SELECT count(*) FROM {table}");
    connection.query_row(&count, [], |row| row.get(0)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_is_found_by_either_path_and_goes_without_a_trace(
        marks in prop::collection::vec((0..8_i64, any_mark()), 1..24),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let connection = store(&folder);
        let ids: Vec<SessionId> = ["a", "b", "c", "aa", "ab", "x", "y", "c-"]
            .into_iter().map(|id| SessionId::new(id.to_owned()).unwrap()).collect();
        for id in &ids {
            sessions::insert(&connection, id, &SessionMeta::default(), 0).unwrap();
        }
        let mut model: BTreeMap<i64, ImportMark> = BTreeMap::new();
        for (session, new) in marks {
            let id = &ids[session as usize];
            write(&connection, SessionKey(session + 1), id, &new, true).unwrap();
            model.insert(session + 1, new);
            prop_assert_eq!(problems(&connection).unwrap(), Vec::<String>::new());
        }
        for (key, mark) in &model {
            let record = of_session(&connection, SessionKey(*key)).unwrap().unwrap();
            prop_assert_eq!(&record.mark, mark);
            let all = |found: Vec<ImportRecord>| -> Vec<ImportMark> {
                found.into_iter().map(|record| record.mark).collect()
            };
            let with = |same: &dyn Fn(&ImportMark) -> bool| -> Vec<ImportMark> {
                model.values().rev().filter(|other| same(other)).cloned().collect()
            };
            prop_assert_eq!(
                all(by_source(&connection, &mark.source_path).unwrap()),
                with(&|other| other.source_path == mark.source_path)
            );
            prop_assert_eq!(
                all(by_relative(&connection, &mark.relative_path).unwrap()),
                with(&|other| other.relative_path == mark.relative_path)
            );
        }
        let origins = origins(&connection).unwrap();
        for origin in origins {
            let mark = model.get(&origin.session.as_i64());
            prop_assert_eq!(origin.source_path, mark.map(|mark| mark.source_path.clone()));
        }
        for key in model.keys() {
            remove(&connection, SessionKey(*key)).unwrap();
            prop_assert_eq!(problems(&connection).unwrap(), Vec::<String>::new());
        }
        for table in ["imports", "import_folders", "import_paths"] {
            prop_assert_eq!(rows_of(&connection, table), 0);
        }
    }
}

#[test]
fn deep_and_hostile_paths_are_found_with_few_lookups() {
    let folder = tempfile::tempdir().unwrap();
    let connection = store(&folder);
    let id = SessionId::new("a".to_owned()).unwrap();
    let key = sessions::insert(&connection, &id, &SessionMeta::default(), 0).unwrap();
    let source_path = b"/a".repeat(40_000);
    for relative in [
        1,
        IMPORT_PATH_PARTS_MAX,
        IMPORT_PATH_PARTS_MAX + 1,
        39_999,
        40_000,
    ] {
        let mark = ImportMark {
            relative_path: source_path[source_path.len() - relative * 2 + 1..].to_vec(),
            source_path: source_path.clone(),
            taken_bytes: 1,
            taken_digest: 2,
            unterminated: false,
            joins: Vec::new(),
        };
        write(&connection, key, &id, &mark, true).unwrap();
        let is_part = relative <= IMPORT_PATH_PARTS_MAX;
        assert_eq!(Paths::of(&mark).relative.is_none(), is_part, "{relative}");
        for found in [
            by_source(&connection, &source_path).unwrap(),
            by_relative(&connection, &mark.relative_path).unwrap(),
        ] {
            assert_eq!(found.len(), 1, "{relative}");
            assert_eq!(found[0].mark, mark);
        }
    }
    assert_eq!(rows_of(&connection, "import_folders"), 1);
}

#[test]
fn folders_whose_numbers_are_the_same_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let connection = store(&folder);
    let paths = Paths {
        folder: b"/ours/",
        file_name: b"f",
        root_bytes: 1,
        relative: None,
    };
    let number = enter_folder(&connection, &paths).unwrap();
    connection
        .execute("UPDATE import_folders SET path = ?1", [b"/theirs/"])
        .unwrap();
    assert_eq!(enter_folder(&connection, &paths).unwrap(), number + 1);
    assert_eq!(enter_folder(&connection, &paths).unwrap(), number + 1);
    assert_eq!(rows_of(&connection, "import_folders"), 2);
}

#[test]
fn a_damaged_row_of_format_1_does_not_keep_the_others_from_being_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let db = Db::at(&folder.path().join("s.db"));
    let mut connection = db.connect_writer(Durability::Full).unwrap();
    connection
        .execute_batch(betcode_schema_sql::MIGRATIONS[0].sql)
        .unwrap();
    for (id, digest_bytes) in [("a", 16), ("b", 15), ("c", 16)] {
        let id = SessionId::new(id.to_owned()).unwrap();
        let key = sessions::insert(&connection, &id, &SessionMeta::default(), 0).unwrap();
        connection
            .execute(
                "INSERT INTO imports VALUES (?1, x'2f78', x'78', 3, zeroblob(?2), 0)",
                params![key.as_i64(), digest_bytes],
            )
            .unwrap();
    }
    let stamp = format!(
        "PRAGMA application_id = {}; PRAGMA user_version = 1",
        betcode_schema_sql::APPLICATION_ID
    );
    connection.execute_batch(&stamp).unwrap();
    migrate::bring_up(&db, &mut connection, 0, |_, _| Ok(())).unwrap();
    let found = by_source(&connection, b"/x").unwrap();
    let ids: Vec<_> = found.iter().map(|record| record.session.as_str()).collect();
    assert_eq!(ids, ["c", "a"]);
    assert!(problems(&connection).unwrap().is_empty());
}

#[test]
fn a_session_whose_folder_is_lost_is_damage_and_can_be_deleted() {
    let folder = tempfile::tempdir().unwrap();
    let connection = store(&folder);
    let id = SessionId::new("a".to_owned()).unwrap();
    let key = sessions::insert(&connection, &id, &SessionMeta::default(), 0).unwrap();
    let mark = ImportMark {
        source_path: b"/p/a.jsonl".to_vec(),
        relative_path: b"a.jsonl".to_vec(),
        taken_bytes: 1,
        taken_digest: 2,
        unterminated: false,
        joins: Vec::new(),
    };
    write(&connection, key, &id, &mark, true).unwrap();
    connection
        .execute("DELETE FROM import_folders", [])
        .unwrap();
    assert!(of_session(&connection, key).is_err());
    remove(&connection, key).unwrap();
    for table in ["imports", "import_folders", "import_paths"] {
        assert_eq!(rows_of(&connection, table), 0, "{table}");
    }
}
