//! Trace ids: taken from the caller's `traceparent`, made here when there is none, and passed on,
//! so that a call's lines in the logs of relay and daemon are found by one id.

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Length of `00-<32 digits>-<16 digits>-01`.
const TRACEPARENT_BYTES: usize = 55;

/// The id of a call's trace. Afterwards the call has one in any case.
pub(crate) fn of(headers: &mut HeaderMap) -> String {
    let said = headers.get(&TRACEPARENT);
    if let Some(id) = said.and_then(|value| parse(value.to_str().ok()?)) {
        return id.to_owned();
    }
    // A version 4 id is as random as a trace id has to be.
    let id = uuid::Uuid::new_v4().simple().to_string();
    let span = &uuid::Uuid::new_v4().simple().to_string()[..16];
    if let Ok(value) = HeaderValue::try_from(format!("00-{id}-{span}-01")) {
        headers.insert(TRACEPARENT, value);
    }
    id
}

/// The trace id in a header as W3C Trace Context writes it. Later versions may go on behind it.
fn parse(text: &str) -> Option<&str> {
    if text.len() < TRACEPARENT_BYTES || text.starts_with("ff") {
        return None;
    }
    let mut parts = text.split('-');
    let (version, id, span) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |text: &str, length: usize| {
        text.len() == length
            && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
            && text.bytes().any(|c| c != b'0')
    };
    (version.len() == 2 && hex(id, 32) && hex(span, 16)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_callers_trace_is_kept_and_one_that_is_none_is_replaced() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let good = format!("00-{id}-00f067aa0ba902b7-01");
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, text.parse().unwrap());
            let id = of(&mut headers);
            (id, headers[TRACEPARENT].to_str().unwrap().to_owned())
        };
        assert_eq!(with(&good), (id.to_owned(), good.clone()));
        let zeros = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        for bad in ["", "x", "00-12-34-01", &zeros, &good.to_uppercase()] {
            let (id, passed) = with(bad);
            assert_ne!(passed, bad);
            assert_eq!(parse(&passed), Some(id.as_str()));
        }
        let mut none = HeaderMap::new();
        let id = of(&mut none);
        assert!(none[TRACEPARENT].to_str().unwrap().contains(&id));
    }
}
