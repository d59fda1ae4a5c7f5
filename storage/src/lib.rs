//! The BetCode history store.

pub mod classify;
pub mod clock;
mod error;
pub mod growth;
mod ids;
pub mod limits;
mod message;
mod options;
pub mod segment;
mod session;
#[allow(dead_code)]
mod sql;
pub mod usage;

pub use clock::{Clock, ManualClock, SystemClock};
pub use error::{ErrorKind, Result, StoreError};
pub use ids::{MessageKey, SessionId, SessionKey};
pub use message::{Appended, Arrival, Batch, ImportMark, ImportRecord, Message, SessionMeta};
pub use options::{Durability, StoreOptions};
pub use session::{Session, SessionFilter, SessionList};
pub use sql::growth::{HourGrowth, SessionGrowth, TypeGrowth};
pub use sql::runs::CompactionRun;
pub use sql::segments::{SegmentInfo, Tier};
pub use sql::totals::Totals;
