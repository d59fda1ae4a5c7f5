//! Why a capacity question has no answer.

use crate::error::{Argument, StoreError};

/// Result of capacity calculations.
pub(crate) type Result<T, E = CapacityError> = std::result::Result<T, E>;

/// An input that makes no sense, with the reason. Nothing is computed from it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CapacityError {
    /// NaN or infinite.
    #[error("{what} is {value}, which is not a number that can be computed with")]
    NotFinite {
        /// The input.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// Below zero.
    #[error("{what} is {value}: it cannot be negative")]
    Negative {
        /// The input.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// A part of something that only comes whole.
    #[error("{what} is {value}: it has to be a whole number")]
    NotWhole {
        /// The input.
        what: &'static str,
        /// Its value.
        value: f64,
    },
    /// Zero where it would mean division by nothing, or a limit that nothing fits under.
    #[error("{what} is 0: {why}")]
    Zero {
        /// The input.
        what: &'static str,
        /// What zero would mean.
        why: &'static str,
    },
    /// Outside its bounds.
    #[error("{what} is {value}: it has to be between {min} and {max}")]
    OutOfBounds {
        /// The input.
        what: &'static str,
        /// Its value, with its unit.
        value: String,
        /// The least it may be, with its unit.
        min: String,
        /// The most it may be, with its unit.
        max: String,
    },
    /// The result does not fit the numbers it is given in.
    #[error("{what} is too large to be computed: it exceeds 2^64 bytes or units")]
    Overflow {
        /// The result.
        what: &'static str,
    },
    /// No input, metric or setting has this name.
    #[error("there is no {kind} called {name:?}; the names are {known}")]
    UnknownName {
        /// What was looked for.
        kind: &'static str,
        /// The name as given.
        name: String,
        /// All names, separated by commas.
        known: String,
    },
    /// Two inputs that do not go together.
    #[error("{what}: {why}")]
    Contradiction {
        /// The inputs.
        what: &'static str,
        /// What is wrong between them, with their values.
        why: String,
    },
}

impl CapacityError {
    /// The input that it is about.
    #[must_use]
    pub fn what(&self) -> &'static str {
        match self {
            Self::NotFinite { what, .. }
            | Self::Negative { what, .. }
            | Self::NotWhole { what, .. }
            | Self::Zero { what, .. }
            | Self::OutOfBounds { what, .. }
            | Self::Overflow { what }
            | Self::Contradiction { what, .. } => what,
            Self::UnknownName { kind, .. } => kind,
        }
    }
}

impl From<CapacityError> for StoreError {
    fn from(error: CapacityError) -> Self {
        let (what, text) = (error.what(), error.to_string());
        // Both begin with the input's name.
        let why = match text.strip_prefix(what) {
            Some(rest) => match rest.strip_prefix(": ") {
                Some(why) => why.to_owned(),
                None => format!("it{rest}"),
            },
            None => text,
        };
        Self::InvalidArgument {
            what: Argument::Named(what),
            why,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_an_input_is_told_once() {
        let contradiction = CapacityError::Contradiction {
            what: "retention age",
            why: "an age below one day would remove what was just written".into(),
        };
        let zero = CapacityError::Zero {
            what: "retention size",
            why: "it would remove every session",
        };
        for (error, told) in [
            (
                contradiction,
                "retention age is not valid: an age below one day would remove what was just written",
            ),
            (
                zero,
                "retention size is not valid: it is 0: it would remove every session",
            ),
        ] {
            assert_eq!(StoreError::from(error).to_string(), told);
        }
    }
}
