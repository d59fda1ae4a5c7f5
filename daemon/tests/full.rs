//! Room that runs out: the disk, one session's share, long jobs; told, and recovered from without a
//! restart.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use betcode_schema_grpc::history::capacity_service_client::CapacityServiceClient;
use betcode_schema_grpc::history::maintenance_service_client::MaintenanceServiceClient;
use betcode_schema_grpc::history::{
    AppendRequest, Refused, RenameSessionRequest, VerifyRequest, WatchLevelsRequest,
};
use betcode_schema_grpc::v1::bet_code_health_client::BetCodeHealthClient;
use betcode_schema_grpc::v1::{HealthDetailsRequest, ServingStatus};
use bytes::Bytes;
use support::process::Process;
use support::{Appender, batch, connect, read_all, serve, within};
use tonic::Code;
use tonic::transport::Channel;
use tonic_types::StatusExt;

/// 20 KB that do not compress.
fn noise(at: u64) -> AppendRequest {
    let mut state = at | 1;
    let bytes: Vec<u8> = (0..20_000)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect();
    AppendRequest {
        payloads: vec![Bytes::from(bytes)],
        ..batch("s", &[])
    }
}

/// Appends until refused; how many were answered before.
async fn fill(appender: &mut Appender, answered: &mut u64) -> Refused {
    loop {
        match within(appender.send(noise(*answered + 1))).await {
            Ok(done) => *answered = done.last_sequence,
            Err(refused) => return refused,
        }
    }
}

async fn health(channel: Channel) -> (ServingStatus, String) {
    let mut client = BetCodeHealthClient::new(channel);
    let told = client.get_health_details(HealthDetailsRequest {}).await;
    let told = told.unwrap().into_inner();
    (told.overall_status(), told.degraded_reason)
}

/// A small file system in memory.
struct Disk(PathBuf);

impl Disk {
    /// `None`, and a word about it, where mounting is not allowed.
    fn mount(folder: &Path, megabytes: u64) -> Option<Self> {
        let size = format!("size={megabytes}m");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(folder)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(folder.to_owned())),
            why => {
                eprintln!("SKIPPED a full disk: cannot mount: {why:?}");
                None
            }
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[tokio::test]
async fn a_full_disk_is_told_by_name_and_recovered_from_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_disk) = Disk::mount(folder.path(), 24) else {
        return;
    };
    let other = folder.path().join("other");
    std::fs::write(&other, vec![0; 8 << 20]).unwrap();
    let flags = ["--health-interval-ms", "100", "--compaction", "false"];
    let process = Process::start(folder.path(), &flags).await;
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    let mut answered = 0;
    let refused = fill(&mut appender, &mut answered).await;
    assert_eq!(Code::from(refused.code), Code::ResourceExhausted);
    assert_eq!(
        (refused.reason.as_str(), refused.limit.as_str()),
        ("NO_SPACE", "disk")
    );
    assert_eq!(refused.retry_ms, 0, "waiting alone makes no room");
    // Everything that was answered can be read; health says what is wrong.
    let there = read_all(&mut client, "s", 1).await.unwrap();
    assert_eq!(there.len() as u64, answered);
    let channel = connect(&process.socket).await.unwrap();
    let refused = "appends are refused for want of space (disk)";
    let told = async || health(channel.clone()).await.1.contains(refused);
    support::eventually(told).await;
    std::fs::remove_file(other).unwrap();
    let mut again = Appender::open(&mut client).await;
    let done = within(again.send(noise(answered + 1))).await.unwrap();
    assert_eq!(done.first_sequence, answered + 1);
    let rename = RenameSessionRequest {
        session_id: "s".into(),
        name: "n".into(),
    };
    client.rename_session(rename).await.unwrap();
    let recovered = async {
        while health(channel.clone()).await.0 != ServingStatus::Serving {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within(recovered).await;
}

/// The level of the disk, as it is asked for now.
async fn disk_level(channel: &Channel) -> String {
    let mut capacity = CapacityServiceClient::new(channel.clone());
    let levels = capacity.watch_levels(WatchLevelsRequest {}).await.unwrap();
    let levels = within(levels.into_inner().message()).await.unwrap();
    let levels = levels.unwrap().levels.into_iter();
    let mut disk = levels.filter(|level| level.resource == "disk");
    disk.next().unwrap().level
}

#[tokio::test]
async fn a_disk_that_fills_up_is_warned_of_before_anything_is_refused() {
    let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(_disk) = Disk::mount(folder.path(), 64) else {
        return;
    };
    let path = outside.path().join("daemon.log");
    let log = std::fs::File::create(&path).unwrap();
    let flags = ["--health-interval-ms", "100", "--compaction", "false"];
    let process = Process::start_logging(folder.path(), &flags, log.into()).await;
    let channel = connect(&process.socket).await.unwrap();
    assert_eq!(disk_level(&channel).await, "ok");
    let mut client = process.history().await;
    let mut appender = Appender::open(&mut client).await;
    let (mut sequence, mut seen) = (0, vec!["ok".to_owned()]);
    while seen.last().unwrap() != "critical" {
        sequence += 1;
        within(appender.send(noise(sequence))).await.unwrap();
        let level = disk_level(&channel).await;
        if *seen.last().unwrap() != level {
            seen.push(level);
        }
    }
    assert_eq!(seen, ["ok", "warning", "critical"]);
    let told = || std::fs::read_to_string(&path).unwrap();
    support::eventually(async || {
        let log = told();
        let mut lines = log.lines().filter(|line| line.contains("WARN"));
        lines.any(|line| line.contains("the disk") && line.contains("critical"))
    })
    .await;
    let named = async || {
        health(channel.clone())
            .await
            .1
            .contains("disk is at level critical")
    };
    support::eventually(named).await;
}

#[tokio::test]
async fn a_session_that_is_too_big_is_told_and_others_go_on() {
    let served = serve(&[("max_session_bytes", "1000000"), ("compaction", "false")]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    let mut answered = 0;
    let refused = fill(&mut appender, &mut answered).await;
    assert_eq!(Code::from(refused.code), Code::ResourceExhausted);
    assert_eq!(refused.reason, "NO_SPACE");
    assert_eq!(refused.limit, "max_session_bytes", "{}", refused.message);
    appender.send(batch("t", &["x"])).await.unwrap();
    let mut raised = served.settings.clone();
    raised.max_session_bytes = 2_000_000;
    served.daemon.reload(&raised).unwrap();
    let mut again = Appender::open(&mut client).await;
    let done = again.send(noise(answered + 1)).await.unwrap();
    assert_eq!(done.first_sequence, answered + 1);
}

#[tokio::test]
async fn too_many_long_jobs_are_told_and_recovered_from() {
    // One connection for readers: the checks wait for one another.
    let served = serve(&[("max_readers", "1"), ("compaction", "false")]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    for at in 0..400 {
        appender.requests.send(noise(at)).await.unwrap();
    }
    for _ in 0..400 {
        appender.answer().await.unwrap();
    }
    let client = MaintenanceServiceClient::new(served.channel().await);
    let mut running = Vec::new();
    let refused = loop {
        let mut client = client.clone();
        match client.verify(VerifyRequest {}).await {
            Ok(answers) => running.push(answers.into_inner()),
            Err(status) => break status,
        }
        assert!(running.len() <= 64, "never refused");
    };
    assert!(running.len() >= 4);
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    let details = refused.get_error_details();
    assert!(details.retry_info().is_some());
    assert_eq!(
        details.quota_failure().unwrap().violations[0].subject,
        "long_jobs"
    );
    for mut answers in running {
        while within(answers.message()).await.unwrap().is_some() {}
    }
    let mut client = client.clone();
    let again = async {
        while client.verify(VerifyRequest {}).await.is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    within(again).await;
}
