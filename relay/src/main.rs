//! `betcode-relay`: serves, and keeps the state folder that serving needs.

mod commands;

use std::path::PathBuf;
use std::process::ExitCode;

use betcode_relay::StartError;
use betcode_relay::settings::SettingsError;
use betcode_storage::capacity::CapacityError;
use clap::{Parser, Subcommand};

/// Routes calls of clients to the daemons of machines behind NAT.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Exit codes: 0 done; 1 something failed; 2 wrong settings or command line; 3 another relay serves from \
the state folder."
)]
struct Arguments {
    /// Settings file, JSON.
    #[arg(long, global = true, env = "BETCODE_RELAY_SETTINGS")]
    settings: Option<PathBuf>,
    /// Folder of keys, certificates, revocations and the buffer [env: BETCODE_RELAY_STATE_FOLDER=]
    /// [default: /var/lib/betcode-relay].
    #[arg(long, global = true)]
    state_folder: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make the certificate authority, the relay's certificate and the key that signs tokens.
    Init {
        /// DNS names and addresses by which clients and daemons reach the relay.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Serve until SIGTERM; SIGHUP reads certificates, revocations and `log_filter` again.
    Serve(commands::ServeFlags),
    /// Make a new certificate for the relay itself; send SIGHUP to take it up.
    Certify {
        /// DNS names and addresses by which clients and daemons reach the relay.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Print a one-time code with which a machine's daemon enrols.
    Enrol {
        /// The machine's id.
        machine: String,
    },
    /// Issue and revoke clients' tokens.
    #[command(subcommand)]
    Token(commands::TokenCommand),
    /// Refuse a machine's certificates issued until now, and end its tunnel.
    RevokeMachine {
        /// The machine's id.
        machine: String,
    },
    /// Print what the capacity plan says of relays, from these settings' limits or given numbers.
    Plan {
        /// Tunnels in all.
        #[arg(long)]
        tunnels: Option<u64>,
        /// Clients in all.
        #[arg(long)]
        clients: Option<u64>,
        /// Requests that wait.
        #[arg(long)]
        buffered: Option<u64>,
        /// Calls a second in all.
        #[arg(long)]
        rps: Option<u64>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Ask the relay that serves from the state folder how busy it is: memory, routing, thresholds and
    /// load beside what the capacity plan gives them.
    Budget {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the settings in force.
    Config(commands::ServeFlags),
}

/// Why the relay ended, for who would start it again.
fn exit_code(error: &(dyn std::error::Error + 'static)) -> ExitCode {
    if error.is::<SettingsError>() || error.is::<CapacityError>() {
        return ExitCode::from(2);
    }
    match error.downcast_ref() {
        Some(StartError::Held { .. }) => ExitCode::from(3),
        _ => ExitCode::FAILURE,
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match commands::run(arguments) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("betcode-relay: {error}");
            exit_code(&*error)
        }
    }
}
