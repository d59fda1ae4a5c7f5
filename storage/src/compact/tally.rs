//! What a run did so far: its sums, the sessions that failed, and the one at which it panicked.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use super::pace::Pace;
use super::plan::PlannedStep;
use super::request::{CompactionOutcome, SessionFailure};
use super::step::{PreparedSegment, StepResult, swap_in};
use super::throttle::Throttle;
use crate::error::Result;
use crate::ids::SessionId;
use crate::sql::segments::Tier;

/// What a run did so far.
pub(super) struct Tally<'o> {
    pub(super) outcome: &'o mut CompactionOutcome,
    /// The sessions of `outcome.failures`.
    pub(super) failed: BTreeSet<SessionId>,
    /// The highest tier of the segments written.
    pub(super) tier_max: &'o mut Option<Tier>,
    /// Bases made by the run, in use or not.
    pub(super) bases_made: Vec<u64>,
    pub(super) panicked_session: &'o PanickedSession,
    pub(super) throttle: Throttle<'o>,
}

/// The session at which a run panicked.
#[derive(Debug, Default)]
pub(super) struct PanickedSession(Mutex<Option<SessionId>>);

/// Notes its session when it goes with a panic.
pub(super) struct PanicMarker<'c> {
    panicked_session: &'c PanickedSession,
    session: &'c SessionId,
}

impl PanickedSession {
    /// The session, if the run panicked at one.
    pub(super) fn session(self) -> Option<SessionId> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn mark_on_panic<'c>(&'c self, session: &'c SessionId) -> PanicMarker<'c> {
        let panicked_session = self;
        PanicMarker {
            panicked_session,
            session,
        }
    }
}

impl Drop for PanicMarker<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut noted = self
                .panicked_session
                .0
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            noted.get_or_insert_with(|| self.session.clone());
        }
    }
}

impl<'o> Tally<'o> {
    pub(super) fn new(
        outcome: &'o mut CompactionOutcome,
        tier_max: &'o mut Option<Tier>,
        panicked_session: &'o PanickedSession,
        throttle: Throttle<'o>,
    ) -> Self {
        let failed = outcome
            .failures
            .iter()
            .map(|failure| failure.session.clone())
            .collect();
        Self {
            outcome,
            failed,
            tier_max,
            bases_made: Vec::new(),
            panicked_session,
            throttle,
        }
    }

    pub(super) fn finish_step(
        &mut self,
        pace: &mut Pace<'_>,
        step: &PlannedStep,
        prepared: Result<Option<PreparedSegment>>,
    ) -> Result<()> {
        let result = prepared.and_then(|prepared| match prepared {
            Some(prepared) => swap_in(pace, step, prepared),
            None => Ok(StepResult::Outdated),
        });
        match result {
            Ok(StepResult::Written) => {
                self.outcome.messages += step.messages();
                self.outcome.raw_bytes += step.raw_bytes;
                self.outcome.segments += 1;
                self.outcome.segments_replaced += step.replaces_segments;
                *self.tier_max = (*self.tier_max).max(Some(step.tier));
                Ok(())
            }
            Ok(StepResult::Outdated | StepResult::NotSmaller) => Ok(()),
            // Nobody asked for it, and it stays as it is; verifying is what finds damage.
            Err(error) if error.is_of_one_session() && step.is_rewrite => {
                tracing::warn!(session = %step.session, %error, "a segment is not written again");
                Ok(())
            }
            // Damage in one session must not keep the others from being compacted.
            Err(error) if error.is_of_one_session() => {
                tracing::error!(session = %step.session, %error, "a session cannot be compacted");
                let failure = SessionFailure::new(&step.session, &error);
                self.outcome.failures.push(failure);
                self.failed.insert(step.session.clone());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}
