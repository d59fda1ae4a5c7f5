//! The protocol of the history store: `.proto` files and the types generated from them.
//!
//! [`v1`] is what existing BetCode clients speak, and its field numbers never change.
//! [`history`] is the store's own protocol. Descriptions stand in the `.proto` files.

pub mod locate;

/// Package `betcode.v1`: sessions, machines, versions, health.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; documented in the .proto files"
)]
pub mod v1 {
    tonic::include_proto!("betcode.v1");
}

/// Package `betcode.history.v1`: recording, reading, compaction, maintenance, capacity.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; documented in the .proto files"
)]
pub mod history {
    tonic::include_proto!("betcode.history.v1");
}

/// Descriptors of all packages, encoded: what reflection serves.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
