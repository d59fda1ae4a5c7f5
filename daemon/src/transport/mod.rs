//! Where connections come from: the Unix socket, loopback, mutual TLS.

mod connection;
mod gate;
mod tls;
mod unix;

use std::io;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

pub use connection::{Client, Connection};
pub use gate::{Gate, GateLayer};
pub use tls::{Tls, TlsError};
pub use unix::SocketFile;

use crate::core::Core;
use crate::limits::{ACCEPT_PAUSE_MS, ACCEPTED_CONNECTIONS_MAX, PREFACE_MS_MAX};
use crate::observe::{add, ms};
use connection::Stream;

/// Connections on their way to the server.
pub type Incoming = ReceiverStream<io::Result<Connection>>;

/// What connections are accepted from.
#[derive(Debug)]
pub enum Listener {
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
    Plain(Stream),
    /// TLS is still to be agreed on.
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
    pub fn incoming(self, core: Arc<Core>) -> Incoming {
        let (sender, receiver) = mpsc::channel(ACCEPTED_CONNECTIONS_MAX);
        tokio::spawn(async move {
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
                        let connection = Connection::new(stream, slot);
                        if sender.send(Ok(connection)).await.is_err() {
                            return;
                        }
                    }
                    // Agreeing takes as long as the client likes: not here.
                    Accepted::Tls(stream, tls) => {
                        let (sender, core) = (sender.clone(), Arc::clone(&core));
                        tokio::spawn(async move {
                            match agree(&tls, stream).await {
                                Ok(stream) => {
                                    let connection = Connection::new(stream, slot);
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
        });
        ReceiverStream::new(receiver)
    }
}

async fn agree(tls: &Tls, stream: TcpStream) -> io::Result<Stream> {
    let agreed = timeout(ms(PREFACE_MS_MAX), tls.accept(stream)).await;
    Ok(Box::new(agreed.map_err(|_| io::ErrorKind::TimedOut)??))
}
