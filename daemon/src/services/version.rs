//! `betcode.v1.VersionService`.

use std::sync::Arc;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::version_service_server::VersionService;
use tonic::{Request, Response, Status};

use crate::core::Core;

/// Version of the protocol that existing clients speak.
const API_VERSION: &str = "v1";

/// What this daemon can do.
const FEATURES: [&str; 14] = [
    "sessions.list",
    "sessions.resume",
    "sessions.compact",
    "sessions.rename",
    "sessions.delete",
    "history.v1",
    "agents.converse",
    "agents.cancel",
    "agents.permissions",
    "agents.grants",
    "agents.input_lock",
    "agents.todos",
    "agents.plan_mode",
    "agents.tool_status",
];

/// `VersionService` of this daemon.
#[derive(Debug, Clone)]
pub struct Version(pub Arc<Core>);

#[tonic::async_trait]
impl VersionService for Version {
    async fn get_version(
        &self,
        _: Request<proto::GetVersionRequest>,
    ) -> Result<Response<proto::GetVersionResponse>, Status> {
        Ok(Response::new(proto::GetVersionResponse {
            api_version: API_VERSION.to_owned(),
            server_version: env!("CARGO_PKG_VERSION").to_owned(),
            features: FEATURES.map(str::to_owned).into(),
            // Not asked of the executable, which may be any: an agent says it when it begins.
            claude_code: self
                .0
                .agents
                .last_began()
                .version
                .map(|version| proto::ClaudeCodeInfo {
                    version,
                    ..proto::ClaudeCodeInfo::default()
                }),
            constraints: Some(proto::VersionConstraints::default()),
        }))
    }

    async fn negotiate_capabilities(
        &self,
        request: Request<proto::NegotiateRequest>,
    ) -> Result<Response<proto::NegotiateResponse>, Status> {
        let asked = request.into_inner().requested_features;
        let (granted, others): (Vec<_>, Vec<_>) = asked
            .into_iter()
            .partition(|feature| FEATURES.contains(&feature.as_str()));
        let message_bytes_max = self.0.settings.request_bytes_max();
        Ok(Response::new(proto::NegotiateResponse {
            accepted: true,
            granted_features: granted,
            warnings: others
                .into_iter()
                .map(|feature| format!("{feature} is not a feature of this daemon"))
                .collect(),
            capabilities: Some(proto::CapabilitySet {
                streaming_supported: true,
                // As with the version: those of the agent that began last.
                available_tools: self.0.agents.last_began().tools,
                max_message_size: u32::try_from(message_bytes_max).unwrap_or(u32::MAX),
                ..proto::CapabilitySet::default()
            }),
            ..proto::NegotiateResponse::default()
        }))
    }
}
