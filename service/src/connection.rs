//! Connections that do a little more than pass bytes on: count them, wait for the first ones, end when asked to.
//!
//! A [`Connection`] repeats the methods of [`AsyncRead`] and [`AsyncWrite`] once; a [`Hook`] says what is
//! done on the way.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

/// Bytes both ways, whatever carries them: a socket, or TLS over one.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + fmt::Debug> Io for T {}

/// A stream of a kind that is known at run time only.
pub type BoxedStream = Box<dyn Io>;

/// What to try when an address cannot be listened on, as the end of a message; empty where nothing is known.
#[must_use]
pub fn listen_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "; stop the program that listens there, or choose another address"
        }
        io::ErrorKind::AddrNotAvailable => "; choose an address that this machine has",
        io::ErrorKind::PermissionDenied => {
            "; choose another address, or give the process the right to use this one"
        }
        _ => "",
    }
}

/// What is done with the reads and writes of a connection. By default they are passed on as they are.
pub trait Hook: Unpin {
    /// Reads from `stream`, or from what was read before.
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(stream).poll_read(context, buffer)
    }

    /// Called before each write, flush and shutdown.
    ///
    /// # Errors
    /// What the write fails with instead.
    fn before_write(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Called after so many bytes were written.
    fn after_write(&mut self, _bytes: usize) {}
}

/// A connection whose reads and writes go through a hook.
pub struct Connection<S, H> {
    stream: S,
    hook: H,
}

impl<S, H: Hook> Connection<S, H> {
    /// Passes what is read from and written to `stream` through `hook`.
    pub fn new(stream: S, hook: H) -> Self {
        Self { stream, hook }
    }

    #[cfg(test)]
    pub(crate) fn hook(&self) -> &H {
        &self.hook
    }

    fn written(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.hook.after_write(*bytes);
        }
        written
    }
}

impl<S, H: fmt::Debug> fmt::Debug for Connection<S, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection").field(&self.hook).finish()
    }
}

impl<S: AsyncRead + Unpin, H: Hook> AsyncRead for Connection<S, H> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.hook.poll_read(&mut this.stream, context, buffer)
    }
}

impl<S: AsyncWrite + Unpin, H: Hook> AsyncWrite for Connection<S, H> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.hook.before_write()?;
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.hook.before_write()?;
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.written(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hook.before_write()?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.hook.before_write()?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What requests know of their connection is what its hook says.
impl<S, H: Connected> Connected for Connection<S, H> {
    type ConnectInfo = H::ConnectInfo;

    fn connect_info(&self) -> H::ConnectInfo {
        self.hook.connect_info()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_taken_says_what_to_try() {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let again = std::net::TcpListener::bind(first.local_addr().unwrap());
        assert!(listen_hint(&again.unwrap_err()).contains("choose another"));
        assert_eq!(listen_hint(&io::Error::other("refused")), "");
    }
}
