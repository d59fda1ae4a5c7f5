//! Mutual TLS whose certificates may be replaced while the daemon serves.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use betcode_service::sync;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;

use crate::settings::Settings;

/// HTTP/2, which gRPC is.
const ALPN: &[u8] = b"h2";

/// A file of which no TLS can be made.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}; it must be PEM, and the key that of the certificate")]
pub struct TlsError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// What new connections are met with. Those that are open keep what they began with.
#[derive(Debug)]
pub(crate) struct Tls(RwLock<Arc<ServerConfig>>);

impl Tls {
    /// Reads the files that the settings name.
    ///
    /// # Errors
    /// When one is absent or not what it should be.
    pub(crate) fn load(settings: &Settings) -> Result<Self, TlsError> {
        Ok(Self(RwLock::new(Arc::new(config(settings)?))))
    }

    /// Reads the files again. When one is wrong, everything stays as it was.
    ///
    /// # Errors
    /// As [`Tls::load`].
    pub(crate) fn reload(&self, settings: &Settings) -> Result<(), TlsError> {
        let config = Arc::new(config(settings)?);
        *sync::write(&self.0) = config;
        Ok(())
    }

    /// Agrees on TLS with a client, which must have a certificate of our authorities.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&sync::read(&self.0));
        TlsAcceptor::from(config).accept(stream).await
    }
}

fn config(settings: &Settings) -> Result<ServerConfig, TlsError> {
    let (cert, key) = (&settings.tls_cert, &settings.tls_key);
    let authorities = &settings.tls_client_ca;
    let mut roots = RootCertStore::empty();
    for authority in chain(authorities)? {
        roots.add(authority).map_err(of_file(authorities))?;
    }
    let provider = Arc::new(ring::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
            .build()
            .map_err(of_file(authorities))?;
    let private = PrivateKeyDer::from_pem_file(key).map_err(of_file(key))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(of_file(cert))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain(cert)?, private)
        .map_err(of_file(cert))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(of_file(path))
}

fn of_file<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> TlsError {
    let path = path.to_owned();
    move |error| TlsError {
        path,
        why: error.to_string(),
    }
}
