//! The command line: what is asked of `betcode-db`, before anything is done.

use std::path::PathBuf;

use betcode_storage::capacity::text::DAY_MS;
use betcode_storage::limits::{DB_BYTES_MAX_DEFAULT, PAYLOAD_BYTES_MAX_DEFAULT};
use betcode_storage::{Durability, StoreOptions, resolve_links};
use clap::{Args, Parser};
use directories::ProjectDirs;

use crate::commands::Command;
use crate::error::{Exit, Failure, Result};
use crate::output::Mode;

const AFTER_HELP: &str = "\
Exit codes:
  0  done                      6  no space: disk full or limit reached
  1  done, with problems:      7  not a history store, or a newer one
     files skipped, damage     8  permission denied or read-only
  2  wrong command line        9  stored data is damaged
  3  not found               70  internal error
  4  something is in the way 130  interrupted; what was done stays done
  5  busy: another process has it

Start with `betcode-db demo`. JSON output is described in docs/CLI_JSON.md.";

/// Where help lists the options that every command has.
const OF_EVERY_COMMAND: &str = "Options of every command";

/// Keeps what coding agents print: every byte of it, in a fraction of its size.
#[derive(Debug, Parser)]
#[command(name = "betcode-db", version, after_help = AFTER_HELP, max_term_width = 80)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The database; by default `history.db` in the user's data directory
    #[arg(long, global = true, value_name = "FILE", env = "BETCODE_DB")]
    #[arg(help_heading = OF_EVERY_COMMAND)]
    pub db: Option<PathBuf>,
    /// Write one JSON document to stdout (see docs/CLI_JSON.md)
    #[arg(long, global = true, help_heading = OF_EVERY_COMMAND)]
    pub json: bool,
    /// Write errors only, and with `--json` the document
    #[arg(long, short, global = true, help_heading = OF_EVERY_COMMAND)]
    pub quiet: bool,
    /// Size that the database may reach, such as 500MB; by default 1GB, and for report, doctor
    /// and plan what the daemon that serves it allows
    #[arg(long, global = true, value_name = "SIZE", env = "BETCODE_LIMIT_BYTES")]
    #[arg(help_heading = OF_EVERY_COMMAND)]
    #[arg(value_parser = size)]
    pub limit_bytes: Option<u64>,
    /// Open the database file even if a daemon is serving it, instead of asking the daemon (safe;
    /// the daemon's clients see new messages later)
    #[arg(long, global = true, help_heading = OF_EVERY_COMMAND)]
    pub direct: bool,
    /// Do not wait for the disk at each commit: faster, and power loss may take the last messages
    #[arg(long, global = true, help_heading = OF_EVERY_COMMAND)]
    pub no_fsync: bool,
}

impl Global {
    /// How much to write.
    #[must_use]
    pub fn mode(&self) -> Mode {
        match (self.json, self.quiet) {
            (true, _) => Mode::Json,
            (false, true) => Mode::Quiet,
            (false, false) => Mode::Human,
        }
    }

    /// The database to work on.
    ///
    /// # Errors
    /// When none is named and the system knows no home for the user.
    pub fn database(&self) -> Result<PathBuf> {
        if let Some(path) = &self.db {
            return Ok(resolve_links(path));
        }
        let folder = ProjectDirs::from("", "", "betcode").map(|dirs| dirs.data_dir().to_owned());
        let why = match folder {
            Some(folder) if folder.is_absolute() => {
                return Ok(resolve_links(&folder.join("history.db")));
            }
            // Another database for each folder that the command runs in.
            Some(folder) => format!(
                "the home directory is relative, which leads to {}",
                folder.display()
            ),
            None => "the system names no home directory for this user".to_owned(),
        };
        Err(
            Failure::new(Exit::Usage, "there is no default place for the database")
                .why(why)
                .hint("name the database with --db FILE or BETCODE_DB"),
        )
    }

    /// The engine's settings.
    #[must_use]
    pub fn options(&self) -> StoreOptions {
        let limit_bytes = self.limit_bytes.unwrap_or(DB_BYTES_MAX_DEFAULT);
        StoreOptions {
            db_bytes_max: limit_bytes,
            // The limit of one session protects against an agent that runs away. What is imported
            // is history already, and goes in whole or not at all.
            session_bytes_max: limit_bytes,
            payload_bytes_max: PAYLOAD_BYTES_MAX_DEFAULT,
            durability: if self.no_fsync {
                Durability::Normal
            } else {
                Durability::Full
            },
            ..StoreOptions::default()
        }
    }
}

const NO_SIZE: &str = "a size is a number and B, KB, MB, GB, TB, KiB, MiB, GiB or TiB";

/// Reads a size: `1048576`, `500MB` (decimal), `64MiB` (binary).
///
/// # Errors
/// A sentence for the user.
pub fn size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim().replace(['_', ','], "");
    let digits = trimmed
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1_000,
        "m" | "mb" => 1_000_000,
        "g" | "gb" => 1_000_000_000,
        "t" | "tb" => 1_000_000_000_000,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(NO_SIZE.to_owned()),
    };
    if number.is_empty() {
        return Err(NO_SIZE.to_owned());
    }
    let whole: Option<u64> = number.parse().ok();
    let bytes = match whole {
        Some(number) => number.checked_mul(factor),
        None => {
            let number: f64 = number.parse().map_err(|_| NO_SIZE.to_owned())?;
            Some(number * factor as f64)
                .filter(|bytes| *bytes < 9e18)
                .map(|bytes| bytes as u64)
        }
    };
    bytes.ok_or_else(|| "that is more than any disk holds".to_owned())
}

/// An age in days, weeks or years (of 365 days), as milliseconds.
///
/// # Errors
/// A sentence for the user.
pub fn age(text: &str) -> Result<i64, String> {
    const HELP: &str = "an age is a whole number of d(ays), w(eeks) or y(ears), such as 90d";
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(|| HELP.to_owned())?;
    let (number, unit) = text.split_at(digits);
    let days = match unit.trim() {
        "d" => 1,
        "w" => 7,
        "y" => 365,
        _ => return Err(HELP.to_owned()),
    };
    if number.is_empty() {
        return Err(HELP.to_owned());
    }
    number
        .parse::<i64>()
        .ok()
        .and_then(|number| number.checked_mul(days * DAY_MS))
        .ok_or_else(|| "that is longer than can be computed with: no session is so old".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_are_decimal_or_binary_and_nonsense_is_refused() {
        for (text, bytes) in [
            ("1048576", 1_048_576),
            ("500MB", 500_000_000),
            ("1.5 GB", 1_500_000_000),
            ("64MiB", 64 << 20),
            ("10_000", 10_000),
        ] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "MB", "-1", "1 parsec", "1e3", "99999999999999999999TB"] {
            assert!(size(bad).is_err(), "{bad}");
        }
        for (bad, too_large) in [
            ("1..5", false),
            ("20000000TB", true),
            (&"9".repeat(30), true),
        ] {
            let why = size(bad).unwrap_err();
            assert_eq!(why.contains("more than"), too_large, "{bad}: {why}");
        }
    }

    #[test]
    fn ages_are_days_weeks_or_years() {
        for (text, days) in [("90d", 90), ("2 w", 14), ("1y", 365)] {
            assert_eq!(age(text), Ok(days * DAY_MS), "{text}");
        }
        for bad in ["", "d", "90", "-1d", "1.5d", "1m", "99999999999999999d"] {
            assert!(age(bad).is_err(), "{bad}");
        }
        for (bad, too_long) in [("d", false), ("99999999999999999d", true)] {
            let why = age(bad).unwrap_err();
            assert_eq!(why.contains("longer"), too_long, "{bad}: {why}");
        }
    }
}
