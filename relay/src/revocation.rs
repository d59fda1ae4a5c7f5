//! Revocations in force: the list that everything asks, and what they end when it changes.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use betcode_schema_tunnel::metadata::GoAway;

use crate::auth::{LiveTokens, Revocations, StateError, StateFolder};
use crate::tunnel::Table;

/// The list in force, and what was admitted under earlier ones.
pub(crate) struct InForce {
    state: StateFolder,
    current: Arc<RwLock<Revocations>>,
    table: Arc<Table>,
    live: Arc<LiveTokens>,
    /// Held while a list is read and put in force, so that an older one never follows a newer.
    turn: Mutex<()>,
}

impl InForce {
    /// Puts the list of a state folder in force.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn load(
        state: StateFolder,
        table: Arc<Table>,
        live: Arc<LiveTokens>,
    ) -> Result<Self, StateError> {
        let current = Arc::new(RwLock::new(read(&state)?));
        Ok(Self {
            state,
            current,
            table,
            live,
            turn: Mutex::default(),
        })
    }

    /// The list.
    pub(crate) fn revoked(&self) -> &Arc<RwLock<Revocations>> {
        &self.current
    }

    /// Tells one writing of the file from the next.
    pub(crate) fn written(&self) -> Option<(SystemTime, u64, u64)> {
        let file = std::fs::metadata(self.state.revoked()).ok()?;
        // Two writings within one tick of the file system's clock are two files.
        Some((file.modified().ok()?, file.ino(), file.len()))
    }

    /// Reads the list again, puts it in force, and ends the calls and tunnels that it names.
    ///
    /// # Errors
    /// When it cannot be read; the old one stays in force then.
    pub(crate) fn refresh(&self) -> Result<(), StateError> {
        // No code panics while it holds a lock, so a poisoned one is still whole.
        let _turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        let new = read(&self.state)?;
        // The list first: who is admitted from here on has met it, all others are found below.
        *self.current.write().unwrap_or_else(|e| e.into_inner()) = new.clone();
        self.live.end_revoked(&new);
        for link in self.table.connections() {
            if new.covers_link(link.machine(), link.certificate_issued_s()) {
                tokio::spawn(async move { link.go_away(GoAway::Revoked, Duration::ZERO).await });
            }
        }
        Ok(())
    }
}

fn read(state: &StateFolder) -> Result<Revocations, StateError> {
    let path = state.revoked();
    Revocations::load(&path).map_err(|source| StateError::Io { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_writings_within_one_tick_of_the_clock_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::at(folder.path());
        let in_force = InForce::load(state.clone(), Arc::default(), Arc::default()).unwrap();
        let write = |user: &str| {
            let path = state.revoked();
            let revoke = |revoked: &mut Revocations| {
                revoked.users.insert(user.to_owned(), 1);
            };
            Revocations::change(&path, 0, revoke).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            in_force.written()
        };
        assert_ne!(write("ann"), write("bob"));
    }
}
