//! Where exported sessions are written: pure, so that no path read from a database can lead out
//! of the folder or onto another session's file.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use betcode_storage::SessionId;

/// Why a path is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnsafePath {
    /// Nothing is left to name a file.
    #[error("it is empty")]
    Empty,
    /// It begins at the root.
    #[error("it is absolute")]
    Absolute,
    /// It goes up.
    #[error("it contains ..")]
    Upwards,
    /// No file can be called so.
    #[error("it contains a NUL byte")]
    Nul,
}

/// Checks that a recorded path stays below the folder it is joined to.
///
/// # Errors
/// The rule it breaks.
pub fn checked(relative: &[u8]) -> Result<PathBuf, UnsafePath> {
    if relative.contains(&0) {
        return Err(UnsafePath::Nul);
    }
    let mut path = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(relative)).components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir => return Err(UnsafePath::Upwards),
            Component::RootDir | Component::Prefix(_) => return Err(UnsafePath::Absolute),
        }
    }
    if path.as_os_str().is_empty() {
        Err(UnsafePath::Empty)
    } else {
        Ok(path)
    }
}

/// Gives each session a path of its own, first come, first served: a later one that wants the
/// same gets `name~2.jsonl`, `name~3.jsonl`, ….
#[derive(Debug, Default)]
pub struct Paths {
    files: HashSet<PathBuf>,
    folders: HashSet<PathBuf>,
    /// The next number for a path, so that a thousand files of one name stay cheap.
    next: HashMap<PathBuf, u64>,
}

impl Paths {
    /// The path to use for a session that wants `wanted` (already [`checked`]).
    pub fn claim(&mut self, wanted: &Path) -> PathBuf {
        let mut folder = PathBuf::new();
        for name in wanted.parent().into_iter().flat_map(Path::components) {
            folder = self.free(&folder.join(name), false);
            self.folders.insert(folder.clone());
        }
        let path = self.free(&folder.join(wanted.file_name().unwrap_or_default()), true);
        self.files.insert(path.clone());
        path
    }

    /// `path`, or the first numbered variant of it, that names no file yet (nor a folder, when it
    /// is to be a file).
    fn free(&mut self, path: &Path, as_file: bool) -> PathBuf {
        let taken = |paths: &Self, p: &Path| {
            paths.files.contains(p) || (as_file && paths.folders.contains(p))
        };
        if !taken(self, path) {
            return path.to_path_buf();
        }
        // Folders are always numbered from 2: two sessions below a renamed folder belong together.
        let mut number = if as_file {
            self.next.get(path).copied().unwrap_or(2)
        } else {
            2
        };
        loop {
            let candidate = numbered(path, number);
            number += 1;
            if !taken(self, &candidate) {
                self.next.insert(path.to_path_buf(), number);
                return candidate;
            }
        }
    }
}

/// Bytes that Linux takes as a name.
const NAME_BYTES_MAX: usize = 255;
/// The longest number that a name gets.
const NUMBER_BYTES_MAX: usize = "~18446744073709551615".len();

/// `a/name.jsonl` → `a/name~2.jsonl`, whatever bytes the name has. A long name is cut to fit.
fn numbered(path: &Path, number: u64) -> PathBuf {
    let mut ending = format!("~{number}").into_bytes();
    let extension = path.extension().map(OsStr::as_bytes).unwrap_or_default();
    let stem = match ending.len() + 1 + extension.len() < NAME_BYTES_MAX {
        true => path.file_stem(),
        // There is no room for anything before such an ending: it is part of the name.
        false => path.file_name(),
    };
    let stem = stem.map(OsStr::as_bytes).unwrap_or_default();
    if stem.len() != path.file_name().map_or(0, OsStr::len) {
        ending.push(b'.');
        ending.extend_from_slice(extension);
    }
    let mut kept = stem.len().min(NAME_BYTES_MAX - ending.len());
    // A character stays whole, where there are characters.
    while kept < stem.len() && kept > 0 && stem.get(kept).is_some_and(|byte| byte & 0xc0 == 0x80) {
        kept -= 1;
    }
    let name = [stem.get(..kept).unwrap_or_default(), &ending].concat();
    path.with_file_name(OsStr::from_bytes(&name))
}

/// The path that [`Paths::claim`] may have made this one of, by a number after the name.
#[must_use]
pub fn without_number(path: &Path) -> Option<PathBuf> {
    let stem = path.file_stem()?.as_bytes();
    let at = stem.iter().rposition(|&byte| byte == b'~')?;
    let (name, number) = (stem.get(..at)?, stem.get(at + 1..)?);
    let number: u64 = std::str::from_utf8(number).ok()?.parse().ok()?;
    let mut wanted = path.with_file_name(OsStr::from_bytes(name));
    if let Some(extension) = path.extension() {
        wanted.as_mut_os_string().push(".");
        wanted.as_mut_os_string().push(extension);
    }
    (numbered(&wanted, number) == path).then_some(wanted)
}

/// Where what can be read of a damaged session is written: `name.salvaged.jsonl` beside where all of
/// it would stand, or under the session's id where that name would be too long.
pub fn of_salvaged(path: &Path, session: &SessionId) -> PathBuf {
    let wanted = path.with_extension("salvaged.jsonl");
    match wanted.file_name().map_or(0, OsStr::len) + NUMBER_BYTES_MAX <= NAME_BYTES_MAX {
        true => wanted,
        false => path.with_file_name(format!("{session}.salvaged.jsonl")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_number_given_by_an_export_is_taken_off_again() {
        for (numbered, wanted) in [
            ("a/s~2.jsonl", Some("a/s.jsonl")),
            ("s~2~17.jsonl", Some("s~2.jsonl")),
            ("s~2", Some("s")),
            ("s~02.jsonl", None),
            ("s~+2.jsonl", None),
            ("s~x.jsonl", None),
            ("~.jsonl", None),
            ("a~2/s.jsonl", None),
        ] {
            let found = without_number(Path::new(numbered));
            assert_eq!(found.as_deref(), wanted.map(Path::new), "{numbered}");
        }
    }

    #[test]
    fn paths_that_lead_out_of_the_folder_are_refused() {
        for (bad, why) in [
            (&b""[..], UnsafePath::Empty),
            (b".", UnsafePath::Empty),
            (b"/etc/passwd", UnsafePath::Absolute),
            (b"../x", UnsafePath::Upwards),
            (b"a/../../x", UnsafePath::Upwards),
            (b"a\0b", UnsafePath::Nul),
        ] {
            assert_eq!(checked(bad), Err(why), "{bad:?}");
        }
        assert_eq!(checked(b"a/./b.jsonl").unwrap(), Path::new("a/b.jsonl"));
        assert_eq!(
            checked(b"a/\xff.jsonl").unwrap().as_os_str().as_bytes(),
            b"a/\xff.jsonl"
        );
    }

    #[test]
    fn the_first_keeps_its_name_and_the_others_are_numbered() {
        let mut paths = Paths::default();
        let got: Vec<_> = [
            "p/a.jsonl",
            "p/a.jsonl",
            "p/a~2.jsonl",
            "p/a.jsonl",
            "q/a.jsonl",
        ]
        .map(|p| paths.claim(Path::new(p)).display().to_string())
        .into();
        assert_eq!(
            got,
            [
                "p/a.jsonl",
                "p/a~2.jsonl",
                "p/a~2~2.jsonl",
                "p/a~3.jsonl",
                "q/a.jsonl"
            ]
        );
    }

    #[test]
    fn names_of_the_greatest_length_stay_apart_whole_characters_and_within_it() {
        for name in [
            format!("{}.jsonl", "ä".repeat(124)),
            format!("a.{}", "e".repeat(253)),
            "x".repeat(255),
        ] {
            let mut paths = Paths::default();
            let claimed: HashSet<_> = (0..12).map(|_| paths.claim(Path::new(&name))).collect();
            assert_eq!(claimed.len(), 12);
            for path in claimed {
                let name = path.to_str().expect("it is UTF-8 still");
                assert!(name.len() <= NAME_BYTES_MAX, "{name}");
            }
        }
    }

    #[test]
    fn a_file_and_a_folder_of_the_same_name_do_not_meet() {
        let mut paths = Paths::default();
        let got: Vec<_> = ["a", "a/b.jsonl", "a/c.jsonl", "d/e.jsonl", "d"]
            .map(|p| paths.claim(Path::new(p)).display().to_string())
            .into();
        assert_eq!(got, ["a", "a~2/b.jsonl", "a~2/c.jsonl", "d/e.jsonl", "d~2"]);
    }

    proptest! {
        #[test]
        fn whatever_is_recorded_no_two_sessions_share_a_path_and_none_leaves(
            recorded in proptest::collection::vec("[a./~2]{0,8}", 1..30)
        ) {
            let mut paths = Paths::default();
            let mut seen: Vec<PathBuf> = Vec::new();
            for path in recorded.iter().filter_map(|p| checked(p.as_bytes()).ok()) {
                let claimed = paths.claim(&path);
                prop_assert!(checked(claimed.as_os_str().as_bytes()).is_ok());
                for other in &seen {
                    prop_assert!(!other.starts_with(&claimed) && !claimed.starts_with(other));
                }
                seen.push(claimed);
            }
        }
    }
}
