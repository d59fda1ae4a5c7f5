//! What the end-to-end tests share: payloads that can be made again from their name, child
//! processes that die on request, faults of the file system, and the questions that every
//! test asks of a store afterwards.
//!
//! `tests/README.md` says which fault of the field each test reproduces.

// This crate is all test code: a failed unwrap is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod child;
pub mod faults;
pub mod history;
pub mod lines;
pub mod mounts;
pub mod older;
