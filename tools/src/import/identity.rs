//! Which session a file is: decided from records and digests, without touching either.

use betcode_storage::limits::SESSION_ID_BYTES_MAX;
use betcode_storage::{ImportRecord, SessionId};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

/// How a record compares with the file at hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// What is recorded.
    pub record: ImportRecord,
    /// Whether the file still begins with the bytes that were imported.
    pub prefix_matches: bool,
}

/// What to do with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Not seen before: a session of its own.
    New,
    /// Continues where this record ends, which may be the end of the file.
    Continue(ImportRecord),
    /// Imported from this path, but the bytes that were imported have changed.
    Changed(ImportRecord),
}

/// Decides from the records of the file's own path and those of the same relative path below other imported
/// folders, each newest first.
///
/// A record without bytes matches any file, so it is used only for the file's own path.
#[must_use]
pub fn decide(by_source: &[Candidate], by_relative: &[Candidate]) -> Decision {
    if let Some(found) = by_source.iter().find(|c| c.prefix_matches) {
        return Decision::Continue(found.record.clone());
    }
    let moved = by_relative
        .iter()
        .find(|c| c.prefix_matches && c.record.mark.taken_bytes > 0);
    if let Some(found) = moved {
        return Decision::Continue(found.record.clone());
    }
    match by_source.first() {
        Some(newest) => Decision::Changed(newest.record.clone()),
        None => Decision::New,
    }
}

/// Digest, length and number of lines of a file's beginning.
#[derive(Clone, Default)]
pub struct Prefix {
    hasher: Xxh3,
    /// Bytes so far.
    pub bytes: u64,
    /// Newlines so far.
    pub newlines: u64,
}

impl Prefix {
    /// Takes in the next bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        self.newlines += memchr::memchr_iter(b'\n', bytes).count() as u64;
    }

    /// XXH3-128 of the bytes so far.
    #[must_use]
    pub fn digest(&self) -> u128 {
        self.hasher.digest128()
    }

    /// Number of messages that these bytes were imported as: one for each line (also an unterminated last one),
    /// and one more for each of `joins`, lines that were imported in two parts.
    #[must_use]
    pub fn messages(&self, unterminated: bool, joins: usize) -> u64 {
        self.newlines + u64::from(unterminated) + joins as u64
    }
}

/// A session id for a file: its stem, with `_` for each byte that an id may not contain.
#[must_use]
pub fn id_from_stem(stem: &[u8]) -> String {
    let mut id: String = stem
        .iter()
        .map(|&c| {
            if c.is_ascii_alphanumeric() || b"-_.~:".contains(&c) {
                char::from(c)
            } else {
                '_'
            }
        })
        .collect();
    if id.starts_with('.') {
        id.replace_range(..1, "_");
    }
    if id.is_empty() {
        id.push_str("session");
    }
    id.truncate(SESSION_ID_BYTES_MAX);
    id
}

/// An endless list of session ids for a file, best first: the stem; the stem with a hash of the path, so that a
/// thousand files called `full.jsonl` get the same ids in any order; then numbered.
pub fn ids(stem: &[u8], relative_path: &[u8]) -> impl Iterator<Item = SessionId> {
    let base = id_from_stem(stem);
    let hash = format!("~{:08x}", xxh3_64(relative_path) >> 32);
    (0_u64..).filter_map(move |attempt| {
        let suffix = match attempt {
            0 => String::new(),
            1 => hash.clone(),
            n => format!("{hash}~{n}"),
        };
        let kept = base.len().min(SESSION_ID_BYTES_MAX - suffix.len());
        SessionId::new(format!("{}{suffix}", base.get(..kept)?)).ok()
    })
}

#[cfg(test)]
mod tests {
    use betcode_storage::ImportMark;
    use proptest::prelude::*;

    use super::*;

    fn candidate(id: &str, taken_bytes: u64, prefix_matches: bool) -> Candidate {
        let mark = ImportMark {
            source_path: b"/x".to_vec(),
            relative_path: b"x".to_vec(),
            taken_bytes,
            taken_digest: 0,
            unterminated: false,
            joins: Vec::new(),
        };
        let session = SessionId::new(id).unwrap();
        Candidate {
            record: ImportRecord {
                session,
                last_sequence: 1,
                mark,
            },
            prefix_matches,
        }
    }

    fn continued(decision: &Decision) -> &str {
        match decision {
            Decision::Continue(record) => record.session.as_str(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_without_records_is_new() {
        assert_eq!(decide(&[], &[]), Decision::New);
        assert_eq!(decide(&[], &[candidate("other", 9, false)]), Decision::New);
    }

    #[test]
    fn the_newest_record_of_its_path_that_fits_is_continued() {
        let records = [
            candidate("new", 9, false),
            candidate("old", 5, true),
            candidate("older", 3, true),
        ];
        assert_eq!(continued(&decide(&records, &[])), "old");
    }

    #[test]
    fn a_moved_folder_is_recognised_by_what_its_files_hold() {
        assert_eq!(
            continued(&decide(&[], &[candidate("moved", 9, true)])),
            "moved"
        );
    }

    #[test]
    fn an_empty_record_elsewhere_claims_no_file() {
        assert_eq!(decide(&[], &[candidate("empty", 0, true)]), Decision::New);
        assert_eq!(
            continued(&decide(&[candidate("empty", 0, true)], &[])),
            "empty"
        );
    }

    #[test]
    fn a_changed_past_is_decided_by_the_newest_record_of_the_path() {
        let decision = decide(&[candidate("b", 9, false), candidate("a", 9, false)], &[]);
        assert!(matches!(decision, Decision::Changed(r) if r.session.as_str() == "b"));
    }

    #[test]
    fn ids_are_distinct_valid_and_keep_the_stem() {
        let ids: Vec<_> = ids(b"full", b"a/b/full.jsonl").take(4).collect();
        assert_eq!(ids[0].as_str(), "full");
        assert!(
            ids[1].as_str().starts_with("full~") && ids[3].as_str().ends_with("~3"),
            "{ids:?}"
        );
        let long = vec![b'x'; 300];
        for id in super::ids(&long, b"long").take(4) {
            assert_eq!(id.as_str().len(), SESSION_ID_BYTES_MAX);
        }
    }

    #[test]
    fn a_resumed_file_knows_how_many_messages_it_made() {
        let mut prefix = Prefix::default();
        prefix.push(b"one\ntwo-a");
        assert_eq!(prefix.messages(true, 0), 2);
        prefix.push(b"-b\n");
        assert_eq!(prefix.messages(false, 1), 3);
    }

    proptest! {
        #[test]
        fn any_stem_makes_a_session_id(stem in proptest::collection::vec(any::<u8>(), 0..300)) {
            for id in ids(&stem, &stem).take(3) {
                prop_assert!(SessionId::new(id.as_str()).is_ok());
            }
        }
    }
}
