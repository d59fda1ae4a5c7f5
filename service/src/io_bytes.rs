//! Counts the bytes of a connection as they pass.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};

use crate::connection::{Connection, Hook};

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

/// Counts the bytes of a connection. Inside TLS these are the bytes of HTTP/2, without what TLS, TCP and IP add.
#[derive(Debug)]
pub struct CountBytes(Arc<IoBytes>);

impl Hook for CountBytes {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(stream).poll_read(context, buffer);
        let bytes = buffer.filled().len().saturating_sub(before) as u64;
        self.0.received.fetch_add(bytes, Ordering::Relaxed);
        read
    }

    fn after_write(&mut self, bytes: usize) {
        self.0.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// A connection whose bytes are counted in `bytes`.
pub fn counted<S>(stream: S, bytes: Arc<IoBytes>) -> Connection<S, CountBytes> {
    Connection::new(stream, CountBytes(bytes))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_of_both_directions_are_counted_and_unchanged() {
        let (here, mut there) = tokio::io::duplex(64);
        let bytes = Arc::<IoBytes>::default();
        let mut here = counted(here, Arc::clone(&bytes));
        here.write_all(b"hello").await.unwrap();
        there.write_all(b"you").await.unwrap();
        let (mut sent, mut received) = ([0; 5], [0; 3]);
        there.read_exact(&mut sent).await.unwrap();
        here.read_exact(&mut received).await.unwrap();
        assert_eq!((&sent, &received), (b"hello", b"you"));
        assert_eq!((bytes.sent(), bytes.received(), bytes.total()), (5, 3, 8));
    }
}
