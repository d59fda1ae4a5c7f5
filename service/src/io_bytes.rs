//! Counts the bytes of a connection as they pass.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes of some connections in each direction.
#[derive(Debug, Default)]
pub struct IoBytes {
    received: AtomicU64,
    sent: AtomicU64,
}

impl IoBytes {
    /// Bytes read from the connections.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Bytes written to them.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Both directions together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.received() + self.sent()
    }
}

/// A connection whose bytes are counted. Inside TLS these are the bytes of HTTP/2, without what TLS, TCP
/// and IP add.
#[derive(Debug)]
pub struct Counted<S> {
    stream: S,
    bytes: Arc<IoBytes>,
}

impl<S> Counted<S> {
    /// Counts the bytes of `stream` in `bytes`.
    pub fn new(stream: S, bytes: Arc<IoBytes>) -> Self {
        Self { stream, bytes }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &written {
            self.bytes.sent.fetch_add(*bytes as u64, Ordering::Relaxed);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let bytes = buffer.filled().len().saturating_sub(before) as u64;
        self.bytes.received.fetch_add(bytes, Ordering::Relaxed);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written)
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
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_of_both_directions_are_counted_and_unchanged() {
        let (here, mut there) = tokio::io::duplex(64);
        let bytes = Arc::<IoBytes>::default();
        let mut here = Counted::new(here, Arc::clone(&bytes));
        here.write_all(b"hello").await.unwrap();
        there.write_all(b"you").await.unwrap();
        let (mut sent, mut received) = ([0; 5], [0; 3]);
        there.read_exact(&mut sent).await.unwrap();
        here.read_exact(&mut received).await.unwrap();
        assert_eq!((&sent, &received), (b"hello", b"you"));
        assert_eq!((bytes.sent(), bytes.received(), bytes.total()), (5, 3, 8));
    }
}
