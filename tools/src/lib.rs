//! betcode-db.
