//! A store's surroundings: the file system, the files beside it, and how its own file was created.

use std::fs::File;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::error::Result;
use crate::files;
use crate::open_files;
use crate::sql::db::{AUTO_VACUUM_INCREMENTAL, Db, set_wal};
use crate::sqlite_header::FileBegin;
use crate::store::Store;

/// What is around a database file, whether or not the file itself can be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surroundings {
    /// The network file system that holds it, when it is one.
    pub network_file_system: Option<&'static str>,
    /// Bytes that its file system has left; `None` when it does not report that.
    pub free_bytes: Option<u64>,
    /// Size of the main file, 0 if unknown.
    pub database_bytes: u64,
    /// Size of the write-ahead log, 0 if unknown.
    pub wal_bytes: u64,
    /// Held for a full disk; `None` when no writer has made a reserve yet.
    pub reserve_bytes: Option<u64>,
    /// The file, or its folder, when this user may not write there: a writer needs both.
    pub unwritable: Option<PathBuf>,
    /// The log of a database that is not there.
    pub stray_log: Option<PathBuf>,
    /// Whether the file says of itself that it has a write-ahead log; `None` when it cannot be read,
    /// or this process has it open. SQLite says no to a user who may not write beside it.
    pub write_ahead_log: Option<bool>,
}

impl Surroundings {
    /// Looks around `path`.
    #[must_use]
    pub fn of(path: &Path) -> Self {
        let path = &files::resolve_links(path);
        let db = Db::at(path);
        let folder = files::folder_of(path);
        let reserve = std::fs::metadata(db.beside("-reserve"));
        let unwritable = [path, folder]
            .into_iter()
            .find(|place| place.exists() && !files::is_writable(place));
        let stray_log = match path.exists() {
            true => None,
            false => files::log_with_content(&db),
        };
        Self {
            network_file_system: files::network_file_system(folder),
            free_bytes: files::free_bytes(path),
            database_bytes: db.main_bytes().unwrap_or(0),
            wal_bytes: db.wal_bytes().unwrap_or(0),
            reserve_bytes: reserve.ok().map(|metadata| metadata.len()),
            unwritable: unwritable.map(Path::to_owned),
            stray_log,
            write_ahead_log: open_files::unless_open(path, || says_log(path)).flatten(),
        }
    }
}

/// What the header of a database says of its log.
fn says_log(path: &Path) -> Option<bool> {
    // Asked first: opening a pipe would wait for somebody to write to it.
    if !path.is_file() {
        return None;
    }
    match FileBegin::read(&mut File::open(path).ok()?).ok()? {
        FileBegin::Database(header) => Some(header.has_log),
        _ => None,
    }
}

/// How a store's file was made: what SQLite keeps in it, and cannot change without rewriting it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSettings {
    /// The linked SQLite.
    pub sqlite_version: &'static str,
    /// Format of the store.
    pub format: u32,
    /// Whether free pages can be given back without rewriting the file.
    pub gives_space_back: bool,
    /// Whether readers and a writer go on beside each other.
    pub write_ahead_log: bool,
}

fn has_log(connection: &Connection) -> rusqlite::Result<bool> {
    let mode: String = connection.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    Ok(mode.eq_ignore_ascii_case("wal"))
}

/// Turns the write-ahead log on where there is none: SQLite makes copies without it, so that a
/// restored store would let its readers and its writer wait for each other for ever.
pub(crate) fn turn_on_log(db: &Db, connection: &Connection) {
    let turned_on = || match has_log(connection)? {
        true => Ok(()),
        false => set_wal(connection),
    };
    // Somebody may read it just now, or it cannot be written: the next opening tries again.
    if let Err(error) = turned_on() {
        tracing::warn!(path = %db.path().display(), %error, "the write-ahead log was not turned on");
    }
}

impl Store {
    /// How the file was made.
    ///
    /// # Errors
    /// [`Damaged`](crate::StoreError::Damaged), [`Busy`](crate::StoreError::Busy) or [`Io`](crate::StoreError::Io)
    /// when the file cannot be read.
    pub fn file_settings(&self) -> Result<FileSettings> {
        self.query("read the file's settings", |connection| {
            let auto_vacuum: i64 =
                connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0))?;
            let format: u32 =
                connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
            Ok(FileSettings {
                sqlite_version: rusqlite::version(),
                format,
                gives_space_back: auto_vacuum == AUTO_VACUUM_INCREMENTAL,
                write_ahead_log: has_log(connection)?,
            })
        })
    }
}
