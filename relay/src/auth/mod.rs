//! Who may what: tokens of clients, certificates of machines, and how often.

mod authority;
mod ed25519;
mod enrolment;
mod live;
mod rate;
mod revoked;
mod token;

pub use authority::{MachineCertificate, StateError, StateFolder, read_machine_certificate};
pub use enrolment::Enrolments;
pub use live::ActiveTokens;
pub(crate) use live::TokenUse;
pub use rate::{Rate, RateLimiter};
pub use revoked::Revocations;
pub use token::{Claims, InvalidToken, TokenIssuer, TokenVerifier, is_token_id};

use betcode_schema_tunnel::MachineId;

/// A client whose token was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The user.
    pub user: String,
    /// Machines that the token names.
    pub machines: Vec<MachineId>,
    /// The token; `None` where callers need none.
    pub token: Option<Token>,
}

/// What of a token decides how long its calls may go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: String,
    /// When it was issued, Unix seconds.
    pub issued_s: u64,
    /// When it ends, Unix seconds.
    pub end_s: u64,
}

impl Caller {
    /// Whether this caller may call that machine.
    #[must_use]
    pub fn may_call(&self, machine: &MachineId) -> bool {
        self.machines.contains(machine)
    }
}
