//! Reading from a socket in larger pieces than TLS asks for.
//!
//! rustls reads at most 4 KiB at a time, which is four system calls for one record. While a
//! connection is busy, this reads 32 KiB at once and hands them on piece by piece. A connection
//! that rests holds no memory for it.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are read ahead at most.
const AHEAD_BYTES_MAX: usize = 32 << 10;

/// Reads ahead of whoever reads from it, while there is much to read. Writing passes through.
#[derive(Debug)]
pub struct ReadAhead<S> {
    stream: S,
    /// Empty unless the connection is busy.
    buffer: Box<[u8]>,
    /// What of it was read and not yet handed on.
    ahead: Range<usize>,
    busy: bool,
}

impl<S> ReadAhead<S> {
    /// Reads from this stream.
    pub fn new(stream: S) -> Self {
        Self {
            stream,
            buffer: Box::default(),
            ahead: 0..0,
            busy: false,
        }
    }

    fn hand_on(&mut self, into: &mut ReadBuf<'_>) {
        let bytes = self.ahead.len().min(into.remaining());
        let end = self.ahead.start + bytes;
        into.put_slice(&self.buffer[self.ahead.start..end]);
        self.ahead.start = end;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            this.hand_on(into);
            return Poll::Ready(Ok(()));
        }
        if !this.busy {
            ready!(Pin::new(&mut this.stream).poll_read(cx, into))?;
            // As much as there was room for: there is probably more.
            this.busy = into.remaining() == 0;
            return Poll::Ready(Ok(()));
        }
        if this.buffer.is_empty() {
            this.buffer = vec![0; AHEAD_BYTES_MAX].into_boxed_slice();
        }
        let mut ahead = ReadBuf::new(&mut this.buffer);
        match Pin::new(&mut this.stream).poll_read(cx, &mut ahead) {
            Poll::Ready(Ok(())) => {
                this.ahead = 0..ahead.filled().len();
                this.hand_on(into);
                Poll::Ready(Ok(()))
            }
            pending_or_error => {
                // It rests, and keeps no memory meanwhile.
                this.buffer = Box::default();
                this.busy = false;
                pending_or_error
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
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

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn bytes_come_in_order_whatever_the_pieces_and_a_rest_frees_the_memory() {
        let bytes: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 251) as u8).collect();
        let (mut sender, receiver) = tokio::io::duplex(100_000);
        let sent = bytes.clone();
        let sending = tokio::spawn(async move {
            for piece in sent.chunks(77_777) {
                sender.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            sender
        });
        let mut reader = ReadAhead::new(receiver);
        let mut read = vec![0; bytes.len()];
        let mut at = 0;
        let mut ahead_once = false;
        for size in [1, 4096, 5, 40_000].into_iter().cycle() {
            let end = (at + size).min(read.len());
            at += reader.read(&mut read[at..end]).await.unwrap();
            ahead_once |= !reader.buffer.is_empty();
            if at == read.len() {
                break;
            }
        }
        assert_eq!(read, bytes);
        assert!(ahead_once);
        let sender = sending.await.unwrap();
        let mut more = [0; 1];
        // Nothing comes: whoever waits holds nothing.
        let waiting = std::time::Duration::from_millis(20);
        let none = tokio::time::timeout(waiting, reader.read(&mut more)).await;
        assert!(none.is_err() && reader.buffer.is_empty());
        drop(sender);
        assert_eq!(reader.read(&mut more).await.unwrap(), 0);
    }
}
