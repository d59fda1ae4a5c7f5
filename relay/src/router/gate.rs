//! Who comes in: the caller behind a call's credentials, and how often.

use std::net::IpAddr;
use std::pin::Pin;
use std::time::{Duration, Instant};

use betcode_schema_tunnel::MachineId;
use http::HeaderMap;
use tokio::sync::watch;
use tonic::Status;
use tonic::metadata::MetadataValue;

use crate::auth::{Caller, Claims, RateLimiter, Revocations, TokenVerifier, until_revoked};

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
    /// What was revoked; another when the file changes.
    pub revoked: watch::Receiver<Revocations>,
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
    pub(crate) fn caller(&self, headers: &HeaderMap, now: Instant) -> Result<Admitted, Status> {
        let (caller, claims) = match &self.access {
            Access::Open => {
                let machines = machine_asked_for(headers);
                let user = String::new();
                (Caller { user, machines }, None)
            }
            Access::Tokens(verifier) => {
                let authorization = headers.get(http::header::AUTHORIZATION);
                let authorization = authorization.map(|value| value.as_bytes());
                let revoked = |claims: &Claims| self.revoked.borrow().covers(claims);
                let claims = verifier.verify(authorization, revoked);
                let claims = claims.map_err(|error| Status::unauthenticated(error.to_string()))?;
                let (user, machines) = (claims.sub.clone(), claims.machines.clone());
                (Caller { user, machines }, Some(claims))
            }
        };
        let taken = self.users.take(&caller.user, now);
        taken.map_err(|wait| too_fast("this user", wait))?;
        let revoked = claims.map(|claims| -> UntilRevoked {
            Box::pin(until_revoked(self.revoked.clone(), claims))
        });
        Ok(Admitted { caller, revoked })
    }
}

/// Completes when the token of a call is revoked.
pub(crate) type UntilRevoked = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A caller who may come in.
pub(crate) struct Admitted {
    pub(crate) caller: Caller,
    /// Ends the call; `None` when there is no token.
    pub(crate) revoked: Option<UntilRevoked>,
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
