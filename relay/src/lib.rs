//! Router from clients to the daemons of machines behind NAT.
//!
//! A daemon dials the relay and holds a tunnel to it; a client names a machine and calls it as if
//! it were there. The relay passes calls of any service through, keeps those that may wait for a
//! daemon that is away, and knows nothing of what they say.
//!
//! [`Relay`] puts the modules together:
//!
//! * [`server`] accepts connections, of clients (`preface`, [`unauthenticated`]) and of daemons; [`tls`] is for both;
//! * [`Router`] answers clients' calls; [`relay_services`] are those that the relay answers itself;
//! * [`tunnel`] holds the connections that daemons dialled; [`registry`] numbers them; [`enrol`] certifies machines;
//! * [`buffer`] keeps requests for daemons that are away, and delivers them;
//! * [`auth`] decides who may do what; `revocation` puts a changed list of revocations in force;
//! * [`settings`], [`limits`], [`open_files`]: what can be set, the bounds, and how many files there are for connections;
//! * [`metrics`], [`levels`], [`plan`], [`budget`]: what operators see, beside the capacity plan.

pub mod auth;
pub mod budget;
pub mod buffer;
pub mod enrol;
pub mod levels;
pub mod limits;
pub mod metrics;
pub mod open_files;
pub mod plan;
mod preface;
pub mod registry;
mod relay;
pub mod relay_services;
mod revocation;
mod router;
pub mod server;
pub mod settings;
pub mod tls;
pub mod tunnel;
pub mod unauthenticated;

use std::time::{SystemTime, UNIX_EPOCH};

pub use relay::{Relay, StartError};
pub use router::{Access, Gate, Intake, Router};

/// The time, in seconds since 1970.
#[must_use]
pub fn unix_now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}
