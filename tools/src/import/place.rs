//! Where the import of a file goes on: in which session, and after which byte.

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

/// Where in a file, and in its session, the import goes on.
pub(super) struct ResumePoint {
    pub(super) session: SessionId,
    pub(super) is_new: bool,
    /// Bytes of the file, of which the import takes no more: it may be written to.
    pub(super) length: u64,
    /// What was taken of the file.
    pub(super) prefix: Prefix,
    /// Whether the last line taken had no newline.
    pub(super) unterminated: bool,
    pub(super) next_sequence: u64,
    pub(super) relative_path: Vec<u8>,
    /// Whether the record says something else than what will be written with the next batch.
    pub(super) record_is_stale: bool,
}

/// What is known of a file before the import of it begins.
struct Known {
    decision: Decision,
    /// Bytes of the file when it was last compared with records.
    length: u64,
    /// The file's beginnings that records know, by their length.
    prefixes: HashMap<u64, Prefix>,
    /// The records of other files that may be this one, from elsewhere.
    others: Vec<Candidate>,
    /// How many of them are of the same name, of which most have the first numbers of its id.
    namesakes: usize,
}

/// Finds the session that the file belongs to, and how far it was taken. `None` when the file is an
/// older copy, from elsewhere, of one that was taken: every byte of it is recorded.
pub(super) fn find_place(
    run: &Run<'_>,
    file: &mut File,
    found: &Found,
) -> Result<Option<ResumePoint>, FindStop> {
    let known = look_up(run, file, found)?;
    let as_new = run.options.as_new;
    match known.decision {
        Decision::Continue(record) if !(as_new && goes_beyond(&record, &known.prefixes)) => {
            let place = resume(found, record, known.length, known.prefixes);
            Ok(Some(place))
        }
        Decision::Changed(record) if !as_new => Err(changed(run, file, found, &record)?.into()),
        Decision::New if !as_new && is_older_copy(run, file, known.length, &known.others)? => {
            Ok(None)
        }
        decision @ (Decision::New | Decision::Continue(_) | Decision::Changed(_)) => {
            let is_unknown = decision == Decision::New;
            begin(run, found, known.length, known.namesakes, is_unknown).map(Some)
        }
    }
}

/// Compares the file with the records of its own path; of files at the same place below other folders,
/// if none of its own fits; and with those of its copies elsewhere, if none of these does.
fn look_up(run: &Run<'_>, file: &mut File, found: &Found) -> Result<Known, FindStop> {
    let by_source = run
        .store
        .imports_by_source_path(&path_bytes(&found.canonical))?;
    // Afterwards: what an import beside this one took of a file that grows is there then.
    let mut length = file.metadata()?.len();
    let mut prefixes = prefixes(file, length, &by_source)?;
    let by_source = compare(by_source, &prefixes);
    let mut others = Vec::new();
    // Thousands of files may stand at the same place below other folders.
    if !by_source.iter().any(|candidate| candidate.prefix_matches) {
        let records = run
            .store
            .imports_by_relative_path(&path_bytes(&found.relative))?;
        length = file.metadata()?.len();
        prefixes = self::prefixes(file, length, &records)?;
        others = compare(records, &prefixes);
    }
    let mut decision = identity::decide(&by_source, &others);
    let namesakes = others.len();
    if decision == Decision::New {
        let records = elsewhere::records(run, found)?;
        length = file.metadata()?.len();
        let of_copies = self::prefixes(file, length, &records)?;
        let candidates = compare(records, &of_copies);
        decision = identity::decide(&[], &candidates);
        prefixes.extend(of_copies);
        others.extend(candidates);
    }
    Ok(Known {
        decision,
        length,
        prefixes,
        others,
        namesakes,
    })
}

/// Goes on after what `record` says was taken of the file.
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
    // A number after the name is what an export gave it.
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
        // Counted, not asked from the session: messages beyond the mark (of an import
        // that ran beside this one) are then recognised as the same, not doubled.
        next_sequence: messages + 1,
        // Of a copy that holds nothing new no note is made: the original keeps its place.
        record_is_stale: is_moved,
        relative_path,
    }
}

/// Begins a session of the file. If nothing was known of the file and another import has begun it
/// meanwhile, that is looked up once more: it may have taken the id that this session would have.
fn begin(
    run: &Run<'_>,
    found: &Found,
    length: u64,
    namesakes: usize,
    is_unknown: bool,
) -> Result<ResumePoint, FindStop> {
    let relative_path = path_bytes(&found.relative);
    let session = free_id(run, found, &relative_path, namesakes)?;
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

/// Whether all of the file is the beginning of what was taken from the same place below another
/// folder: a backup, say, from before that file grew. Compared byte for byte, because nothing is kept
/// of it, and with the newest few alone, for each is a replay. Nothing has to be kept of an empty file.
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
            // What cannot be read, or is gone, proves nothing: the file may be all that is left.
            Ok(_) | Err(_) => {}
        }
    }
    Ok(false)
}

/// Whether the session holds messages that did not come from the file.
fn goes_beyond(record: &ImportRecord, prefixes: &HashMap<u64, Prefix>) -> bool {
    let prefix = prefixes.get(&record.mark.taken_bytes);
    prefix.is_some_and(|p| {
        record.last_sequence > p.messages(record.mark.unterminated, record.mark.joins.len())
    })
}

/// How each record compares with the file.
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

/// The file's beginnings that records know, as far as it reaches, by their length.
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

fn changed(
    run: &Run<'_>,
    file: &mut File,
    found: &Found,
    record: &ImportRecord,
) -> Result<Stop, FindStop> {
    file.seek(SeekFrom::Start(0))?;
    let hint = "restore the file, or record it beside the old one with --as-new";
    let session = &record.session;
    let difference = match content::first_difference(run.store, session, file) {
        // Damage in one session keeps no other file from being taken.
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

/// An id for a new session. `namesakes` have been made of files at the same place, and have most of the
/// first numbers.
fn free_id(
    run: &Run<'_>,
    found: &Found,
    relative: &[u8],
    namesakes: usize,
) -> Result<SessionId, StoreError> {
    let stem = found.relative.file_stem().unwrap_or_default();
    // The id without a number, and the first that has one, do not depend on how many there are.
    let ids = identity::ids(stem.as_bytes(), relative).enumerate();
    let worth_a_look = ids.filter(|(number, _)| *number < 2 || *number >= namesakes);
    for (_, id) in worth_a_look {
        match run.store.session(&id) {
            Err(StoreError::SessionNotFound { .. }) => return Ok(id),
            Err(other) => return Err(other),
            Ok(_) => {}
        }
    }
    // The iterator numbers without end.
    Err(StoreError::Closed {
        why: Some("no session id is free".to_owned()),
    })
}
