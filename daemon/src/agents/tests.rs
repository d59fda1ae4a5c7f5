use std::path::Path;
use std::time::Duration;

use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::agent_service_client::AgentServiceClient;
use betcode_storage::Batch;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio_stream::StreamExt;
use tonic::transport::Endpoint;

use super::*;
use crate::server::Daemon;
use crate::settings::{self, Sources};

/// A daemon whose agents note their process and live on, with a session `s`.
async fn daemon(folder: &Path) -> (Daemon, Stored) {
    let text = |name: &str, value: String| (name.to_owned(), value);
    let agent = format!(
        "echo $$ >> {}; exec sleep 1000",
        folder.join("pid").display()
    );
    let flags = vec![
        text("db", folder.join("history.db").display().to_string()),
        text("agent_command", "/bin/sh".to_owned()),
        text(
            "agent_arguments",
            serde_json::json!(["-c", agent]).to_string(),
        ),
    ];
    let sources = Sources {
        flags,
        ..Sources::default()
    };
    let daemon = Daemon::start(settings::load(&sources).unwrap().settings).await;
    let daemon = daemon.unwrap();
    let id: SessionId = "s".parse().unwrap();
    let store = &daemon.core().store;
    store.append(Batch::new(id.clone(), Vec::new())).unwrap();
    let session = store.session(&id).unwrap();
    (daemon, session)
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    let work = tokio::time::timeout(Duration::from_secs(30), work);
    work.await.expect("no answer in 30 s")
}

async fn eventually(mut is_so: impl FnMut() -> bool) {
    within(async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_ended_by_a_panic_is_begun_anew_and_its_agent_has_ended() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, session) = daemon(folder.path()).await;
    let (core, agents) = (daemon.core(), &daemon.core().agents);
    let attach = |attached| Command::Attach {
        key: 1,
        client: "ann".into(),
        from: 0,
        options: Options {
            working_directory: folder.path().to_owned(),
            ..Options::default()
        },
        mailbox: Arc::default(),
        attached,
    };
    let (_, inbox) = within(agents.ask(core, &session, attach)).await.unwrap();
    inbox.send(Command::Message(1, "go".into())).await.unwrap();
    let noted = folder.path().join("pid");
    let pid = || std::fs::read_to_string(&noted).unwrap_or_default();
    eventually(|| pid().ends_with('\n')).await;
    inbox.send(Command::Panic).await.unwrap();
    within(inbox.closed()).await;
    let (grants, _) = within(agents.ask(core, &session, Command::Grants))
        .await
        .unwrap();
    assert!(grants.is_empty());
    let process = format!("/proc/{}", pid().trim());
    eventually(|| !Path::new(&process).exists()).await;
    assert!(within(daemon.stop()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_that_panics_at_each_thing_it_is_asked_is_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, session) = daemon(folder.path()).await;
    let (core, agents) = (daemon.core(), &daemon.core().agents);
    let asked = agents.ask(core, &session, |_: oneshot::Sender<()>| Command::Panic);
    let ended = tokio::time::timeout(Duration::from_secs(10), asked).await;
    let status = ended.expect("it is given up").unwrap_err();
    assert_eq!(status.code(), tonic::Code::Internal);
    assert!(within(daemon.stop()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_conversation_ended_by_a_panic_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (daemon, session) = daemon(folder.path()).await;
    let core = daemon.core();
    let socket = core.settings.socket.clone();
    let connector = tower::service_fn(move |_| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://daemon");
    let channel = endpoint.connect_with_connector(connector).await.unwrap();
    let start = proto::StartConversation {
        session_id: session.id.to_string(),
        working_directory: folder.path().display().to_string(),
        ..proto::StartConversation::default()
    };
    let start = proto::AgentRequest {
        request: Some(proto::agent_request::Request::Start(start)),
    };
    let requests = tokio_stream::once(start).chain(tokio_stream::pending());
    let mut client = AgentServiceClient::new(channel);
    let mut events = client.converse(requests).await.unwrap().into_inner();
    within(events.message()).await.unwrap().unwrap();
    let inbox = core.agents.door(&session.id).unwrap().inbox;
    inbox.send(Command::Panic).await.unwrap();
    let ended = within(async {
        loop {
            if let Err(status) = events.message().await {
                return status;
            }
        }
    });
    assert_eq!(ended.await.code(), tonic::Code::Internal);
}
