//! The request, plan, progress and outcome of a run of compaction.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use super::base::PlannedBatch;
use super::plan::PlannedStep;
use super::policy::CompactionPolicy;
use crate::error::{Argument, Result, StoreError};
use crate::ids::SessionId;
use crate::limits::COMPACTION_THREADS_MAX;
use crate::sql::segments::Tier;

/// What to compact.
#[derive(Debug, Clone, PartialEq)]
pub struct CompactionRequest {
    /// Only this session.
    pub session: Option<SessionId>,
    /// Tier to bring the sessions to.
    pub tier: Tier,
    /// Compact everything now; otherwise only sessions that the policy finds due.
    pub force: bool,
    /// Settings.
    pub policy: CompactionPolicy,
    /// What asked for it, for the history of runs.
    pub trigger: &'static str,
    /// Share of a core's time that each thread may take for encoding, above 0; 1.0 for all of it.
    pub cpu_fraction_max: f64,
    /// Sessions to leave as they are.
    pub except: BTreeSet<SessionId>,
    /// Threads that encode, at most [`COMPACTION_THREADS_MAX`]. What they make does not depend on it.
    pub threads_max: usize,
}

impl CompactionRequest {
    /// Everything, deeply, now, on one thread: what a person means by "compact".
    #[must_use]
    pub fn manual() -> Self {
        Self {
            session: None,
            tier: Tier::Deep,
            force: true,
            policy: CompactionPolicy::default(),
            trigger: "manual",
            cpu_fraction_max: 1.0,
            except: BTreeSet::new(),
            threads_max: 1,
        }
    }

    pub(super) fn validate(&self) -> Result<()> {
        check_cpu_fraction(self.cpu_fraction_max)?;
        self.policy.validate()
    }
}

/// Refuses a share of a core's time that is out of range.
pub(super) fn check_cpu_fraction(cpu_fraction_max: f64) -> Result<()> {
    if cpu_fraction_max > 0.0 && cpu_fraction_max <= 1.0 {
        return Ok(());
    }
    Err(StoreError::InvalidArgument {
        what: Argument::Named("cpu_fraction_max"),
        why: format!("{cpu_fraction_max} is not above 0 and at most 1"),
    })
}

/// Threads for a run that somebody waits for: all cores but one, which is for those who append, up
/// to [`COMPACTION_THREADS_MAX`].
#[must_use]
pub fn compaction_threads() -> usize {
    std::thread::available_parallelism()
        .map_or(1, |cores| cores.get() - 1)
        .clamp(1, COMPACTION_THREADS_MAX)
}

/// A session that could not be compacted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionFailure {
    /// The session.
    pub session: SessionId,
    /// Why.
    pub why: String,
}

impl SessionFailure {
    pub(super) fn new(session: &SessionId, error: &StoreError) -> Self {
        Self {
            session: session.clone(),
            why: error.to_string(),
        }
    }
}

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CompactionPlan {
    /// Steps by project and base, in the order in which they would be done.
    pub batches: Vec<PlannedBatch>,
    /// Sessions whose rows are damaged, so that nothing can be planned for them, with the reason.
    pub failures: Vec<SessionFailure>,
}

impl CompactionPlan {
    /// The steps, each one new segment.
    pub fn steps(&self) -> impl Iterator<Item = &PlannedStep> {
        self.batches.iter().flat_map(|batch| &batch.steps)
    }

    /// Messages that it packs.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.steps().map(PlannedStep::messages).sum()
    }

    /// Their payload bytes.
    #[must_use]
    pub fn raw_bytes(&self) -> u64 {
        self.steps().map(|s| s.raw_bytes).sum()
    }

    /// Bytes that they take now.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.steps().map(|s| s.stored_bytes).sum()
    }
}

/// The phase of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CompactionPhase {
    /// Finding what there is to do, and what the sessions of a project share.
    Preparing,
    /// Encoding and swapping segments.
    Encoding,
    /// Giving free pages back.
    Reclaiming,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompactionProgress {
    /// Its phase.
    pub phase: CompactionPhase,
    /// Steps done.
    pub steps_done: u64,
    /// Steps in all.
    pub steps: u64,
    /// Payload bytes done.
    pub raw_bytes_done: u64,
    /// Payload bytes in all.
    pub raw_bytes: u64,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq)]
pub struct CompactionOutcome {
    /// Main file and log before.
    pub bytes_before: u64,
    /// Main file and log after.
    pub bytes_after: u64,
    /// Messages in the new segments.
    pub messages: u64,
    /// Their payload bytes.
    pub raw_bytes: u64,
    /// Segments written.
    pub segments: u64,
    /// Segments that these replaced.
    pub segments_replaced: u64,
    /// Sessions that failed, with the reason; the others were done all the same.
    pub failures: Vec<SessionFailure>,
    /// It was stopped on request; what was done stays.
    pub cancelled: bool,
    /// Duration.
    pub seconds: f64,
}

/// Says whether to go on, after each step.
pub(super) type Observer<'a> = &'a mut dyn FnMut(&CompactionProgress) -> ControlFlow<()>;
