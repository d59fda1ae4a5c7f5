//! Which files to import: those named, and those that hold agent lines in folders that are named.

use std::collections::HashSet;
use std::fs::{self, Metadata};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::io::Errno;
use walkdir::WalkDir;

use super::Skipped;
use crate::error::{Exit, Failure, Result, plain_io};

/// Endings of files that hold agent lines.
pub const ENDINGS: [&str; 2] = ["jsonl", "ndjson"];

/// A file to import.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The path to open and to show.
    pub path: PathBuf,
    /// Absolute path without symbolic links: the file's identity.
    pub canonical: PathBuf,
    /// Path below the folder that was named; the file's name when it was named itself.
    pub relative: PathBuf,
    /// Its size now.
    pub bytes: u64,
    /// When it was last modified, as far as the system knows.
    pub modified: Option<SystemTime>,
}

/// Whether a file's name says that it holds agent lines.
#[must_use]
pub fn has_line_ending(path: &Path) -> bool {
    path.extension()
        .is_some_and(|e| ENDINGS.iter().any(|known| e.eq_ignore_ascii_case(known)))
}

/// Finds the files below `paths`, each once, in the order of their names. What cannot be looked
/// at goes to `skipped`; a path that does not exist, or a folder that holds nothing to import, is
/// an error, because then the command is not what its author meant.
///
/// # Errors
/// As above; of kind `interrupted` when `go_on`, asked at each file and folder, says so.
pub fn find(
    paths: &[PathBuf],
    skipped: &mut Vec<Skipped>,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in paths {
        let metadata = match fs::metadata(path) {
            // Standard input, for most programs.
            Err(_) if path == Path::new("-") => return Err(no_file(path)),
            other => other.map_err(|e| Failure::io("import", path, &e))?,
        };
        if metadata.is_dir() {
            let before = (found.len(), skipped.len());
            find_below(path, &mut found, skipped, go_on)?;
            if before == (found.len(), skipped.len()) {
                return Err(nothing_in(path));
            }
        } else if metadata.is_file() {
            let relative = path.file_name().map_or_else(|| path.clone(), PathBuf::from);
            found.push(entry(path, relative, Some(&metadata))?);
        } else {
            return Err(no_file(path));
        }
    }
    // A file that is reached in several ways is one file. The way without links gives its relative path.
    let mut seen = HashSet::new();
    let (direct, linked): (Vec<_>, Vec<_>) = found
        .into_iter()
        .partition(|f| f.canonical.ends_with(&f.relative));
    Ok(direct
        .into_iter()
        .chain(linked)
        .filter(|f| seen.insert(f.canonical.clone()))
        .collect())
}

fn find_below(
    root: &Path,
    found: &mut Vec<Found>,
    skipped: &mut Vec<Skipped>,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<()> {
    for item in WalkDir::new(root).follow_links(true).sort_by_file_name() {
        if go_on().is_break() {
            let what = format!("interrupted while looking for files in {}", root.display());
            return Err(Failure::new(Exit::Interrupted, what).why("nothing was imported"));
        }
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                if error.depth() == 0 {
                    return Err(refused_root(root, &error));
                }
                skipped.push(refused(root, &error));
                continue;
            }
        };
        if item.file_type().is_dir() || !has_line_ending(item.path()) {
            continue;
        }
        if !item.file_type().is_file() {
            let why = "it is neither a file nor a folder";
            skipped.push(Skipped::new(
                item.path(),
                why,
                "nothing, if you do not expect history in it",
            ));
            continue;
        }
        let relative = item
            .path()
            .strip_prefix(root)
            .unwrap_or(item.path())
            .to_path_buf();
        match entry(item.path(), relative, item.metadata().ok().as_ref()) {
            Ok(entry) => found.push(entry),
            Err(failure) => skipped.push(Skipped::of_failure(item.path(), failure)),
        }
    }
    Ok(())
}

fn entry(path: &Path, relative: PathBuf, metadata: Option<&Metadata>) -> Result<Found> {
    let canonical = fs::canonicalize(path).map_err(|e| Failure::io("import", path, &e))?;
    Ok(Found {
        path: path.to_path_buf(),
        canonical,
        relative,
        bytes: metadata.map_or(0, Metadata::len),
        modified: metadata.and_then(|metadata| metadata.modified().ok()),
    })
}

fn no_file(path: &Path) -> Failure {
    Failure::new(Exit::Usage, format!("cannot import {}", path.display()))
        .why("it is neither a file nor a folder")
        .hint("save its lines to a file first, and import that")
}

fn nothing_in(folder: &Path) -> Failure {
    Failure::new(
        Exit::NotFound,
        format!("{} holds no sessions", folder.display()),
    )
    .why("there is no *.jsonl or *.ndjson file in it or below it")
    .hint("name a file itself to import it whatever its ending")
}

fn refused_root(root: &Path, error: &walkdir::Error) -> Failure {
    match error.io_error() {
        Some(io) => Failure::io("import", root, io),
        None => Failure::new(
            Exit::Internal,
            format!("cannot import {}: {error}", root.display()),
        ),
    }
}

const TRY_PERMISSIONS: &str =
    "check its permissions, then import again: only what is new is imported";

/// What to try about a file or folder that was found and cannot be read.
pub(super) fn hint_to_read(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "nothing, if it was to go: it was deleted or renamed while the import ran; otherwise import again"
        }
        io::ErrorKind::InvalidFilename => {
            "change into a folder near it and import from there: the whole path is too long for the system"
        }
        _ if Errno::from_io_error(error) == Some(Errno::MFILE) => {
            "raise the limit of open files (ulimit -n), then import again: only what is new is imported"
        }
        _ => TRY_PERMISSIONS,
    }
}

fn refused(root: &Path, error: &walkdir::Error) -> Skipped {
    let path = error.path().unwrap_or(root);
    if let Some(ancestor) = error.loop_ancestor() {
        let why = format!("the link leads back to {}", ancestor.display());
        return Skipped::new(path, why, "remove the link; what it leads to was read once");
    }
    let why = error.io_error().map_or_else(|| error.to_string(), plain_io);
    let hint = if path.is_symlink() && !path.exists() {
        "nothing, if you do not expect history there: it is a link, and what it leads to is not there"
    } else {
        error.io_error().map_or(TRY_PERMISSIONS, hint_to_read)
    };
    Skipped::new(path, why, hint)
}

/// The bytes of a path, as the store keeps them.
#[must_use]
pub fn path_bytes(path: &Path) -> Vec<u8> {
    path.as_os_str().as_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn permissions_are_suggested_only_where_they_may_be_the_cause() {
        for (code, suggested) in [
            (Errno::NOENT, "deleted or renamed while the import ran"),
            (Errno::MFILE, "ulimit -n"),
            (Errno::NAMETOOLONG, "change into a folder near it"),
            (Errno::ACCESS, "check its permissions"),
        ] {
            let hint = hint_to_read(&code.into());
            assert!(hint.contains(suggested), "{code}: {hint}");
        }
    }

    fn find(paths: &[PathBuf], skipped: &mut Vec<Skipped>) -> Result<Vec<Found>> {
        super::find(paths, skipped, &mut || ControlFlow::Continue(()))
    }

    fn names(found: &[Found]) -> Vec<String> {
        found
            .iter()
            .map(|f| f.relative.display().to_string())
            .collect()
    }

    #[test]
    fn folders_give_their_line_files_in_order_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("p/q")).unwrap();
        for name in ["b.jsonl", "a.NDJSON", "p/q/c.jsonl", "notes.md", "p/jsonl"] {
            fs::write(folder.path().join(name), "{}\n").unwrap();
        }
        let mut skipped = Vec::new();
        let found = find(&[folder.path().to_path_buf()], &mut skipped).unwrap();
        assert_eq!(names(&found), ["a.NDJSON", "b.jsonl", "p/q/c.jsonl"]);
        assert!(skipped.is_empty());
    }

    #[test]
    fn a_link_that_leads_back_is_named_and_does_not_hang() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("p")).unwrap();
        fs::write(folder.path().join("p/a.jsonl"), "{}\n").unwrap();
        symlink(folder.path(), folder.path().join("p/again")).unwrap();
        symlink("self.jsonl", folder.path().join("self.jsonl")).unwrap();
        let mut skipped = Vec::new();
        let found = find(&[folder.path().to_path_buf()], &mut skipped).unwrap();
        assert_eq!(names(&found), ["p/a.jsonl"]);
        assert_eq!(skipped.len(), 2, "{skipped:?}");
    }

    #[test]
    fn a_file_reached_twice_counts_once_under_its_own_name() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("real")).unwrap();
        fs::write(folder.path().join("real/a.jsonl"), "{}\n").unwrap();
        symlink(folder.path().join("real"), folder.path().join("alias")).unwrap();
        let root = folder.path().to_path_buf();
        let found = find(&[root.clone(), root], &mut Vec::new()).unwrap();
        assert_eq!(names(&found), ["real/a.jsonl"]);
    }

    #[test]
    fn a_missing_path_and_a_folder_without_sessions_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let missing = find(&[folder.path().join("gone")], &mut Vec::new()).unwrap_err();
        assert_eq!(missing.exit, Exit::NotFound);
        let empty = find(&[folder.path().to_path_buf()], &mut Vec::new()).unwrap_err();
        assert_eq!(empty.exit, Exit::NotFound);
    }
}
