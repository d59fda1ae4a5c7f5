//! Which machines a number of users needs (plan: *Vertical Scaling Guide*).

use std::fmt;

use serde::Serialize;

use crate::capacity::error::{CapacityError, Result};
use crate::capacity::quantity::{ByteCount, GB};

/// Machine for the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum DaemonMachine {
    /// One machine.
    One {
        /// Processors.
        cpus: u32,
        /// Memory.
        ram_bytes: ByteCount,
    },
    /// The users are spread over several machines.
    Several,
}

/// Machine for the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum RelayMachine {
    /// Everybody is on the daemon's machine.
    NotNeeded,
    /// One machine.
    One {
        /// Processors.
        cpus: u32,
        /// Memory.
        ram_bytes: ByteCount,
    },
    /// Several machines behind a load balancer.
    Several {
        /// At least this many.
        instances_min: u32,
        /// Processors of each.
        cpus: u32,
    },
}

/// A row of the guide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct MachineRow {
    /// From this many users …
    pub users_min: u64,
    /// … to this many; `None` for any number.
    pub users_max: Option<u64>,
    /// Machine for the daemon.
    pub daemon: DaemonMachine,
    /// Machine for the relay.
    pub relay: RelayMachine,
}

impl MachineRow {
    /// Whether a machine is what the row asks for the daemon. Of memory nine tenths are enough: a machine
    /// that is sold with 4 GB tells less to its programs.
    fn daemon_fits(&self, machine_cpus: u64, machine_ram_bytes: u64) -> bool {
        match self.daemon {
            DaemonMachine::One { cpus, ram_bytes } => {
                machine_cpus >= u64::from(cpus)
                    && u128::from(machine_ram_bytes) * 10 >= u128::from(ram_bytes.0) * 9
            }
            DaemonMachine::Several => false,
        }
    }
}

/// As many users as the guide gives a machine's daemon; 0 of one that is smaller than all in the guide.
#[must_use]
pub fn users_of_machine(cpus: u64, ram_bytes: u64) -> u64 {
    let fitting = MACHINES
        .iter()
        .filter(|row| row.daemon_fits(cpus, ram_bytes));
    let users = fitting.filter_map(|row| row.users_max);
    users.max().unwrap_or_default()
}

/// The guide. Its rows meet at 10, 100 and 1000 users, as in the plan; there the smaller
/// machine still does.
pub const MACHINES: [MachineRow; 4] = [
    MachineRow {
        users_min: 1,
        users_max: Some(10),
        daemon: DaemonMachine::One {
            cpus: 2,
            ram_bytes: ByteCount(2 * GB),
        },
        relay: RelayMachine::NotNeeded,
    },
    MachineRow {
        users_min: 10,
        users_max: Some(100),
        daemon: DaemonMachine::One {
            cpus: 4,
            ram_bytes: ByteCount(4 * GB),
        },
        relay: RelayMachine::One {
            cpus: 2,
            ram_bytes: ByteCount(2 * GB),
        },
    },
    MachineRow {
        users_min: 100,
        users_max: Some(1000),
        daemon: DaemonMachine::One {
            cpus: 8,
            ram_bytes: ByteCount(8 * GB),
        },
        relay: RelayMachine::One {
            cpus: 4,
            ram_bytes: ByteCount(4 * GB),
        },
    },
    MachineRow {
        users_min: 1000,
        users_max: None,
        daemon: DaemonMachine::Several,
        relay: RelayMachine::Several {
            instances_min: 3,
            cpus: 8,
        },
    },
];

/// The row of the guide for `users`.
///
/// # Errors
/// [`CapacityError::Zero`] for no users: the guide starts at one.
pub fn machines_for(users: u64) -> Result<MachineRow> {
    if users == 0 {
        return Err(CapacityError::Zero {
            what: "users",
            why: "the guide starts at one user",
        });
    }
    let fits = |row: &&MachineRow| row.users_max.is_none_or(|max| users <= max);
    // The last row has no end, so there is always one.
    Ok(MACHINES
        .iter()
        .find(fits)
        .copied()
        .unwrap_or(MACHINES[MACHINES.len() - 1]))
}

impl MachineRow {
    /// The users in the plan's words: `10-100`, `1000+`.
    #[must_use]
    pub fn users(&self) -> String {
        match self.users_max {
            Some(max) => format!("{}-{max}", self.users_min),
            None => format!("{}+", self.users_min),
        }
    }
}

impl fmt::Display for DaemonMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One { cpus, ram_bytes } => write_one(f, *cpus, *ram_bytes),
            Self::Several => f.write_str("Multiple machines"),
        }
    }
}

impl fmt::Display for RelayMachine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNeeded => f.write_str("Not needed (local only)"),
            Self::One { cpus, ram_bytes } => write_one(f, *cpus, *ram_bytes),
            Self::Several {
                instances_min,
                cpus,
            } => {
                write!(f, "{instances_min}+ instances, {cpus} CPU each")
            }
        }
    }
}

fn write_one(f: &mut fmt::Formatter<'_>, cpus: u32, ram_bytes: ByteCount) -> fmt::Result {
    write!(f, "{cpus} CPU, {} GB RAM", ram_bytes.0 / GB)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_row(users: [u64; 2], text: &str, daemon: &str, relay: &str) {
        for users in users {
            let row = machines_for(users).unwrap();
            assert_eq!(row.users(), text);
            assert_eq!(row.daemon.to_string(), daemon);
            assert_eq!(row.relay.to_string(), relay);
        }
    }

    #[test]
    fn a_machine_serves_as_many_users_as_the_guide_gives_it() {
        for (cpus, ram, users) in [
            (1, 64 * GB, 0),
            (2, 2 * GB, 10),
            (2, 64 * GB, 10),
            (4, 4 * GB - GB / 4, 100),
            (16, 2 * GB, 10),
            (64, 64 * GB, 1_000),
        ] {
            assert_eq!(users_of_machine(cpus, ram), users, "{cpus} CPU, {ram}");
        }
    }

    #[test]
    fn guide_row_1_to_10_users_2_cpu_2_gb_no_relay() {
        assert_row(
            [1, 10],
            "1-10",
            "2 CPU, 2 GB RAM",
            "Not needed (local only)",
        );
    }

    #[test]
    fn guide_row_10_to_100_users_4_cpu_4_gb_relay_2_cpu_2_gb() {
        assert_row([11, 100], "10-100", "4 CPU, 4 GB RAM", "2 CPU, 2 GB RAM");
    }

    #[test]
    fn guide_row_100_to_1000_users_8_cpu_8_gb_relay_4_cpu_4_gb() {
        assert_row(
            [101, 1000],
            "100-1000",
            "8 CPU, 8 GB RAM",
            "4 CPU, 4 GB RAM",
        );
    }

    #[test]
    fn guide_row_over_1000_users_multiple_machines_3_relays_of_8_cpu() {
        assert_row(
            [1001, u64::MAX],
            "1000+",
            "Multiple machines",
            "3+ instances, 8 CPU each",
        );
    }

    #[test]
    fn no_users_is_refused() {
        assert!(matches!(machines_for(0), Err(CapacityError::Zero { .. })));
    }
}
