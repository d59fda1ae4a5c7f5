//! How the programs of a machine find the daemon that serves a store.
//!
//! A daemon holds a lock on a file beside the database for as long as it runs, and writes into it
//! its process id and its socket. The lock goes with the process: a file without a lock is what a
//! daemon left behind.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
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

/// Who serves a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// Nobody.
    None,
    /// This daemon.
    Running(Holder),
    /// A daemon that has not said yet where it is: it is just starting.
    Starting,
}

/// The file that the daemon of the store at `db` locks: the same one by whatever links the store
/// is named.
#[must_use]
pub fn lock_path(db: &Path) -> PathBuf {
    let mut path = canonical(db).into_os_string();
    path.push("-daemon.lock");
    PathBuf::from(path)
}

fn canonical(db: &Path) -> PathBuf {
    if let Ok(path) = fs::canonicalize(db) {
        return path;
    }
    // The database may not be there yet; its folder may.
    let folder = db.parent().filter(|folder| !folder.as_os_str().is_empty());
    match (
        fs::canonicalize(folder.unwrap_or(Path::new("."))),
        db.file_name(),
    ) {
        (Ok(folder), Some(name)) => folder.join(name),
        _ => db.to_owned(),
    }
}

/// Who serves the store at `db`. A lock file that cannot be opened or locked says nobody does:
/// its daemon would not be ours to talk to.
#[must_use]
pub fn server_of(db: &Path) -> Server {
    let Ok(mut file) = File::open(lock_path(db)) else {
        return Server::None;
    };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            holder_in(&mut file).map_or(Server::Starting, Server::Running)
        }
        Ok(()) => {
            // At once, whoever else shares the handle: a daemon may be about to take it.
            let _ = file.unlock();
            Server::None
        }
        Err(TryLockError::Error(_)) => Server::None,
    }
}

/// What the daemon that holds this lock file says of itself.
#[must_use]
pub fn holder_in(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(CONTENT_BYTES_MAX)
        .read_to_string(&mut text)
        .ok()?;
    serde_json::from_str(&text).ok()
}

/// Writes into a locked lock file who holds it.
///
/// # Errors
/// The system's.
pub fn write_holder(file: &mut File, holder: &Holder) -> io::Result<()> {
    let text = serde_json::to_vec(holder)?;
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    io::Write::write_all(file, &text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

    use super::*;

    #[test]
    fn a_daemon_is_found_while_it_holds_the_lock_and_by_whatever_name_of_the_store() {
        let folder = tempfile::tempdir().unwrap();
        let db = folder.path().join("h.db");
        assert_eq!(server_of(&db), Server::None);
        let mut file = File::create_new(lock_path(&db)).unwrap();
        assert_eq!(server_of(&db), Server::None, "a file without a lock");
        file.lock().unwrap();
        assert_eq!(server_of(&db), Server::Starting);
        let holder = Holder {
            pid: 7,
            socket: "/run/a socket".into(),
        };
        write_holder(&mut file, &holder).unwrap();
        fs::write(&db, "").unwrap();
        let link = folder.path().join("link.db");
        std::os::unix::fs::symlink(&db, &link).unwrap();
        for name in [&db, &link] {
            assert_eq!(server_of(name), Server::Running(holder.clone()));
        }
        drop(file);
        assert_eq!(server_of(&db), Server::None);
    }
}
