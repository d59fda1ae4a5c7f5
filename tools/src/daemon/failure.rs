//! A daemon's refusals as *what, why, try*.

use betcode_schema_grpc::history::Refused;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::error::{DAMAGED_STORE_HINT, Exit, Failure};

/// The exit code for a reason of the daemon's table of errors (`docs/OPERATIONS.md`).
fn exit_of(reason: &str, code: Code) -> Exit {
    match reason {
        "INVALID" => Exit::Usage,
        "NOT_FOUND" => Exit::NotFound,
        "CONFLICT" | "MOVED" => Exit::Conflict,
        "OVERLOADED" | "TIMEOUT" | "BUSY" | "CLOSED" | "DRAINING" => Exit::Busy,
        "NO_SPACE" => Exit::NoSpace,
        "UNSUPPORTED" | "UNIMPLEMENTED" => Exit::Unsupported,
        "DENIED" | "READ_ONLY" => Exit::Denied,
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

/// The failure of a call.
pub(super) fn of_status(status: &Status) -> Failure {
    let details = status.get_error_details();
    let info = details.error_info();
    if info.is_none() && transport_broke(status) {
        return Failure::new(Exit::Busy, "the daemon went away")
            .why(status.message())
            .hint("what it answered is on disk; run the same command again");
    }
    let (reason, hint) = info.map_or(("", None), |info| {
        (info.reason.as_str(), info.metadata.get("try"))
    });
    let hint = hint.map_or("", String::as_str);
    of_message(reason, status.code(), status.message(), hint)
}

/// A refusal within a stream that continues.
pub(super) fn of_refused(refused: &Refused) -> Failure {
    let code = Code::from_i32(refused.code);
    of_message(&refused.reason, code, &refused.message, &refused.hint)
}

/// `message` ends with what to try, where that is known.
fn of_message(reason: &str, code: Code, message: &str, hint: &str) -> Failure {
    let exit = exit_of(reason, code);
    let what = message.strip_suffix(hint).unwrap_or(message);
    let failure = Failure::new(exit, what.trim_end_matches("; "));
    // The daemon does not know how this tool spells what it suggests.
    match exit {
        Exit::Denied => {
            failure.hint("it is the daemon's user who may not; --direct works without the daemon")
        }
        Exit::Unsupported => failure.hint(
            "daemon and betcode-db are of different versions; --direct works without the daemon",
        ),
        Exit::Damaged => failure.hint(DAMAGED_STORE_HINT),
        _ if !hint.is_empty() => failure.hint(hint),
        Exit::NotFound => failure.hint("check the path"),
        Exit::NoSpace => {
            failure.hint("run `betcode-db compact`, delete sessions, or raise the daemon's limits")
        }
        _ => failure,
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
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_refusal_says_what_to_try_and_has_the_same_exit_code_as_without_a_daemon() {
        let refused = Refused {
            code: Code::ResourceExhausted.into(),
            reason: "NO_SPACE".to_owned(),
            message: "the disk is full; nothing is lost; free some".to_owned(),
            hint: "free some".to_owned(),
            ..Refused::default()
        };
        let failure = of_refused(&refused);
        assert_eq!(failure.exit, Exit::NoSpace);
        assert_eq!(failure.what, "the disk is full; nothing is lost");
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
    fn the_daemons_advice_is_used_if_it_gives_some_and_no_sentence_is_cut() {
        let metadata = HashMap::from([("try".to_owned(), "list the sessions".to_owned())]);
        for (metadata, what, hint) in [
            (metadata, "there is no x", "list the sessions"),
            (
                HashMap::new(),
                "there is no x; list the sessions",
                "check the path",
            ),
        ] {
            let status = Status::with_error_details(
                Code::NotFound,
                "there is no x; list the sessions",
                ErrorDetails::with_error_info("NOT_FOUND", "betcode.history", metadata),
            );
            let failure = of_status(&status);
            assert_eq!(
                (failure.what.as_str(), failure.hint.as_deref()),
                (what, Some(hint))
            );
        }
    }

    #[test]
    fn a_connection_that_broke_is_not_called_a_bug() {
        let failure = of_status(&Status::unknown("h2 protocol error"));
        assert_eq!(failure.exit, Exit::Busy);
    }
}
