//! A copy under way: made under another name, checked, and given its own when it is whole.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read};
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, ffi};
use rustix::fs::OFlags;

use super::Observer;
use super::place::{ExclusiveClaim, LOGS, busy, rename_to_new};
use crate::capacity::text;
use crate::error::{Held, Holder, Result, StoreError};
use crate::files::{self, PARTIAL, create_private_new, folder_of, free_bytes, io_error};
use crate::limits::PAGE_BYTES;
use crate::open_files::{self, OpenFile};
use crate::options::StoreOptions;
use crate::sql;
use crate::sql::db::AUTO_VACUUM_INCREMENTAL;
use crate::sql::db::{Db, name_for_sqlite};
use crate::sql::interruptible::interruptible;
use crate::sqlite_header::{FileBegin, MAGIC};
use crate::store::Store;
use crate::verify::{ProblemKind, VerifyProgress, VerifyReport};

/// How often a lock is tried for that its holder took away at the same time.
const PLACE_LOCK_TRIES: u32 = 100;

/// A copy under another name until it is whole and checked. Dropped before, it leaves nothing.
///
/// A lock keeps others from beginning a copy to the same place: SQLite's is held only while it
/// writes. Not everybody asks for it, and not every file system has locks, so a copy knows its file,
/// and is none any more when another stands in its place.
pub(super) struct Partial {
    pub(super) path: PathBuf,
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
    pub(super) fn begin(to: &Path) -> Result<Self> {
        let path = Db::at(to).beside(PARTIAL);
        if open_files::is_open(&path) {
            return Err(busy(&path, Held::Copy, Holder::ThisProcess));
        }
        let lock = PlaceLock::take(&path)?;
        // Either an earlier build is at it, or a killed copy left it.
        drop(ExclusiveClaim::claim(&path, Held::Copy)?);
        refuse_not_a_copy(&path)?;
        remove_all(&path);
        let Some(new) = create_private_new(&path)? else {
            return Err(busy(&path, Held::Copy, Holder::AnotherProcess));
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
    pub(super) fn fill(&self, db: &Db, messages: u64, observe: Observer<'_>) -> Result<()> {
        let mut connection = db.connect_reader()?;
        // VACUUM INTO writes only the new file, but SQLite counts it as writing.
        db.context("copy", connection.pragma_update(None, "query_only", false))?;
        self.check_room(db, &connection)?;
        let auto_vacuum: i64 = db.context(
            "copy",
            connection.pragma_query_value(None, "auto_vacuum", |row| row.get(0)),
        )?;
        if auto_vacuum != AUTO_VACUUM_INCREMENTAL {
            // Has effect on the copy only.
            let set = connection.pragma_update(None, "auto_vacuum", AUTO_VACUUM_INCREMENTAL);
            db.context("copy", set)?;
        }
        let mut go_on = || {
            observe(&VerifyProgress {
                messages_done: 0,
                messages,
                raw_bytes_done: 0,
            })
        };
        let to = name_for_sqlite(&self.path);
        let copied = interruptible(&mut connection, &mut go_on, |connection| {
            // As the system names it: SQLite opens what it is given, be it UTF-8 or not.
            let name = ToSqlOutput::Borrowed(ValueRef::Text(to.as_os_str().as_bytes()));
            connection.execute("VACUUM INTO ?1", [name])
        })?;
        db.context("copy", copied).map_err(|error| match error {
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

    /// As [`Partial::fill`], of a store with damaged pages: each page is copied as it is, also those that nothing
    /// is on. SQLite does not look into them.
    pub(super) fn fill_by_pages(&self, db: &Db) -> Result<()> {
        const PAGES_PER_STEP: i32 = 1024;
        // What was written of the copy before.
        if let Some(file) = &self.held {
            file.set_len(0).map_err(io_error("empty", &self.path))?;
        }
        for suffix in LOGS {
            let _ = std::fs::remove_file(Db::at(&self.path).beside(suffix));
        }
        let source = db.connect_reader()?;
        // One snapshot for all steps, which begins with the first read.
        let snapshot = db.context("begin to read", source.unchecked_transaction())?;
        db.context("count pages", sql::space::pages(&snapshot))?;
        let copied = Connection::open_with_flags(
            name_for_sqlite(&self.path),
            OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
        )
        .and_then(|mut copy| {
            let backup = Backup::new(&snapshot, &mut copy)?;
            loop {
                match backup.step(PAGES_PER_STEP)? {
                    StepResult::Done => return Ok(()),
                    StepResult::More => {}
                    // Nobody else has the copy open, and the source's snapshot needs no lock.
                    _ => {
                        let busy = ffi::Error::new(ffi::SQLITE_BUSY);
                        return Err(rusqlite::Error::SqliteFailure(busy, None));
                    }
                }
            }
        });
        Db::at(&self.path).context("copy page by page", copied)?;
        File::open(&self.path)
            .and_then(|file| file.sync_all())
            .map_err(io_error("sync", &self.path))
    }

    /// The format of what was copied.
    pub(super) fn format(&self) -> Result<u32> {
        let begin = File::open(&self.path)
            .and_then(|mut file| FileBegin::read(&mut file))
            .map_err(io_error("read", &self.path))?;
        match begin {
            FileBegin::Database(header) => Ok(header.user_version.unsigned_abs()),
            _ => Err(StoreError::damaged(
                None,
                format!("{}: it is no copy", self.path.display()),
            )),
        }
    }

    /// Refuses at once what could only fail after minutes.
    fn check_room(&self, db: &Db, connection: &Connection) -> Result<()> {
        let pages = db.context("count pages", sql::space::pages(connection))?;
        let free = db.context("count free pages", sql::space::free_pages(connection))?;
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
    pub(super) fn check(&self, observe: Observer<'_>) -> Result<VerifyReport> {
        let report = Store::open_read_only(&self.path, StoreOptions::default())?.verify(observe)?;
        let (sums, damage): (Vec<_>, Vec<_>) = report
            .problems
            .iter()
            .partition(|p| p.kind == ProblemKind::Counter);
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

    /// Fails if there is another copy at `path`.
    pub(super) fn check_place(&self, path: &Path) -> Result<()> {
        if self.file.is_at(path) {
            Ok(())
        } else {
            Err(busy(&self.path, Held::Copy, Holder::AnotherProcess))
        }
    }

    /// Gives the copy its name, which must be free. Crash point: before the rename there
    /// is only the partial file. It has its name when this fails with
    /// [`StoreError::CopyNotSynced`], and else has not.
    pub(super) fn publish(mut self, to: &Path) -> Result<()> {
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
                // Its owner is done and has removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(io_error("open", &path)(error)),
            };
            match file.try_lock() {
                Err(TryLockError::WouldBlock) => break,
                // The file system has no locks: continue without.
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
        Err(busy(partial, Held::Copy, Holder::AnotherProcess))
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
/// then it is zeros, and after it comes the first map of pages, of which each entry begins with one of
/// five kinds.
fn is_copy(head: &[u8]) -> bool {
    const MAP_KINDS: RangeInclusive<u8> = 1..=5;
    const MAP_ENTRY_BYTES: usize = 5;
    if head.is_empty() || head.starts_with(MAGIC) {
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
