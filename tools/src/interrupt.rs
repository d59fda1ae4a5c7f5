//! Ctrl-C and SIGTERM: a flag that long work looks at between two steps.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::error::Exit;

/// Whether the user asked to stop.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to the signals. The first asks to stop between two steps; a second one ends the
    /// process at once, which the store survives like any crash.
    ///
    /// # Errors
    /// When the system refuses the handlers.
    pub fn listen() -> std::io::Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            let code = Exit::Interrupted as i32;
            // Order matters: the shutdown is armed by the flag that the second handler sets.
            signal_hook::flag::register_conditional_shutdown(signal, code, Arc::clone(&flag))?;
            signal_hook::flag::register(signal, Arc::clone(&flag))?;
        }
        Ok(Self(flag))
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

    /// The same, as the engine's observers want it.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.raised() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}
