//! Retention carried out: archive, compare, and only then remove.
//!
//! Crash points: until the archive is on disk and was compared, nothing is removed; a run that
//! ends before that leaves an archive which the next run goes on with, because appending what is
//! there already changes nothing. Removal goes session by session, each in one transaction, and
//! takes a session only if it still is what was archived.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;

use bytes::Bytes;

use crate::capacity::retention::{
    Kept, Removal, RetentionCandidate, RetentionPlan, RetentionPolicy, plan,
};
use crate::compact::CompactionRequest;
use crate::deletion::{Contents, delete_session};
use crate::error::{Result, StoreError};
use crate::files::{self, io_error};
use crate::ids::SessionId;
use crate::limits::{PAYLOAD_BYTES_MAX_CEILING, READ_PAGE_BYTES_MAX};
use crate::message::{Arrival, Batch, ImportMark, Message, SessionMeta};
use crate::options::StoreOptions;
use crate::reader::ReadRange;
use crate::session::SessionFilter;
use crate::sql;
use crate::store::Store;

/// Messages of one append to an archive.
const ARCHIVE_BATCH_MESSAGES_MAX: usize = 4096;
/// An archive has no limit of its own: what stands in one place is to stand in the other.
const ARCHIVE_BYTES_MAX: u64 = 1 << 50;

/// What a run of retention is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetentionPhase {
    /// Copying sessions into the archive.
    Archiving,
    /// Compressing the archive.
    Compacting,
    /// Reading the archive back and comparing it with the store.
    Comparing,
    /// Removing sessions from the store.
    Removing,
}

/// How far a run of retention is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetentionProgress {
    /// What it is doing.
    pub phase: RetentionPhase,
    /// Sessions done in this phase.
    pub sessions_done: u64,
    /// Sessions in all.
    pub sessions: u64,
}

/// What a run of retention did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetentionOutcome {
    /// Sessions removed, in order.
    pub removed: Vec<Removal>,
    /// Sessions that were to go and stay, with the reason.
    pub kept: Vec<Kept>,
    /// Size of the archive afterwards, in bytes; `None` without one.
    pub archive_bytes: Option<u64>,
    /// Sessions that stood in the archive before, byte for byte, with messages received at other times:
    /// they were imported anew, and the archive keeps the first times.
    pub archived_before: Vec<SessionId>,
    /// Whether it was stopped while removing.
    pub cancelled: bool,
}

type Observer<'a> = &'a mut dyn FnMut(&RetentionProgress) -> ControlFlow<()>;

/// A session to remove, as it is now.
struct Leaving<'a> {
    removal: &'a Removal,
    id: SessionId,
    contents: Contents,
}

/// Tells the observer, and counts for it.
struct Watcher<'a> {
    observe: Observer<'a>,
    sessions: u64,
}

impl Watcher<'_> {
    fn at(&mut self, phase: RetentionPhase, sessions_done: usize) -> ControlFlow<()> {
        (self.observe)(&RetentionProgress {
            phase,
            sessions_done: sessions_done as u64,
            sessions: self.sessions,
        })
    }

    /// As [`Watcher::at`], where stopping means that nothing was removed.
    fn go_on(&mut self, phase: RetentionPhase, sessions_done: usize) -> Result<()> {
        match self.at(phase, sessions_done) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(StoreError::Cancelled),
        }
    }
}

impl Store {
    /// What `policy` would remove now, and why. Nothing is changed; a policy without rules (the
    /// default) removes nothing.
    ///
    /// # Errors
    /// [`StoreError::InvalidArgument`] for a policy that would remove everything, or what was just
    /// written; when the file cannot be read.
    pub fn plan_retention(&self, policy: &RetentionPolicy) -> Result<RetentionPlan> {
        let sessions = self.sessions(&SessionFilter::default())?.sessions;
        let candidates: Vec<_> = sessions
            .iter()
            .map(|session| RetentionCandidate::of(session, false))
            .collect();
        Ok(plan(policy, &candidates, self.options().clock.now_ms())?)
    }

    /// Removes what `plan` lists. With an archive (a history store of its own, created when there
    /// is none) the sessions are first copied there, compressed, and compared byte for byte with
    /// what a fresh reading of the archive gives; nothing is removed before all of that is done.
    ///
    /// A session that has changed since the plan was made stays.
    ///
    /// # Errors
    /// An error before the removal means that nothing was removed: what opening and appending to
    /// the archive answers ([`StoreError::SequenceConflict`] when it holds other messages under
    /// the same id, [`StoreError::InvalidArgument`] when it holds the same messages, told of otherwise,
    /// or received at other times though they were not imported), [`StoreError::Damaged`] when the comparison fails,
    /// [`StoreError::Cancelled`].
    /// Afterwards, when the file cannot be written; what was removed until then is logged.
    pub fn retain(
        &self,
        plan: &RetentionPlan,
        archive: Option<&Path>,
        observe: Observer<'_>,
    ) -> Result<RetentionOutcome> {
        let mut watcher = Watcher {
            observe,
            sessions: plan.removals.len() as u64,
        };
        let mut outcome = RetentionOutcome::default();
        let mut leaving = Vec::new();
        for removal in &plan.removals {
            let id: SessionId = removal.session_id.parse()?;
            match self.contents(&id) {
                Ok(contents) if is_as_planned(removal, &contents) => {
                    self.check_end(&id, &contents)?;
                    leaving.push(Leaving {
                        removal,
                        id,
                        contents,
                    });
                }
                Ok(_) => outcome.keep(removal, "it has changed since the plan was made"),
                Err(StoreError::SessionNotFound { .. }) => {
                    outcome.keep(removal, "it is gone already");
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(path) = archive
            && !leaving.is_empty()
        {
            outcome.archived_before = self.archive(&leaving, path, &mut watcher)?;
            outcome.archive_bytes = Some(file_bytes(path)?);
        }
        for (done, one) in leaving.into_iter().enumerate() {
            let Leaving {
                removal,
                id,
                contents,
            } = one;
            if watcher.at(RetentionPhase::Removing, done).is_break() {
                outcome.cancelled = true;
                break;
            }
            let deleted = self.delete_unchanged(&id, contents);
            if matches!(
                deleted,
                Ok(true) | Err(StoreError::SpaceNotGivenBack { .. })
            ) {
                tracing::info!(session = %removal.session_id, messages = removal.messages,
                    stored_bytes = removal.stored_bytes, reason = %removal.reason,
                    archived = archive.is_some(), "retention removed a session");
            }
            if deleted? {
                outcome.removed.push(removal.clone());
            } else {
                outcome.keep(removal, "it has changed meanwhile");
            }
        }
        Ok(outcome)
    }

    /// Copies sessions into the archive and compares what a new reader finds there. Those that it keeps
    /// with other times.
    fn archive(
        &self,
        leaving: &[Leaving<'_>],
        path: &Path,
        watcher: &mut Watcher<'_>,
    ) -> Result<Vec<SessionId>> {
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
        for (done, one) in leaving.iter().enumerate() {
            self.check_archived(one, &archive, &mut || {
                watcher.go_on(RetentionPhase::Archiving, done)
            })?;
        }
        for (done, one) in leaving.iter().enumerate() {
            self.copy_session(one, &archive, &mut || {
                watcher.go_on(RetentionPhase::Archiving, done)
            })?;
        }
        let compacted = archive.compact(&CompactionRequest::manual(), &mut |_| {
            watcher.at(RetentionPhase::Compacting, 0)
        })?;
        if compacted.cancelled {
            return Err(StoreError::Cancelled);
        }
        archive.close()?;
        sync(path)?;
        // Opened anew: what counts is what somebody finds who comes later.
        let archive = Store::open_read_only(path, options)?;
        let mut with_other_times = Vec::new();
        for (done, one) in leaving.iter().enumerate() {
            let has_other_times = self.compare_session(one, &archive, &mut || {
                watcher.go_on(RetentionPhase::Comparing, done)
            })?;
            if has_other_times {
                with_other_times.push(one.id.clone());
            }
        }
        Ok(with_other_times)
    }

    /// Messages behind the end that a session's row tells would go with it, and into no archive.
    fn check_end(&self, id: &SessionId, contents: &Contents) -> Result<()> {
        let (key, end) = (contents.key, contents.messages);
        let is_behind = self.query("look behind the end", |connection| {
            sql::damaged::stands_behind(connection, key, end)
        });
        match is_behind.map_err(|error| error.in_session(id))? {
            true => Err(StoreError::more_behind(id, end)),
            false => Ok(()),
        }
    }

    /// Refuses an archive that has another session of this id, before anything is written to it.
    fn check_archived(
        &self,
        leaving: &Leaving<'_>,
        archive: &Store,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let Leaving { id, contents, .. } = leaving;
        let there = match archive.session(id) {
            Err(StoreError::SessionNotFound { .. }) => return Ok(()),
            there => there?,
        };
        // The name alone may have changed, and is brought up to date.
        let nameless = SessionMeta {
            name: String::new(),
            ..contents.meta.clone()
        };
        if let Some(what) = lost_of(&nameless, &there.meta) {
            return Err(other_session(id, &format!("has another {what}")));
        }
        let both = ReadRange {
            to: Some(there.messages.min(contents.messages)),
            ..ReadRange::all()
        };
        let mut archived = archive.read(id, both)?;
        let mut has_other_times = false;
        for message in self.read(id, both)? {
            let message = message?;
            let sequence = message.sequence;
            let there_next = there.messages + 1;
            match archived.next().transpose()? {
                Some(there) if there.payload != message.payload => {
                    return Err(StoreError::SequenceConflict {
                        id: id.to_string(),
                        expected: 1,
                        next: there_next,
                        sequence,
                    });
                }
                Some(there) if there.received_ms != message.received_ms => {
                    if !contents.is_imported() {
                        let what = format!("received message {sequence} at another time");
                        return Err(other_session(id, &what));
                    }
                    has_other_times = true;
                }
                _ => {}
            }
            if sequence % ARCHIVE_BATCH_MESSAGES_MAX as u64 == 0 {
                go_on()?;
            }
        }
        // Imported from an older copy of its file. The archive would be told that it was taken from that.
        if has_other_times && there.messages > contents.messages {
            return Err(other_session(id, "has more of them"));
        }
        Ok(())
    }

    fn copy_session(
        &self,
        leaving: &Leaving<'_>,
        archive: &Store,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        let Leaving { id, contents, .. } = leaving;
        let mut page = Page::new(leaving);
        for message in self.read(id, ReadRange::all())? {
            let message = message?;
            if message.sequence > contents.messages {
                break;
            }
            if page.is_full(&message) {
                page.append(archive, None)?;
                go_on()?;
            }
            page.add(message);
        }
        page.append(archive, contents.import.clone())?;
        // An append names only a session that has no name, and an earlier run may have given one.
        let name = &contents.meta.name;
        if !name.is_empty() && *name != archive.session(id)?.meta.name {
            archive.rename(id, name)?;
        }
        go_on()
    }

    /// Whether the archive has other times of messages than the session, which was imported.
    fn compare_session(
        &self,
        leaving: &Leaving<'_>,
        archive: &Store,
        go_on: &mut dyn FnMut() -> Result<()>,
    ) -> Result<bool> {
        let Leaving { id, contents, .. } = leaving;
        let differs = |what: String| {
            let what = format!("{what} in the archive; nothing was removed");
            Err(StoreError::damaged(Some(id.as_str()), what))
        };
        let mut archived = archive.read(id, ReadRange::all())?;
        let (mut compared, mut raw_bytes) = (0, 0);
        let mut has_other_times = false;
        for message in self.read(id, ReadRange::all())? {
            let message = message?;
            if message.sequence > contents.messages {
                break;
            }
            let there = archived.next().transpose()?;
            let there = there.filter(|there| {
                there.sequence == message.sequence && there.payload == message.payload
            });
            let Some(there) = there else {
                return differs(format!("message {} is not the same", message.sequence));
            };
            if there.received_ms != message.received_ms {
                if !contents.is_imported() {
                    let what = format!("received message {} at another time", message.sequence);
                    return Err(other_session(id, &what));
                }
                has_other_times = true;
            }
            compared += 1;
            raw_bytes += message.payload.len() as u64;
            if compared % ARCHIVE_BATCH_MESSAGES_MAX as u64 == 0 {
                go_on()?;
            }
        }
        if (compared, raw_bytes) != (contents.messages, contents.raw_bytes) {
            let told = (contents.messages, contents.raw_bytes);
            let found = format!(
                "{compared} messages of {raw_bytes} bytes of {} of {} were found",
                told.0, told.1
            );
            return differs(found);
        }
        let there = archive.contents(id)?;
        if there.import != contents.import {
            return differs("the source file is not the same".into());
        }
        if let Some(what) = lost_of(&contents.meta, &there.meta) {
            return Err(other_session(id, &format!("has another {what}")));
        }
        go_on().map(|()| has_other_times)
    }

    fn contents(&self, id: &SessionId) -> Result<Contents> {
        let session = self.session(id)?;
        Ok(Contents {
            key: session.key,
            messages: session.messages,
            raw_bytes: session.raw_bytes,
            updated_ms: session.updated_ms,
            meta: session.meta,
            import: self.import_of(id)?.map(|record| record.mark),
        })
    }

    /// Deletes a session if it has the contents that it had. Whether it was deleted.
    fn delete_unchanged(&self, id: &SessionId, had: Contents) -> Result<bool> {
        let gone = id.clone();
        let deleted = self.writer()?.run(move |context| {
            let now_ms = context.options.clock.now_ms();
            context.maintain("delete the session", |db, connection| {
                db.named(
                    "delete the session",
                    delete_session(connection, &gone, Some(&had), now_ms),
                )
                .map_err(|error| error.in_session(&gone))
            })
        })?;
        if let Some(key) = deleted {
            self.give_back_space_of(id, key)?;
        }
        Ok(deleted.is_some())
    }
}

impl RetentionOutcome {
    fn keep(&mut self, removal: &Removal, why: &'static str) {
        self.kept.push(Kept {
            session_id: removal.session_id.clone(),
            why,
        });
    }
}

fn is_as_planned(removal: &Removal, now: &Contents) -> bool {
    now.are_as_counted(removal.key, removal.messages, removal.updated_ms)
}

/// Messages on their way into an archive.
struct Page<'a> {
    id: &'a SessionId,
    meta: &'a SessionMeta,
    arrival: Arrival,
    first: u64,
    payloads: Vec<Bytes>,
    received_ms: Vec<i64>,
    bytes: usize,
}

impl<'a> Page<'a> {
    fn new(leaving: &'a Leaving<'_>) -> Self {
        // As they were taken in, so that the archive counts the same active time.
        let arrival = if leaving.contents.import.is_some() {
            Arrival::Historical
        } else {
            Arrival::Live
        };
        Self {
            id: &leaving.id,
            meta: &leaving.contents.meta,
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
        archive.writer()?.append_received(batch, received_ms)?;
        Ok(())
    }
}

/// What a session tells of itself and the archive would not. Where the session tells nothing, the archive
/// may know more: it has read the lines anew.
fn lost_of(told: &SessionMeta, kept: &SessionMeta) -> Option<&'static str> {
    let pairs = [
        ("name", &told.name, &kept.name),
        ("model", &told.model, &kept.model),
        (
            "working directory",
            &told.working_directory,
            &kept.working_directory,
        ),
        ("worktree", &told.worktree_id, &kept.worktree_id),
        (
            "id of the agent's session",
            &told.agent_session_id,
            &kept.agent_session_id,
        ),
    ];
    let lost = pairs
        .into_iter()
        .find(|(_, told, kept)| !told.is_empty() && told != kept);
    lost.map(|(what, ..)| what)
}

/// The archive has had a session of these messages before, which is not the same one.
fn other_session(id: &SessionId, what: &str) -> StoreError {
    StoreError::InvalidArgument {
        what: "the archive",
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
            what: "the archive",
            why: format!("{} is the store itself", archive.display()),
        });
    }
    Ok(())
}

/// Puts a closed store and its name on disk.
fn sync(path: &Path) -> Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    for place in [path, folder.unwrap_or(Path::new("."))] {
        File::open(place)
            .and_then(|file| file.sync_all())
            .map_err(io_error("sync", place))?;
    }
    Ok(())
}

fn file_bytes(path: &Path) -> Result<u64> {
    std::fs::metadata(path)
        .map(|metadata| metadata.len())
        .map_err(io_error("read the size of", path))
}
