//! The parameters: names, meaning, defaults, bounds. Limits are named `max_…`, as the capacity plan
//! names them; the plan's own have its defaults and bounds.

use betcode_storage::capacity::limits_policy::{
    CLIENTS_MAX_CEILING, DB_BYTES_MAX_CEILING, MEMORY_BYTES_MAX_CEILING, MEMORY_BYTES_MAX_FLOOR,
    SESSION_BYTES_MAX_CEILING, SESSION_BYTES_MAX_FLOOR, SESSIONS_MAX_CEILING,
};
use betcode_storage::limits::DB_BYTES_MAX_FLOOR;

use crate::limits::READS_MAX_CEILING;

/// What values a parameter takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number.
    Number {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// `true` or `false`.
    Flag,
    /// A path; `~` is not expanded.
    Path,
    /// An address and port; empty for none.
    Address,
    /// One of these.
    Choice(&'static [&'static str]),
    /// Any text.
    Text,
}

/// A parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// Its name in the settings file.
    pub name: &'static str,
    /// What it is, with its unit.
    pub what: &'static str,
    /// Values that it takes.
    pub kind: Kind,
    /// The value when nobody says one; empty where it follows from others.
    pub default: &'static str,
    /// Whether SIGHUP applies a change; otherwise a restart does.
    pub reloads: bool,
}

const fn number(
    name: &'static str,
    default: &'static str,
    (min, max): (u64, u64),
    what: &'static str,
) -> Parameter {
    Parameter {
        name,
        what,
        kind: Kind::Number { min, max },
        default,
        reloads: false,
    }
}

const fn limit(
    name: &'static str,
    default: &'static str,
    bounds: (u64, u64),
    what: &'static str,
) -> Parameter {
    again(number(name, default, bounds, what))
}

/// One that SIGHUP applies.
const fn again(parameter: Parameter) -> Parameter {
    Parameter {
        reloads: true,
        ..parameter
    }
}

const fn other(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    what: &'static str,
) -> Parameter {
    Parameter {
        name,
        what,
        kind,
        default,
        reloads: false,
    }
}

const MIB: u64 = 1 << 20;
const HOUR_MS: u64 = 3_600_000;

/// All parameters.
pub const PARAMETERS: &[Parameter] = &[
    other(
        "db",
        Kind::Path,
        "",
        "The store; default: history.db in the user's data directory",
    ),
    other(
        "socket",
        Kind::Path,
        "",
        "The Unix socket, in a directory of its own; default: beside the store",
    ),
    other(
        "tcp_listen",
        Kind::Address,
        "",
        "Loopback address for plain gRPC; empty for none",
    ),
    other(
        "tls_listen",
        Kind::Address,
        "",
        "Address for gRPC with mutual TLS; empty for none",
    ),
    again(other(
        "tls_cert",
        Kind::Path,
        "",
        "Certificate chain of the daemon (PEM)",
    )),
    again(other(
        "tls_key",
        Kind::Path,
        "",
        "Private key of the daemon (PEM)",
    )),
    again(other(
        "tls_client_ca",
        Kind::Path,
        "",
        "Authorities whose clients are let in (PEM)",
    )),
    number(
        "max_connection_age_ms",
        "3600000",
        (0, 1000 * HOUR_MS),
        "Milliseconds after which a TCP or TLS connection is asked to begin anew; 0 for never",
    ),
    other(
        "prometheus_listen",
        Kind::Address,
        "",
        "Loopback address for metrics; empty for none",
    ),
    other(
        "relay",
        Kind::Flag,
        "true",
        "Hold a tunnel to the relay at which this machine is enrolled",
    ),
    other(
        "relay_address",
        Kind::Text,
        "",
        "Host and port of the relay's tunnel listener; default: as enrolled",
    ),
    other(
        "relay_folder",
        Kind::Path,
        "",
        "What `enrol` wrote: key and certificates; default: relay, in a directory beside the store",
    ),
    other(
        "durability",
        Kind::Choice(&["full", "normal"]),
        "full",
        "full: answered messages survive power loss; normal: they survive a crash of the daemon only",
    ),
    number(
        "max_payload_bytes",
        "10485760",
        (1, 100 * MIB),
        "Bytes of one message",
    ),
    limit(
        "max_db_bytes",
        "1000000000",
        (DB_BYTES_MAX_FLOOR, DB_BYTES_MAX_CEILING),
        "Bytes that the database may reach",
    ),
    limit(
        "max_session_bytes",
        "50000000",
        (SESSION_BYTES_MAX_FLOOR, SESSION_BYTES_MAX_CEILING),
        "Bytes that one session may take in the database",
    ),
    number(
        "max_readers",
        "8",
        (1, READS_MAX_CEILING as u64),
        "Reads from the store at once",
    ),
    number(
        "max_queue_requests",
        "4096",
        (1, 1 << 20),
        "Batches waiting for the writer",
    ),
    number(
        "max_queue_bytes",
        "67108864",
        (MIB, 1 << 32),
        "Bytes waiting for the writer; each message counts 512 besides its payload",
    ),
    number(
        "max_append_wait_ms",
        "10000",
        (1, HOUR_MS),
        "Milliseconds that a batch may wait for its turn",
    ),
    number(
        "max_connections",
        "16384",
        (1, 65_536),
        "Connections, idle ones included; at most what the system's limit of open files leaves",
    ),
    limit(
        "max_clients",
        "50",
        (1, CLIENTS_MAX_CEILING),
        "Clients served at once: connections that made a request, and users behind the relay",
    ),
    limit(
        "max_sessions",
        "20",
        (1, SESSIONS_MAX_CEILING),
        "Sessions that are appended to within a minute",
    ),
    limit(
        "max_followers",
        "512",
        (1, 65_536),
        "Follow and Converse streams open at once",
    ),
    limit(
        "max_in_flight_bytes",
        "67108864",
        (MIB, 1 << 32),
        "Bytes of batches not answered yet, of all clients; each message counts 512 besides its payload",
    ),
    number(
        "max_client_in_flight_bytes",
        "8388608",
        (1 << 16, 1 << 30),
        "Unanswered bytes of one append stream; beyond it the stream is not read until answers were sent",
    ),
    limit(
        "max_follower_buffer_bytes",
        "262144",
        (1 << 12, 1 << 26),
        "Bytes buffered for a follower, each message 64 besides its payload; beyond it, it is served from the store",
    ),
    limit(
        "max_memory_bytes",
        "512000000",
        (MEMORY_BYTES_MAX_FLOOR, MEMORY_BYTES_MAX_CEILING),
        "Memory beyond which no new session, reader or follower is taken; the plan's formula for max_clients, max_sessions and max_subprocesses must fit",
    ),
    limit(
        "max_subprocesses",
        "5",
        (0, 1000),
        "Agents that run at once; 0 to run none",
    ),
    other(
        "agent_command",
        Kind::Text,
        "claude",
        "The agent: a whole path, or a name to be found on the daemon's PATH",
    ),
    other(
        "agent_arguments",
        Kind::Text,
        "[]",
        "Arguments of the agent, before the daemon's own: a JSON list of texts",
    ),
    number(
        "agent_idle_ms",
        "300000",
        (0, 1000 * HOUR_MS),
        "Milliseconds that an agent is kept between two turns",
    ),
    number(
        "agent_request_wait_ms",
        "3600000",
        (1, 1000 * HOUR_MS),
        "Milliseconds that what an agent asks waits while nobody is there; then it is denied",
    ),
    number(
        "max_drain_ms",
        "10000",
        (0, HOUR_MS),
        "Milliseconds to finish after SIGTERM",
    ),
    number(
        "health_interval_ms",
        "5000",
        (100, HOUR_MS),
        "Milliseconds between two probes",
    ),
    other(
        "compaction",
        Kind::Flag,
        "true",
        "Compact in the background",
    ),
    number(
        "compaction_interval_ms",
        "15000",
        (10, HOUR_MS),
        "Milliseconds between two checks for what is due",
    ),
    number(
        "compaction_cpu_percent",
        "50",
        (1, 100),
        "Share of one core that background compaction may take",
    ),
    number(
        "quick_idle_ms",
        "60000",
        (0, 1000 * HOUR_MS),
        "Idle time after which a session gets the fast compaction tier",
    ),
    number(
        "deep_idle_ms",
        "600000",
        (0, 1000 * HOUR_MS),
        "Idle time after which a session gets the deep compaction tier",
    ),
    again(other(
        "log_filter",
        Kind::Text,
        "info",
        "What is logged, as in RUST_LOG",
    )),
    other("log_json", Kind::Flag, "false", "Log lines as JSON objects"),
];
