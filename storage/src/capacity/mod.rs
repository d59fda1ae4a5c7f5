//! The capacity plan as working software: what a history, a daemon or a relay needs, how near
//! its limits it is, and when it will reach them.
//!
//! Everything here is pure: numbers in, values out. Nothing reads a clock, a file or a
//! database, so the daemon, the relay and `betcode-db` share one evaluation of each rule.
//!
//! - [`planner`]: the plan's formulas and tables, with inputs that say where they come from;
//! - [`levels`]: its scaling thresholds, with hysteresis and one event per transition;
//! - [`limits_policy`]: the bounds of the limits that users may set;
//! - [`forecast`]: when a measured history reaches its limit;
//! - [`retention`]: what a retention policy would remove, and why;
//! - [`report`]: all that is known of a store's size and growth, as one value.
//!
//! MB is 10^6 bytes and KB is 10^3, as in the plan.

mod error;
pub mod forecast;
pub mod levels;
pub mod limits_policy;
pub mod planner;
mod quantile;
pub mod quantity;
pub mod report;
pub mod retention;
pub mod text;

pub use error::CapacityError;
