//! The BetCode history store: every line that coding agents print, kept for good, in little space.
//!
//! An embedded engine on SQLite. It records durably (an answered append is on disk), compacts in
//! the background without losing a byte, gives the space back to the file system, replays
//! compacted history like fresh history, and knows how fast it grows and how big it is against
//! its limit. It is synchronous, prints nothing, and reads no environment variables. Dates come from
//! [`StoreOptions::clock`]; waits and pauses are measured with the system's monotonic clock.
//!
//! ```
//! use std::ops::ControlFlow;
//! use betcode_storage::{Batch, CompactionRequest, ReadRange, SessionId, Store, StoreOptions};
//! use bytes::Bytes;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = tempfile::tempdir()?;
//! # let path = folder.path().join("history.db");
//! let store = Store::open(&path, StoreOptions::default())?;
//! let session: SessionId = "7f3e-demo".parse()?;
//!
//! // A message is any bytes. When `append` returns, they are on disk.
//! let lines = [r#"{"type":"user"}"#, r#"{"type":"assistant"}"#].map(Bytes::from);
//! let appended = store.append(Batch::new(session.clone(), lines.to_vec()))?;
//! assert_eq!((appended.first_sequence, appended.last_sequence), (1, 2));
//!
//! // Compaction changes where messages are stored, never what they are.
//! store.compact(&CompactionRequest::manual(), &mut |_progress| ControlFlow::Continue(()))?;
//! for (line, message) in lines.iter().zip(store.read(&session, ReadRange::all())?) {
//!     assert_eq!(message?.payload, line);
//! }
//!
//! assert!(store.verify(&mut |_progress| ControlFlow::Continue(()))?.ok());
//! store.close()?;
//! # Ok(())
//! # }
//! ```
//!
//! # What there is
//!
//! | to | there is |
//! |---|---|
//! | record | [`Store::append`], [`Store::append_then`]; a [`Batch`] with its expected sequence may be sent again |
//! | replay | [`Store::read`], [`Replay::next_page`] |
//! | go on with what is new | [`Store::follow`], [`StoreOptions::on_commit`] |
//! | compact | [`Store::start_compaction`] in the background, [`Store::compact`] now |
//! | notice that space runs out | [`Store::level`], [`Store::on_capacity_event`], [`Store::space_refusals`], [`Store::set_limits`] |
//! | check that it works | [`Store::probe`], [`Store::queue_depth`], [`CompactionService::status`] |
//! | report | [`Store::capacity_report`], shown by [`capacity::report`] as text, CSV, HTML or for Prometheus |
//! | read from another process | [`Store::open_read_only`] |
//! | keep copies | [`Store::backup`], [`restore`], [`Store::verify`] |
//!
//! # Embedding it
//!
//! `storage/examples/embed.rs` is a whole asynchronous program, to be tried with
//! `cargo run --package betcode-storage --example embed`.
//!
//! * **Calls block**, for the disk or for their turn. So do [`Store::close`], [`CompactionService::stop`], and dropping
//!   the last handle of either. A task hands them to a thread that may block (tokio's `spawn_blocking`).
//!   [`Store::level`], [`Store::limits`], [`Store::space_refusals`], [`Store::queue_depth`] and
//!   [`CompactionService::status`] only look at memory.
//! * **Callbacks run on the writer's thread**: the commit hook, listeners, the answer to [`Store::append_then`]. They
//!   hand on what they get, and return. A panic in one ends the writer.
//! * **Errors have a kind**, and [`ErrorKind`] says after which of them to try again.
//! * **Only the store opens its files.** When a process closes a file, it loses the locks by which SQLite keeps
//!   processes apart, even if it opened the file once more only to copy it. [`Store::backup`] copies, and
//!   [`belongs_to_open_store`] tells which files these are.
//! * **A program has one SQLite**, that of `rusqlite` 0.40 with `bundled`. A program that uses `rusqlite` itself needs
//!   the same version: cargo refuses another one.
//! * **It logs with `tracing`** what goes on in the background: levels, refused appends, failures.
//! * **Tests** open a store in a temporary folder, with [`Durability::Normal`], a [`ManualClock`] and no reserve.
//! * **It runs on Linux**, and type-checks for macOS. The least version of Rust is in `Cargo.toml`.
//! * **Files stay readable.** Every version opens the files of those before it. It copies them before it converts them,
//!   when they are opened for writing. Files of later versions are refused, untouched.
//!
//! # What holds
//!
//! * Sequences of a session run from 1 without gaps, and each is stored in exactly one place: a row of its own
//!   (*hot*) or one *segment*.
//! * An append that returned survives kill -9 and power loss; one that failed has recorded nothing.
//! * Compaction deletes messages only after their segment was decoded and compared with them byte
//!   for byte. The transaction that deletes them checks that neither has changed since, and that
//!   the stored segment reads back.
//! * Bytes on disk are input: damage is a typed error that names its place. The rest of the history stays
//!   readable, and the process goes on.
//! * Memory, time and sizes are bounded; the bounds are in [`limits`].
//!
//! # Modules
//!
//! [`Store`] is the façade. `writer` is the one thread that writes, `reader` replays, [`compact`] decides (pure) and
//! runs compaction, [`segment`] is the codec (pure), [`capacity`] plans and forecasts (pure), and `sql` has every
//! statement on the store's tables. `docs/ARCHITECTURE.md` lists all modules.

mod backup;
pub mod capacity;
mod capacity_report;
pub mod classify;
pub mod clock;
pub mod compact;
mod deletion;
mod error;
mod files;
pub mod growth;
mod ids;
mod inspect;
pub mod limits;
mod message;
mod open_files;
mod options;
mod probe;
mod reader;
mod refusals;
mod reserve;
mod retain;
pub mod segment;
mod session;
mod source_check;
mod space;
mod sql;
mod sqlite_header;
mod store;
mod surroundings;
pub mod title;
mod usage;
mod verify;
mod watch;
mod writer;

pub use backup::{BackupReport, restore};
pub use capacity::levels::Level;
pub use clock::{Clock, ManualClock, SystemClock};
pub use compact::{
    CompactionOutcome, CompactionPhase, CompactionPlan, CompactionPolicy, CompactionProgress,
    CompactionRequest, CompactionService, PlannedBatch, PlannedStep, SessionFailure,
    compaction_threads,
};
pub use error::{Argument, ErrorKind, Held, Holder, Result, StoreError};
pub use files::{belongs_to_database, belongs_to_open_store, resolve_links};
pub use ids::{SessionId, SessionKey};
pub use inspect::{BaseShare, InspectedSegment, Inspection};
pub use message::{
    Appended, Arrival, Batch, Committed, ImportMark, ImportRecord, Message, SessionMeta,
};
pub use options::{CommitHook, Durability, SizeLimits, StoreOptions};
pub use reader::{ReadRange, Replay};
pub use refusals::{SpaceLimit, SpaceRefusals};
pub use retain::{RetentionOutcome, RetentionPhase, RetentionProgress};
pub use session::{DamagedSession, Session, SessionFilter, SessionList};
pub use space::Space;
pub use sql::db::busy_waits;
pub use sql::growth::{HourGrowth, SessionGrowth, TypeGrowth};
pub use sql::report::{ProjectGrowth, Untimed};
pub use sql::runs::{CompactionRun, RunOutcome};
pub use sql::segments::{SegmentInfo, Tier};
pub use sql::totals::Totals;
pub use store::Store;
pub use surroundings::{FileSettings, Surroundings};
pub use verify::{Problem, ProblemKind, VerifyProgress, VerifyReport};
pub use watch::TimedEvent;
pub use writer::QueueDepth;
