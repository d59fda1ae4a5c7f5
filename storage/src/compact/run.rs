//! A run of compaction over one session or all of them.

use std::any::Any;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::ahead::{ParallelLimits, in_order};
use super::base::{self, BaseChoice, PlannedBatch, RunBase};
use super::lease::Lease;
use super::lower_priority::lower_priority;
use super::pace::Pace;
use super::page_order;
use super::plan::PlannedStep;
use super::reclaim::{cut_log, reclaim};
use super::request::{
    CompactionOutcome, CompactionPhase, CompactionPlan, CompactionProgress, CompactionRequest,
    Observer,
};
use super::step::{BatchEncoder, prepare};
use super::tally::{PanickedSession, Tally};
use super::throttle::{StopSignal, Throttle};
use crate::error::{ErrorKind, Result, StoreError};
use crate::limits::{COMPACTION_AHEAD_BYTES_MAX, COMPACTION_THREADS_MAX};
use crate::reader::fetch::PageReader;
use crate::segment::EncodeParams;
use crate::sql;
use crate::sql::runs::{CompactionRun, RunOutcome};
use crate::sql::segments::Tier;
use crate::store::Store;

/// How often planning asks whether to stop.
const PLANNING_ASKS_EVERY: Duration = Duration::from_millis(50);

impl Store {
    /// Compacts, and gives the space back. `observe` is called after each step and may stop the
    /// run there. Appends and reads go on meanwhile.
    ///
    /// A session that fails (damaged data) is reported in the outcome and left as it is; the
    /// others are done.
    ///
    /// # Errors
    /// [`StoreError::InvalidArgument`] for a request out of bounds; [`StoreError::Busy`] while another run
    /// is under way, in any process; [`StoreError::SessionNotFound`]; [`StoreError::DiskFull`] when even
    /// the reserve was not enough; [`StoreError::Panicked`] for a bug. What was done before an error
    /// stays done.
    ///
    /// # Examples
    /// ```
    /// # use betcode_storage::{CompactionRequest, Store, StoreOptions};
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("history.db");
    /// # use std::ops::ControlFlow;
    /// # let store = Store::open(&path, StoreOptions::default())?;
    /// let outcome = store.compact(&CompactionRequest::manual(), &mut |progress| {
    ///     println!("{} of {} steps", progress.steps_done, progress.steps);
    ///     ControlFlow::Continue(())
    /// })?;
    /// assert!(outcome.failures.is_empty() && !outcome.cancelled);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn compact(
        &self,
        request: &CompactionRequest,
        observe: &mut dyn FnMut(&CompactionProgress) -> ControlFlow<()>,
    ) -> Result<CompactionOutcome> {
        self.compact_noting(request, &PanickedSession::default(), observe)
    }

    /// The same; a session at which the run panics is noted.
    pub(super) fn compact_noting(
        &self,
        request: &CompactionRequest,
        panicked_session: &PanickedSession,
        observe: &mut dyn FnMut(&CompactionProgress) -> ControlFlow<()>,
    ) -> Result<CompactionOutcome> {
        let (ask, questions) = mpsc::channel();
        let (answer, answers) = mpsc::channel();
        let throttle = Throttle {
            cpu_fraction_max: request.cpu_fraction_max,
            stop: &StopSignal::default(),
        };
        // The closure owns both channels: if `observe` panics they are dropped, and the worker ends.
        std::thread::scope(move |scope| {
            // A thread of its own, because a thread cannot raise its priority again.
            let worker = std::thread::Builder::new()
                .name("betcode-compact".into())
                .spawn_scoped(scope, move || {
                    lower_priority();
                    self.run_compaction(request, throttle, panicked_session, &mut |progress| {
                        let asked = ask.send(*progress).ok();
                        asked
                            .and_then(|()| answers.recv().ok())
                            .unwrap_or(ControlFlow::Break(()))
                    })
                })
                .map_err(|source| StoreError::Io {
                    action: "start compaction of",
                    path: self.path().to_owned(),
                    source,
                })?;
            throttle.answer_run(&questions, &answer, observe);
            worker.join().unwrap_or_else(|panic| Err(panicked(&*panic)))
        })
    }

    fn run_compaction(
        &self,
        request: &CompactionRequest,
        throttle: Throttle<'_>,
        panicked_session: &PanickedSession,
        observe: Observer<'_>,
    ) -> Result<CompactionOutcome> {
        request.validate()?;
        self.writer()?;
        let _lease = Lease::take(&self.inner.db)?;
        let started = Instant::now();
        let started_ms = self.inner.options.clock.now_ms();
        let bytes_before = self.space()?.used_bytes();
        let mut outcome = CompactionOutcome {
            bytes_before,
            bytes_after: bytes_before,
            messages: 0,
            raw_bytes: 0,
            segments: 0,
            segments_replaced: 0,
            failures: Vec::new(),
            cancelled: false,
            seconds: 0.0,
        };
        let mut tier_max = None;
        let plan = match self.plan_observed(request, observe) {
            Err(StoreError::Cancelled) => {
                outcome.cancelled = true;
                outcome.seconds = started.elapsed().as_secs_f64();
                return Ok(outcome);
            }
            // There is no session or no store to run on.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Closed) => {
                return Err(error);
            }
            plan => plan,
        };
        // A run that panics has failed, and is noted like any other.
        let result = plan.and_then(|plan| {
            outcome.failures.clone_from(&plan.failures);
            let tally = Tally::new(&mut outcome, &mut tier_max, panicked_session, throttle);
            let run_plan = AssertUnwindSafe(|| self.run_plan(&plan, request, tally, observe));
            catch_unwind(run_plan).unwrap_or_else(|panic| Err(panicked(&*panic)))
        });
        if result.is_err()
            && let Err(error) = cut_log(self)
        {
            // The run's own error is the one to report. It may be the cause of this one.
            tracing::debug!(%error, "the log of a run that ended early was not cut");
        }
        // If the sizes cannot be read, the run's own error is the one to report.
        outcome.bytes_after = self
            .space()
            .map_or(bytes_before, |space| space.used_bytes());
        outcome.seconds = started.elapsed().as_secs_f64();
        outcome.cancelled = matches!(result, Err(StoreError::Cancelled));
        if outcome.segments > 0 || !outcome.failures.is_empty() || result.is_err() {
            let tier = tier_max.unwrap_or(request.tier);
            let error = result.as_ref().err();
            let noted = self.record_run(request.trigger, tier, started_ms, &outcome, error);
            match (&result, noted) {
                // The run's own error is the one to report. It may be the cause of this one.
                (Err(_), Err(error)) => tracing::warn!(%error, "a failed run could not be noted"),
                // The reserve is not for notes. What the run did is done.
                (Ok(()), Err(error @ StoreError::DiskFull { .. })) => {
                    tracing::warn!(%error, "a run could not be noted");
                }
                (_, noted) => noted?,
            }
        }
        match result {
            Ok(()) | Err(StoreError::Cancelled) => Ok(outcome),
            Err(error) => Err(error),
        }
    }

    fn plan_observed(
        &self,
        request: &CompactionRequest,
        observe: Observer<'_>,
    ) -> Result<CompactionPlan> {
        let nothing_done = CompactionProgress {
            phase: CompactionPhase::Preparing,
            steps_done: 0,
            steps: 0,
            raw_bytes_done: 0,
            raw_bytes: 0,
        };
        // The observer is on another thread: asking it takes as long as planning for a session.
        let mut asked = Instant::now();
        self.plan_cancellable(request, &mut || {
            if asked.elapsed() < PLANNING_ASKS_EVERY {
                return ControlFlow::Continue(());
            }
            asked = Instant::now();
            observe(&nothing_done)
        })
    }

    fn run_plan(
        &self,
        plan: &CompactionPlan,
        request: &CompactionRequest,
        mut tally: Tally<'_>,
        observe: Observer<'_>,
    ) -> Result<()> {
        let mut progress = CompactionProgress {
            phase: CompactionPhase::Encoding,
            steps_done: 0,
            steps: plan.steps().count() as u64,
            raw_bytes_done: 0,
            raw_bytes: plan.raw_bytes(),
        };
        let mut pace = Pace::new(self);
        for batch in &plan.batches {
            self.compact_batch(
                batch,
                request,
                &mut tally,
                &mut progress,
                &mut pace,
                observe,
            )?;
        }
        progress.phase = CompactionPhase::Reclaiming;
        self.finish_deletions_if_possible(&mut || observe(&progress))?;
        self.delete_unused_bases()?;
        let cuts_log_always = request.force || tally.outcome.segments > 0;
        page_order::put_in_order(self, &mut pace, &tally.bases_made)?;
        reclaim(self, &mut pace, cuts_log_always, &mut || observe(&progress))?;
        if page_order::put_in_order(self, &mut pace, &tally.bases_made)? {
            cut_log(self)?;
        }
        Ok(())
    }

    fn compact_batch(
        &self,
        batch: &PlannedBatch,
        request: &CompactionRequest,
        tally: &mut Tally<'_>,
        progress: &mut CompactionProgress,
        pace: &mut Pace<'_>,
        observe: Observer<'_>,
    ) -> Result<()> {
        let Some(first) = batch.steps.first() else {
            return Ok(());
        };
        let params = request.policy.encode_params(first.tier);
        progress.phase = CompactionPhase::Preparing;
        let began = Instant::now();
        let base = match self.batch_base(batch, &params, ahead(request), &mut || observe(progress))
        {
            // Without a base the segments are larger, and nothing else changes.
            Err(error) if error.is_of_one_session() => {
                tracing::warn!(project = batch.project, %error, "compacting without a base");
                None
            }
            base => base?,
        };
        tally.throttle.pause_after(began.elapsed());
        progress.phase = CompactionPhase::Encoding;
        let reader = PageReader::default();
        let (panicked_session, throttle) = (tally.panicked_session, tally.throttle);
        let worker = || {
            let mut encoder = None;
            let mut reader = reader.sibling();
            let base = base.as_ref();
            move |step: &PlannedStep| {
                let began = Instant::now();
                let _noted = panicked_session.mark_on_panic(&step.session);
                let prepared = match &mut encoder {
                    Some(encoder) => prepare(self, step, encoder, &mut reader),
                    None => BatchEncoder::new(params, base)
                        .map_err(|error| base::name_step(step, error))
                        .and_then(|new| prepare(self, step, encoder.insert(new), &mut reader)),
                };
                throttle.pause_after(began.elapsed());
                prepared
            }
        };
        let bytes_of = |step: &PlannedStep| step.raw_bytes;
        in_order(
            &batch.steps,
            ahead(request),
            bytes_of,
            worker,
            |step, prepared| {
                if !tally.failed.contains(&step.session) {
                    tally.finish_step(pace, step, prepared)?;
                }
                progress.steps_done += 1;
                progress.raw_bytes_done += step.raw_bytes;
                if observe(progress).is_break() {
                    return Err(StoreError::Cancelled);
                }
                Ok(())
            },
        )?;
        if let (BaseChoice::Make { .. }, Some(base)) = (batch.base, &base) {
            tally.bases_made.push(base.base.id());
        }
        Ok(())
    }

    fn batch_base(
        &self,
        batch: &PlannedBatch,
        params: &EncodeParams,
        ahead: ParallelLimits,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Option<RunBase>> {
        match batch.base {
            BaseChoice::None => Ok(None),
            BaseChoice::Keep { base_id } => base::keep(self, batch, base_id).map(Some),
            BaseChoice::Make { project_raw_bytes } => {
                base::make(self, batch, project_raw_bytes, params.level, ahead, go_on)
            }
        }
    }

    fn record_run(
        &self,
        trigger: &str,
        tier: Tier,
        started_ms: i64,
        outcome: &CompactionOutcome,
        error: Option<&StoreError>,
    ) -> Result<()> {
        let failures = outcome.failures.first().map(|failure| failure.why.clone());
        let run = CompactionRun {
            run_id: 0,
            started_ms,
            finished_ms: self.inner.options.clock.now_ms(),
            trigger: trigger.to_owned(),
            tier: tier.name().to_owned(),
            outcome: match error {
                None if outcome.failures.is_empty() => RunOutcome::Done,
                Some(StoreError::Cancelled) => RunOutcome::Cancelled,
                _ => RunOutcome::Failed,
            },
            bytes_before: outcome.bytes_before,
            bytes_after: outcome.bytes_after,
            messages: outcome.messages,
            raw_bytes: outcome.raw_bytes,
            segments_written: outcome.segments,
            segments_replaced: outcome.segments_replaced,
            detail: failures
                .or(error.map(ToString::to_string))
                .unwrap_or_default(),
        };
        self.writer()?.run(move |context| {
            context.write_without_reserve("note the run", |db, connection| {
                db.context("note the run", sql::runs::insert(connection, &run))
            })
        })
    }
}

fn panicked(panic: &(dyn Any + Send)) -> StoreError {
    StoreError::panicked("compaction", panic)
}

fn ahead(request: &CompactionRequest) -> ParallelLimits {
    ParallelLimits {
        threads: request.threads_max.min(COMPACTION_THREADS_MAX),
        bytes_max: COMPACTION_AHEAD_BYTES_MAX,
    }
}
