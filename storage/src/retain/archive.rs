//! Copies sessions into an archive: refuses an archive that has other sessions with their ids, copies, and compares
//! them with what a new reader finds there.

use std::path::Path;

use bytes::Bytes;

use super::{RetentionOutcome, RetentionPhase, SessionToRemove, Watcher};
use crate::compact::CompactionRequest;
use crate::error::{Argument, ErrorKind, Result, StoreError};
use crate::files;
use crate::ids::SessionId;
use crate::limits::{
    ARCHIVE_BATCH_MESSAGES_MAX, ARCHIVE_BYTES_MAX, PAYLOAD_BYTES_MAX_CEILING, READ_PAGE_BYTES_MAX,
};
use crate::message::{Arrival, Batch, ImportMark, Message, SessionMeta};
use crate::options::StoreOptions;
use crate::reader::{ReadRange, Replay};
use crate::store::Store;

/// Why a session is not archived.
pub(super) enum Failure {
    /// It is damaged: it stays, and the others go on.
    OfSession(StoreError),
    /// Anything else ends the run, before anything is removed.
    OfRun(StoreError),
}

impl Failure {
    /// What reading a session of the store itself, not of the archive, ended with.
    fn of_own(error: StoreError) -> Self {
        match error.kind() {
            ErrorKind::Damaged => Self::OfSession(error),
            _ => Self::OfRun(error),
        }
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::OfRun(error)
    }
}

/// How the messages of a session and those that the archive has of it compare.
#[derive(Default)]
struct Comparison {
    /// Messages that are the same, from the first one on, and their payload bytes.
    messages: u64,
    raw_bytes: u64,
    /// The first of them that the archive received at another time.
    other_time: Option<u64>,
    /// The first message that the archive has not, or with other bytes.
    difference: Option<u64>,
}

impl Store {
    /// Copies sessions into the archive and compares what a new reader finds there. Those that are damaged
    /// are taken out of `leaving`.
    pub(super) fn archive(
        &self,
        leaving: &mut Vec<SessionToRemove<'_>>,
        path: &Path,
        outcome: &mut RetentionOutcome,
        watcher: &mut Watcher<'_>,
    ) -> Result<()> {
        refuse_itself(self.path(), path)?;
        let options = StoreOptions {
            payload_bytes_max: PAYLOAD_BYTES_MAX_CEILING,
            db_bytes_max: ARCHIVE_BYTES_MAX,
            session_bytes_max: ARCHIVE_BYTES_MAX,
            reserve_bytes: 0,
            clock: self.options().clock.clone(),
            ..StoreOptions::default()
        };
        let archive = Store::open(path, options.clone())?;
        outcome.keep_damaged_of(leaving, |done, one| {
            self.check_archived(one, &archive, &mut || {
                watcher.go_on(RetentionPhase::Archiving, done)
            })
        })?;
        outcome.keep_damaged_of(leaving, |done, one| {
            self.copy_session(one, &archive, &mut || {
                watcher.go_on(RetentionPhase::Archiving, done)
            })
        })?;
        let compacted = archive.compact(&CompactionRequest::manual(), &mut |_| {
            watcher.at(RetentionPhase::Compacting, 0)
        })?;
        if compacted.cancelled {
            return Err(StoreError::Cancelled);
        }
        // SQLite has put on disk what it wrote. This process may have the archive open a second time, so
        // nothing but SQLite opens its file; only the name is left to be put on disk.
        archive.close()?;
        files::sync_folder(files::folder_of(path))?;
        // Opened again, because what counts is what a later reader finds.
        let archive = Store::open_read_only(path, options)?;
        let mut with_other_times = Vec::new();
        outcome.keep_damaged_of(leaving, |done, one| {
            let has_other_times = self.compare_session(one, &archive, &mut || {
                watcher.go_on(RetentionPhase::Comparing, done)
            })?;
            if has_other_times {
                with_other_times.push(SessionId::clone(one.id));
            }
            Ok(())
        })?;
        outcome.archived_before = with_other_times;
        Ok(())
    }

    /// Compares messages of a session with those of the archive, up to `until` or the first difference.
    fn compare(
        own: Replay,
        mut archived: Replay,
        until: u64,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Comparison, Failure> {
        let mut found = Comparison::default();
        for message in own {
            let message = message.map_err(Failure::of_own)?;
            if message.sequence > until {
                break;
            }
            let there = archived.next().transpose()?;
            let Some(there) = there.filter(|there| {
                there.sequence == message.sequence && there.payload == message.payload
            }) else {
                found.difference = Some(message.sequence);
                break;
            };
            if there.received_ms != message.received_ms {
                found.other_time.get_or_insert(message.sequence);
            }
            found.messages += 1;
            found.raw_bytes += message.payload.len() as u64;
            if found.messages % ARCHIVE_BATCH_MESSAGES_MAX as u64 == 0 {
                go_on()?;
            }
        }
        Ok(found)
    }

    /// Refuses an archive that has another session of this id, before anything is written to it.
    fn check_archived(
        &self,
        one: &SessionToRemove<'_>,
        archive: &Store,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<(), Failure> {
        let SessionToRemove {
            id, fingerprint, ..
        } = one;
        let there = match archive.session(id) {
            Err(StoreError::SessionNotFound { .. }) => return Ok(()),
            there => there?,
        };
        // The name alone may have changed, and is brought up to date.
        let nameless = SessionMeta {
            name: String::new(),
            ..fingerprint.meta.clone()
        };
        if let Some(what) = lost_of(&nameless, &there.meta) {
            return Err(other_session(id, &format!("has another {what}")).into());
        }
        let both = ReadRange {
            to: Some(there.messages.min(fingerprint.messages)),
            ..ReadRange::all()
        };
        let own = self.read(id, both).map_err(Failure::of_own)?;
        let found = Self::compare(own, archive.read(id, both)?, fingerprint.messages, go_on)?;
        one.refuse_other_time(&found)?;
        if let Some(sequence) = found.difference {
            return Err(Failure::OfRun(StoreError::SequenceConflict {
                id: SessionId::clone(id),
                expected: 1,
                next: there.messages + 1,
                sequence,
            }));
        }
        // This session was imported from an older copy of its file, and would replace the archive's import record.
        if found.other_time.is_some() && there.messages > fingerprint.messages {
            return Err(other_session(id, "has more of them").into());
        }
        Ok(())
    }

    fn copy_session(
        &self,
        one: &SessionToRemove<'_>,
        archive: &Store,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<(), Failure> {
        let SessionToRemove {
            id, fingerprint, ..
        } = one;
        let mut batch = ArchiveBatch::new(one);
        for message in self.read(id, ReadRange::all()).map_err(Failure::of_own)? {
            let message = message.map_err(Failure::of_own)?;
            if message.sequence > fingerprint.messages {
                break;
            }
            if batch.is_full(&message) {
                batch.append(archive, None)?;
                go_on()?;
            }
            batch.add(message);
        }
        batch.append(archive, fingerprint.import.clone())?;
        // An append names only a session that has no name, and an earlier run may have given one.
        let name = &fingerprint.meta.name;
        if !name.is_empty() && *name != archive.session(id)?.meta.name {
            archive.rename(id, name)?;
        }
        Ok(go_on()?)
    }

    /// Whether the archive has other times of messages than the session, which was imported.
    fn compare_session(
        &self,
        one: &SessionToRemove<'_>,
        archive: &Store,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<bool, Failure> {
        let SessionToRemove {
            id, fingerprint, ..
        } = one;
        let own = self.read(id, ReadRange::all()).map_err(Failure::of_own)?;
        let archived = archive.read(id, ReadRange::all())?;
        let found = Self::compare(own, archived, fingerprint.messages, go_on)?;
        one.refuse_other_time(&found)?;
        let differs = |what: String| {
            let what = format!("{what} in the archive; nothing was removed");
            Failure::OfRun(StoreError::damaged(Some(id.as_str()), what))
        };
        if let Some(sequence) = found.difference {
            return Err(differs(format!("message {sequence} is not the same")));
        }
        let expected = (fingerprint.messages, fingerprint.raw_bytes);
        if (found.messages, found.raw_bytes) != expected {
            let what = format!(
                "its row says {} messages of {} bytes, and {} of {} are there",
                expected.0, expected.1, found.messages, found.raw_bytes
            );
            return Err(Failure::OfSession(StoreError::damaged(
                Some(id.as_str()),
                what,
            )));
        }
        let there = archive.session(id)?;
        let import = archive.import_of(id)?.map(|record| record.mark);
        if import != fingerprint.import {
            return Err(differs("the source file is not the same".into()));
        }
        if let Some(what) = lost_of(&fingerprint.meta, &there.meta) {
            return Err(other_session(id, &format!("has another {what}")).into());
        }
        go_on()?;
        Ok(found.other_time.is_some())
    }
}

impl SessionToRemove<'_> {
    /// Messages that were not imported were received at one time only.
    fn refuse_other_time(&self, found: &Comparison) -> Result<()> {
        match found.other_time {
            Some(sequence) if !self.fingerprint.is_imported() => {
                let what = format!("received message {sequence} at another time");
                Err(other_session(self.id, &what))
            }
            _ => Ok(()),
        }
    }
}

/// Messages on their way into an archive.
struct ArchiveBatch<'a> {
    id: &'a SessionId,
    meta: &'a SessionMeta,
    arrival: Arrival,
    first: u64,
    payloads: Vec<Bytes>,
    received_ms: Vec<i64>,
    bytes: usize,
}

impl<'a> ArchiveBatch<'a> {
    fn new(one: &'a SessionToRemove<'_>) -> Self {
        // As they were recorded, so that the archive counts the same active time.
        let arrival = if one.fingerprint.is_imported() {
            Arrival::Historical
        } else {
            Arrival::Live
        };
        Self {
            id: one.id,
            meta: &one.fingerprint.meta,
            arrival,
            first: 1,
            payloads: Vec::new(),
            received_ms: Vec::new(),
            bytes: 0,
        }
    }

    fn is_full(&self, next: &Message) -> bool {
        self.payloads.len() >= ARCHIVE_BATCH_MESSAGES_MAX
            || (!self.payloads.is_empty() && self.bytes + next.payload.len() > READ_PAGE_BYTES_MAX)
    }

    fn add(&mut self, message: Message) {
        self.bytes += message.payload.len();
        self.received_ms.push(message.received_ms);
        self.payloads.push(message.payload);
    }

    /// Appends what is there; what the archive has already stays as it is.
    fn append(&mut self, archive: &Store, import: Option<ImportMark>) -> Result<()> {
        let batch = Batch {
            session: self.id.clone(),
            key: None,
            payloads: std::mem::take(&mut self.payloads),
            meta: self.meta.clone(),
            expected_sequence: Some(self.first),
            arrival: self.arrival,
            import,
        };
        self.first += batch.payloads.len() as u64;
        self.bytes = 0;
        let received_ms = std::mem::take(&mut self.received_ms);
        archive.writer()?.append_received(batch, &received_ms)?;
        Ok(())
    }
}

/// A text of the session that the archive has differently. A text that the session does not have may be set in
/// the archive, which has read the lines again.
fn lost_of(own: &SessionMeta, archived: &SessionMeta) -> Option<&'static str> {
    let pairs = [
        ("name", &own.name, &archived.name),
        ("model", &own.model, &archived.model),
        (
            "working directory",
            &own.working_directory,
            &archived.working_directory,
        ),
        ("worktree", &own.worktree_id, &archived.worktree_id),
        (
            "id of the agent's session",
            &own.agent_session_id,
            &archived.agent_session_id,
        ),
    ];
    let lost = pairs
        .into_iter()
        .find(|(_, own, archived)| !own.is_empty() && own != archived);
    lost.map(|(what, ..)| what)
}

/// The archive has another session with these messages.
fn other_session(id: &SessionId, what: &str) -> StoreError {
    StoreError::InvalidArgument {
        what: Argument::Named("the archive"),
        why: format!(
            "its session {id} has the same messages and {what}; nothing was removed: name another \
             archive"
        ),
    }
}

/// An archive in the store itself would be removed with what it was to keep.
fn refuse_itself(store: &Path, archive: &Path) -> Result<()> {
    if files::is_same_file(archive, store) {
        return Err(StoreError::InvalidArgument {
            what: Argument::Named("the archive"),
            why: format!("{} is the store itself", archive.display()),
        });
    }
    Ok(())
}
