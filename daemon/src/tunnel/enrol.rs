//! Enrolment: a one-time code for a certificate, before there is any trust but the code.
//!
//! The code ends in a digest of the relay's authority, so the machine knows the right relay
//! although it has no certificate of it yet. The private key is made here and stays here.

use std::sync::Arc;
use std::time::Duration;

use betcode_schema_tunnel::{
    ENROLMENT_ALPN, EnrolmentAnswer, EnrolmentRequest, GreetingError, MachineId, read_greeting,
    write_greeting,
};
use betcode_service::hex;
use ring::digest::{SHA256, digest};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::WebPkiServerVerifier;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring as provider, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme, version,
};

use super::tls::{TunnelTlsError, server_name};
use crate::limits::ENROL_MS_MAX;

/// What enrolment brings; all PEM. Keep the key as private as the history.
pub struct Enrolled {
    /// The machine's private key.
    pub key: String,
    /// The machine's certificate.
    pub certificate: String,
    /// The relay's authority.
    pub authority: String,
}

/// Why a machine could not be enrolled.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// The code is not one.
    #[error("that is no enrolment code: copy it whole, with what stands behind the hyphen")]
    Code,
    /// The relay's name is not one.
    #[error(transparent)]
    Name(#[from] TunnelTlsError),
    /// The connection failed, or the relay is not the one that made the code.
    #[error("the relay at {address}: {source}")]
    Connection {
        /// The address dialled.
        address: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The exchange failed.
    #[error(transparent)]
    Exchange(#[from] GreetingError),
    /// The key could not be made.
    #[error("the machine's key: {0}")]
    Key(#[from] rcgen::Error),
    /// The relay refused.
    #[error("the relay refused: {0}")]
    Refused(String),
    /// Nothing came from the other end in time.
    #[error(
        "the relay at {address} did not answer within {wait_ms} ms; check --relay-address (the relay's \
         port for daemons, 7443 by default) and that `betcode-relay serve` runs there. {}",
        if *code_sent {
            "The code was sent and may be used up: get a new one from `betcode-relay enrol`"
        } else {
            "The code was not sent and can be used again"
        }
    )]
    TimedOut {
        /// The address dialled.
        address: String,
        /// How long was waited.
        wait_ms: u64,
        /// Whether the code may have reached the other end.
        code_sent: bool,
    },
}

/// Enrols this machine with a code from `betcode-relay enrol`.
///
/// # Errors
/// [`EnrolmentError`]. A code that was refused is used up or wrong; get a new one.
pub async fn enrol(
    relay_address: &str,
    relay_name: &str,
    machine: &MachineId,
    code: &str,
) -> Result<Enrolled, EnrolmentError> {
    let wait_max = Duration::from_millis(ENROL_MS_MAX);
    enrol_within(wait_max, relay_address, relay_name, machine, code).await
}

async fn enrol_within(
    wait_max: Duration,
    relay_address: &str,
    relay_name: &str,
    machine: &MachineId,
    code: &str,
) -> Result<Enrolled, EnrolmentError> {
    let code = code.trim();
    let (_, pin) = code.split_once('-').ok_or(EnrolmentError::Code)?;
    if pin.len() < 32 || !pin.bytes().all(|c| c.is_ascii_hexdigit()) {
        return Err(EnrolmentError::Code);
    }
    let until = Instant::now() + wait_max;
    let timed_out = |code_sent| EnrolmentError::TimedOut {
        address: relay_address.to_owned(),
        wait_ms: u64::try_from(wait_max.as_millis()).unwrap_or(u64::MAX),
        code_sent,
    };
    let connecting = connect(relay_address, relay_name, machine, pin);
    let mut stream = timeout_at(until, connecting)
        .await
        .map_err(|_| timed_out(false))??;
    timeout_at(until, exchange(&mut stream, machine, code))
        .await
        .map_err(|_| timed_out(true))?
}

/// Connects to the relay whose authority has the digest `pin`, and to no other.
async fn connect(
    relay_address: &str,
    relay_name: &str,
    machine: &MachineId,
    pin: &str,
) -> Result<TlsStream<TcpStream>, EnrolmentError> {
    let failed = |source| EnrolmentError::Connection {
        address: relay_address.to_owned(),
        source,
    };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider::default_provider()))
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|error| failed(std::io::Error::other(error)))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned {
            pin: pin.to_ascii_lowercase(),
            provider: Arc::new(provider::default_provider()),
        }))
        .with_no_client_auth();
    config.alpn_protocols = vec![ENROLMENT_ALPN.to_vec()];
    let name = server_name(relay_name, machine)?;
    let tcp = TcpStream::connect(relay_address).await.map_err(failed)?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await.map_err(failed)
}

/// Sends the code, and takes what it brings.
async fn exchange(
    stream: &mut TlsStream<TcpStream>,
    machine: &MachineId,
    code: &str,
) -> Result<Enrolled, EnrolmentError> {
    let key = rcgen::KeyPair::generate()?;
    let request = rcgen::CertificateParams::default().serialize_request(&key)?;
    let asked = EnrolmentRequest {
        machine_id: machine.clone(),
        code: code.to_owned(),
        signing_request: request.pem()?,
    };
    write_greeting(stream, &asked).await?;
    match read_greeting(stream).await? {
        EnrolmentAnswer::Enrolled {
            certificate,
            authority,
        } => Ok(Enrolled {
            key: key.serialize_pem(),
            certificate,
            authority,
        }),
        EnrolmentAnswer::Refused { message } => Err(EnrolmentError::Refused(message)),
    }
}

/// Trusts the one authority that has the digest, if the relay shows it and is certified by it.
#[derive(Debug)]
struct Pinned {
    pin: String,
    provider: Arc<CryptoProvider>,
}

impl Pinned {
    fn matches(&self, certificate: &CertificateDer<'_>) -> bool {
        let found = digest(&SHA256, certificate);
        let found = hex::encode(found.as_ref());
        found.starts_with(&self.pin)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        above: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let authority = above.iter().find(|certificate| self.matches(certificate));
        let authority = authority.ok_or(CertificateError::UnknownIssuer)?;
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(roots.into(), self.provider.clone())
            .build()
            .map_err(|error| TlsError::General(error.to_string()))?
            .verify_server_cert(certificate, above, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Err(TlsError::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_peer_that_accepts_and_says_nothing_does_not_hold_enrolment_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let machine: MachineId = "m".parse().unwrap();
        let code = format!("code-{}", "0".repeat(32));
        let wait_max = Duration::from_millis(50);
        let enrolling = enrol_within(wait_max, &address, "relay", &machine, &code);
        let ended = tokio::time::timeout(Duration::from_secs(10), enrolling).await;
        let Err(error) = ended.expect("it has a limit") else {
            panic!("nobody enrolled it");
        };
        assert!(
            matches!(
                error,
                EnrolmentError::TimedOut {
                    code_sent: false,
                    ..
                }
            ),
            "{error}"
        );
        let text = error.to_string();
        assert!(
            text.contains(&address) && text.contains("can be used again"),
            "{text}"
        );
    }
}
