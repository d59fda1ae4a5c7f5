//! The relay's own certificate authority: who is a relay, and which machine is which.
//!
//! `init` makes it once. Its private key never leaves the state folder; a machine makes its own
//! key and has the public half certified when it shows a one-time code.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use betcode_schema_tunnel::{MACHINE_DOMAIN, MachineId};
use betcode_service::private_file;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use tokio_rustls::rustls::pki_types::SubjectPublicKeyInfoDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use crate::limits;

/// Where the relay keeps what must survive it.
#[derive(Debug, Clone)]
pub struct StateFolder(PathBuf);

/// Something of the state folder that could not be read, written or made.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder has an authority already.
    #[error("{path} exists already: this folder was initialised before")]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// A file could not be read or written.
    #[error("{path}: {source}; {}", hint(source))]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A relay cannot be reached by this.
    #[error("{name:?} is no DNS name and no address; use what clients and daemons dial")]
    Name {
        /// What was given.
        name: String,
    },
    /// A key or certificate could not be made or read.
    #[error("{path}: {source}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: rcgen::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {why}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => {
            "run this as the state folder's owner or as root; the files there have to be its owner's"
        }
        _ => "has `betcode-relay init` been run with this state folder?",
    }
}

impl StateFolder {
    /// The folder at `path`.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Path of a file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// The authority's certificate, PEM. It is what daemons and clients trust.
    #[must_use]
    pub fn authority_certificate(&self) -> PathBuf {
        self.file("authority.pem")
    }

    /// The relay's certificate with the authority's behind it, PEM.
    #[must_use]
    pub fn server_certificate(&self) -> PathBuf {
        self.file("server.pem")
    }

    /// The relay's private key, PEM.
    #[must_use]
    pub fn server_key(&self) -> PathBuf {
        self.file("server.key")
    }

    /// The private key that signs tokens, PEM. The serving relay does not need it.
    #[must_use]
    pub fn token_key(&self) -> PathBuf {
        self.file("token.key")
    }

    /// The public half, PEM, by which tokens are checked.
    #[must_use]
    pub fn token_public_key(&self) -> PathBuf {
        self.file("token.pub")
    }

    /// Reads the public key by which tokens are checked: 32 bytes.
    ///
    /// # Errors
    /// When there is none, or it is of another kind.
    pub fn read_token_public_key(&self) -> Result<Vec<u8>, StateError> {
        let path = self.token_public_key();
        let read = SubjectPublicKeyInfoDer::from_pem_file(&path);
        let der = read.map_err(|error| StateError::Malformed {
            path: path.clone(),
            why: format!("no public key: {error}"),
        })?;
        // An Ed25519 key is the last 32 bytes of its 44.
        match der.split_last_chunk::<32>() {
            Some((head, key)) if head.len() == 12 => Ok(key.to_vec()),
            _ => Err(StateError::Malformed {
                path,
                why: "not an Ed25519 key".into(),
            }),
        }
    }

    /// What was revoked.
    #[must_use]
    pub fn revoked(&self) -> PathBuf {
        self.file("revoked.json")
    }

    /// Enrolment codes that were not used yet.
    #[must_use]
    pub fn enrolments(&self) -> PathBuf {
        self.file("enrolments.json")
    }

    /// The database of requests that wait.
    #[must_use]
    pub fn buffer(&self) -> PathBuf {
        self.file("buffer.db")
    }

    /// What the lock of the relay that serves from the folder is named after.
    #[must_use]
    pub fn serving(&self) -> PathBuf {
        self.file("serving")
    }

    /// The socket on which the relay that serves from the folder says how busy it is.
    #[must_use]
    pub fn budget_socket(&self) -> PathBuf {
        self.file("budget.sock")
    }

    fn authority_key(&self) -> PathBuf {
        self.file("authority.key")
    }

    pub(crate) fn read(&self, path: &Path) -> Result<String, StateError> {
        std::fs::read_to_string(path).map_err(|source| StateError::Io {
            path: path.to_owned(),
            source,
        })
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), StateError> {
        private_file::replace(path, text.as_bytes()).map_err(|source| StateError::Io {
            path: path.to_owned(),
            source,
        })
    }

    /// Makes the authority, the relay's certificate for `names` (DNS names and addresses) and the
    /// key that signs tokens.
    ///
    /// For each DNS name with a dot, the certificate also covers the names one level below, by
    /// which a load balancer tells machines apart.
    ///
    /// # Errors
    /// When there is an authority already, or the folder cannot be written.
    pub fn init(&self, names: &[String]) -> Result<(), StateError> {
        let path = self.authority_key();
        if path.exists() {
            return Err(StateError::Exists { path });
        }
        // Before anything is written, so that a name which cannot be leaves nothing behind.
        self.server_names(names)?;
        private_file::create_private_folder(&self.0).map_err(|source| StateError::Io {
            path: self.0.clone(),
            source,
        })?;
        let made = |source| StateError::Certificate {
            path: self.authority_key(),
            source,
        };
        let authority_key = KeyPair::generate().map_err(made)?;
        let mut params = named("BetCode relay authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let authority = params.self_signed(&authority_key).map_err(made)?;
        let token_key = KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(made)?;
        self.write(&self.authority_certificate(), &authority.pem())?;
        self.write(&self.token_key(), &token_key.serialize_pem())?;
        self.write(&self.token_public_key(), &token_key.public_key_pem())?;
        // Last, as its presence means that all is there but the relay's own certificate.
        self.write(&path, &authority_key.serialize_pem())?;
        self.issue_server(names)
    }

    /// Makes a new key and certificate for the relay itself. A running relay takes it up by
    /// SIGHUP.
    ///
    /// # Errors
    /// When the authority cannot be read or the files not be written.
    pub fn issue_server(&self, names: &[String]) -> Result<(), StateError> {
        let made = |source| StateError::Certificate {
            path: self.server_certificate(),
            source,
        };
        let key = KeyPair::generate().map_err(made)?;
        let mut params = named("BetCode relay");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.subject_alt_names = self.server_names(names)?;
        let certificate = params.signed_by(&key, &self.issuer()?).map_err(made)?;
        let authority = self.read(&self.authority_certificate())?;
        self.write(&self.server_key(), &key.serialize_pem())?;
        let chain = format!("{}{authority}", certificate.pem());
        self.write(&self.server_certificate(), &chain)
    }

    fn server_names(&self, names: &[String]) -> Result<Vec<SanType>, StateError> {
        let mut alt_names = Vec::new();
        for name in names {
            let below = (name.contains('.') && name.parse::<IpAddr>().is_err())
                .then(|| format!("*.{name}"));
            for name in std::iter::once(name.clone()).chain(below) {
                alt_names.push(alt_name(&name).map_err(|_| StateError::Name { name })?);
            }
        }
        Ok(alt_names)
    }

    /// Certifies a machine's key from its signing request (PEM). Only the key is taken from the
    /// request; the name is what the code was issued for. Returns the certificate, PEM.
    ///
    /// # Errors
    /// When the request is not one, or the authority cannot be read.
    pub fn certify_machine(
        &self,
        machine: &MachineId,
        request_pem: &str,
        now: SystemTime,
    ) -> Result<String, StateError> {
        let bad = |source| StateError::Certificate {
            path: PathBuf::from("the signing request"),
            source,
        };
        let mut request = CertificateSigningRequestParams::from_pem(request_pem).map_err(bad)?;
        let mut params = named(machine.as_str());
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![alt_name(&machine.certificate_name()).map_err(bad)?];
        params.not_before = (now - Duration::from_secs(limits::CERTIFICATE_BACKDATE_S)).into();
        params.not_after = (now + Duration::from_secs(limits::MACHINE_CERTIFICATE_LIFE_S)).into();
        request.params = params;
        let certificate = request.signed_by(&self.issuer()?).map_err(bad)?;
        Ok(certificate.pem())
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, StateError> {
        let path = self.authority_key();
        let unusable = |source| StateError::Certificate {
            path: path.clone(),
            source,
        };
        let key = KeyPair::from_pem(&self.read(&path)?).map_err(unusable)?;
        let certificate = self.read(&self.authority_certificate())?;
        Issuer::from_ca_cert_pem(&certificate, key).map_err(unusable)
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params
}

fn alt_name(name: &str) -> Result<SanType, rcgen::Error> {
    Ok(match name.parse::<IpAddr>() {
        Ok(address) => SanType::IpAddress(address),
        Err(_) => SanType::DnsName(name.try_into()?),
    })
}

/// What a machine's certificate says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MachineCertificate {
    /// The machine that it names.
    pub machine: MachineId,
    /// When it was issued, Unix seconds.
    pub issued_s: u64,
}

/// Reads which machine a certificate names. That it is genuine is TLS's to check.
#[must_use]
pub fn read_machine_certificate(der: &[u8]) -> Option<MachineCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut machines = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => {
                let id = name.strip_suffix(MACHINE_DOMAIN)?.strip_suffix('.')?;
                id.parse().ok()
            }
            _ => None,
        });
    let machine = machines.next()?;
    // One machine and no other, so that there is no question which.
    if machines.next().is_some() {
        return None;
    }
    let from_s = certificate.validity().not_before.timestamp();
    let backdate_s = limits::CERTIFICATE_BACKDATE_S;
    Some(MachineCertificate {
        machine,
        issued_s: u64::try_from(from_s).unwrap_or(0) + backdate_s,
    })
}
