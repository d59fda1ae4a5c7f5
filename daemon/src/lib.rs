//! The history store served over gRPC, for the programs of one machine.
//!
//! So far it holds the daemon's side of the tunnel to a relay.

pub mod tunnel;
