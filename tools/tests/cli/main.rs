//! `betcode-db` as its users meet it: the real program on real files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests fail by panicking, as tests do"
)]

mod capacity;
mod copies;
mod demo;
mod doctor;
mod documented;
mod elsewhere;
mod export;
mod growing;
mod growth;
mod import;
mod import_output;
mod interrupted;
mod maintain;
mod named;
mod older_copies;
mod output;
mod refusals;
mod retain;
mod rot;
mod search;
mod tool;
