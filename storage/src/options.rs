//! How a store is opened.

use std::sync::Arc;

use crate::capacity::text;
use crate::clock::{Clock, SystemClock};
use crate::error::{Argument, Result, StoreError};
use crate::limits;
use crate::message::Committed;

/// What the operating system is asked to guarantee before an append is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// fsync with every commit: an answered message survives power loss.
    #[default]
    Full,
    /// No fsync per commit: answered messages survive a crash of the process, but power loss may
    /// take the last ones. The file stays consistent.
    Normal,
}

/// Settings of an open store. Start from the default and change what differs.
#[derive(Clone)]
pub struct StoreOptions {
    /// See [`Durability`].
    pub durability: Durability,
    /// Bound of one payload, 1 to [`limits::PAYLOAD_BYTES_MAX_CEILING`].
    pub payload_bytes_max: usize,
    /// Bytes that the database may take: its pages in use, and the part of its log beyond the usual size.
    /// Free pages, which the next messages are written to, and the usual log (two sixteenths of this limit,
    /// 2 to 8 MiB) are not counted. [`crate::Store::level`] counts free pages as well.
    pub db_bytes_max: u64,
    /// Bytes that one session may take: segments, and hot messages as they are.
    pub session_bytes_max: u64,
    /// Appends that may wait for the writer.
    pub queue_requests_max: usize,
    /// Bytes that may wait for the writer: payloads, and [`limits::QUEUED_MESSAGE_BYTES`] for each
    /// message.
    pub queue_bytes_max: usize,
    /// How long an append may wait for room in the queue and for its turn, by default
    /// [`limits::APPEND_WAIT_MS_MAX_DEFAULT`]. With 0 it is refused unless there is room at once, and once it is in the
    /// queue it is recorded when its turn comes.
    pub append_wait_ms_max: u64,
    /// Readers' connections, by default [`limits::READERS_MAX_DEFAULT`]; 1 to
    /// [`limits::READERS_MAX_CEILING`].
    pub readers_max: u32,
    /// Size of the file held in reserve for a full disk, up to [`limits::RESERVE_BYTES_MAX_CEILING`]; 0 for
    /// none.
    pub reserve_bytes: u64,
    /// Whether each change of the capacity level is logged. If false, call
    /// [`crate::Store::warn_of_capacity`] to log the current one; listeners are called in any case.
    pub logs_levels: bool,
    /// Source of time.
    pub clock: Arc<dyn Clock>,
    /// Called with each batch's new messages, after they are on disk and before the append is answered. It runs on
    /// the writer's thread, so it must return quickly, and must not panic, which ends the writer. It is not called for
    /// appends of other processes, nor for those of another opening in this one.
    pub on_commit: Option<CommitHook>,
}

/// The limits of an open store's sizes, which may be changed ([`crate::Store::set_limits`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeLimits {
    /// See [`StoreOptions::db_bytes_max`].
    pub db_bytes_max: u64,
    /// See [`StoreOptions::session_bytes_max`].
    pub session_bytes_max: u64,
}

/// See [`StoreOptions::on_commit`].
pub type CommitHook = Arc<dyn Fn(&Committed) + Send + Sync>;

impl Default for StoreOptions {
    fn default() -> Self {
        Self {
            durability: Durability::Full,
            payload_bytes_max: limits::PAYLOAD_BYTES_MAX_DEFAULT,
            db_bytes_max: limits::DB_BYTES_MAX_DEFAULT,
            session_bytes_max: crate::capacity::limits_policy::SESSION_BYTES_MAX_DEFAULT,
            queue_requests_max: limits::QUEUE_REQUESTS_MAX_DEFAULT,
            queue_bytes_max: limits::QUEUE_BYTES_MAX_DEFAULT,
            append_wait_ms_max: limits::APPEND_WAIT_MS_MAX_DEFAULT,
            readers_max: limits::READERS_MAX_DEFAULT,
            reserve_bytes: limits::RESERVE_BYTES_DEFAULT,
            logs_levels: true,
            clock: Arc::new(SystemClock),
            on_commit: None,
        }
    }
}

impl std::fmt::Debug for StoreOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // All but the clock and the hook.
        f.debug_struct("StoreOptions")
            .field("durability", &self.durability)
            .field("payload_bytes_max", &self.payload_bytes_max)
            .field("db_bytes_max", &self.db_bytes_max)
            .field("session_bytes_max", &self.session_bytes_max)
            .field("queue_requests_max", &self.queue_requests_max)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .field("append_wait_ms_max", &self.append_wait_ms_max)
            .field("readers_max", &self.readers_max)
            .field("reserve_bytes", &self.reserve_bytes)
            .field("logs_levels", &self.logs_levels)
            .finish_non_exhaustive()
    }
}

impl StoreOptions {
    pub(crate) fn size_limits(&self) -> SizeLimits {
        SizeLimits {
            db_bytes_max: self.db_bytes_max,
            session_bytes_max: self.session_bytes_max,
        }
    }

    /// What the page caches of all connections may take at most.
    #[must_use]
    pub fn sqlite_cache_bytes(&self) -> u64 {
        let readers = self.readers_max as u64;
        let kib = limits::WRITER_CACHE_KIB.unsigned_abs()
            + limits::READER_CACHE_KIB.unsigned_abs() * readers;
        kib << 10
    }

    pub(crate) fn validate(&self) -> Result<()> {
        let refuse = |name, why: String| {
            let what = Argument::Named(name);
            Err(StoreError::InvalidArgument { what, why })
        };
        if !(1..=limits::PAYLOAD_BYTES_MAX_CEILING).contains(&self.payload_bytes_max) {
            let max = limits::PAYLOAD_BYTES_MAX_CEILING;
            return refuse(
                "payload_bytes_max",
                format!(
                    "{} is not between 1 and {}",
                    text::count(self.payload_bytes_max as u64),
                    text::count(max as u64)
                ),
            );
        }
        check_size_limits(self.size_limits())?;
        let queue = [
            ("queue_requests_max", self.queue_requests_max),
            ("queue_bytes_max", self.queue_bytes_max),
        ];
        for (what, max) in queue {
            if max == 0 {
                return refuse(what, "0 would let nothing through".into());
            }
        }
        match self.readers_max {
            0 => return refuse("readers_max", "0 would let nobody read".into()),
            readers if readers > limits::READERS_MAX_CEILING => {
                let why = format!("{readers} is above {}", limits::READERS_MAX_CEILING);
                return refuse("readers_max", why);
            }
            _ => {}
        }
        if self.reserve_bytes > limits::RESERVE_BYTES_MAX_CEILING {
            let (bytes, max) =
                text::bytes_apart(self.reserve_bytes, limits::RESERVE_BYTES_MAX_CEILING);
            return refuse("reserve_bytes", format!("{bytes} is above {max}"));
        }
        Ok(())
    }
}

/// Refuses limits below which a store cannot work. The policy for the highest values is the
/// caller's (`capacity::limits_policy`).
pub(crate) fn check_size_limits(size_limits: SizeLimits) -> Result<()> {
    let bounds = [
        (
            Argument::DbBytesMax,
            size_limits.db_bytes_max,
            limits::DB_BYTES_MAX_FLOOR,
        ),
        (
            Argument::SessionBytesMax,
            size_limits.session_bytes_max,
            crate::capacity::limits_policy::SESSION_BYTES_MAX_FLOOR,
        ),
    ];
    for (what, value, min) in bounds {
        if value < min {
            let (value, min) = text::bytes_apart(value, min);
            return Err(StoreError::InvalidArgument {
                what,
                why: format!("{value} is below the least that works, {min}"),
            });
        }
    }
    Ok(())
}
