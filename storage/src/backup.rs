//! Copies of a store: before a migration, on request while writing goes on, and back.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::error::{Result, StoreError};
use crate::files::{create_private, io_error};
use crate::sql::db::Db;

/// Copies the store into a new, compact file at `to`, while others write. The file appears under
/// its name only when it is whole and on disk.
fn copy_into(db: &Db, connection: &Connection, to: &Path) -> Result<()> {
    if to.exists() {
        return Err(StoreError::FileExists {
            path: to.to_owned(),
        });
    }
    let partial = partial_name(to);
    // What a killed copy left; nobody else uses this name.
    let _ = std::fs::remove_file(&partial);
    create_private(&partial)?;
    let copied = partial
        .to_str()
        .ok_or_else(|| StoreError::InvalidArgument {
            what: "the name of the copy",
            why: format!("{} is not UTF-8, which SQLite needs", partial.display()),
        })
        .and_then(|name| db.named("copy", connection.execute("VACUUM INTO ?1", [name])))
        .and_then(|_| {
            std::fs::File::open(&partial)
                .and_then(|file| file.sync_all())
                .map_err(io_error("sync", &partial))
        });
    if copied.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    copied
}

fn partial_name(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Gives a finished copy its name. Crash point: before the rename there is only the partial file.
fn publish(to: &Path) -> Result<()> {
    std::fs::rename(partial_name(to), to).map_err(io_error("rename the copy to", to))?;
    if let Some(folder) = to.parent().filter(|p| !p.as_os_str().is_empty()) {
        std::fs::File::open(folder)
            .and_then(|folder| folder.sync_all())
            .map_err(io_error("sync the folder", folder))?;
    }
    Ok(())
}

/// Copies an older store to `<file>.v<version>.backup` before it is migrated. A copy from an
/// earlier attempt is kept: it is the older one.
pub(crate) fn before_migration(db: &Db, connection: &Connection, version: u32) -> Result<()> {
    let to = db.beside(&format!(".v{version}.backup"));
    if to.exists() {
        return Ok(());
    }
    copy_into(db, connection, &to)?;
    publish(&to)?;
    tracing::info!(path = %to.display(), version, "copied the older store before migrating it");
    Ok(())
}
