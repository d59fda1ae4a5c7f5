//! Which database files this process has open, for nothing but SQLite may open these.
//!
//! By POSIX, a process that closes any handle of a file loses all its locks on that file. SQLite takes care of
//! this for its own handles, but does not know of ours: if we opened and closed the file once, another process
//! would find no locks and delete the log that is still written to.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::error::{Result, StoreError};
use crate::limits::PAGE_BYTES;
use crate::sql::db::Db;
use crate::sqlite_header::FileBegin;

/// How much is there of a database file whose header claims more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CutOff {
    /// Whole pages that it has.
    pub(crate) pages_there: u64,
    /// Pages that it says it has.
    pub(crate) pages: u64,
}

impl std::fmt::Display for CutOff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { pages_there, pages } = self;
        write!(
            f,
            "the file is cut off: {pages_there} of its {pages} pages are there"
        )
    }
}

impl CutOff {
    pub(crate) fn error(self, path: &Path) -> StoreError {
        StoreError::CutOff {
            path: path.to_owned(),
            pages_there: self.pages_there,
            pages: self.pages,
        }
    }
}

/// Compares a file's length with that in its header. A difference alone proves nothing: a log may have the missing
/// pages, and if another process writes, the two were not read at the same moment.
fn read_cut_off(path: &Path) -> Option<CutOff> {
    let mut file = File::open(path).ok()?;
    let FileBegin::Database(header) = FileBegin::read(&mut file).ok()? else {
        return None;
    };
    let pages = u64::from(header.pages?);
    let pages_there = file.metadata().ok()?.len() / u64::from(PAGE_BYTES);
    (pages_there < pages).then_some(CutOff { pages_there, pages })
}

/// Device and inode: locks belong to the file, whatever its name.
type FileId = (u64, u64);

/// How often a file is open, and what its header said before it was opened.
#[derive(Debug, Default)]
struct Opened {
    times: usize,
    cut_off: Option<CutOff>,
}

static OPEN: LazyLock<Mutex<HashMap<FileId, Opened>>> = LazyLock::new(Mutex::default);

fn open_files() -> MutexGuard<'static, HashMap<FileId, Opened>> {
    OPEN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn id_of(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|metadata| id(&metadata))
}

fn id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// Whether another file than `opened`, or none, stands at `path`. What the system does not tell is not taken for a
/// move.
fn is_moved(path: &Path, opened: Option<FileId>) -> bool {
    let Some(opened) = opened else { return false };
    match std::fs::metadata(path) {
        Ok(metadata) => id(&metadata) != opened,
        Err(error) => matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}

/// What continues a database's name to those of its log and of the log's shared memory.
const LOG_SUFFIXES: [&str; 2] = ["-wal", "-shm"];

/// A database file that this process has open. It must outlive the connections to it.
#[derive(Debug)]
pub(crate) struct OpenFile {
    id: Option<FileId>,
    /// Where it is, whatever the working directory is later: a program that goes into the background leaves the one
    /// that a relative path began at.
    place: Option<Db>,
    cut_off: Option<CutOff>,
    /// The files of the log, in the order of [`LOG_SUFFIXES`], once the writer has them open.
    log: OnceLock<[Option<FileId>; LOG_SUFFIXES.len()]>,
}

impl OpenFile {
    /// Notes, before the first connection, that the file at `path` is about to be opened.
    pub(crate) fn note(path: &Path) -> Self {
        let mut noted = Self::note_id(id_of(path), || read_cut_off(path));
        noted.place = std::path::absolute(path).ok().map(|path| Db::at(&path));
        noted
    }

    /// As [`OpenFile::note`], of a file that was just created, even if its path leads to another one by now.
    pub(crate) fn note_new(file: &File) -> Self {
        Self::note_id(file.metadata().ok().map(|metadata| id(&metadata)), || None)
    }

    /// `look` opens and closes the file, unless it is open.
    fn note_id(id: Option<FileId>, look: impl FnOnce() -> Option<CutOff>) -> Self {
        let Some(file) = id else {
            return Self::new(id, None);
        };
        let mut open = open_files();
        let opened = open.entry(file).or_insert_with(|| Opened {
            times: 0,
            cut_off: look(),
        });
        opened.times += 1;
        Self::new(id, opened.cut_off)
    }

    fn new(id: Option<FileId>, cut_off: Option<CutOff>) -> Self {
        Self {
            id,
            place: None,
            cut_off,
            log: OnceLock::new(),
        }
    }

    /// Notes the files of the log that the writer's connection has open. They stay the same while it has them open:
    /// SQLite deletes them only with the last connection.
    pub(crate) fn note_log(&self) {
        let Some(place) = &self.place else { return };
        let log = LOG_SUFFIXES.map(|suffix| id_of(&place.beside(suffix)));
        self.log.get_or_init(|| log);
    }

    /// Refuses to go on when the database or its log were moved, deleted or replaced since they were opened. What is
    /// written to a deleted file is gone when it is closed, and what is written to a moved one is not looked for
    /// there. Beside another log, or with other locks, two processes would write over each other's pages.
    pub(crate) fn refuse_moved(&self, db: &Db) -> Result<()> {
        let Some(place) = &self.place else {
            return Ok(());
        };
        if is_moved(place.path(), self.id) {
            return Err(StoreError::FileMoved {
                path: db.path().to_owned(),
                is_log: false,
            });
        }
        let noted = self.log.get().copied().unwrap_or_default();
        for (suffix, opened) in LOG_SUFFIXES.into_iter().zip(noted) {
            if is_moved(&place.beside(suffix), opened) {
                return Err(StoreError::FileMoved {
                    path: db.beside(suffix),
                    is_log: true,
                });
            }
        }
        Ok(())
    }

    /// Whether the file seemed to be cut off before this process opened it. It is, where SQLite finds it
    /// damaged.
    pub(crate) fn cut_off(&self) -> Option<CutOff> {
        self.cut_off
    }

    /// Whether `path` leads to this file.
    pub(crate) fn is_at(&self, path: &Path) -> bool {
        self.id.is_some() && id_of(path) == self.id
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let mut open = open_files();
        if let Some(opened) = open.get_mut(&id) {
            opened.times -= 1;
            if opened.times == 0 {
                open.remove(&id);
            }
        }
    }
}

/// Whether this process has the file at `path` open.
pub(crate) fn is_open(path: &Path) -> bool {
    is_among(&open_files(), path)
}

fn is_among(open: &HashMap<FileId, Opened>, path: &Path) -> bool {
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

    #[test]
    fn where_a_file_is_does_not_depend_on_the_working_directory() {
        let noted = OpenFile::note(Path::new("h.db"));
        assert!(noted.place.as_ref().unwrap().path().is_absolute());
    }
}
