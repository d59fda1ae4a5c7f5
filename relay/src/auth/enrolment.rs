//! Enrolment: with a one-time code, one machine has its key certified, once.
//!
//! The file holds digests of codes, never codes. A command and the relay both write it, under a
//! lock, and a code is struck off before its certificate is made: used once, or not at all.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

use betcode_schema_tunnel::MachineId;
use betcode_service::{hex, private_file};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use crate::limits;

/// The file of codes that were not used yet.
#[derive(Debug, Clone)]
pub struct Enrolments(PathBuf);

#[derive(Default, Serialize, Deserialize)]
struct Pending(BTreeMap<String, PendingCode>);

#[derive(Serialize, Deserialize)]
struct PendingCode {
    machine: MachineId,
    /// Until when the code counts, Unix seconds.
    until_s: u64,
}

impl Enrolments {
    /// The file at `path`.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Makes a code for a machine; codes for it that were not used count no more. The code
    /// carries a digest of the authority's certificate, so that the machine can tell this relay
    /// from another.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn issue(
        &self,
        machine: &MachineId,
        authority_der: &[u8],
        now_s: u64,
    ) -> io::Result<String> {
        let mut code = [0; limits::ENROLMENT_CODE_BYTES];
        let random = SystemRandom::new().fill(&mut code);
        random.map_err(|_| io::Error::other("the system gives no random bytes"))?;
        let secret = hex::encode(&code);
        self.change(|pending| {
            pending.retain(|_, old| old.machine != *machine && old.until_s >= now_s);
            let enrolment = PendingCode {
                machine: machine.clone(),
                until_s: now_s + limits::ENROLMENT_LIFE_S,
            };
            pending.insert(
                hex::encode(digest(&SHA256, secret.as_bytes()).as_ref()),
                enrolment,
            );
        })?;
        let pin = digest(&SHA256, authority_der);
        Ok(format!(
            "{secret}-{}",
            hex::encode(&pin.as_ref()[..limits::ENROLMENT_PIN_BYTES])
        ))
    }

    /// Uses a code up. `None` when there is no such code for this machine, or its time is over.
    ///
    /// # Errors
    /// When the file cannot be read or written; the code can be used again then.
    pub fn take(&self, machine: &MachineId, code: &str, now_s: u64) -> io::Result<Option<()>> {
        let secret = code.split('-').next().unwrap_or_default();
        // Looked up by digest: how long that takes says nothing about codes.
        let key = hex::encode(digest(&SHA256, secret.as_bytes()).as_ref());
        // Anybody may guess: only a code that is there is worth the lock.
        let (pending, _) = self.read()?;
        if pending
            .0
            .get(&key)
            .is_none_or(|there| there.machine != *machine)
        {
            return Ok(None);
        }
        self.change(|pending| {
            let there = pending.get(&key)?;
            if there.machine != *machine {
                return None;
            }
            let until_s = there.until_s;
            pending.remove(&key);
            (until_s >= now_s).then_some(())
        })
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, PendingCode>) -> T,
    ) -> io::Result<T> {
        let _lock = private_file::lock(&self.0)?;
        let (mut pending, text) = self.read()?;
        let changed = change(&mut pending.0);
        let new = serde_json::to_vec_pretty(&pending)?;
        if new != text {
            private_file::replace(&self.0, &new)?;
        }
        Ok(changed)
    }

    /// The codes, and the file's text. The file is replaced whole, so it is read without a lock.
    fn read(&self) -> io::Result<(Pending, Vec<u8>)> {
        let text = match std::fs::read(&self.0) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
            Err(error) => return Err(error),
        };
        Ok((serde_json::from_slice(&text)?, text))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_code_serves_its_machine_once_and_in_time() {
        let folder = tempfile::tempdir().unwrap();
        let enrolments = Enrolments::at(folder.path().join("enrolments.json"));
        let (a, b): (MachineId, MachineId) = ("a".parse().unwrap(), "b".parse().unwrap());
        let code = enrolments.issue(&a, b"authority", 100).unwrap();
        assert_eq!(enrolments.take(&b, &code, 100).unwrap(), None, "another's");
        assert_eq!(enrolments.take(&a, "guess", 100).unwrap(), None);
        assert_eq!(enrolments.take(&a, &code, 100).unwrap(), Some(()));
        assert_eq!(enrolments.take(&a, &code, 100).unwrap(), None, "used");
        let late = enrolments.issue(&a, b"authority", 100).unwrap();
        let after_s = 101 + limits::ENROLMENT_LIFE_S;
        assert_eq!(enrolments.take(&a, &late, after_s).unwrap(), None, "late");
        let first = enrolments.issue(&a, b"authority", 100).unwrap();
        let second = enrolments.issue(&a, b"authority", 100).unwrap();
        assert_eq!(enrolments.take(&a, &first, 100).unwrap(), None, "replaced");
        assert_eq!(enrolments.take(&a, &second, 100).unwrap(), Some(()));
        let kept = std::fs::read_to_string(folder.path().join("enrolments.json")).unwrap();
        assert_eq!(kept, "{}");
    }
    #[test]
    fn a_wrong_code_writes_nothing_and_waits_for_nobody() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("enrolments.json");
        let enrolments = Enrolments::at(&path);
        let (a, b): (MachineId, MachineId) = ("a".parse().unwrap(), "b".parse().unwrap());
        assert_eq!(enrolments.take(&a, "guess", 100).unwrap(), None);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        let code = enrolments.issue(&a, b"authority", 100).unwrap();
        let written = || std::fs::metadata(&path).unwrap().ino();
        let before = written();
        let _held = private_file::lock(&path).unwrap();
        assert_eq!(enrolments.take(&a, "guess", 100).unwrap(), None);
        assert_eq!(enrolments.take(&b, &code, 100).unwrap(), None);
        assert_eq!(written(), before);
    }
}
