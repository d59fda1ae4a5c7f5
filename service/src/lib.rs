//! What the daemon and the relay do alike as long-running programs: once, so that it stays alike.

pub mod backoff;
pub mod body;
pub mod connection;
pub mod grpc_timeout;
pub mod hex;
pub mod histogram;
pub mod io_bytes;
pub mod logging;
pub mod private_file;
pub mod process;
pub mod read_ahead;
pub mod service_manager;
pub mod status;
pub mod sync;
pub mod trace_context;
