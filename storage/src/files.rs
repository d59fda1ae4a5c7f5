//! The files around a database: birth with the right permissions, and what a file is before
//! SQLite touches it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use betcode_schema_sql::{APPLICATION_ID, SCHEMA_VERSION};

use crate::error::{Result, StoreError};
use crate::sql::db::Db;

const SQLITE_MAGIC: &[u8; 16] = b"SQLite format 3\0";
const SQLITE_HEADER_BYTES: usize = 100;
const USER_VERSION_AT: usize = 60;
const APPLICATION_ID_AT: usize = 68;

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

/// Creates the database's folder (0700) and an empty file (0600) where there is none: history
/// holds what people typed and what their machines answered.
pub(crate) fn create_private(path: &Path) -> Result<()> {
    if let Some(folder) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(io_error("create the folder", folder))?;
    }
    match OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(io_error("create", path)(error)),
    }
}

/// Refuses a file that is not a history store, or a newer one, by reading its first bytes:
/// SQLite is not asked, because opening may already change something.
pub(crate) fn refuse_unknown(db: &Db) -> Result<()> {
    let path = db.path();
    let mut header = Vec::with_capacity(SQLITE_HEADER_BYTES);
    match File::open(path) {
        Ok(file) => {
            if file.metadata().is_ok_and(|m| !m.is_file()) {
                let why = "it is not a regular file".into();
                return Err(StoreError::Foreign {
                    path: path.to_owned(),
                    why,
                });
            }
            file.take(SQLITE_HEADER_BYTES as u64)
                .read_to_end(&mut header)
                .map_err(io_error("read", path))?;
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(io_error("open", path)(error)),
    }
    if header.is_empty() {
        return Ok(());
    }
    let foreign = |why: String| {
        Err(StoreError::Foreign {
            path: path.to_owned(),
            why,
        })
    };
    if header.len() < SQLITE_HEADER_BYTES {
        return foreign(format!(
            "it has {} bytes, and a database has 100 at least",
            header.len()
        ));
    }
    if !header.starts_with(SQLITE_MAGIC) {
        return foreign("it is not an SQLite database".into());
    }
    let number = |at: usize| {
        let bytes: [u8; 4] = std::array::from_fn(|i| header.get(at + i).copied().unwrap_or(0));
        i32::from_be_bytes(bytes)
    };
    let (application_id, version) = (number(APPLICATION_ID_AT), number(USER_VERSION_AT));
    // A store that has not been checkpointed since its birth has its real header in the WAL;
    // SQLite then tells (see `migrate::inspect`).
    let unborn = application_id == 0 && version == 0;
    if application_id != APPLICATION_ID && !unborn {
        return foreign(format!("its application_id is {application_id:#x}"));
    }
    if application_id == APPLICATION_ID && i64::from(version) > i64::from(SCHEMA_VERSION) {
        let (found, known) = (i64::from(version), SCHEMA_VERSION);
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found,
            known,
        });
    }
    Ok(())
}

/// Refuses to make a database where the log of another one waits: SQLite reads it into a copy that
/// is put there, and deletes it beside an empty file. `db` itself must not be there.
pub(crate) fn refuse_stray_log(db: &Db) -> Result<()> {
    for suffix in ["-wal", "-journal"] {
        let log = db.beside(suffix);
        if std::fs::metadata(&log).is_ok_and(|metadata| metadata.len() > 0) {
            return Err(StoreError::StrayLog { log });
        }
    }
    Ok(())
}

/// Bytes that the file system of `path` has left for us; `None` when it does not tell.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let folder = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let stat = rustix::fs::statvfs(folder).ok()?;
    (stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Name of the network file system that holds `path`, when it is one: SQLite's locks and shared
/// memory do not work across machines.
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
