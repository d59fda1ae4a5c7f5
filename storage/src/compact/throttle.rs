//! The share of a core's time that a run takes, and stopping a run that pauses for it.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use super::request::{CompactionProgress, Observer};
use crate::limits::{COMPACTION_CPU_FRACTION_MIN, COMPACTION_PAUSE_MS_MAX};

/// How long a run pauses without being asked to stop.
const PAUSE_PIECE: Duration = Duration::from_millis(50);

/// Set once the run is to stop.
#[derive(Debug, Default)]
pub(super) struct StopSignal(AtomicBool);

impl StopSignal {
    fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The pauses of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Throttle<'s> {
    pub(super) cpu_fraction_max: f64,
    pub(super) stop: &'s StopSignal,
}

impl Throttle<'_> {
    /// Sleeps long enough that the work before it took only its share of the time, or until the run is to stop.
    pub(super) fn pause_after(self, worked: Duration) {
        if self.cpu_fraction_max >= 1.0 {
            return;
        }
        let fraction = self.cpu_fraction_max.max(COMPACTION_CPU_FRACTION_MIN);
        let rest = worked.mul_f64((1.0 - fraction) / fraction);
        let rest = rest.min(Duration::from_millis(COMPACTION_PAUSE_MS_MAX));
        let until = Instant::now() + rest;
        while !self.stop.is_set() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(PAUSE_PIECE));
        }
    }

    /// Calls `observe` each time the run asks whether to go on, and answers the run, until it ends. A run that
    /// pauses asks nothing, so `observe` is called during pauses as well.
    pub(super) fn answer_run(
        self,
        questions: &Receiver<CompactionProgress>,
        answers: &Sender<ControlFlow<()>>,
        observe: Observer<'_>,
    ) {
        let mut last = None;
        loop {
            let next = match last {
                Some(_) if self.cpu_fraction_max < 1.0 => questions.recv_timeout(PAUSE_PIECE),
                _ => questions.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match (next, last) {
                (Ok(progress), _) => {
                    let answer = match self.stop.is_set() {
                        true => ControlFlow::Break(()),
                        false => observe(&progress),
                    };
                    let _ = answers.send(answer);
                    last = Some(progress);
                }
                (Err(RecvTimeoutError::Timeout), Some(progress)) => {
                    if !self.stop.is_set() && observe(&progress).is_break() {
                        self.stop.0.store(true, Ordering::Relaxed);
                    }
                }
                (Err(_), _) => return,
            }
        }
    }
}
