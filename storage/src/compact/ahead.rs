//! Does work ahead on other threads; its results are taken one by one, in order.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::{Mutex, PoisonError, mpsc};

use crate::error::{Result, StoreError};

/// How much is done ahead.
#[derive(Debug, Clone, Copy)]
pub(super) struct ParallelLimits {
    /// Threads that work, at least one; the caller's only takes.
    pub(super) threads: usize,
    /// Bytes of items in work or waiting to be taken. If any item is larger, all are done one by one on the
    /// caller's thread: each thread would keep the memory that such an item takes.
    pub(super) bytes_max: u64,
}

/// Gives `take` what the workers make of `items`, in the items' order, while they go on with those
/// after them. Each thread has a worker of its own, made by `worker`. Ends with the first error of
/// `take`; what was done ahead is thrown away then. A worker's panic becomes the caller's.
pub(super) fn in_order<I, R, W>(
    items: &[I],
    ahead: ParallelLimits,
    bytes_of: impl Fn(&I) -> u64,
    worker: impl Fn() -> W + Sync,
    mut take: impl FnMut(&I, R) -> Result<()>,
) -> Result<()>
where
    I: Sync,
    R: Send,
    W: FnMut(&I) -> R,
{
    let in_turn = |take: &mut dyn FnMut(&I, R) -> Result<()>| {
        let mut work = worker();
        items.iter().try_for_each(|item| take(item, work(item)))
    };
    if items.iter().any(|item| bytes_of(item) > ahead.bytes_max) {
        return in_turn(&mut take);
    }
    let threads = ahead.threads.clamp(1, items.len().max(1));
    let (jobs, queue) = mpsc::channel::<(&I, mpsc::SyncSender<std::thread::Result<R>>)>();
    let queue = Mutex::new(queue);
    std::thread::scope(|scope| {
        // Owned here: when it is dropped, also by a panic, the workers end, and the scope with them.
        let jobs = jobs;
        let work_on_jobs = || {
            let mut work = worker();
            loop {
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                let Ok((item, answer)) = job else { break };
                let result = catch_unwind(AssertUnwindSafe(|| work(item)));
                let is_whole = result.is_ok();
                // Nobody waits for the answer after an error.
                let _ = answer.send(result);
                if !is_whole {
                    break;
                }
            }
        };
        let start = |_: &usize| {
            let thread = std::thread::Builder::new().name("betcode-encode".into());
            thread.spawn_scoped(scope, work_on_jobs).is_ok()
        };
        if (0..threads).filter(start).count() == 0 {
            // No thread could be started: slower, with the same result.
            return in_turn(&mut take);
        }
        let mut waiting = items.iter().peekable();
        let mut begun = VecDeque::new();
        let mut bytes = 0;
        loop {
            while let Some(item) = waiting
                .next_if(|item| begun.len() <= threads && bytes + bytes_of(item) <= ahead.bytes_max)
            {
                let (answer, answered) = mpsc::sync_channel(1);
                bytes += bytes_of(item);
                begun.push_back((item, answered));
                if jobs.send((item, answer)).is_err() {
                    break;
                }
            }
            let Some((item, answered)) = begun.pop_front() else {
                return Ok(());
            };
            // A worker answers every item that it receives, also one at which it panics.
            let result = answered.recv().map_err(|_| StoreError::Panicked {
                what: "compaction",
                why: "a worker ended without an answer".into(),
            })?;
            take(item, result.unwrap_or_else(|panic| resume_unwind(panic)))?;
            bytes -= bytes_of(item);
        }
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    fn ahead(threads: usize, bytes_max: u64) -> ParallelLimits {
        ParallelLimits { threads, bytes_max }
    }

    #[test]
    fn results_come_in_order_however_long_each_takes() {
        let items: Vec<u64> = (0..200).collect();
        let mut taken = Vec::new();
        let done = in_order(
            &items,
            ahead(4, 1 << 20),
            |_| 1,
            || {
                |item: &u64| {
                    std::thread::sleep(std::time::Duration::from_micros(item * 7919 % 400));
                    item * 2
                }
            },
            |item, double| {
                assert_eq!(double, item * 2);
                taken.push(*item);
                Ok(())
            },
        );
        assert!(done.is_ok());
        assert_eq!(taken, items);
    }

    #[test]
    fn no_more_bytes_are_under_way_than_allowed_and_beside_a_bigger_item_nothing() {
        for items in [
            &[3, 4, 3, 10, 2, 9, 1, 1, 1, 1, 6, 6, 2][..],
            &[3, 4, 50, 2],
        ] {
            assert_bounded(items);
        }
    }

    fn assert_bounded(items: &[u64]) {
        let under_way = AtomicU64::new(0);
        let done = in_order(
            items,
            ahead(3, 10),
            |&item| item,
            || {
                |item: &u64| {
                    let before = under_way.fetch_add(*item, Ordering::SeqCst);
                    assert!(before == 0 || before + item <= 10, "{before} and {item}");
                }
            },
            |item, ()| {
                under_way.fetch_sub(*item, Ordering::SeqCst);
                Ok(())
            },
        );
        assert!(done.is_ok());
    }

    #[test]
    fn the_first_error_ends_it() {
        let items: Vec<u64> = (0..100).collect();
        let mut taken = 0;
        let done = in_order(
            &items,
            ahead(2, 1 << 20),
            |_| 1,
            || |item: &u64| *item,
            |_, item| {
                taken += 1;
                if item == 5 {
                    return Err(StoreError::Cancelled);
                }
                Ok(())
            },
        );
        assert!(matches!(done, Err(StoreError::Cancelled)));
        assert_eq!(taken, 6);
    }

    #[test]
    fn nothing_to_do_is_done() {
        let none: [u64; 0] = [];
        let done = in_order(&none, ahead(2, 1), |_| 1, || |_: &u64| (), |_, ()| Ok(()));
        assert!(done.is_ok());
    }

    #[test]
    #[should_panic(expected = "unlucky")]
    fn a_worker_that_panics_takes_the_run_with_it_and_keeps_nobody_waiting() {
        let items: Vec<u64> = (0..50).collect();
        let _ = in_order(
            &items,
            ahead(2, 1 << 20),
            |_| 1,
            || {
                |item: &u64| {
                    assert!(*item != 7, "unlucky");
                }
            },
            |_, ()| Ok(()),
        );
    }
}
