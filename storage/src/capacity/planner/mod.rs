//! The plan's formulas and tables, each in its own module, and [`Plan`] that has them all.
//!
//! Every input has the plan's value as its default and can be replaced; it keeps where it comes
//! from, so that a plan can be printed with its inputs and their sources.

pub mod bandwidth;
mod inputs;
pub mod latency;
pub mod machines;
mod measured;
pub mod memory;
mod plan;
pub mod relays;
pub mod storage_growth;
mod text;
mod thresholds;

pub use inputs::{InputRow, PlanInputs};
pub use measured::{DAEMON_INPUTS, Measured};
pub use memory::MemoryNow;
pub use plan::Plan;
pub use text::text;
pub use thresholds::{MetricSample, ThresholdRow};
