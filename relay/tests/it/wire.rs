//! A client that does as it likes with HTTP/2: it ends no request and reads no answer unless it
//! is told to.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use super::harness::WINDOW_BYTES;

/// The connection ends when this is dropped.
pub(crate) struct Wire {
    send: SendRequest<Bytes>,
    _connection: AbortOnDropHandle<()>,
}

/// A call that has begun; it is cancelled when dropped.
pub(crate) struct Call {
    answer: ResponseFuture,
    request: SendStream<Bytes>,
}

/// A message with its prefix.
pub(crate) fn message(bytes: &[u8]) -> Bytes {
    let mut message = vec![0];
    message.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    message.extend_from_slice(bytes);
    message.into()
}

impl Wire {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (send, connection) = h2::client::Builder::new()
            .initial_window_size(WINDOW_BYTES)
            .handshake(stream)
            .await
            .unwrap();
        let connection = tokio::spawn(async move {
            let _ended = connection.await;
        });
        Self {
            send,
            _connection: AbortOnDropHandle::new(connection),
        }
    }

    pub(crate) async fn call(
        &self,
        machine: &str,
        method: &str,
        metadata: &[(&str, &str)],
    ) -> Call {
        let mut request = Request::post(format!("http://relay.test/test.Echo/{method}"))
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("x-machine-id", machine);
        for (name, value) in metadata {
            request = request.header(*name, *value);
        }
        let mut ready = self.send.clone().ready().await.unwrap();
        let (answer, request) = ready
            .send_request(request.body(()).unwrap(), false)
            .unwrap();
        Call { answer, request }
    }
}

impl Call {
    /// Sends bytes of the request as the other side takes them, and leaves it open.
    pub(crate) fn say(&mut self, bytes: Bytes) {
        self.request.send_data(bytes, false).unwrap();
    }

    /// Sends the last bytes of the request, unless the answer has already ended the call.
    pub(crate) fn say_last(&mut self, bytes: Bytes) {
        let _ = self.request.send_data(bytes, true);
    }

    /// The answer's head, and its body unread.
    pub(crate) async fn head(self) -> (HeaderMap, RecvStream, SendStream<Bytes>) {
        let (head, body) = self.answer.await.unwrap().into_parts();
        (head.headers, body, self.request)
    }

    /// Reads the answer to its end.
    pub(crate) async fn status(self) -> Status {
        let (head, mut body, _request) = self.head().await;
        if let Some(status) = Status::from_header_map(&head) {
            return status;
        }
        while let Some(data) = body.data().await {
            match data {
                Ok(data) => body.flow_control().release_capacity(data.len()).unwrap(),
                Err(error) => return Status::cancelled(error.to_string()),
            }
        }
        let trailers = body.trailers().await.ok().flatten();
        trailers
            .as_ref()
            .and_then(Status::from_header_map)
            .unwrap_or_else(|| Status::new(Code::Unknown, "no trailers"))
    }
}
