//! Names of the metadata that clients, relay and daemon exchange.

/// Machine that a call is for. Sent by clients.
pub const MACHINE_ID: &str = "x-machine-id";
/// `true` when a unary call may be kept by the relay until its daemon comes back. Sent by clients.
pub const MAY_WAIT: &str = "x-betcode-may-wait";
/// Names a request that may come more than once but must count once: 1 to 128 visible ASCII
/// characters, unique for the machine. Sent by clients, passed to the daemon.
pub const IDEMPOTENCY_KEY: &str = "x-betcode-idempotency-key";
/// 0 (first) to 9 (last) among the requests that wait; 5 when absent. Sent by clients.
pub const PRIORITY: &str = "x-betcode-priority";

/// User of the token that a call came with. Set by the relay, never taken from a client.
pub const USER: &str = "x-betcode-user";
/// Connection on which a call came to the relay, in letters and digits that mean nothing: calls with the same value come
/// from one device. Set by the relay; absent where one connection may have calls of several, as a load balancer's has.
pub const CONNECTION: &str = "x-betcode-connection";
/// Relay through which a call came. Set by the relay.
pub const RELAY: &str = "x-betcode-relay";
/// When a request that waited was buffered, Unix milliseconds. Set by the relay.
pub const BUFFERED_AT_MS: &str = "x-betcode-buffered-at-ms";

/// On an answer: the request is on the relay's disk and waits for its daemon. It is **not**
/// stored in the history.
pub const BUFFERED: &str = "x-betcode-buffered";
/// On an answer: a request of this key was delivered before; the value is the gRPC code that the
/// daemon answered it with.
pub const DELIVERED_CODE: &str = "x-betcode-delivered-code";

/// On a control call: why the daemon has to leave the tunnel, see [`GoAway`].
pub const GO_AWAY: &str = "x-betcode-go-away";

/// Names that only the relay sets; a client's own are removed.
pub const RELAY_ONLY: [&str; 4] = [USER, CONNECTION, RELAY, BUFFERED_AT_MS];

/// Why a daemon has to leave a tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoAway {
    /// The relay restarts: dial again at once, calls under way finish here.
    Drain,
    /// A newer tunnel for the same machine took over.
    Replaced,
    /// The machine's certificate is no longer accepted.
    Revoked,
}

impl GoAway {
    /// The reason as the metadata has it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Replaced => "replaced",
            Self::Revoked => "revoked",
        }
    }

    /// Reads a reason. One that is not known counts as [`GoAway::Drain`], which is always safe.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "replaced" => Self::Replaced,
            "revoked" => Self::Revoked,
            _ => Self::Drain,
        }
    }
}
