//! The first bytes of an HTTP/2 client, awaited before anything is set up for it.
//!
//! A peer that connects and sends nothing, or only a few bytes, costs a socket for some seconds, and not an HTTP/2
//! connection for as long as it likes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use betcode_service::connection::{Connection, Hook};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

/// What every HTTP/2 client sends first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection whose preface was read, and is read once more by who takes it from here.
pub(crate) type Prefaced<S> = Connection<S, Preface>;

/// Gives the preface out again before the rest of the connection.
#[derive(Default)]
pub(crate) struct Preface {
    bytes_given: usize,
}

/// Reads the preface.
///
/// # Errors
/// When the connection breaks, or is not HTTP/2.
pub(crate) async fn read<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<Prefaced<S>> {
    let mut received = [0; PREFACE.len()];
    stream.read_exact(&mut received).await?;
    if received != *PREFACE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not HTTP/2"));
    }
    Ok(Connection::new(stream, Preface::default()))
}

impl Hook for Preface {
    fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = &PREFACE[self.bytes_given..];
        if rest.is_empty() {
            return Pin::new(stream).poll_read(context, buffer);
        }
        let bytes = rest.len().min(buffer.remaining());
        buffer.put_slice(&rest[..bytes]);
        self.bytes_given += bytes;
        Poll::Ready(Ok(()))
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
