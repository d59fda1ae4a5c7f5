//! Finds records of files that may be the given one although its path and relative path are unknown. Whether
//! they are is decided by comparing bytes.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::fs;
use std::iter;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use betcode_storage::{ErrorKind, ImportRecord, StoreError};

use super::Run;
use super::identity;
use super::walk::{Found, path_bytes};
use crate::export::paths;

/// The records, sorted by imported bytes, most first:
///
/// - of files that stood at the same place below another folder, where another part of the path was named:
///   `projects` then, `projects/my-project` now, or the other way round;
/// - of the file's own name, if the imported file is gone: its folder was renamed;
/// - of the name without the number that an export has appended.
pub(super) fn records(run: &Run<'_>, found: &Found) -> Result<Vec<ImportRecord>, StoreError> {
    let mut records = Vec::new();
    for place in ends(&found.canonical).filter(|end| *end != found.relative) {
        records.extend(run.store.imports_by_relative_path(&path_bytes(place))?);
    }
    if let Some(unnumbered) = paths::without_number(&found.relative) {
        records.extend(
            run.store
                .imports_by_relative_path(&path_bytes(&unnumbered))?,
        );
    }
    records.extend(of_same_name(run, found)?);
    // A file that is still in the named folder is a file of its own: an export must write all of them back.
    let folder = folder_named(found);
    records.retain(|record| !source(record).starts_with(folder) || !is_still_there(record));
    records.sort_by_key(|record| Reverse(record.mark.taken_bytes));
    Ok(records)
}

/// The record of the session that the file's name would be the id of.
fn of_same_name(run: &Run<'_>, found: &Found) -> Result<Option<ImportRecord>, StoreError> {
    let stem = found.relative.file_stem().unwrap_or_default();
    let Some(id) = identity::ids(stem.as_bytes(), b"").next() else {
        return Ok(None);
    };
    let record = match run.store.import_of(&id) {
        Ok(record) => record,
        // Damage in another session must not stop this file.
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Damaged) => None,
        Err(error) => return Err(error),
    };
    Ok(record.filter(|record| {
        let source = source(record);
        let is_at_same_place = ends(source).any(|end| end == found.relative);
        let has_same_name = source.file_name() == found.canonical.file_name();
        is_at_same_place || (has_same_name && !is_still_there(record))
    }))
}

/// Whether the imported file still exists and is not shorter.
pub(super) fn is_still_there(record: &ImportRecord) -> bool {
    fs::metadata(source(record))
        .is_ok_and(|file| file.is_file() && file.len() >= record.mark.taken_bytes)
}

/// The folder below which the file was found.
fn folder_named(found: &Found) -> &Path {
    let names = match found.canonical.ends_with(&found.relative) {
        true => found.relative.components().count(),
        // A link led to it.
        false => 1,
    };
    let folder = found.canonical.ancestors().nth(names);
    folder.unwrap_or(Path::new("/"))
}

/// The path of the imported file.
fn source(record: &ImportRecord) -> &Path {
    Path::new(OsStr::from_bytes(&record.mark.source_path))
}

/// The ends of a path that name a folder besides the file, the shortest last.
fn ends(path: &Path) -> impl Iterator<Item = &Path> {
    let mut names = path.components();
    iter::from_fn(move || {
        names.next()?;
        Some(names.as_path())
    })
    .filter(|end| end.components().nth(1).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_of_a_path_has_a_folder_and_a_name() {
        let of = |path| ends(Path::new(path)).collect::<Vec<_>>();
        assert_eq!(
            of("/a/b/c.jsonl"),
            [Path::new("a/b/c.jsonl"), Path::new("b/c.jsonl")]
        );
        assert!(of("/c.jsonl").is_empty() && of("").is_empty());
    }
}
