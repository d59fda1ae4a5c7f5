//! The folder of an enrolment: at which relay this machine is known, and by which key.

use std::io;
use std::path::{Path, PathBuf};

use betcode_schema_tunnel::MachineId;
use betcode_service::private_file;
use serde::{Deserialize, Serialize};

use super::tls::{TunnelTls, TunnelTlsError};
use super::{Enrolled, TunnelOptions};

/// What else is known of an enrolment. Written last: without it there is none.
const ABOUT: &str = "enrolment.json";
const AUTHORITY: &str = "authority.pem";
const CERTIFICATE: &str = "machine.pem";
const KEY: &str = "machine.key";

/// At which relay, and as which machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// The machine's id.
    pub machine: MachineId,
    /// Host and port of the relay's tunnel listener.
    pub relay_address: String,
    /// A name of the relay's certificate.
    pub relay_name: String,
}

/// A folder that cannot be used, or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// Nobody has enrolled the machine.
    #[error("{0} has no enrolment: run `betcode-daemon enrol`")]
    Absent(PathBuf),
    /// A file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// What the folder says is not understood.
    #[error("{path}: {why}; enrol the machine again")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// Key or certificates are not what they should be.
    #[error(transparent)]
    Tls(#[from] TunnelTlsError),
}

/// The folder; nothing is read before it is asked for.
#[derive(Debug, Clone)]
pub struct EnrolmentFolder(PathBuf);

impl EnrolmentFolder {
    /// The folder at this path.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Keeps an enrolment, readable only by our user. One that was there is replaced; a crash
    /// in between leaves files that do not fit together, which the next start says.
    ///
    /// # Errors
    /// [`FolderError::Io`].
    pub fn save(&self, about: &Enrolment, enrolled: &Enrolled) -> Result<(), FolderError> {
        private_file::create_private_folder(&self.0).map_err(self.io("."))?;
        let text = serde_json::to_string_pretty(about).map_err(|error| FolderError::Malformed {
            path: self.0.join(ABOUT),
            why: error.to_string(),
        })?;
        for (name, text) in [
            (KEY, &enrolled.key),
            (CERTIFICATE, &enrolled.certificate),
            (AUTHORITY, &enrolled.authority),
            (ABOUT, &text),
        ] {
            private_file::replace(&self.0.join(name), text.as_bytes()).map_err(self.io(name))?;
        }
        Ok(())
    }

    /// Reads at which relay the machine is enrolled, and its credentials, as options of a tunnel
    /// to `relay_address`, or to the relay of the enrolment where that is empty.
    ///
    /// # Errors
    /// [`FolderError`].
    pub fn tunnel_options(&self, relay_address: &str) -> Result<TunnelOptions, FolderError> {
        let about = self.read()?;
        let address = match relay_address {
            "" => &about.relay_address,
            set => set,
        };
        let tls = TunnelTls::load(
            &self.0.join(AUTHORITY),
            &self.0.join(CERTIFICATE),
            &self.0.join(KEY),
            &about.relay_name,
            &about.machine,
        )?;
        let mut options = TunnelOptions::new(address, about.machine);
        options.tls = Some(tls);
        Ok(options)
    }

    fn read(&self) -> Result<Enrolment, FolderError> {
        let text = match std::fs::read(self.0.join(ABOUT)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FolderError::Absent(self.0.clone()));
            }
            Err(error) => return Err(self.io(ABOUT)(error)),
        };
        serde_json::from_slice(&text).map_err(|error| FolderError::Malformed {
            path: self.0.join(ABOUT),
            why: error.to_string(),
        })
    }

    fn io(&self, name: &str) -> impl Fn(io::Error) -> FolderError {
        let path = self.0.join(name);
        move |source| FolderError::Io {
            path: path.clone(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn an_enrolment_is_private_and_one_that_is_absent_or_broken_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("relay");
        let there = EnrolmentFolder::at(&path);
        let why = there.tunnel_options("").unwrap_err().to_string();
        assert!(why.contains("betcode-daemon enrol"), "{why}");
        let about = Enrolment {
            machine: "m-1".parse().unwrap(),
            relay_address: "relay.test:7443".into(),
            relay_name: "relay.test".into(),
        };
        let text = |what: &str| what.to_owned();
        let enrolled = Enrolled {
            key: text("k"),
            certificate: text("c"),
            authority: text("a"),
        };
        there.save(&about, &enrolled).unwrap();
        there.save(&about, &enrolled).unwrap();
        assert_eq!(there.read().unwrap(), about);
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o700);
        for name in [ABOUT, AUTHORITY, CERTIFICATE, KEY] {
            assert_eq!(mode(&path.join(name)), 0o600, "{name}");
        }
        let why = there.tunnel_options("").unwrap_err().to_string();
        assert!(
            why.contains("authority.pem") && why.contains("enrol"),
            "{why}"
        );
        std::fs::write(path.join(ABOUT), "{}").unwrap();
        let why = there.tunnel_options("").unwrap_err().to_string();
        assert!(why.contains("enrolment.json"), "{why}");
    }
}
