//! Writes a file completely or not at all, in folders that no symbolic link leads out of.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use betcode_storage::belongs_to_database;
use rustix::fs::OFlags;

use super::content;
use crate::error::{Exit, Failure, Result};
use crate::limits::{FILE_BUFFER_BYTES, UNFINISHED_MS_MIN, UNFINISHED_RANDOM_BYTES};

/// How the names of unfinished files begin.
const UNFINISHED_PREFIX: &str = ".betcode-export-";
/// Where a file is to stand.
#[derive(Clone, Copy)]
pub(super) struct ExportTarget<'a> {
    pub(super) out: &'a Path,
    /// Below `out`.
    pub(super) path: &'a Path,
    pub(super) force: bool,
}

impl ExportTarget<'_> {
    pub(super) fn target(&self) -> PathBuf {
        self.out.join(self.path)
    }
}

/// Takes a piece of a file; `Break` ends it.
pub(super) type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<ControlFlow<()>>;

/// Writes a file whole or not at all; `None` when it was interrupted. Says whether it was there
/// already.
pub(super) fn write_whole_file(
    place: &ExportTarget<'_>,
    fill: &mut dyn FnMut(Sink<'_>) -> Result<content::Written>,
    observe: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<Option<(content::Written, bool)>> {
    let (out, path, force) = (place.out, place.path, place.force);
    let target = out.join(path);
    let folder = make_folders_below(out, path)?;
    let there = match fs::symlink_metadata(&target) {
        Ok(metadata) if !metadata.is_file() => {
            return Err(
                Failure::new(Exit::Conflict, "something that is no file is in the way")
                    .hint("move it away, or export to an empty folder"),
            );
        }
        Ok(_) => true,
        Err(_) => false,
    };
    // Also where there is no such file yet: SQLite would read a new file of that name as the database's log.
    if belongs_to_database(&target) {
        return Err(Failure::database_in_the_way(&target));
    }
    // The temporary name ends in nothing that an import would take for history.
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED_PREFIX)
        .rand_bytes(UNFINISHED_RANDOM_BYTES)
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(&folder)
        .map_err(|e| Failure::io("write to the folder", &folder, &e))?;
    // Tells a sweep that somebody is at it. Where there are no locks, there is no sweep either.
    let _ = file.as_file().lock();
    let mut writer = BufWriter::with_capacity(FILE_BUFFER_BYTES, file.as_file_mut());
    // Whoever calls names the file.
    let unwritten = |error: io::Error| Failure::io("write", &target, &error).shortened();
    let mut interrupted = false;
    let written = fill(&mut |piece| {
        writer.write_all(piece).map_err(unwritten)?;
        let flow = observe(piece.len() as u64);
        interrupted |= flow.is_break();
        Ok(flow)
    })?;
    if interrupted {
        return Ok(None);
    }
    writer.flush().map_err(unwritten)?;
    drop(writer);
    if there {
        let same = content::same_files(file.path(), &target);
        if same.map_err(|e| Failure::io("read", &target, &e))? {
            return Ok(Some((written, true)));
        }
        if !force {
            return Err(
                Failure::new(Exit::Conflict, "a file with other content is there")
                    .hint("export to an empty folder, or replace it with --force"),
            );
        }
    }
    // On disk before it gets its name: a crash leaves the old file or the new one.
    file.as_file().sync_all().map_err(unwritten)?;
    file.persist(&target).map_err(|e| unwritten(e.error))?;
    Ok(Some((written, false)))
}

/// Removes what an export that was killed left in `folder`. One that is under way holds a lock.
pub(super) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        if is_unfinished(&entry.file_name()) && is_abandoned(&entry.path()) {
            // Left for the next time when it cannot be removed.
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Whether it is a name that an export gives.
fn is_unfinished(name: &OsStr) -> bool {
    let random = name
        .as_encoded_bytes()
        .strip_prefix(UNFINISHED_PREFIX.as_bytes());
    random.is_some_and(|random| {
        random.len() == UNFINISHED_RANDOM_BYTES && random.iter().all(u8::is_ascii_alphanumeric)
    })
}

/// Whether it is a file that nobody holds or has written to for long. Links are not followed, and pipes not waited for.
fn is_abandoned(path: &Path) -> bool {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let opened = File::options()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path);
    opened.is_ok_and(|file| {
        let is_old_file = file.metadata().is_ok_and(|metadata| {
            let written = metadata.modified().ok();
            let age = written.and_then(|written| written.elapsed().ok());
            metadata.is_file()
                && age.is_some_and(|age| age >= Duration::from_millis(UNFINISHED_MS_MIN))
        });
        is_old_file && file.try_lock().is_ok()
    })
}

/// Whether `path` below `out` names folders alone, and no link to one.
pub(super) fn leads_through_folders(out: &Path, path: &Path) -> bool {
    let mut folder = out.to_path_buf();
    path.components().all(|name| {
        folder.push(name);
        fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir())
    })
}

/// Makes a folder and those above it, for its owner alone; one that is there is left as it is.
pub(super) fn make_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Makes the folders of `path` below `out`, and refuses to follow links that stand there.
fn make_folders_below(out: &Path, path: &Path) -> Result<PathBuf> {
    let mut folder = out.to_path_buf();
    for component in path.parent().into_iter().flat_map(Path::components) {
        if let Component::Normal(name) = component {
            folder.push(name);
        }
        match fs::symlink_metadata(&folder) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => {
                return Err(Failure::new(
                    Exit::Conflict,
                    format!("{} is in the way", folder.display()),
                )
                .why("it is a link or a file, and a folder is needed there")
                .hint("move it away, or export to an empty folder"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make_folder(&folder).map_err(|e| Failure::io("create the folder", &folder, &e))?;
            }
            Err(error) => return Err(Failure::io("look at", &folder, &error)),
        }
    }
    Ok(folder)
}
