//! How a tunnel is held.

use std::time::Duration;

use betcode_schema_tunnel::MachineId;

use super::{Backoff, TunnelTls};

/// Settings of a tunnel. Start from [`TunnelOptions::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct TunnelOptions {
    /// Host and port of the relay's door for daemons.
    pub relay_address: String,
    /// Machine that this daemon serves.
    pub machine: MachineId,
    /// TLS; `None` only for a relay on this machine's loopback that allows it.
    pub tls: Option<TunnelTls>,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Pause after a newer tunnel of this machine took over: two daemons of one machine must not
    /// take it from each other all the time.
    pub replaced_pause: Duration,
    /// How often the daemon asks, by a short connection of its own, which relay it reaches now.
    /// Behind a load balancer that may become another one, and the tunnel then moves there before
    /// it leaves the old one.
    pub place_check: Duration,
    /// How often the relay is asked whether it lives.
    pub keepalive_interval: Duration,
    /// Without an answer for so long, the connection counts as dead.
    pub keepalive_timeout: Duration,
    /// How long dialling, TLS and greeting may take.
    pub dial_timeout: Duration,
    /// Calls at once. The relay allows fewer, so that it refuses, not the connection.
    pub calls_max: u32,
    /// Bytes of one call and direction that are taken in before the service takes them out.
    pub stream_window_bytes: u32,
}

impl TunnelOptions {
    /// Defaults for a machine and its relay, without TLS.
    #[must_use]
    pub fn new(relay_address: impl Into<String>, machine: MachineId) -> Self {
        Self {
            relay_address: relay_address.into(),
            machine,
            tls: None,
            backoff: Backoff {
                first: Duration::from_millis(200),
                last: Duration::from_secs(30),
            },
            replaced_pause: Duration::from_secs(60),
            place_check: Duration::from_secs(60),
            keepalive_interval: Duration::from_secs(20),
            keepalive_timeout: Duration::from_secs(10),
            dial_timeout: Duration::from_secs(10),
            calls_max: 512,
            stream_window_bytes: 128 << 10,
        }
    }
}
