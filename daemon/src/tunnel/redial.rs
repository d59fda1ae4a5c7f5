//! How long the daemon waits before it dials the relay again.

use std::time::{Duration, Instant};

use super::{Backoff, TunnelOptions};

/// Counts failures, and makes pauses of them.
#[derive(Debug)]
pub(super) struct Redial {
    backoff: Backoff,
    /// Pauses while the relay restarts.
    restart_backoff: Backoff,
    restart_max: Duration,
    failures: u32,
    /// When the relay last sent the daemon away because it restarts.
    restarts_since: Option<Instant>,
}

impl Redial {
    pub(super) fn new(options: &TunnelOptions) -> Self {
        let last = options.restart_pause_max.min(options.backoff.last);
        Self {
            backoff: options.backoff,
            restart_backoff: Backoff {
                last,
                ..options.backoff
            },
            restart_max: options.restart_max,
            failures: 0,
            restarts_since: None,
        }
    }

    /// A tunnel that had been open for so long is no longer.
    pub(super) fn opened_for(&mut self, open: Duration) {
        // A tunnel that does not last is no better than one that does not open.
        if open >= self.backoff.last {
            self.failures = 0;
        }
    }

    /// The relay has sent the daemon away because it restarts: it may be expected back soon.
    pub(super) fn relay_restarts(&mut self) {
        self.restarts_since = Some(Instant::now());
    }

    /// The pause before the next attempt. It grows from failure to failure; while the relay restarts,
    /// to some seconds only.
    pub(super) fn pause(&mut self) -> Duration {
        let since = self.restarts_since;
        let restarts = since.is_some_and(|since| since.elapsed() < self.restart_max);
        let backoff = match restarts {
            true => self.restart_backoff,
            false => self.backoff,
        };
        // Failures that are expected do not make later pauses longer.
        if !restarts || backoff.bound(self.failures) < backoff.last {
            self.failures = self.failures.saturating_add(1);
        }
        // A version 4 id is as random as the system can be; its low half has no fixed bits but two.
        let random = uuid::Uuid::new_v4().as_u64_pair().1 << 2;
        backoff.pause(self.failures, random)
    }
}
