//! Clients' tokens: issued and revoked.

use betcode_relay::auth::{StateFolder, TokenIssuer, TokenVerifier, is_token_id};
use betcode_relay::{limits, unix_now_s};
use betcode_schema_tunnel::MachineId;
use clap::Subcommand;
use serde_json::json;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;

use super::{Error, far_ahead, load_revoked, read_pem, revoke, say};

/// What can be done with tokens.
#[derive(Subcommand)]
pub(crate) enum TokenCommand {
    /// Print a new token.
    Issue {
        /// The user.
        #[arg(long)]
        user: String,
        /// A machine that the user may call; may be repeated.
        #[arg(long = "machine", required = true)]
        machines: Vec<String>,
        /// Seconds that it lasts (1 to 86400).
        #[arg(long, default_value_t = limits::TOKEN_LIFE_S_DEFAULT)]
        life_s: u64,
        /// Print its claims beside it, as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Refuse a token from now on.
    Revoke {
        /// The token itself, or its id (`jti`).
        token: String,
    },
    /// Refuse all of a user's tokens issued until now.
    RevokeUser {
        /// The user.
        user: String,
    },
}

pub(super) fn run(state: &StateFolder, command: TokenCommand) -> Result<(), Error> {
    match command {
        TokenCommand::Issue {
            user,
            machines,
            life_s,
            json,
        } => {
            let machines: Vec<MachineId> = machines
                .iter()
                .map(|machine| machine.parse())
                .collect::<Result<_, _>>()?;
            if !(1..=limits::TOKEN_MACHINES_MAX).contains(&machines.len()) {
                return Err(format!("1 to {} machines", limits::TOKEN_MACHINES_MAX).into());
            }
            if user.is_empty() || !user.bytes().all(|c| c.is_ascii_graphic()) {
                return Err("a user's name is of visible ASCII characters".into());
            }
            if !(1..=limits::TOKEN_LIFE_S_MAX).contains(&life_s) {
                return Err(format!("a token lasts 1 to {} s", limits::TOKEN_LIFE_S_MAX).into());
            }
            let issued_s = load_revoked(state)?
                .issue_s(&user, unix_now_s())
                .map_err(|until_s| far_ahead(&format!("tokens of {user}"), until_s, state))?;
            let key: PrivatePkcs8KeyDer<'_> = read_pem(state.token_key())?;
            let issuer = TokenIssuer::new(key.secret_pkcs8_der());
            let (token, claims) = issuer.issue(&user, &machines, issued_s, life_s)?;
            match json {
                true => say(&json!({ "token": token, "claims": claims }).to_string()),
                false => say(&token),
            }
        }
        TokenCommand::Revoke { token } => {
            let (id, whose) = token_id(state, &token)?;
            revoke(state, |revoked| {
                // No token outlives this, nor does a request that waits, so it can be forgotten then.
                let until_s = unix_now_s() + limits::TOKEN_REVOKED_S;
                revoked.tokens.insert(id.clone(), until_s);
            })?;
            say(&format!("revoked token {id}{whose}"))
        }
        TokenCommand::RevokeUser { user } => {
            revoke(state, |revoked| revoked.revoke_user(&user, unix_now_s()))?;
            say(&format!("revoked all tokens of {user} issued until now"))
        }
    }
}

/// The id of a token, given as such or as the token, and whose it is where that is known.
fn token_id(state: &StateFolder, text: &str) -> Result<(String, String), Error> {
    if is_token_id(text) {
        return Ok((text.to_owned(), String::new()));
    }
    let verifier = TokenVerifier::new(&state.read_token_public_key()?);
    match verifier.claims(text) {
        Ok(claims) => Ok((claims.jti, format!(" of {}", claims.sub))),
        Err(_) => Err(
            "neither a token that this relay issued nor the id of one (32 hexadecimal digits, the \
             `jti` of `token issue --json`)"
                .into(),
        ),
    }
}
