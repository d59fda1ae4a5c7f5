//! How a tunnel is held.

use std::sync::Arc;
use std::time::Duration;

use betcode_schema_tunnel::MachineId;

use super::{Backoff, TunnelFigures, TunnelTls};
use crate::limits::{
    TUNNEL_CALLS_MAX, TUNNEL_DIAL_MS_MAX, TUNNEL_KEEPALIVE_INTERVAL_MS,
    TUNNEL_KEEPALIVE_TIMEOUT_MS, TUNNEL_PAUSE_MS_MAX, TUNNEL_PAUSE_MS_MIN,
    TUNNEL_PROBE_INTERVAL_MS, TUNNEL_REPLACED_PAUSE_MS, TUNNEL_RESTART_MS_MAX,
    TUNNEL_RESTART_PAUSE_MS_MAX, TUNNEL_STREAM_WINDOW_BYTES,
};
use crate::observe::ms;

/// Settings of a tunnel. Start from [`TunnelOptions::new`] and change what differs.
#[derive(Clone, Debug)]
pub struct TunnelOptions {
    /// Host and port of the relay's tunnel listener.
    pub relay_address: String,
    /// Machine that this daemon serves.
    pub machine: MachineId,
    /// TLS; `None` only for a relay on this machine's loopback that allows it.
    pub tls: Option<TunnelTls>,
    /// Pauses between attempts.
    pub backoff: Backoff,
    /// Longest pause between attempts while the relay restarts, as it said when it sent the daemon away.
    pub restart_pause_max: Duration,
    /// How long after that the relay counts as restarting.
    pub restart_max: Duration,
    /// Pause after a newer tunnel of this machine took over: two daemons of one machine must not
    /// take it from each other all the time.
    pub replaced_pause: Duration,
    /// How often the daemon asks, by a short connection of its own, which relay it reaches now.
    /// Behind a load balancer that may become another one, and the tunnel then moves there before
    /// it leaves the old one.
    pub probe_interval: Duration,
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
    /// Where what the tunnel measures is kept.
    pub figures: Arc<TunnelFigures>,
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
                first: ms(TUNNEL_PAUSE_MS_MIN),
                last: ms(TUNNEL_PAUSE_MS_MAX),
            },
            restart_pause_max: ms(TUNNEL_RESTART_PAUSE_MS_MAX),
            restart_max: ms(TUNNEL_RESTART_MS_MAX),
            replaced_pause: ms(TUNNEL_REPLACED_PAUSE_MS),
            probe_interval: ms(TUNNEL_PROBE_INTERVAL_MS),
            keepalive_interval: ms(TUNNEL_KEEPALIVE_INTERVAL_MS),
            keepalive_timeout: ms(TUNNEL_KEEPALIVE_TIMEOUT_MS),
            dial_timeout: ms(TUNNEL_DIAL_MS_MAX),
            calls_max: TUNNEL_CALLS_MAX,
            stream_window_bytes: TUNNEL_STREAM_WINDOW_BYTES,
            figures: Arc::default(),
        }
    }
}
