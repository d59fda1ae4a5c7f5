//! Trace ids: taken from the caller's `traceparent` or made here, carried to the commit.

use betcode_service::trace_context;
use http::HeaderMap;

/// Id of one request's trace: 32 hex digits, as in W3C Trace Context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceId(String);

impl TraceId {
    /// The id in a call's headers; a new one when there is none, or none that can be read.
    #[must_use]
    pub fn from_headers(headers: &HeaderMap) -> Self {
        let id = trace_context::from_headers(headers).map(str::to_owned);
        Self(id.unwrap_or_else(trace_context::new_id))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
