//! TLS of the tunnel: the relay's authority on one side, the machine's certificate on the other.

use std::path::Path;
use std::sync::Arc;

use betcode_schema_tunnel::{MachineId, TUNNEL_ALPN};
use betcode_service::pem::{self, PemError};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, version};

/// How both sides prove who they are.
#[derive(Clone)]
pub struct TunnelTls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server_name: ServerName<'static>,
}

/// A file, or a name of the relay, of which no TLS can be made.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {why}; enrol the machine, or check the paths")]
pub struct TunnelTlsError {
    /// The file, or the setting.
    pub what: String,
    /// What is wrong with it.
    pub why: String,
}

impl From<PemError> for TunnelTlsError {
    fn from(error: PemError) -> Self {
        Self {
            what: error.path.display().to_string(),
            why: error.why,
        }
    }
}

impl TunnelTls {
    /// Reads the relay's authority and this machine's certificate and key, all PEM. `relay_name`
    /// is a name of the relay's certificate.
    ///
    /// # Errors
    /// When a file is absent or not what it should be.
    pub fn load(
        authority: &Path,
        certificate: &Path,
        key: &Path,
        relay_name: &str,
        machine: &MachineId,
    ) -> Result<Self, TunnelTlsError> {
        let roots = pem::authority(authority)?;
        let chain = pem::certificates(certificate)?;
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .map_err(PemError::at(certificate))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, pem::private_key(key)?)
            .map_err(PemError::at(certificate))?;
        config.alpn_protocols = vec![TUNNEL_ALPN.to_vec()];
        Ok(Self {
            config: Arc::new(config),
            server_name: server_name(relay_name, machine)?,
        })
    }
}

impl std::fmt::Debug for TunnelTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TunnelTls")
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// The name to ask for: the machine's id below the relay's name, by which a load balancer that
/// does not look into TLS finds the machine's relay. A name without a dot has nothing below it.
pub(super) fn server_name(
    relay_name: &str,
    machine: &MachineId,
) -> Result<ServerName<'static>, TunnelTlsError> {
    let address = relay_name.parse::<std::net::IpAddr>().is_ok();
    let name = match relay_name.contains('.') && !address {
        true => format!("{machine}.{relay_name}"),
        false => relay_name.to_owned(),
    };
    ServerName::try_from(name).map_err(|error| TunnelTlsError {
        what: format!("the relay's name {relay_name:?}"),
        why: error.to_string(),
    })
}
