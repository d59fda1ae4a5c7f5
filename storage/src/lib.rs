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
    CompactionRequest, CompactionService, PlannedBatch, PlannedStep, ServiceOptions, ServiceState,
    ServiceStatus, SessionFailure, compaction_threads,
};
pub use error::{Argument, ErrorKind, Held, Holder, Result, StoreError};
pub use files::{belongs_to_database, belongs_to_open_store, resolve_links};
pub use ids::{MessageKey, SessionId, SessionKey};
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
