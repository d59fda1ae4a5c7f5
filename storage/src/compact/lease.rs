//! One compaction at a time, over all processes that have the store open.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;

use crate::error::{Held, Holder, Result, StoreError};
use crate::files::io_error;
use crate::sql::db::Db;

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
                let mut pid = String::new();
                let _ = (&mut file).take(32).read_to_string(&mut pid);
                let pid = pid.trim().parse();
                return Err(StoreError::Busy {
                    path: db.path().to_owned(),
                    what: Held::Compaction,
                    holder: pid.map_or(Holder::AnotherProcess, Holder::Process),
                    waited_ms: 0,
                });
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", &path)(error)),
        }
        // Only for the message above: a holder that cannot be written down holds all the same.
        let _ = file
            .set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(std::process::id().to_string().as_bytes()));
        Ok(Self { file })
    }
}
