//! The relay with real sockets: a gRPC service that nobody told it of, behind a real tunnel.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "what a test's helpers do not find is a failed test"
)]

mod echo;
mod harness;
mod program;
mod wire;

mod budget;
mod calls;
mod credentials;
mod damaged;
mod details;
mod ends;
mod everyone;
mod figures;
mod fleet;
mod intake;
mod killed;
mod load;
mod machines;
mod operation;
mod shut_out;
mod starts;
mod tunnels;
mod unsettled;
mod waiting;
