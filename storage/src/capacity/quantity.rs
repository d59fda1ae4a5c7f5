//! Numbers with a meaning: byte counts, ratios, rates, and where each input comes from.

use serde::Serialize;

use super::error::{CapacityError, Result};

/// Bytes of a KB in the plan.
pub const KB: u64 = 1_000;
/// Bytes of a MB in the plan.
pub const MB: u64 = 1_000_000;
/// Bytes of a GB in the plan.
pub const GB: u64 = 1_000_000_000;

/// 2^64, the first float beyond the range of `u64`.
const U64_END: f64 = 18_446_744_073_709_551_616.0;

/// A number of bytes. Serialized as a plain integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize)]
#[serde(transparent)]
pub struct ByteCount(pub u64);

impl ByteCount {
    /// `megabytes` × 10^6 bytes, rounded to the byte.
    ///
    /// # Errors
    /// When it is NaN, infinite, negative or beyond 2^64 bytes.
    pub fn from_mb(what: &'static str, megabytes: f64) -> Result<Self> {
        whole(what, (megabytes * MB as f64).round()).map(Self)
    }

    /// In MB of 10^6 bytes.
    #[must_use]
    pub fn mb(self) -> f64 {
        self.0 as f64 / MB as f64
    }

    pub(crate) fn times(self, what: &'static str, count: u64) -> Result<Self> {
        self.0
            .checked_mul(count)
            .map(Self)
            .ok_or(CapacityError::Overflow { what })
    }

    pub(crate) fn scaled(self, what: &'static str, factor: f64) -> Result<Self> {
        MeanBytes(self.0 as f64).scaled(what, factor)
    }

    pub(crate) fn sum(what: &'static str, parts: &[Self]) -> Result<Self> {
        let add = |sum: u64, part: &Self| sum.checked_add(part.0);
        parts
            .iter()
            .try_fold(0, add)
            .map(Self)
            .ok_or(CapacityError::Overflow { what })
    }
}

/// A non-negative finite number; its unit stands in the name of the field that holds it.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct Amount(pub(crate) f64);

impl Amount {
    /// Takes `value`.
    ///
    /// # Errors
    /// When it is NaN, infinite or negative.
    pub fn new(what: &'static str, value: f64) -> Result<Self> {
        not_negative(what, value).map(Self)
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }
}

/// Bytes of something on average: they need not be whole.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct MeanBytes(pub(crate) f64);

impl MeanBytes {
    /// The number of bytes.
    #[must_use]
    pub fn get(self) -> f64 {
        self.0
    }

    pub(crate) fn scaled(self, what: &'static str, factor: f64) -> Result<ByteCount> {
        whole(what, (self.0 * factor).round()).map(ByteCount)
    }
}

/// Hours of a day, 0 to 24.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct HoursPerDay(pub(crate) f64);

/// Days of a month, 0 to 31.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize)]
#[serde(transparent)]
pub struct DaysPerMonth(pub(crate) f64);

/// A number that an input may be: how it is checked, shown and named.
pub trait Quantity: Copy {
    /// What it is counted in, for tables; empty for plain counts.
    const UNIT: &'static str;

    /// The quantity of `value` units.
    ///
    /// # Errors
    /// When no such quantity exists.
    fn from_f64(what: &'static str, value: f64) -> Result<Self>;

    /// In its unit.
    fn as_f64(self) -> f64;
}

impl Quantity for u64 {
    const UNIT: &'static str = "";

    fn from_f64(what: &'static str, value: f64) -> Result<Self> {
        whole(what, value)
    }

    fn as_f64(self) -> f64 {
        self as f64
    }
}

impl Quantity for ByteCount {
    const UNIT: &'static str = "bytes";

    fn from_f64(what: &'static str, value: f64) -> Result<Self> {
        whole(what, value).map(Self)
    }

    fn as_f64(self) -> f64 {
        self.0.as_f64()
    }
}

impl Quantity for Amount {
    const UNIT: &'static str = "";

    fn from_f64(what: &'static str, value: f64) -> Result<Self> {
        Self::new(what, value)
    }

    fn as_f64(self) -> f64 {
        self.0
    }
}

impl Quantity for MeanBytes {
    const UNIT: &'static str = ByteCount::UNIT;

    fn from_f64(what: &'static str, value: f64) -> Result<Self> {
        not_negative(what, value).map(Self)
    }

    fn as_f64(self) -> f64 {
        self.0
    }
}

impl Quantity for HoursPerDay {
    const UNIT: &'static str = "h/day";

    fn from_f64(what: &'static str, value: f64) -> Result<Self> {
        up_to(what, value, 24.0).map(Self)
    }

    fn as_f64(self) -> f64 {
        self.0
    }
}

impl Quantity for DaysPerMonth {
    const UNIT: &'static str = "days/month";

    fn from_f64(what: &'static str, value: f64) -> Result<Self> {
        up_to(what, value, 31.0).map(Self)
    }

    fn as_f64(self) -> f64 {
        self.0
    }
}

/// Where the value of an input comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A constant of the plan.
    PlanDefault,
    /// The load of the plan's worked example, where the plan leaves the input to the user.
    PlanExample,
    /// Given by the user.
    Given,
    /// Measured in a store or a process.
    Measured,
    /// Computed from what was measured, so that the plan's formula comes to a measured result.
    Derived,
}

impl Source {
    /// The source in words, for tables.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::PlanDefault => "plan",
            Self::PlanExample => "plan's example",
            Self::Given => "given",
            Self::Measured => "measured",
            Self::Derived => "derived",
        }
    }
}

/// A value and where it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Input<T> {
    /// The value, in the unit that the field's name states.
    pub value: T,
    /// Where it comes from.
    pub source: Source,
}

impl<T> Input<T> {
    /// A value computed from measured ones.
    pub fn derived(value: T) -> Self {
        Self {
            value,
            source: Source::Derived,
        }
    }

    /// A value given by the user.
    pub fn given(value: T) -> Self {
        Self {
            value,
            source: Source::Given,
        }
    }

    /// A value measured.
    pub fn measured(value: T) -> Self {
        Self {
            value,
            source: Source::Measured,
        }
    }
}

fn not_negative(what: &'static str, value: f64) -> Result<f64> {
    if !value.is_finite() {
        return Err(CapacityError::NotFinite { what, value });
    }
    if value < 0.0 {
        return Err(CapacityError::Negative { what, value });
    }
    Ok(value)
}

fn up_to(what: &'static str, value: f64, max: f64) -> Result<f64> {
    let value = not_negative(what, value)?;
    if value > max {
        return Err(CapacityError::OutOfBounds {
            what,
            value: value.to_string(),
            min: "0".into(),
            max: max.to_string(),
        });
    }
    Ok(value)
}

fn whole(what: &'static str, value: f64) -> Result<u64> {
    let value = not_negative(what, value)?;
    if value.fract() != 0.0 {
        return Err(CapacityError::NotWhole { what, value });
    }
    if value >= U64_END {
        return Err(CapacityError::Overflow { what });
    }
    Ok(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn megabytes_are_ten_to_the_sixth_bytes() {
        assert_eq!(ByteCount::from_mb("x", 0.05).unwrap(), ByteCount(50_000));
        assert!((ByteCount(1_760_000_000).mb() - 1760.0).abs() < 1e-9);
    }

    #[test]
    fn impossible_numbers_are_refused_with_the_reason() {
        let why = |value| {
            ByteCount::from_mb("per_session", value)
                .unwrap_err()
                .to_string()
        };
        assert!(why(f64::NAN).contains("not a number"));
        assert!(why(f64::INFINITY).contains("not a number"));
        assert!(why(-1.0).contains("cannot be negative"));
        assert!(why(1e14).contains("too large"));
        assert!(
            u64::from_f64("sessions", 2.5)
                .unwrap_err()
                .to_string()
                .contains("whole number")
        );
        assert!(
            HoursPerDay::from_f64("hours", 24.5)
                .unwrap_err()
                .to_string()
                .contains("24")
        );
        assert!(DaysPerMonth::from_f64("days", 32.0).is_err());
    }
}
