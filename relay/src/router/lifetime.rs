//! When a call ends, whatever its two sides do: at its deadline, and with its token.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use betcode_service::grpc_timeout;
use http::HeaderMap;
use tokio::time::Instant;
use tonic::Status;

use super::status;
use crate::auth::{InvalidToken, TokenUse};
use crate::limits;

/// How long one call may last.
pub(super) struct CallLifetime {
    deadline: Option<Instant>,
    /// The token, and when it expires.
    token: Option<(TokenUse, Option<Instant>)>,
}

impl CallLifetime {
    /// The lifetime of a call with these headers, made with this token.
    pub(super) fn of(headers: &HeaderMap, token: Option<TokenUse>) -> Self {
        let now = Instant::now();
        let grace = Duration::from_millis(limits::DEADLINE_GRACE_MS);
        let deadline = grpc_timeout::deadline(headers).and_then(|at| at.checked_add(grace));
        let token = token.map(|token| {
            let end_s = token.end_s().saturating_add(limits::TOKEN_LEEWAY_S);
            let today = SystemTime::now().duration_since(UNIX_EPOCH);
            let left = Duration::from_secs(end_s).saturating_sub(today.unwrap_or_default());
            let ends = now.checked_add(left);
            (token, ends)
        });
        Self {
            deadline: deadline.map(Instant::from_std),
            token,
        }
    }

    /// Returns when the call has to end, with the status that its caller gets.
    pub(super) async fn ended(&self) -> Status {
        let revoked = async {
            match &self.token {
                Some((token, _)) => token.revoked().await,
                None => std::future::pending().await,
            }
        };
        let token_ends = self.token.as_ref().and_then(|(_, ends)| *ends);
        tokio::select! {
            () = at(self.deadline) => status::deadline(),
            () = at(token_ends) => status::unauthenticated(InvalidToken::Expired),
            () = revoked => status::unauthenticated(InvalidToken::Revoked),
        }
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
