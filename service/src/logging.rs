//! Log lines on standard error, with a filter that may change while the program runs.

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// Changes what is logged while the program runs.
pub struct Handle(reload::Handle<EnvFilter, Registry>);

impl Handle {
    /// Logs by another filter from now on. A filter that cannot be read is an error in the log, and the
    /// old one stays.
    pub fn set_filter(&self, filter: &str) {
        let set = parse(filter)
            .and_then(|filter| self.0.reload(filter).map_err(|error| error.to_string()));
        if let Err(error) = set {
            tracing::error!(error, "the log filter stays as it was");
        }
    }
}

/// Reads a filter, written as in RUST_LOG.
///
/// # Errors
/// Why it cannot be read.
pub fn check(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| format!("{filter:?}: {error}"))
}

/// Starts logging: as text, or as JSON for programs.
///
/// # Errors
/// A filter that cannot be read.
pub fn start(filter: &str, json: bool) -> Result<Handle, String> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_that_cannot_be_read_is_refused() {
        check("info,hyper=warn").unwrap();
        let why = check("info,hyper=loud").unwrap_err();
        assert!(why.contains("hyper=loud"), "{why}");
    }
}
