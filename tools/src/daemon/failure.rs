//! What a daemon refuses, as *what, why, try*.

use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::error::{Exit, Failure};

/// The exit code for a reason of the daemon's table of errors (`docs/OPERATIONS.md`).
fn exit_of(reason: &str, code: Code) -> Exit {
    match reason {
        "INVALID" => Exit::Usage,
        "NOT_FOUND" => Exit::NotFound,
        "CONFLICT" => Exit::Conflict,
        "OVERLOADED" | "TIMEOUT" | "BUSY" | "CLOSED" | "DRAINING" => Exit::Busy,
        "NO_SPACE" => Exit::NoSpace,
        "UNSUPPORTED" | "UNIMPLEMENTED" => Exit::Unsupported,
        "DENIED" => Exit::Denied,
        "DAMAGED" => Exit::Damaged,
        "CANCELLED" => Exit::Interrupted,
        // Not from the store: the transport, or a daemon of another version.
        _ => match code {
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted => Exit::Busy,
            Code::Unimplemented => Exit::Unsupported,
            Code::InvalidArgument | Code::OutOfRange => Exit::Usage,
            Code::NotFound => Exit::NotFound,
            Code::AlreadyExists | Code::Aborted => Exit::Conflict,
            Code::PermissionDenied => Exit::Denied,
            Code::DataLoss => Exit::Damaged,
            Code::Cancelled => Exit::Interrupted,
            _ => Exit::Internal,
        },
    }
}

/// What the daemon answered to a call.
pub(super) fn of_status(status: &Status) -> Failure {
    let details = status.get_error_details();
    let reason = details.error_info().map_or("", |info| info.reason.as_str());
    if reason.is_empty() && transport_broke(status) {
        return Failure::new(Exit::Busy, "the daemon went away")
            .why(status.message())
            .hint("what it answered is on disk; run the same command again");
    }
    of_message(reason, status.code(), status.message())
}

/// What the daemon answered, or refused in a stream that goes on.
pub(super) fn of_message(reason: &str, code: Code, message: &str) -> Failure {
    let exit = exit_of(reason, code);
    // The daemon puts what to try after the last semicolon.
    let (what, hint) = match message.rsplit_once("; ") {
        Some((what, hint)) => (what, Some(hint)),
        None => (message, None),
    };
    let failure = Failure::new(exit, what);
    match exit {
        Exit::NotFound if what.starts_with("there is no session") => {
            failure.hint("run `betcode-db sessions` and use an id from there")
        }
        Exit::NotFound => failure.hint("check the path"),
        Exit::Denied => {
            failure.hint("it is the daemon's user who may not; --direct works without the daemon")
        }
        Exit::NoSpace => {
            failure.hint(hint.unwrap_or(
                "run `betcode-db compact`, delete sessions, or raise the daemon's limits",
            ))
        }
        Exit::Unsupported => failure.hint(
            "daemon and betcode-db are of different versions; --direct works without the daemon",
        ),
        _ => Failure {
            hint: hint.map(str::to_owned),
            ..failure
        },
    }
}

fn transport_broke(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_with_what_to_try_and_ends_with_the_same_code_as_without_a_daemon() {
        let failure = of_message("NO_SPACE", Code::ResourceExhausted, "disk full; free some");
        assert_eq!(
            (failure.exit, failure.what.as_str()),
            (Exit::NoSpace, "disk full")
        );
        assert_eq!(failure.hint.as_deref(), Some("free some"));
        for (reason, exit) in [
            ("NOT_FOUND", Exit::NotFound),
            ("BUSY", Exit::Busy),
            ("DRAINING", Exit::Busy),
            ("DAMAGED", Exit::Damaged),
            ("SOMETHING_NEW", Exit::Internal),
        ] {
            assert_eq!(exit_of(reason, Code::Internal), exit, "{reason}");
        }
    }

    #[test]
    fn advice_about_sessions_is_given_only_where_one_is_missing() {
        for (message, words) in [
            ("there is no session x; list the sessions", "sessions"),
            ("open /file/.partial: Not a directory", "path"),
        ] {
            let failure = of_message("NOT_FOUND", Code::NotFound, message);
            let hint = failure.hint.unwrap();
            assert!(hint.contains(words), "{message}: {hint}");
        }
    }

    #[test]
    fn a_connection_that_broke_is_not_called_a_bug() {
        let failure = of_status(&Status::unknown("h2 protocol error"));
        assert_eq!(failure.exit, Exit::Busy);
    }
}
