//! Trace ids as W3C Trace Context writes them in `traceparent`: taken from the caller, or made here,
//! so that a call's lines in all logs are found by one id.

use http::{HeaderMap, HeaderName, HeaderValue};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The trace id in a call's headers.
fn from_headers(headers: &HeaderMap) -> Option<&str> {
    parse(headers.get(&TRACEPARENT)?.to_str().ok()?)
}

/// The trace id in a call's headers, or a new one.
#[must_use]
pub fn from_headers_or_new(headers: &HeaderMap) -> String {
    from_headers(headers).map_or_else(new_id, str::to_owned)
}

/// A new trace id: a version 4 UUID is as random as one has to be.
fn new_id() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The trace id of a call that is passed on. Afterwards its headers have one in any case.
pub fn ensure(headers: &mut HeaderMap) -> String {
    if let Some(id) = from_headers(headers) {
        return id.to_owned();
    }
    let id = new_id();
    let span = &new_id()[..16];
    if let Ok(value) = HeaderValue::try_from(format!("00-{id}-{span}-01")) {
        headers.insert(TRACEPARENT, value);
    }
    id
}

/// `<version>-<trace id>-<span id>-<flags>`. Later versions may go on behind that; flags that are
/// missing spoil no id.
fn parse(text: &str) -> Option<&str> {
    let mut parts = text.split('-');
    let (version, id, span) = (parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length: usize| {
        text.len() == length && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |text: &str, length| is_hex(text, length) && text.bytes().any(|c| c != b'0');
    (is_hex(version, 2) && version != "ff" && is_id(id, 32) && is_id(span, 16)).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_callers_trace_is_kept_and_one_that_is_none_is_replaced() {
        let good = format!("00-{ID}-00f067aa0ba902b7-01");
        let with = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, text.parse().unwrap());
            let id = ensure(&mut headers);
            (id, headers[TRACEPARENT].to_str().unwrap().to_owned())
        };
        for kept in [
            good.clone(),
            format!("00-{ID}-00f067aa0ba902b7"),
            format!("cc-{ID}-00f067aa0ba902b7-01-what-comes-later"),
        ] {
            assert_eq!(with(&kept), (ID.to_owned(), kept));
        }
        let zeros = format!("00-{}-00f067aa0ba902b7-01", "0".repeat(32));
        let last = format!("ff-{ID}-00f067aa0ba902b7-01");
        let no_hex = format!("0g-{ID}-00f067aa0ba902b7-01");
        let upper = good.to_uppercase();
        for bad in ["", "x", "00-12-34-01", &zeros, &upper, &last, &no_hex] {
            let (id, passed) = with(bad);
            assert_ne!(passed, bad);
            assert_eq!(parse(&passed), Some(id.as_str()), "{bad}");
        }
    }
}
