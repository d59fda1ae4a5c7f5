//! Compaction: hot messages into segments, and small segments into bigger ones, losslessly.
//!
//! 1. `policy` looks at a session and says whether a tier is due (pure).
//! 2. `plan` packs the session's messages into steps, each one new segment (pure).
//!    `base` chooses what the steps of a project are encoded with.
//! 3. `step` carries a step out: read (`step_input`), encode, decode and compare outside any write
//!    transaction; then one short transaction compares once more with what the file holds,
//!    deletes what the segment replaces and inserts it, into the pages that this frees.
//! 4. `reclaim` gives the free pages back in small transactions, and checkpoints. That moves pages, so before
//!    and after it `page_order` puts those of new bases in order, because each read begins with its base.
//! 5. `run` does this for all sessions that are due, on request; `service` does it in the
//!    background. One thread, or several where a run may use them, read and encode `ahead` of the
//!    swaps, which go on one by one, in the plan's order. `lower_priority` and `pace` see to it that those
//!    who append hardly notice: the one on the cores, the other on the writer's thread.
//!
//! A crash at any point leaves either the old rows or the new segment, never both and never
//! neither: the swap is one transaction, and nothing else changes messages.

mod ahead;
mod base;
mod lease;
mod lower_priority;
mod pace;
mod page_order;
mod plan;
mod policy;
mod project;
mod reclaim;
mod request;
mod run;
mod service;
mod step;
mod step_input;
mod survey;
mod tally;
mod throttle;
mod unused;

pub(crate) use pace::{Pace, rest_for_other_processes};

pub use base::{BaseChoice, PlannedBatch};
pub use plan::PlannedStep;
pub use policy::CompactionPolicy;
pub use request::{
    CompactionOutcome, CompactionPhase, CompactionPlan, CompactionProgress, CompactionRequest,
    SessionFailure, compaction_threads,
};
pub use service::{CompactionService, ServiceOptions, ServiceState, ServiceStatus};
