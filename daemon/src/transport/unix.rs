//! The Unix socket: created private, and only for our own user.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use betcode_service::private_file;
use tokio::net::{UnixListener, UnixStream};

/// A listening socket and its file, which goes with it.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    listener: UnixListener,
    user: u32,
}

impl SocketFile {
    /// Creates the socket at `path`, in a directory that only our user may enter. A socket that a
    /// killed daemon left is replaced: the caller holds the store's lock, so nobody listens there.
    ///
    /// # Errors
    /// When the directory belongs to somebody else or is open to others, when something else
    /// stands at `path`, when a daemon of another store listens there.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        let user = rustix::process::geteuid().as_raw();
        let folder = path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.ok_or_else(|| refuse("the socket needs a directory of its own"))?;
        private_file::create_private_folder(folder)?;
        let found = fs::symlink_metadata(folder)?;
        if !found.is_dir() || found.uid() != user {
            return Err(refuse(&format!(
                "{} is not a directory of ours",
                folder.display()
            )));
        }
        if found.mode() & 0o077 != 0 {
            return Err(refuse(&format!(
                "{} is open to other users; chmod 700 it, or choose another socket",
                folder.display()
            )));
        }
        remove_stale(path)?;
        // The directory keeps others out until the socket has its own mode.
        let listener = UnixListener::bind(path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => refuse(&format!("{error}; name one with --socket")),
            _ => error,
        })?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        Ok(Self {
            path: path.to_owned(),
            listener,
            user,
        })
    }

    /// The next connection of our own user, or of root, who may do everything anyway.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let peer = stream.peer_cred()?.uid();
            if peer == self.user || peer == 0 {
                return Ok(stream);
            }
            tracing::warn!(peer, "a connection of another user was closed");
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // What cannot be removed is replaced by the next daemon.
        let _ = fs::remove_file(&self.path);
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::FileTypeExt;
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !found.file_type().is_socket() {
        return Err(refuse(&format!(
            "{} is there, and is no socket",
            path.display()
        )));
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(refuse(&format!(
            "another daemon listens at {}",
            path.display()
        )));
    }
    fs::remove_file(path)
}

fn refuse(why: &str) -> io::Error {
    io::Error::other(why.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[tokio::test]
    async fn socket_and_directory_are_private_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("d").join("grpc.sock");
        let first = SocketFile::bind(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        assert!(
            SocketFile::bind(&path)
                .unwrap_err()
                .to_string()
                .contains("another daemon")
        );
        // What a kill leaves: the file, without a listener.
        drop(first);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let second = SocketFile::bind(&path).unwrap();
        drop(second);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn an_open_directory_and_a_file_in_the_way_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let open = folder.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(
            SocketFile::bind(&open.join("s"))
                .unwrap_err()
                .to_string()
                .contains("chmod 700")
        );
        fs::set_permissions(&open, fs::Permissions::from_mode(0o700)).unwrap();
        fs::write(open.join("s"), "precious").unwrap();
        assert!(SocketFile::bind(&open.join("s")).is_err());
        assert_eq!(fs::read_to_string(open.join("s")).unwrap(), "precious");
    }
}
