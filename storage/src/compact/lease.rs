//! One compaction at a time, over all processes that have the store open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use crate::error::{Held, Holder, Result, StoreError};
use crate::files::io_error;
use crate::sql::db::Db;

/// What is read of the lock: more than any process id has.
const HOLDER_BYTES_MAX: u64 = 32;

/// Held while compacting. The lock goes with the file handle, so a crash frees it.
pub(super) struct Lease {
    file: File,
}

impl Drop for Lease {
    fn drop(&mut self) {
        // A child process that is just being started shares the handle until it becomes its own
        // program: closing ours would not free the lock before that.
        let _ = self.file.unlock();
    }
}

impl Lease {
    /// Takes the lease.
    ///
    /// # Errors
    /// [`StoreError::Busy`] with the holder's process id.
    pub(super) fn take(db: &Db) -> Result<Self> {
        let path = db.beside("-compaction.lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let pid = noted_holder(&mut file).trim().parse();
                return Err(StoreError::Busy {
                    path: db.path().to_owned(),
                    what: Held::Compaction,
                    holder: pid.map_or(Holder::AnotherProcess, Holder::Process),
                    waited_ms: 0,
                });
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
        // Only for the message above: the lock is held even if the holder's id cannot be written. Background
        // compaction takes the lease every few seconds, and a write each time would keep a disk awake.
        let own_id = std::process::id().to_string();
        if noted_holder(&mut file) != own_id {
            let _ = file
                .set_len(0)
                .and_then(|()| file.seek(SeekFrom::Start(0)))
                .and_then(|_| file.write_all(own_id.as_bytes()));
        }
        Ok(Self { file })
    }
}

/// The process id in a lock that was just opened.
fn noted_holder(file: &mut File) -> String {
    let mut holder = String::new();
    let _ = file.take(HOLDER_BYTES_MAX).read_to_string(&mut holder);
    holder
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn the_lock_is_written_only_when_its_holder_changes() {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::at(&folder.path().join("h.db"));
        drop(Lease::take(&db).unwrap());
        let path = db.beside("-compaction.lock");
        let own_id = std::process::id().to_string();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), own_id);
        let lock = OpenOptions::new().write(true).open(&path).unwrap();
        lock.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        drop(Lease::take(&db).unwrap());
        let modified = lock.metadata().unwrap().modified().unwrap();
        assert_eq!(modified, SystemTime::UNIX_EPOCH);
        // One digit more than any process id has.
        std::fs::write(&path, "12345678901").unwrap();
        drop(Lease::take(&db).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), own_id);
    }
}
