//! How the paths of an imported file are taken apart, and by which hashes it is found: pure.

use std::collections::BTreeSet;

use xxhash_rust::xxh3::xxh3_64;

use crate::limits::IMPORT_PATH_PARTS_MAX;
use crate::message::ImportMark;
use crate::sql::signed;

const SEPARATOR: u8 = b'/';

/// How the paths of one imported file are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Paths<'a> {
    /// The path up to its last separator, which it includes.
    pub(super) folder: &'a [u8],
    pub(super) file_name: &'a [u8],
    /// Bytes of the folder that are not part of the relative path.
    pub(super) root_bytes: usize,
    /// A relative path that is no part of the path.
    pub(super) relative: Option<&'a [u8]>,
}

/// Where the last parts of a path begin, the shortest first.
pub(super) fn part_starts(path: &[u8]) -> impl Iterator<Item = usize> {
    let behind_separators = (1..=path.len()).rev();
    behind_separators
        .filter(|&at| path.get(at - 1) == Some(&SEPARATOR))
        .chain([0])
        .take(IMPORT_PATH_PARTS_MAX)
}

/// Short enough to take four bytes in a row; what it finds is compared in full.
pub(super) fn path_hash(path: &[u8]) -> i64 {
    signed(xxh3_64(path) >> 33)
}

impl<'a> Paths<'a> {
    pub(super) fn of(mark: &'a ImportMark) -> Self {
        let (source, relative) = (&*mark.source_path, &*mark.relative_path);
        let name_at = source
            .iter()
            .rposition(|&byte| byte == SEPARATOR)
            .map_or(0, |at| at + 1);
        let (folder, file_name) = source.split_at(name_at);
        let root_bytes = source
            .len()
            .checked_sub(relative.len())
            .filter(|&at| at <= name_at && source.ends_with(relative))
            .filter(|&at| part_starts(source).any(|start| start == at));
        Self {
            folder,
            file_name,
            root_bytes: root_bytes.unwrap_or_default(),
            relative: root_bytes.is_none().then_some(relative),
        }
    }

    /// The hashes by which the file is found.
    pub(super) fn hashes(mark: &ImportMark) -> BTreeSet<i64> {
        let is_part = Paths::of(mark).relative.is_none();
        let whole = (!is_part).then(|| path_hash(&mark.source_path));
        whole
            .into_iter()
            .chain([path_hash(&mark.relative_path)])
            .collect()
    }
}
