//! Dialling the relay, and the greeting.

use std::sync::{Arc, RwLock};
use std::time::Instant;

use betcode_schema_tunnel::{
    GreetingError, Hello, PROTOCOL, Refusal, Welcome, read_greeting, write_greeting,
};
use betcode_service::connection::BoxedStream;
use betcode_service::io_bytes::counted;
use betcode_service::read_ahead::read_ahead;
use betcode_service::sync;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{TunnelOptions, TunnelTls};

/// Dials the relay.
pub(super) struct Dialer {
    /// Tells the relay this daemon from another one of the same machine.
    instance: String,
    options: TunnelOptions,
    /// Replaced when the credentials are read again.
    tls: Arc<RwLock<Option<TunnelTls>>>,
}

/// A connection to the relay whose greeting is done.
pub(super) struct Dialled {
    pub(super) stream: BoxedStream,
    pub(super) relay_id: String,
    pub(super) epoch: u64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("dial {address}: {source}")]
    Connect {
        address: String,
        source: std::io::Error,
    },
    #[error("TLS with {address}: {source}")]
    Tls {
        address: String,
        source: std::io::Error,
    },
    #[error(transparent)]
    Greeting(#[from] GreetingError),
    #[error("the relay refused ({reason:?}): {message}")]
    Refused { reason: Refusal, message: String },
    #[error("no answer in time")]
    Slow,
}

impl Dialer {
    pub(super) fn new(options: TunnelOptions, tls: Arc<RwLock<Option<TunnelTls>>>) -> Self {
        Self {
            instance: uuid::Uuid::new_v4().simple().to_string(),
            options,
            tls,
        }
    }

    /// Opens a connection for a tunnel.
    pub(super) async fn dial(&self) -> Result<Dialled, DialError> {
        self.greeted(false).await
    }

    /// Asks which relay answers at the address, over a connection of its own that ends with the answer.
    pub(super) async fn probe(&self) -> Result<String, DialError> {
        Ok(self.greeted(true).await?.relay_id)
    }

    async fn greeted(&self, probe: bool) -> Result<Dialled, DialError> {
        let connecting = async { self.greet(self.connect().await?, probe).await };
        tokio::time::timeout(self.options.dial_timeout, connecting)
            .await
            .unwrap_or(Err(DialError::Slow))
    }

    async fn connect(&self) -> Result<BoxedStream, DialError> {
        let address = &self.options.relay_address;
        let connected = TcpStream::connect(address).await;
        let tcp = connected.map_err(|source| DialError::Connect {
            address: address.clone(),
            source,
        })?;
        // Small messages must not wait for larger ones.
        let _ = tcp.set_nodelay(true);
        let tcp = counted(tcp, Arc::clone(&self.options.figures.bytes));
        let Some(tls) = sync::read(&self.tls).clone() else {
            return Ok(Box::new(tcp));
        };
        let connector = TlsConnector::from(tls.config);
        let secured = connector.connect(tls.server_name, read_ahead(tcp)).await;
        Ok(Box::new(secured.map_err(|source| DialError::Tls {
            address: address.clone(),
            source,
        })?))
    }

    async fn greet(&self, mut stream: BoxedStream, probe: bool) -> Result<Dialled, DialError> {
        let hello = Hello {
            protocol: PROTOCOL,
            machine_id: self.options.machine.clone(),
            instance: self.instance.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            probe,
        };
        let began = Instant::now();
        write_greeting(&mut stream, &hello).await?;
        match read_greeting(&mut stream).await? {
            Welcome::Accepted {
                relay_id,
                epoch,
                routing,
            } => {
                self.options.figures.greeted(began.elapsed(), routing);
                Ok(Dialled {
                    stream,
                    relay_id,
                    epoch,
                })
            }
            Welcome::Refused { reason, message } => Err(DialError::Refused { reason, message }),
        }
    }
}
