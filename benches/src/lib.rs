//! What the benchmarks share: sessions to work on, the plain SQLite table that they are compared
//! with, and how figures are summed up and printed.
//!
//! `benches/README.md` says what each benchmark measures and how to run it. None of them asserts
//! a time: each prints its ratio to something that ran on the same machine in the same minute.

// This crate only measures: where something fails, the benchmark ends with the reason.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod corpus;
pub mod cpu;
pub mod figures;
pub mod plain;
pub mod stores;
