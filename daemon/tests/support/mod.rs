//! A daemon on a real socket with a real store, and clients of it.
#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod process;
pub(crate) mod talk;
pub(crate) mod through;

use std::path::{Path, PathBuf};
use std::time::Duration;

use betcode_daemon::server::Daemon;
use betcode_daemon::settings::{self, Settings, Sources};
use betcode_schema_grpc::history::append_response::Result as Answer;
use betcode_schema_grpc::history::history_service_client::HistoryServiceClient;
use betcode_schema_grpc::history::{
    AppendRequest, AppendResponse, Appended, FollowResponse, ReadRequest, Refused,
};
use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

/// A daemon in this process.
pub(crate) struct Served {
    pub(crate) daemon: Daemon,
    pub(crate) settings: Settings,
    pub(crate) folder: TempDir,
    /// The relay between, in the relay's tests.
    pub(crate) through: Option<through::Through>,
}

/// Settings for a store in `folder`, with these values besides.
pub(crate) fn settings_in(folder: &Path, values: &[(&str, &str)]) -> Settings {
    let db = folder.join("history.db").display().to_string();
    let own = |(name, value): &(&str, &str)| (name.to_string(), value.to_string());
    let flags = [("db", db.as_str()), ("health_interval_ms", "100")];
    let flags = flags
        .iter()
        .map(own)
        .chain(values.iter().map(own))
        .collect();
    settings::load(&Sources {
        flags,
        ..Sources::default()
    })
    .unwrap()
    .settings
}

pub(crate) async fn serve(values: &[(&str, &str)]) -> Served {
    serve_in(tempfile::tempdir().unwrap(), values).await
}

/// The same in a folder that has something in it already; it goes with the daemon.
pub(crate) async fn serve_in(folder: TempDir, values: &[(&str, &str)]) -> Served {
    let settings = settings_in(folder.path(), values);
    let through = through::Through::start(folder.path(), &settings).await;
    let daemon = Daemon::start(settings.clone()).await.unwrap();
    if let Some(through) = &through {
        through.opened(&daemon).await;
    }
    Served {
        daemon,
        settings,
        folder,
        through,
    }
}

impl Served {
    pub(crate) async fn channel(&self) -> Channel {
        match &self.through {
            Some(through) => through.channel().await,
            None => connect(&self.settings.socket).await.unwrap(),
        }
    }

    pub(crate) async fn history(&self) -> HistoryServiceClient<Channel> {
        HistoryServiceClient::new(self.channel().await).max_decoding_message_size(32 << 20)
    }
}

pub(crate) async fn connect(socket: &Path) -> Result<Channel, tonic::transport::Error> {
    let socket: PathBuf = socket.to_owned();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    windows(Endpoint::from_static("http://daemon"))
        .connect_with_connector(connector)
        .await
}

fn windows(endpoint: Endpoint) -> Endpoint {
    endpoint
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
}

pub(crate) fn batch(session: &str, lines: &[&str]) -> AppendRequest {
    AppendRequest {
        session_id: session.to_owned(),
        payloads: lines
            .iter()
            .map(|line| Bytes::copy_from_slice(line.as_bytes()))
            .collect(),
        ..AppendRequest::default()
    }
}

/// One append stream.
pub(crate) struct Appender {
    pub(crate) requests: mpsc::Sender<AppendRequest>,
    pub(crate) answers: Streaming<AppendResponse>,
}

impl Appender {
    pub(crate) async fn open(client: &mut HistoryServiceClient<Channel>) -> Self {
        let (requests, receiver) = mpsc::channel(1024);
        let answers = client
            .append(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Self { requests, answers }
    }

    pub(crate) async fn send(&mut self, request: AppendRequest) -> Result<Appended, Refused> {
        self.requests.send(request).await.unwrap();
        self.answer().await
    }

    pub(crate) async fn answer(&mut self) -> Result<Appended, Refused> {
        match self
            .answers
            .message()
            .await
            .unwrap()
            .unwrap()
            .result
            .unwrap()
        {
            Answer::Appended(appended) => Ok(appended),
            Answer::Refused(refused) => Err(refused),
        }
    }
}

/// All messages of a session from a sequence on, parts put together.
pub(crate) async fn read_all(
    client: &mut HistoryServiceClient<Channel>,
    session: &str,
    from: u64,
) -> Result<Vec<(u64, Bytes)>, tonic::Status> {
    let request = ReadRequest {
        session_id: session.to_owned(),
        from_sequence: from,
        ..ReadRequest::default()
    };
    let mut answers = client.read(request).await?.into_inner();
    let mut messages = Vec::new();
    let mut part = Vec::new();
    while let Some(answer) = answers.message().await? {
        for message in answer.messages {
            part.extend_from_slice(&message.payload);
            if message.remaining_bytes == 0 {
                messages.push((message.sequence, Bytes::from(std::mem::take(&mut part))));
            }
        }
    }
    Ok(messages)
}

/// The next live messages; skips marks.
pub(crate) async fn followed(answers: &mut Streaming<FollowResponse>) -> Vec<(u64, Bytes)> {
    loop {
        let answer = within(answers.message()).await.unwrap().unwrap();
        if !answer.messages.is_empty() {
            return answer
                .messages
                .into_iter()
                .map(|m| (m.sequence, m.payload))
                .collect();
        }
    }
}

pub(crate) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), work)
        .await
        .expect("no answer in 30 s")
}

/// Waits until something is so of which nobody tells; not longer than [`within`].
pub(crate) async fn eventually(mut is_so: impl AsyncFnMut() -> bool) {
    within(async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
