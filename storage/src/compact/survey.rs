//! What there is to compact: looks at the store, and lets the pure parts pack and choose.

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use super::base::{self, BaseChoice, PlannedBatch, ProjectState, batches};
use super::plan::{Packer, Packing, PlannedStep};
use super::policy::{CompactionPolicy, SessionState};
use super::request::{CompactionPlan, CompactionRequest, SessionFailure};
use crate::error::{ErrorKind, Result, StoreError};
use crate::ids::SessionId;
use crate::segment::CodecVersion;
use crate::session::{Session, SessionFilter};
use crate::sql;
use crate::sql::segments::{SegmentInfo, Tier};
use crate::store::Store;

impl Store {
    /// What [`Store::compact`] would do, without doing it.
    ///
    /// # Errors
    /// [`StoreError::InvalidArgument`], [`StoreError::SessionNotFound`], or when the file cannot be read.
    pub fn plan_compaction(&self, request: &CompactionRequest) -> Result<CompactionPlan> {
        request.validate()?;
        self.plan_cancellable(request, &mut || ControlFlow::Continue(()))
    }

    /// Plans, and asks `go_on` before each session: there may be many thousands.
    pub(super) fn plan_cancellable(
        &self,
        request: &CompactionRequest,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<CompactionPlan> {
        // By project, because sessions of one project share a base.
        let mut planned = Vec::new();
        let mut plan = CompactionPlan::default();
        for session in self.candidates(request, &mut plan)? {
            or_cancelled(go_on())?;
            match self.plan_session(&session, request) {
                Ok(steps) => {
                    if let Some(first) = steps.first() {
                        planned.push((session.key, first.tier, steps));
                    }
                }
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    fail(&mut plan, Some(&session.id), &error);
                }
                Err(error) => return Err(error),
            }
        }
        if planned.is_empty() {
            return Ok(plan);
        }
        let projects = self.projects()?;
        let mut pending: BTreeMap<(&str, Tier), Vec<PlannedStep>> = BTreeMap::new();
        for (session, tier, steps) in planned {
            let project = (projects.of(session), tier);
            pending.entry(project).or_default().extend(steps);
        }
        let is_whole = |tier| tier == Tier::Deep && request.session.is_none();
        let sessions = match pending.keys().any(|(_, tier)| is_whole(*tier)) {
            true => self.sessions(&SessionFilter::default())?.sessions,
            false => Vec::new(),
        };
        let mut sessions_of: HashMap<&str, Vec<&Session>> = HashMap::new();
        for session in &sessions {
            let project = projects.of(session.key);
            sessions_of.entry(project).or_default().push(session);
        }
        for ((project, tier), steps) in pending {
            let batches = if is_whole(tier) {
                let theirs = sessions_of.get(project).map_or(&[][..], Vec::as_slice);
                self.deep_batches(project, steps, theirs, request, go_on)?
            } else {
                vec![self.partial_batch(project.to_owned(), tier, steps, &request.policy)?]
            };
            plan.batches.extend(batches);
        }
        Ok(plan)
    }

    fn partial_batch(
        &self,
        project: String,
        tier: Tier,
        steps: Vec<PlannedStep>,
        policy: &CompactionPolicy,
    ) -> Result<PlannedBatch> {
        if policy.encode_params(tier).version == CodecVersion::V1 {
            let base = BaseChoice::None;
            return Ok(PlannedBatch {
                project,
                base,
                steps,
            });
        }
        let newest = self.query("find the base", |c| sql::bases::newest(c, &project))?;
        Ok(base::partial_batch(project, newest, steps))
    }

    fn deep_batches(
        &self,
        project: &str,
        pending: Vec<PlannedStep>,
        sessions: &[&Session],
        request: &CompactionRequest,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<PlannedBatch>> {
        if request.policy.deep.version == CodecVersion::V1 {
            let base = BaseChoice::None;
            return Ok(vec![PlannedBatch {
                project: project.to_owned(),
                base,
                steps: pending,
            }]);
        }
        let state = ProjectState {
            newest: self.query("find the base", |c| sql::bases::newest(c, project))?,
            raw_bytes: sessions.iter().map(|session| session.raw_bytes).sum(),
        };
        let rewritable = match state.is_current() {
            true => Vec::new(),
            false => self.rewritable_segments(&pending, sessions, request, go_on)?,
        };
        Ok(batches(project, &state, pending, rewritable.into_iter()))
    }

    /// The steps that would write deep segments again, the newest first; none of those that `pending`
    /// writes anyway, or that are to be left as they are.
    fn rewritable_segments(
        &self,
        pending: &[PlannedStep],
        sessions: &[&Session],
        request: &CompactionRequest,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Vec<PlannedStep>> {
        let mut pending_of: HashMap<&SessionId, Vec<&PlannedStep>> = HashMap::new();
        for step in pending {
            pending_of.entry(&step.session).or_default().push(step);
        }
        let mut rewritable = Vec::new();
        for session in sessions {
            or_cancelled(go_on())?;
            if request.except.contains(&session.id) {
                continue;
            }
            let listed = self.query("list the segments", |c| sql::segments::list(c, session.key));
            let segments = match listed {
                // What is damaged stays as it is.
                Err(error) if error.kind() == ErrorKind::Damaged => continue,
                listed => listed?,
            };
            // In order, and none overlaps another.
            let theirs = pending_of.get(&session.id).map_or(&[][..], Vec::as_slice);
            let is_pending = |info: &SegmentInfo| {
                let after = theirs.partition_point(|p| p.last_sequence < info.first_sequence);
                theirs
                    .get(after)
                    .is_some_and(|p| p.first_sequence <= info.last_sequence)
            };
            let rewrites = segments
                .iter()
                .filter(|info| info.tier == Tier::Deep && !is_pending(info))
                .map(|info| {
                    let step = PlannedStep::rewrite(session.id.clone(), info);
                    (info.created_ms, step)
                });
            rewritable.extend(rewrites);
        }
        rewritable.sort_by_key(|(created_ms, _)| std::cmp::Reverse(*created_ms));
        Ok(rewritable.into_iter().map(|(_, step)| step).collect())
    }

    fn candidates(
        &self,
        request: &CompactionRequest,
        plan: &mut CompactionPlan,
    ) -> Result<Vec<Session>> {
        if let Some(id) = &request.session {
            return Ok(vec![self.session(id)?]);
        }
        let (sessions, damaged) = self.query("list the sessions", |c| {
            // The quick tier takes in new messages only, however much is asked for.
            let everything = request.force && request.tier == Tier::Deep;
            let usual = sql::sessions::compactable(c, everything);
            sql::damaged::or_else(usual, || sql::damaged::compactable(c, everything))
        })?;
        let is_left = |id: &SessionId| request.except.contains(id);
        for session in damaged {
            if !session.id.as_ref().is_some_and(is_left) {
                fail(plan, session.id.as_ref(), &session.error());
            }
        }
        Ok(sessions.into_iter().filter(|s| !is_left(&s.id)).collect())
    }

    fn plan_session(
        &self,
        session: &Session,
        request: &CompactionRequest,
    ) -> Result<Vec<PlannedStep>> {
        let now_ms = self.inner.options.clock.now_ms();
        let key = session.key;
        let segments = self.query("list the segments", |c| sql::segments::list(c, key))?;
        let state = SessionState {
            hot_messages: session.hot_messages,
            hot_bytes: session.hot_bytes,
            has_quick_segments: segments.iter().any(|s| s.tier == Tier::Quick),
            updated_ms: session.updated_ms,
        };
        let policy = &request.policy;
        let tier = if request.force {
            request.tier
        } else {
            match policy.due(&state, now_ms) {
                Some(tier) => tier.min(request.tier),
                None => return Ok(Vec::new()),
            }
        };
        let packing = Packing {
            tier,
            segment_bytes_max: policy.segment_bytes_max(tier) as u64,
            segment_messages_max: policy.segment_messages_max as u64,
            keep_remainder: !request.force && policy.keeps_remainder(&state, now_ms),
        };
        let mut packer = Packer::new(&session.id, packing, segments);
        self.query("measure the messages", |connection| {
            let each = |sequence, raw_bytes| packer.hot(sequence, raw_bytes);
            sql::messages::scan_sizes(connection, key, 1, session.messages, each)
        })?;
        Ok(packer.finish())
    }
}

fn or_cancelled(go_on: ControlFlow<()>) -> Result<()> {
    match go_on {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(StoreError::Cancelled),
    }
}

/// Damage in one session must not keep the others from being compacted.
fn fail(plan: &mut CompactionPlan, session: Option<&SessionId>, error: &StoreError) {
    tracing::error!(session = session.map(SessionId::as_str), %error, "a session cannot be compacted");
    if let Some(id) = session {
        plan.failures.push(SessionFailure::new(id, error));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, StoreOptions};

    #[test]
    fn a_plan_is_given_up_when_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let store = Store::open(&path, StoreOptions::default()).unwrap();
        for session in ["a", "b", "c"] {
            let session = SessionId::new(session).unwrap();
            let batch = Batch::new(session, vec!["a line".into()]);
            store.append(batch).unwrap();
        }
        let mut asked = 0;
        // The quick tier looks at each session once.
        let request = CompactionRequest {
            tier: Tier::Quick,
            ..CompactionRequest::manual()
        };
        let planned = store.plan_cancellable(&request, &mut || {
            asked += 1;
            match asked {
                1 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        });
        assert!(matches!(planned, Err(StoreError::Cancelled)), "{planned:?}");
        assert_eq!(asked, 2);
    }
}
