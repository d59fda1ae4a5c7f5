//! The BetCode history store.

mod backup;
pub mod classify;
pub mod clock;
pub mod compact;
mod error;
mod files;
pub mod growth;
mod ids;
pub mod limits;
mod message;
mod options;
mod reader;
mod reserve;
pub mod segment;
mod session;
mod space;
#[allow(dead_code)]
mod sql;
mod store;
pub mod usage;
mod verify;
mod writer;

pub use backup::{BackupReport, restore};
pub use clock::{Clock, ManualClock, SystemClock};
pub use compact::{
    CompactionOutcome, CompactionPhase, CompactionPlan, CompactionPolicy, CompactionProgress,
    CompactionRequest, CompactionService, PlannedStep, ServiceOptions, ServiceState, ServiceStatus,
};
pub use error::{ErrorKind, Result, StoreError};
pub use ids::{MessageKey, SessionId, SessionKey};
pub use message::{Appended, Arrival, Batch, ImportMark, ImportRecord, Message, SessionMeta};
pub use options::{Durability, StoreOptions};
pub use reader::{ReadRange, Replay};
pub use session::{Session, SessionFilter, SessionList};
pub use space::{Level, Space};
pub use sql::growth::{HourGrowth, SessionGrowth, TypeGrowth};
pub use sql::runs::CompactionRun;
pub use sql::segments::{SegmentInfo, Tier};
pub use sql::totals::Totals;
pub use store::Store;
pub use verify::{Problem, VerifyProgress, VerifyReport};
