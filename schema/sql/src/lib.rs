//! The numbered SQL migrations of the history store, and nothing else.
//!
//! A store file carries [`APPLICATION_ID`] in `PRAGMA application_id` and the number of the
//! last applied migration in `PRAGMA user_version`. Migrations are only ever appended: a file
//! written by any released version is brought forward by applying those it lacks, in order.

/// `PRAGMA application_id` of a history store: the ASCII bytes `BCHS`.
pub const APPLICATION_ID: i32 = 0x4243_4853;

/// One step of the schema. What SQL cannot say of it, the engine adds in the same transaction.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// Number of the step, from 1, without gaps; becomes `PRAGMA user_version`.
    pub version: u32,
    /// What the step brings, for logs and errors.
    pub name: &'static str,
    /// The statements of the step.
    pub sql: &'static str,
}

/// All migrations, oldest first.
pub const MIGRATIONS: &[Migration] = &[
    Migration {
        version: 1,
        name: "store",
        sql: include_str!("../migrations/0001_store.sql"),
    },
    Migration {
        version: 2,
        name: "import paths",
        sql: include_str!("../migrations/0002_import_paths.sql"),
    },
    Migration {
        version: 3,
        name: "segment tails",
        sql: include_str!("../migrations/0003_segment_tails.sql"),
    },
];

/// The schema version that this build writes: the number of the newest migration.
pub const SCHEMA_VERSION: u32 = MIGRATIONS[MIGRATIONS.len() - 1].version;

/// The oldest schema version that this build reads as it is, without a migration.
pub const OLDEST_READABLE_VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_numbered_from_one_without_gaps() {
        for (index, migration) in MIGRATIONS.iter().enumerate() {
            assert_eq!(migration.version as usize, index + 1, "{}", migration.name);
        }
    }
}
