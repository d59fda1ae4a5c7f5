//! gRPC router from clients to daemons by machine id.
//!
//! An empty room so far: it holds no service yet, and pretends none.
