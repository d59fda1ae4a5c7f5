//! Ctrl-C and SIGTERM: a flag that long work looks at between two steps.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::iterator::Signals;

use crate::error::Exit;
use crate::limits;

/// Whether the user asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to the signals. The first asks to stop between two steps. One that comes more
    /// than a second later ends the process at once, which the store survives like any crash. What is ignored
    /// when the process begins, as under `nohup` and behind `&` in a script, stays ignored.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn listen() -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let insisted = Arc::new(AtomicBool::new(false));
        let ignored = ignored_signals();
        let heard = [SIGINT, SIGTERM, SIGHUP].into_iter();
        let heard: Vec<_> = heard
            .filter(|signal| ignored & (1 << (signal - 1)) == 0)
            .collect();
        for &signal in &heard {
            let code = Exit::Interrupted as i32;
            signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&insisted))?;
            signal_hook::flag::register(signal, Arc::clone(&stop))?;
        }
        // A write beyond the size that a file may have then fails, and says so, instead of ending the program. It is
        // not ignored, because the programs that we start would inherit that.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        let mut signals = Signals::new(&heard)?;
        thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                if signals.forever().next().is_some() {
                    thread::sleep(Duration::from_millis(limits::REPEATED_SIGNAL_MS_MAX));
                    insisted.store(true, Ordering::SeqCst);
                }
            })?;
        Ok(Self(stop))
    }

    /// Asks to stop, as a signal would.
    pub fn raise(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether to stop.
    #[must_use]
    pub fn raised(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// The same as a `ControlFlow`, as the engine's observers return it.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.raised() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}

/// A bit for each signal that this process ignores, from signal 1 on; 0 if the system does not say.
fn ignored_signals() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or_default()
}
