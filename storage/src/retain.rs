//! Retention carried out: archive, compare, and only then remove.
//!
//! Crash points: until the archive is on disk and was compared, nothing is removed; a run that
//! ends before that leaves an archive that the next run continues, because appending what is
//! there already changes nothing. Removal goes session by session, each in one transaction, and
//! takes a session only if it still is what was archived.

mod archive;

use std::ops::ControlFlow;
use std::path::Path;

use self::archive::Failure;
use crate::capacity::retention::{
    Kept, Removal, RetentionCandidate, RetentionPlan, RetentionPolicy, plan,
};
use crate::deletion::SessionFingerprint;
use crate::error::{ErrorKind, Result, StoreError};
use crate::files::io_error;
use crate::ids::SessionId;
use crate::session::SessionFilter;
use crate::sql;
use crate::store::Store;

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
    /// Sessions that were planned for removal and stay, with the reason.
    pub kept: Vec<Kept>,
    /// Size of the archive afterwards, in bytes; `None` without one.
    pub archive_bytes: Option<u64>,
    /// Sessions that were in the archive before, byte for byte, with other received times: they were imported again,
    /// and the archive keeps the first times.
    pub archived_before: Vec<SessionId>,
    /// Whether it was stopped while removing.
    pub cancelled: bool,
}

type Observer<'a> = &'a mut dyn FnMut(&RetentionProgress) -> ControlFlow<()>;

/// A session to remove, as it is now.
struct SessionToRemove<'a> {
    removal: &'a Removal,
    id: &'a SessionId,
    fingerprint: SessionFingerprint,
}

/// Reports progress to the observer.
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
        let candidates: Vec<_> = sessions.iter().map(RetentionCandidate::of).collect();
        Ok(plan(policy, &candidates, self.options().clock.now_ms())?)
    }

    /// Removes what `plan` lists. With an archive (a history store of its own, created when there
    /// is none) the sessions are first copied there, compressed, and compared byte for byte with
    /// what a fresh reading of the archive gives; nothing is removed before all of that is done.
    ///
    /// A session that has changed since the plan was made stays; so does a damaged one, of which part may be
    /// in the archive then.
    ///
    /// # Errors
    /// An error before the removal means that nothing was removed: what opening and appending to
    /// the archive answers ([`StoreError::SequenceConflict`] when it holds other messages under
    /// the same id, [`StoreError::InvalidArgument`] when it holds the same messages with other session data,
    /// or received at other times although they were not imported), [`StoreError::Damaged`] when the archive is not
    /// what was written to it, [`StoreError::Cancelled`].
    /// Afterwards, when the file cannot be written; what was removed until then is logged.
    ///
    /// # Examples
    /// ```
    /// # use betcode_storage::{Store, StoreOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("history.db");
    /// # use std::ops::ControlFlow;
    /// # use betcode_storage::capacity::retention::RetentionPolicy;
    /// # let store = Store::open(&path, StoreOptions::default())?;
    /// let year_ms = 365 * 24 * 60 * 60 * 1000;
    /// let policy = RetentionPolicy { age_ms_max: Some(year_ms), ..RetentionPolicy::default() };
    /// let plan = store.plan_retention(&policy)?;
    /// let archive = folder.path().join("archive.db");
    /// let outcome = store.retain(&plan, Some(&archive), &mut |_| ControlFlow::Continue(()))?;
    /// assert!(outcome.removed.is_empty(), "nothing is as old");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
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
            let id = &removal.session_id;
            match self.fingerprint(id) {
                Ok(fingerprint) if is_as_planned(removal, &fingerprint) => {
                    leaving.push(SessionToRemove {
                        removal,
                        id,
                        fingerprint,
                    });
                }
                Ok(_) => outcome.keep(removal, "it has changed since the plan was made"),
                Err(StoreError::SessionNotFound { .. }) => {
                    outcome.keep(removal, "it is gone already");
                }
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    outcome.keep_damaged(removal, &error);
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(path) = archive
            && !leaving.is_empty()
        {
            self.archive(&mut leaving, path, &mut outcome, &mut watcher)?;
            outcome.archive_bytes = Some(file_bytes(path)?);
        }
        let removed = self.remove(leaving, archive.is_some(), &mut outcome, &mut watcher);
        // Once for all of them, because it reads all segments. If it fails, the next compaction does it.
        if let Err(error) = self.delete_unused_bases() {
            tracing::warn!(%error, "what only removed sessions needed is left to the next compaction");
        }
        removed.map(|()| outcome)
    }

    fn remove(
        &self,
        leaving: Vec<SessionToRemove<'_>>,
        is_archived: bool,
        outcome: &mut RetentionOutcome,
        watcher: &mut Watcher<'_>,
    ) -> Result<()> {
        for (done, one) in leaving.into_iter().enumerate() {
            let SessionToRemove {
                removal,
                id,
                fingerprint,
            } = one;
            let mut go_on = || watcher.at(RetentionPhase::Removing, done);
            if go_on().is_break() {
                outcome.cancelled = true;
                break;
            }
            let deleted = self.delete_if(id, fingerprint, &mut go_on);
            if matches!(
                deleted,
                Ok(true) | Err(StoreError::SpaceNotGivenBack { .. })
            ) {
                tracing::info!(session = %removal.session_id, messages = removal.messages,
                    stored_bytes = removal.stored_bytes, reason = %removal.reason,
                    archived = is_archived, "retention removed a session");
            }
            if deleted? {
                outcome.removed.push(removal.clone());
            } else {
                outcome.keep(removal, "it has changed meanwhile");
            }
        }
        Ok(())
    }

    fn fingerprint(&self, id: &SessionId) -> Result<SessionFingerprint> {
        let session = self.session(id)?;
        // Messages past the end in its row would be deleted with it and are in no archive.
        let (key, end) = (session.key, session.messages);
        let has_more = self.query("look past the end", |connection| {
            sql::damaged::has_rows_past(connection, key, end)
        });
        if has_more.map_err(|error| error.in_session(id))? {
            return Err(StoreError::rows_past_end(id, end));
        }
        let import = self.import_of(id).map_err(|error| error.in_session(id))?;
        Ok(SessionFingerprint {
            key,
            messages: session.messages,
            raw_bytes: session.raw_bytes,
            updated_ms: session.updated_ms,
            meta: session.meta,
            import: import.map(|record| record.mark),
        })
    }
}

impl RetentionOutcome {
    fn keep(&mut self, removal: &Removal, why: &'static str) {
        self.kept.push(Kept {
            session_id: removal.session_id.clone(),
            why,
        });
    }

    fn keep_damaged(&mut self, removal: &Removal, error: &StoreError) {
        tracing::warn!(session = %removal.session_id, %error, "retention keeps a damaged session");
        self.keep(removal, "it is damaged; verify the store to see how");
    }

    /// Does `work` with each session. A damaged one stays in the store, and is not among them any more.
    fn keep_damaged_of<'a>(
        &mut self,
        leaving: &mut Vec<SessionToRemove<'a>>,
        mut work: impl FnMut(usize, &SessionToRemove<'a>) -> Result<(), Failure>,
    ) -> Result<()> {
        for (done, one) in std::mem::take(leaving).into_iter().enumerate() {
            match work(done, &one) {
                Ok(()) => leaving.push(one),
                Err(Failure::OfSession(error)) => self.keep_damaged(one.removal, &error),
                Err(Failure::OfRun(error)) => return Err(error),
            }
        }
        Ok(())
    }
}

fn is_as_planned(removal: &Removal, now: &SessionFingerprint) -> bool {
    now.has_counts(removal.key, removal.messages, removal.updated_ms)
}

fn file_bytes(path: &Path) -> Result<u64> {
    std::fs::metadata(path)
        .map(|metadata| metadata.len())
        .map_err(io_error("read the size of", path))
}
