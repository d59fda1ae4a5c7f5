//! Certificates and keys in PEM files, as rustls takes them.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// A file that cannot be read, or of which no TLS can be made.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct PemError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

impl PemError {
    /// Makes errors about a file of what rustls says.
    pub fn at<E: Display>(path: &Path) -> impl Fn(E) -> Self {
        move |error| Self {
            path: path.to_owned(),
            why: error.to_string(),
        }
    }
}

/// The certificates of a file, in order.
///
/// # Errors
/// [`PemError`].
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(PemError::at(path))
}

/// The private key of a file.
///
/// # Errors
/// [`PemError`].
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    PrivateKeyDer::from_pem_file(path).map_err(PemError::at(path))
}

/// The authorities of a file: a certificate of one of them is trusted.
///
/// # Errors
/// [`PemError`].
pub fn authorities(path: &Path) -> Result<RootCertStore, PemError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(path)? {
        roots.add(authority).map_err(PemError::at(path))?;
    }
    Ok(roots)
}

/// The one authority of a file: its first certificate.
///
/// # Errors
/// [`PemError`].
pub fn authority(path: &Path) -> Result<RootCertStore, PemError> {
    let authority = CertificateDer::from_pem_file(path).map_err(PemError::at(path))?;
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(PemError::at(path))?;
    Ok(roots)
}
