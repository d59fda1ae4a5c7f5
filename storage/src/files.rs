//! The files around a database: creating them with the right permissions, and checking what a file is before
//! SQLite opens it.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use betcode_schema_sql::{APPLICATION_ID, SCHEMA_VERSION};
use rustix::io::Errno;

use crate::capacity::text;
use crate::error::{Argument, Result, StoreError};
use crate::limits::{FULL_PROBE_BYTES, PAGE_BYTES};
use crate::open_files;
use crate::sql::db::Db;
use crate::sqlite_header::{FileBegin, MAGIC, SqliteHeader};

/// What the name of a copy ends with until it is whole.
pub(crate) const PARTIAL: &str = ".partial";

pub(crate) fn io_error(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(std::io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        action,
        path,
        source,
    }
}

/// The file that a path leads to when it is a symbolic link, or a link to a link. SQLite keeps a
/// database's log beside the file, not beside the link: so does everything else of a store.
///
/// A path that is no link comes back as it is, whether or not there is anything.
///
/// # Examples
/// ```
/// use std::path::Path;
///
/// assert_eq!(betcode_storage::resolve_links(Path::new("no/link.db")), Path::new("no/link.db"));
/// ```
#[must_use]
pub fn resolve_links(path: &Path) -> PathBuf {
    // As many as Linux follows; opening a longer chain, or a loop, fails in the system.
    const LINKS_MAX: usize = 40;
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let Ok(target) = std::fs::read_link(&path) else {
            break;
        };
        path = path.parent().unwrap_or(Path::new("")).join(target);
    }
    path
}

/// Whether two paths lead to one file, by whatever names. A missing file is not the same as any.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| std::fs::metadata(path).map(|m| (m.dev(), m.ino())).ok();
    identity(one).is_some_and(|one| Some(one) == identity(other))
}

/// Whether an SQLite database stands at `path`, or a file that belongs to one, such as its log:
/// nothing that is written for people may take its place.
#[must_use]
pub fn belongs_to_database(path: &Path) -> bool {
    let path = &resolve_links(path);
    is_database(path) || database_beside(path).is_some()
}

/// Whether this process has the store at `path` open, or the store that the file belongs to. Only SQLite may open
/// such a file: closing it would drop the locks that keep other processes from deleting the log.
#[must_use]
pub fn belongs_to_open_store(path: &Path) -> bool {
    let path = &resolve_links(path);
    open_files::is_open(path) || databases_beside(path).any(open_files::is_open)
}

/// The database to whose own files this name belongs, whether or not there is such a file.
fn database_beside(path: &Path) -> Option<&Path> {
    databases_beside(path).find(|main| is_database(main))
}

/// What the database would be called to whose own files this name belongs.
fn databases_beside(path: &Path) -> impl Iterator<Item = &Path> {
    const SUFFIXES: [&str; 6] = [
        "-wal",
        "-shm",
        "-journal",
        "-reserve",
        "-compaction.lock",
        "-daemon.lock",
    ];
    let name = path.as_os_str().as_bytes();
    SUFFIXES
        .iter()
        .filter_map(|suffix| name.strip_suffix(suffix.as_bytes()))
        .map(|main| Path::new(OsStr::from_bytes(main)))
}

/// Refuses to take the name of another database's log, reserve or lock for a store: such a file
/// belongs to that database, and is overwritten or deleted by any process that has it open.
pub(crate) fn refuse_name_of_log(path: &Path) -> Result<()> {
    match database_beside(path) {
        None => Ok(()),
        Some(main) => Err(StoreError::InvalidArgument {
            what: Argument::DatabasePath,
            why: format!(
                "{} belongs to the database {}",
                path.display(),
                main.display()
            ),
        }),
    }
}

/// Refuses a name for something new that would not last: also that of a copy under way, which the
/// next copy removes, and one that leaves no room for the names of the files beside it.
pub(crate) fn refuse_new_name(path: &Path) -> Result<()> {
    /// Bytes that Linux takes as a name, less the longest that is appended to that of a database.
    const NAME_BYTES_MAX: usize = 255 - "-compaction.lock".len();
    refuse_name_of_log(path)?;
    let bytes = path.file_name().map_or(0, OsStr::len);
    if bytes > NAME_BYTES_MAX {
        return Err(StoreError::InvalidArgument {
            what: Argument::DatabasePath,
            why: format!(
                "it has {bytes} bytes, and the names of its log and locks, which continue it, leave \
                 room for {NAME_BYTES_MAX}"
            ),
        });
    }
    if path.as_os_str().as_bytes().ends_with(PARTIAL.as_bytes()) {
        return Err(StoreError::InvalidArgument {
            what: Argument::DatabasePath,
            why: format!(
                "{} ends as a copy does that is under way, which the next one removes",
                path.display()
            ),
        });
    }
    Ok(())
}

fn is_database(path: &Path) -> bool {
    // Asked first: opening a pipe would wait for somebody to write to it.
    path.is_file()
        && open_files::unless_open(path, || {
            let mut begin = [0; MAGIC.len()];
            let read = File::open(path).and_then(|mut file| file.read_exact(&mut begin));
            read.is_ok() && begin == *MAGIC
        })
        .unwrap_or(true)
}

/// Creates the database's folder (0700) and an empty file (0600) where there is none: history
/// holds what people typed and what their machines answered.
///
/// An empty file that is there becomes as private, where this user may say so.
pub(crate) fn create_private(path: &Path) -> Result<()> {
    let is_empty = |there: Metadata| there.is_file() && there.len() == 0;
    if create_private_new(path)?.is_none() && std::fs::metadata(path).is_ok_and(is_empty) {
        let _ = std::fs::set_permissions(path, Permissions::from_mode(0o600));
    }
    Ok(())
}

/// Creates a folder, and those that it is in, where there is none. Their names are on disk then: what is in
/// a folder that a loss of power takes away is gone as well.
fn create_private_folder(folder: &Path) -> Result<()> {
    let is_new = |folder: &&Path| !folder.exists();
    let named = folder.ancestors().filter(|f| !f.as_os_str().is_empty());
    let new: Vec<_> = named.take_while(is_new).collect();
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(io_error("create the folder", folder))?;
    for made in new {
        // As far as this user may: a folder that cannot be read is not opened for it.
        if let Err(error) = sync_folder(folder_of(made)) {
            tracing::debug!(%error, "the name of a new folder may not outlast a loss of power");
        }
    }
    Ok(())
}

/// Puts the names in a folder on disk.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(io_error("sync the folder", folder))
}

/// As [`create_private`]; the file if there was none.
pub(crate) fn create_private_new(path: &Path) -> Result<Option<File>> {
    create_private_folder(folder_of(path))?;
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(io_error("create", path)(error)),
    }
}

/// Refuses a file that is not a history store, or a newer one, by reading its first bytes:
/// SQLite is not asked, because opening may already change something. A file that this process
/// has open is known, and its locks would not outlive a look at it.
pub(crate) fn refuse_unknown(db: &Db) -> Result<Header> {
    open_files::unless_open(db.path(), || read_header(db)).unwrap_or(Ok(Header::Known))
}

/// What a file's first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    /// There is nothing, or a store of ours.
    Known,
    /// A database that does not say whose it is: most programs' are like this, and so is a store that
    /// has not been checkpointed since its birth, whose real header is in the log. Only SQLite can decide.
    Unidentified,
}

fn read_header(db: &Db) -> Result<Header> {
    let path = db.path();
    let foreign = |why: String| {
        Err(StoreError::Foreign {
            path: path.to_owned(),
            why,
        })
    };
    // Asked first: opening a pipe would wait for somebody to write to it.
    if std::fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return foreign("it is not a regular file".into());
    }
    let begin = match File::open(path) {
        Ok(mut file) => FileBegin::read(&mut file).map_err(io_error("read", path))?,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Header::Known),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    let SqliteHeader {
        page_bytes,
        user_version,
        application_id,
        ..
    } = match begin {
        FileBegin::Empty => return Ok(Header::Known),
        FileBegin::Short(bytes) => {
            return foreign(format!(
                "it has {bytes} bytes, and a database has 100 at least"
            ));
        }
        FileBegin::Other => return foreign("it is not an SQLite database".into()),
        FileBegin::Database(header) => header,
    };
    if application_id != APPLICATION_ID && (application_id, user_version) != (0, 0) {
        return foreign(format!("its application_id is {application_id:#x}"));
    }
    if page_bytes != PAGE_BYTES {
        return foreign(format!(
            "its pages have {} bytes, and those of a store have {}",
            text::count(page_bytes.into()),
            text::count(PAGE_BYTES.into())
        ));
    }
    if application_id == 0 {
        return Ok(Header::Unidentified);
    }
    if i64::from(user_version) > i64::from(SCHEMA_VERSION) {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: user_version.into(),
            known: SCHEMA_VERSION,
        });
    }
    Ok(Header::Known)
}

/// Refuses to make a database where the log of another one waits: SQLite reads it into a copy that
/// is put there, and deletes it beside an empty file. `db` itself must not be there.
pub(crate) fn refuse_stray_log(db: &Db) -> Result<()> {
    match log_with_content(db) {
        Some(log) => Err(StoreError::StrayLog { log }),
        None => Ok(()),
    }
}

/// The log beside a database, if there is anything in it.
pub(crate) fn log_with_content(db: &Db) -> Option<PathBuf> {
    ["-wal", "-journal"]
        .map(|suffix| db.beside(suffix))
        .into_iter()
        .find(|log| std::fs::metadata(log).is_ok_and(|metadata| metadata.len() > 0))
}

/// Whether this user may write to a file, or make files in a folder. Nothing is tried out.
pub(crate) fn is_writable(path: &Path) -> bool {
    let mut access = rustix::fs::Access::WRITE_OK;
    if path.is_dir() {
        access |= rustix::fs::Access::EXEC_OK;
    }
    let flags = rustix::fs::AtFlags::EACCESS;
    let answer = rustix::fs::accessat(rustix::fs::CWD, path, access, flags);
    !matches!(answer, Err(Errno::ACCESS | Errno::PERM | Errno::ROFS))
}

/// How large the file system of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disk {
    /// Bytes that it has left for us.
    pub(crate) free_bytes: u64,
    /// Bytes that it holds at most, free and taken.
    pub(crate) total_bytes: u64,
}

/// The file system of `path`; `None` when its size is unknown.
pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let stat = rustix::fs::statvfs(folder_of(path)).ok()?;
    (stat.f_blocks > 0).then(|| Disk {
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Bytes that the file system of `path` has left for us; `None` when unknown.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    disk(path).map(|disk| disk.free_bytes)
}

/// Whether the file system really accepts this many more bytes, tried with an unnamed temporary file; false
/// as well where that cannot be tried. statvfs may count space that is reserved for root, or ignore quotas.
pub(crate) fn takes_bytes(path: &Path, bytes: u64) -> bool {
    try_to_hold(path, bytes).is_ok()
}

/// Whether a small file beside `path` meets a full disk, or the end of a user's quota.
pub(crate) fn is_full(path: &Path) -> bool {
    matches!(
        try_to_hold(path, FULL_PROBE_BYTES),
        Err(Errno::NOSPC | Errno::DQUOT)
    )
}

/// What the system says against one more file beside `path`, such as that its file system is read-only: the mount's
/// flags do not say so when the kernel made it so.
pub(crate) fn errno_of_new_file(path: &Path) -> Option<Errno> {
    let error = tempfile::tempfile_in(folder_of(path)).err()?;
    Errno::from_io_error(&error)
}

fn try_to_hold(path: &Path, bytes: u64) -> Result<(), Errno> {
    let file = tempfile::tempfile_in(folder_of(path))
        .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, bytes)
}

/// The folder that a file is in.
pub(crate) fn folder_of(path: &Path) -> &Path {
    path.parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

/// Name of the network file system that holds `path`, when it is one: SQLite's locks and shared
/// memory do not work across machines.
#[cfg(target_os = "linux")]
pub(crate) fn network_file_system(path: &Path) -> Option<&'static str> {
    let stat = rustix::fs::statfs(path).ok()?;
    // Magic numbers from linux/magic.h.
    Some(match stat.f_type as u64 & 0xffff_ffff {
        0x6969 => "NFS",
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => "SMB",
        0x0102_1997 => "9p",
        0x5346_414f => "AFS",
        0x00c3_6400 => "Ceph",
        0x786f_4256 => "a VirtualBox shared folder",
        _ => return None,
    })
}

/// The same where file systems have names instead of numbers.
#[cfg(target_vendor = "apple")]
pub(crate) fn network_file_system(path: &Path) -> Option<&'static str> {
    let stat = rustix::fs::statfs(path).ok()?;
    let name = stat.f_fstypename.map(|byte| byte as u8);
    Some(match name.split(|&byte| byte == 0).next()? {
        b"nfs" => "NFS",
        b"smbfs" => "SMB",
        b"afpfs" => "AFP",
        b"webdav" => "WebDAV",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::StoreOptions;
    use crate::store::Store;

    /// POSIX locks that this process has on a file, as Linux lists them for what it has open. The
    /// list of all processes' locks is read in pieces, and leaves some out when others come and go.
    fn locks_on(path: &Path) -> usize {
        let file = format!(":{}", std::fs::metadata(path).unwrap().ino());
        let is_on_file = |line: &&str| {
            line.starts_with("lock:")
                && line.contains("POSIX")
                && line.split_whitespace().any(|word| word.ends_with(&file))
        };
        std::fs::read_dir("/proc/self/fdinfo")
            .unwrap()
            // The one of this very listing has gone.
            .filter_map(|open| std::fs::read_to_string(open.unwrap().path()).ok())
            .map(|info| info.lines().filter(is_on_file).count())
            .sum()
    }

    #[test]
    fn a_look_at_a_file_that_this_process_has_open_takes_none_of_its_locks() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("s.db"), folder.path().join("link.db"));
        let options = StoreOptions {
            reserve_bytes: 0,
            ..StoreOptions::default()
        };
        let store = Store::open(&path, options.clone()).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let locks = locks_on(&path);
        assert!(locks > 0, "an open store holds a lock on its file");
        for name in [&path, &link] {
            refuse_unknown(&Db::at(name)).unwrap();
            assert_eq!(locks_on(&path), locks);
            let again = Store::open_read_only(name, options.clone()).unwrap();
            assert_eq!(locks_on(&path), locks);
            drop(again);
            assert_eq!(locks_on(&path), locks);
        }
        let log = folder.path().join("s.db-shm");
        for name in [&path, &link, &log] {
            assert!(belongs_to_open_store(name), "{}", name.display());
            assert_eq!(locks_on(&path), locks);
        }
        assert!(!belongs_to_open_store(&folder.path().join("other.db")));
        // A replay holds the file as long as the store itself.
        let id = "s".parse().unwrap();
        let batch = crate::message::Batch::new(id, vec![bytes::Bytes::from_static(b"x")]);
        let session = batch.session.clone();
        store.append(batch).unwrap();
        let replay = store
            .read(&session, crate::reader::ReadRange::all())
            .unwrap();
        drop(store);
        assert!(open_files::is_open(&path));
        drop(replay);
        assert!(!open_files::is_open(&path));
    }

    #[test]
    fn archiving_into_a_store_that_this_process_has_open_takes_none_of_its_locks() {
        let folder = tempfile::tempdir().unwrap();
        let options = StoreOptions {
            reserve_bytes: 0,
            ..StoreOptions::default()
        };
        let open = |name| Store::open(&folder.path().join(name), options.clone()).unwrap();
        let (store, archive) = (open("s.db"), open("archive.db"));
        for session in ["going", "staying"] {
            let line = bytes::Bytes::from_static(b"x");
            let batch = crate::message::Batch::new(session.parse().unwrap(), vec![line]);
            store.append(batch).unwrap();
        }
        let policy = crate::capacity::retention::RetentionPolicy {
            sessions: vec!["going".parse().unwrap()],
            ..Default::default()
        };
        let plan = store.plan_retention(&policy).unwrap();
        let go_on = &mut |_: &_| std::ops::ControlFlow::Continue(());
        let locks = locks_on(archive.path());
        assert!(locks > 0);
        store.retain(&plan, Some(archive.path()), go_on).unwrap();
        assert_eq!(locks_on(archive.path()), locks);
    }

    #[test]
    fn a_pipe_is_refused_without_waiting_for_somebody_to_write_to_it() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.unwrap().success());
        let refused = refuse_unknown(&Db::at(&pipe)).unwrap_err();
        assert!(matches!(refused, StoreError::Foreign { .. }), "{refused}");
    }
}
