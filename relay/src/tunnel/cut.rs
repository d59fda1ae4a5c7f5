//! A connection that can be ended from outside.
//!
//! HTTP/2's own ways to end a connection wait for the calls on it. A tunnel that was given time
//! enough, or whose machine lost its permission, must end whatever is under way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// Passes everything on until it is cut; from then on every read and write fails.
pub(crate) struct Cuttable<S> {
    stream: S,
    cut: CancellationToken,
    /// Wakes the reading side: there is always one, HTTP/2 reads as long as it lives.
    on_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Says that the connection is gone, and with it every call.
    _gone: DropGuard,
}

impl<S> Cuttable<S> {
    pub(crate) fn new(stream: S, cut: CancellationToken, gone: DropGuard) -> Self {
        let on_cut = Box::pin(cut.clone().cancelled_owned());
        Self {
            stream,
            cut,
            on_cut,
            _gone: gone,
        }
    }

    fn check(&self) -> io::Result<()> {
        if self.cut.is_cancelled() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection was cut",
            ));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Cuttable<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Pending if self.on_cut.as_mut().poll(cx).is_ready() => Poll::Ready(self.check()),
            read => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Cuttable<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
