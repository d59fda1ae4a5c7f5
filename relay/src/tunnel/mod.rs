//! Tunnels: connections that daemons dialled, over which the relay calls them.
//!
//! * `accept`: the greeting of a new connection, and what happens when its tunnel opens and closes;
//! * `open`: a [`Tunnel`], on which calls can be made until it has to go; `cut` ends its connection whatever is on
//!   it, and `spawn` ends the sending of a request with its call;
//! * `table`: the newest tunnel of each machine, by which calls find it.

mod accept;
mod cut;
mod open;
mod spawn;
mod table;

pub use accept::{AcceptError, Acceptor, Identity};
pub(crate) use open::call_uri;
pub use open::{CallError, CallPermit, Keepalive, Tunnel};
pub(crate) use spawn::register_body_start;
pub use table::{Registered, Table};
