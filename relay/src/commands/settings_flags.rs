//! Flags of the settings.

use std::net::SocketAddr;

use clap::Args;
use serde_json::{Map, Value, json};

/// Settings that have a flag; all have a name in the file and the environment.
#[derive(Args)]
pub(crate) struct ServeFlags {
    /// Name of this relay among others [default: relay].
    #[arg(long)]
    relay_id: Option<String>,
    /// Where clients are served [default: 127.0.0.1:7442].
    #[arg(long)]
    client_listen: Option<SocketAddr>,
    /// Where daemons are served [default: 127.0.0.1:7443].
    #[arg(long)]
    tunnel_listen: Option<SocketAddr>,
    /// Where metrics are served, loopback only [default: nowhere].
    #[arg(long)]
    metrics_listen: Option<SocketAddr>,
    /// Serve clients without TLS, loopback only.
    #[arg(long)]
    client_plaintext: bool,
    /// Serve daemons without TLS and believe what they say, loopback only.
    #[arg(long)]
    tunnel_plaintext: bool,
    /// What is logged, as in RUST_LOG [default: info].
    #[arg(long)]
    log_filter: Option<String>,
    /// Log as JSON.
    #[arg(long)]
    log_json: bool,
}

impl ServeFlags {
    /// The settings that were given as flags.
    pub(super) fn settings(&self) -> Map<String, Value> {
        let mut flags = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            flags.extend(value.map(|value| (name.to_owned(), value)));
        };
        set("relay_id", self.relay_id.as_ref().map(|v| json!(v)));
        set("client_listen", self.client_listen.map(|v| json!(v)));
        set("tunnel_listen", self.tunnel_listen.map(|v| json!(v)));
        set("metrics_listen", self.metrics_listen.map(|v| json!(v)));
        set("log_filter", self.log_filter.as_ref().map(|v| json!(v)));
        // A flag that is absent says nothing, so that the file may say it.
        for (name, given) in [
            ("client_plaintext", self.client_plaintext),
            ("tunnel_plaintext", self.tunnel_plaintext),
            ("log_json", self.log_json),
        ] {
            set(name, given.then_some(Value::Bool(true)));
        }
        flags
    }
}
