//! Messages to systemd: ready, reloading, stopping, and signs of life. Without a service manager all of
//! this does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// The shortest pause between two signs of life.
const WATCHDOG_INTERVAL_MS_MIN: u64 = 10;

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be reached");
    }
}

/// Requests are answered.
pub fn ready() {
    notify(&[NotifyState::Ready]);
}

/// Settings are being read again.
pub fn reloading() {
    if let Ok(now) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, now]);
    }
}

/// No new requests are taken.
pub fn stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Gives signs of life, as often as the service manager wants them, while `is_alive` says so: a program
/// that gives none is started anew.
pub async fn watchdog(is_alive: impl Fn() -> bool) {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    let interval = (period / 2).max(Duration::from_millis(WATCHDOG_INTERVAL_MS_MIN));
    let mut ticks = tokio::time::interval(interval);
    loop {
        ticks.tick().await;
        if is_alive() {
            notify(&[NotifyState::Watchdog]);
        }
    }
}
