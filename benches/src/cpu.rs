//! CPU time of the calling thread.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// A moment in the CPU time of the thread that asks.
#[derive(Debug, Clone, Copy)]
pub struct CpuTime(Timespec);

impl CpuTime {
    /// Now.
    #[must_use]
    pub fn now() -> Self {
        Self(clock_gettime(ClockId::ThreadCPUTime))
    }

    /// Seconds of this thread's work since then. Ask on the thread that took it.
    #[must_use]
    pub fn elapsed_s(&self) -> f64 {
        let now = clock_gettime(ClockId::ThreadCPUTime);
        (now.tv_sec - self.0.tv_sec) as f64 + (now.tv_nsec - self.0.tv_nsec) as f64 / 1e9
    }
}
