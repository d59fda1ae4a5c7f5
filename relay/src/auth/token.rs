//! Tokens of clients: JWT signed with Ed25519, short-lived, naming a user and machines.

use betcode_schema_tunnel::MachineId;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};

use super::{Caller, Token, ed25519};
use crate::limits;

/// Issuer that tokens name.
const ISSUER: &str = "betcode-relay";

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// Who issued it: `betcode-relay`.
    pub iss: String,
    /// The user.
    pub sub: String,
    /// The token's own id, by which it is revoked.
    pub jti: String,
    /// Machines that the user may call with it.
    pub machines: Vec<MachineId>,
    /// When it was issued, Unix seconds.
    pub iat: u64,
    /// When it ends, Unix seconds.
    pub exp: u64,
}

/// A token that is not accepted; its text is for the client, and says nothing about keys or machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidToken {
    /// There is none.
    #[error("there is no token")]
    Missing,
    /// Not a token of this relay: malformed, wrongly signed, or of another kind.
    #[error("the token is not valid here")]
    Invalid,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// It, or its user's tokens, were revoked.
    #[error("the token was revoked")]
    Revoked,
}

impl InvalidToken {
    /// Its name in statuses and metrics.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Missing => "TOKEN_MISSING",
            Self::Invalid => "TOKEN_INVALID",
            Self::Expired => "TOKEN_EXPIRED",
            Self::Revoked => "TOKEN_REVOKED",
        }
    }

    /// What to try.
    #[must_use]
    pub fn hint(self) -> &'static str {
        match self {
            Self::Missing => "send `authorization: Bearer <token>`",
            Self::Invalid => "ask the relay's operator for one",
            Self::Expired => "get a new one",
            Self::Revoked => "ask the relay's operator for a new one",
        }
    }
}

/// Whether this can be the id of a token that was issued here.
#[must_use]
pub fn is_token_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

/// Signs tokens.
pub struct TokenIssuer {
    key: EncodingKey,
}

impl TokenIssuer {
    /// An issuer with a private key, PKCS#8 DER.
    #[must_use]
    pub fn new(pkcs8_der: &[u8]) -> Self {
        ed25519::install();
        Self {
            key: EncodingKey::from_ed_der(pkcs8_der),
        }
    }

    /// Issues a token that lasts `life_s` seconds from `issued_s` (Unix seconds) on.
    ///
    /// # Errors
    /// When the key is not an Ed25519 key.
    pub fn issue(
        &self,
        user: &str,
        machines: &[MachineId],
        issued_s: u64,
        life_s: u64,
    ) -> Result<(String, Claims), jsonwebtoken::errors::Error> {
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: user.to_owned(),
            jti: uuid::Uuid::new_v4().simple().to_string(),
            machines: machines.to_vec(),
            iat: issued_s,
            exp: issued_s.saturating_add(life_s.min(limits::TOKEN_LIFE_S_MAX)),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &self.key)?;
        Ok((token, claims))
    }
}

/// Checks tokens.
pub struct TokenVerifier {
    key: DecodingKey,
    validation: Validation,
}

impl TokenVerifier {
    /// A verifier with a public key of 32 bytes.
    #[must_use]
    pub fn new(public_key: &[u8]) -> Self {
        ed25519::install();
        // One algorithm and no other: a token does not choose how it is checked.
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.leeway = limits::TOKEN_LEEWAY_S;
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        Self {
            key: DecodingKey::from_ed_der(public_key),
            validation,
        }
    }

    /// What a token of this relay says, also when its time is over.
    ///
    /// # Errors
    /// [`InvalidToken::Invalid`] when it is none.
    pub fn claims(&self, token: &str) -> Result<Claims, InvalidToken> {
        let mut validation = self.validation.clone();
        validation.validate_exp = false;
        match jsonwebtoken::decode::<Claims>(token, &self.key, &validation) {
            Ok(checked) => Ok(checked.claims),
            Err(_) => Err(InvalidToken::Invalid),
        }
    }

    /// Checks the value of an `authorization` header.
    ///
    /// # Errors
    /// [`InvalidToken`], whatever is wrong with it.
    pub fn verify(
        &self,
        authorization: Option<&[u8]>,
        revoked: impl FnOnce(&Claims) -> bool,
    ) -> Result<Caller, InvalidToken> {
        let header = authorization.ok_or(InvalidToken::Missing)?;
        if header.len() > limits::TOKEN_BYTES_MAX {
            return Err(InvalidToken::Invalid);
        }
        let (scheme, token) = header
            .split_at_checked("Bearer ".len())
            .ok_or(InvalidToken::Invalid)?;
        if !scheme.eq_ignore_ascii_case(b"bearer ") {
            return Err(InvalidToken::Invalid);
        }
        let checked = jsonwebtoken::decode::<Claims>(token, &self.key, &self.validation);
        let claims = match checked {
            Ok(checked) => checked.claims,
            Err(error) => {
                return Err(match error.kind() {
                    jsonwebtoken::errors::ErrorKind::ExpiredSignature => InvalidToken::Expired,
                    _ => InvalidToken::Invalid,
                });
            }
        };
        // A token that lasts longer than any issued here was not issued by this program.
        let life_s = claims.exp.saturating_sub(claims.iat);
        if life_s > limits::TOKEN_LIFE_S_MAX || claims.machines.len() > limits::TOKEN_MACHINES_MAX {
            return Err(InvalidToken::Invalid);
        }
        if revoked(&claims) {
            return Err(InvalidToken::Revoked);
        }
        Ok(Caller {
            user: claims.sub,
            machines: claims.machines,
            token: Some(Token {
                id: claims.jti,
                issued_s: claims.iat,
                end_s: claims.exp,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> (TokenIssuer, TokenVerifier) {
        let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        (
            TokenIssuer::new(pair.serialized_der()),
            TokenVerifier::new(pair.public_key_raw()),
        )
    }

    fn now_s() -> u64 {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().as_secs()
    }

    fn bearer(token: &str) -> Vec<u8> {
        format!("Bearer {token}").into_bytes()
    }

    #[test]
    fn a_token_tells_its_id_also_when_it_has_expired_and_another_relays_does_not() {
        let (issuer, verifier) = keys();
        let (old, claims) = issuer.issue("ann", &[], now_s() - 600, 60).unwrap();
        assert!(is_token_id(&claims.jti));
        assert_eq!(verifier.claims(&old), Ok(claims));
        let (forged, _) = keys().0.issue("ann", &[], now_s(), 60).unwrap();
        assert_eq!(verifier.claims(&forged), Err(InvalidToken::Invalid));
    }

    #[test]
    fn an_issued_token_names_its_user_and_machines() {
        let (issuer, verifier) = keys();
        let machines = ["a".parse().unwrap(), "b".parse().unwrap()];
        let (token, _) = issuer.issue("ann", &machines, now_s(), 60).unwrap();
        let caller = verifier.verify(Some(&bearer(&token)), |_| false).unwrap();
        assert_eq!(caller.user, "ann");
        assert!(caller.may_call(&machines[0]) && caller.may_call(&machines[1]));
        assert!(!caller.may_call(&"c".parse().unwrap()));
    }

    #[test]
    fn what_is_not_a_valid_token_is_told_apart_only_as_far_as_it_helps() {
        let (issuer, verifier) = keys();
        let (others, _) = keys();
        let check = |header: Option<&[u8]>| verifier.verify(header, |_| false).unwrap_err();
        let (old, _) = issuer.issue("ann", &[], now_s() - 600, 60).unwrap();
        let (forged, _) = others.issue("ann", &[], now_s(), 60).unwrap();
        let (good, _) = issuer.issue("ann", &[], now_s(), 60).unwrap();
        let mut torn = bearer(&good);
        *torn.last_mut().unwrap() ^= 1;
        assert_eq!(check(None), InvalidToken::Missing);
        assert_eq!(check(Some(b"")), InvalidToken::Invalid);
        assert_eq!(check(Some(b"Basic YTpi")), InvalidToken::Invalid);
        assert_eq!(check(Some(&bearer("x.y.z"))), InvalidToken::Invalid);
        assert_eq!(check(Some(&torn)), InvalidToken::Invalid);
        assert_eq!(check(Some(&bearer(&forged))), InvalidToken::Invalid);
        assert_eq!(check(Some(&bearer(&old))), InvalidToken::Expired);
        let revoked = verifier.verify(Some(&bearer(&good)), |_| true);
        assert_eq!(revoked, Err(InvalidToken::Revoked));
    }

    #[test]
    fn a_token_does_not_choose_its_algorithm() {
        // {"alg":"none"} and {"alg":"HS256"} with the public key as the secret: the old tricks.
        let (_, verifier) = keys();
        for header in ["eyJhbGciOiJub25lIn0", "eyJhbGciOiJIUzI1NiJ9"] {
            let token = format!("Bearer {header}.e30.AAAA");
            let refused = verifier.verify(Some(token.as_bytes()), |_| false);
            assert_eq!(refused, Err(InvalidToken::Invalid));
        }
    }
}
