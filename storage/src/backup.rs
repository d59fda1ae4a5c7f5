//! Copies of a store: before a migration, on request while writing goes on, and back.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::ops::{ControlFlow, RangeInclusive};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use rusqlite::Connection;
use rusqlite::types::{ToSqlOutput, ValueRef};
use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, fcntl_lock, renameat_with};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk};

use crate::capacity::text;
use crate::error::{Result, StoreError};
use crate::files::{
    self, PARTIAL, create_private_new, free_bytes, io_error, refuse_new_name, refuse_stray_log,
};
use crate::limits::PAGE_BYTES;
use crate::open_files::{self, OpenFile};
use crate::options::StoreOptions;
use crate::sql;
use crate::sql::db::{Db, name_for_sqlite};
use crate::store::Store;
use crate::surroundings::AUTO_VACUUM_INCREMENTAL;
use crate::verify::{COUNTER, VerifyProgress, VerifyReport};

/// How often a lock is tried for that its holder took away at the same time.
const PLACE_LOCK_TRIES: u32 = 100;
/// How often a copy under way asks whether to go on.
const COPY_POLL: Duration = Duration::from_millis(100);
/// What may stand beside a main file and belongs to it.
const LOGS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// A copy under another name until it is whole and checked. Dropped before, it leaves nothing.
///
/// A lock keeps others from beginning a copy to the same place: SQLite's is held only while it
/// writes. Not everybody asks for it, and not every file system has locks, so a copy knows its file,
/// and is none any more when another stands in its place.
struct Partial {
    path: PathBuf,
    file: OpenFile,
    /// Held open, for the number of a file that is gone may be another's.
    held: Option<File>,
    /// Opened at the beginning: what may not be opened fails before anything is moved.
    folder: File,
    /// Given up last, when nothing of the copy is left under this name.
    _lock: PlaceLock,
}

impl Partial {
    /// Begins a copy that is to be `to`.
    fn begin(to: &Path) -> Result<Self> {
        let path = Db::at(to).beside(PARTIAL);
        if open_files::is_open(&path) {
            return Err(busy(&path, THE_COPY, "this process".into()));
        }
        let lock = PlaceLock::take(&path)?;
        // Either an earlier build is at it, or a killed copy left it.
        drop(Unused::claim(&path, THE_COPY)?);
        refuse_not_a_copy(&path)?;
        remove_all(&path);
        let Some(new) = create_private_new(&path)? else {
            return Err(busy(&path, THE_COPY, "another process".into()));
        };
        let folder = File::open(folder_of(&path)).map_err(|error| {
            remove_all(&path);
            io_error("open the folder", folder_of(&path))(error)
        })?;
        Ok(Self {
            path,
            file: OpenFile::note_new(&new),
            held: Some(new),
            folder,
            _lock: lock,
        })
    }

    /// Copies the store, which has `messages`, as of one moment, while others write.
    fn fill(&self, db: &Db, messages: u64, observe: Observer<'_>) -> Result<()> {
        let connection = db.connect_reader()?;
        // VACUUM INTO writes only the new file, but SQLite counts it as writing.
        db.named("copy", connection.pragma_update(None, "query_only", false))?;
        self.check_room(db, &connection)?;
        let auto_vacuum: i64 = db.named(
            "copy",
            connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0)),
        )?;
        if auto_vacuum != AUTO_VACUUM_INCREMENTAL {
            // Has effect on the copy only.
            let set = connection.pragma_update(None, "auto_vacuum", AUTO_VACUUM_INCREMENTAL);
            db.named("copy", set)?;
        }
        let copied = vacuum_into(connection, &name_for_sqlite(&self.path), &mut || {
            observe(&VerifyProgress {
                messages_done: 0,
                messages,
                raw_bytes_done: 0,
            })
        })?;
        db.named("copy", copied).map_err(|error| match error {
            // It is the disk of the copy that is full, not that of the store.
            StoreError::DiskFull { why, .. } => StoreError::DiskFull {
                path: self.path.clone(),
                why,
            },
            other => other,
        })?;
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .map_err(io_error("sync", &self.path))
    }

    /// Refuses at once what could only fail after minutes.
    fn check_room(&self, db: &Db, connection: &Connection) -> Result<()> {
        let pages = db.named("count pages", sql::space::pages(connection))?;
        let free = db.named("count free pages", sql::space::free_pages(connection))?;
        let bytes = pages.saturating_sub(free) * u64::from(PAGE_BYTES);
        match free_bytes(&self.path) {
            Some(room) if room < bytes => Err(StoreError::DiskFull {
                path: self.path.clone(),
                why: format!(
                    "the copy takes about {}, and {} are free there",
                    text::bytes(bytes),
                    text::bytes(room)
                ),
            }),
            _ => Ok(()),
        }
    }

    /// Reads the copy back in full.
    fn check(&self, observe: Observer<'_>) -> Result<VerifyReport> {
        let report = Store::open_read_only(&self.path, StoreOptions::default())?.verify(observe)?;
        let (sums, damage): (Vec<_>, Vec<_>) =
            report.problems.iter().partition(|p| p.kind == COUNTER);
        for sum in sums {
            // All messages are there. Nothing puts a sum right, and who has damage needs copies most.
            tracing::warn!(path = %self.path.display(), "{} (in the copy as in the store)", sum.what);
        }
        match damage.first() {
            None => Ok(report),
            Some(problem) => Err(StoreError::damaged(
                problem.session.as_deref(),
                format!("{} (found in the copy, which was not kept)", problem.what),
            )),
        }
    }

    /// Refuses to go on when another copy stands at `path`.
    fn check_place(&self, path: &Path) -> Result<()> {
        if self.file.is_at(path) {
            Ok(())
        } else {
            Err(busy(&self.path, THE_COPY, "another process".into()))
        }
    }

    /// Gives the copy its name, at which nothing may stand. Crash point: before the rename there
    /// is only the partial file. It has its name when this fails with
    /// [`StoreError::CopyNotSynced`], and else has not.
    fn publish(mut self, to: &Path) -> Result<()> {
        self.check_place(&self.path)?;
        // Now, for closing it later could take the locks of who opens the copy under its name.
        self.held = None;
        // Reading a copy leaves the empty files of its log beside it.
        for suffix in LOGS {
            let _ = std::fs::remove_file(Db::at(&self.path).beside(suffix));
        }
        rename_to_new(&self.path, to)?;
        if let Err(taken) = self.check_place(to) {
            // Somebody else's, just begun, came between.
            rename_to_new(to, &self.path)?;
            return Err(taken);
        }
        self.folder.sync_all().map_err(|error| {
            let source = io_error("sync the folder", folder_of(to))(error);
            StoreError::CopyNotSynced {
                copy: to.to_owned(),
                moved_aside: None,
                source: Box::new(source),
            }
        })
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // After publishing there is nothing of this name, or what is somebody else's.
        if self.file.is_at(&self.path) {
            remove_all(&self.path);
        }
    }
}

/// Held from before a copy is begun until it has its name, or is gone, against other processes and
/// other threads of this one: a lock on `<copy>.partial-lock`.
///
/// The lock is not on the copy itself: network file systems make one lock of this and SQLite's.
struct PlaceLock {
    path: PathBuf,
    file: File,
}

impl PlaceLock {
    fn take(partial: &Path) -> Result<Self> {
        let path = Db::at(partial).beside("-lock");
        for _ in 0..PLACE_LOCK_TRIES {
            files::create_private(&path)?;
            let opened = OpenOptions::new()
                .write(true)
                .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32)
                .open(&path);
            let file = match opened {
                Ok(file) => file,
                // Whoever had it is done, and has taken it away.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(io_error("open", &path)(error)),
            };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => break,
                // Where there are no locks, it goes on without.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            let lock = Self {
                path: path.clone(),
                file,
            };
            if lock.is_in_place() {
                return Ok(lock);
            }
        }
        Err(busy(partial, THE_COPY, "another process".into()))
    }

    /// Whether it is this file that others find, and not one that was taken away since.
    fn is_in_place(&self) -> bool {
        let there = std::fs::symlink_metadata(&self.path);
        let held = self.file.metadata();
        let same = |a: Metadata, b: Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
        there.is_ok_and(|there| held.is_ok_and(|held| same(there, held)))
    }
}

impl Drop for PlaceLock {
    fn drop(&mut self) {
        // What has something in it is no lock of ours.
        let is_empty = self.file.metadata().is_ok_and(|held| held.len() == 0);
        if is_empty && self.is_in_place() {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Runs SQLite's copy on a thread of its own, so that it can be ended: it may take minutes.
fn vacuum_into(
    connection: Connection,
    to: &Path,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<rusqlite::Result<usize>> {
    let interrupt = connection.get_interrupt_handle();
    std::thread::scope(|scope| {
        let (ended, end) = mpsc::channel::<()>();
        let copying = scope.spawn(move || {
            // As the system names it: SQLite opens what it is given, be it UTF-8 or not.
            let name = ToSqlOutput::Borrowed(ValueRef::Text(to.as_os_str().as_bytes()));
            let copied = connection.execute("VACUUM INTO ?1", [name]);
            drop(ended);
            copied
        });
        let mut cancelled = false;
        while end.recv_timeout(COPY_POLL) == Err(RecvTimeoutError::Timeout) {
            cancelled |= go_on().is_break();
            if cancelled {
                interrupt.interrupt();
            }
        }
        match copying.join() {
            Ok(_) if cancelled => Err(StoreError::Cancelled),
            Ok(copied) => Ok(copied),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

/// Renames to a name that nobody has: what appeared there meanwhile is not replaced.
fn rename_to_new(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(StoreError::FileExists {
            path: to.to_owned(),
        }),
        // Not every file system can.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {
            std::fs::rename(from, to).map_err(io_error("rename the copy to", to))
        }
        Err(error) => Err(io_error("rename the copy to", to)(error.into())),
    }
}

/// Refuses a place where something stands, or where a log waits for a database that is gone: the
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
            what: "the name of the copy",
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
    let state = |db: &Db| db.named("compare a copy", sql::totals::state(&db.connect_reader()?));
    state(copy).is_ok_and(|then| state(db).is_ok_and(|now| then == now))
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
    /// [`StoreError::FileExists`]; [`StoreError::StrayLog`] when the log of another database
    /// stands beside `to`; [`StoreError::DiskFull`], which names the copy; [`StoreError::Damaged`]
    /// when what was copied is damaged: no copy is kept then, and `verify` says more;
    /// [`StoreError::Busy`] when another process copies to the same place;
    /// [`StoreError::CopyNotSynced`], when the copy is there; [`StoreError::Cancelled`]. Wrong sums alone
    /// are no such damage.
    pub fn backup(&self, to: &Path, observe: Observer<'_>) -> Result<BackupReport> {
        refuse_taken(to)?;
        let db = &self.inner.db;
        let partial = Partial::begin(to)?;
        partial.fill(db, self.totals()?.messages, observe)?;
        let checked = partial.check(observe)?;
        partial.publish(to)?;
        Ok(report(to, &checked, None))
    }
}

/// Puts a verified copy of the backup at `to`, where a store may stand only with `replace`: that
/// one, or what is left of it, is moved aside, not deleted.
///
/// # Errors
/// [`StoreError::Missing`], [`StoreError::Foreign`] and [`StoreError::Newer`] for the backup;
/// [`StoreError::Damaged`] when it is: nothing is changed then; [`StoreError::FileExists`] and
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
    let to = &files::behind_links(to);
    files::refuse_name_of_log(to)?;
    if !replace {
        refuse_taken(to)?;
    }
    if files::is_same_file(backup, to) {
        return Err(StoreError::InvalidArgument {
            what: "the backup",
            why: format!("{} is the database itself", backup.display()),
        });
    }
    if open_files::is_open(to) {
        return Err(busy(to, THE_DATABASE, "this process".into()));
    }
    drop(Unused::claim(to, THE_DATABASE)?);
    let source = Store::open_read_only(backup, StoreOptions::default())?;
    let db = &source.inner.db;
    let partial = Partial::begin(to)?;
    partial.fill(db, source.totals()?.messages, observe)?;
    let checked = partial.check(observe)?;
    partial.check_place(&partial.path)?;
    let target = Db::at(to);
    let claimed = Unused::claim(to, THE_DATABASE)?;
    let aside = match replace {
        true => Aside::of(&target)?,
        false => Aside::default(),
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

const THE_COPY: &str = "the copy";
const THE_DATABASE: &str = "the database";

fn busy(path: &Path, what: &'static str, holder: String) -> StoreError {
    StoreError::Busy {
        path: path.to_owned(),
        what,
        holder,
        waited_ms: 0,
    }
}

/// A database file that no other process has open, and that none can use while this exists.
struct Unused(#[expect(dead_code, reason = "it holds the lock")] Option<File>);

impl Unused {
    /// Nothing at `path` is unused as well. This process must not have it open: closing a handle
    /// of a file gives up all locks that a process has on it.
    fn claim(path: &Path, what: &'static str) -> Result<Self> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).write(true).open(path);
        let file = match opened.or_else(|_| File::open(path)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self(None)),
            Err(error) => return Err(io_error("open", path)(error)),
        };
        // A connection to a database with a log holds a lock on the main file as long as it is
        // open, so whoever has it open is in the way of a lock on all of the file.
        if let Ok(Some(lock)) = fcntl_getlk(&file, &Flock::from(FlockType::WriteLock)) {
            let pid = lock
                .pid
                .map(|pid| format!("process {}", pid.as_raw_nonzero()));
            let holder = pid.unwrap_or_else(|| "another process".into());
            return Err(busy(path, what, holder));
        }
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::ACCESS | Errno::AGAIN) => Err(busy(path, what, "another process".into())),
            // Where there are no locks, SQLite has none either.
            _ => Ok(Self(Some(file))),
        }
    }
}

fn report(to: &Path, checked: &VerifyReport, moved_aside: Option<PathBuf>) -> BackupReport {
    BackupReport {
        bytes: Db::at(to).main_bytes(),
        sessions: checked.sessions,
        messages: checked.messages,
        raw_bytes: checked.raw_bytes,
        moved_aside,
    }
}

/// Refuses a file that is no copy of ours and stands where one is to be made: it was not begun by us, so
/// it is not removed either.
fn refuse_not_a_copy(path: &Path) -> Result<()> {
    let mut head = Vec::new();
    match File::open(path) {
        Ok(file) => file
            .take(2 * u64::from(PAGE_BYTES))
            .read_to_end(&mut head)
            .map_err(io_error("read", path))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    if is_copy(&head) {
        return Ok(());
    }
    Err(StoreError::FileExists {
        path: path.to_owned(),
    })
}

/// Whether a file that begins so is a copy, finished or not. SQLite writes the first page last: until
/// then it is zeros, and behind it comes the first map of pages, of which each entry begins with one of
/// five kinds.
fn is_copy(head: &[u8]) -> bool {
    const MAP_KINDS: RangeInclusive<u8> = 1..=5;
    const MAP_ENTRY_BYTES: usize = 5;
    if head.is_empty() || head.starts_with(b"SQLite format 3\0") {
        return true;
    }
    let Some((first, map)) = head.split_at_checked(PAGE_BYTES as usize) else {
        return false;
    };
    let mut entries = map.chunks_exact(MAP_ENTRY_BYTES).filter_map(<[u8]>::first);
    let begins_as_map = entries.next().is_some_and(|kind| MAP_KINDS.contains(kind));
    begins_as_map
        && first.iter().all(|&byte| byte == 0)
        && entries.all(|kind| *kind == 0 || MAP_KINDS.contains(kind))
}

fn remove_all(path: &Path) {
    let _ = std::fs::remove_file(path);
    for suffix in LOGS {
        let _ = std::fs::remove_file(Db::at(path).beside(suffix));
    }
}

/// The files of a store that were moved aside: from where, and to where, the main file first.
#[derive(Debug, Default)]
struct Aside(Vec<(PathBuf, PathBuf)>);

impl Aside {
    /// Moves a store and its log to `<file>.replaced` (`.replaced-2`, …), or a log that is there
    /// without its store to `<file>.stray-wal`. They belong together: neither means anything without
    /// the other.
    fn of(db: &Db) -> Result<Self> {
        let whole = db.path().exists();
        let name = if whole { ".replaced" } else { ".stray" };
        let mut aside = Db::at(&db.beside(name));
        let mut number = 2;
        // A log that waits there without a main file belongs to another one, and SQLite would read
        // it into this.
        while aside.path().exists() || LOGS.iter().any(|log| aside.beside(log).exists()) {
            aside = Db::at(&db.beside(&format!("{name}-{number}")));
            number += 1;
        }
        // Crash point: the main file goes first. Its log, left in its place, keeps everybody from
        // making a store there; a main file without its log is an older state that looks whole, and
        // is used.
        let main = whole.then(|| (db.path().to_owned(), aside.path().to_owned()));
        let logs = LOGS.map(|log| (db.beside(log), aside.beside(log)));
        let mut moved = Self::default();
        for (from, to) in main.into_iter().chain(logs) {
            if !from.exists() {
                continue;
            }
            match std::fs::rename(&from, &to) {
                Ok(()) => moved.0.push((from, to)),
                Err(error) => return Err(moved.put_back(io_error("move aside", &from)(error))),
            }
        }
        Ok(moved)
    }

    /// Where the store is now, or what was left of it; `None` when there was nothing.
    fn into_path(self) -> Option<PathBuf> {
        self.0.into_iter().next().map(|(_, to)| to)
    }

    /// Moves everything back after `error`, which comes back when that is done.
    fn put_back(mut self, error: StoreError) -> StoreError {
        // The main file last, for the reason that it goes first. A log is no other store's log.
        let free = self.0.iter().all(|(from, _)| !from.exists());
        while free && let Some((from, to)) = self.0.last() {
            if rename_to_new(to, from).is_err() {
                break;
            }
            self.0.pop();
        }
        match self.into_path() {
            None => error,
            Some(aside) => StoreError::LeftAside {
                aside,
                source: Box::new(error),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A main file and its log, moved aside.
    fn moved_aside(folder: &Path) -> (PathBuf, PathBuf, Aside) {
        let (main, log) = (folder.join("h.db"), folder.join("h.db-wal"));
        std::fs::write(&main, "main").unwrap();
        std::fs::write(&log, "log").unwrap();
        let aside = Aside::of(&Db::at(&main)).unwrap();
        assert!(!main.exists() && !log.exists());
        (main, log, aside)
    }

    #[test]
    fn what_was_moved_aside_for_a_restore_that_failed_is_moved_back() {
        let folder = tempfile::tempdir().unwrap();
        let (main, log, aside) = moved_aside(folder.path());
        let error = aside.put_back(StoreError::Cancelled);
        assert!(matches!(error, StoreError::Cancelled), "{error}");
        assert_eq!(std::fs::read(main).unwrap(), b"main");
        assert_eq!(std::fs::read(log).unwrap(), b"log");
    }

    #[test]
    fn what_cannot_be_moved_back_is_told_with_its_place_and_keeps_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let (main, _, aside) = moved_aside(folder.path());
        std::fs::write(&main, "somebody else's").unwrap();
        let error = aside.put_back(StoreError::Cancelled);
        let StoreError::LeftAside { aside, .. } = error else {
            panic!("{error}");
        };
        assert_eq!(aside, folder.path().join("h.db.replaced"));
        assert_eq!(std::fs::read(&aside).unwrap(), b"main");
        assert_eq!(
            std::fs::read(Db::at(&aside).beside("-wal")).unwrap(),
            b"log"
        );
        assert_eq!(std::fs::read(main).unwrap(), b"somebody else's");
    }
}
