//! The command line: a flag for each parameter, made from the table.

use std::io::{self, Write};
use std::path::PathBuf;

use betcode_daemon::settings::{Kind, Loaded, PARAMETERS, Parameter, Sources};
use clap::error::ErrorKind;
use clap::{Arg, ArgAction};

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    /// Serve until told to stop.
    Serve,
    /// Ask the running daemon for its latencies and memory.
    Budget {
        /// As a JSON object.
        json: bool,
    },
    /// Show the settings and where each came from.
    Config {
        /// As a JSON array.
        json: bool,
    },
    /// Make this machine known to a relay.
    Enrol(Enrol),
}

/// What enrolling needs besides the settings.
#[derive(Debug)]
pub(crate) struct Enrol {
    pub(crate) machine: String,
    pub(crate) relay_name: Option<String>,
    pub(crate) code: String,
}

/// Parameters that enrolling needs.
const ENROL_PARAMETERS: [&str; 3] = ["db", "relay_address", "relay_folder"];

/// Reads the command line and the environment. Ends the process on wrong flags and on `--help`.
pub(crate) fn parse() -> (Command, Sources) {
    let mut matches = command().get_matches();
    let Some((name, mut matches)) = matches.remove_subcommand() else {
        // The command line requires one.
        command()
            .error(ErrorKind::MissingSubcommand, "name a command")
            .exit()
    };
    let flags = PARAMETERS
        .iter()
        .filter_map(|p| {
            let value = matches.try_remove_one::<String>(p.name).ok()??;
            Some((p.name.to_owned(), value))
        })
        .collect();
    let file = matches.remove_one::<PathBuf>("settings");
    let file = file.or_else(|| std::env::var_os("BETCODE_SETTINGS").map(PathBuf::from));
    let sources = Sources {
        file,
        environment: std::env::vars_os().collect(),
        flags,
    };
    let command = match name.as_str() {
        "config" => Command::Config {
            json: matches.get_flag("json"),
        },
        "enrol" => Command::Enrol(Enrol {
            machine: matches.remove_one("machine").unwrap_or_default(),
            relay_name: matches.remove_one("relay_name"),
            code: matches.remove_one("code").unwrap_or_default(),
        }),
        "budget" => Command::Budget {
            json: matches.get_flag("json"),
        },
        _ => Command::Serve,
    };
    (command, sources)
}

fn command() -> clap::Command {
    let settings = Arg::new("settings")
        .long("settings")
        .value_name("FILE")
        .value_parser(clap::value_parser!(PathBuf))
        .help("Settings file (JSON); also BETCODE_SETTINGS");
    let with_parameters = |command: clap::Command| {
        command
            .arg(settings.clone())
            .args(PARAMETERS.iter().map(flag))
    };
    let json = Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("Print JSON");
    clap::Command::new("betcode-daemon")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Serves a BetCode history store over gRPC")
        .subcommand_required(true)
        .subcommand(with_parameters(
            clap::Command::new("serve")
                .about("Serves until SIGTERM; SIGHUP reads the settings again"),
        ))
        .subcommand(enrol(settings.clone()))
        .subcommand(
            with_parameters(
                clap::Command::new("config").about("Shows each setting and where it came from"),
            )
            .arg(json.clone()),
        )
        .subcommand(
            with_parameters(clap::Command::new("budget").about(
                "Asks the running daemon for its latencies and memory, beside the capacity plan's",
            ))
            .arg(json),
        )
}

fn enrol(settings: Arg) -> clap::Command {
    let of_enrolling = |parameter: &&Parameter| ENROL_PARAMETERS.contains(&parameter.name);
    clap::Command::new("enrol")
        .about("Makes this machine known to a relay, with a code from `betcode-relay enrol`")
        .arg(settings)
        .args(PARAMETERS.iter().filter(of_enrolling).map(flag))
        .arg(
            Arg::new("machine")
                .long("machine")
                .value_name("ID")
                .required(true)
                .help("The machine's id, the one that the code is for"),
        )
        .arg(
            Arg::new("relay_name")
                .long("relay-name")
                .value_name("NAME")
                .help("Name in the relay's certificate [default: the host of relay-address]"),
        )
        .arg(
            Arg::new("code")
                .value_name("CODE")
                .required(true)
                .help("The code; - reads it from standard input"),
        )
}

fn flag(parameter: &'static Parameter) -> Arg {
    let long = parameter.name.replace('_', "-");
    let default = match parameter.default {
        "" => String::new(),
        value => format!(" [default: {value}]"),
    };
    Arg::new(parameter.name)
        .long(long)
        .value_name(value_name(parameter.kind))
        .help(format!(
            "{}{}{default}",
            parameter.what,
            bounds(parameter.kind)
        ))
}

fn value_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Number { .. } => "N",
        Kind::Flag => "BOOL",
        Kind::Path => "PATH",
        Kind::Address => "ADDRESS",
        Kind::Choice(_) => "CHOICE",
        Kind::Text => "TEXT",
    }
}

fn bounds(kind: Kind) -> String {
    match kind {
        Kind::Number { min, max } => format!(" ({min} to {max})"),
        Kind::Choice(choices) => format!(" ({})", choices.join(", ")),
        _ => String::new(),
    }
}

/// Prints each parameter, its value, and where that came from.
pub(crate) fn show(loaded: &Loaded, json: bool) -> Result<(), String> {
    let mut text = String::new();
    if json {
        let rows: Vec<_> = loaded
            .values
            .iter()
            .map(|(parameter, value, origin)| {
                let (min, max) = match parameter.kind {
                    Kind::Number { min, max } => (Some(min), Some(max)),
                    _ => (None, None),
                };
                serde_json::json!({
                    "name": parameter.name,
                    "value": value,
                    "origin": origin.to_string(),
                    "default": parameter.default,
                    "min": min,
                    "max": max,
                    "reloads": parameter.reloads,
                    "what": parameter.what,
                })
            })
            .collect();
        text = serde_json::Value::from(rows).to_string();
        text.push('\n');
    } else {
        for (parameter, value, origin) in &loaded.values {
            let bounds = bounds(parameter.kind);
            text.push_str(&format!(
                "{:<28} {value:<24} {origin}{bounds}\n",
                parameter.name
            ));
        }
    }
    say(&text)
}

/// Writes what was asked for. A reader that has seen enough is no error.
pub(crate) fn say(text: &str) -> Result<(), String> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(format!("cannot write to stdout: {error}"))
        }
        _ => Ok(()),
    }
}
