//! Settings: defaults, then a file of JSON, then the environment, then flags.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use betcode_service::logging;
use figment::Figment;
use figment::providers::{Env, Format, Json, Serialized};
use serde::{Deserialize, Serialize};

use crate::limits;

/// Prefix of environment variables that set something: `BETCODE_RELAY_TUNNELS_MAX=500`.
pub const ENVIRONMENT_PREFIX: &str = "BETCODE_RELAY_";

/// Names behind that prefix which are no settings of the relay: where its settings file is, and settings
/// of a daemon on the same machine (`BETCODE_RELAY_ADDRESS`).
const NAMES_OF_OTHERS: &[&str] = &["settings", "address", "folder"];

/// Everything that can be set. Names are the file's and, in capitals behind
/// [`ENVIRONMENT_PREFIX`], the environment's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Name of this relay among others.
    pub relay_id: String,
    /// Folder of keys, certificates, revocations and the buffer.
    pub state_folder: PathBuf,
    /// Where clients are served.
    pub client_listen: SocketAddr,
    /// Where daemons are served.
    pub tunnel_listen: SocketAddr,
    /// Where metrics are served, plain HTTP, loopback only; absent for nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// Serve clients without TLS, loopback only: for a load balancer on the same machine that
    /// speaks TLS itself. Tokens are asked for all the same.
    pub client_plaintext: bool,
    /// Serve daemons without TLS and believe what they say, loopback only: for trials.
    pub tunnel_plaintext: bool,
    /// Load balancers whose `x-forwarded-for` is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Tunnels at most.
    pub tunnels_max: usize,
    /// Client connections at most.
    pub clients_max: usize,
    /// Calls under way at most.
    pub calls_max: usize,
    /// Bytes of one message at most.
    pub message_bytes_max: u64,
    /// Requests that wait for one machine at most.
    pub buffer_requests_per_machine_max: usize,
    /// Requests that wait at most.
    pub buffer_requests_max: usize,
    /// Bytes of requests that wait at most.
    pub buffer_bytes_max: u64,
    /// How long a request waits at most, milliseconds.
    pub buffer_age_ms_max: i64,
    /// Calls a second of one user.
    pub user_calls_per_s: f64,
    /// Calls at once of one user.
    pub user_calls_burst: f64,
    /// Calls a second from one address.
    pub address_calls_per_s: f64,
    /// Calls at once from one address.
    pub address_calls_burst: f64,
    /// How often a connection is asked whether it lives, milliseconds.
    pub keepalive_interval_ms: u64,
    /// How long it may take to answer, milliseconds.
    pub keepalive_timeout_ms: u64,
    /// How long a tunnel that has to go may finish its calls, milliseconds.
    pub go_away_grace_ms: u64,
    /// How long the relay may take to stop, milliseconds.
    pub drain_ms_max: u64,
    /// Offer reflection of the relay's own services.
    pub reflection: bool,
    /// What is logged, as in RUST_LOG.
    pub log_filter: String,
    /// Log as JSON.
    pub log_json: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            relay_id: "relay".into(),
            state_folder: "/var/lib/betcode-relay".into(),
            client_listen: SocketAddr::from(([127, 0, 0, 1], 7442)),
            tunnel_listen: SocketAddr::from(([127, 0, 0, 1], 7443)),
            metrics_listen: None,
            client_plaintext: false,
            tunnel_plaintext: false,
            trusted_proxies: Vec::new(),
            tunnels_max: limits::TUNNELS_MAX_DEFAULT,
            clients_max: limits::CLIENTS_MAX_DEFAULT,
            calls_max: limits::CALLS_MAX_DEFAULT,
            message_bytes_max: limits::MESSAGE_BYTES_MAX_DEFAULT,
            buffer_requests_per_machine_max: limits::BUFFER_REQUESTS_PER_MACHINE_MAX_DEFAULT,
            buffer_requests_max: limits::BUFFER_REQUESTS_MAX_DEFAULT,
            buffer_bytes_max: limits::BUFFER_BYTES_MAX_DEFAULT,
            buffer_age_ms_max: limits::BUFFER_AGE_MS_MAX_DEFAULT,
            user_calls_per_s: limits::USER_CALLS_PER_S_DEFAULT,
            user_calls_burst: limits::USER_CALLS_BURST_DEFAULT,
            address_calls_per_s: limits::ADDRESS_CALLS_PER_S_DEFAULT,
            address_calls_burst: limits::ADDRESS_CALLS_BURST_DEFAULT,
            keepalive_interval_ms: limits::KEEPALIVE_INTERVAL_MS_DEFAULT,
            keepalive_timeout_ms: limits::KEEPALIVE_TIMEOUT_MS_DEFAULT,
            go_away_grace_ms: limits::GO_AWAY_GRACE_MS_DEFAULT,
            drain_ms_max: limits::DRAIN_MS_MAX_DEFAULT,
            reflection: true,
            log_filter: "info".into(),
            log_json: false,
        }
    }
}

/// Settings that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A source says something that is no setting, or of another type.
    #[error("settings: {0}")]
    Unreadable(#[source] Box<figment::Error>),
    /// A value outside its bounds.
    #[error("settings: {name}: {why}")]
    Invalid {
        /// The setting.
        name: &'static str,
        /// The value and the bound.
        why: String,
    },
}

impl Settings {
    /// Reads settings from a file (if any), the environment and `flags`, which win.
    ///
    /// # Errors
    /// [`SettingsError`], naming the setting and where it came from.
    pub fn load(
        file: Option<&Path>,
        flags: serde_json::Map<String, serde_json::Value>,
    ) -> Result<Self, SettingsError> {
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(file) = file {
            figment = figment.merge(Json::file_exact(file));
        }
        let settings: Self = figment
            .merge(Env::prefixed(ENVIRONMENT_PREFIX).ignore(NAMES_OF_OTHERS))
            .merge(Serialized::defaults(flags))
            .extract()
            .map_err(|error| SettingsError::Unreadable(Box::new(error)))?;
        settings.check()?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), SettingsError> {
        let refuse = |name, why: String| Err(SettingsError::Invalid { name, why });
        for (name, plain, address) in [
            (
                "client_plaintext",
                self.client_plaintext,
                self.client_listen,
            ),
            (
                "tunnel_plaintext",
                self.tunnel_plaintext,
                self.tunnel_listen,
            ),
        ] {
            if plain && !address.ip().is_loopback() {
                return refuse(
                    name,
                    format!("{address} is not loopback: TLS is needed there"),
                );
            }
        }
        if let Some(address) = self.metrics_listen
            && !address.ip().is_loopback()
        {
            return refuse("metrics_listen", format!("{address} is not loopback"));
        }
        let ceiling = limits::MESSAGE_BYTES_MAX_CEILING;
        if !(1..=ceiling).contains(&self.message_bytes_max) {
            let why = format!("{} is not between 1 and {ceiling}", self.message_bytes_max);
            return refuse("message_bytes_max", why);
        }
        let ceiling = limits::BUFFER_AGE_MS_MAX_CEILING;
        if !(1..=ceiling).contains(&self.buffer_age_ms_max) {
            let why = format!("{} is not between 1 and {ceiling}", self.buffer_age_ms_max);
            return refuse("buffer_age_ms_max", why);
        }
        for (name, value) in [
            ("tunnels_max", self.tunnels_max),
            ("clients_max", self.clients_max),
            ("calls_max", self.calls_max),
        ] {
            let ceiling = limits::SLOTS_MAX_CEILING;
            if !(1..=ceiling).contains(&value) {
                return refuse(name, format!("{value} is not between 1 and {ceiling}"));
            }
        }
        for (name, value) in [
            ("user_calls_per_s", self.user_calls_per_s),
            ("user_calls_burst", self.user_calls_burst),
            ("address_calls_per_s", self.address_calls_per_s),
            ("address_calls_burst", self.address_calls_burst),
        ] {
            if !value.is_finite() || value < 1.0 {
                return refuse(name, format!("{value} is below 1"));
            }
        }
        if self.keepalive_interval_ms == 0 || self.keepalive_timeout_ms == 0 {
            return refuse("keepalive_interval_ms", "0 would ask all the time".into());
        }
        if self.relay_id.is_empty() || !self.relay_id.bytes().all(|c| c.is_ascii_graphic()) {
            return refuse("relay_id", "use visible ASCII characters".into());
        }
        match logging::check(&self.log_filter) {
            Ok(()) => Ok(()),
            Err(why) => refuse("log_filter", why),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn flags(value: serde_json::Value) -> serde_json::Map<String, serde_json::Value> {
        value.as_object().cloned().unwrap_or_default()
    }

    #[test]
    fn flags_win_over_the_file_and_what_is_silent_keeps_its_default() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.json");
        std::fs::write(&file, r#"{"tunnels_max": 5, "relay_id": "file"}"#).unwrap();
        let read = Settings::load(Some(&file), flags(json!({"relay_id": "flag"}))).unwrap();
        assert_eq!((read.tunnels_max, read.relay_id.as_str()), (5, "flag"));
        assert_eq!(read.clients_max, limits::CLIENTS_MAX_DEFAULT);
    }

    #[test]
    fn what_cannot_work_is_refused_by_name() {
        for (bad, name) in [
            (json!({"tunnel_max": 5}), "tunnel_max"),
            (json!({"tunnels_max": 0}), "tunnels_max"),
            (json!({"tunnels_max": "many"}), "tunnels_max"),
            (
                json!({"client_plaintext": true, "client_listen": "0.0.0.0:1"}),
                "client_plaintext",
            ),
            (json!({"metrics_listen": "0.0.0.0:1"}), "metrics_listen"),
            (
                json!({"message_bytes_max": 1_000_000_000_u64}),
                "message_bytes_max",
            ),
            (json!({"user_calls_per_s": 0.0}), "user_calls_per_s"),
            (json!({"calls_max": 1_u64 << 61}), "calls_max"),
            (json!({"buffer_age_ms_max": -1}), "buffer_age_ms_max"),
            (json!({"buffer_age_ms_max": i64::MAX}), "buffer_age_ms_max"),
            (json!({"log_filter": "info,hyper=loud"}), "log_filter"),
        ] {
            let refused = Settings::load(None, flags(bad)).unwrap_err().to_string();
            assert!(refused.contains(name), "{refused}");
        }
    }
}
