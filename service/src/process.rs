//! What this process uses of the machine, and what the machine allows it: memory, processor, files.

use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};

/// Bytes of this process in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResidentBytes {
    /// Now.
    pub now: u64,
    /// The most so far.
    pub peak: u64,
}

/// Memory of this process; 0 where the system does not say.
#[must_use]
pub fn resident_bytes() -> ResidentBytes {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        kib.unwrap_or(0) << 10
    };
    ResidentBytes {
        now: bytes("VmRSS:"),
        peak: bytes("VmHWM:"),
    }
}

/// Processor time of this process; its children are processes of their own.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        u64::try_from(time.tv_sec).unwrap_or_default(),
        u32::try_from(time.tv_nsec).unwrap_or_default(),
    )
}

/// Samples how busy this process keeps the processors.
#[derive(Debug, Default)]
pub struct CpuSampler {
    before: Option<(Instant, Duration)>,
}

/// Use of the processors between two samples, in thousandths of one processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuUse {
    /// Used by this process.
    pub used: u64,
    /// All processors.
    pub limit: u64,
}

impl CpuSampler {
    /// The use since the last sample; none for the first.
    pub fn sample(&mut self) -> CpuUse {
        let processors = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
        let now = (Instant::now(), processor_time());
        let used = self.before.replace(now).map_or(0.0, |(then, before)| {
            let passed = now.0.duration_since(then).as_secs_f64().max(1e-3);
            now.1.saturating_sub(before).as_secs_f64() / passed
        });
        CpuUse {
            used: (used * 1000.0) as u64,
            limit: processors * 1000,
        }
    }
}

/// How many files this process may have open now; `None` is no limit.
#[must_use]
pub fn open_files_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises the limit of open files to what the system lets this process have, and returns it; `None` is
/// no limit. Every connection is a file, and without this, connections could take the files that the
/// program needs for its own work.
pub fn raise_open_files() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return maximum;
    }
    let wanted = Rlimit {
        current: maximum,
        maximum,
    };
    match setrlimit(Resource::Nofile, wanted) {
        Ok(()) => maximum,
        Err(error) => {
            tracing::warn!(%error, ?current, "the number of open files was not raised");
            current
        }
    }
}

/// Has a write beyond the size that a file of this process may have (`ulimit -f`) fail with an error, instead of ending
/// the process without a word. In a runtime of tokio.
///
/// The signal is caught and not ignored: programs that this one starts would inherit that.
///
/// # Errors
/// When the system refuses the handler.
pub fn fail_writes_beyond_size_limit() -> std::io::Result<()> {
    // The handler stays for as long as the process lives, whoever listens.
    signal(SignalKind::from_raw(Signal::XFSZ.as_raw())).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_spins_is_busy() {
        let mut sampler = CpuSampler::default();
        sampler.sample();
        let before = processor_time();
        while processor_time() == before {
            std::hint::black_box(before);
        }
        let CpuUse { used, limit } = sampler.sample();
        assert!(used > 0 && limit >= 1000, "{used} of {limit}");
    }

    #[test]
    fn a_process_has_memory() {
        let ResidentBytes { now, peak } = resident_bytes();
        assert!(now > 0 && peak >= now, "{now}, {peak}");
    }
}
