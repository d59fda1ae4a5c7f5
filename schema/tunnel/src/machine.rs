//! Machine ids.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::MACHINE_DOMAIN;

/// Length of a machine id: that of a DNS label.
pub const MACHINE_ID_BYTES_MAX: usize = 63;

/// A machine's name: 1 to 63 lower-case ASCII letters, digits and hyphens, with a letter or
/// digit at both ends.
///
/// It is a DNS label because it stands in certificates and in the name that a daemon asks for in
/// its TLS greeting, by which a load balancer finds the machine's relay.
///
/// ```
/// use betcode_schema_tunnel::MachineId;
/// assert!("7f3e0c52-laptop".parse::<MachineId>().is_ok());
/// assert!("Laptop".parse::<MachineId>().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MachineId(String);

/// A text that cannot name a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a machine id: {why}; use 1 to {MACHINE_ID_BYTES_MAX} lower-case letters, digits and hyphens"
)]
pub struct InvalidMachineId {
    why: &'static str,
}

impl MachineId {
    /// Checks `text` and takes it as an id.
    ///
    /// # Errors
    /// [`InvalidMachineId`] when it is not a DNS label in lower case.
    pub fn new(text: impl Into<String>) -> Result<Self, InvalidMachineId> {
        let text = text.into();
        let refuse = |why| Err(InvalidMachineId { why });
        if text.is_empty() {
            return refuse("it is empty");
        }
        if text.len() > MACHINE_ID_BYTES_MAX {
            return refuse("it is longer than a DNS label");
        }
        let allowed = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-';
        if !text.bytes().all(allowed) {
            return refuse("it has another character");
        }
        if text.starts_with('-') || text.ends_with('-') {
            return refuse("it begins or ends with a hyphen");
        }
        Ok(Self(text))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name by which a certificate names this machine.
    #[must_use]
    pub fn certificate_name(&self) -> String {
        format!("{}.{MACHINE_DOMAIN}", self.0)
    }
}

impl fmt::Display for MachineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for MachineId {
    type Err = InvalidMachineId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for MachineId {
    type Error = InvalidMachineId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<MachineId> for String {
    fn from(id: MachineId) -> Self {
        id.0
    }
}
