//! Tokens with calls under way, so that a call ends when its token is revoked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use betcode_service::sync::lock;
use tokio_util::sync::CancellationToken;

use super::{Revocations, Token};

/// Tokens with calls under way, by id.
#[derive(Default)]
pub struct ActiveTokens(Mutex<HashMap<String, Arc<ActiveToken>>>);

struct ActiveToken {
    user: String,
    token: Token,
    revoked: CancellationToken,
}

/// The use of a token by one call.
pub(crate) struct TokenUse {
    tokens: Arc<ActiveTokens>,
    live: Arc<ActiveToken>,
}

impl ActiveTokens {
    /// Counts a call of this token until the result is dropped.
    pub(crate) fn begin_use(self: &Arc<Self>, user: &str, token: &Token) -> TokenUse {
        let mut tokens = self.lock();
        let live = tokens.entry(token.id.clone()).or_insert_with(|| {
            Arc::new(ActiveToken {
                user: user.to_owned(),
                token: token.clone(),
                revoked: CancellationToken::new(),
            })
        });
        TokenUse {
            tokens: self.clone(),
            live: live.clone(),
        }
    }

    /// Ends the calls of tokens that were revoked.
    pub(crate) fn end_revoked(&self, revoked: &Revocations) {
        self.lock().retain(|id, live| {
            let ends = revoked.covers_token(&live.user, id, live.token.issued_s);
            if ends {
                live.revoked.cancel();
            }
            !ends
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<ActiveToken>>> {
        lock(&self.0)
    }
}

impl TokenUse {
    /// When the token ends, Unix seconds.
    pub(crate) fn end_s(&self) -> u64 {
        self.live.token.end_s
    }

    /// Returns when the token is revoked.
    pub(crate) async fn revoked(&self) {
        self.live.revoked.cancelled().await;
    }
}

impl Drop for TokenUse {
    fn drop(&mut self) {
        let mut tokens = self.tokens.lock();
        let id = &self.live.token.id;
        let there = tokens.get(id);
        // Nobody begins another use under the lock. The two references are this use's and the table's.
        if there.is_some_and(|there| Arc::ptr_eq(there, &self.live))
            && Arc::strong_count(&self.live) == 2
        {
            tokens.remove(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(id: &str) -> Token {
        Token {
            id: id.into(),
            issued_s: 100,
            end_s: 200,
        }
    }

    #[test]
    fn a_token_is_known_while_it_has_calls_and_ended_with_all_of_them() {
        let tokens = Arc::new(ActiveTokens::default());
        let first = tokens.begin_use("ann", &token("a"));
        let second = tokens.begin_use("ann", &token("a"));
        let other = tokens.begin_use("ann", &token("b"));
        drop(first);
        assert_eq!(tokens.lock().len(), 2);
        let mut revoked = Revocations::default();
        revoked.tokens.insert("a".into(), 200);
        tokens.end_revoked(&revoked);
        assert!(second.live.revoked.is_cancelled());
        assert!(!other.live.revoked.is_cancelled());
        drop((second, other));
        assert!(tokens.lock().is_empty());
    }

    #[test]
    fn a_revoked_user_ends_by_the_tokens_issued_until_then() {
        let tokens = Arc::new(ActiveTokens::default());
        let old = tokens.begin_use("ann", &token("old"));
        let new = tokens.begin_use(
            "ann",
            &Token {
                issued_s: 151,
                ..token("new")
            },
        );
        let mut revoked = Revocations::default();
        revoked.users.insert("ann".into(), 150);
        tokens.end_revoked(&revoked);
        assert!(old.live.revoked.is_cancelled() && !new.live.revoked.is_cancelled());
    }
}
