//! `betcode.v1.Health` and `betcode.v1.BetCodeHealth`.

use std::collections::HashMap;
use std::sync::Arc;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::ServingStatus;
use betcode_schema_grpc::v1::bet_code_health_server::BetCodeHealth;
use betcode_schema_grpc::v1::health_server::Health as HealthService;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::ResponseStream;
use crate::core::Core;
use crate::health::{COMPONENTS, Component, Health};
use crate::limits::ANSWERS_AHEAD_MAX;
use crate::status::with_reason;
use crate::translate::timestamp_of;

/// The services.
#[derive(Debug, Clone)]
pub struct HealthServices(pub Arc<Core>);

fn status(serving: bool) -> ServingStatus {
    if serving {
        ServingStatus::Serving
    } else {
        ServingStatus::NotServing
    }
}

/// Status of a service or component by its name; the daemon's for an empty one.
fn status_of(health: &Health, service: &str) -> ServingStatus {
    if service.is_empty() || crate::server::SERVICES.contains(&service) {
        return status(health.serving());
    }
    let component = health
        .components
        .iter()
        .find(|component| component.name == service);
    component.map_or(ServingStatus::ServiceUnknown, |component| {
        status(component.serving)
    })
}

#[tonic::async_trait]
impl HealthService for HealthServices {
    type WatchStream = ResponseStream<proto::HealthCheckResponse>;

    async fn check(
        &self,
        request: Request<proto::HealthCheckRequest>,
    ) -> Result<Response<proto::HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match status_of(&self.0.health.borrow(), &service) {
            ServingStatus::ServiceUnknown => {
                let known = COMPONENTS.join(", ");
                let message = format!("there is no service {service:?}; components are {known}");
                Err(with_reason(Code::NotFound, "NOT_FOUND", message))
            }
            status => Ok(Response::new(proto::HealthCheckResponse {
                status: status.into(),
            })),
        }
    }

    async fn watch(
        &self,
        request: Request<proto::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let service = request.into_inner().service;
        let (answers, receiver) = mpsc::channel(ANSWERS_AHEAD_MAX);
        let mut health = self.0.health.clone();
        tokio::spawn(async move {
            let mut sent = None;
            loop {
                let now = status_of(&health.borrow_and_update(), &service);
                if sent != Some(now) {
                    sent = Some(now);
                    let answer = proto::HealthCheckResponse { status: now.into() };
                    if answers.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = health.changed() => if changed.is_err() { return },
                    () = answers.closed() => return,
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl BetCodeHealth for HealthServices {
    async fn get_health_details(
        &self,
        _: Request<proto::HealthDetailsRequest>,
    ) -> Result<Response<proto::HealthDetailsResponse>, Status> {
        let health = self.0.health.borrow().clone();
        let degraded: Vec<&str> = health
            .components
            .iter()
            .filter(|component| component.degraded || !component.serving)
            .map(|component| component.message.as_str())
            .collect();
        let mut metadata = HashMap::new();
        metadata.insert(
            "store".to_owned(),
            self.0.store.path().display().to_string(),
        );
        metadata.insert("pid".to_owned(), std::process::id().to_string());
        Ok(Response::new(proto::HealthDetailsResponse {
            overall_status: status(health.serving()).into(),
            degraded: !degraded.is_empty(),
            degraded_reason: degraded.join("; "),
            components: health.components.iter().map(component).collect(),
            metadata,
        }))
    }
}

fn component(component: &Component) -> proto::ComponentHealth {
    proto::ComponentHealth {
        name: component.name.to_owned(),
        status: status(component.serving).into(),
        message: component.message.clone(),
        last_check: Some(timestamp_of(component.checked_ms)),
    }
}
