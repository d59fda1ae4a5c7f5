//! A connection that can be ended from outside.
//!
//! HTTP/2's own ways to end a connection wait for the calls on it. A tunnel that was given time
//! enough, or whose machine lost its permission, must end whatever is under way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use betcode_service::connection::{Connection, Hook};
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

/// Passes everything on until the connection is cut; from then on every read and write fails.
pub(super) struct Cut {
    token: CancellationToken,
    /// Wakes the reading side: there always is one, because HTTP/2 reads as long as it lives.
    cancelled: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Cancelled when the connection is gone, and with it every call.
    _gone: DropGuard,
}

/// A connection that is cut when `token` is cancelled. `gone` is dropped with it.
pub(super) fn cuttable<S>(
    stream: S,
    token: CancellationToken,
    gone: DropGuard,
) -> Connection<S, Cut> {
    let cut = Cut {
        cancelled: Box::pin(token.clone().cancelled_owned()),
        token,
        _gone: gone,
    };
    Connection::new(stream, cut)
}

impl Cut {
    fn check(&self) -> io::Result<()> {
        if self.token.is_cancelled() {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "the connection was cut",
            ));
        }
        Ok(())
    }
}

impl Hook for Cut {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check()?;
        match Pin::new(stream).poll_read(context, buffer) {
            Poll::Pending if self.cancelled.as_mut().poll(context).is_ready() => {
                Poll::Ready(self.check())
            }
            read => read,
        }
    }

    fn before_write(&mut self) -> io::Result<()> {
        self.check()
    }
}
