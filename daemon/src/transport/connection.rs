//! One connection of a client: its slot among the clients, and the time it has to begin.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use betcode_service::connection::{self, BoxedStream, Hook};
use betcode_service::sync::lock;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::transport::server::Connected;

use crate::admission::{Limit, LimitGuard};
use crate::limits::{PREFACE_BYTES, PREFACE_MS_MAX};
use crate::observe::ms;

/// What a request knows of its connection. A connection becomes a client with its first request:
/// those that only stay open take no client's slot.
#[derive(Debug, Clone)]
pub struct Client {
    name: Arc<str>,
    slot: Arc<Mutex<Option<LimitGuard>>>,
}

impl Default for Client {
    /// A client that is known by its connection only.
    fn default() -> Self {
        static CONNECTIONS: AtomicU64 = AtomicU64::new(1);
        let number = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("connection-{number}"))
    }
}

impl Client {
    /// A client that is known by a name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        Self {
            name: name.into(),
            slot: Arc::default(),
        }
    }

    /// What it is called: the same for all requests of one connection, or of one user behind the
    /// tunnel.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Takes a client's slot, unless it has one.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED; the next request may find one free.
    pub fn admit(&self, clients: &Arc<Limit>) -> Result<(), Status> {
        let mut slot = lock(&self.slot);
        if slot.is_none() {
            *slot = Some(clients.acquire(1)?);
        }
        Ok(())
    }
}

/// A connection on its way to the server.
pub(crate) type Connection = connection::Connection<BoxedStream, ClientHook>;

/// What an accepted connection holds. It is closed unless it sends HTTP/2's preface in time: HTTP/2's own
/// keep-alive begins only with that.
#[derive(Debug)]
pub(crate) struct ClientHook {
    client: Client,
    preface: Option<AwaitedPreface>,
    _slot: LimitGuard,
}

#[derive(Debug)]
struct AwaitedPreface {
    deadline: Pin<Box<Sleep>>,
    bytes_read: usize,
}

/// A connection that takes a slot among the connections.
pub(super) fn client_connection(stream: BoxedStream, slot: LimitGuard) -> Connection {
    let preface = AwaitedPreface {
        deadline: Box::pin(sleep(ms(PREFACE_MS_MAX))),
        bytes_read: 0,
    };
    let hook = ClientHook {
        client: Client::default(),
        preface: Some(preface),
        _slot: slot,
    };
    connection::Connection::new(stream, hook)
}

impl Connected for ClientHook {
    type ConnectInfo = Client;

    fn connect_info(&self) -> Client {
        self.client.clone()
    }
}

impl Hook for ClientHook {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(context, buffer);
        if let Some(preface) = &mut self.preface {
            let is_late = preface.deadline.as_mut().poll(context).is_ready();
            preface.bytes_read += buffer.filled().len() - before;
            if preface.bytes_read >= PREFACE_BYTES {
                self.preface = None;
            } else if is_late {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}
