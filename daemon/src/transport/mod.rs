//! Where connections come from: the Unix socket, loopback, mutual TLS.
//!
//! * `unix` is the socket and its file, `tls` the handshake with certificates that may be replaced;
//! * `connection` is an accepted connection, which takes a client's slot with its first request;
//! * `gate` is asked before every request, also those of the tunnel.

mod connection;
mod gate;
mod tls;
mod unix;

use std::io;
use std::sync::Arc;

use betcode_service::connection::BoxedStream;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

pub use connection::Client;
pub(crate) use gate::EndsAtDeadline;
pub use gate::{Gate, GateLayer};
pub(crate) use tls::Tls;
pub use tls::TlsError;
pub(crate) use unix::SocketFile;

use crate::core::Core;
use crate::limits::{ACCEPT_PAUSE_MS, ACCEPTED_CONNECTIONS_MAX, PREFACE_MS_MAX};
use crate::observe::{add, ms};
use connection::{Connection, client_connection};

/// Connections on their way to the server.
pub(crate) type Incoming = ReceiverStream<io::Result<Connection>>;

/// What connections are accepted from.
#[derive(Debug)]
pub(crate) enum Listener {
    /// The Unix socket: only our own user and root are let in.
    Unix(SocketFile),
    /// A loopback address.
    Tcp(TcpListener),
    /// An address beyond it: only clients with a certificate are let in.
    Tls(TcpListener, Arc<Tls>),
}

/// Connections as they are accepted.
#[derive(Debug)]
enum Accepted {
    Plain(BoxedStream),
    /// The handshake is still to be done.
    Tls(TcpStream, Arc<Tls>),
}

impl Listener {
    async fn accept(&self) -> io::Result<Accepted> {
        let (listener, tls) = match self {
            Self::Unix(socket) => {
                let stream = socket.accept().await?;
                return Ok(Accepted::Plain(Box::new(stream)));
            }
            Self::Tcp(listener) => (listener, None),
            Self::Tls(listener, tls) => (listener, Some(tls)),
        };
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        Ok(match tls {
            None => Accepted::Plain(Box::new(stream)),
            Some(tls) => Accepted::Tls(stream, Arc::clone(tls)),
        })
    }

    /// Accepts until the receiver is gone. What comes beyond the limit of connections is closed at once.
    pub(crate) fn incoming(self, core: Arc<Core>) -> Incoming {
        let (sender, receiver) = mpsc::channel(ACCEPTED_CONNECTIONS_MAX);
        tokio::spawn(self.accept_all(core, sender));
        ReceiverStream::new(receiver)
    }

    async fn accept_all(self, core: Arc<Core>, sender: mpsc::Sender<io::Result<Connection>>) {
        loop {
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                () = sender.closed() => return,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    tokio::time::sleep(ms(ACCEPT_PAUSE_MS)).await;
                    continue;
                }
            };
            let Ok(slot) = core.admission.connections.acquire(1) else {
                add(&core.metrics.connections_refused, 1);
                continue;
            };
            match accepted {
                Accepted::Plain(stream) => {
                    let connection = client_connection(stream, slot);
                    if sender.send(Ok(connection)).await.is_err() {
                        return;
                    }
                }
                // A handshake takes as long as the client likes, and must not hold others up.
                Accepted::Tls(stream, tls) => {
                    let (core, sender) = (Arc::clone(&core), sender.clone());
                    tokio::spawn(async move {
                        match handshake(&tls, stream).await {
                            Ok(stream) => {
                                let connection = client_connection(stream, slot);
                                // Refused only when the daemon stops.
                                let _ = sender.send(Ok(connection)).await;
                            }
                            Err(error) => {
                                add(&core.metrics.connections_refused, 1);
                                tracing::info!(%error, "no TLS with a client");
                            }
                        }
                    });
                }
            }
        }
    }
}

async fn handshake(tls: &Tls, stream: TcpStream) -> io::Result<BoxedStream> {
    let done = timeout(ms(PREFACE_MS_MAX), tls.accept(stream)).await;
    Ok(Box::new(done.map_err(|_| io::ErrorKind::TimedOut)??))
}
