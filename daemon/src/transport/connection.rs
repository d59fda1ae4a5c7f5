//! One connection: its bytes, its place among the clients, and the time to begin.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use betcode_service::sync::lock;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::transport::server::Connected;

use crate::admission::{Limit, LimitGuard};
use crate::limits::{PREFACE_BYTES, PREFACE_MS_MAX};

/// What a request knows of its connection. A connection becomes a client with its first request:
/// those that only stand there take no client's place.
#[derive(Debug, Clone)]
pub struct Client {
    name: Arc<str>,
    place: Arc<Mutex<Option<LimitGuard>>>,
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
            place: Arc::default(),
        }
    }

    /// What it is called: the same for all requests of one connection, or of one user behind the
    /// tunnel.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Takes a place among the clients, unless it has one.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED; the next request may find a place.
    pub fn admit(&self, clients: &Arc<Limit>) -> Result<(), Status> {
        let mut place = lock(&self.place);
        if place.is_none() {
            *place = Some(clients.acquire(1)?);
        }
        Ok(())
    }
}

/// Bytes both ways: a socket, or TLS over one.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + std::fmt::Debug> Io for T {}

pub(super) type Stream = Box<dyn Io>;

/// An accepted connection. One that says nothing for a while after it was accepted is closed: what
/// HTTP/2 looks after begins only with its preface.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    client: Client,
    begins: Option<Pin<Box<Sleep>>>,
    read_bytes: usize,
    _slot: LimitGuard,
}

impl Connection {
    pub(super) fn new(stream: Stream, slot: LimitGuard) -> Self {
        let begins = Some(Box::pin(sleep(Duration::from_millis(PREFACE_MS_MAX))));
        Self {
            stream,
            client: Client::default(),
            begins,
            read_bytes: 0,
            _slot: slot,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = Client;

    fn connect_info(&self) -> Client {
        self.client.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        if let Some(begins) = &mut self.begins {
            let late = begins.as_mut().poll(context).is_ready();
            self.read_bytes += buffer.filled().len() - before;
            if self.read_bytes >= PREFACE_BYTES {
                self.begins = None;
            } else if late {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
