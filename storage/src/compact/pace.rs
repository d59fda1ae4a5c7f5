//! The pauses between the maintenance steps of a run.
//!
//! A swap, or a step of giving pages back, blocks appends for a millisecond or two. One such delay does no
//! harm; many in a row do. So while others append, a run pauses after each step, and encodes meanwhile.

use std::time::{Duration, Instant};

use crate::capacity::levels::Level;
use crate::error::Result;
use crate::limits::{
    BUSY_POLL_MS, MAINTENANCE_REST_MS_MAX, MAINTENANCE_REST_TIMES,
    MAINTENANCE_REST_TIMES_NEAR_LIMIT, STEP_REST_POLLS,
};
use crate::store::Store;
use crate::writer::WriterContext;

/// What a step of maintenance did, and beside whom.
pub(crate) struct MaintenanceStep<T> {
    pub(crate) value: T,
    pub(crate) took: Duration,
    /// Someone appended shortly before and since the run began, in this process or another.
    pub(crate) beside_appends: bool,
}

/// Does a run's maintenance on the writer's thread, step by step.
pub(crate) struct Pace<'s> {
    store: &'s Store,
    /// When the run began. Who appended before may be who waits for the run now, as an import does.
    began: Instant,
    not_before: Instant,
}

impl<'s> Pace<'s> {
    pub(crate) fn new(store: &'s Store) -> Self {
        let now = Instant::now();
        Self {
            store,
            began: now,
            not_before: now,
        }
    }

    /// Waits until the next step may begin, and does it.
    pub(crate) fn maintain<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut WriterContext) -> Result<T> + Send + 'static,
    ) -> Result<MaintenanceStep<T>> {
        std::thread::sleep(self.not_before.saturating_duration_since(Instant::now()));
        let run_began = self.began;
        let step = self.store.writer()?.run(move |context| {
            let began = Instant::now();
            let value = work(context)?;
            Ok(MaintenanceStep {
                value,
                took: began.elapsed(),
                beside_appends: context.is_appended_to_since(run_began),
            })
        })?;
        let rest = rest_after(step.took, step.beside_appends, self.store.level());
        self.not_before = Instant::now() + rest;
        Ok(step)
    }
}

/// Lets writers of other processes get the lock between two steps. They try every [`BUSY_POLL_MS`], and would hardly
/// ever find it free if the next step began at once.
pub(crate) fn rest_for_other_processes() {
    std::thread::sleep(Duration::from_millis(STEP_REST_POLLS * BUSY_POLL_MS));
}

/// The pause after a step that took `took`. It is shorter near the database's limit, and zero at the critical level,
/// where freeing space is most urgent.
fn rest_after(took: Duration, beside_appends: bool, level: Level) -> Duration {
    let times = match level {
        _ if !beside_appends => 0,
        Level::Ok => MAINTENANCE_REST_TIMES,
        Level::Warning => MAINTENANCE_REST_TIMES_NEAR_LIMIT,
        Level::Critical => 0,
    };
    (took * times).min(Duration::from_millis(MAINTENANCE_REST_MS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Batch, SessionId, StoreOptions};

    fn append(store: &Store) {
        let session = SessionId::new("s").unwrap();
        let batch = Batch::new(session, vec!["a line".into()]);
        store.append(batch).unwrap();
    }

    fn beside_appends(run: &mut Pace<'_>) -> bool {
        let nothing = |context: &mut WriterContext| context.maintain("do nothing", |_, _| Ok(()));
        run.maintain(nothing).unwrap().beside_appends
    }

    #[test]
    fn whoever_appends_is_noticed_in_this_process_and_in_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let store = Store::open(&path, StoreOptions::default()).unwrap();
        let mut run = Pace::new(&store);
        assert!(!beside_appends(&mut run));
        assert!(
            !beside_appends(&mut run),
            "its own maintenance is no append"
        );

        let elsewhere = rusqlite::Connection::open(&path).unwrap();
        let commit = "UPDATE store SET created_ms = created_ms + 1";
        elsewhere.execute(commit, []).unwrap();
        assert!(beside_appends(&mut run));

        let path = folder.path().join("other.db");
        let store = Store::open(&path, StoreOptions::default()).unwrap();
        let mut run = Pace::new(&store);
        append(&store);
        assert!(beside_appends(&mut run));
    }

    #[test]
    fn what_was_appended_before_a_run_began_does_not_slow_it_down() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history.db");
        let store = Store::open(&path, StoreOptions::default()).unwrap();
        append(&store);
        let mut run = Pace::new(&store);
        assert!(!beside_appends(&mut run));
        append(&store);
        assert!(beside_appends(&mut run));
    }

    const STEP: Duration = Duration::from_millis(1);

    #[test]
    fn a_run_rests_after_its_work_only_beside_others_and_only_where_there_is_room() {
        let rest = |level| rest_after(STEP, true, level);
        assert_eq!(rest(Level::Ok), STEP * MAINTENANCE_REST_TIMES);
        assert!(Duration::ZERO < rest(Level::Warning) && rest(Level::Warning) < rest(Level::Ok));
        assert_eq!(rest_after(STEP, true, Level::Critical), Duration::ZERO);
        assert_eq!(rest_after(STEP, false, Level::Ok), Duration::ZERO);
    }

    #[test]
    fn no_rest_is_long() {
        let rest = rest_after(Duration::from_secs(60), true, Level::Ok);
        assert_eq!(rest, Duration::from_millis(MAINTENANCE_REST_MS_MAX));
    }
}
