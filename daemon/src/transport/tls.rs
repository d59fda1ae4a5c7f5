//! Mutual TLS whose certificates may be replaced while the daemon serves.

use std::io;
use std::sync::{Arc, RwLock};

use betcode_service::pem::{self, PemError};
use betcode_service::sync;
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::server::TlsStream;

use crate::settings::Settings;

/// HTTP/2, which gRPC is.
const ALPN: &[u8] = b"h2";

/// A file of which no TLS can be made.
#[derive(Debug, thiserror::Error)]
#[error("{0}; it must be PEM, and the key that of the certificate")]
pub struct TlsError(#[from] PemError);

/// The TLS of new connections. Open ones keep what they began with.
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

fn config(settings: &Settings) -> Result<ServerConfig, PemError> {
    let (cert, authorities) = (&settings.tls_cert, &settings.tls_client_ca);
    let provider = Arc::new(ring::default_provider());
    let roots = Arc::new(pem::authorities(authorities)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .map_err(PemError::at(authorities))?;
    let key = pem::private_key(&settings.tls_key)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(PemError::at(cert))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(pem::certificates(cert)?, key)
        .map_err(PemError::at(cert))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}
