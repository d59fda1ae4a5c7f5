//! `plan`: the capacity plan's tables, with inputs of one's own or measured ones.

use betcode_storage::capacity::CapacityError;
use betcode_storage::capacity::planner::{self, Plan, PlanInputs};
use betcode_storage::capacity::quantity::Source;

use super::Context;
use crate::cli::size;
use crate::error::{Exit, Failure, Result};

/// Compute what a load needs: memory, storage, relays, machines
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Without options it computes the capacity plan's own examples. The inputs, their names and where \
each comes from stand at the end. --measured takes growth, footprint and limit from the \
database; --set goes over both.")]
pub struct Args {
    /// Replace an input, such as daemon_memory.sessions=40 or
    /// storage_growth.limit_bytes=10GB
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    set: Vec<(String, f64)>,
    /// Take what the database has measured
    #[arg(long)]
    measured: bool,
    /// Mark the machines that this many users need
    #[arg(long, value_name = "N")]
    users: Option<u64>,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    let mut inputs = PlanInputs::default();
    let footprint = if args.measured {
        inputs.take_measured(&context.open_read_only()?.capacity_report()?)
    } else {
        None
    };
    for (name, value) in &args.set {
        inputs.set(name, *value, Source::Given).map_err(refused)?;
    }
    let plan = Plan::compute(&inputs, footprint, args.users).map_err(refused)?;
    context.out.json(&plan);
    context.out.text(&planner::text(&plan));
    Ok(Exit::Ok)
}

fn refused(error: CapacityError) -> Failure {
    let hint = match &error {
        CapacityError::UnknownName { known, .. } => format!("use one of {known}"),
        _ => "choose another value with --set".to_owned(),
    };
    let what = match &error {
        // The names are long enough to be told once.
        CapacityError::UnknownName { kind, name, .. } => format!("there is no {kind} {name:?}"),
        other => other.to_string(),
    };
    Failure::new(Exit::Usage, what).hint(hint)
}

/// `NAME=VALUE`; a value is a number, or a size with its unit.
fn assignment(text: &str) -> Result<(String, f64), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("it is written NAME=VALUE, such as daemon_memory.sessions=40")?;
    let number = match value.trim().parse::<f64>() {
        Ok(number) => number,
        Err(_) => size(value).map_err(|_| "a value is a number, or a size such as 10GB")? as f64,
    };
    Ok((name.trim().to_owned(), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_numbers_or_sizes() {
        for (text, value) in [("a.b=40", 40.0), ("a.b = 0.5", 0.5), ("a.b=10GB", 1e10)] {
            assert_eq!(assignment(text), Ok(("a.b".to_owned(), value)));
        }
        for bad in ["a.b", "a.b=", "a.b=many"] {
            assert!(assignment(bad).is_err(), "{bad}");
        }
    }
}
