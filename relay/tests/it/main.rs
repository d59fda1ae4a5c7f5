//! The relay with real sockets: a gRPC service that nobody told it of, behind a real tunnel.

mod echo;
mod harness;
mod program;

mod calls;
mod credentials;
mod figures;
mod fleet;
mod killed;
mod operation;
mod tunnels;
mod waiting;
