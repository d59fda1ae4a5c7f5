//! Stores of formats 1 and 2, as builds of before formats 2 and 3 made them, and what they hold.
//!
//! The one of format 2 has six deeply compacted transcripts, of which one has a title, and a session `live` that is
//! not compacted. The sessions of the one of format 1 were imported from three folders below `/home/dev/sessions`: transcripts and those of
//! sub-agents, of which two have the same name; a name that is not UTF-8; a file reached by a symbolic
//! link, whose relative path is no part of its path; one taken in three parts, torn each time; and
//! two of the same relative path from different folders.

use std::fs;
use std::path::{Path, PathBuf};

use betcode_storage::{ImportMark, Message, ReadRange, Session, SessionFilter, Store};
use rusqlite::{Connection, OpenFlags};

use crate::history::{assert_sound, id, options};

const FORMAT_1: &[u8] = include_bytes!("../fixtures/format-1.db.zst");

/// Puts the store at `path`.
pub fn unpack_format_1(path: &Path) {
    fs::write(path, zstd::decode_all(FORMAT_1).unwrap()).unwrap();
}

const FORMAT_2: &[u8] = include_bytes!("../fixtures/format-2.db.zst");

/// Puts the store at `path`.
pub fn unpack_format_2(path: &Path) {
    fs::write(path, zstd::decode_all(FORMAT_2).unwrap()).unwrap();
}

/// `PRAGMA user_version` of the database at `path`, which nobody has open.
#[must_use]
pub fn format_of(path: &Path) -> u32 {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap()
}

/// What the tables of format 1 say of each imported session, read without the engine.
#[must_use]
pub fn imports_of_format_1(path: &Path) -> Vec<(String, ImportMark)> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE).unwrap();
    let joins = |key: i64| -> Vec<u64> {
        connection
            .prepare("SELECT sequence FROM joins WHERE session_key = ?1 ORDER BY sequence")
            .unwrap()
            .query_map([key], |row| row.get(0))
            .unwrap()
            .map(|sequence: rusqlite::Result<i64>| sequence.unwrap().cast_unsigned())
            .collect()
    };
    connection
        .prepare("SELECT * FROM imports JOIN sessions USING (session_key) ORDER BY session_id")
        .unwrap()
        .query_map([], |row| {
            let mark = ImportMark {
                source_path: row.get("source_path")?,
                relative_path: row.get("relative_path")?,
                taken_bytes: row.get::<_, i64>("taken_bytes")?.cast_unsigned(),
                taken_digest: u128::from_be_bytes(row.get("taken_digest")?),
                unterminated: row.get("unterminated")?,
                joins: joins(row.get("session_key")?),
            };
            Ok((row.get("session_id")?, mark))
        })
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap()
}

/// All that a store holds.
#[derive(Debug, PartialEq)]
pub struct Holdings {
    sessions: Vec<Session>,
    messages: Vec<Vec<Message>>,
    imports: Vec<(String, ImportMark)>,
}

impl Holdings {
    /// Reads it, and asserts that the store is sound and finds each import by its paths.
    #[must_use]
    pub fn of(store: &Store) -> Self {
        assert_sound(store);
        let mut sessions = store.sessions(&SessionFilter::default()).unwrap().sessions;
        sessions.sort_by(|a, b| a.id.as_str().cmp(b.id.as_str()));
        let mut messages = Vec::new();
        let mut imports = Vec::new();
        for session in &mut sessions {
            // Compaction may have gone on meanwhile.
            (session.hot_messages, session.hot_bytes) = (0, 0);
            (session.segments, session.segment_bytes) = (0, 0);
            let replay = store.read(&session.id, ReadRange::all()).unwrap();
            messages.push(replay.map(Result::unwrap).collect());
            if let Some(record) = store.import_of(&session.id).unwrap() {
                let by_source = store
                    .imports_by_source_path(&record.mark.source_path)
                    .unwrap();
                let by_relative = store
                    .imports_by_relative_path(&record.mark.relative_path)
                    .unwrap();
                assert!(by_source.contains(&record), "{record:?}");
                assert!(by_relative.contains(&record), "{record:?}");
                imports.push((session.id.to_string(), record.mark));
            }
        }
        Self {
            sessions,
            messages,
            imports,
        }
    }

    /// Where the sessions come from.
    #[must_use]
    pub fn imports(&self) -> &[(String, ImportMark)] {
        &self.imports
    }
}

/// Opens the store of format 1 at `path`, or what an interrupted migration left of it, and asserts
/// that it is brought to the current format, with a copy of the old one beside it, and with
/// nothing lost.
pub fn assert_migrates_whole(path: &Path) {
    let before = holdings_as_unpacked(unpack_format_1);
    let store = Store::open(path, options()).unwrap();
    assert_eq!(Holdings::of(&store), before);
    // It goes on: what goes takes along what it was found by.
    for (session, _) in &before.imports {
        assert!(store.delete(&id(session)).unwrap());
    }
    assert_sound(&store);
    store.close().unwrap();
    assert_eq!(format_of(path), current_format());
    let backup = backup_of(path, 1);
    assert_eq!(format_of(&backup), 1);
    assert_eq!(imports_of_format_1(&backup), before.imports);
    let connection = Connection::open(path).unwrap();
    for table in ["imports", "import_folders", "import_paths", "joins"] {
        let count = format!("SELECT count(*) FROM {table}");
        let rows: i64 = connection.query_row(&count, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
}

/// As [`assert_migrates_whole`], of the store of format 2.
pub fn assert_format_2_migrates_whole(path: &Path) {
    let before = holdings_as_unpacked(unpack_format_2);
    let store = Store::open(path, options()).unwrap();
    assert_eq!(Holdings::of(&store), before);
    store.close().unwrap();
    assert_eq!(format_of(path), current_format());
    let backup = backup_of(path, 2);
    assert_eq!(format_of(&backup), 2);
    let copy = Store::open_read_only(&backup, options()).unwrap();
    assert_eq!(Holdings::of(&copy), before);
}

/// What a store holds that nobody has opened for writing yet.
fn holdings_as_unpacked(unpack: fn(&Path)) -> Holdings {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    unpack(&path);
    let holdings = Holdings::of(&Store::open_read_only(&path, options()).unwrap());
    if format_of(&path) == 1 {
        assert_eq!(holdings.imports, imports_of_format_1(&path));
    }
    holdings
}

/// The copy that was made of the store at `path` before it was migrated from `format`.
fn backup_of(path: &Path, format: u32) -> PathBuf {
    let mut backup = path.as_os_str().to_owned();
    backup.push(format!(".v{format}.backup"));
    PathBuf::from(backup)
}

/// The format that new stores have.
#[must_use]
pub fn current_format() -> u32 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("history.db");
    Store::open(&path, options()).unwrap().close().unwrap();
    format_of(&path)
}
