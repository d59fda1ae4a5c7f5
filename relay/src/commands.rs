//! What the program does for each command.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use betcode_relay::Relay;
use betcode_relay::auth::{
    Enrolments, Revocations, StateError, StateFolder, TokenIssuer, TokenVerifier, is_token_id,
};
use betcode_relay::plan::{self, Load};
use betcode_relay::settings::Settings;
use betcode_relay::{limits, open_files};
use betcode_schema_tunnel::MachineId;
use betcode_service::service_manager;
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use tracing_subscriber::EnvFilter;

use crate::{Arguments, Command};

type Error = Box<dyn std::error::Error>;

/// Settings that have a flag; all have a name in the file and the environment.
#[derive(Args)]
pub(crate) struct ServeFlags {
    /// Name of this relay among others.
    #[arg(long)]
    relay_id: Option<String>,
    /// Where clients are served.
    #[arg(long)]
    client_listen: Option<SocketAddr>,
    /// Where daemons are served.
    #[arg(long)]
    tunnel_listen: Option<SocketAddr>,
    /// Where metrics are served, loopback only.
    #[arg(long)]
    metrics_listen: Option<SocketAddr>,
    /// Serve clients without TLS, loopback only.
    #[arg(long)]
    client_plaintext: bool,
    /// Serve daemons without TLS and believe what they say, loopback only.
    #[arg(long)]
    tunnel_plaintext: bool,
    /// Log as JSON.
    #[arg(long)]
    log_json: bool,
}

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
        /// Seconds that it lasts.
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

pub(crate) fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let folder = arguments.state_folder.clone();
    let file = arguments.settings.as_deref();
    let settings = |flags: Map<String, Value>| {
        let mut flags = flags;
        if let Some(folder) = &folder {
            flags.insert("state_folder".into(), json!(folder));
        }
        Settings::load(file, flags)
    };
    let state = || -> Result<StateFolder, Error> {
        Ok(StateFolder::at(settings(Map::new())?.state_folder))
    };
    match arguments.command {
        Command::Init { names } => state()?.init(&names)?,
        Command::Certify { names } => state()?.issue_server(&names)?,
        Command::Enrol { machine } => say(&enrol(&state()?, &machine.parse()?)?)?,
        Command::Token(command) => token(&state()?, command)?,
        Command::RevokeMachine { machine } => {
            let machine: MachineId = machine.parse()?;
            revoke(&state()?, |revoked| {
                revoked.revoke_machine(&machine, now_s());
            })?;
            say(&format!(
                "revoked certificates of {machine} issued until now"
            ))?;
        }
        Command::Plan {
            tunnels,
            clients,
            buffered,
            rps,
            json,
        } => {
            let load = Load::of(&settings(Map::new())?);
            let load = Load {
                tunnels: tunnels.unwrap_or(load.tunnels),
                clients: clients.unwrap_or(load.clients),
                buffered: buffered.unwrap_or(load.buffered),
                rps: rps.unwrap_or(load.rps),
            };
            let plan = plan::plan(&load)?;
            say(&match json {
                true => serde_json::to_string_pretty(&plan)?,
                false => plan.text(),
            })?;
        }
        Command::Config(flags) => {
            let settings = settings(flags.settings())?;
            say(&serde_json::to_string_pretty(&settings)?)?;
        }
        Command::Serve(flags) => {
            let settings = settings(flags.settings())?;
            return serve(settings, flags.log_json);
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl ServeFlags {
    fn settings(&self) -> Map<String, Value> {
        let mut flags = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            flags.extend(value.map(|value| (name.to_owned(), value)));
        };
        set("relay_id", self.relay_id.as_ref().map(|v| json!(v)));
        set("client_listen", self.client_listen.map(|v| json!(v)));
        set("tunnel_listen", self.tunnel_listen.map(|v| json!(v)));
        set("metrics_listen", self.metrics_listen.map(|v| json!(v)));
        // A flag that is absent says nothing, so that the file may say it.
        set(
            "client_plaintext",
            self.client_plaintext.then_some(Value::Bool(true)),
        );
        set(
            "tunnel_plaintext",
            self.tunnel_plaintext.then_some(Value::Bool(true)),
        );
        flags
    }
}

fn enrol(state: &StateFolder, machine: &MachineId) -> Result<String, Error> {
    let authority: CertificateDer<'_> = read_pem(state.authority_certificate())?;
    // Refused here already, where somebody is who can set the clock right.
    let revoked = load_revoked(state)?;
    revoked
        .issue_machine_s(machine, now_s())
        .map_err(|until_s| far_ahead(&format!("certificates of {machine}"), until_s, state))?;
    let path = state.enrolments();
    let issued = Enrolments::at(&path).issue(machine, &authority, now_s());
    Ok(issued.map_err(|source| StateError::Io { path, source })?)
}

fn load_revoked(state: &StateFolder) -> Result<Revocations, StateError> {
    let path = state.revoked();
    Revocations::load(&path).map_err(|source| StateError::Io { path, source })
}

/// Why nothing can be issued now.
fn far_ahead(what: &str, until_s: u64, state: &StateFolder) -> String {
    format!(
        "all {what} are revoked until {until_s} (Unix seconds), which is ahead of this clock: set \
         the clock right, or take the entry out of {}",
        state.revoked().display()
    )
}

fn read_pem<T: PemObject>(path: PathBuf) -> Result<T, StateError> {
    T::from_pem_file(&path).map_err(|error| match error {
        pem::Error::Io(source) => StateError::Io { path, source },
        error => StateError::Malformed {
            path,
            why: error.to_string(),
        },
    })
}

fn token(state: &StateFolder, command: TokenCommand) -> Result<(), Error> {
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
                .issue_s(&user, now_s())
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
                let until_s = now_s() + limits::TOKEN_REVOKED_S;
                revoked.tokens.insert(id.clone(), until_s);
            })?;
            say(&format!("revoked token {id}{whose}"))
        }
        TokenCommand::RevokeUser { user } => {
            revoke(state, |revoked| revoked.revoke_user(&user, now_s()))?;
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

fn revoke(state: &StateFolder, change: impl FnOnce(&mut Revocations)) -> Result<(), Error> {
    let path = state.revoked();
    let changed = Revocations::change(&path, now_s(), change);
    Ok(changed.map_err(|source| StateError::Io { path, source })?)
}

fn serve(settings: Settings, log_json: bool) -> Result<ExitCode, Error> {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    match log_json {
        true => logs.json().init(),
        false => logs.init(),
    }
    let mut settings = settings;
    if let Some(told) = open_files::fit(&mut settings, open_files::raise()) {
        tracing::warn!("{told}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(serve_until_told(settings))
}

async fn serve_until_told(settings: Settings) -> Result<ExitCode, Error> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let relay = Relay::start(settings).await?;
    // Said on standard output too, for whoever started it on port 0.
    say(&format!("clients {}", relay.client_address()))?;
    say(&format!("tunnels {}", relay.tunnel_address()))?;
    tracing::info!(clients = %relay.client_address(), tunnels = %relay.tunnel_address(), "serving");
    service_manager::ready();
    // The threads that serve turn: a relay that hangs is one to restart.
    let watchdog = tokio::spawn(service_manager::watchdog(|| true));
    loop {
        tokio::select! {
            _ = hangup.recv() => reload(&relay),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    watchdog.abort();
    tracing::info!("stopping");
    service_manager::stopping();
    Ok(match relay.drain().await {
        true => ExitCode::SUCCESS,
        false => {
            tracing::warn!("stopped with calls under way");
            ExitCode::SUCCESS
        }
    })
}

fn reload(relay: &Relay) {
    service_manager::reloading();
    relay.reload();
    service_manager::ready();
}

fn say(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}
