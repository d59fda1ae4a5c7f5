//! What the daemon and the relay do alike as long-running programs: once, so that it stays alike.

pub mod body;
pub mod grpc_timeout;
pub mod service_manager;
pub mod status;
pub mod trace_context;
