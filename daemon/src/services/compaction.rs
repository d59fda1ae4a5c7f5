//! `betcode.history.v1.CompactionService`.

use std::sync::Arc;

use betcode_schema_grpc::history as proto;
use betcode_schema_grpc::history::compaction_service_server::CompactionService;
use betcode_schema_grpc::history::run_compaction_response::Event;
use betcode_storage::compact::ServiceState;
use betcode_storage::{CompactionPlan, CompactionRequest, Tier};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{ResponseStream, progress_reporter};
use crate::convert::{compaction_outcome, compaction_progress, compaction_run};
use crate::core::{Core, session_id};
use crate::limits::{ANSWERS_AHEAD_MAX, RUNS_PAGE_DEFAULT, RUNS_PAGE_MAX};
use crate::status::{failed_precondition, from_store, invalid};

/// Answers `CompactionService` from the store.
#[derive(Debug, Clone)]
pub struct Compaction(pub Arc<Core>);

#[tonic::async_trait]
impl CompactionService for Compaction {
    type RunStream = ResponseStream<proto::RunCompactionResponse>;

    async fn run(
        &self,
        request: Request<proto::RunCompactionRequest>,
    ) -> Result<Response<Self::RunStream>, Status> {
        let asked = request.into_inner();
        let session = match asked.session_id.as_str() {
            "" => None,
            id => Some(session_id(id)?),
        };
        let tier = match asked.tier.as_str() {
            "" | "deep" => Tier::Deep,
            "quick" => Tier::Quick,
            _ => return Err(invalid("tier", "it is `quick` or `deep`")),
        };
        let request = CompactionRequest {
            session,
            tier,
            force: !asked.due_only,
            policy: self.0.policy(),
            trigger: "client",
            ..CompactionRequest::manual()
        };
        let (answers, receiver) = mpsc::channel(ANSWERS_AHEAD_MAX);
        let core = Arc::clone(&self.0);
        self.0.blocking.start_long_job(move || {
            let last = if asked.dry_run {
                core.store
                    .plan_compaction(&request)
                    .map(|plan| Event::Plan(plan_message(&plan)))
            } else {
                run(&core, &request, &answers)
            };
            let last = last.map_err(|error| from_store(&error));
            let _ = answers.blocking_send(last.map(response));
        })?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn status(
        &self,
        _: Request<proto::CompactionStatusRequest>,
    ) -> Result<Response<proto::CompactionStatusResponse>, Status> {
        let status = self.0.compaction().as_ref().map(|running| running.status());
        let response = match status {
            None => proto::CompactionStatusResponse {
                state: "disabled".to_owned(),
                ..proto::CompactionStatusResponse::default()
            },
            Some(status) => proto::CompactionStatusResponse {
                state: state_name(status.state).to_owned(),
                progress: status.progress.as_ref().map(compaction_progress),
                runs: status.runs,
                last_outcome: status.last_outcome.as_ref().map(compaction_outcome),
                last_error: status.last_error.unwrap_or_default(),
            },
        };
        Ok(Response::new(response))
    }

    async fn pause(
        &self,
        _: Request<proto::PauseCompactionRequest>,
    ) -> Result<Response<proto::PauseCompactionResponse>, Status> {
        self.0.compaction().as_ref().ok_or_else(disabled)?.pause();
        Ok(Response::new(proto::PauseCompactionResponse {}))
    }

    async fn resume(
        &self,
        _: Request<proto::ResumeCompactionRequest>,
    ) -> Result<Response<proto::ResumeCompactionResponse>, Status> {
        self.0.compaction().as_ref().ok_or_else(disabled)?.resume();
        Ok(Response::new(proto::ResumeCompactionResponse {}))
    }

    async fn history(
        &self,
        request: Request<proto::CompactionHistoryRequest>,
    ) -> Result<Response<proto::CompactionHistoryResponse>, Status> {
        let limit = match request.into_inner().limit {
            0 => RUNS_PAGE_DEFAULT,
            limit => limit.min(RUNS_PAGE_MAX),
        };
        let store = self.0.store.clone();
        let read = self
            .0
            .blocking
            .read(move || store.compaction_runs(limit))
            .await;
        let runs = read.map_err(|error| from_store(&error))?;
        let runs = runs.into_iter().map(compaction_run).collect();
        Ok(Response::new(proto::CompactionHistoryResponse { runs }))
    }
}

/// Compacts, and reports how far it is; ends early when the caller leaves or the daemon stops.
fn run(
    core: &Core,
    request: &CompactionRequest,
    answers: &mpsc::Sender<Result<proto::RunCompactionResponse, Status>>,
) -> betcode_storage::Result<Event> {
    let event = |progress: &_| response(Event::Progress(compaction_progress(progress)));
    let mut report = progress_reporter(core, answers, event);
    let outcome = core.store.compact(request, &mut report)?;
    Ok(Event::Outcome(compaction_outcome(&outcome)))
}

fn response(event: Event) -> proto::RunCompactionResponse {
    proto::RunCompactionResponse { event: Some(event) }
}

fn plan_message(plan: &CompactionPlan) -> proto::CompactionPlan {
    proto::CompactionPlan {
        steps: plan.steps().count() as u64,
        messages: plan.messages(),
        raw_bytes: plan.raw_bytes(),
        stored_bytes: plan.stored_bytes(),
    }
}

fn state_name(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Idle => "idle",
        ServiceState::Running => "running",
        ServiceState::Paused => "paused",
        ServiceState::Stopped => "stopped",
    }
}

fn disabled() -> Status {
    let message = "background compaction is switched off; set compaction to true and restart";
    failed_precondition("COMPACTION_OFF", message)
}
