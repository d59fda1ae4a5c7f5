//! Giving free pages back to the file system, in transactions short enough for appends to pass.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::pace::{Pace, rest_for_other_processes};
use crate::error::{Result, StoreError};
use crate::limits::RECLAIM_PAGES_PER_STEP;
use crate::sql;
use crate::sql::space::CheckpointMode;
use crate::store::Store;

/// How long one transaction of reclaiming should take, its sync included, where that is quick …
const STEP_TIME_AIM: Duration = Duration::from_millis(2);
/// … and while others append, who wait for it.
const STEP_TIME_AIM_BESIDE_APPENDS: Duration = Duration::from_micros(500);
const STEP_PAGES_MIN: u32 = 16;

/// Gives all free pages back, unless `go_on`, which is asked after each step, says stop. Then cuts the log, with
/// which the file itself shrinks, if pages were given back or `cut_log_always`.
pub(super) fn reclaim(
    store: &Store,
    pace: &mut Pace<'_>,
    cut_log_always: bool,
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
) -> Result<()> {
    let mut pages_per_step = STEP_PAGES_MIN;
    let mut cuts = cut_log_always;
    loop {
        let pages = pages_per_step;
        let step = pace.maintain(move |context| {
            context.maintain("give free pages back", |db, connection| {
                let began = Instant::now();
                let free = db.context("count free pages", sql::space::free_pages(connection))?;
                if free > 0 {
                    let freed = sql::space::reclaim(connection, pages);
                    db.context("give free pages back", freed)?;
                }
                let left = db.context("count free pages", sql::space::free_pages(connection))?;
                Ok((left, free.saturating_sub(left), began.elapsed()))
            })
        })?;
        let (free, freed, work) = step.value;
        cuts |= freed > 0;
        if free == 0 {
            break;
        }
        if freed == 0 {
            // Said when something was compacted, not at each look of the background.
            if cut_log_always {
                tracing::warn!(
                    path = %store.path().display(),
                    free_pages = free,
                    "this file cannot give its free pages back to the disk, only fill them again; to make \
                     one that can, back it up, and restore the backup in its place"
                );
            }
            break;
        }
        if go_on().is_break() {
            return Err(StoreError::Cancelled);
        }
        rest_for_other_processes();
        let commit = step.took.saturating_sub(work);
        pages_per_step = pages_of_next_step(pages, work, commit, step.beside_appends);
    }
    if cuts { cut_log(store) } else { Ok(()) }
}

/// Moves the log into the main file, and cuts it: the file shrinks when the log's last state of it is
/// checkpointed. A reader may be in the way; then the next checkpoint does it.
pub(super) fn cut_log(store: &Store) -> Result<()> {
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

/// How many pages the next step frees, after one of `pages` that took so long.
///
/// A smaller step is a shorter one only as far as its time goes with its pages. Its sync takes as long
/// for 16 pages as for 256, so on a disk that syncs slowly small steps hold appends up longer in
/// all. There a step may take twice what it takes however small it is.
fn pages_of_next_step(pages: u32, work: Duration, commit: Duration, beside_appends: bool) -> u32 {
    let aim = if beside_appends {
        STEP_TIME_AIM_BESIDE_APPENDS
    } else {
        STEP_TIME_AIM
    };
    // The commit writes what was worked on, which takes about as long, twice at most.
    let however_small = commit.saturating_sub(2 * work);
    if work + commit > aim.max(2 * however_small) {
        (pages / 2).max(STEP_PAGES_MIN)
    } else {
        (pages * 2).min(RECLAIM_PAGES_PER_STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pages of a step after many, where each page takes 5 us of work and 5 of commit and a sync
    /// `sync_us`.
    fn settles_at(sync_us: u64, beside_appends: bool) -> u32 {
        let step = |pages: u32, _| {
            let work = Duration::from_micros(5 * u64::from(pages));
            let commit = Duration::from_micros(sync_us) + work;
            pages_of_next_step(pages, work, commit, beside_appends)
        };
        let pages = (0..20).fold(STEP_PAGES_MIN, step);
        pages.max(step(pages, 20))
    }

    #[test]
    fn steps_are_as_short_as_meant_where_the_disk_syncs_quickly() {
        assert_eq!(settles_at(100, true), 64);
        assert_eq!(settles_at(100, false), 256);
    }

    #[test]
    fn steps_do_not_fall_to_the_smallest_where_the_sync_is_what_takes_time() {
        assert!(settles_at(1_000, true) > STEP_PAGES_MIN);
        for sync_us in [5_000, 10_000] {
            for beside_appends in [true, false] {
                let pages = settles_at(sync_us, beside_appends);
                assert_eq!(pages, RECLAIM_PAGES_PER_STEP, "{sync_us} us");
            }
        }
    }

    #[test]
    fn a_step_whose_pages_take_long_gets_smaller_down_to_a_bound() {
        let long = Duration::from_millis(20);
        assert_eq!(pages_of_next_step(256, long, long, true), 128);
        assert_eq!(pages_of_next_step(256, long, 2 * long, false), 128);
        assert_eq!(
            pages_of_next_step(STEP_PAGES_MIN, long, long, true),
            STEP_PAGES_MIN
        );
    }
}
