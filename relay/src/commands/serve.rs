//! Serving, until a signal ends it.

use std::process::ExitCode;

use betcode_relay::settings::{Settings, SettingsError};
use betcode_relay::{Relay, open_files};
use betcode_service::{logging, process, service_manager};
use tokio::signal::unix::{SignalKind, signal};

use super::{Error, say};

/// Serves with the settings that `load` reads, also when they are to be read again.
pub(super) fn run(load: impl Fn() -> Result<Settings, SettingsError>) -> Result<ExitCode, Error> {
    let mut settings = load()?;
    let log = logging::start(&settings.log_filter, settings.log_json)?;
    let files = process::raise_open_files();
    if let Some(warning) = open_files::lower_to_open_files(&mut settings, files) {
        tracing::warn!("{warning}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve(settings, &load, &log))
}

/// Serves until a signal ends it.
async fn serve(
    settings: Settings,
    load: &impl Fn() -> Result<Settings, SettingsError>,
    log: &logging::Handle,
) -> Result<ExitCode, Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    process::fail_writes_beyond_size_limit()?;
    let relay = Relay::start(settings).await?;
    // On standard output too, for programs that start it on port 0.
    say(&format!("clients {}", relay.client_address()))?;
    say(&format!("tunnels {}", relay.tunnel_address()))?;
    tracing::info!(clients = %relay.client_address(), tunnels = %relay.tunnel_address(), "serving");
    service_manager::ready();
    // The threads that serve turn: a relay that hangs is one to restart.
    let watchdog = tokio::spawn(service_manager::watchdog(|| true));
    loop {
        tokio::select! {
            _ = hangup.recv() => reload(&relay, load, log),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    watchdog.abort();
    tracing::info!("stopping");
    service_manager::stopping();
    if !relay.drain().await {
        tracing::warn!("stopped with calls under way");
    }
    Ok(ExitCode::SUCCESS)
}

/// Applies what may change while the relay runs: certificates, revocations, and what is logged.
fn reload(
    relay: &Relay,
    load: &impl Fn() -> Result<Settings, SettingsError>,
    log: &logging::Handle,
) {
    service_manager::reloading();
    match load() {
        Ok(settings) => log.set_filter(&settings.log_filter),
        Err(error) => tracing::error!(%error, "the settings were not read again: nothing changed"),
    }
    relay.reload();
    service_manager::ready();
}
