//! The daemon's end-to-end tests once more, with a relay between the daemon and its clients: a
//! relay process, a tunnel with mutual TLS, clients with TLS and a token each. And what only shows
//! with both.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]
#![allow(
    clippy::duplicate_mod,
    reason = "each of the daemon's test files brings its support along"
)]

#[path = "../../../daemon/tests/agent.rs"]
mod agent;
#[path = "../../../daemon/tests/converse.rs"]
mod converse;
#[path = "../../../daemon/tests/converse_asks.rs"]
mod converse_asks;
#[path = "../../../daemon/tests/following.rs"]
mod following;
#[path = "../../../daemon/tests/habits.rs"]
mod habits;
#[path = "../../../daemon/tests/history.rs"]
mod history;
#[path = "../../../daemon/tests/limits.rs"]
mod limits;
#[path = "../../../daemon/tests/services.rs"]
mod services;
#[path = "../../../daemon/tests/support/mod.rs"]
mod support;

mod both;
