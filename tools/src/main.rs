//! The program: reads the command line, runs the command, ends with its exit code.

use std::io::IsTerminal;
use std::process::ExitCode;

use betcode_db::cli::Cli;
use betcode_db::commands::{self, Context};
use betcode_db::error::{Exit, Failure};
use betcode_db::interrupt::Interrupt;
use betcode_db::output::{Mode, Out, exit_after};
use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // clap counts a database named by the environment as an argument.
    if std::env::args_os().len() == 1 {
        betcode_db::output::to_stderr(&Cli::command().render_help().to_string());
        return Exit::Usage.into();
    }
    let cli = match Cli::try_parse() {
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

/// Help and version are answers; everything else is a wrong command line.
fn usage(error: &clap::Error) -> ExitCode {
    // Nothing can be done when even this cannot be shown.
    let _ = error.print();
    if error.use_stderr() {
        Exit::Usage.into()
    } else {
        Exit::Ok.into()
    }
}

/// Warnings of the engine, unless `BETCODE_LOG` says otherwise.
fn log_to_stderr(mode: Mode) {
    let default = if mode == Mode::Human { "warn" } else { "error" };
    let filter = EnvFilter::try_from_env("BETCODE_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .compact()
        .init();
}
