//! The logic of `betcode-db`, the maintenance tool of the BetCode history store.
//!
//! - [`import`] and [`export`]: files of agent lines into sessions and back, byte for byte.
//! - [`daemon`]: a running daemon of the store, and working through it.
//! - [`generator`]: seeded sessions for the demo, tests and benchmarks.
//! - [`commands`]: the verbs of the command line, one file each, over the above.
//! - [`limits`]: every bound, with its unit.
//! - [`output`] and [`error`]: what people and scripts get to see.
//!
//! Nothing outside [`commands`] and [`output`] prints.

pub mod cli;
pub mod commands;
pub mod daemon;
pub mod error;
pub mod export;
pub mod generator;
pub mod import;
pub mod interrupt;
pub mod limits;
pub mod output;
