//! `betcode.history.v1.MaintenanceService`.

use std::path::PathBuf;
use std::sync::Arc;

use betcode_schema_grpc::history as proto;
use betcode_schema_grpc::history::maintenance_service_server::MaintenanceService;
use betcode_schema_grpc::history::{backup_response, verify_response};
use betcode_storage::VerifyProgress;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{ResponseStream, progress_reporter};
use crate::convert::{verify_progress, verify_report};
use crate::core::Core;
use crate::limits::ANSWERS_AHEAD_MAX;
use crate::status::{from_store, invalid};

/// Answers `MaintenanceService` from the store.
#[derive(Debug, Clone)]
pub struct Maintenance(pub Arc<Core>);

#[tonic::async_trait]
impl MaintenanceService for Maintenance {
    type VerifyStream = ResponseStream<proto::VerifyResponse>;
    type BackupStream = ResponseStream<proto::BackupResponse>;

    async fn verify(
        &self,
        _: Request<proto::VerifyRequest>,
    ) -> Result<Response<Self::VerifyStream>, Status> {
        let (answers, receiver) = mpsc::channel(ANSWERS_AHEAD_MAX);
        let core = Arc::clone(&self.0);
        let response = |event| proto::VerifyResponse { event: Some(event) };
        self.0.blocking.start_long_job(move || {
            let event = |progress: &VerifyProgress| {
                response(verify_response::Event::Progress(verify_progress(progress)))
            };
            let report = core
                .store
                .verify(&mut progress_reporter(&core, &answers, event));
            let last = match report {
                Ok(report) => Ok(response(verify_response::Event::Report(verify_report(
                    report,
                )))),
                Err(error) => Err(from_store(&error)),
            };
            let _ = answers.blocking_send(last);
        })?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn backup(
        &self,
        request: Request<proto::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let path = PathBuf::from(request.into_inner().path);
        if !path.is_absolute() {
            return Err(invalid(
                "path",
                "it must be absolute: the daemon has a folder of its own",
            ));
        }
        let (answers, receiver) = mpsc::channel(ANSWERS_AHEAD_MAX);
        let core = Arc::clone(&self.0);
        let response = |event| proto::BackupResponse { event: Some(event) };
        self.0.blocking.start_long_job(move || {
            let event = |progress: &VerifyProgress| {
                response(backup_response::Event::Progress(verify_progress(progress)))
            };
            let copied = core
                .store
                .backup(&path, &mut progress_reporter(&core, &answers, event));
            let last = match copied {
                Ok(report) => Ok(response(backup_response::Event::Report(
                    proto::BackupReport {
                        bytes: report.bytes,
                        sessions: report.sessions,
                        messages: report.messages,
                        raw_bytes: report.raw_bytes,
                    },
                ))),
                Err(error) => Err(from_store(&error)),
            };
            let _ = answers.blocking_send(last);
        })?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}
