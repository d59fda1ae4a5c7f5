//! `betcode.history.v1.CapacityService`.

use std::collections::BTreeMap;
use std::sync::Arc;

use betcode_schema_grpc::history as proto;
use betcode_schema_grpc::history::capacity_service_server::CapacityService;
use betcode_service::process;
use betcode_storage::capacity::planner::{MemoryNow, memory};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::{ResponseStream, plan};
use crate::convert::resource_level;
use crate::core::{Core, session_id};
use crate::levels::levels_now;
use crate::limits::ANSWERS_AHEAD_MAX;
use crate::settings::planned_memory_bytes;
use crate::status::{draining, from_store};

/// The service.
#[derive(Debug, Clone)]
pub struct Capacity(pub Arc<Core>);

#[tonic::async_trait]
impl CapacityService for Capacity {
    type WatchLevelsStream = ResponseStream<proto::WatchLevelsResponse>;

    async fn report(
        &self,
        _: Request<proto::CapacityReportRequest>,
    ) -> Result<Response<proto::CapacityReportResponse>, Status> {
        let store = self.0.store.clone();
        let read = self
            .0
            .blocking
            .read(move || Ok((store.capacity_report()?, store.totals()?)))
            .await;
        let (report, totals) = read.map_err(|error| from_store(&error))?;
        Ok(Response::new(plan::report(&report, &totals)))
    }

    async fn plan(
        &self,
        request: Request<proto::PlanRequest>,
    ) -> Result<Response<proto::PlanResponse>, Status> {
        let request = request.into_inner();
        let store = self.0.store.clone();
        let report = match request.measured {
            true => {
                let read = self.0.blocking.read(move || store.capacity_report()).await;
                Some(read.map_err(|error| from_store(&error))?)
            }
            false => None,
        };
        let (inputs, measured) = plan::inputs(&self.0, &request, report.as_ref())?;
        plan::plan(&inputs, &measured, request.users).map(Response::new)
    }

    async fn growth(
        &self,
        request: Request<proto::GrowthRequest>,
    ) -> Result<Response<proto::GrowthResponse>, Status> {
        let request = request.into_inner();
        let session = match request.session_id.as_str() {
            "" => None,
            id => Some(session_id(id)?),
        };
        let store = self.0.store.clone();
        let first_hour = request.first_hour;
        let read = self.0.blocking.read(move || match session {
            Some(id) => store
                .growth_of_session(&id)
                .map(|rows| by_session(&rows, first_hour)),
            None => {
                let hours = store.growth_by_hour(first_hour)?;
                let types = store.growth_by_type()?;
                Ok(by_store(hours, types))
            }
        });
        Ok(Response::new(
            read.await.map_err(|error| from_store(&error))?,
        ))
    }

    async fn watch_levels(
        &self,
        _: Request<proto::WatchLevelsRequest>,
    ) -> Result<Response<Self::WatchLevelsStream>, Status> {
        let (answers, receiver) = mpsc::channel(ANSWERS_AHEAD_MAX);
        let core = Arc::clone(&self.0);
        tokio::spawn(async move {
            let mut levels = core.levels.clone();
            loop {
                levels.mark_unchanged();
                let now = levels_now(&core).into_iter().map(resource_level);
                let answer = proto::WatchLevelsResponse {
                    levels: now.collect(),
                };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
                tokio::select! {
                    changed = levels.changed() => if changed.is_err() { return },
                    () = answers.closed() => return,
                    () = core.drained() => {
                        let _ = answers.send(Err(draining())).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn budget(
        &self,
        _: Request<proto::BudgetRequest>,
    ) -> Result<Response<proto::BudgetResponse>, Status> {
        Ok(Response::new(proto::BudgetResponse {
            stages: self.0.metrics.budget(),
            memory: Some(memory(&self.0)),
            traffic: self.0.metrics.traffic_rates(),
        }))
    }
}

/// Memory, and what is in use.
pub(super) fn memory_now(core: &Core) -> MemoryNow {
    MemoryNow {
        resident_bytes: process::resident_bytes().now,
        base_bytes: core.base_bytes,
        sessions: core.admission.sessions.used(),
        clients: core.admission.clients.used(),
        subprocesses: core.admission.subprocesses.used(),
        sqlite_cache_bytes: core.store.options().sqlite_cache_bytes(),
    }
}

/// Memory beside the plan's formula.
fn memory(core: &Core) -> proto::MemoryUse {
    let resident = process::resident_bytes();
    let sessions = core.admission.sessions.used();
    let clients = core.admission.clients.used();
    let subprocesses = core.admission.subprocesses.used();
    proto::MemoryUse {
        resident_bytes: resident.now,
        resident_bytes_max: resident.peak,
        base_bytes: core.base_bytes,
        base_bytes_planned: memory::DAEMON_BASE_BYTES.0,
        sessions,
        session_bytes_planned: memory::DAEMON_SESSION_BYTES.0,
        clients,
        client_bytes_planned: memory::DAEMON_CLIENT_BYTES.0,
        subprocesses,
        subprocess_bytes_planned: memory::DAEMON_SUBPROCESS_BYTES.0,
        planned_bytes: planned_memory_bytes(sessions, clients, subprocesses),
        limit_bytes: core.admission.memory.max(),
        sqlite_cache_bytes: core.store.options().sqlite_cache_bytes(),
    }
}

fn by_store(
    hours: Vec<betcode_storage::HourGrowth>,
    types: Vec<betcode_storage::TypeGrowth>,
) -> proto::GrowthResponse {
    proto::GrowthResponse {
        hours: hours
            .into_iter()
            .map(|hour| proto::HourGrowth {
                hour: hour.hour,
                messages: hour.messages,
                raw_bytes: hour.raw_bytes,
                active_ms: Some(hour.active_ms),
            })
            .collect(),
        types: types
            .into_iter()
            .map(|kind| proto::TypeGrowth {
                message_type: kind.message_type,
                messages: kind.messages,
                raw_bytes: kind.raw_bytes,
            })
            .collect(),
    }
}

fn by_session(rows: &[betcode_storage::SessionGrowth], first_hour: i64) -> proto::GrowthResponse {
    let mut hours: BTreeMap<i64, (u64, u64)> = BTreeMap::new();
    let mut types: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.hour >= first_hour) {
        for sums in [
            hours.entry(row.hour).or_default(),
            types.entry(&row.message_type).or_default(),
        ] {
            sums.0 += row.messages;
            sums.1 += row.raw_bytes;
        }
    }
    proto::GrowthResponse {
        hours: hours
            .into_iter()
            .map(|(hour, (messages, raw_bytes))| proto::HourGrowth {
                hour,
                messages,
                raw_bytes,
                active_ms: None,
            })
            .collect(),
        types: types
            .into_iter()
            .map(|(name, (messages, raw_bytes))| proto::TypeGrowth {
                message_type: name.to_owned(),
                messages,
                raw_bytes,
            })
            .collect(),
    }
}
