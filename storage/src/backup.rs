//! Copies of a store: before a migration, on request while writing goes on, and back.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::error::{Result, StoreError};
use crate::files::{create_private, io_error};
use crate::options::StoreOptions;
use crate::sql::db::Db;
use crate::store::Store;
use crate::verify::{VerifyProgress, VerifyReport};

/// Copies the store into a new, compact file at `to`, while others write. The file appears under
/// its name only when it is whole and on disk.
fn copy_into(db: &Db, connection: &Connection, to: &Path) -> Result<()> {
    if to.exists() {
        return Err(StoreError::FileExists {
            path: to.to_owned(),
        });
    }
    copy_to_partial(db, connection, &partial_name(to))
}

fn copy_to_partial(db: &Db, connection: &Connection, partial: &Path) -> Result<()> {
    // What a killed copy left; nobody else uses this name.
    remove_all(partial);
    create_private(partial)?;
    let copied = partial
        .to_str()
        .ok_or_else(|| StoreError::InvalidArgument {
            what: "the name of the copy",
            why: format!("{} is not UTF-8, which SQLite needs", partial.display()),
        })
        .and_then(|name| db.named("copy", connection.execute("VACUUM INTO ?1", [name])))
        .and_then(|_| {
            std::fs::File::open(partial)
                .and_then(|file| file.sync_all())
                .map_err(io_error("sync", partial))
        });
    if copied.is_err() {
        remove_all(partial);
    }
    copied
}

fn partial_name(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Gives a finished copy its name. Crash point: before the rename there is only the partial file.
fn publish(to: &Path) -> Result<()> {
    std::fs::rename(partial_name(to), to).map_err(io_error("rename the copy to", to))?;
    if let Some(folder) = to.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error("sync the folder", folder))?;
    }
    Ok(())
}

/// Copies an older store to `<file>.v<version>.backup` before it is migrated. A copy from an
/// earlier attempt is kept: it is the older one.
pub(crate) fn before_migration(db: &Db, connection: &Connection, version: u32) -> Result<()> {
    let to = db.beside(&format!(".v{version}.backup"));
    if to.exists() {
        return Ok(());
    }
    copy_into(db, connection, &to)?;
    publish(&to)?;
    tracing::info!(path = %to.display(), version, "copied the older store before migrating it");
    Ok(())
}

/// A finished copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    /// Size of the copy.
    pub bytes: u64,
    /// Sessions in it.
    pub sessions: u64,
    /// Messages in it, all read back and found intact.
    pub messages: u64,
    /// Their payload bytes.
    pub raw_bytes: u64,
    /// Where a restore put the store that stood in its place.
    pub moved_aside: Option<PathBuf>,
}

type Observer<'a> = &'a mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>;

impl Store {
    /// Copies the store to a new file at `to`, as of one moment, while others write. The copy is
    /// compact, and read back in full before it gets its name.
    ///
    /// # Errors
    /// [`StoreError::FileExists`]; [`StoreError::DiskFull`]; [`StoreError::Damaged`] when what was
    /// copied is damaged: no copy is kept then, and `verify` says more; [`StoreError::Cancelled`].
    pub fn backup(&self, to: &Path, observe: Observer<'_>) -> Result<BackupReport> {
        let connection = self.inner.db.connect_reader()?;
        // VACUUM INTO writes only the new file, but SQLite counts it as writing.
        let db = &self.inner.db;
        db.named("copy", connection.pragma_update(None, "query_only", false))?;
        copy_into(db, &connection, to)?;
        drop(connection);
        let checked = check(&partial_name(to), observe);
        finish(to, checked)
    }
}

/// Puts a verified copy of the backup at `to`, where a store may stand only with `replace`: that
/// one is moved aside, not deleted.
///
/// No process may have the store at `to` open.
///
/// # Errors
/// [`StoreError::Missing`], [`StoreError::Foreign`] and [`StoreError::Newer`] for the backup;
/// [`StoreError::Damaged`] when it is: nothing is changed then; [`StoreError::FileExists`]
/// without `replace`.
pub fn restore(
    backup: &Path,
    to: &Path,
    replace: bool,
    observe: Observer<'_>,
) -> Result<BackupReport> {
    if to.exists() && !replace {
        return Err(StoreError::FileExists {
            path: to.to_owned(),
        });
    }
    let source = Store::open_read_only(backup, StoreOptions::default())?;
    let connection = source.inner.db.connect_reader()?;
    let db = &source.inner.db;
    db.named("copy", connection.pragma_update(None, "query_only", false))?;
    let target = Db::at(to);
    let partial = partial_name(to);
    copy_to_partial(db, &connection, &partial)?;
    drop(connection);
    let checked = check(&partial, observe)?;
    let moved_aside = if to.exists() {
        Some(move_aside(&target)?)
    } else {
        None
    };
    Ok(BackupReport {
        moved_aside,
        ..finish(to, Ok(checked))?
    })
}

/// Reads a copy back in full.
fn check(copy: &Path, observe: Observer<'_>) -> Result<VerifyReport> {
    let checked = Store::open_read_only(copy, StoreOptions::default())
        .and_then(|store| store.verify(observe))
        .and_then(|report| match report.problems.first() {
            None => Ok(report),
            Some(problem) => Err(StoreError::damaged(
                problem.session.as_deref(),
                format!("{} (found in the copy, which was not kept)", problem.what),
            )),
        });
    if checked.is_err() {
        remove_all(copy);
    }
    checked
}

fn finish(to: &Path, checked: Result<VerifyReport>) -> Result<BackupReport> {
    let report = checked?;
    // Reading a copy leaves the empty files of its log beside it.
    let partial = Db::at(&partial_name(to));
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(partial.beside(suffix));
    }
    publish(to)?;
    Ok(BackupReport {
        bytes: Db::at(to).main_bytes(),
        sessions: report.sessions,
        messages: report.messages,
        raw_bytes: report.raw_bytes,
        moved_aside: None,
    })
}

fn remove_all(path: &Path) {
    let db = Db::at(path);
    for file in [path.to_owned(), db.beside("-wal"), db.beside("-shm")] {
        let _ = std::fs::remove_file(file);
    }
}

/// Moves a store and its log to `<file>.replaced` (`.replaced-2`, …). The log belongs to the main
/// file: neither means anything without the other.
fn move_aside(db: &Db) -> Result<PathBuf> {
    let mut aside = db.beside(".replaced");
    let mut number = 2;
    while aside.exists() {
        aside = db.beside(&format!(".replaced-{number}"));
        number += 1;
    }
    // The log first: a main file without its log would be an older state that looks whole, so a
    // crash in between must leave the main file where it can be found with its log restored.
    let beside_aside = Db::at(&aside);
    for suffix in ["-wal", "-shm"] {
        let from = db.beside(suffix);
        if from.exists() {
            std::fs::rename(&from, beside_aside.beside(suffix))
                .map_err(io_error("move aside", &from))?;
        }
    }
    std::fs::rename(db.path(), &aside).map_err(io_error("move aside", db.path()))?;
    Ok(aside)
}
