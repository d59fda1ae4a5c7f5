//! Enrolment on the tunnel port: a code for a certificate.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use betcode_schema_tunnel::{
    EnrolmentAnswer, EnrolmentRequest, GreetingError, read_greeting, write_greeting,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Semaphore;

use crate::auth::{Enrolments, Revocations, StateFolder};
use crate::unix_now_s;

/// Certifies machines that show a code.
pub struct Enrol {
    state: StateFolder,
    enrolments: Enrolments,
    /// One at a time: they wait for a lock and for the disk on threads that the buffer needs too.
    turn: Arc<Semaphore>,
}

impl Enrol {
    /// Enrolment with the authority and the codes of a state folder.
    #[must_use]
    pub fn new(state: StateFolder) -> Self {
        let enrolments = Enrolments::at(state.enrolments());
        let turn = Arc::new(Semaphore::new(1));
        Self {
            state,
            enrolments,
            turn,
        }
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
        let answer = match self.turn.clone().acquire_owned().await {
            Ok(turn) => {
                let work = move || {
                    let _turn = turn;
                    answer(&state, &enrolments, &request)
                };
                let done = tokio::task::spawn_blocking(work).await;
                done.unwrap_or_else(|error| Err(error.to_string()))
            }
            Err(closed) => Err(closed.to_string()),
        };
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
    let now_s = unix_now_s();
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
    let revoked = Revocations::load(&state.revoked()).map_err(|error| {
        tracing::error!(%error, "what was revoked cannot be read");
        "the relay cannot enrol now; ask for a new code later".to_owned()
    })?;
    let issued_s = revoked.issue_machine_s(&request.machine_id, now_s);
    let issued_s = issued_s.map_err(|until_s| {
        format!(
            "all certificates of {} are revoked until {until_s} (Unix seconds), which is ahead of \
             the relay's clock: have that clock set right, and ask for a new code",
            request.machine_id
        )
    })?;
    let issued = UNIX_EPOCH + Duration::from_secs(issued_s);
    let certified = state.certify_machine(&request.machine_id, &request.signing_request, issued);
    let certificate = certified.map_err(|error| error.to_string())?;
    let authority = state
        .read(&state.authority_certificate())
        .map_err(|error| error.to_string())?;
    Ok(EnrolmentAnswer::Enrolled {
        certificate,
        authority,
    })
}

#[cfg(test)]
mod tests {
    use betcode_schema_tunnel::MachineId;

    use super::*;
    use betcode_service::private_file;

    #[test]
    fn enrolments_that_wait_for_the_file_leave_threads_for_others() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::at(folder.path());
        let machine: MachineId = "m-1".parse().unwrap();
        let enrolments = Enrolments::at(state.enrolments());
        let code = enrolments.issue(&machine, b"authority", unix_now_s());
        let request = EnrolmentRequest {
            machine_id: machine,
            code: code.unwrap(),
            signing_request: String::new(),
        };
        let enrol = Arc::new(Enrol::new(state.clone()));
        let held = private_file::lock(&state.enrolments()).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let free = runtime.block_on(async {
            for _ in 0..2 {
                let (mut near, mut far) = tokio::io::duplex(1 << 16);
                write_greeting(&mut near, &request).await.unwrap();
                let enrol = enrol.clone();
                tokio::spawn(async move {
                    let _near = near;
                    let _served = enrol.serve(&mut far).await;
                });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            let other = tokio::task::spawn_blocking(|| ());
            tokio::time::timeout(Duration::from_secs(10), other).await
        });
        drop(held);
        assert!(free.is_ok(), "no thread is left");
    }
}
