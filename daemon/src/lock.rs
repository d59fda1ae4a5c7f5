//! One daemon for a store: a locked file beside it, with the first one's process id and socket.
//!
//! The lock goes with the process, so a killed daemon leaves a file and no lock. The file stays
//! when the daemon ends: removing it could remove the next one's.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Size of the file's content at most.
const CONTENT_BYTES_MAX: u64 = 8 << 10;

/// A running daemon, as it tells others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its Unix socket.
    pub socket: PathBuf,
}

/// Why the store is not ours to serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another daemon serves it.
    #[error(
        "process {} serves {db} already, at {}; use that one, or stop it first",
        .holder.as_ref().map_or_else(|| "another".to_owned(), |h| h.pid.to_string()),
        .holder.as_ref().map_or_else(|| "a socket not known".to_owned(), |h| h.socket.display().to_string())
    )]
    Held {
        /// The store.
        db: PathBuf,
        /// The other daemon, when it can be read.
        holder: Option<Holder>,
    },
    /// The file cannot be locked.
    #[error("lock {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

/// Held while the daemon runs.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

fn lock_path(db: &Path) -> PathBuf {
    let mut path = db.as_os_str().to_owned();
    path.push("-daemon.lock");
    PathBuf::from(path)
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

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(CONTENT_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    serde_json::from_str(&text).ok()
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
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut file = open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = read(&mut file);
                return Err(LockError::Held {
                    db: db.to_owned(),
                    holder,
                });
            }
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let holder = Holder {
            pid: std::process::id(),
            socket: socket.to_owned(),
        };
        let text = serde_json::to_string(&holder).map_err(|error| failed(error.into()))?;
        file.set_len(0)
            .and_then(|()| file.seek(SeekFrom::Start(0)))
            .and_then(|_| file.write_all(text.as_bytes()))
            .map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// The daemon that serves the store at `db`; `None` when none does.
#[must_use]
pub fn running(db: &Path) -> Option<Holder> {
    let mut file = File::open(lock_path(db)).ok()?;
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => read(&mut file),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_with_the_firsts_pid() {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("h.db");
        assert_eq!(running(&db), None);
        let first = Lock::take(&db, Path::new("/run/x.sock")).unwrap();
        let error = Lock::take(&db, Path::new("/run/y.sock"))
            .unwrap_err()
            .to_string();
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        assert_eq!(running(&db).unwrap().socket, Path::new("/run/x.sock"));
        drop(first);
        assert_eq!(running(&db), None);
        Lock::take(&db, Path::new("/run/y.sock")).unwrap();
    }
}
