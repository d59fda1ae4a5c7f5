//! Requests that wait for a daemon that is away.
//!
//! *Buffered* means: on this relay's disk. It never means *stored in the history*; only the
//! daemon's answer means that. A request leaves the buffer when its daemon has answered it, or
//! when it is too old, and either way its outcome is remembered, so that a repeat is known.
//!
//! If the relay dies between the daemon's answer and the record of it, it delivers the request again. The
//! idempotency key goes with the request for that reason: the daemon executes it once.
//!
//! * [`Buffer`] is what the relay needs of a buffer, and [`EmbeddedBuffer`] the one that there is: `embedded` does
//!   the reading and writing, `index` has everything but the bodies in memory, `record` is the format on disk;
//! * `deliver` delivers what waits for a machine while its tunnel is open.

mod deliver;
mod embedded;
mod index;
mod record;

pub use deliver::Deliverer;
pub use embedded::{BufferOptions, EmbeddedBuffer};

use std::future::Future;
use std::pin::Pin;

use betcode_schema_tunnel::MachineId;
use betcode_storage::capacity::text::bytes_apart;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tonic::Code;

/// What a buffer's operations return: they may have to ask a disk, or other machines.
pub type BufferFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BufferError>> + Send + 'a>>;

/// A unary request that waits: as it came, with what is needed to make it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingRequest {
    /// Machine that it is for.
    pub machine: MachineId,
    /// Names it among the machine's requests.
    pub key: String,
    /// 0 (first) to 9 (last).
    pub priority: u8,
    /// User who sent it.
    pub user: String,
    /// The token that it was sent with; `None` where callers need none, and in records of earlier
    /// builds.
    pub token: Option<TokenRef>,
    /// Path of the method.
    pub path: String,
    /// Metadata, names in lower case.
    pub metadata: Vec<(String, String)>,
    /// The body: one gRPC message with its prefix.
    pub body: Bytes,
}

/// What of a token decides whether a revocation covers a request that was sent with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRef {
    /// Its id.
    pub id: String,
    /// When it was issued, Unix seconds.
    pub issued_s: u64,
}

/// What a request in the buffer is found and ordered by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// Machine that it waits for.
    pub machine: MachineId,
    /// Its priority.
    pub priority: u8,
    /// Its number: among the same priority, lower ones go first.
    pub order: u64,
}

/// A request taken from the buffer, which keeps it until it is settled.
#[derive(Debug, Clone)]
pub struct TakenRequest {
    /// What it is found by.
    pub ticket: Ticket,
    /// When it was buffered, Unix milliseconds.
    pub buffered_ms: i64,
    /// The request.
    pub request: PendingRequest,
}

/// The state of the request that has a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    /// It waits.
    Waiting,
    /// It was settled with this code.
    Settled(Code),
}

/// The result of putting a request into the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// It is on disk now, or was already.
    Buffered,
    /// A request of this key was settled before, with this code.
    Settled(Code),
}

/// How full a buffer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BufferCounts {
    /// Requests that wait.
    pub requests: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Machines that they wait for.
    pub machines: usize,
    /// Requests that wait for the machine that has the most of them.
    pub requests_of_fullest: usize,
}

/// What a buffer refuses, or fails at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BufferError {
    /// The machine's share is used up.
    #[error("{requests_max} requests wait for the machine already, the most; try when it is back")]
    MachineFull {
        /// The bound.
        requests_max: usize,
    },
    /// The whole buffer is full.
    #[error("the relay's buffer is full ({what}); try again later")]
    Full {
        /// The bound that is reached.
        what: String,
    },
    /// The request is too big to wait.
    #[error(
        "a request of {} cannot wait, one of {} at most can; send it in parts",
        bytes_apart(*bytes as u64, *bytes_max as u64).0, bytes_apart(*bytes as u64, *bytes_max as u64).1
    )]
    TooBig {
        /// Its size, body and metadata.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// A different request has this key.
    #[error("another request has this idempotency key; a repeat must be the same, byte for byte")]
    KeyTaken,
    /// The same request is being written this moment.
    #[error("the same request is being buffered right now; try again")]
    BeingWritten,
    /// Bytes of a request on disk are not what was written.
    #[error("a request in the relay's buffer is damaged: {why}")]
    Damaged {
        /// What is wrong with it.
        why: String,
    },
    /// The disk, or the space that the buffer's store may take, is full.
    #[error("the relay's buffer has no space: {why}")]
    NoSpace {
        /// What is full: for operators, not for callers.
        why: String,
    },
    /// The buffer's store failed.
    #[error("the relay's buffer cannot be used: {why}")]
    Store {
        /// What went wrong: for operators, not for callers.
        why: String,
    },
}

/// Where requests wait. A trait because relays of a fleet might share one, and because tests make it fail.
pub trait Buffer: Send + Sync {
    /// Puts a request into the buffer. When this returns it is on disk, or refused.
    fn put(&self, request: PendingRequest) -> BufferFuture<'_, PutOutcome>;

    /// The state of a machine's request by its key; `None` if the key is not known.
    fn key_state(&self, machine: &MachineId, key: &str) -> Option<KeyState>;

    /// Takes the machine's next request, by priority, then order, for a delivery. It stays in the buffer until it is
    /// settled, and does not expire while it is taken: see [`put_back`](Self::put_back).
    fn take_first<'a>(&'a self, machine: &'a MachineId) -> BufferFuture<'a, Option<TakenRequest>>;

    /// Ends a delivery that did not settle the request, which then waits as before.
    fn put_back(&self, ticket: &Ticket);

    /// Ends a request's wait and remembers its outcome. When this returns, that is on disk.
    fn settle<'a>(&'a self, ticket: &'a Ticket, code: Code) -> BufferFuture<'a, ()>;

    /// Settles requests that have waited too long, and forgets outcomes that are too old.
    /// Returns the number of requests.
    fn expire(&self) -> BufferFuture<'_, usize>;

    /// Requests that wait for a machine.
    fn waiting(&self, machine: &MachineId) -> usize;

    /// How full the buffer is.
    fn counts(&self) -> BufferCounts;
}
