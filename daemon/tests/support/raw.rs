//! Requests below the level of a gRPC client, which would add deadlines and checks of its own.

use std::path::Path;

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use tokio::net::UnixStream;
use tonic::Code;

use crate::support::within;

/// A request whose body is still to be sent.
pub(crate) struct Raw {
    pub(crate) answer: ResponseFuture,
    pub(crate) body: SendStream<Bytes>,
    h2: SendRequest<Bytes>,
    pub(crate) driving: tokio::task::JoinHandle<Result<(), h2::Error>>,
}

impl Raw {
    /// Opens a connection and sends the request's headers.
    pub(crate) async fn begin(socket: &Path, method: &str, timeout: Option<&str>) -> Self {
        Self::begin_with_window(socket, method, timeout, 65_535).await
    }

    /// The same, with room for so many bytes of the answer until they are read.
    pub(crate) async fn begin_with_window(
        socket: &Path,
        method: &str,
        timeout: Option<&str>,
        window_bytes: u32,
    ) -> Self {
        let stream = UnixStream::connect(socket).await.unwrap();
        let (h2, connection) = h2::client::Builder::new()
            .initial_window_size(window_bytes)
            .handshake(stream)
            .await
            .unwrap();
        let driving = tokio::spawn(connection);
        let mut h2 = h2.ready().await.unwrap();
        let request = http::Request::post(format!("http://daemon{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        let request = match timeout {
            Some(timeout) => request.header("grpc-timeout", timeout),
            None => request,
        };
        let request = request.body(()).unwrap();
        let (answer, body) = h2.send_request(request, false).unwrap();
        Self {
            answer,
            body,
            h2,
            driving,
        }
    }

    /// The status that ends the call; its messages are left out.
    pub(crate) async fn status(self) -> Code {
        let Self { answer, body, .. } = self;
        let answer = within(answer).await.unwrap();
        let code = |headers: &http::HeaderMap| {
            let status = headers.get("grpc-status")?;
            Some(Code::from_bytes(status.as_bytes()))
        };
        if let Some(code) = code(answer.headers()) {
            return code;
        }
        let mut answers = answer.into_body();
        while let Some(data) = within(answers.data()).await {
            let bytes = data.unwrap().len();
            answers.flow_control().release_capacity(bytes).unwrap();
        }
        let trailers = within(answers.trailers()).await.unwrap();
        drop((body, self.h2));
        self.driving.abort();
        code(&trailers.unwrap()).unwrap()
    }
}

/// A message as gRPC frames it.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    framed.into()
}
