//! What was revoked before its time: single tokens, all of a user's tokens so far, machines.
//!
//! A file of JSON, replaced whole, so that a command writes it and a running relay reads it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use betcode_schema_tunnel::MachineId;
use betcode_service::private_file;
use serde::{Deserialize, Serialize};

use super::Claims;
use crate::limits;

/// What was revoked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    /// Ids of tokens, and until when (Unix seconds) something that was sent with one may be under
    /// way or wait: then it can be forgotten.
    #[serde(default)]
    pub tokens: BTreeMap<String, u64>,
    /// Users, whose tokens issued up to this time (Unix seconds) count no more.
    #[serde(default)]
    pub users: BTreeMap<String, u64>,
    /// Machines, whose certificates issued up to this time (Unix seconds) count no more.
    #[serde(default)]
    pub machines: BTreeMap<MachineId, u64>,
}

impl Revocations {
    /// Reads the file; none means that nothing was revoked.
    ///
    /// # Errors
    /// When there is a file that cannot be read. It must not be taken for an empty one.
    pub fn load(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Changes the file under a lock, forgetting tokens with which nothing waits any more at
    /// `now_s`.
    ///
    /// # Errors
    /// When it cannot be read or written; the old one is whole then.
    pub fn change(path: &Path, now_s: u64, change: impl FnOnce(&mut Self)) -> io::Result<()> {
        let _lock = private_file::lock(path)?;
        let mut revoked = Self::load(path)?;
        change(&mut revoked);
        revoked.tokens.retain(|_, end_s| *end_s >= now_s);
        private_file::replace(path, &serde_json::to_vec_pretty(&revoked)?)
    }

    /// Revokes all of a user's tokens issued until `now_s`.
    pub fn revoke_user(&mut self, user: &str, now_s: u64) {
        revoke(self.users.entry(user.to_owned()).or_default(), now_s);
    }

    /// Revokes a machine's certificates issued until `now_s`.
    pub fn revoke_machine(&mut self, machine: &MachineId, now_s: u64) {
        revoke(self.machines.entry(machine.clone()).or_default(), now_s);
    }

    /// When a token that is issued to a user now has to say it was, so that what was revoked until
    /// now does not cover it. Times are whole seconds.
    ///
    /// # Errors
    /// The time until which the user's tokens are revoked, when that is far ahead of `now_s`.
    pub fn issue_s(&self, user: &str, now_s: u64) -> Result<u64, u64> {
        issue_s(self.users.get(user), now_s)
    }

    /// The same for a machine's certificate.
    ///
    /// # Errors
    /// The time until which the machine's certificates are revoked, when that is far ahead of
    /// `now_s`.
    pub fn issue_machine_s(&self, machine: &MachineId, now_s: u64) -> Result<u64, u64> {
        issue_s(self.machines.get(machine), now_s)
    }

    /// Whether a token was revoked.
    #[must_use]
    pub fn covers(&self, claims: &Claims) -> bool {
        self.covers_token(&claims.sub, &claims.jti, claims.iat)
    }

    /// The same for a token with calls under way.
    #[must_use]
    pub fn covers_token(&self, user: &str, id: &str, issued_s: u64) -> bool {
        self.tokens.contains_key(id) || self.covers_user(user, issued_s)
    }

    /// Whether a user's tokens issued at that time were revoked, whichever they are.
    #[must_use]
    pub fn covers_user(&self, user: &str, issued_s: u64) -> bool {
        let of_user = self.users.get(user);
        of_user.is_some_and(|&until| issued_s <= until)
    }

    /// Whether a machine's certificate was revoked; a tunnel without one has none to revoke.
    #[must_use]
    pub fn covers_tunnel(&self, machine: &MachineId, issued_s: Option<u64>) -> bool {
        let until = self.machines.get(machine);
        until.is_some_and(|&until| issued_s.is_some_and(|issued_s| issued_s <= until))
    }
}

fn revoke(until_s: &mut u64, now_s: u64) {
    // Beyond what was issued after the last time, which is a second ahead at most: see `issue_s`.
    // Never back: the clock may have been set back, and what was revoked stays revoked.
    *until_s = now_s.max(until_s.saturating_add(1));
}

fn issue_s(until_s: Option<&u64>, now_s: u64) -> Result<u64, u64> {
    match until_s {
        Some(&until_s) if until_s > now_s.saturating_add(limits::TOKEN_LEEWAY_S) => Err(until_s),
        Some(&until_s) => Ok(now_s.max(until_s + 1)),
        None => Ok(now_s),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_issued_and_revoked_within_a_second_goes_by_what_came_later() {
        let mut revoked = Revocations::default();
        assert_eq!(revoked.issue_s("ann", 100), Ok(100));
        for _ in 0..3 {
            revoked.revoke_user("ann", 100);
            let issued_s = revoked.issue_s("ann", 100).unwrap();
            assert!(!revoked.covers_user("ann", issued_s));
            revoked.revoke_user("ann", 100);
            assert!(revoked.covers_user("ann", issued_s));
        }
        assert_eq!(revoked.issue_s("ann", 200), Ok(200));
    }

    #[test]
    fn no_token_is_issued_for_a_time_far_ahead() {
        let mut revoked = Revocations::default();
        revoked.revoke_user("ann", 1_000_000);
        assert_eq!(revoked.issue_s("ann", 100), Err(1_000_000));
    }

    #[test]
    fn a_machine_that_is_enrolled_and_revoked_within_a_second_goes_by_what_came_later() {
        let mut revoked = Revocations::default();
        let machine: MachineId = "m-1".parse().unwrap();
        assert_eq!(revoked.issue_machine_s(&machine, 100), Ok(100));
        for _ in 0..3 {
            revoked.revoke_machine(&machine, 100);
            let issued_s = revoked.issue_machine_s(&machine, 100).unwrap();
            assert!(!revoked.covers_tunnel(&machine, Some(issued_s)));
            revoked.revoke_machine(&machine, 100);
            assert!(revoked.covers_tunnel(&machine, Some(issued_s)));
        }
        assert_eq!(revoked.issue_machine_s(&machine, 200), Ok(200));
    }

    #[test]
    fn a_machine_that_is_revoked_again_under_an_earlier_clock_stays_revoked() {
        let mut revoked = Revocations::default();
        let machine: MachineId = "m-1".parse().unwrap();
        revoked.revoke_machine(&machine, 1_000_000);
        revoked.revoke_machine(&machine, 100);
        assert!(revoked.covers_tunnel(&machine, Some(1_000_000)));
        assert!(revoked.issue_machine_s(&machine, 100).is_err());
    }
}
