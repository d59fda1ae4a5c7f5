//! Tunnels: connections that daemons dialled, over which the relay calls them.
//!
//! `accept` greets a new connection, [`Link`] is an open tunnel, [`Table`] holds the newest
//! tunnel of each machine.

mod accept;
mod cut;
mod link;
mod spawn;
mod table;

pub use accept::{Accept, AcceptError, Identity};
pub(crate) use link::call_uri;
pub use link::{CallPermit, Keepalive, Link, LinkError};
pub(crate) use spawn::register_body_start;
pub use table::{Registered, Table};
