//! The bounds of the limits that users may set, and what a limit of size admits.
//!
//! Defaults stand in the plan (memory, sessions and clients: *Memory Budget*) and in the
//! project's blueprint (sizes). The highest values are *policy*, not physics: the daemon's settings are checked
//! against them, the store's options are not.

use super::planner::memory::{
    DAEMON_BASE_BYTES, DAEMON_CLIENT_BYTES, DAEMON_SESSION_BYTES, DAEMON_SUBPROCESS_BYTES,
};
use super::quantity::{GB, MB};

/// The most that `max_db_bytes` may be by default policy.
pub const DB_BYTES_MAX_CEILING: u64 = 10 * GB;
/// Stored bytes of one session: segments and messages of their own.
pub const SESSION_BYTES_MAX_DEFAULT: u64 = 50 * MB;
/// The most that `max_session_bytes` may be by default policy.
pub const SESSION_BYTES_MAX_CEILING: u64 = 200 * MB;
/// The least that it may be.
pub const SESSION_BYTES_MAX_FLOOR: u64 = MB;
/// The least memory that a daemon runs in: the plan's base, one session, one client and one
/// subprocess.
pub const MEMORY_BYTES_MAX_FLOOR: u64 = DAEMON_BASE_BYTES.0
    + DAEMON_SESSION_BYTES.0
    + DAEMON_CLIENT_BYTES.0
    + DAEMON_SUBPROCESS_BYTES.0;
/// The most by default policy: the largest single machine of the plan's vertical scaling guide.
pub const MEMORY_BYTES_MAX_CEILING: u64 = 8 * GB;
/// The most sessions in use by default policy: what the plan's largest single machine could
/// hold in memory (8 GB at 5 MB each), rounded down. Ours: the plan names none.
pub const SESSIONS_MAX_CEILING: u64 = 1_000;
/// The most clients by default policy. Ours: the plan names none.
pub const CLIENTS_MAX_CEILING: u64 = 10_000;

/// Whether `adding` more bytes fit when `used` of `limit` bytes are taken. No margin and no
/// memory: room is used as soon as compaction, deletion or a raised limit makes it.
pub(crate) fn admits(used_bytes: u64, adding_bytes: u64, limit_bytes: u64) -> bool {
    used_bytes
        .checked_add(adding_bytes)
        .is_some_and(|sum| sum <= limit_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admission_uses_the_last_byte_and_not_one_more() {
        assert!(admits(90, 10, 100));
        assert!(!admits(90, 11, 100));
        assert!(!admits(u64::MAX, 1, u64::MAX));
    }
}
