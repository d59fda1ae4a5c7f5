//! The first bytes of an HTTP/2 client, awaited before anything is set up for it.
//!
//! A peer that connects and then says nothing, or drips, costs a socket for seconds instead of an
//! HTTP/2 connection for as long as it likes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What every HTTP/2 client says first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose preface was read, and is read once more by whoever takes it from here.
pub(crate) struct Prefaced<S> {
    stream: S,
    /// Bytes of the preface that were given out again.
    given: usize,
}

/// Reads the preface.
///
/// # Errors
/// When the connection breaks, or is not HTTP/2.
pub(crate) async fn read<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Prefaced<S>> {
    let mut said = [0; PREFACE.len()];
    stream.read_exact(&mut said).await?;
    if said != *PREFACE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not HTTP/2"));
    }
    Ok(Prefaced { stream, given: 0 })
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefaced<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &PREFACE[self.given..];
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let take = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..take]);
        self.given += take;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefaced<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_again_and_then_the_rest() {
        let wire = [PREFACE.as_slice(), b"settings"].concat();
        let mut prefaced = read(wire.as_slice()).await.unwrap();
        let mut again = Vec::new();
        prefaced.read_to_end(&mut again).await.unwrap();
        assert_eq!(again, wire);
    }

    #[tokio::test]
    async fn what_is_not_http2_is_refused() {
        assert!(
            read(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".as_slice())
                .await
                .is_err()
        );
        assert!(read(b"PRI".as_slice()).await.is_err());
    }
}
