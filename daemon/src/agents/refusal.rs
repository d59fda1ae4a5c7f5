//! What a client gets when something is not done: a code for programs, words for people.

use std::collections::HashMap;

use betcode_schema_grpc::v1::ErrorEvent;
use betcode_schema_grpc::v1::agent_event::Event;
use tonic::Status;
use tonic_types::StatusExt;

use crate::limits::REFUSAL_TEXT_BYTES_MAX;
use crate::status::short;

/// Something that was asked for, or went wrong, and leaves the conversation as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// See docs/OPERATIONS.md, *Running agents*.
    pub(crate) code: &'static str,
    /// What, why, and what to try.
    pub(crate) message: String,
    /// More, by name.
    pub(crate) details: Vec<(&'static str, String)>,
}

impl Refusal {
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new("INVALID", message)
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    /// A status, with its reason and limit as details.
    pub(crate) fn from_status(status: &Status) -> Self {
        let details = status.get_error_details();
        let code = match status.code() {
            tonic::Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
            tonic::Code::InvalidArgument => "INVALID",
            tonic::Code::Unavailable => "UNAVAILABLE",
            _ => "FAILED",
        };
        let mut refusal = Self::new(code, status.message());
        if let Some(info) = details.error_info() {
            refusal = refusal.with("reason", info.reason.clone());
        }
        if let Some(violation) = details.quota_failure().and_then(|q| q.violations.first()) {
            refusal = refusal.with("limit", violation.subject.clone());
        }
        refusal
    }

    /// As an event; none of them ends the conversation.
    pub(crate) fn event(self) -> Event {
        // What a client said may stand in them, and it takes only so much back.
        let text = |text: String| short(text, REFUSAL_TEXT_BYTES_MAX);
        let own = |(name, value): (&str, String)| (name.to_owned(), text(value));
        Event::Error(ErrorEvent {
            code: self.code.to_owned(),
            message: text(self.message),
            is_fatal: false,
            details: self.details.into_iter().map(own).collect::<HashMap<_, _>>(),
        })
    }
}
