//! The parameters: names, meaning, defaults, bounds.

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
    Parameter {
        reloads: true,
        ..number(name, default, bounds, what)
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
    other(
        "tls_cert",
        Kind::Path,
        "",
        "Certificate chain of the daemon (PEM)",
    ),
    other("tls_key", Kind::Path, "", "Its private key (PEM)"),
    other(
        "tls_client_ca",
        Kind::Path,
        "",
        "Authorities whose clients are let in (PEM)",
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
        "Host and port of the relay's door for daemons; default: as enrolled",
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
        "full: answered messages survive power loss; normal: a crash of the process",
    ),
    number(
        "max_payload_bytes",
        "10485760",
        (1, 100 * MIB),
        "Bytes of one message",
    ),
    limit(
        "db_bytes_max",
        "1000000000",
        (1_000_000, u64::MAX >> 1),
        "Bytes that the database may reach",
    ),
    limit(
        "session_bytes_max",
        "",
        (1_000_000, u64::MAX >> 1),
        "Bytes that one session may take; default: the store's",
    ),
    number("readers_max", "8", (1, 64), "Reads from the store at once"),
    number(
        "queue_requests_max",
        "4096",
        (1, 1 << 20),
        "Batches waiting for the writer",
    ),
    number(
        "queue_bytes_max",
        "67108864",
        (MIB, 1 << 32),
        "Payload bytes waiting for the writer",
    ),
    number(
        "append_wait_ms_max",
        "10000",
        (1, HOUR_MS),
        "Milliseconds that a batch may wait for its turn",
    ),
    number(
        "connections_max",
        "1024",
        (1, 65_536),
        "Connections, those that are refused included",
    ),
    limit(
        "clients_max",
        "128",
        (1, 65_536),
        "Connections that are served",
    ),
    limit(
        "sessions_max",
        "64",
        (1, 65_536),
        "Sessions that are appended to within a minute",
    ),
    limit("followers_max", "512", (1, 65_536), "Followers"),
    limit(
        "in_flight_bytes_max",
        "67108864",
        (MIB, 1 << 32),
        "Payload bytes of batches not answered yet, of all clients",
    ),
    number(
        "client_in_flight_bytes_max",
        "8388608",
        (1 << 16, 1 << 30),
        "The same for one stream; beyond it, it is read no further",
    ),
    limit(
        "follower_buffer_bytes_max",
        "262144",
        (1 << 12, 1 << 26),
        "Payload bytes buffered for a follower; beyond it, it is served from the store",
    ),
    number(
        "memory_bytes_max",
        "536870912",
        (64 * MIB, 1 << 40),
        "Memory by which levels are told; the plan's formula for clients_max and sessions_max must fit",
    ),
    number(
        "drain_ms_max",
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
        "Milliseconds between two looks at what is due",
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
        "A session that has paused so long is compacted quickly",
    ),
    number(
        "deep_idle_ms",
        "600000",
        (0, 1000 * HOUR_MS),
        "A session idle so long is compacted deeply",
    ),
    Parameter {
        reloads: true,
        ..other(
            "log_filter",
            Kind::Text,
            "info",
            "What is logged, as in RUST_LOG",
        )
    },
    other("log_json", Kind::Flag, "false", "Log lines as JSON objects"),
];
