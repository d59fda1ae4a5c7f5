//! Declaring a formula's inputs once: their names, units, defaults, sources, and how to list
//! and replace them by name.

use serde::Serialize;

use super::bandwidth::BandwidthInputs;
use super::memory::{DaemonMemoryInputs, MemoryBudgetInputs, RelayMemoryInputs};
use super::relays::RelayInputs;
use super::storage_growth::StorageGrowthInputs;
use crate::capacity::error::{CapacityError, Result};
use crate::capacity::quantity::Source;

/// One input of a formula, for tables.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct InputRow {
    /// Group and name, as `Plan` inputs are set by: `daemon_memory.sessions`.
    pub name: String,
    /// The value, in `unit`.
    pub value: f64,
    /// What it is counted in; empty for plain counts and ratios.
    pub unit: &'static str,
    /// Where it comes from.
    pub source: Source,
    /// What it is.
    pub meaning: &'static str,
}

/// Declares a struct of [`Input`](crate::capacity::quantity::Input)s. Each line is a meaning,
/// a name with its type, the default and the default's source.
macro_rules! inputs {
    (
        $(#[$meta:meta])*
        $group:ident => pub struct $name:ident {
            $( #[doc = $meaning:literal] $field:ident: $type:ty = $default:expr, $source:ident; )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, serde::Serialize)]
        pub struct $name {
            $(
                #[doc = $meaning]
                pub $field: $crate::capacity::quantity::Input<$type>,
            )+
        }

        impl Default for $name {
            fn default() -> Self {
                use $crate::capacity::quantity::{Input, Source};
                Self { $( $field: Input { value: $default, source: Source::$source }, )+ }
            }
        }

        impl $name {
            /// Name of the group in [`PlanInputs`]($crate::capacity::planner::PlanInputs).
            pub const GROUP: &'static str = stringify!($group);

            /// The inputs in the plan's order.
            #[must_use]
            pub fn rows(&self) -> Vec<$crate::capacity::planner::InputRow> {
                use $crate::capacity::quantity::Quantity;
                vec![ $( $crate::capacity::planner::InputRow {
                    name: concat!(stringify!($group), ".", stringify!($field)).to_owned(),
                    value: self.$field.value.as_f64(),
                    unit: <$type as Quantity>::UNIT,
                    source: self.$field.source,
                    meaning: $meaning.trim(),
                }, )+ ]
            }

            /// Replaces the input called `field`, and says whether there is one.
            ///
            /// # Errors
            /// When the input cannot have this value.
            pub fn set(
                &mut self,
                field: &str,
                value: f64,
                source: $crate::capacity::quantity::Source,
            ) -> $crate::capacity::error::Result<bool> {
                use $crate::capacity::quantity::{Input, Quantity};
                match field {
                    $( stringify!($field) => {
                        let value = <$type as Quantity>::from_f64(
                            concat!(stringify!($group), ".", stringify!($field)), value)?;
                        self.$field = Input { value, source };
                    } )+
                    _ => return Ok(false),
                }
                Ok(true)
            }
        }
    };
}

pub(crate) use inputs;

/// Inputs of all formulas, with the plan's defaults.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct PlanInputs {
    /// Of the daemon's memory.
    pub daemon_memory: DaemonMemoryInputs,
    /// Of the relay's memory.
    pub relay_memory: RelayMemoryInputs,
    /// Of the database's growth.
    pub storage_growth: StorageGrowthInputs,
    /// Of the number of relays.
    pub relays: RelayInputs,
    /// Of the daemon's memory budget.
    pub memory_budget: MemoryBudgetInputs,
    /// Of the network's load.
    pub bandwidth: BandwidthInputs,
}

impl PlanInputs {
    /// All inputs, in the plan's order.
    #[must_use]
    pub fn rows(&self) -> Vec<InputRow> {
        [
            self.daemon_memory.rows(),
            self.relay_memory.rows(),
            self.storage_growth.rows(),
            self.relays.rows(),
            self.memory_budget.rows(),
            self.bandwidth.rows(),
        ]
        .concat()
    }

    /// Replaces the input called `name` (`group.field`, as in [`PlanInputs::rows`]); `value` is
    /// in the input's unit.
    ///
    /// ```
    /// use betcode_storage::capacity::{planner::PlanInputs, quantity::Source};
    /// let mut inputs = PlanInputs::default();
    /// inputs.set("daemon_memory.sessions", 40.0, Source::Given).unwrap();
    /// assert_eq!(inputs.daemon_memory.sessions.value, 40);
    /// assert!(inputs.set("daemon_memory.sessions", -1.0, Source::Given).is_err());
    /// ```
    ///
    /// # Errors
    /// When no input has the name, or the input cannot have the value.
    pub fn set(&mut self, name: &str, value: f64, source: Source) -> Result<()> {
        let (group, field) = name.split_once('.').unwrap_or((name, ""));
        let found = match group {
            DaemonMemoryInputs::GROUP => self.daemon_memory.set(field, value, source)?,
            RelayMemoryInputs::GROUP => self.relay_memory.set(field, value, source)?,
            StorageGrowthInputs::GROUP => self.storage_growth.set(field, value, source)?,
            RelayInputs::GROUP => self.relays.set(field, value, source)?,
            MemoryBudgetInputs::GROUP => self.memory_budget.set(field, value, source)?,
            BandwidthInputs::GROUP => self.bandwidth.set(field, value, source)?,
            _ => false,
        };
        if found {
            return Ok(());
        }
        let names: Vec<String> = self.rows().into_iter().map(|row| row.name).collect();
        Err(CapacityError::UnknownName {
            kind: "plan input",
            name: name.chars().take(80).collect(),
            known: names.join(", "),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_input_can_be_set_by_the_name_it_is_listed_under() {
        let mut inputs = PlanInputs::default();
        for row in inputs.rows() {
            inputs.set(&row.name, row.value, Source::Given).unwrap();
        }
        assert!(inputs.rows().iter().all(|row| row.source == Source::Given));
        let values = |i: &PlanInputs| i.rows().iter().map(|r| r.value).collect::<Vec<_>>();
        assert_eq!(values(&inputs), values(&PlanInputs::default()));
    }

    #[test]
    fn an_unknown_input_is_answered_with_the_names_there_are() {
        for name in [
            "",
            ".",
            "sessions",
            "daemon_memory",
            "daemon_memory.x",
            "x.sessions",
        ] {
            let error = PlanInputs::default()
                .set(name, 1.0, Source::Given)
                .unwrap_err();
            assert!(
                error.to_string().contains("daemon_memory.sessions"),
                "{error}"
            );
        }
    }

    #[test]
    fn every_input_refuses_a_negative_and_a_nan() {
        for row in PlanInputs::default().rows() {
            for bad in [-1.0, f64::NAN, f64::INFINITY] {
                assert!(
                    PlanInputs::default()
                        .set(&row.name, bad, Source::Given)
                        .is_err()
                );
            }
        }
    }
}
