//! Copies of a store: before a migration, backups during writing, and restores.

mod partial;
mod place;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use partial::Partial;
use place::{ExclusiveClaim, MovedAside, busy};

use crate::error::{Argument, Held, Holder, Result, StoreError};
use crate::files::{self, refuse_new_name, refuse_stray_log};
use crate::open_files;
use crate::options::StoreOptions;
use crate::sql::db::Db;
use crate::sql::totals::HistoryFingerprint;
use crate::store::Store;
use crate::verify::{VerifyProgress, VerifyReport};

/// Refuses a place where a file exists, or where a log waits for a database that is gone: the
/// next one that opens the copy would read it into it.
fn refuse_taken(to: &Path) -> Result<()> {
    if to.exists() {
        return Err(StoreError::FileExists {
            path: to.to_owned(),
        });
    }
    // Asked before anything is made: the folder of `new/x` is made, and `new/` has no name in it.
    let is_folder = to.as_os_str().as_encoded_bytes().ends_with(b"/");
    if is_folder || to.file_name().is_none() {
        return Err(StoreError::InvalidArgument {
            what: Argument::CopyPath,
            why: format!("{:?} names no file", to.display().to_string()),
        });
    }
    refuse_new_name(to)?;
    refuse_stray_log(&Db::at(to))
}

/// Copies an older store to `<file>.v<version>.backup` (`.v<version>-2.backup`, …) before it is
/// migrated. A copy from an earlier attempt will do if nothing was written since.
///
/// Damage is copied as it is: a store that has some goes on, in this format as in the older one.
pub(crate) fn before_migration(db: &Db, version: u32) -> Result<()> {
    let mut to = db.beside(&format!(".v{version}.backup"));
    let mut number = 2;
    // Also of a link that leads nowhere, to which nothing can be renamed.
    while to.symlink_metadata().is_ok() {
        if is_as_new_as(&Db::at(&to), db) {
            return Ok(());
        }
        to = db.beside(&format!(".v{version}-{number}.backup"));
        number += 1;
    }
    let partial = Partial::begin(&to)?;
    // Another process that migrates it may have finished its copy just before this one began.
    if to.exists() {
        drop(partial);
        return before_migration(db, version);
    }
    tracing::warn!(path = %db.path().display(), copy = %to.display(), version,
        "the store has an older format: it is copied, and then migrated");
    copy_as_it_is(&partial, db).map_err(|error| explain_full_disk(error, &to, version))?;
    // Another process has copied and migrated it meanwhile.
    if partial.format()? != version {
        return Ok(());
    }
    partial.publish(&to)
}

/// Copies a store with what is damaged in it.
fn copy_as_it_is(partial: &Partial, db: &Db) -> Result<()> {
    match partial.fill(db, 0, &mut |_| ControlFlow::Continue(())) {
        Err(StoreError::Damaged { what, .. }) => {
            tracing::warn!(what, "the store is damaged: it is copied page by page");
            partial.fill_by_pages(db)
        }
        filled => filled,
    }
}

/// Says what the space is for, and what can be done where there is none.
fn explain_full_disk(error: StoreError, to: &Path, version: u32) -> StoreError {
    match error {
        StoreError::DiskFull { path, why } => StoreError::DiskFull {
            path,
            why: format!(
                "{why}; a store of format {version} is copied before it is migrated: a backup on another disk, to \
                 which {} is a link, will do as well",
                to.display()
            ),
        },
        error => error,
    }
}

/// Whether a copy has all that its store has. Where one cannot be read, it has not.
fn is_as_new_as(copy: &Db, db: &Db) -> bool {
    let read = |db: &Db| {
        let read = HistoryFingerprint::read(&db.connect_reader()?);
        db.context("compare a copy", read)
    };
    read(copy).is_ok_and(|then| read(db).is_ok_and(|now| then == now))
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
    /// Where a restore moved the store that was there before.
    pub moved_aside: Option<PathBuf>,
}

type Observer<'a> = &'a mut dyn FnMut(&VerifyProgress) -> ControlFlow<()>;

impl Store {
    /// Copies the store to a new file at `to`, as of one moment, while others write. The copy is
    /// compact, and read back in full before it gets its name.
    ///
    /// # Errors
    /// [`StoreError::FileExists`]; [`StoreError::StrayLog`] when the log of another database
    /// stands beside `to`; [`StoreError::DiskFull`], which names the copy; [`StoreError::Damaged`]
    /// when what was copied is damaged (wrong sums alone are not): no copy is kept then, and `verify` says more;
    /// [`StoreError::CutOff`] when the store's file is cut off, whatever is missing; [`StoreError::Busy`] when
    /// another process copies to the same place; [`StoreError::CopyNotSynced`], after which the copy is there all
    /// the same; [`StoreError::Cancelled`].
    ///
    /// # Examples
    /// ```
    /// # use betcode_storage::{Store, StoreOptions, restore};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("history.db");
    /// # use std::ops::ControlFlow;
    /// # let store = Store::open(&path, StoreOptions::default())?;
    /// let copy = folder.path().join("copy.db");
    /// let made = store.backup(&copy, &mut |_| ControlFlow::Continue(()))?;
    /// assert_eq!(made.messages, store.totals()?.messages);
    ///
    /// let elsewhere = folder.path().join("restored.db");
    /// restore(&copy, &elsewhere, false, &mut |_| ControlFlow::Continue(()))?;
    /// assert!(Store::open_read_only(&elsewhere, StoreOptions::default()).is_ok());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn backup(&self, to: &Path, observe: Observer<'_>) -> Result<BackupReport> {
        refuse_taken(to)?;
        self.refuse_cut_off()?;
        let db = &self.inner.db;
        let partial = Partial::begin(to)?;
        partial.fill(db, self.totals()?.messages, observe)?;
        let checked = partial.check(observe)?;
        partial.publish(to)?;
        Ok(report(to, &checked, None))
    }

    /// The missing pages may hold no message, but a copy must not hide the damage.
    fn refuse_cut_off(&self) -> Result<()> {
        match self.inner.cut_off {
            Some(cut_off) => Err(cut_off.error(self.path())),
            None => Ok(()),
        }
    }
}

/// Puts a verified copy of the backup at `to`, where a store may stand only with `replace`: that
/// one, or what is left of it, is moved aside, not deleted.
///
/// # Errors
/// [`StoreError::Missing`], [`StoreError::Foreign`] and [`StoreError::Newer`] for the backup;
/// [`StoreError::Damaged`] and [`StoreError::CutOff`] when the backup is; [`StoreError::FileExists`] and
/// [`StoreError::StrayLog`] without `replace`; [`StoreError::Busy`] while any process has the
/// store at `to` open, because it would go on writing to the file that was moved aside. After these, and any
/// error not named here, everything is as it was. After [`StoreError::CopyNotSynced`] the store is restored all the
/// same, and [`StoreError::LeftAside`] says where the replaced store is.
pub fn restore(
    backup: &Path,
    to: &Path,
    replace: bool,
    observe: Observer<'_>,
) -> Result<BackupReport> {
    let to = &files::resolve_links(to);
    files::refuse_name_of_log(to)?;
    if files::is_same_file(backup, to) {
        return Err(StoreError::InvalidArgument {
            what: Argument::Backup,
            why: format!("{} is the database itself", backup.display()),
        });
    }
    // Checked first, before anything is moved for a file that is not a backup.
    let source = Store::open_read_only(backup, StoreOptions::default())?;
    source.refuse_cut_off()?;
    if !replace {
        refuse_taken(to)?;
    }
    if open_files::is_open(to) {
        return Err(busy(to, Held::Database, Holder::ThisProcess));
    }
    drop(ExclusiveClaim::claim(to, Held::Database)?);
    let db = &source.inner.db;
    let partial = Partial::begin(to)?;
    partial.fill(db, source.totals()?.messages, observe)?;
    let checked = partial.check(observe)?;
    partial.check_place(&partial.path)?;
    let target = Db::at(to);
    let claimed = ExclusiveClaim::claim(to, Held::Database)?;
    let aside = match replace {
        true => MovedAside::of(&target)?,
        false => MovedAside::default(),
    };
    match partial.publish(to) {
        Ok(()) => {}
        Err(StoreError::CopyNotSynced { copy, source, .. }) => {
            return Err(StoreError::CopyNotSynced {
                copy,
                moved_aside: aside.into_path(),
                source,
            });
        }
        Err(error) => return Err(aside.put_back(error)),
    }
    drop(claimed);
    Ok(report(to, &checked, aside.into_path()))
}

fn report(to: &Path, checked: &VerifyReport, moved_aside: Option<PathBuf>) -> BackupReport {
    BackupReport {
        // The copy exists and was checked; only its size is unknown.
        bytes: Db::at(to).main_bytes().unwrap_or(0),
        sessions: checked.sessions,
        messages: checked.messages,
        raw_bytes: checked.raw_bytes,
        moved_aside,
    }
}

#[cfg(test)]
mod tests {
    use betcode_schema_sql::SCHEMA_VERSION;

    use super::*;

    #[test]
    fn a_store_that_another_process_has_just_migrated_is_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("h.db");
        let options = StoreOptions {
            reserve_bytes: 0,
            ..StoreOptions::default()
        };
        Store::open(&path, options).unwrap().close().unwrap();
        before_migration(&Db::at(&path), SCHEMA_VERSION - 1).unwrap();
        let names = std::fs::read_dir(folder.path()).unwrap();
        let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        assert!(
            !names
                .iter()
                .any(|name| name.to_string_lossy().contains("backup")),
            "{names:?}"
        );
    }
}
