//! gRPC services over the history store, for one machine.
//!
//! An empty room so far: it holds no service yet, and pretends none.
