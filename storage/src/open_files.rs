//! Which database files this process has open, for nothing but SQLite may open these.
//!
//! A process that closes any handle of a file gives up all the locks that it has on it (POSIX).
//! SQLite minds this among its own handles, and cannot know of ours: one look at the file, and
//! another process believes that nobody has it open, and deletes the log that is still written to.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

/// Device and inode: locks belong to the file, whatever its name.
type FileId = (u64, u64);

/// How often each file is open.
static OPEN: LazyLock<Mutex<HashMap<FileId, usize>>> = LazyLock::new(Mutex::default);

fn open_files() -> MutexGuard<'static, HashMap<FileId, usize>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn id_of(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|metadata| id(&metadata))
}

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// A database file that this process has open. It must outlive the connections to it.
#[derive(Debug)]
pub(crate) struct OpenFile(Option<FileId>);

impl OpenFile {
    /// Notes, before the first connection, that the file at `path` is about to be opened.
    pub(crate) fn note(path: &Path) -> Self {
        Self::note_id(id_of(path))
    }

    /// As [`OpenFile::note`], of a file that was just made, whatever stands at its path by now.
    pub(crate) fn note_new(file: &File) -> Self {
        Self::note_id(file.metadata().ok().map(|metadata| id(&metadata)))
    }

    fn note_id(id: Option<FileId>) -> Self {
        if let Some(id) = id {
            *open_files().entry(id).or_default() += 1;
        }
        Self(id)
    }

    /// Whether it is this file that stands at `path`.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.0.is_some() && id_of(path) == self.0
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let Some(id) = self.0 else { return };
        let mut open = open_files();
        if let Some(times) = open.get_mut(&id) {
            *times -= 1;
            if *times == 0 {
                open.remove(&id);
            }
        }
    }
}

/// Whether this process has the file at `path` open.
pub(crate) fn is_open(path: &Path) -> bool {
    is_among(&open_files(), path)
}

fn is_among(open: &HashMap<FileId, usize>, path: &Path) -> bool {
    id_of(path).is_some_and(|id| open.contains_key(&id))
}

/// Runs `look`, which opens and closes the file at `path`, unless this process has it open. Nobody
/// in this process begins to open it meanwhile.
pub(crate) fn unless_open<T>(path: &Path, look: impl FnOnce() -> T) -> Option<T> {
    let open = open_files();
    (!is_among(&open, path)).then(look)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_open_under_each_of_its_names_until_the_last_handle_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("a"), folder.path().join("b"));
        std::fs::write(&file, "").unwrap();
        std::fs::hard_link(&file, &link).unwrap();
        let is_open = || unless_open(&link, || ()).is_none();
        assert!(!is_open());
        let (first, second) = (OpenFile::note(&file), OpenFile::note(&link));
        assert!(is_open());
        drop(first);
        assert!(is_open());
        drop(second);
        assert!(!is_open());
    }
}
