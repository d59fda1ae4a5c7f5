//! Looking into JSON that may be anything: what is not there, or not of the kind, is empty.

use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Timestamp};
use serde_json::Value;

use crate::limits::STRUCT_DEPTH_MAX;

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
