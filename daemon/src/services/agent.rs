//! `betcode.v1.AgentService`, as far as it is about history.
//!
//! # What `CompactSession` answers
//!
//! Compaction loses nothing, so `messages_before` and `messages_after` are both the number of
//! messages of the session, and `tokens_saved` is 0: what a model reads is not the history's to
//! change. How many bytes it saved is told by `betcode.history.v1.CompactionService`.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::agent_service_server::AgentService;
use betcode_storage::{CompactionRequest, Session, SessionFilter, StoreError};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::history::{delete, page_limit, rename};
use super::{Answers, resume};
use crate::core::{Core, session_id};
use crate::limits::{COMPACTION_TURN_MS_MAX, COMPACTION_TURN_POLL_MS, SESSIONS_PAGE_BYTES_MAX};
use crate::observe::ms;
use crate::status::{from_store, unimplemented};
use crate::translate::timestamp_of;

/// Why the rest is not there.
const NO_AGENTS: &str = "this daemon keeps the history of agents and does not run any yet";

/// Compacts as soon as a run that is under way, usually the background's, has ended: clients of
/// this service ask once.
fn compact_in_turn(core: &Core, request: &CompactionRequest) -> betcode_storage::Result<()> {
    let until = Instant::now() + ms(COMPACTION_TURN_MS_MAX);
    let mut go_on = |_: &_| match core.is_draining() {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    };
    loop {
        match core.store.compact(request, &mut go_on) {
            Err(StoreError::Busy { .. }) if Instant::now() < until && !core.is_draining() => {
                std::thread::sleep(ms(COMPACTION_TURN_POLL_MS));
            }
            done => return done.map(drop),
        }
    }
}

/// The service.
#[derive(Debug, Clone)]
pub struct Agent(pub Arc<Core>);

#[tonic::async_trait]
impl AgentService for Agent {
    type ConverseStream = Answers<proto::AgentEvent>;
    type ResumeSessionStream = Answers<proto::AgentEvent>;

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
        let store = self.0.store.clone();
        let read = self.0.blocking.read(move || store.sessions(&filter)).await;
        let list = read.map_err(|error| from_store(&error))?;
        let mut bytes = 0;
        let fits = |session: &proto::SessionSummary| {
            bytes += session.encoded_len();
            bytes <= SESSIONS_PAGE_BYTES_MAX
        };
        let sessions = list
            .sessions
            .into_iter()
            .map(summary)
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
        resume::resume(Arc::clone(&self.0), request.into_inner())
            .await
            .map(Response::new)
    }

    async fn compact_session(
        &self,
        request: Request<proto::CompactSessionRequest>,
    ) -> Result<Response<proto::CompactSessionResponse>, Status> {
        let id = session_id(&request.into_inner().session_id)?;
        let core = Arc::clone(&self.0);
        let compaction = CompactionRequest {
            session: Some(id.clone()),
            policy: self.0.policy(),
            trigger: "client",
            ..CompactionRequest::manual()
        };
        let work = move || {
            compact_in_turn(&core, &compaction)?;
            core.store.session(&id)
        };
        let session = self
            .0
            .blocking
            .write(work)
            .await
            .map_err(|error| from_store(&error))?;
        let messages = narrow(session.messages);
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
        _: Request<Streaming<proto::AgentRequest>>,
    ) -> Result<Response<Self::ConverseStream>, Status> {
        Err(unimplemented(NO_AGENTS))
    }

    async fn cancel_turn(
        &self,
        _: Request<proto::CancelTurnRequest>,
    ) -> Result<Response<proto::CancelTurnResponse>, Status> {
        Err(unimplemented(NO_AGENTS))
    }

    async fn request_input_lock(
        &self,
        _: Request<proto::InputLockRequest>,
    ) -> Result<Response<proto::InputLockResponse>, Status> {
        Err(unimplemented(NO_AGENTS))
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
        _: Request<proto::ListSessionGrantsRequest>,
    ) -> Result<Response<proto::ListSessionGrantsResponse>, Status> {
        Err(unimplemented(NO_AGENTS))
    }

    async fn clear_session_grants(
        &self,
        _: Request<proto::ClearSessionGrantsRequest>,
    ) -> Result<Response<proto::ClearSessionGrantsResponse>, Status> {
        Err(unimplemented(NO_AGENTS))
    }

    async fn set_session_grant(
        &self,
        _: Request<proto::SetSessionGrantRequest>,
    ) -> Result<Response<proto::SetSessionGrantResponse>, Status> {
        Err(unimplemented(NO_AGENTS))
    }
}

/// A count that the protocol has 32 bits for.
fn narrow(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

fn summary(session: Session) -> proto::SessionSummary {
    let tokens = session.usage.tokens();
    proto::SessionSummary {
        id: session.id.to_string(),
        model: session.meta.model,
        working_directory: session.meta.working_directory,
        worktree_id: session.meta.worktree_id,
        // No agent runs here.
        status: "idle".to_owned(),
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
