//! Tokens with calls under way, so that a call ends when its token is revoked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use betcode_service::sync::lock;
use tokio_util::sync::CancellationToken;

use super::{Revocations, Token};

/// Tokens with calls under way, by id.
#[derive(Default)]
pub struct LiveTokens(Mutex<HashMap<String, Arc<Live>>>);

struct Live {
    user: String,
    token: Token,
    revoked: CancellationToken,
}

/// A call's hold on the token that it was made with.
pub(crate) struct InUse {
    tokens: Arc<LiveTokens>,
    live: Arc<Live>,
}

impl LiveTokens {
    /// Counts a call of this token until the result is dropped.
    pub(crate) fn enter(self: &Arc<Self>, user: &str, token: &Token) -> InUse {
        let mut tokens = self.lock();
        let live = tokens.entry(token.id.clone()).or_insert_with(|| {
            Arc::new(Live {
                user: user.to_owned(),
                token: token.clone(),
                revoked: CancellationToken::new(),
            })
        });
        InUse {
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

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        lock(&self.0)
    }
}

impl InUse {
    /// When the token ends, Unix seconds.
    pub(crate) fn end_s(&self) -> u64 {
        self.live.token.end_s
    }

    /// Returns when the token is revoked.
    pub(crate) async fn revoked(&self) {
        self.live.revoked.cancelled().await;
    }
}

impl Drop for InUse {
    fn drop(&mut self) {
        let mut tokens = self.tokens.lock();
        let id = &self.live.token.id;
        let there = tokens.get(id);
        // Under the lock nobody takes another hold: two are this one and the table's own.
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
        let tokens = Arc::new(LiveTokens::default());
        let first = tokens.enter("ann", &token("a"));
        let second = tokens.enter("ann", &token("a"));
        let other = tokens.enter("ann", &token("b"));
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
        let tokens = Arc::new(LiveTokens::default());
        let old = tokens.enter("ann", &token("old"));
        let new = tokens.enter(
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
