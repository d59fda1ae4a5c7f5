//! The caller's deadline, as gRPC carries it in `grpc-timeout`.

use std::time::Instant;

use betcode_service::grpc_timeout;
use tonic::codegen::http::HeaderMap;

/// In a response's extensions: its service ends the stream at the deadline itself.
#[derive(Debug, Clone, Copy)]
pub struct KeptByService;

/// When the call ends; `None` when the caller set no deadline, or none that can be read.
#[must_use]
pub fn from_headers(headers: &HeaderMap) -> Option<Instant> {
    Instant::now().checked_add(grpc_timeout::from_headers(headers)?)
}
