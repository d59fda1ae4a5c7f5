//! `betcode-daemon`: serves a history store.

mod budget;
mod cli;
mod enrol;

use std::process::ExitCode;

use betcode_daemon::limits::BLOCKING_THREADS_MAX;
use betcode_daemon::lock::LockError;
use betcode_daemon::server::{Daemon, ServeError};
use betcode_daemon::settings::{self, Loaded};
use betcode_service::{logging, process, service_manager};
use tokio::signal::unix::{SignalKind, signal};

use cli::Command;

fn main() -> ExitCode {
    let (command, sources) = cli::parse();
    let loaded = match settings::load(&sources) {
        Ok(loaded) => loaded,
        Err(error) => return fail(&error.to_string(), 2),
    };
    match command {
        Command::Config { json } => match cli::show(&loaded, json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(&why, 1),
        },
        Command::Budget { json } => match budget::show(&loaded.settings.db, json) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(&why, 1),
        },
        Command::Serve => serve(loaded, sources),
        Command::Enrol(asked) => match enrol::enrol(&loaded.settings, asked) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(&why, 1),
        },
    }
}

fn fail(why: &str, code: u8) -> ExitCode {
    print(why);
    ExitCode::from(code)
}

#[expect(
    clippy::print_stderr,
    reason = "the reason why a program ends is for who started it"
)]
fn print(text: &str) {
    eprintln!("betcode-daemon: {text}");
}

fn serve(loaded: Loaded, sources: settings::Sources) -> ExitCode {
    let log = match logging::start(&loaded.settings.log_filter, loaded.settings.log_json) {
        Ok(log) => log,
        Err(why) => return fail(&why, 2),
    };
    process::raise_open_files();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("betcode-daemon")
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("start threads: {error}"), 1),
    };
    let served = runtime.block_on(run(loaded, &sources, &log));
    // What still runs has had its time.
    runtime.shutdown_background();
    match served {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            print("some clients were cut off at the deadline");
            ExitCode::SUCCESS
        }
        Err(error @ ServeError::Lock(LockError::Held { .. })) => fail(&error.to_string(), 3),
        Err(error) => fail(&error.to_string(), 1),
    }
}

async fn run(
    loaded: Loaded,
    sources: &settings::Sources,
    log: &logging::Handle,
) -> Result<bool, ServeError> {
    let listen = |source| ServeError::Listen {
        at: "signals".to_owned(),
        source,
    };
    // Before the store is opened: a signal that comes meanwhile is not lost.
    let mut terminate = signal(SignalKind::terminate()).map_err(listen)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(listen)?;
    let mut hang_up = signal(SignalKind::hangup()).map_err(listen)?;
    process::fail_writes_beyond_size_limit().map_err(listen)?;
    let daemon = tokio::select! {
        started = Daemon::start(loaded.settings.clone()) => started?,
        _ = terminate.recv() => return Ok(true),
        _ = interrupt.recv() => return Ok(true),
    };
    tracing::info!(
        db = %loaded.settings.db.display(),
        socket = %loaded.settings.socket.display(),
        tcp = ?daemon.tcp_address(),
        tls = ?daemon.tls_address(),
        prometheus = ?daemon.prometheus_address(),
        "serving"
    );
    service_manager::ready();
    // For as long as probes of the store end in time: a daemon that hangs in its store should be restarted.
    // No restart mends a full disk or damage, which a probe finds in time; it would only end the agents,
    // with what they printed and could not be recorded yet.
    let health = daemon.core().health.clone();
    let watchdog = tokio::spawn(service_manager::watchdog(move || health.borrow().in_time));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hang_up.recv() => reload(&daemon, &loaded, sources, log),
        }
    }
    watchdog.abort();
    tracing::info!("stopping");
    service_manager::stopping();
    let in_time = daemon.stop().await;
    tracing::info!(in_time, "stopped");
    Ok(in_time)
}

/// Reads the settings again and applies what may change while running.
fn reload(daemon: &Daemon, before: &Loaded, sources: &settings::Sources, log: &logging::Handle) {
    service_manager::reloading();
    match settings::load(sources) {
        Err(error) => tracing::error!(%error, "the settings were not read again: nothing changed"),
        Ok(now) => {
            for ((parameter, old, _), (_, new, _)) in before.values.iter().zip(&now.values) {
                if old != new && !parameter.reloads {
                    tracing::warn!(name = parameter.name, "changes at the next start");
                }
            }
            log.set_filter(&now.settings.log_filter);
            match daemon.reload(&now.settings) {
                Ok(()) => tracing::info!("settings read again"),
                Err(error) => tracing::error!(%error, "some settings were not taken"),
            }
        }
    }
    service_manager::ready();
}
