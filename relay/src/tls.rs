//! TLS at both listeners, with certificates that can change while the relay runs.

use std::sync::{Arc, RwLock};

use betcode_schema_tunnel::{ENROLMENT_ALPN, TUNNEL_ALPN};
use betcode_service::pem::{self, PemError};
use betcode_service::sync;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, ServerConfig};

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

/// A file of which no TLS can be made.
pub type TlsError = PemError;

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
    let chain = pem::certificates(&chain_path)?;
    let key = pem::private_key(&state.server_key())?;
    let authority_path = state.authority_certificate();
    let roots = pem::authority(&authority_path)?;

    let provider = Arc::new(ring::default_provider());
    let builder = || {
        ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
    };
    let mut clients = builder()
        .map_err(PemError::at(&chain_path))?
        .with_no_client_auth()
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(PemError::at(&chain_path))?;
    clients.alpn_protocols = vec![b"h2".to_vec()];
    // Without a certificate a daemon can only enrol; the tunnel port checks that.
    let machines = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(PemError::at(&authority_path))?;
    let mut tunnels = builder()
        .map_err(PemError::at(&chain_path))?
        .with_client_cert_verifier(machines)
        .with_single_cert(chain, key)
        .map_err(PemError::at(&chain_path))?;
    tunnels.alpn_protocols = vec![TUNNEL_ALPN.to_vec(), ENROLMENT_ALPN.to_vec()];
    Ok(Current {
        clients: clients.into(),
        tunnels: tunnels.into(),
    })
}
