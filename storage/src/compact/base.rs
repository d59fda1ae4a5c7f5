//! Which base the segments of a project are encoded with: pure choice, and making one.
//!
//! A *base* holds what sessions of one project share (see [`crate::segment::v2`]). Reading a
//! segment takes at most its one base besides, so reach over sessions costs a bounded amount.
//! A new base is made when its project has doubled or grown by
//! [`BASE_SOURCE_BYTES_MAX`], from what is new and, as far as there is room, from the newest
//! segments, which are then written again with it: each byte is written a bounded number of
//! times, and what lies further back stays as it is, with the base that it has.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::ahead::{ParallelLimits, in_order};
use super::plan::PlannedStep;
use super::step_input;
use crate::error::{Result, StoreError};
use crate::limits::{BASE_SOURCE_BYTES_MAX, BASE_SOURCE_BYTES_MIN, BASE_TEXT_BYTES_MAX};
use crate::reader::fetch::{self, PageReader};
use crate::segment::v2::{self, TakenApart};
use crate::segment::{Base, SegmentError};
use crate::sql;
use crate::sql::bases::BaseInfo;
use crate::store::Store;

/// Steps of one project that are encoded with the same base.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBatch {
    /// The project: a working directory.
    pub project: String,
    /// Where its base comes from.
    pub base: BaseChoice,
    /// The segments to make.
    pub steps: Vec<PlannedStep>,
}

/// Where a batch's base comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BaseChoice {
    /// No base.
    None,
    /// One that is there.
    Keep {
        /// Its id.
        base_id: u64,
    },
    /// A new one, made from the batch's own messages.
    Make {
        /// Payload bytes of the whole project then.
        project_raw_bytes: u64,
    },
}

/// A project at the time of planning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ProjectState {
    /// Its newest base, and how big the project was when it was made.
    pub(super) newest: Option<BaseInfo>,
    /// Payload bytes of all its sessions.
    pub(super) raw_bytes: u64,
}

impl ProjectState {
    /// Whether the newest base is still good enough for the project.
    pub(super) fn is_current(&self) -> bool {
        self.newest.is_some_and(|base| {
            let then = base.source_raw_bytes;
            self.raw_bytes < then.saturating_mul(2)
                && self.raw_bytes < then.saturating_add(BASE_SOURCE_BYTES_MAX)
        })
    }

    fn keep(&self) -> BaseChoice {
        self.newest
            .map_or(BaseChoice::None, |base| BaseChoice::Keep {
                base_id: base.base_id,
            })
    }
}

/// Steps that are a part of a project only, the quick tier's or those of one session: with its newest
/// base. If there is none they make one, a makeshift that counts as made from nothing, so that the
/// next deep run over the project makes its own.
pub(super) fn partial_batch(
    project: String,
    newest: Option<BaseInfo>,
    steps: Vec<PlannedStep>,
) -> PlannedBatch {
    let raw_bytes: u64 = steps.iter().map(|step| step.raw_bytes).sum();
    let base = match newest {
        Some(newest) => BaseChoice::Keep {
            base_id: newest.base_id,
        },
        None if steps.len() > 1 && raw_bytes >= BASE_SOURCE_BYTES_MIN => BaseChoice::Make {
            project_raw_bytes: 0,
        },
        None => BaseChoice::None,
    };
    PlannedBatch {
        project,
        base,
        steps,
    }
}

/// Cuts the deep steps of a project into batches. `rewritable` are steps that would write segments
/// again that are deep already, the newest first.
pub(super) fn batches(
    project: &str,
    state: &ProjectState,
    pending: Vec<PlannedStep>,
    rewritable: impl Iterator<Item = PlannedStep>,
) -> Vec<PlannedBatch> {
    let batch = |base, steps| PlannedBatch {
        project: project.to_owned(),
        base,
        steps,
    };
    if pending.is_empty() {
        return Vec::new();
    }
    if state.is_current() {
        return vec![batch(state.keep(), pending)];
    }
    let mut batches: Vec<Vec<PlannedStep>> = vec![Vec::new()];
    let mut raw_bytes = 0;
    for step in pending {
        if raw_bytes + step.raw_bytes > BASE_SOURCE_BYTES_MAX && raw_bytes > 0 {
            batches.push(Vec::new());
            raw_bytes = 0;
        }
        raw_bytes += step.raw_bytes;
        if let Some(last) = batches.last_mut() {
            last.push(step);
        }
    }
    // The last batch takes in what is newest of the rest, as far as there is room.
    if let Some(last) = batches.last_mut() {
        for step in rewritable {
            if raw_bytes + step.raw_bytes > BASE_SOURCE_BYTES_MAX {
                break;
            }
            raw_bytes += step.raw_bytes;
            last.push(step);
        }
        last.sort_by(|a, b| (&a.session, a.first_sequence).cmp(&(&b.session, b.first_sequence)));
    }
    batches
        .into_iter()
        .map(|steps| {
            let raw_bytes: u64 = steps.iter().map(|step| step.raw_bytes).sum();
            if steps.len() > 1 && raw_bytes >= BASE_SOURCE_BYTES_MIN {
                batch(
                    BaseChoice::Make {
                        project_raw_bytes: state.raw_bytes,
                    },
                    steps,
                )
            } else {
                batch(state.keep(), steps)
            }
        })
        .collect()
}

/// A base in use by a run, and its row. Each swap looks whether the row is there: a new one is not
/// yet, and any goes when the last session that uses it is deleted during the run.
#[derive(Debug, Clone)]
pub(super) struct RunBase {
    pub(super) base: Arc<Base>,
    pub(super) row: Arc<BaseRow>,
}

/// What the file holds of a base.
#[derive(Debug)]
pub(super) struct BaseRow {
    pub(super) info: BaseInfo,
    pub(super) project: String,
    pub(super) encoded: Bytes,
    /// Whether this run has read these bytes from the file.
    pub(super) read_from_file: AtomicBool,
}

/// A base that is in the file.
pub(super) fn keep(store: &Store, batch: &PlannedBatch, base_id: u64) -> Result<RunBase> {
    let db = &store.inner.db;
    let connection = store.inner.readers.get()?;
    let encoded = fetch::stored_base(db, &connection, base_id)?;
    let base = fetch::decode_base(db, base_id, encoded.clone())?;
    let info = db.context("read a base", sql::bases::info(&connection, base_id))?;
    let info = info.ok_or_else(|| fetch::damaged_base(db, base_id, "it has just gone"))?;
    Ok(RunBase {
        base: Arc::new(base),
        row: Arc::new(BaseRow {
            info,
            project: batch.project.clone(),
            encoded,
            read_from_file: AtomicBool::new(true),
        }),
    })
}

/// The steps that a base is made from: as many of a batch's first steps as [`BASE_SOURCE_BYTES_MAX`]
/// allows. Only batches made by [`partial_batch`] exceed it.
fn sources(steps: &[PlannedStep]) -> Vec<&PlannedStep> {
    let mut raw_bytes = 0;
    let fits = |step: &&PlannedStep| {
        raw_bytes += step.raw_bytes;
        raw_bytes <= BASE_SOURCE_BYTES_MAX
    };
    steps.iter().take_while(fits).collect()
}

/// Makes a base from the messages of a batch, which are read twice. `None` when they share too
/// little. `go_on` is asked after each step read.
pub(super) fn make<'b>(
    store: &Store,
    batch: &'b PlannedBatch,
    project_raw_bytes: u64,
    level: i32,
    ahead: ParallelLimits,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<Option<RunBase>> {
    let reader = PageReader::default();
    let mut each = |steps: &[&'b PlannedStep],
                    take: &mut dyn FnMut(TakenApart)|
     -> Result<Vec<&'b PlannedStep>> {
        let mut taken = Vec::new();
        let bytes_of = |step: &&PlannedStep| step.raw_bytes;
        let worker = || {
            let mut reader = reader.sibling();
            move |step: &&PlannedStep| take_apart(store, step, &mut reader)
        };
        in_order(steps, ahead, bytes_of, worker, |step, parts| {
            match parts {
                Ok(Some(parts)) => {
                    take(parts);
                    taken.push(*step);
                }
                Ok(None) => {}
                // The others share what they share. Its own swap names the damage, if it is due.
                Err(error) if error.is_of_one_session() => {
                    tracing::debug!(session = %step.session, %error, "left out of the base");
                }
                Err(error) => return Err(error),
            }
            match go_on() {
                ControlFlow::Continue(()) => Ok(()),
                ControlFlow::Break(()) => Err(StoreError::Cancelled),
            }
        })?;
        Ok(taken)
    };
    let mut builder = v2::BaseBuilder::new(level);
    let observed = each(&sources(&batch.steps), &mut |parts| builder.observe(parts))?;
    let mut collector = builder.into_collector(BASE_TEXT_BYTES_MAX);
    let kept = collector.collect_kept();
    each(&observed[kept..], &mut |parts| collector.collect(&parts))?;
    let damaged = |error: SegmentError| match error {
        SegmentError::OutOfMemory => StoreError::OutOfMemory {
            action: "make",
            what: format!("a base of project {:?}", batch.project),
        },
        error => {
            let what = format!("a new base of project {:?}: {error}", batch.project);
            StoreError::damaged(None, what)
        }
    };
    let Some(encoded) = collector.finish().map_err(damaged)? else {
        return Ok(None);
    };
    // Read back before anything depends on it.
    let encoded = Bytes::from(encoded);
    let base = Base::from_stored(encoded.clone()).map_err(damaged)?;
    let info = BaseInfo {
        base_id: base.id(),
        source_raw_bytes: project_raw_bytes,
    };
    Ok(Some(RunBase {
        base: Arc::new(base),
        row: Arc::new(BaseRow {
            info,
            project: batch.project.clone(),
            encoded,
            read_from_file: AtomicBool::new(false),
        }),
    }))
}

fn take_apart(
    store: &Store,
    step: &PlannedStep,
    reader: &mut PageReader,
) -> Result<Option<TakenApart>> {
    let Some(step_input) = step_input::read(store, step, reader)? else {
        return Ok(None);
    };
    let parts = TakenApart::of(&step_input.entries()).map_err(|error| name_step(step, error))?;
    Ok(Some(parts))
}

pub(super) fn name_step(step: &PlannedStep, source: SegmentError) -> StoreError {
    match source {
        SegmentError::OutOfMemory => StoreError::OutOfMemory {
            action: "encode",
            what: format!(
                "the messages from sequence {} on of session {}",
                step.first_sequence, step.session
            ),
        },
        source => StoreError::Encode {
            id: step.session.clone(),
            first_sequence: step.first_sequence,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::segments::Tier;

    const MIB: u64 = 1 << 20;

    fn step(first_sequence: u64, raw_bytes: u64) -> PlannedStep {
        PlannedStep {
            session: "s".parse().unwrap(),
            first_sequence,
            last_sequence: first_sequence,
            raw_bytes,
            stored_bytes: raw_bytes,
            tier: Tier::Deep,
            hot_messages: 1,
            replaces_segments: 0,
            is_rewrite: false,
        }
    }

    fn state(newest_at: Option<u64>, raw_bytes: u64) -> ProjectState {
        let newest = newest_at.map(|at| BaseInfo {
            base_id: 7,
            source_raw_bytes: at,
        });
        ProjectState { newest, raw_bytes }
    }

    fn choices(batches: &[PlannedBatch]) -> Vec<(BaseChoice, usize)> {
        batches.iter().map(|b| (b.base, b.steps.len())).collect()
    }

    fn plan(
        state: ProjectState,
        pending: Vec<PlannedStep>,
        rewritable: Vec<PlannedStep>,
    ) -> Vec<PlannedBatch> {
        batches("/p", &state, pending, rewritable.into_iter())
    }

    #[test]
    fn a_project_of_one_segment_needs_no_base() {
        let planned = plan(state(None, MIB), vec![step(1, MIB)], vec![]);
        assert_eq!(choices(&planned), [(BaseChoice::None, 1)]);
    }

    #[test]
    fn a_base_stays_until_its_project_has_doubled() {
        let kept = plan(
            state(Some(10 * MIB), 19 * MIB),
            vec![step(1, MIB)],
            vec![step(9, MIB)],
        );
        assert_eq!(choices(&kept), [(BaseChoice::Keep { base_id: 7 }, 1)]);
        let made = plan(
            state(Some(10 * MIB), 20 * MIB),
            vec![step(1, MIB)],
            vec![step(9, MIB)],
        );
        assert_eq!(
            choices(&made),
            [(
                BaseChoice::Make {
                    project_raw_bytes: 20 * MIB
                },
                2
            )]
        );
    }

    #[test]
    fn a_big_project_gets_a_base_for_each_stretch_of_it() {
        let pending: Vec<_> = (1..=40).map(|n| step(n, 4 * MIB)).collect();
        let planned = plan(state(None, 160 * MIB), pending, vec![]);
        assert_eq!(
            planned.iter().map(|b| b.steps.len()).collect::<Vec<_>>(),
            [16, 16, 8]
        );
    }

    #[test]
    fn what_is_written_again_is_bounded() {
        let rewritable: Vec<_> = (100..400).map(|n| step(n, 4 * MIB)).collect();
        let planned = plan(
            state(Some(100 * MIB), 1200 * MIB),
            vec![step(1, 4 * MIB)],
            rewritable,
        );
        let again: u64 = planned
            .iter()
            .flat_map(|b| &b.steps)
            .map(|s| s.raw_bytes)
            .sum();
        assert!(again <= BASE_SOURCE_BYTES_MAX, "{again}");
    }

    #[test]
    fn the_quick_tier_makes_a_base_only_where_there_is_none() {
        let newest = BaseInfo {
            base_id: 7,
            source_raw_bytes: MIB,
        };
        let steps = || vec![step(1, MIB), step(2, MIB)];
        let base = |newest, steps| partial_batch("/p".to_owned(), newest, steps).base;
        assert_eq!(base(Some(newest), steps()), BaseChoice::Keep { base_id: 7 });
        assert_eq!(base(None, vec![step(1, MIB)]), BaseChoice::None);
        let made = base(None, steps());
        assert_eq!(
            made,
            BaseChoice::Make {
                project_raw_bytes: 0
            }
        );
        // The deep tier takes no base of the quick tier's for its own.
        let makeshift = plan(state(Some(0), 2 * MIB), steps(), vec![]);
        let project_raw_bytes = 2 * MIB;
        assert_eq!(
            choices(&makeshift),
            [(BaseChoice::Make { project_raw_bytes }, 2)]
        );
    }

    #[test]
    fn a_base_is_made_from_a_bounded_part_of_a_batch() {
        let steps: Vec<_> = (1..=40).map(|n| step(n, 4 * MIB)).collect();
        assert_eq!(sources(&steps).len(), 16);
    }

    #[test]
    fn nothing_pending_means_nothing_to_do() {
        assert_eq!(plan(state(None, 100 * MIB), vec![], vec![step(1, MIB)]), []);
    }
}
