//! The BetCode history store over gRPC, for the programs of one machine.
//!
//! A thin layer: services translate, storage decides. [`server::Daemon`] puts the modules together, and every
//! service holds its [`core::Core`].
//!
//! A request comes in:
//! * [`transport`]: the Unix socket, loopback, mutual TLS, and the gate before all services;
//! * [`tunnel`]: the way in for clients that cannot reach the machine, through a relay that the daemon dials;
//! * [`admission`]: the limits, by name, and what they count.
//!
//! It is answered:
//! * [`services`]: one file for each service of `betcode.history.v1` and `betcode.v1`, and for each of their
//!   streams; [`convert`] has the store's values as messages, [`status`] its errors as gRPC statuses;
//! * [`blocking`]: calls into the store, which is synchronous, bounded by kind; [`reading`]: replays page by page;
//! * [`hub`]: new messages on their way to followers, bounded, never holding up the writer;
//! * [`agents`]: conversations with agents, their processes, and recording what they print;
//! * [`translate`]: agents' lines as the events that existing clients know (pure).
//!
//! It is operated:
//! * [`settings`] and [`limits`]: what can be set, and the bounds that cannot;
//! * [`lock`]: one daemon for a store;
//! * `monitor` looks at [`health`] and at the levels of the limits in intervals;
//! * [`observe`]: latencies, counters, metrics.
//!
//! What is absent: SQL, decisions about history, and `unsafe` code.

pub mod admission;
pub mod agents;
pub mod blocking;
pub mod convert;
pub mod core;
pub mod health;
pub mod hub;
mod levels;
pub mod limits;
pub mod lock;
mod long_lines;
mod monitor;
pub mod observe;
pub mod reading;
pub mod server;
pub mod services;
pub mod settings;
pub mod status;
pub mod translate;
pub mod transport;
pub mod tunnel;
