//! `betcode.history.v1.HistoryService`.

use std::sync::Arc;

use betcode_schema_grpc::history::history_service_server::HistoryService;
use betcode_schema_grpc::history::{
    AppendRequest, AppendResponse, DeleteSessionRequest, DeleteSessionResponse, FollowRequest,
    FollowResponse, GetSessionRequest, GetSessionResponse, ListSessionsRequest,
    ListSessionsResponse, ReadRequest, ReadResponse, RenameSessionRequest, RenameSessionResponse,
};
use betcode_storage::{SessionFilter, SessionId, SessionList, StoreError};
use prost::Message as _;
use tonic::{Request, Response, Status, Streaming};

use super::{ResponseStream, append, follow, read};
use crate::convert;
use crate::core::{Core, session_id};
use crate::limits::{SESSIONS_PAGE_BYTES_MAX, SESSIONS_PAGE_MAX};
use crate::status::{from_store, internal};
use crate::transport::EndsAtDeadline;

/// The service.
#[derive(Debug, Clone)]
pub struct History(pub Arc<Core>);

#[tonic::async_trait]
impl HistoryService for History {
    type AppendStream = ResponseStream<AppendResponse>;
    type ReadStream = ResponseStream<ReadResponse>;
    type FollowStream = ResponseStream<FollowResponse>;

    async fn append(
        &self,
        request: Request<Streaming<AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let mut answers = Response::new(append::append(Arc::clone(&self.0), request));
        // What is in the queue at the deadline is answered, too.
        answers.extensions_mut().insert(EndsAtDeadline);
        Ok(answers)
    }

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        read::read(Arc::clone(&self.0), request.into_inner())
            .await
            .map(Response::new)
    }

    async fn follow(
        &self,
        request: Request<FollowRequest>,
    ) -> Result<Response<Self::FollowStream>, Status> {
        follow::follow(Arc::clone(&self.0), request.into_inner())
            .await
            .map(Response::new)
    }

    async fn list_sessions(
        &self,
        request: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let request = request.into_inner();
        let some = |text: String| (!text.is_empty()).then_some(text);
        let filter = SessionFilter {
            working_directory: some(request.working_directory),
            worktree_id: some(request.worktree_id),
            limit: Some(page_limit(request.limit)),
            offset: request.offset,
        };
        let list = sessions(&self.0, filter).await?;
        let mut bytes = 0;
        let fits = |session: &betcode_schema_grpc::history::Session| {
            bytes += session.encoded_len();
            bytes <= SESSIONS_PAGE_BYTES_MAX
        };
        let found = list.sessions.len();
        let sessions: Vec<_> = list
            .sessions
            .into_iter()
            .map(convert::session)
            .take_while(fits)
            .collect();
        // Of a page that was cut short it is not known which of them stand in what is left of it:
        // those that are left out come with the next page.
        let damaged = match sessions.len() == found {
            true => list.damaged.into_iter().map(convert::damaged).collect(),
            false => Vec::new(),
        };
        Ok(Response::new(ListSessionsResponse {
            sessions,
            total: list.total,
            damaged,
        }))
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        let id = session_id(&request.into_inner().session_id)?;
        let store = self.0.store.clone();
        let read = self.0.blocking.read(move || store.session(&id)).await;
        let session = read.map_err(|error| from_store(&error))?;
        Ok(Response::new(GetSessionResponse {
            session: Some(convert::session(session)),
        }))
    }

    async fn rename_session(
        &self,
        request: Request<RenameSessionRequest>,
    ) -> Result<Response<RenameSessionResponse>, Status> {
        let request = request.into_inner();
        rename(&self.0, &request.session_id, request.name).await?;
        Ok(Response::new(RenameSessionResponse {}))
    }

    async fn delete_session(
        &self,
        request: Request<DeleteSessionRequest>,
    ) -> Result<Response<DeleteSessionResponse>, Status> {
        let deleted = delete(&self.0, &request.into_inner().session_id).await?;
        Ok(Response::new(DeleteSessionResponse { deleted }))
    }
}

/// A page of the list. Sessions whose rows cannot be read are logged, because not every protocol has a place for
/// them.
pub(super) async fn sessions(core: &Core, filter: SessionFilter) -> Result<SessionList, Status> {
    let store = core.store.clone();
    let read = core.blocking.read(move || store.sessions(&filter)).await;
    let list = read.map_err(|error| from_store(&error))?;
    for damaged in &list.damaged {
        let session = damaged.id.as_ref().map(SessionId::as_str);
        tracing::warn!(
            session,
            what = damaged.what,
            "left out of a list of sessions: damaged"
        );
    }
    Ok(list)
}

/// How many sessions a page has when a client asks for `limit`; 0 is as many as there may be.
pub(super) fn page_limit(limit: u32) -> u64 {
    match limit {
        0 => SESSIONS_PAGE_MAX,
        limit => limit.min(SESSIONS_PAGE_MAX),
    }
    .into()
}

pub(super) async fn rename(core: &Arc<Core>, id: &str, name: String) -> Result<(), Status> {
    let (id, store) = (session_id(id)?, core.store.clone());
    let renamed = core.blocking.write(move || store.rename(&id, &name)).await;
    renamed.map_err(|error| from_store(&error))
}

pub(super) async fn delete(core: &Arc<Core>, id: &str) -> Result<bool, Status> {
    // A task of its own: when the caller leaves in the middle, it is done all the same, and nobody
    // begins a conversation in between.
    let deleting = tokio::spawn(delete_now(Arc::clone(core), session_id(id)?));
    let panicked = |_| internal("deleting the session ended by an internal error");
    deleting.await.map_err(panicked)?
}

async fn delete_now(core: Arc<Core>, id: SessionId) -> Result<bool, Status> {
    // Its agent first: what it printed later would begin the session anew.
    let _going = core.agents.end(&core, &id).await;
    let (store, gone) = (core.store.clone(), id.clone());
    let deleted = core.blocking.write(move || store.delete(&gone)).await;
    if matches!(
        deleted,
        Ok(true) | Err(StoreError::SpaceNotGivenBack { .. })
    ) {
        core.hub.deleted(&id);
    }
    deleted.map_err(|error| from_store(&error))
}
