//! Revocations in force: the list that everything asks, and what they end when it changes.

use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, SystemTime};

use betcode_schema_tunnel::metadata::GoAway;
use betcode_service::sync::{lock, write};

use crate::auth::{ActiveTokens, Revocations, StateError, StateFolder};
use crate::tunnel::Table;

/// The list in force, and what was admitted under earlier ones.
pub(crate) struct RevocationList {
    state: StateFolder,
    current: Arc<RwLock<Revocations>>,
    table: Arc<Table>,
    live: Arc<ActiveTokens>,
    /// Held while a list is read and put in force, so that an older one never follows a newer.
    turn: Mutex<()>,
    watched: Mutex<Watched>,
}

/// Tells one writing of the file from the next: its time, its number and its length, as two writings
/// within one tick of the file system's clock are two files. `None` when there is no file.
type Written = Option<(SystemTime, u64, u64)>;

/// What [`RevocationList::refresh_if_written`] has found before.
#[derive(Default)]
struct Watched {
    /// The writing that is in force.
    seen: Written,
    /// The writing that could not be read, and why: said once, and tried again all the same, as what
    /// kept it from being read need not be in the file.
    failed: Option<(Written, String)>,
}

impl RevocationList {
    /// Puts the list of a state folder in force.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn load(
        state: StateFolder,
        table: Arc<Table>,
        live: Arc<ActiveTokens>,
    ) -> Result<Self, StateError> {
        let current = Arc::new(RwLock::new(read(&state)?));
        Ok(Self {
            state,
            current,
            table,
            live,
            turn: Mutex::default(),
            watched: Mutex::default(),
        })
    }

    /// The list.
    pub(crate) fn revoked(&self) -> &Arc<RwLock<Revocations>> {
        &self.current
    }

    fn written(&self) -> Written {
        let file = std::fs::metadata(self.state.revoked()).ok()?;
        Some((file.modified().ok()?, file.ino(), file.len()))
    }

    /// [Refreshes](Self::refresh) the list when its file was written since it was last read.
    ///
    /// # Errors
    /// When it cannot be read. The same failure of the same writing is an error once.
    pub(crate) fn refresh_if_written(&self) -> Result<(), StateError> {
        let mut watched = lock(&self.watched);
        let now = self.written();
        if now == watched.seen {
            return Ok(());
        }
        match self.refresh() {
            Ok(()) => {
                watched.seen = now;
                watched.failed = None;
                Ok(())
            }
            Err(error) => {
                let failed = Some((now, error.to_string()));
                match watched.failed == failed {
                    true => Ok(()),
                    false => {
                        watched.failed = failed;
                        Err(error)
                    }
                }
            }
        }
    }

    /// Reads the list again, puts it in force, and ends the calls and tunnels that it names.
    ///
    /// # Errors
    /// When it cannot be read; the old one stays in force then.
    pub(crate) fn refresh(&self) -> Result<(), StateError> {
        let _turn = lock(&self.turn);
        let new = read(&self.state)?;
        // The list first: who is admitted from here on has met it, all others are found below.
        *write(&self.current) = new.clone();
        self.live.end_revoked(&new);
        for tunnel in self.table.connections() {
            if new.covers_tunnel(tunnel.machine(), tunnel.certificate_issued_s()) {
                tokio::spawn(async move { tunnel.go_away(GoAway::Revoked, Duration::ZERO).await });
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
    fn a_list_that_cannot_be_read_is_said_once_and_read_when_it_can_be() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::at(folder.path());
        let revocations =
            RevocationList::load(state.clone(), Arc::default(), Arc::default()).unwrap();
        revocations.refresh_if_written().unwrap();
        std::fs::write(state.revoked(), "no JSON").unwrap();
        revocations.refresh_if_written().unwrap_err();
        revocations.refresh_if_written().unwrap();
        // Written again, it is said again.
        std::fs::write(state.revoked(), "still no JSON").unwrap();
        revocations.refresh_if_written().unwrap_err();
        std::fs::remove_file(state.revoked()).unwrap();
        let revoke = |revoked: &mut Revocations| {
            revoked.users.insert("ann".to_owned(), 1);
        };
        Revocations::change(&state.revoked(), 0, revoke).unwrap();
        revocations.refresh_if_written().unwrap();
        let revoked = revocations.revoked().read().unwrap();
        assert!(revoked.users.contains_key("ann"));
    }

    #[test]
    fn two_writings_within_one_tick_of_the_clock_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::at(folder.path());
        let revocations =
            RevocationList::load(state.clone(), Arc::default(), Arc::default()).unwrap();
        let write = |user: &str| {
            let path = state.revoked();
            let revoke = |revoked: &mut Revocations| {
                revoked.users.insert(user.to_owned(), 1);
            };
            Revocations::change(&path, 0, revoke).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
            revocations.written()
        };
        assert_ne!(write("ann"), write("bob"));
    }
}
