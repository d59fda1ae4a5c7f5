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
pub(crate) fn before_migration(db: &Db, version: u32) -> Result<()> {
    let mut to = db.beside(&format!(".v{version}.backup"));
    let mut number = 2;
    while to.exists() {
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
    partial.fill(db, 0, &mut |_| ControlFlow::Continue(()))?;
    partial.publish(&to)?;
    tracing::info!(path = %to.display(), version, "copied the older store before migrating it");
    Ok(())
}

/// Whether a copy has all that its store has. Where one cannot be read, it has not.
fn is_as_new_as(copy: &Db, db: &Db) -> bool {
    let read = |db: &Db| {
        let read = HistoryFingerprint::read(&db.connect_reader()?);
        db.named("compare a copy", read)
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
    /// when what was copied is damaged: no copy is kept then, and `verify` says more;
    /// [`StoreError::CutOff`] when the store is, whatever is missing; [`StoreError::Busy`] when another
    /// process copies to the same place; [`StoreError::CopyNotSynced`], when the copy is there; [`StoreError::Cancelled`]. Wrong sums alone
    /// are no such damage.
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
/// [`StoreError::Damaged`] and [`StoreError::CutOff`] when it is: nothing is changed then; [`StoreError::FileExists`] and
/// [`StoreError::StrayLog`] without `replace`; [`StoreError::Busy`] while any process has the
/// store at `to` open: it would go on writing to the file that was moved aside;
/// [`StoreError::CopyNotSynced`], when the store is restored; [`StoreError::LeftAside`]. With any
/// other error everything is as it was.
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
