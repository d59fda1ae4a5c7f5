//! Where the import of a file continues: in which session, and after which byte.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use betcode_storage::{ImportRecord, SessionId, StoreError};

use super::elsewhere;
use super::file::{FindStop, Stop};
use super::identity::{self, Candidate, Decision, Prefix};
use super::walk::{Found, path_bytes};
use super::{Run, Skipped};
use crate::error::Exit;
use crate::export::{content, paths};
use crate::limits::{FILE_BUFFER_BYTES, OLDER_COPY_REPLAYS_MAX};

/// Where in a file, and in its session, the import continues.
pub(super) struct ResumePoint {
    pub(super) session: SessionId,
    pub(super) is_new: bool,
    /// Bytes of the file to import. The file may grow meanwhile.
    pub(super) length: u64,
    /// The part of the file that was imported before.
    pub(super) prefix: Prefix,
    /// Whether the last line imported had no newline.
    pub(super) unterminated: bool,
    pub(super) next_sequence: u64,
    pub(super) relative_path: Vec<u8>,
    /// Whether the stored import record has to be written again even if no line is new.
    pub(super) record_is_stale: bool,
}

/// What the store's import records say of a file.
struct Lookup {
    decision: Decision,
    /// Bytes of the file when it was last compared with records.
    length: u64,
    /// The prefixes of the file that records have digests of, by their length.
    prefixes: HashMap<u64, Prefix>,
    /// Records of files with other paths that may be this one.
    others: Vec<Candidate>,
    /// How many of them have the same relative path. Their sessions have most of the first numbered ids.
    ids_in_use: usize,
}

/// Finds the session that the file belongs to, and how far it was imported. `None` when the file is an older
/// copy of another file that was imported: every byte of it is recorded.
pub(super) fn find_place(
    run: &Run<'_>,
    file: &mut File,
    found: &Found,
) -> Result<Option<ResumePoint>, FindStop> {
    let known = look_up(run, file, found)?;
    let as_new = run.options.as_new;
    match known.decision {
        Decision::Continue(record) if !(as_new && has_other_messages(&record, &known.prefixes)) => {
            let place = resume(found, record, known.length, known.prefixes);
            Ok(Some(place))
        }
        Decision::Changed(record) if !as_new => {
            Err(skip_changed(run, file, found, &record)?.into())
        }
        Decision::New if !as_new && is_older_copy(run, file, known.length, &known.others)? => {
            Ok(None)
        }
        decision @ (Decision::New | Decision::Continue(_) | Decision::Changed(_)) => {
            let is_unknown = decision == Decision::New;
            new_session(run, found, known.length, known.ids_in_use, is_unknown).map(Some)
        }
    }
}

/// Compares the file with the records of its own path; if none matches, with those of the same relative path
/// below other folders; and if none of these matches, with those of copies elsewhere.
fn look_up(run: &Run<'_>, file: &mut File, found: &Found) -> Result<Lookup, FindStop> {
    let by_source = run
        .store
        .imports_by_source_path(&path_bytes(&found.canonical))?;
    // Read after the records, so that the file has at least what a concurrent import has recorded of it.
    let mut length = file.metadata()?.len();
    let mut prefixes = prefixes(file, length, &by_source)?;
    let by_source = compare(by_source, &prefixes);
    let mut others = Vec::new();
    // Looked up only if needed: thousands of files may have the same relative path.
    if !by_source.iter().any(|candidate| candidate.prefix_matches) {
        let records = run
            .store
            .imports_by_relative_path(&path_bytes(&found.relative))?;
        length = file.metadata()?.len();
        prefixes = self::prefixes(file, length, &records)?;
        others = compare(records, &prefixes);
    }
    let mut decision = identity::decide(&by_source, &others);
    let ids_in_use = others.len();
    if decision == Decision::New {
        let records = elsewhere::records(run, found)?;
        length = file.metadata()?.len();
        let of_copies = self::prefixes(file, length, &records)?;
        let candidates = compare(records, &of_copies);
        decision = identity::decide(&[], &candidates);
        prefixes.extend(of_copies);
        others.extend(candidates);
    }
    Ok(Lookup {
        decision,
        length,
        prefixes,
        others,
        ids_in_use,
    })
}

/// Continues after the part that `record` says was imported.
fn resume(
    found: &Found,
    record: ImportRecord,
    length: u64,
    mut prefixes: HashMap<u64, Prefix>,
) -> ResumePoint {
    let prefix = prefixes
        .remove(&record.mark.taken_bytes)
        .unwrap_or_default();
    let messages = prefix.messages(record.mark.unterminated, record.mark.joins.len());
    let is_moved = record.mark.source_path != path_bytes(&found.canonical)
        && !elsewhere::is_still_there(&record);
    let recorded_place = Path::new(OsStr::from_bytes(&record.mark.relative_path));
    // An export appends a number to a name that is in use.
    let is_at_recorded_place = found.canonical.ends_with(recorded_place)
        || paths::without_number(&found.relative).as_deref() == Some(recorded_place);
    let relative_path = match is_moved && !is_at_recorded_place {
        true => path_bytes(&found.relative),
        false => record.mark.relative_path,
    };
    ResumePoint {
        session: record.session,
        is_new: false,
        length,
        prefix,
        unterminated: record.mark.unterminated,
        // Counted in the file, not read from the session: messages that a concurrent import has added are then
        // recognised as duplicates.
        next_sequence: messages + 1,
        // A copy without new lines leaves the record as it is: the original keeps its place.
        record_is_stale: is_moved,
        relative_path,
    }
}

/// Begins a new session for the file. If the file was unknown and another import has begun it meanwhile, the
/// caller looks it up again: that import may use the id that this session would get.
fn new_session(
    run: &Run<'_>,
    found: &Found,
    length: u64,
    ids_in_use: usize,
    is_unknown: bool,
) -> Result<ResumePoint, FindStop> {
    let relative_path = path_bytes(&found.relative);
    let session = free_id(run, found, &relative_path, ids_in_use)?;
    let source_path = path_bytes(&found.canonical);
    if is_unknown && !run.store.imports_by_source_path(&source_path)?.is_empty() {
        let why = "another import has begun it, and its session was deleted again";
        let skipped = Skipped::new(&found.path, why, "import it again");
        return Err(Stop::Overtaken(skipped).into());
    }
    Ok(ResumePoint {
        session,
        is_new: true,
        length,
        prefix: Prefix::default(),
        unterminated: false,
        next_sequence: 1,
        relative_path,
        record_is_stale: true,
    })
}

/// Whether the file is the beginning of one that was imported from the same place below another folder, such
/// as a backup from before that file grew. It is compared byte for byte, because nothing of it will be stored,
/// and with the newest few only, because each comparison is a replay.
fn is_older_copy(
    run: &Run<'_>,
    file: &mut File,
    length: u64,
    others: &[Candidate],
) -> Result<bool, FindStop> {
    if length == 0 {
        return Ok(!others.is_empty());
    }
    let longer = others
        .iter()
        .map(|candidate| &candidate.record)
        .filter(|record| record.mark.taken_bytes > length)
        .take(OLDER_COPY_REPLAYS_MAX);
    for record in longer {
        file.seek(SeekFrom::Start(0))?;
        let copy = file.by_ref().take(length);
        match content::first_difference(run.store, &record.session, copy) {
            Ok(Some(difference)) if difference.file_ended => return Ok(true),
            Err(failure) if failure.exit == Exit::Busy => return Err(Stop::Fail(failure).into()),
            // If it cannot be read or is gone, the file may be the only copy left.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(false)
}

/// Whether the session has messages that did not come from the file.
fn has_other_messages(record: &ImportRecord, prefixes: &HashMap<u64, Prefix>) -> bool {
    let prefix = prefixes.get(&record.mark.taken_bytes);
    prefix.is_some_and(|p| {
        record.last_sequence > p.messages(record.mark.unterminated, record.mark.joins.len())
    })
}

/// Says of each record whether the file still begins with what was imported.
fn compare(records: Vec<ImportRecord>, prefixes: &HashMap<u64, Prefix>) -> Vec<Candidate> {
    let compared = records.into_iter().map(|record| {
        let prefix = prefixes.get(&record.mark.taken_bytes);
        let prefix_matches = prefix.is_some_and(|p| p.digest() == record.mark.taken_digest);
        Candidate {
            record,
            prefix_matches,
        }
    });
    compared.collect()
}

/// Hashes the prefixes of the file that records have digests of, and returns them by their length. Longer
/// ones than the file are left out.
fn prefixes(
    file: &mut File,
    length: u64,
    records: &[ImportRecord],
) -> io::Result<HashMap<u64, Prefix>> {
    let ends: BTreeSet<_> = records.iter().map(|r| r.mark.taken_bytes).collect();
    file.seek(SeekFrom::Start(0))?;
    let mut buffer = vec![0; FILE_BUFFER_BYTES];
    let mut prefix = Prefix::default();
    let mut reached = HashMap::new();
    for end in ends.into_iter().filter(|&end| end <= length) {
        while prefix.bytes < end {
            let room = usize::try_from(end - prefix.bytes)
                .map_or(FILE_BUFFER_BYTES, |r| r.min(FILE_BUFFER_BYTES));
            let read = file.read(buffer.get_mut(..room).unwrap_or_default())?;
            if read == 0 {
                return Ok(reached);
            }
            prefix.push(buffer.get(..read).unwrap_or_default());
        }
        reached.insert(end, prefix.clone());
    }
    Ok(reached)
}

fn skip_changed(
    run: &Run<'_>,
    file: &mut File,
    found: &Found,
    record: &ImportRecord,
) -> Result<Stop, FindStop> {
    file.seek(SeekFrom::Start(0))?;
    let hint = "restore the file, or record it beside the old one with --as-new";
    let session = &record.session;
    let difference = match content::first_difference(run.store, session, file) {
        // Damage in one session must not stop the other files.
        Err(failure) if failure.exit == Exit::Damaged => {
            let why = format!("its past differs from session {session}, which is damaged");
            return Ok(Stop::Skip(Skipped::new(&found.path, why, hint)));
        }
        compared => compared.map_err(Stop::Fail)?,
    };
    let skipped = match difference {
        Some(d) if d.file_ended => {
            let why = format!("it is shorter than what session {session} holds of it");
            Skipped::new(&found.path, why, hint).at_line(d.line)
        }
        Some(d) => {
            let why = format!("its past changed: the line differs from session {session}");
            Skipped::new(&found.path, why, hint).at_line(d.line)
        }
        None => {
            let why = format!("its past differs from the record of session {session}");
            Skipped::new(&found.path, why, hint)
        }
    };
    Ok(Stop::Skip(skipped))
}

/// A free id for a new session. The first `ids_in_use` numbered ids are mostly taken and not tried.
fn free_id(
    run: &Run<'_>,
    found: &Found,
    relative: &[u8],
    ids_in_use: usize,
) -> Result<SessionId, StoreError> {
    let stem = found.relative.file_stem().unwrap_or_default();
    // The id without a number and the first numbered one are always tried.
    let ids = identity::ids(stem.as_bytes(), relative).enumerate();
    let to_try = ids.filter(|(number, _)| *number < 2 || *number >= ids_in_use);
    for (_, id) in to_try {
        match run.store.session(&id) {
            Err(StoreError::SessionNotFound { .. }) => return Ok(id),
            Err(other) => return Err(other),
            Ok(_) => {}
        }
    }
    // Not reached: the iterator has no end.
    Err(StoreError::Closed {
        why: Some("no session id is free".to_owned()),
    })
}
