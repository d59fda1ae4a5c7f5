//! Looking into JSON that may be anything: what is not there, or not of the kind, is empty.

use std::collections::HashMap;

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::limits::STRUCT_DEPTH_MAX;

/// A value; what is nested deeper than may be handed on is its JSON, as text.
pub(crate) fn value_of(json: &str) -> Value {
    // Fails for what is nested deep, and for a number that no double holds.
    serde_json::from_str(json).unwrap_or_else(|_| shallow(json, STRUCT_DEPTH_MAX))
}

fn shallow(json: &str, depth: usize) -> Value {
    let inner = |value: &RawValue| shallow(value.get(), depth - 1);
    if depth == 0 {
        return Value::String(json.to_owned());
    }
    if let Ok(fields) = serde_json::from_str::<HashMap<String, &RawValue>>(json) {
        let fields = fields.into_iter();
        return Value::Object(fields.map(|(name, value)| (name, inner(value))).collect());
    }
    match serde_json::from_str::<Vec<&RawValue>>(json) {
        Ok(values) => Value::Array(values.into_iter().map(inner).collect()),
        Err(_) => serde_json::from_str(json).unwrap_or_default(),
    }
}

pub(super) fn object<'a>(value: &'a Value, name: &str) -> &'a Value {
    value.get(name).unwrap_or(&Value::Null)
}

pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn flag(value: &Value, name: &str) -> bool {
    value.get(name).and_then(Value::as_bool).unwrap_or_default()
}

pub(super) fn number(value: &Value, name: &str) -> u64 {
    let value = object(value, name);
    // Saturating: an `as` from f64 is.
    value
        .as_u64()
        .or_else(|| value.as_f64().map(|n| n as u64))
        .unwrap_or_default()
}

/// A number that the protocol has 32 bits for.
pub(super) fn narrow(value: &Value, name: &str) -> u32 {
    u32::try_from(number(value, name)).unwrap_or(u32::MAX)
}

pub(crate) fn timestamp(unix_ms: i64) -> Timestamp {
    Timestamp {
        seconds: unix_ms.div_euclid(1000),
        // Lossless: below 10^9.
        nanos: unix_ms.rem_euclid(1000) as i32 * 1_000_000,
    }
}

/// An object as protobuf has it; numbers become doubles, as it wants them.
pub(super) fn to_struct(value: &Value) -> Option<Struct> {
    let fields = value.as_object()?;
    let fields = fields
        .iter()
        .map(|(name, value)| (name.clone(), to_value(value, 1)))
        .collect();
    Some(Struct { fields })
}

fn to_value(value: &Value, depth: usize) -> prost_types::Value {
    let kind = match value {
        // Deeper than other readers of protobuf go.
        Value::Array(_) | Value::Object(_) if depth >= STRUCT_DEPTH_MAX => {
            Kind::StringValue(value.to_string())
        }
        Value::Null => Kind::NullValue(0),
        Value::Bool(value) => Kind::BoolValue(*value),
        Value::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Value::String(value) => Kind::StringValue(value.clone()),
        Value::Array(values) => Kind::ListValue(ListValue {
            values: values
                .iter()
                .map(|value| to_value(value, depth + 1))
                .collect(),
        }),
        Value::Object(fields) => Kind::StructValue(Struct {
            fields: fields
                .iter()
                .map(|(name, value)| (name.clone(), to_value(value, depth + 1)))
                .collect(),
        }),
    };
    prost_types::Value { kind: Some(kind) }
}

/// A protobuf object as JSON; numbers without a fraction become integers again.
///
/// # Errors
/// What JSON has no words for: nesting beyond the bound, numbers that are none.
pub(crate) fn from_struct(fields: &Struct) -> Result<Value, String> {
    object_from(fields, 1)
}

fn object_from(object: &Struct, depth: usize) -> Result<Value, String> {
    let fields = object.fields.iter();
    let fields = fields.map(|(name, value)| Ok((name.clone(), from_value(value, depth)?)));
    fields.collect::<Result<_, _>>().map(Value::Object)
}

/// Whole numbers that a double has exactly.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

fn from_value(value: &prost_types::Value, depth: usize) -> Result<Value, String> {
    if depth > STRUCT_DEPTH_MAX {
        return Err(format!("it is nested more than {STRUCT_DEPTH_MAX} deep"));
    }
    Ok(match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => Value::Bool(*value),
        // Lossless: whole, and below 2^53.
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < WHOLE_MAX => {
            Value::from(*number as i64)
        }
        Some(Kind::NumberValue(number)) => serde_json::Number::from_f64(*number)
            .map(Value::Number)
            .ok_or_else(|| format!("{number} is no number that JSON knows"))?,
        Some(Kind::StringValue(text)) => Value::String(text.clone()),
        Some(Kind::ListValue(list)) => {
            let values = list.values.iter();
            let values = values.map(|value| from_value(value, depth + 1));
            Value::Array(values.collect::<Result<_, _>>()?)
        }
        Some(Kind::StructValue(object)) => object_from(object, depth + 1)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_comes_back_as_it_was() {
        let value = serde_json::json!({
            "whole": 3, "half": 2.5, "big": 1e300, "less": -7, "text": "x", "none": null,
            "list": [true, {"deep": []}],
        });
        assert_eq!(from_struct(&to_struct(&value).unwrap()).unwrap(), value);
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        let with = |kind| Struct {
            fields: [("x".to_owned(), prost_types::Value { kind: Some(kind) })].into(),
        };
        assert!(from_struct(&with(Kind::NumberValue(f64::NAN))).is_err());
        let mut deep = with(Kind::BoolValue(true));
        for _ in 0..2 * STRUCT_DEPTH_MAX {
            deep = with(Kind::StructValue(deep));
        }
        assert!(from_struct(&deep).is_err());
    }
}
