//! What the program does for each command.

mod enrol;
mod serve;
mod settings_flags;
mod token;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use betcode_relay::auth::{Revocations, StateError, StateFolder};
use betcode_relay::budget;
use betcode_relay::plan::{self, Load};
use betcode_relay::settings::Settings;
use betcode_relay::unix_now_s;
use betcode_schema_tunnel::MachineId;
use serde_json::{Map, Value, json};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};

pub(crate) use self::settings_flags::ServeFlags;
pub(crate) use self::token::TokenCommand;
use crate::{Arguments, Command};

type Error = Box<dyn std::error::Error>;

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
        Command::Enrol { machine } => say(&enrol::issue(&state()?, &machine.parse()?)?)?,
        Command::Token(command) => token::run(&state()?, command)?,
        Command::RevokeMachine { machine } => {
            let machine: MachineId = machine.parse()?;
            revoke(&state()?, |revoked| {
                revoked.revoke_machine(&machine, unix_now_s());
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
        Command::Budget { json } => say(&budget::ask(&state()?.budget_socket(), json)?)?,
        Command::Config(flags) => {
            let settings = settings(flags.settings())?;
            say(&serde_json::to_string_pretty(&settings)?)?;
        }
        Command::Serve(flags) => {
            return serve::run(|| settings(flags.settings()));
        }
    }
    Ok(ExitCode::SUCCESS)
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

fn revoke(state: &StateFolder, change: impl FnOnce(&mut Revocations)) -> Result<(), Error> {
    let path = state.revoked();
    let changed = Revocations::change(&path, unix_now_s(), change);
    Ok(changed.map_err(|source| StateError::Io { path, source })?)
}

fn say(text: &str) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    Ok(out.flush()?)
}
