//! What relay, daemon and client agree on.
//!
//! A tunnel is one connection that the daemon dials. On it the daemon sends a [`Hello`], the relay
//! answers with a [`Welcome`], and from then on the connection is plain HTTP/2 with the roles
//! reversed: the relay is the client and the daemon serves. Calls therefore cross the tunnel as
//! they are, and flow control, cancellation and trailers are HTTP/2's own.
//!
//! This crate holds names and shapes; what is done with them is the relay's and the daemon's.

mod greeting;
mod machine;
pub mod metadata;

pub use greeting::{
    EnrolmentAnswer, EnrolmentRequest, GREETING_BYTES_MAX, GreetingError, Hello, PROTOCOL, Refusal,
    RelayRouting, Welcome, read_greeting, write_greeting,
};
pub use machine::{InvalidMachineId, MACHINE_ID_BYTES_MAX, MachineId};

/// Protocol of the tunnel as TLS negotiates it, so that a tunnel never reaches a port that
/// expects something else.
pub const TUNNEL_ALPN: &[u8] = b"betcode-tunnel/1";

/// Protocol of the enrolment at the same door: one [`EnrolmentRequest`], one [`EnrolmentAnswer`].
pub const ENROLMENT_ALPN: &[u8] = b"betcode-enrolment/1";

/// Call by which the relay tells a daemon to leave this tunnel; its reason stands in
/// [`metadata::GO_AWAY`]. It never comes from a client: the relay refuses its path.
pub const GO_AWAY_PATH: &str = "/betcode.relay.v1.Tunnel/GoAway";

/// Paths that only the relay may call on a tunnel begin with this.
pub const CONTROL_PREFIX: &str = "/betcode.relay.v1.Tunnel/";

/// Bytes of one HTTP/2 frame on a tunnel: larger than what HTTP/2 begins with, because each frame
/// costs both ends a system call and a wake-up.
pub const FRAME_BYTES_MAX: u32 = 64 << 10;

/// Domain of the names by which certificates name machines: `<machine>.machine.betcode`.
pub const MACHINE_DOMAIN: &str = "machine.betcode";
