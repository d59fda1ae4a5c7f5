//! Who comes in: the caller behind a call's credentials, and how often.

use std::net::IpAddr;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use betcode_schema_tunnel::MachineId;
use http::HeaderMap;
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::auth::{Caller, RateLimiter, Revocations, TokenVerifier};

/// How clients prove who they are.
pub enum Access {
    /// By a token.
    Tokens(Box<TokenVerifier>),
    /// Not at all: every caller may call every machine. Only for plain loopback, on request.
    Open,
}

/// Checks credentials and rates.
pub struct Gate {
    /// How clients prove who they are.
    pub access: Access,
    /// What was revoked; replaced when the file changes.
    pub revoked: Arc<RwLock<Revocations>>,
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
        let taken = self.addresses.take(&address, now);
        taken.map_err(|wait| too_fast("this address", wait))
    }

    /// The caller behind a call.
    ///
    /// # Errors
    /// UNAUTHENTICATED without a valid token, RESOURCE_EXHAUSTED over the user's rate.
    pub(crate) fn caller(&self, headers: &HeaderMap, now: Instant) -> Result<Caller, Status> {
        let caller = match &self.access {
            Access::Open => Caller {
                user: String::new(),
                machines: machine_asked_for(headers),
            },
            Access::Tokens(verifier) => {
                let authorization = headers.get(http::header::AUTHORIZATION);
                // No code panics while it holds the lock, so a poisoned one is still whole.
                let revoked = self.revoked.read().unwrap_or_else(|e| e.into_inner());
                verifier
                    .verify(authorization.map(|value| value.as_bytes()), |claims| {
                        revoked.covers(claims)
                    })
                    .map_err(|error| Status::unauthenticated(error.to_string()))?
            }
        };
        let taken = self.users.take(&caller.user, now);
        taken.map_err(|wait| too_fast("this user", wait))?;
        Ok(caller)
    }
}

fn machine_asked_for(headers: &HeaderMap) -> Vec<MachineId> {
    headers
        .get(betcode_schema_tunnel::metadata::MACHINE_ID)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .into_iter()
        .collect()
}

fn too_fast(who: &str, wait: Duration) -> Status {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    let mut status =
        Status::resource_exhausted(format!("{who} calls too often; try again in {wait_ms} ms"));
    // What gRPC clients that retry by themselves wait for.
    let pushback = MetadataValue::from(wait_ms);
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", pushback);
    status
}
