//! Small private files that must be there whole or not at all, and locks beside them.
//!
//! A command run as root writes in the folder of a relay that runs as another user, who has to be
//! able to read what it wrote. So root's files get the owner of their folder. That folder's owner may
//! not be root's friend: nothing here follows a link that it left, or gives away a file that has
//! another name elsewhere.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, fchown};
use std::path::Path;

use rustix::fs::OFlags;

/// Replaces a file (0600, root's with the owner of its folder): after a crash the old or the new one
/// is there, never a part.
///
/// # Errors
/// When it cannot be written, or not for the owner of the folder; the old one is whole then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = folder.join(format!(".{name}.{}.new", std::process::id()));
    let written = (|| {
        // One that a killed process of the same id left.
        match std::fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?;
        give_to_owner(&file, folder)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)?;
        File::open(folder)?.sync_all()
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&new);
    }
    written
}

/// Creates a folder with those above it, private (0700) whatever the umask.
///
/// # Errors
/// When it cannot be created.
pub fn create_private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Locks a file against other processes until the result is dropped. The lock has a file of its
/// own, because the file itself is replaced.
///
/// # Errors
/// When the lock cannot be had.
pub fn lock(path: &Path) -> io::Result<File> {
    let lock = open_lock(path)?;
    lock.lock()?;
    Ok(lock)
}

/// As [`lock`], without waiting: `None` while another process holds it.
///
/// # Errors
/// When the lock cannot be had.
pub fn try_lock(path: &Path) -> io::Result<Option<File>> {
    let lock = open_lock(path)?;
    match lock.try_lock() {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    let path = path.with_extension("lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&path)?;
    give_to_owner(&lock, path.parent().unwrap_or(Path::new(".")))?;
    Ok(lock)
}

/// Gives a file that root has open in a folder to the folder's owner.
fn give_to_owner(file: &File, folder: &Path) -> io::Result<()> {
    let (owner, there) = (std::fs::metadata(folder)?, file.metadata()?);
    if !rustix::process::geteuid().is_root() || owner.uid() == there.uid() {
        return Ok(());
    }
    if !there.is_file() || there.nlink() != 1 {
        return Err(io::Error::other(
            "it is no plain file of this folder alone, so it is left as it is; remove it",
        ));
    }
    fchown(file, Some(owner.uid()), Some(owner.gid())).map_err(|error| {
        let uid = owner.uid();
        io::Error::new(
            error.kind(),
            format!(
                "it cannot be given to the owner of its folder, user {uid}, who has to read it \
                 ({error}); run the command as that user"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{chown, symlink};

    use super::*;

    /// A user that is not us.
    const OTHER: u32 = 4242;

    /// A folder of another user's; none when this process may not make one.
    fn folder_of_another() -> Option<tempfile::TempDir> {
        let folder = tempfile::tempdir().unwrap();
        match chown(folder.path(), Some(OTHER), Some(OTHER)) {
            Ok(()) => Some(folder),
            Err(error) => {
                eprintln!("skipped, only root can give a folder away: {error}");
                None
            }
        }
    }

    fn owner(path: &Path) -> (u32, u32, u32) {
        let file = std::fs::metadata(path).unwrap();
        (file.uid(), file.gid(), file.mode() & 0o777)
    }

    #[test]
    fn what_root_writes_in_a_folder_of_another_user_is_that_users() {
        let Some(folder) = folder_of_another() else {
            return;
        };
        let path = folder.path().join("list.json");
        let kept = folder.path().join("list.lock");
        // As an earlier build left them.
        for left in [&path, &kept] {
            std::fs::write(left, "old").unwrap();
        }
        drop(lock(&path).unwrap());
        replace(&path, b"new").unwrap();
        for file in [&path, &kept] {
            let (uid, gid, _) = owner(file);
            assert_eq!((uid, gid), (OTHER, OTHER), "{file:?}");
        }
        assert_eq!(owner(&path).2, 0o600);
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn root_gives_away_no_file_that_a_folders_owner_only_points_at() {
        let Some(folder) = folder_of_another() else {
            return;
        };
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        let before = owner(elsewhere.path());
        let path = folder.path().join("list.json");
        let new = format!(".list.json.{}.new", std::process::id());
        symlink(elsewhere.path(), folder.path().join(new)).unwrap();
        replace(&path, b"new").unwrap();
        let kept = folder.path().join("list.lock");
        symlink(elsewhere.path(), &kept).unwrap();
        assert!(lock(&path).is_err());
        std::fs::remove_file(&kept).unwrap();
        std::fs::hard_link(elsewhere.path(), &kept).unwrap();
        assert!(lock(&path).is_err());
        assert_eq!(owner(elsewhere.path()), before);
        assert_eq!(std::fs::read(elsewhere.path()).unwrap(), b"");
    }
}
