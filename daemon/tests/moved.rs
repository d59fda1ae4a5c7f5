//! The database is moved or deleted beneath the daemon: told, never acknowledged, and gone on from.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use betcode_schema_grpc::v1::bet_code_health_client::BetCodeHealthClient;
use betcode_schema_grpc::v1::{HealthDetailsRequest, ServingStatus};
use support::process::Process;
use support::{Appender, batch, connect, eventually, read_all, within};
use tonic::Code;

#[tokio::test]
async fn nothing_is_acknowledged_while_the_database_is_not_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (path, aside) = (
        folder.path().join("history.db"),
        folder.path().join("aside.db"),
    );
    let process = Process::start(folder.path(), &["--health-interval-ms", "100"]).await;
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["one"])).await.unwrap();
    let channel = connect(&process.socket).await.unwrap();
    let is_serving = async || {
        let mut client = BetCodeHealthClient::new(channel.clone());
        let told = client.get_health_details(HealthDetailsRequest {}).await;
        told.unwrap().into_inner().overall_status() == ServingStatus::Serving
    };
    eventually(is_serving).await;
    std::fs::rename(&path, &aside).unwrap();
    let refused = within(appender.send(batch("s", &["lost"])))
        .await
        .unwrap_err();
    // Not final: a relay keeps such a request and sends it again.
    assert_eq!(refused.code, i32::from(Code::Unavailable), "{refused:?}");
    assert_eq!(refused.reason, "MOVED");
    assert!(refused.message.contains("history.db"), "{refused:?}");
    assert!(refused.hint.contains("put that file back"), "{refused:?}");
    eventually(async || !is_serving().await).await;
    std::fs::rename(&aside, &path).unwrap();
    let mut appender = Appender::open(&mut client).await;
    within(appender.send(batch("s", &["two"]))).await.unwrap();
    eventually(is_serving).await;
    let read = read_all(&mut client, "s", 1).await.unwrap();
    assert_eq!(read.len(), 2);
}
