//! `betcode.v1.AgentService`: sessions here, conversations in `converse` and [`crate::agents`].
//!
//! # What `CompactSession` answers
//!
//! Compaction loses nothing, so `messages_before` and `messages_after` are both the number of
//! messages of the session, and `tokens_saved` is 0: what a model reads is not the history's to
//! change. How many bytes it saved is told by `betcode.history.v1.CompactionService`. A session that
//! could not be compacted, for damage, is answered DATA_LOSS; a run that the daemon's stop cut short
//! UNAVAILABLE (`DRAINING`).

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::agent_service_server::AgentService;
use betcode_storage::{CompactionOutcome, CompactionRequest, Session, SessionFilter, StoreError};
use prost::Message as _;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::converse::{client_name, converse, device};
use super::history::{delete, page_limit, rename, sessions};
use super::{ResponseStream, resume};
use crate::agents::Command;
use crate::core::{Core, session_id};
use crate::limits::{
    COMPACTION_TURN_MS_MAX, COMPACTION_TURN_POLL_MS, GRANTS_MAX, SESSIONS_PAGE_BYTES_MAX,
};
use crate::observe::ms;
use crate::status::{damaged, draining, exhausted, from_store, invalid, unimplemented};
use crate::translate::timestamp_of;

/// Compacts as soon as a run that is under way, usually the background's, has ended: clients of
/// this service ask once. Ends early when the caller leaves or the daemon stops.
async fn compact_in_turn(core: &Arc<Core>, request: &CompactionRequest) -> Result<(), Status> {
    let place = Arc::new(core.blocking.long_job()?);
    let left = CancellationToken::new();
    let _leaves = left.clone().drop_guard();
    let until = Instant::now() + ms(COMPACTION_TURN_MS_MAX);
    loop {
        let (running, request, left) = (Arc::clone(core), request.clone(), left.clone());
        // Held by the run as well, which may outlast its caller by a step.
        let place = Arc::clone(&place);
        let work = move || {
            let _place = place;
            let mut go_on = |_: &_| match left.is_cancelled() || running.is_draining() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            };
            running.store.compact(&request, &mut go_on)
        };
        match core.blocking.write(work).await {
            Err(StoreError::Busy { .. }) if Instant::now() < until && !core.is_draining() => {
                sleep(ms(COMPACTION_TURN_POLL_MS)).await;
            }
            Ok(outcome) => return check_outcome(&outcome),
            Err(error) => return Err(from_store(&error)),
        }
    }
}

/// What came of the run, as an answer that has no other words for it.
fn check_outcome(outcome: &CompactionOutcome) -> Result<(), Status> {
    if let Some(failure) = outcome.failures.first() {
        return Err(damaged(&failure.why));
    }
    match outcome.cancelled {
        // Its caller is there to hear it, so it was not that which ended the run.
        true => Err(draining()),
        false => Ok(()),
    }
}

/// `AgentService` of this daemon.
#[derive(Debug, Clone)]
pub struct Agent(pub Arc<Core>);

#[tonic::async_trait]
impl AgentService for Agent {
    type ConverseStream = ResponseStream<proto::AgentEvent>;
    type ResumeSessionStream = ResponseStream<proto::AgentEvent>;

    async fn list_sessions(
        &self,
        request: Request<proto::ListSessionsRequest>,
    ) -> Result<Response<proto::ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let some = |text: String| (!text.is_empty()).then_some(text);
        let filter = SessionFilter {
            working_directory: some(request.working_directory),
            worktree_id: some(request.worktree_id),
            limit: Some(page_limit(request.limit)),
            offset: request.offset.into(),
        };
        let list = sessions(&self.0, filter).await?;
        let mut bytes = 0;
        let fits = |session: &proto::SessionSummary| {
            bytes += session.encoded_len();
            bytes <= SESSIONS_PAGE_BYTES_MAX
        };
        let sessions = list
            .sessions
            .into_iter()
            .map(|session| summary(&self.0, session))
            .take_while(fits)
            .collect();
        Ok(Response::new(proto::ListSessionsResponse {
            sessions,
            total: narrow(list.total),
        }))
    }

    async fn resume_session(
        &self,
        request: Request<proto::ResumeSessionRequest>,
    ) -> Result<Response<Self::ResumeSessionStream>, Status> {
        let device = device(&request);
        resume::resume(Arc::clone(&self.0), device, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn compact_session(
        &self,
        request: Request<proto::CompactSessionRequest>,
    ) -> Result<Response<proto::CompactSessionResponse>, Status> {
        let id = session_id(&request.into_inner().session_id)?;
        let compaction = CompactionRequest {
            session: Some(id.clone()),
            policy: self.0.policy(),
            trigger: "client",
            ..CompactionRequest::manual()
        };
        compact_in_turn(&self.0, &compaction).await?;
        let store = self.0.store.clone();
        let found = self.0.blocking.read(move || store.session(&id)).await;
        let messages = narrow(found.map_err(|error| from_store(&error))?.messages);
        Ok(Response::new(proto::CompactSessionResponse {
            messages_before: messages,
            messages_after: messages,
            tokens_saved: 0,
        }))
    }

    async fn rename_session(
        &self,
        request: Request<proto::RenameSessionRequest>,
    ) -> Result<Response<proto::RenameSessionResponse>, Status> {
        let request = request.into_inner();
        rename(&self.0, &request.session_id, request.name).await?;
        Ok(Response::new(proto::RenameSessionResponse {}))
    }

    async fn delete_session(
        &self,
        request: Request<proto::DeleteSessionRequest>,
    ) -> Result<Response<proto::DeleteSessionResponse>, Status> {
        let deleted = delete(&self.0, &request.into_inner().session_id).await?;
        Ok(Response::new(proto::DeleteSessionResponse { deleted }))
    }

    async fn converse(
        &self,
        request: Request<Streaming<proto::AgentRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        Ok(Response::new(converse(Arc::clone(&self.0), request)))
    }

    async fn cancel_turn(
        &self,
        request: Request<proto::CancelTurnRequest>,
    ) -> Result<Response<proto::CancelTurnResponse>, Status> {
        let session = self.existing(&request.into_inner().session_id).await?;
        let was_active = self.0.agents.cancel(&session.id).await;
        Ok(Response::new(proto::CancelTurnResponse { was_active }))
    }

    async fn request_input_lock(
        &self,
        request: Request<proto::InputLockRequest>,
    ) -> Result<Response<proto::InputLockResponse>, Status> {
        let client = client_name(&request);
        let session = self.existing(&request.into_inner().session_id).await?;
        let lock = |reply| Command::Lock(Arc::clone(&client), reply);
        let ((granted, previous), _) = self.0.agents.ask(&self.0, &session, lock).await?;
        Ok(Response::new(proto::InputLockResponse {
            granted,
            previous_holder: previous.map(|name| name.to_string()).unwrap_or_default(),
        }))
    }

    async fn exchange_keys(
        &self,
        _: Request<proto::KeyExchangeRequest>,
    ) -> Result<Response<proto::KeyExchangeResponse>, Status> {
        Err(unimplemented(
            "this daemon does not encrypt end to end yet: use its socket or mutual TLS",
        ))
    }

    async fn list_session_grants(
        &self,
        request: Request<proto::ListSessionGrantsRequest>,
    ) -> Result<Response<proto::ListSessionGrantsResponse>, Status> {
        let session = self.existing(&request.into_inner().session_id).await?;
        let (grants, _) = self
            .0
            .agents
            .ask(&self.0, &session, Command::Grants)
            .await?;
        let entry = |(tool_name, granted)| proto::SessionGrantEntry { tool_name, granted };
        Ok(Response::new(proto::ListSessionGrantsResponse {
            grants: grants.into_iter().map(entry).collect(),
        }))
    }

    async fn clear_session_grants(
        &self,
        request: Request<proto::ClearSessionGrantsRequest>,
    ) -> Result<Response<proto::ClearSessionGrantsResponse>, Status> {
        let request = request.into_inner();
        let session = self.existing(&request.session_id).await?;
        let clear = |reply| Command::ClearGrants(request.tool_name.clone(), reply);
        self.0.agents.ask(&self.0, &session, clear).await?;
        Ok(Response::new(proto::ClearSessionGrantsResponse {}))
    }

    async fn set_session_grant(
        &self,
        request: Request<proto::SetSessionGrantRequest>,
    ) -> Result<Response<proto::SetSessionGrantResponse>, Status> {
        let request = request.into_inner();
        let session = self.existing(&request.session_id).await?;
        let set = |reply| Command::SetGrant(request.tool_name.clone(), request.granted, reply);
        let (done, _) = self.0.agents.ask(&self.0, &session, set).await?;
        match done {
            Ok(()) => Ok(Response::new(proto::SetSessionGrantResponse {})),
            Err(refusal) if refusal.code == "INVALID" => Err(invalid("tool_name", refusal.message)),
            Err(_) => {
                let max = GRANTS_MAX as u64;
                Err(exhausted("grants", max, max, "clear some of them"))
            }
        }
    }
}

impl Agent {
    /// A session that there is.
    async fn existing(&self, text: &str) -> Result<Session, Status> {
        let (store, id) = (self.0.store.clone(), session_id(text)?);
        let found = self.0.blocking.read(move || store.session(&id)).await;
        found.map_err(|error| from_store(&error))
    }
}

/// A count that the protocol has 32 bits for.
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn summary(core: &Core, session: Session) -> proto::SessionSummary {
    let tokens = session.usage.tokens();
    let status = core.agents.status(&session).to_owned();
    proto::SessionSummary {
        id: session.id.to_string(),
        model: session.meta.model,
        working_directory: session.meta.working_directory,
        worktree_id: session.meta.worktree_id,
        status,
        message_count: narrow(session.messages),
        total_input_tokens: narrow(tokens.input),
        total_output_tokens: narrow(tokens.output),
        total_cost_usd: session.usage.cost_usd(),
        created_at: Some(timestamp_of(session.created_ms)),
        updated_at: Some(timestamp_of(session.updated_ms)),
        last_message_preview: session.last_preview,
        name: session.meta.name,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    #[test]
    fn a_run_that_the_daemons_stop_cut_short_is_no_success() {
        let mut outcome = CompactionOutcome {
            bytes_before: 2,
            bytes_after: 1,
            messages: 1,
            raw_bytes: 1,
            segments: 1,
            segments_replaced: 0,
            failures: Vec::new(),
            cancelled: false,
            seconds: 0.0,
        };
        assert!(check_outcome(&outcome).is_ok());
        outcome.cancelled = true;
        assert_eq!(
            check_outcome(&outcome).unwrap_err().code(),
            Code::Unavailable
        );
    }
}
