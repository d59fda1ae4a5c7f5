//! Where connections come from: the Unix socket, loopback, mutual TLS.

mod connection;
mod gate;
mod unix;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;

pub use connection::{Client, Connection};
pub use gate::{Gate, GateLayer};
pub use unix::SocketFile;

use crate::core::Core;
use crate::observe::add;
use connection::Stream;

/// Connections accepted and not yet taken by the server.
const ACCEPTED_MAX: usize = 64;
/// Rest after an error of accepting: it may be that there are no file descriptors left.
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Connections on their way to the server.
pub type Incoming = ReceiverStream<io::Result<Connection>>;

/// What connections are accepted from.
#[derive(Debug)]
pub enum Listener {
    /// The Unix socket: only our own user and root are let in.
    Unix(SocketFile),
    /// A TCP address.
    Tcp(TcpListener),
}

impl Listener {
    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Unix(socket) => socket.accept().await.map(Stream::Unix),
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Stream::Tcp(stream))
            }
        }
    }

    /// Accepts until the receiver is gone. `slots` bounds the connections of all listeners; what
    /// comes beyond is closed at once.
    pub fn incoming(self, core: Arc<Core>, slots: Arc<Semaphore>) -> Incoming {
        let (sender, receiver) = mpsc::channel(ACCEPTED_MAX);
        tokio::spawn(async move {
            loop {
                let stream = tokio::select! {
                    stream = self.accept() => stream,
                    () = sender.closed() => return,
                };
                let stream = match stream {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        tokio::time::sleep(ACCEPT_REST).await;
                        continue;
                    }
                };
                let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
                    add(&core.metrics.connections_refused, 1);
                    continue;
                };
                // Beyond `clients_max` a connection is served, and told so with every request.
                let client = Client::new(core.admission.clients.take(1));
                let connection = Connection::new(stream, client, slot);
                if sender.send(Ok(connection)).await.is_err() {
                    return;
                }
            }
        });
        ReceiverStream::new(receiver)
    }
}
