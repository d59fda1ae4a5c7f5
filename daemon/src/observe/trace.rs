//! Trace ids: taken from the caller's `traceparent` or made here, carried to the commit.

use std::hash::{BuildHasher, RandomState};

/// Id of one request's trace: 32 hex digits, as in W3C Trace Context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceId(String);

impl TraceId {
    /// The id in a `traceparent` header; a new one when there is none, or none that can be read.
    #[must_use]
    pub fn of(traceparent: Option<&str>) -> Self {
        traceparent.and_then(Self::parse).unwrap_or_else(Self::new)
    }

    fn parse(traceparent: &str) -> Option<Self> {
        let mut parts = traceparent.split('-');
        let version = parts.next()?;
        let id = parts.next()?;
        let span = parts.next()?;
        let hex = |text: &str, length| {
            text.len() == length
                && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
                && text.bytes().any(|c| c != b'0')
        };
        (version.len() == 2 && version != "ff" && hex(id, 32) && hex(span, 16))
            .then(|| Self(id.to_owned()))
    }

    fn new() -> Self {
        // Two keyed hashes of nothing: random, and no dependency for it.
        let half = || RandomState::new().hash_one(());
        Self(format!("{:016x}{:016x}", half(), half()))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_id_is_kept_and_a_bad_one_replaced() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{id}-00f067aa0ba902b7-01");
        assert_eq!(TraceId::of(Some(&good)).as_str(), id);
        let zeros = "0".repeat(32);
        for bad in [
            "",
            "x",
            "00-12-34-01",
            &format!("00-{zeros}-00f067aa0ba902b7-01"),
        ] {
            assert_ne!(TraceId::of(Some(bad)).as_str(), zeros);
            assert_eq!(TraceId::of(Some(bad)).as_str().len(), 32, "{bad}");
        }
        assert_ne!(TraceId::of(None), TraceId::of(None));
    }
}
