//! What the statuses of the daemon and of the relay have in common.

use std::collections::HashMap;

use http::{HeaderMap, HeaderValue};
use tonic::Status;

/// Key of what to try in the metadata of `ErrorInfo`.
pub const HINT: &str = "try";

/// The metadata of `ErrorInfo`: what to try, which the message ends with, for programs that show it
/// apart from what happened.
#[must_use]
pub fn metadata(hint: Option<&str>) -> HashMap<String, String> {
    let hint = hint.map(|hint| (HINT.to_owned(), hint.to_owned()));
    hint.into_iter().collect()
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
}
