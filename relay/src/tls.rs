//! TLS at both listeners, with certificates that can change while the relay runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};

use betcode_schema_tunnel::{ENROLMENT_ALPN, TUNNEL_ALPN};
use betcode_service::sync;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

use crate::auth::StateFolder;

/// The relay's TLS, as its files said when they were last read.
pub struct Tls {
    state: StateFolder,
    current: RwLock<Current>,
}

#[derive(Clone)]
struct Current {
    clients: Arc<ServerConfig>,
    tunnels: Arc<ServerConfig>,
}

/// Files of which no TLS can be made.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {why}")]
pub struct TlsError {
    path: PathBuf,
    why: String,
}

impl Tls {
    /// Reads the relay's certificate and authority.
    ///
    /// # Errors
    /// When a file is absent or not what it should be.
    pub fn load(state: StateFolder) -> Result<Self, TlsError> {
        let current = RwLock::new(read(&state)?);
        Ok(Self { state, current })
    }

    /// Reads the files again. Connections that are open keep what they have.
    ///
    /// # Errors
    /// As [`Tls::load`]; then everything stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let new = read(&self.state)?;
        *sync::write(&self.current) = new;
        Ok(())
    }

    /// TLS for clients: the relay proves itself, the client brings a token.
    #[must_use]
    pub fn for_clients(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current().clients)
    }

    /// TLS for daemons: both sides prove themselves, or the daemon comes to enrol.
    #[must_use]
    pub fn for_tunnels(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.current().tunnels)
    }

    fn current(&self) -> Current {
        sync::read(&self.current).clone()
    }
}

fn read(state: &StateFolder) -> Result<Current, TlsError> {
    let chain_path = state.server_certificate();
    let chain: Vec<_> = CertificateDer::pem_file_iter(&chain_path)
        .and_then(Iterator::collect)
        .map_err(at(&chain_path))?;
    let key_path = state.server_key();
    let key = PrivateKeyDer::from_pem_file(&key_path).map_err(at(&key_path))?;
    let authority_path = state.authority_certificate();
    let authority = CertificateDer::from_pem_file(&authority_path).map_err(at(&authority_path))?;
    let mut roots = RootCertStore::empty();
    roots.add(authority).map_err(at(&authority_path))?;

    let provider = Arc::new(ring::default_provider());
    let builder = || {
        ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
    };
    let mut clients = builder()
        .map_err(at(&chain_path))?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(at(&chain_path))?;
    clients.alpn_protocols = vec![b"h2".to_vec()];
    // Without a certificate a daemon can only enrol; the tunnel port checks that.
    let machines = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(at(&authority_path))?;
    let mut tunnels = builder()
        .map_err(at(&chain_path))?
        .with_client_cert_verifier(machines)
        .with_single_cert(chain, key)
        .map_err(at(&chain_path))?;
    tunnels.alpn_protocols = vec![TUNNEL_ALPN.to_vec(), ENROLMENT_ALPN.to_vec()];
    Ok(Current {
        clients: clients.into(),
        tunnels: tunnels.into(),
    })
}

fn at<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> TlsError {
    let path = path.to_owned();
    move |error| TlsError {
        path,
        why: error.to_string(),
    }
}
