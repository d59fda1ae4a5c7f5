//! Moves the log into the main file beside the writer, on a thread and a connection of its own.
//!
//! A checkpoint of a full log writes and syncs megabytes: on the writer's thread, every append that
//! comes meanwhile waits for it. SQLite lets one connection copy frames while another one commits,
//! but the log can begin anew only when nothing of it is left to copy. So the helper copies most of
//! it, and the writer the few frames that were added meanwhile, between two groups.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use rusqlite::Connection;

use crate::sql::space::{CheckpointMode, checkpoint};

/// What the helper is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Helper {
    /// There is none: it could not be started.
    Absent,
    /// Waits to be asked.
    Resting,
    /// Copies.
    Working,
    /// Has copied what there was when it began; the rest is the writer's.
    Done,
}

/// What the writer does about the log, between two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Nothing.
    Leave,
    /// Ask the helper.
    Ask,
    /// Copy what is left.
    Copy,
    /// Wait for the helper, then copy what is left: the log must not outgrow its bound.
    WaitAndCopy,
}

/// Decides it, by the log's bytes that are not known to be in the main file.
pub(super) fn next_step(helper: Helper, wal_bytes: u64, soft_max: u64, idle: bool) -> NextStep {
    match helper {
        _ if wal_bytes == 0 => NextStep::Leave,
        Helper::Working if wal_bytes >= 2 * soft_max => NextStep::WaitAndCopy,
        Helper::Working => NextStep::Leave,
        Helper::Done => NextStep::Copy,
        Helper::Absent | Helper::Resting if idle => NextStep::Copy,
        Helper::Absent if wal_bytes >= soft_max => NextStep::Copy,
        Helper::Resting if wal_bytes >= soft_max => NextStep::Ask,
        Helper::Absent | Helper::Resting => NextStep::Leave,
    }
}

struct Shared {
    helper: Mutex<Helper>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Helper> {
        self.helper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, helper: Helper) {
        *self.lock() = helper;
        self.changed.notify_all();
    }

    fn wait_while(&self, condition: impl Fn(Helper) -> bool) -> Helper {
        let waited = self
            .changed
            .wait_while(self.lock(), |helper| condition(*helper));
        *waited.unwrap_or_else(PoisonError::into_inner)
    }
}

/// However the helper's thread ends, nobody waits for it afterwards.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.set(Helper::Absent);
    }
}

/// Handle to the helper; it ends when the handle goes.
pub(super) struct Checkpointer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    /// Starts the helper on its connection. Without one the writer does all of it, as well.
    pub(super) fn start(connection: Option<Connection>) -> Self {
        let shared = Arc::new(Shared {
            helper: Mutex::new(Helper::Resting),
            changed: Condvar::new(),
        });
        let thread = connection.and_then(|connection| {
            let ending = Ending(Arc::clone(&shared));
            std::thread::Builder::new()
                .name("betcode-log".into())
                .spawn(move || work(&connection, &ending.0))
                .inspect_err(|error| tracing::warn!(%error, "no helper for checkpoints"))
                .ok()
        });
        if thread.is_none() {
            // Also when there was no connection to begin with.
            shared.set(Helper::Absent);
        }
        Self { shared, thread }
    }

    pub(super) fn helper(&self) -> Helper {
        *self.shared.lock()
    }

    /// Asks a resting helper for a checkpoint.
    pub(super) fn ask(&self) {
        let mut helper = self.shared.lock();
        if *helper == Helper::Resting {
            *helper = Helper::Working;
            self.shared.changed.notify_all();
        }
    }

    /// Waits until the helper does not copy.
    pub(super) fn wait(&self) {
        let _ = self.shared.wait_while(|helper| helper == Helper::Working);
    }

    /// What the helper did is taken note of.
    pub(super) fn rest(&self) {
        let mut helper = self.shared.lock();
        if *helper == Helper::Done {
            *helper = Helper::Resting;
        }
    }

    /// Ends the helper; its connection is closed when this returns.
    pub(super) fn end(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.wait();
            self.shared.set(Helper::Absent);
            let _ = thread.join();
        }
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.end();
    }
}

fn work(connection: &Connection, shared: &Shared) {
    let idle = |helper| matches!(helper, Helper::Resting | Helper::Done);
    while shared.wait_while(idle) == Helper::Working {
        // What fails here the writer tries again and reports.
        if let Err(error) = checkpoint(connection, CheckpointMode::Passive) {
            tracing::debug!(%error, "the helper's checkpoint failed");
        }
        shared.set(Helper::Done);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOFT: u64 = 1000;

    #[test]
    fn a_log_that_has_grown_is_the_helpers_and_its_rest_the_writers() {
        assert_eq!(
            next_step(Helper::Resting, 999, SOFT, false),
            NextStep::Leave
        );
        assert_eq!(next_step(Helper::Resting, 1000, SOFT, false), NextStep::Ask);
        assert_eq!(
            next_step(Helper::Working, 1500, SOFT, false),
            NextStep::Leave
        );
        assert_eq!(next_step(Helper::Done, 1500, SOFT, false), NextStep::Copy);
    }

    #[test]
    fn appends_wait_for_the_helper_before_the_log_outgrows_its_bound() {
        let step = next_step(Helper::Working, 2000, SOFT, false);
        assert_eq!(step, NextStep::WaitAndCopy);
    }

    #[test]
    fn without_a_helper_the_writer_copies() {
        assert_eq!(next_step(Helper::Absent, 999, SOFT, false), NextStep::Leave);
        assert_eq!(next_step(Helper::Absent, 1000, SOFT, false), NextStep::Copy);
    }

    #[test]
    fn an_idle_writer_leaves_nothing_in_the_log() {
        for helper in [Helper::Absent, Helper::Resting, Helper::Done] {
            assert_eq!(
                next_step(helper, 1, SOFT, true),
                NextStep::Copy,
                "{helper:?}"
            );
            assert_eq!(
                next_step(helper, 0, SOFT, true),
                NextStep::Leave,
                "{helper:?}"
            );
        }
    }
}
