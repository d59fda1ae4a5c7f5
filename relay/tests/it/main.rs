//! The relay with real sockets: a gRPC service that nobody told it of, behind a real tunnel.

mod echo;
mod harness;

mod calls;
mod tunnels;
mod waiting;
