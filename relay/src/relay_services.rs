//! The relay's own services: health, its callers' machines, and reflection of both.

use std::sync::Arc;

use betcode_schema_grpc::v1::machine_service_server::{self, MachineServiceServer};
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server;
use tonic_health::server::HealthReporter;

use crate::router::Machines;
use crate::tunnel::Table;

/// The services that answer calls of the relay's own.
pub struct RelayServices {
    reporter: HealthReporter,
    routes: Routes,
}

/// Name under which health reports the routing of calls; the empty name stands for the whole.
pub const ROUTER_HEALTH: &str = "betcode.relay.v1.Router";

impl RelayServices {
    /// The services, reporting that the relay serves; of machines, those that have a tunnel here are online.
    pub async fn new(reflection: bool, table: Arc<Table>) -> Self {
        let (reporter, health) = tonic_health::server::health_reporter();
        reporter
            .set_service_status(ROUTER_HEALTH, ServingStatus::Serving)
            .await;
        let mut routes = Routes::new(health);
        routes = routes.add_service(MachineServiceServer::new(Machines { table }));
        if reflection {
            let described = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                    .register_encoded_file_descriptor_set(betcode_schema_grpc::DESCRIPTORS)
                    .with_service_name(health_server::SERVICE_NAME)
                    .with_service_name(machine_service_server::SERVICE_NAME)
            };
            match (described().build_v1(), described().build_v1alpha()) {
                (Ok(v1), Ok(v1alpha)) => routes = routes.add_service(v1).add_service(v1alpha),
                (Err(error), _) | (_, Err(error)) => tracing::error!(%error, "no reflection"),
            }
        }
        Self {
            reporter,
            routes: routes.prepare(),
        }
    }

    /// What answers.
    #[must_use]
    pub fn routes(&self) -> Routes {
        self.routes.clone()
    }

    /// Reports that the relay is about to stop, and ends the streams of those who watch: they would
    /// keep their connections until the end of the drain.
    pub async fn stop(&self) {
        let mut reporter = self.reporter.clone();
        for name in ["", ROUTER_HEALTH] {
            reporter
                .set_service_status(name, ServingStatus::NotServing)
                .await;
            reporter.clear_service_status(name).await;
        }
    }
}
