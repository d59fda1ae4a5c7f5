//! What the replays of one store share while they decode.
//!
//! An idle replay holds nothing of this: a daemon has many of them.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::limits::{BASES_KEPT_MAX, DECODERS_KEPT_MAX, READ_AHEAD_THREADS_MAX};
use crate::segment::{Base, Decoder};

/// Decoders with their buffers, bases in use, and how many threads decode ahead.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    decoders: Mutex<Vec<Decoder>>,
    /// The bases used last, the newest at the end.
    bases: Mutex<Vec<Arc<Base>>>,
    reading_ahead: AtomicUsize,
}

/// Threads that may decode ahead at once: one core is the caller's.
static READ_AHEAD_THREADS: LazyLock<usize> = LazyLock::new(|| {
    std::thread::available_parallelism()
        .map_or(0, |cores| cores.get() - 1)
        .min(READ_AHEAD_THREADS_MAX)
});

impl Shared {
    /// Lets `work` use a decoder, which is kept for the next one.
    pub(crate) fn with_decoder<T>(&self, work: impl FnOnce(&mut Decoder) -> T) -> T {
        let mut decoder = lock(&self.decoders).pop().unwrap_or_default();
        let result = work(&mut decoder);
        let mut kept = lock(&self.decoders);
        if kept.len() < DECODERS_KEPT_MAX {
            kept.push(decoder);
        }
        result
    }

    /// A base that was used lately.
    pub(crate) fn base(&self, base_id: u64) -> Option<Arc<Base>> {
        let mut bases = lock(&self.bases);
        let at = bases.iter().position(|base| base.id() == base_id)?;
        bases[at..].rotate_left(1);
        bases.last().map(Arc::clone)
    }

    /// Remembers a base.
    pub(crate) fn keep_base(&self, base: &Arc<Base>) {
        let mut bases = lock(&self.bases);
        if !bases.iter().any(|kept| kept.id() == base.id()) {
            bases.push(Arc::clone(base));
            if bases.len() > BASES_KEPT_MAX {
                bases.remove(0);
            }
        }
    }

    /// Permission to decode on one more thread, until it is dropped; `None` if no core is free.
    pub(crate) fn try_read_ahead(self: &Arc<Self>) -> Option<ReadAheadPermit> {
        let admitted =
            self.reading_ahead
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |now| {
                    (now < *READ_AHEAD_THREADS).then_some(now + 1)
                });
        admitted.ok().map(|_| ReadAheadPermit(Arc::clone(self)))
    }
}

/// See [`Shared::try_read_ahead`].
#[derive(Debug)]
pub(crate) struct ReadAheadPermit(Arc<Shared>);

impl Drop for ReadAheadPermit {
    fn drop(&mut self) {
        self.0.reading_ahead.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The data behind these locks is valid after every step, so a poisoned lock is harmless.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helpers_are_bounded_and_come_back() {
        let shared = Arc::<Shared>::default();
        let admitted: Vec<_> = std::iter::from_fn(|| shared.try_read_ahead())
            .take(5000)
            .collect();
        assert_eq!(admitted.len(), *READ_AHEAD_THREADS);
        drop(admitted);
        assert_eq!(shared.try_read_ahead().is_some(), *READ_AHEAD_THREADS > 0);
    }

    #[test]
    fn no_more_decoders_are_kept_than_allowed() {
        let shared = Shared::default();
        fn nest(shared: &Shared, depth: usize) {
            if depth > 0 {
                shared.with_decoder(|_| nest(shared, depth - 1));
            }
        }
        nest(&shared, DECODERS_KEPT_MAX + 3);
        assert_eq!(lock(&shared.decoders).len(), DECODERS_KEPT_MAX);
    }
}
