//! Who is let in: the caller that a call's credentials name, and how often it may call.

use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use betcode_schema_tunnel::MachineId;
use betcode_service::sync;
use http::HeaderMap;
use tonic::metadata::MetadataValue;
use tonic::{Code, Status};

use super::status;
use crate::auth::{ActiveTokens, Caller, RateLimiter, Revocations, TokenUse, TokenVerifier};

/// How clients prove who they are.
pub enum Access {
    /// By a token.
    Tokens(Box<TokenVerifier>),
    /// Not at all: every caller may call every machine. The program never uses this; tests do.
    Open,
}

/// Checks credentials and rates.
pub struct Gate {
    /// How clients prove who they are.
    pub access: Access,
    /// What was revoked; replaced when the file changes.
    pub revoked: Arc<RwLock<Revocations>>,
    /// Tokens with calls under way.
    pub live: Arc<ActiveTokens>,
    /// Calls by user.
    pub users: RateLimiter<String>,
    /// Calls by address.
    pub addresses: RateLimiter<IpAddr>,
}

impl Gate {
    /// Counts a call of an address before anything else is done for it.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED over the rate.
    pub(crate) fn admit_address(&self, address: IpAddr, now: Instant) -> Result<(), Status> {
        let taken = self.addresses.take(&rate_limit_key(address), now);
        taken.map_err(|wait| too_fast("address_calls_per_s", "this address", wait))
    }

    /// The caller of a call, and the use of its token, which ends with the call.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a valid token, RESOURCE_EXHAUSTED over the user's rate.
    pub(crate) fn caller(
        &self,
        headers: &HeaderMap,
        now: Instant,
    ) -> Result<(Caller, Option<TokenUse>), Status> {
        let (caller, token) = match &self.access {
            Access::Open => {
                let caller = Caller {
                    user: String::new(),
                    machines: machine_asked_for(headers),
                    token: None,
                };
                (caller, None)
            }
            Access::Tokens(verifier) => {
                let authorization = headers.get(http::header::AUTHORIZATION);
                let revoked = sync::read(&self.revoked);
                let caller = verifier
                    .verify(authorization.map(|value| value.as_bytes()), |claims| {
                        revoked.covers(claims)
                    })
                    .map_err(status::unauthenticated)?;
                // Under the lock of the check, so that a later revocation finds the call.
                let token = caller.token.as_ref();
                let token = token.map(|token| self.live.begin_use(&caller.user, token));
                (caller, token)
            }
        };
        let taken = self.users.take(&caller.user, now);
        taken.map_err(|wait| too_fast("user_calls_per_s", "this user", wait))?;
        Ok((caller, token))
    }
}

/// What counts as one address: of an IPv6 address the first 64 bits, because whoever has one usually has that whole
/// network.
pub(crate) fn rate_limit_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) & !u128::from(u64::MAX);
            IpAddr::V6(network.into())
        }
        IpAddr::V4(address) => IpAddr::V4(address),
    }
}

fn machine_asked_for(headers: &HeaderMap) -> Vec<MachineId> {
    headers
        .get(betcode_schema_tunnel::metadata::MACHINE_ID)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .into_iter()
        .collect()
}

fn too_fast(limit: &str, who: &str, wait: Duration) -> Status {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    let what = format!("{who} calls too often");
    let mut status = status::error(Code::ResourceExhausted, "OVERLOADED", what)
        .limit(limit)
        .hint(format!("try again in {wait_ms} ms"))
        .retry_after(Duration::from_millis(wait_ms))
        .build();
    // What gRPC clients that retry by themselves wait for.
    let pushback = MetadataValue::from(wait_ms);
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", pushback);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::Rate;

    #[test]
    fn a_network_of_one_owner_is_one_address() {
        let rate = Rate {
            per_s: 1.0,
            burst: 1.0,
        };
        let gate = Gate {
            access: Access::Open,
            revoked: Arc::default(),
            live: Arc::default(),
            users: RateLimiter::new(rate),
            addresses: RateLimiter::new(rate),
        };
        let now = Instant::now();
        let admitted = |address: &str| gate.admit_address(address.parse().unwrap(), now).is_ok();
        assert!(admitted("2001:db8:1:1::1"));
        assert!(!admitted("2001:db8:1:1:ffff::2"), "the same network");
        assert!(admitted("2001:db8:1:2::1"), "another one");
        assert!(admitted("192.0.2.1"));
        assert!(!admitted("::ffff:192.0.2.1"), "the same as IPv6 has it");
        assert!(admitted("192.0.2.2"));
    }
}
