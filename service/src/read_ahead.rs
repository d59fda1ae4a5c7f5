//! Reading from a socket in larger pieces than TLS asks for.
//!
//! rustls reads at most 4 KiB at a time, which is four system calls for one record. While a
//! connection is busy, this reads 32 KiB at once and hands them on piece by piece. An idle connection
//! holds no memory for it.

use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::connection::{Connection, Hook};

/// Bytes that are read ahead at most.
const AHEAD_BYTES_MAX: usize = 32 << 10;

/// A connection that is read ahead of its reader while there is much to read.
pub fn read_ahead<S>(stream: S) -> Connection<S, ReadAhead> {
    Connection::new(stream, ReadAhead::default())
}

/// Reads ahead. Writing passes through.
#[derive(Debug, Default)]
pub struct ReadAhead {
    /// Empty unless the connection is busy.
    buffer: Box<[u8]>,
    /// What of it was read and not yet handed on.
    ahead: Range<usize>,
    busy: bool,
}

impl ReadAhead {
    fn hand_on(&mut self, into: &mut ReadBuf<'_>) {
        let bytes = self.ahead.len().min(into.remaining());
        let end = self.ahead.start + bytes;
        into.put_slice(&self.buffer[self.ahead.start..end]);
        self.ahead.start = end;
    }
}

impl Hook for ReadAhead {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.ahead.is_empty() {
            self.hand_on(into);
            return Poll::Ready(Ok(()));
        }
        if !self.busy {
            ready!(Pin::new(stream).poll_read(context, into))?;
            // As much as there was room for: there is probably more.
            self.busy = into.remaining() == 0;
            return Poll::Ready(Ok(()));
        }
        if self.buffer.is_empty() {
            self.buffer = vec![0; AHEAD_BYTES_MAX].into_boxed_slice();
        }
        let mut ahead = ReadBuf::new(&mut self.buffer);
        match Pin::new(stream).poll_read(context, &mut ahead) {
            Poll::Ready(Ok(())) => {
                self.ahead = 0..ahead.filled().len();
                self.hand_on(into);
                Poll::Ready(Ok(()))
            }
            pending_or_error => {
                // While it is idle it keeps no memory.
                self.buffer = Box::default();
                self.busy = false;
                pending_or_error
            }
        }
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
        let mut reader = read_ahead(receiver);
        let mut read = vec![0; bytes.len()];
        let mut at = 0;
        let mut ahead_once = false;
        for size in [1, 4096, 5, 40_000].into_iter().cycle() {
            let end = (at + size).min(read.len());
            at += reader.read(&mut read[at..end]).await.unwrap();
            ahead_once |= !reader.hook().buffer.is_empty();
            if at == read.len() {
                break;
            }
        }
        assert_eq!(read, bytes);
        assert!(ahead_once);
        let sender = sending.await.unwrap();
        let mut more = [0; 1];
        // Nothing comes: a connection that waits holds nothing.
        let waiting = std::time::Duration::from_millis(20);
        let none = tokio::time::timeout(waiting, reader.read(&mut more)).await;
        assert!(none.is_err() && reader.hook().buffer.is_empty());
        drop(sender);
        assert_eq!(reader.read(&mut more).await.unwrap(), 0);
    }
}
