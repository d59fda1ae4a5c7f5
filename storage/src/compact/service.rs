//! Compaction in the background: a thread that looks at the store now and then.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::policy::CompactionPolicy;
use super::request::{
    CompactionOutcome, CompactionProgress, CompactionRequest, SessionFailure, check_cpu_fraction,
};
use super::tally::PanickedSession;
use crate::capacity::levels::Level;
use crate::clock::millis;
use crate::error::{Argument, ErrorKind, Held, Result, StoreError};
use crate::ids::SessionId;
use crate::limits::{
    COMPACTION_CPU_FRACTION_DEFAULT, COMPACTION_FAILED_MS_MAX, COMPACTION_INTERVAL_MS_DEFAULT,
    COMPACTION_INTERVAL_MS_MIN, COMPACTION_URGENT_DIVISOR,
};
use crate::sql::segments::Tier;
use crate::store::Store;

/// Settings of the background service.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ServiceOptions {
    /// When and how to compact.
    pub policy: CompactionPolicy,
    /// How often to look, milliseconds, at least [`COMPACTION_INTERVAL_MS_MIN`].
    pub interval_ms: u64,
    /// Share of one core's time that encoding may take, above 0 and at most 1. A database near its limit lifts it.
    pub cpu_fraction_max: f64,
}

impl Default for ServiceOptions {
    fn default() -> Self {
        Self {
            policy: CompactionPolicy::default(),
            interval_ms: COMPACTION_INTERVAL_MS_DEFAULT,
            cpu_fraction_max: COMPACTION_CPU_FRACTION_DEFAULT,
        }
    }
}

impl ServiceOptions {
    /// Refuses settings with which the service would spin, or every session would fail.
    ///
    /// # Errors
    /// [`StoreError::InvalidArgument`], which names the setting and its bounds.
    pub fn validate(&self) -> Result<()> {
        if self.interval_ms < COMPACTION_INTERVAL_MS_MIN {
            return Err(StoreError::InvalidArgument {
                what: Argument::Named("interval_ms"),
                why: format!(
                    "{} is below the least, {COMPACTION_INTERVAL_MS_MIN}",
                    self.interval_ms
                ),
            });
        }
        check_cpu_fraction(self.cpu_fraction_max)?;
        self.policy.validate()
    }
}

/// What the service is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceState {
    /// Waiting for the next look.
    Idle,
    /// Compacting.
    Running,
    /// Waiting to be resumed.
    Paused,
    /// Ended.
    Stopped,
}

/// The service as seen from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceStatus {
    /// What it is doing.
    pub state: ServiceState,
    /// How far the current run is.
    pub progress: Option<CompactionProgress>,
    /// Runs that did something.
    pub runs: u64,
    /// What the last of them did.
    pub last_outcome: Option<CompactionOutcome>,
    /// Why the last run failed; `None` when it did not. Reading and writing go on all the same.
    pub last_error: Option<String>,
}

#[derive(Default)]
struct Commands {
    stop: bool,
    paused: bool,
    run_now: bool,
}

struct Shared {
    commands: Mutex<Commands>,
    changed: Condvar,
    status: Mutex<ServiceStatus>,
}

impl Shared {
    fn commands(&self) -> MutexGuard<'_, Commands> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self) -> MutexGuard<'_, ServiceStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Handle to the background service; it stops when the handle goes, which waits until the run under way has ended
/// its step.
#[must_use = "background compaction stops when this is dropped"]
pub struct CompactionService {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for CompactionService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.status();
        f.debug_struct("CompactionService")
            .field("status", &status)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Starts compaction in the background.
    ///
    /// # Errors
    /// [`StoreError::InvalidArgument`] for options out of bounds, [`StoreError::ReadOnly`], or [`StoreError::Io`] when
    /// no thread can be started.
    ///
    /// # Examples
    /// ```
    /// # use betcode_storage::{Store, StoreOptions};
    /// use betcode_storage::compact::ServiceOptions;
    ///
    /// # let folder = tempfile::tempdir()?;
    /// # let path = folder.path().join("history.db");
    /// # let store = Store::open(&path, StoreOptions::default())?;
    /// // It goes on as long as the handle is kept.
    /// let service = store.start_compaction(ServiceOptions::default())?;
    /// assert_eq!(service.status().last_error, None);
    /// service.stop();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn start_compaction(&self, options: ServiceOptions) -> Result<CompactionService> {
        options.validate()?;
        self.writer()?;
        let shared = Arc::new(Shared {
            commands: Mutex::default(),
            changed: Condvar::new(),
            status: Mutex::new(ServiceStatus {
                state: ServiceState::Idle,
                progress: None,
                runs: 0,
                last_outcome: None,
                last_error: None,
            }),
        });
        // A database that nears its limit is looked at now, not at the next interval.
        let waiting = Arc::downgrade(&shared);
        self.on_capacity_event(move |event| {
            let Some(shared) = waiting.upgrade() else {
                return false;
            };
            if event.event.is_worse() {
                shared.commands().run_now = true;
                shared.changed.notify_all();
            }
            true
        });
        let (store, seen) = (self.clone(), Arc::clone(&shared));
        let thread = std::thread::Builder::new()
            .name("betcode-compact".into())
            .spawn(move || serve(&store, &options, &seen))
            .map_err(|source| StoreError::Io {
                action: "start compaction of",
                path: self.path().to_owned(),
                source,
            })?;
        Ok(CompactionService {
            shared,
            thread: Some(thread),
        })
    }
}

impl CompactionService {
    /// Lets the run under way end at its next step, and starts none until resumed.
    pub fn pause(&self) {
        self.command(|commands| commands.paused = true);
    }

    /// Ends a pause.
    pub fn resume(&self) {
        self.command(|commands| commands.paused = false);
    }

    /// Looks at the store now instead of at the next interval.
    pub fn run_now(&self) {
        self.command(|commands| commands.run_now = true);
    }

    /// What it is doing.
    #[must_use]
    pub fn status(&self) -> ServiceStatus {
        self.shared.status().clone()
    }

    /// Lets the run under way end at its next step, waits for that, and ends the service.
    pub fn stop(mut self) {
        self.end();
    }

    fn command(&self, change: impl FnOnce(&mut Commands)) {
        change(&mut self.shared.commands());
        self.shared.changed.notify_all();
    }

    fn end(&mut self) {
        self.command(|commands| commands.stop = true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for CompactionService {
    fn drop(&mut self) {
        self.end();
    }
}

/// A session that could not be compacted. Until it has more messages it would fail again, each time
/// with a run in the history.
struct Failed {
    messages: u64,
    why: String,
    since: Instant,
}

/// Sets the status to stopped however the thread ends.
struct Ended<'s>(&'s Shared);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        let mut status = self.0.status();
        status.state = ServiceState::Stopped;
        status.progress = None;
        if std::thread::panicking() {
            let error = "background compaction ended by an internal error, and starts again when \
                         the store is opened anew";
            status.last_error = Some(error.to_owned());
        }
    }
}

fn serve(store: &Store, options: &ServiceOptions, shared: &Shared) {
    let _ended = Ended(shared);
    let mut failed: BTreeMap<SessionId, Failed> = BTreeMap::new();
    loop {
        let urgency = if store.level() == Level::Ok {
            1
        } else {
            COMPACTION_URGENT_DIVISOR
        };
        let interval_ms = (options.interval_ms / urgency).max(COMPACTION_INTERVAL_MS_MIN);
        if !wait(shared, Duration::from_millis(interval_ms)) {
            break;
        }
        shared.status().state = ServiceState::Running;
        failed.retain(|id, failed| match store.session(id) {
            // It may have been for want of memory.
            _ if millis(failed.since.elapsed()) > COMPACTION_FAILED_MS_MAX => false,
            Ok(session) => session.messages == failed.messages,
            Err(error) => error.kind() == ErrorKind::Damaged,
        });
        let panicked_session = PanickedSession::default();
        let except = failed.keys().cloned().collect();
        let result = run_once(store, options, shared, &panicked_session, except);
        let failures = match &result {
            Ok(outcome) => outcome.failures.clone(),
            // The others have their turn at the next look.
            Err(error) => {
                let panicked_session = panicked_session.session().into_iter();
                panicked_session
                    .map(|id| SessionFailure::new(&id, error))
                    .collect()
            }
        };
        for SessionFailure { session: id, why } in failures {
            let messages = store.session(&id).map_or(0, |session| session.messages);
            let since = Instant::now();
            let left = Failed {
                messages,
                why,
                since,
            };
            failed.insert(id, left);
        }
        let mut status = shared.status();
        status.progress = None;
        match result {
            Ok(outcome) => {
                status.last_error = failed
                    .first_key_value()
                    .map(|(session, failed)| format!("session {session}: {}", failed.why));
                if outcome.segments > 0 {
                    status.runs += 1;
                    status.last_outcome = Some(outcome);
                }
            }
            // A manual compaction is running instead.
            Err(StoreError::Busy {
                what: Held::Compaction,
                ..
            }) => {}
            Err(StoreError::Closed { .. }) => break,
            Err(error) => {
                tracing::error!(%error, "background compaction failed");
                status.last_error = Some(error.to_string());
            }
        }
        status.state = ServiceState::Idle;
    }
}

/// Waits for the next look. Returns whether there is one.
fn wait(shared: &Shared, interval: Duration) -> bool {
    let deadline = Instant::now() + interval;
    let mut commands = shared.commands();
    loop {
        if commands.stop {
            return false;
        }
        if commands.paused {
            shared.status().state = ServiceState::Paused;
            commands = shared
                .changed
                .wait(commands)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if commands.run_now || left.is_zero() {
            commands.run_now = false;
            return true;
        }
        shared.status().state = ServiceState::Idle;
        commands = shared
            .changed
            .wait_timeout(commands, left)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
    }
}

fn run_once(
    store: &Store,
    options: &ServiceOptions,
    shared: &Shared,
    panicked_session: &PanickedSession,
    except: BTreeSet<SessionId>,
) -> Result<CompactionOutcome> {
    let level = store.level().max(store.space()?.level());
    let request = CompactionRequest {
        session: None,
        tier: Tier::Deep,
        force: false,
        policy: options.policy.at_level(level),
        trigger: "background",
        cpu_fraction_max: if level == Level::Ok {
            options.cpu_fraction_max
        } else {
            1.0
        },
        except,
        // Agents need the cores.
        threads_max: 1,
    };
    store.compact_noting(&request, panicked_session, &mut |progress| {
        shared.status().progress = Some(*progress);
        let commands = shared.commands();
        if commands.stop || commands.paused {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
}
