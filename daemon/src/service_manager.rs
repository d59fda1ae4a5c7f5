//! What systemd is told: ready, reloading, stopping, and that we are alive.

use std::time::Duration;

use betcode_daemon::health::Health;
use sd_notify::NotifyState;
use tokio::sync::watch;

fn tell(states: &[NotifyState<'_>]) {
    // Without a service manager this does nothing.
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

/// Requests are answered.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// Settings are being read again.
pub(crate) fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        tell(&[NotifyState::Reloading, now]);
    }
}

/// No new requests are taken.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says that we are alive, for as long as looks at the store end in time: a daemon that hangs in its
/// store is one to restart. No restart mends a full disk or damage, which a look finds in time; it would
/// only end the agents, with what they printed and could not be recorded yet.
pub(crate) async fn watchdog(health: watch::Receiver<Health>) {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval((period / 2).max(Duration::from_millis(10)));
    loop {
        ticks.tick().await;
        if health.borrow().in_time {
            tell(&[NotifyState::Watchdog]);
        }
    }
}
