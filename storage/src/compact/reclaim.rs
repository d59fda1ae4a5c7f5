//! Giving free pages back to the file system, in transactions short enough for appends to pass.

use std::ops::ControlFlow;
use std::time::Duration;

use super::pace::Pace;
use crate::error::{Result, StoreError};
use crate::limits::{BUSY_POLL_MS, RECLAIM_PAGES_PER_STEP};
use crate::sql;
use crate::sql::space::CheckpointMode;
use crate::store::Store;

/// How long one transaction of reclaiming should take, its sync included …
const STEP_TIME_AIM: Duration = Duration::from_millis(2);
/// … and while others append, who wait for it.
const STEP_TIME_AIM_BESIDE_APPENDS: Duration = Duration::from_micros(500);
const STEP_PAGES_MIN: u32 = 16;
/// How many looks at the lock other processes get between two steps.
const REST_POLLS: u64 = 3;

/// Frees pages until `pages_kept` are left or `observe` says stop; calls it after each step with
/// the pages that are still free. Then cuts the log, with which the file itself shrinks, if pages
/// were freed or `anyway`.
pub(super) fn reclaim(
    store: &Store,
    pace: &mut Pace<'_>,
    pages_kept: u64,
    anyway: bool,
    observe: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<()> {
    let mut pages_per_step = RECLAIM_PAGES_PER_STEP / 4;
    let mut cuts = anyway;
    loop {
        let step = pages_per_step;
        let piece = pace.maintain(move |context| {
            context.maintain("give free pages back", |db, connection| {
                let free = db.named("count free pages", sql::space::free_pages(connection))?;
                let surplus = free.saturating_sub(pages_kept).min(u64::from(step));
                if surplus > 0 {
                    // Lossless: at most `step`.
                    let freed = sql::space::reclaim(connection, surplus as u32);
                    db.named("give free pages back", freed)?;
                }
                let left = db.named("count free pages", sql::space::free_pages(connection))?;
                Ok((left, free.saturating_sub(left)))
            })
        })?;
        let (free, freed) = piece.value;
        cuts |= freed > 0;
        if free <= pages_kept {
            break;
        }
        if freed == 0 {
            // Said when something was compacted, not at each look of the background.
            if anyway {
                tracing::warn!(
                    path = %store.path().display(),
                    free_pages = free,
                    "this file cannot give its free pages back to the disk, only fill them again; to make \
                     one that can: betcode-db backup FILE, then restore FILE --replace"
                );
            }
            break;
        }
        if observe(free).is_break() {
            return Err(StoreError::Cancelled);
        }
        // A writer of another process looks for the lock every BUSY_POLL_MS: it would hardly ever
        // find it free if the next step began at once.
        std::thread::sleep(Duration::from_millis(REST_POLLS * BUSY_POLL_MS));
        let aim = if piece.beside_appends {
            STEP_TIME_AIM_BESIDE_APPENDS
        } else {
            STEP_TIME_AIM
        };
        pages_per_step = if piece.took > aim {
            (pages_per_step / 2).max(STEP_PAGES_MIN)
        } else {
            (pages_per_step * 2).min(RECLAIM_PAGES_PER_STEP)
        };
    }
    if !cuts {
        return Ok(());
    }
    // The file shrinks when the log's last state of it is checkpointed. A reader may be in the
    // way; then the next checkpoint does it.
    let done = store.writer()?.run(|context| {
        let done = context.checkpoint(CheckpointMode::Truncate);
        context.observe_size();
        // Room was made: the next time that the disk is full, there has to be a reserve again.
        context.reserve.restore_when_possible();
        done
    })?;
    if done.busy {
        tracing::debug!("a reader keeps the log from being cut; it is cut later");
    }
    Ok(())
}
