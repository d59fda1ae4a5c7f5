//! Enrolment at the door for daemons: a code for a certificate.

use std::time::{SystemTime, UNIX_EPOCH};

use betcode_schema_tunnel::{
    EnrolmentAnswer, EnrolmentRequest, GreetingError, read_greeting, write_greeting,
};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::auth::{Enrolments, StateFolder};

/// Certifies machines that show a code.
pub struct Enrol {
    state: StateFolder,
    enrolments: Enrolments,
}

impl Enrol {
    /// Enrolment with the authority and the codes of a state folder.
    #[must_use]
    pub fn new(state: StateFolder) -> Self {
        let enrolments = Enrolments::at(state.enrolments());
        Self { state, enrolments }
    }

    /// Serves one request.
    ///
    /// # Errors
    /// When the connection breaks. A refusal is an answer, not an error.
    pub async fn serve<S>(&self, stream: &mut S) -> Result<(), GreetingError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let request: EnrolmentRequest = read_greeting(stream).await?;
        let machine = request.machine_id.clone();
        let (state, enrolments) = (self.state.clone(), self.enrolments.clone());
        let done = tokio::task::spawn_blocking(move || answer(&state, &enrolments, &request)).await;
        let answer = done.unwrap_or_else(|error| Err(error.to_string()));
        let answer = match answer {
            Ok(enrolled) => {
                tracing::info!(%machine, "machine enrolled");
                enrolled
            }
            Err(message) => {
                tracing::warn!(%machine, message, "machine not enrolled");
                EnrolmentAnswer::Refused { message }
            }
        };
        write_greeting(stream, &answer).await
    }
}

fn answer(
    state: &StateFolder,
    enrolments: &Enrolments,
    request: &EnrolmentRequest,
) -> Result<EnrolmentAnswer, String> {
    let now = SystemTime::now();
    let now_s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let taken = enrolments.take(&request.machine_id, &request.code, now_s);
    match taken {
        Ok(Some(())) => {}
        Ok(None) => {
            return Err("the code is wrong, used, or too old; ask for a new one".to_owned());
        }
        Err(error) => {
            tracing::error!(%error, "enrolment codes cannot be used");
            return Err("the relay cannot enrol now; try again later".to_owned());
        }
    }
    let certified = state.certify_machine(&request.machine_id, &request.signing_request, now);
    let certificate = certified.map_err(|error| error.to_string())?;
    let authority = state
        .read(&state.authority_certificate())
        .map_err(|error| error.to_string())?;
    Ok(EnrolmentAnswer::Enrolled {
        certificate,
        authority,
    })
}
