//! stub
use super::Context;
use crate::error::{Exit, Result};
/// See it at work
#[derive(Debug, clap::Args)]
pub struct Args {}
pub(super) fn run(_args: &Args, _context: Context<'_>) -> Result<Exit> { Ok(Exit::Ok) }
