//! One connection: its bytes, its place among the clients, and the time to begin.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tonic::Status;
use tonic::transport::server::Connected;

use crate::admission::Taken;
use crate::limits::{PREFACE_BYTES, PREFACE_MS_MAX};

/// What a request knows of its connection.
#[derive(Debug, Clone)]
pub struct Client {
    admitted: Arc<Result<Taken, Status>>,
}

impl Client {
    /// A client that was let in, or why not.
    #[must_use]
    pub fn new(admitted: Result<Taken, Status>) -> Self {
        Self {
            admitted: Arc::new(admitted),
        }
    }

    /// Why its requests are refused; `None` when they are not.
    #[must_use]
    pub fn refusal(&self) -> Option<&Status> {
        self.admitted.as_ref().as_ref().err()
    }
}

#[derive(Debug)]
pub(super) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

/// An accepted connection. One that says nothing for a while after it was accepted is closed: what
/// HTTP/2 looks after begins only with its preface.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    client: Client,
    begins: Option<Pin<Box<Sleep>>>,
    read_bytes: usize,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    pub(super) fn new(stream: Stream, client: Client, slot: OwnedSemaphorePermit) -> Self {
        let begins = Some(Box::pin(sleep(Duration::from_millis(PREFACE_MS_MAX))));
        Self {
            stream,
            client,
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
        let read = match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
        };
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
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
            Stream::Tcp(stream) => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tcp(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
