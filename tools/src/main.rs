//! The program: reads the command line, runs the command, ends with its exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use betcode_db::cli::Cli;
use betcode_db::commands::{self, Context};
use betcode_db::error::{Exit, Failure};
use betcode_db::interrupt::Interrupt;
use betcode_db::output::{Mode, Out, exit_after};
use clap::builder::Resettable;
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // clap counts a database named by the environment as an argument.
    if std::env::args_os().len() == 1 {
        betcode_db::output::to_stderr(&Cli::command().render_help().to_string());
        return Exit::Usage.into();
    }
    let parsed = command()
        .try_get_matches()
        .and_then(|matches| Cli::from_arg_matches(&matches));
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    log_to_stderr(cli.global.mode());
    let mut out = Out::new(cli.global.mode());
    let result = Interrupt::listen()
        .map_err(|e| Failure::new(Exit::Internal, "cannot listen for Ctrl-C").why(e.to_string()))
        .and_then(|interrupt| {
            let context = Context {
                global: &cli.global,
                out: &mut out,
                interrupt: &interrupt,
            };
            commands::run(&cli.command, context)
        });
    exit_after(&mut out, result).into()
}

/// The command line, for which a variable counts only where it gives no option itself: clap checks
/// the values of both.
fn command() -> clap::Command {
    let command = Cli::command();
    let given: Vec<_> = command
        .get_arguments()
        .filter(|argument| argument.get_long().is_some_and(is_given))
        .map(|argument| argument.get_id().clone())
        .collect();
    given.into_iter().fold(command, |command, id| {
        command.mut_arg(id, |argument| argument.env(Resettable::Reset))
    })
}

/// Whether the command line has an option before `--`.
fn is_given(option: &str) -> bool {
    let mut options = std::env::args_os()
        .skip(1)
        .take_while(|argument| argument != "--");
    options.any(|argument| {
        let value = argument
            .as_encoded_bytes()
            .strip_prefix(b"--")
            .and_then(|rest| rest.strip_prefix(option.as_bytes()));
        value.is_some_and(|value| value.is_empty() || value.starts_with(b"="))
    })
}

/// Help and version are answers; everything else is a wrong command line.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done when even this cannot be shown.
    let _ = error.print();
    if let Some(variable) = variable_of(error) {
        betcode_db::output::to_stderr(&format!("The value is that of {variable}."));
    }
    if error.use_stderr() {
        Exit::Usage.into()
    } else {
        Exit::Ok.into()
    }
}

/// The environment variable that a wrong value comes from, unless the command line has it.
fn variable_of(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let option = argument.split(' ').next()?.strip_prefix("--")?;
    let command = command();
    let mut arguments = command.get_arguments();
    let argument = arguments.find(|known| known.get_long() == Some(option))?;
    let variable = argument.get_env()?.to_string_lossy();
    Some(variable.into_owned())
}

/// Warnings of the engine, unless `BETCODE_LOG` says otherwise.
fn log_to_stderr(mode: Mode) {
    let default = if mode == Mode::Human { "warn" } else { "error" };
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let filter = EnvFilter::try_from_env("BETCODE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal() && !no_color)
        .with_target(false)
        .without_time()
        .compact()
        .init();
}
