//! Lets appends and reads go first where cores are scarce. Encoding takes whole cores for
//! minutes, and nobody waits for it.

/// Makes the calling thread, and those that it starts, give way to others from now on. It cannot be
/// taken back. Where the system refuses, compaction goes on at the priority of the rest.
pub(super) fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = linux::lower_priority() {
        tracing::debug!(%error, "compaction runs at the priority of the rest");
    }
}

/// On Linux niceness is a thread's; elsewhere it would be the whole process's.
#[cfg(target_os = "linux")]
mod linux {
    use std::io;

    /// About a tenth of the weight of others.
    const NICENESS: i32 = 10;
    const IDLE: libc::c_long = libc::SCHED_IDLE as libc::c_long;
    /// The longest slice that Linux grants, in nanoseconds.
    ///
    /// Niceness says who gets how much, not who goes first. Since 6.6 a thread that wakes, as the
    /// writer does after each sync, waits for the running one's slice to end, however nice that
    /// is: 3 ms, many times what a commit takes. Since 6.12 it does not wait when its own
    /// slice is the shorter one. Older kernels do not look at the slice.
    const SLICE_NS: u64 = 100_000_000;

    pub(super) fn lower_priority() -> io::Result<()> {
        // It runs when nobody else does: there is no more to give.
        if is_idle() {
            return Ok(());
        }
        // A thread with a lower priority keeps it.
        let niceness = rustix::process::getpriority_process(None)?.max(NICENESS);
        let Err(refused) = set_batch(niceness) else {
            return Ok(());
        };
        // As a sandbox does that does not know the call.
        rustix::process::setpriority_process(None, niceness)?;
        tracing::debug!(%refused, "compaction is nice only");
        Ok(())
    }

    /// Whether the calling thread is in the class of those that run when nobody else does. Where the
    /// system does not say, it is not.
    #[allow(unsafe_code)]
    fn is_idle() -> bool {
        let this_thread = 0;
        // SAFETY: it reads and writes no memory of ours. The C library's own function of this name is
        // an error in some of them, and there is no safe binding of the call.
        let policy = unsafe { libc::syscall(libc::SYS_sched_getscheduler, this_thread) };
        policy >= 0 && policy & !libc::c_long::from(libc::SCHED_RESET_ON_FORK) == IDLE
    }

    #[allow(unsafe_code)]
    fn set_batch(niceness: i32) -> io::Result<()> {
        let attributes = libc::sched_attr {
            size: size_of::<libc::sched_attr>() as u32,
            sched_policy: libc::SCHED_BATCH as u32,
            sched_flags: 0,
            sched_nice: niceness,
            sched_priority: 0,
            sched_runtime: SLICE_NS,
            sched_deadline: 0,
            sched_period: 0,
        };
        let (this_thread, no_flags) = (0, 0);
        // SAFETY: the kernel reads `size` bytes of `attributes`, which is alive for the call, and keeps
        // nothing of it. There is no safe binding of this call: rustix and nix have none.
        let result = unsafe {
            libc::syscall(
                libc::SYS_sched_setattr,
                this_thread,
                &raw const attributes,
                no_flags,
            )
        };
        if result == 0 {
            return Ok(());
        }
        Err(io::Error::last_os_error())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::lower_priority;

    #[test]
    fn the_thread_gives_way_and_so_do_those_that_it_starts_and_no_others() {
        let niceness = || rustix::process::getpriority_process(None).unwrap();
        let before = niceness();
        let (own, started) = std::thread::spawn(move || {
            lower_priority();
            (niceness(), std::thread::spawn(niceness).join().unwrap())
        })
        .join()
        .unwrap();
        assert!(own > before && started == own, "{before}, {own}, {started}");
        assert_eq!(niceness(), before);
    }

    #[test]
    fn a_thread_that_gives_way_more_than_that_already_is_left_there() {
        let after = std::thread::spawn(|| {
            rustix::process::setpriority_process(None, 15).unwrap();
            lower_priority();
            rustix::process::getpriority_process(None).unwrap()
        });
        assert_eq!(after.join().unwrap(), 15);
    }

    #[test]
    #[allow(unsafe_code)]
    fn a_thread_that_runs_when_nobody_else_does_goes_on_to() {
        let policies = std::thread::spawn(|| {
            let idle = libc::sched_param { sched_priority: 0 };
            // SAFETY: both calls are about this thread, and keep nothing of `idle`.
            unsafe {
                let set = libc::syscall(
                    libc::SYS_sched_setscheduler,
                    0,
                    libc::SCHED_IDLE,
                    &raw const idle,
                );
                lower_priority();
                (set, libc::syscall(libc::SYS_sched_getscheduler, 0))
            }
        });
        let idle = libc::c_long::from(libc::SCHED_IDLE);
        assert_eq!(policies.join().unwrap(), (0, idle));
    }
}
