//! The place of a copy: a store that is replaced is locked meanwhile, and moved aside.

use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, fcntl_lock, renameat_with};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, fcntl_getlk};

use crate::error::{Held, Holder, Result, StoreError};
use crate::files::io_error;
use crate::sql::db::Db;

/// Suffixes of the files that belong to a main file.
pub(super) const LOGS: [&str; 3] = ["-wal", "-shm", "-journal"];

pub(super) fn busy(path: &Path, what: Held, holder: Holder) -> StoreError {
    StoreError::Busy {
        path: path.to_owned(),
        what,
        holder,
        waited_ms: 0,
    }
}

/// A database file that no other process has open, and that none can use while this exists.
pub(super) struct ExclusiveClaim(#[expect(dead_code, reason = "it holds the lock")] Option<File>);

impl ExclusiveClaim {
    /// If there is nothing at `path`, nothing is locked. This process must not have it open: closing a handle
    /// of a file gives up all locks that a process has on it.
    pub(super) fn claim(path: &Path, what: Held) -> Result<Self> {
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
                .map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
            let holder = pid.map_or(Holder::AnotherProcess, Holder::Process);
            return Err(busy(path, what, holder));
        }
        match fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::ACCESS | Errno::AGAIN) => Err(busy(path, what, Holder::AnotherProcess)),
            // Where there are no locks, SQLite has none either.
            _ => Ok(Self(Some(file))),
        }
    }
}

/// Renames to a name that nobody has: what appeared there meanwhile is not replaced.
pub(super) fn rename_to_new(from: &Path, to: &Path) -> Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(StoreError::FileExists {
            path: to.to_owned(),
        }),
        // Not every file system can.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => link_to_new(from, to),
        Err(error) => Err(io_error("rename the copy to", to)(error.into())),
    }
}

/// Renames where the file system cannot refuse to replace what stands at a name: a link to a name that
/// somebody has is refused everywhere. Crash point: between the two steps the file has both names.
fn link_to_new(from: &Path, to: &Path) -> Result<()> {
    match std::fs::hard_link(from, to) {
        Ok(()) => std::fs::remove_file(from).map_err(io_error("remove the old name,", from)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Err(StoreError::FileExists {
            path: to.to_owned(),
        }),
        // Nor does every file system have links. What then appears between the two calls is replaced.
        Err(error) if has_no_links(&error) => {
            if std::fs::symlink_metadata(to).is_ok() {
                return Err(StoreError::FileExists {
                    path: to.to_owned(),
                });
            }
            std::fs::rename(from, to).map_err(io_error("rename the copy to", to))
        }
        Err(error) => Err(io_error("rename the copy to", to)(error)),
    }
}

fn has_no_links(error: &std::io::Error) -> bool {
    let refusals = [Errno::PERM, Errno::NOTSUP, Errno::OPNOTSUPP, Errno::NOSYS];
    let number = error.raw_os_error();
    refusals
        .into_iter()
        .any(|refusal| number == Some(refusal.raw_os_error()))
}

/// The files of a store that were moved aside: from where, and to where, the main file first.
#[derive(Debug, Default)]
pub(super) struct MovedAside(Vec<(PathBuf, PathBuf)>);

impl MovedAside {
    /// Moves a store and its log to `<file>.replaced` (`.replaced-2`, …), or a log that is there
    /// without its store to `<file>.stray-wal`. They belong together: neither means anything without
    /// the other.
    pub(super) fn of(db: &Db) -> Result<Self> {
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
    pub(super) fn into_path(self) -> Option<PathBuf> {
        self.0.into_iter().next().map(|(_, to)| to)
    }

    /// Moves everything back after `error`, which comes back when that is done.
    pub(super) fn put_back(mut self, error: StoreError) -> StoreError {
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
    fn moved_aside(folder: &Path) -> (PathBuf, PathBuf, MovedAside) {
        let (main, log) = (folder.join("h.db"), folder.join("h.db-wal"));
        std::fs::write(&main, "main").unwrap();
        std::fs::write(&log, "log").unwrap();
        let aside = MovedAside::of(&Db::at(&main)).unwrap();
        assert!(!main.exists() && !log.exists());
        (main, log, aside)
    }

    #[test]
    fn a_link_to_a_new_name_replaces_nothing_and_leaves_no_second_name() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        std::fs::write(&from, "copy").unwrap();
        std::fs::write(&to, "somebody else's").unwrap();
        let refused = link_to_new(&from, &to).unwrap_err();
        assert!(
            matches!(refused, StoreError::FileExists { .. }),
            "{refused}"
        );
        assert_eq!(std::fs::read(&to).unwrap(), b"somebody else's");
        std::fs::remove_file(&to).unwrap();
        link_to_new(&from, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"copy");
        assert!(!from.exists());
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
