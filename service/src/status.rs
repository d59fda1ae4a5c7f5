//! gRPC statuses as the daemon and the relay answer them: a message for people, details for programs.
//!
//! The message says what happened and what to try. The details are an `ErrorInfo` with the reason and, where it is
//! known, what to try; with a limit a `QuotaFailure` that names it; a `RetryInfo` if waiting alone helps; with an
//! argument a `BadRequest` that names it.

use std::collections::HashMap;
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// Bytes of a status's message: it stands in headers twice, percent-encoded and in the details, and
/// clients take 8 KiB of them.
pub const STATUS_TEXT_BYTES_MAX: usize = 1 << 10;

/// Key of what to try in the metadata of `ErrorInfo`.
pub const HINT: &str = "try";

/// A status that is being made.
#[derive(Debug)]
pub struct StatusBuilder {
    domain: &'static str,
    code: Code,
    reason: &'static str,
    what: String,
    hint: Option<String>,
    metadata: HashMap<String, String>,
    details: ErrorDetails,
}

impl StatusBuilder {
    /// A status with a reason, of those that `domain` has, and what happened.
    pub fn new(
        domain: &'static str,
        code: Code,
        reason: &'static str,
        what: impl Into<String>,
    ) -> Self {
        Self {
            domain,
            code,
            reason,
            what: what.into(),
            hint: None,
            metadata: HashMap::new(),
            details: ErrorDetails::new(),
        }
    }

    /// What to try: the message ends with it, and the details have it apart.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The limit that was reached.
    #[must_use]
    pub fn limit(mut self, name: &str) -> Self {
        self.details
            .add_quota_failure_violation(name, bounded(&self.what));
        self
    }

    /// After how long the same request may succeed by itself.
    #[must_use]
    pub fn retry_after(mut self, pause: Duration) -> Self {
        self.details.set_retry_info(Some(pause));
        self
    }

    /// The argument that is wrong, and why.
    #[must_use]
    pub fn field(mut self, name: &str, why: &str) -> Self {
        self.details
            .add_bad_request_violation(bounded(name), bounded(why));
        self
    }

    /// Something more for programs.
    #[must_use]
    pub fn metadata(mut self, name: &str, value: impl Into<String>) -> Self {
        self.metadata.insert(name.to_owned(), value.into());
        self
    }

    /// The status. Its texts are bounded, so that it fits the headers that clients take.
    #[must_use]
    pub fn build(mut self) -> Status {
        let mut message = self.what;
        if let Some(hint) = self.hint {
            message = format!("{message}; {hint}");
            self.metadata.insert(HINT.to_owned(), hint);
        }
        self.details
            .set_error_info(self.reason, self.domain, self.metadata);
        let message = short(message, STATUS_TEXT_BYTES_MAX);
        Status::with_error_details(self.code, message, self.details)
    }
}

fn bounded(text: &str) -> String {
    short(text.to_owned(), STATUS_TEXT_BYTES_MAX)
}

/// A text of at most so many bytes: of a longer one the beginning, which says what, and the end,
/// which says what to try.
#[must_use]
pub fn short(text: String, bytes_max: usize) -> String {
    if text.len() <= bytes_max {
        return text;
    }
    let beginning = text.floor_char_boundary(bytes_max / 3 * 2);
    let end = text.ceil_char_boundary(text.len() - bytes_max / 4);
    let (beginning, _) = text.split_at(beginning);
    let (_, end) = text.split_at(end);
    format!("{beginning}…{end}")
}

/// A status as the trailers that end an answer which had begun.
#[must_use]
pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        // Only metadata that is no header could do this, and our statuses have none.
        trailers.insert("grpc-status", HeaderValue::from(status.code() as i32));
    }
    trailers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_keeps_its_beginning_and_its_end() {
        assert_eq!(short("as it is".to_owned(), 8), "as it is");
        let long = format!("what {}é try this", "x".repeat(100));
        let text = short(long, 48);
        assert!(text.len() <= 48, "{text}");
        assert!(text.starts_with("what ") && text.ends_with("try this"));
    }

    #[test]
    fn a_status_fits_the_headers_that_clients_take_whatever_it_quotes() {
        let long = "x".repeat(16 << 10);
        let what = format!("metadata `{long}` is not ASCII");
        let status = StatusBuilder::new("test", Code::InvalidArgument, "INVALID", &what)
            .field(&long, &what)
            .limit("metadata_bytes")
            .hint("use a name that ends in -bin")
            .build();
        assert!(status.message().ends_with("ends in -bin"), "{status:?}");
        let headers = trailers(&status);
        let bytes: usize = headers.values().map(HeaderValue::len).sum();
        assert!(bytes < 8 << 10, "{bytes}");
        let details = status.get_error_details();
        let info = details.error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("INVALID", "test")
        );
        assert_eq!(info.metadata[HINT], "use a name that ends in -bin");
    }
}
