//! The BetCode history store over gRPC, for the programs of one machine.
//!
//! A thin layer: services translate, storage decides. [`server::Daemon`] puts the modules together:
//!
//! * [`services`] — one file per service of `betcode.history.v1` and `betcode.v1`;
//! * [`translate`] — agent lines as the events that existing clients know (pure);
//! * [`hub`] — new messages on their way to followers, bounded, never holding up the writer;
//! * [`reading`], [`blocking`] — replays, page by page, in turn;
//! * [`agents`] — conversations with agents: their processes, and what goes between;
//! * [`admission`] — who is let in, and which limit refuses;
//! * [`transport`] — the Unix socket, loopback, mutual TLS;
//! * [`status`] — the one mapping from the store's errors to gRPC statuses;
//! * [`tunnel`] — the way out to a relay, for clients that cannot reach the machine;
//! * [`settings`], [`lock`], [`health`], [`observe`] — operation.
//!
//! What is absent: SQL, decisions about history, and `unsafe` code.

pub mod admission;
pub mod agents;
pub mod blocking;
pub mod convert;
pub mod core;
pub mod health;
pub mod hub;
pub mod levels;
pub mod limits;
pub mod lock;
mod long_lines;
pub mod observe;
pub mod reading;
pub mod server;
pub mod services;
pub mod settings;
pub mod status;
pub mod translate;
pub mod transport;
pub mod tunnel;
