//! What the daemon and the relay do alike as long-running programs: once, so that it stays alike.
//!
//! * Connections: [`connection`] wraps one, [`io_bytes`] counts its bytes, [`read_ahead`] reads it in larger pieces.
//! * Calls: [`grpc_timeout`] and [`trace_context`] read their headers, [`body`] ends an answer that is under way,
//!   [`status`] makes the statuses that callers get.
//! * The process: [`logging`], [`process`] (memory, processor, open files), [`service_manager`] (systemd).
//! * Small things: [`backoff`], [`hex`], [`histogram`], [`pem`], [`private_file`], [`sync`].

pub mod backoff;
pub mod body;
pub mod connection;
pub mod grpc_timeout;
pub mod hex;
pub mod histogram;
pub mod io_bytes;
pub mod logging;
pub mod pem;
pub mod private_file;
pub mod process;
pub mod read_ahead;
pub mod service_manager;
pub mod status;
pub mod sync;
pub mod trace_context;
