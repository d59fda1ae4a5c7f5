//! `rename`: a name for people.

use serde_json::json;

use super::{Context, resolve};
use crate::error::{Exit, Result};

/// Name a session
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Session id, unique part of it, or name
    session: String,
    /// The new name, or '' for none; the id stays
    name: String,
}

/// Runs the command.
pub(super) fn run(args: &Args, mut context: Context<'_>) -> Result<Exit> {
    let daemon = context.daemon()?;
    let store = context.open_beside(daemon.as_ref())?;
    let session = resolve(&store, &args.session)?;
    match daemon {
        Some(daemon) => daemon.rename(&session, &args.name)?,
        None => store.rename(&session, &args.name)?,
    }
    store.close()?;
    context
        .out
        .json(&json!({"session": session.as_str(), "name": args.name}));
    context.out.line(match args.name.as_str() {
        "" => format!("{session} has no name now"),
        name => format!("{session} is called {name:?} now"),
    });
    Ok(Exit::Ok)
}
