//! Log lines on standard error: what happened, where, in which trace; never what is recorded.

use betcode_daemon::settings::Settings;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Changes what is logged while the daemon runs.
pub(crate) struct Handle(reload::Handle<EnvFilter, Registry>);

impl Handle {
    /// Logs by another filter from now on; a wrong one is told and not taken.
    pub(crate) fn set_filter(&self, filter: &str) {
        let taken = EnvFilter::try_new(filter)
            .map_err(|error| error.to_string())
            .and_then(|filter| self.0.reload(filter).map_err(|error| error.to_string()));
        if let Err(error) = taken {
            tracing::error!(error, "log_filter was not taken");
        }
    }
}

/// Starts logging.
///
/// # Errors
/// A filter that cannot be read.
pub(crate) fn start(settings: &Settings) -> Result<Handle, String> {
    let filter = EnvFilter::try_new(&settings.log_filter)
        .map_err(|error| format!("log_filter {:?}: {error}", settings.log_filter))?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if settings.log_json {
        registry
            .with(fmt::layer().json().with_writer(std::io::stderr))
            .try_init()
    } else {
        registry
            .with(fmt::layer().with_writer(std::io::stderr).with_ansi(false))
            .try_init()
    };
    started.map_err(|error| error.to_string())?;
    Ok(Handle(handle))
}
