//! One daemon for a store: a locked file beside it, with the first one's process id and socket.
//!
//! The lock goes with the process, so a killed daemon leaves a file and no lock. The file stays
//! when the daemon ends: removing it could remove the next one's.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use betcode_schema_grpc::locate::{Holder, holder_in, lock_path, write_holder};
use betcode_service::private_file;

use crate::limits::{LOCK_ATTEMPT_INTERVAL_MS, LOCK_ATTEMPTS_MAX};
use crate::observe::ms;

/// Why the store is not ours to serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another daemon serves it.
    #[error("a daemon already serves {db}{}", how_to_stop(db, holder.as_ref()))]
    Held {
        /// The store.
        db: PathBuf,
        /// The other daemon, when it can be read.
        holder: Option<Holder>,
    },
    /// The file cannot be locked.
    #[error("lock {path}: {source}; {}", hint(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

fn how_to_stop(db: &Path, holder: Option<&Holder>) -> String {
    match holder {
        Some(Holder { pid, socket }) => format!(
            " (process {pid}, socket {}); use that one, or stop it with `kill {pid}` (under systemd: \
             `systemctl --user stop betcode-daemon`)",
            socket.display()
        ),
        None => format!(
            ", and its process is not known; find it with `fuser {}`",
            lock_path(db).display()
        ),
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "free space on that disk",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "the daemon's user has to be able to write there; or name another database with `db`"
        }
        _ => "check that disk and the path of `db`",
    }
}

/// The lock of a store, held while its daemon runs.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Locks the file; `None` when another process does.
fn lock(file: &File) -> io::Result<Option<()>> {
    for attempt in 1..=LOCK_ATTEMPTS_MAX {
        match file.try_lock() {
            Ok(()) => return Ok(Some(())),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if attempt < LOCK_ATTEMPTS_MAX => {
                std::thread::sleep(ms(LOCK_ATTEMPT_INTERVAL_MS));
            }
            Err(TryLockError::WouldBlock) => {}
        }
    }
    Ok(None)
}

impl Drop for Lock {
    fn drop(&mut self) {
        // A child process that is just being started shares the handle until it becomes its own
        // program: closing ours would not free the lock before that.
        let _ = self.file.unlock();
    }
}

impl Lock {
    /// Takes the lock of the store at `db` for a daemon at `socket`.
    ///
    /// # Errors
    /// [`LockError::Held`] with the other's process id.
    pub fn take(db: &Path, socket: &Path) -> Result<Self, LockError> {
        let path = lock_path(db);
        let failed = |source| LockError::Io {
            path: path.clone(),
            source,
        };
        if let Some(folder) = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            private_file::create_private_folder(folder).map_err(failed)?;
        }
        let mut file = open(&path).map_err(failed)?;
        if lock(&file).map_err(failed)?.is_none() {
            return Err(LockError::Held {
                db: db.to_owned(),
                holder: holder_in(&mut file),
            });
        }
        let holder = Holder {
            pid: std::process::id(),
            socket: std::path::absolute(socket).map_err(failed)?,
        };
        write_holder(&mut file, &holder).map_err(failed)?;
        Ok(Self { file })
    }
}

#[cfg(test)]
mod tests {
    use betcode_schema_grpc::locate::{Server, server_of};

    use super::*;

    #[test]
    fn a_second_daemon_is_refused_with_the_firsts_pid() {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("h.db");
        assert_eq!(server_of(&db), Server::None);
        let first = Lock::take(&db, Path::new("/run/x.sock")).unwrap();
        let error = Lock::take(&db, Path::new("/run/y.sock"))
            .unwrap_err()
            .to_string();
        let kill = format!("`kill {}`", std::process::id());
        assert!(error.contains(&kill), "{error}");
        let holder = Holder {
            pid: std::process::id(),
            socket: "/run/x.sock".into(),
        };
        assert_eq!(server_of(&db), Server::Running(holder));
        drop(first);
        assert_eq!(server_of(&db), Server::None);
        Lock::take(&db, Path::new("/run/y.sock")).unwrap();
    }
}
