//! What there is to compact: looks at the store, and lets the pure parts pack and choose.

use std::collections::BTreeMap;

use super::base::{self, BaseChoice, PlannedBatch, ProjectState, batches};
use super::plan::{Packing, PlannedStep, Unit, pack};
use super::policy::{CompactionPolicy, SessionState};
use super::run::{CompactionPlan, CompactionRequest};
use crate::error::{ErrorKind, Result, StoreError};
use crate::ids::SessionId;
use crate::segment::CodecVersion;
use crate::session::{Session, SessionFilter};
use crate::sql;
use crate::sql::segments::Tier;
use crate::store::Store;

impl Store {
    /// What [`Store::compact`] would do, without doing it.
    ///
    /// # Errors
    /// [`StoreError::SessionNotFound`], or when the file cannot be read.
    pub fn plan_compaction(&self, request: &CompactionRequest) -> Result<CompactionPlan> {
        // By project, because sessions of one project share a base.
        let mut planned = Vec::new();
        let mut plan = CompactionPlan::default();
        for session in self.candidates(request, &mut plan)? {
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
        let mut sessions = None;
        for ((project, tier), steps) in pending {
            let batches = match tier {
                Tier::Quick => {
                    vec![self.quick_batch(project.to_owned(), steps, &request.policy)?]
                }
                Tier::Deep => {
                    let sessions: &Vec<Session> = match &mut sessions {
                        Some(known) => known,
                        None => sessions.insert(self.sessions(&SessionFilter::default())?.sessions),
                    };
                    let of_project = |session: &&Session| projects.of(session.key) == project;
                    let theirs: Vec<&Session> = sessions.iter().filter(of_project).collect();
                    self.deep_batches(project, steps, &theirs, request)?
                }
            };
            plan.batches.extend(batches);
        }
        Ok(plan)
    }

    fn quick_batch(
        &self,
        project: String,
        steps: Vec<PlannedStep>,
        policy: &CompactionPolicy,
    ) -> Result<PlannedBatch> {
        if policy.quick.version == CodecVersion::V1 {
            let base = BaseChoice::None;
            return Ok(PlannedBatch {
                project,
                base,
                steps,
            });
        }
        let newest = self.query("find the base", |c| sql::bases::newest(c, &project))?;
        Ok(base::quick_batch(project, newest, steps))
    }

    fn deep_batches(
        &self,
        project: &str,
        pending: Vec<PlannedStep>,
        sessions: &[&Session],
        request: &CompactionRequest,
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
        let mut settled = Vec::new();
        for session in sessions {
            let listed = self.query("list the segments", |c| sql::segments::list(c, session.key));
            let segments = match listed {
                // What is damaged stays as it is.
                Err(error) if error.kind() == ErrorKind::Damaged => continue,
                listed => listed?,
            };
            settled.extend(
                segments
                    .into_iter()
                    .filter(|s| s.tier == Tier::Deep)
                    .map(|info| {
                        (
                            info.created_ms,
                            PlannedStep::again(session.id.clone(), &info),
                        )
                    }),
            );
        }
        settled.retain(|(_, step)| !pending.iter().any(|p| p.overlaps(step)));
        settled.sort_by_key(|(created_ms, _)| std::cmp::Reverse(*created_ms));
        Ok(batches(
            project,
            &state,
            pending,
            settled.into_iter().map(|(_, step)| step),
        ))
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
        let units = self.units(session, segments)?;
        Ok(pack(&session.id, &units, &packing))
    }

    /// Segments of a session and the hot messages between and after them, in order.
    fn units(
        &self,
        session: &Session,
        segments: Vec<sql::segments::SegmentInfo>,
    ) -> Result<Vec<Unit>> {
        let mut units: Vec<Unit> = segments.into_iter().map(Unit::Segment).collect();
        let key = session.key;
        self.query("measure the messages", |connection| {
            sql::messages::scan_sizes(
                connection,
                key,
                1,
                session.messages,
                |sequence, raw_bytes| {
                    units.push(Unit::Hot {
                        sequence,
                        raw_bytes,
                    });
                    true
                },
            )
        })?;
        units.sort_by_key(|unit| match unit {
            Unit::Hot { sequence, .. } => *sequence,
            Unit::Segment(info) => info.first_sequence,
        });
        Ok(units)
    }
}

/// Damage in one session must not keep the others from being compacted.
fn fail(plan: &mut CompactionPlan, session: Option<&SessionId>, error: &StoreError) {
    tracing::error!(session = session.map(SessionId::as_str), %error, "a session cannot be compacted");
    if let Some(id) = session {
        plan.failures.push((id.clone(), error.to_string()));
    }
}
