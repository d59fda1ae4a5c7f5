//! Compaction, maintenance, capacity, health and reflection over a real socket.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use betcode_schema_grpc::history as proto;
use betcode_schema_grpc::history::capacity_service_client::CapacityServiceClient;
use betcode_schema_grpc::history::compaction_service_client::CompactionServiceClient;
use betcode_schema_grpc::history::maintenance_service_client::MaintenanceServiceClient;
use betcode_schema_grpc::history::run_compaction_response::Event;
use betcode_schema_grpc::history::{backup_response, verify_response};
use betcode_schema_grpc::v1::bet_code_health_client::BetCodeHealthClient;
use betcode_schema_grpc::v1::{HealthDetailsRequest, ServingStatus};
use betcode_test_support::{Random, seed};
use support::{Appender, Served, batch, read_all, serve, within};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

async fn filled() -> Served {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    let line = format!(
        r#"{{"type":"assistant","text":"{}"}}"#,
        "words ".repeat(100)
    );
    for session in ["a", "b"] {
        appender
            .send(batch(session, &[line.as_str(); 200]))
            .await
            .unwrap();
    }
    served
}

#[tokio::test]
async fn compaction_runs_pauses_and_keeps_a_history() {
    let served = filled().await;
    let mut client = CompactionServiceClient::new(served.channel().await);
    let run = |dry_run, id: &str| proto::RunCompactionRequest {
        dry_run,
        session_id: id.into(),
        ..proto::RunCompactionRequest::default()
    };
    let mut plan = client.run(run(true, "a")).await.unwrap().into_inner();
    let Some(Event::Plan(plan)) = plan.message().await.unwrap().unwrap().event else {
        panic!()
    };
    assert_eq!(plan.messages, 200);
    let mut answers = client.run(run(false, "")).await.unwrap().into_inner();
    let mut outcome = None;
    while let Some(answer) = within(answers.message()).await.unwrap() {
        if let Some(Event::Outcome(last)) = answer.event {
            outcome = Some(last);
        }
    }
    let outcome = outcome.unwrap();
    assert_eq!((outcome.messages, outcome.cancelled), (400, false));
    let runs = client
        .history(proto::CompactionHistoryRequest::default())
        .await
        .unwrap();
    assert_eq!(runs.into_inner().runs[0].trigger, "client");
    let unknown = client.run(run(false, "nope")).await;
    let code = match unknown {
        Ok(answers) => answers.into_inner().message().await.unwrap_err().code(),
        Err(status) => status.code(),
    };
    assert_eq!(code, Code::NotFound);
    client
        .pause(proto::PauseCompactionRequest {})
        .await
        .unwrap();
    let mut state = String::new();
    for _ in 0..100 {
        let status = client
            .status(proto::CompactionStatusRequest {})
            .await
            .unwrap();
        state = status.into_inner().state;
        if state == "paused" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(state, "paused");
    client
        .resume(proto::ResumeCompactionRequest {})
        .await
        .unwrap();
    let mut history = served.history().await;
    assert_eq!(read_all(&mut history, "a", 1).await.unwrap().len(), 200);
}

#[tokio::test]
async fn the_store_is_verified_and_copied_while_served() {
    let served = filled().await;
    let mut client = MaintenanceServiceClient::new(served.channel().await);
    let mut answers = client
        .verify(proto::VerifyRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut report = None;
    while let Some(answer) = within(answers.message()).await.unwrap() {
        if let Some(verify_response::Event::Report(last)) = answer.event {
            report = Some(last);
        }
    }
    let report = report.unwrap();
    assert!(report.ok, "{report:?}");
    assert_eq!((report.sessions, report.messages), (2, 400));
    let path = served.folder.path().join("copy.db");
    let backup = |path: &str| proto::BackupRequest { path: path.into() };
    let relative = client.backup(backup("copy.db")).await.unwrap_err();
    assert_eq!(relative.code(), Code::InvalidArgument);
    let path = path.to_str().unwrap();
    let mut answers = client.backup(backup(path)).await.unwrap().into_inner();
    let mut copied = None;
    while let Some(answer) = within(answers.message()).await.unwrap() {
        if let Some(backup_response::Event::Report(last)) = answer.event {
            copied = Some(last);
        }
    }
    assert_eq!(copied.unwrap().messages, 400);
    let mut again = client.backup(backup(path)).await.unwrap().into_inner();
    assert_eq!(
        within(again.message()).await.unwrap_err().code(),
        Code::AlreadyExists
    );
}

#[tokio::test]
async fn levels_are_told_with_the_size_that_the_report_tells() {
    let served = filled().await;
    let mut client = CapacityServiceClient::new(served.channel().await);
    let mut levels = client
        .watch_levels(proto::WatchLevelsRequest {})
        .await
        .unwrap()
        .into_inner();
    let first = within(levels.message()).await.unwrap().unwrap();
    let size = first.levels.iter().find(|l| l.resource == "sqlite_size");
    let used = size.unwrap().used;
    assert_eq!(used, served.daemon.core().database_bytes());
}

#[tokio::test]
async fn capacity_is_told_now_and_as_it_changes() {
    let served = filled().await;
    let mut client = CapacityServiceClient::new(served.channel().await);
    let report = client
        .report(proto::CapacityReportRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (report.sessions, report.messages, report.level.as_str()),
        (2, 400, "ok")
    );
    assert!(report.database_bytes > 0 && report.limit_bytes > 0);
    assert!(report.compactable_bytes > 0 && report.bytes_per_message.unwrap() > 600.0);
    assert!(report.text.contains("400"), "{}", report.text);
    let json: serde_json::Value = serde_json::from_str(&report.json).unwrap();
    assert_eq!(json["messages"], 400);
    assert!(report.planned.iter().any(|row| row.planned == 200.0));
    let growth = |id: &str| proto::GrowthRequest {
        session_id: id.into(),
        first_hour: 0,
    };
    let whole = client.growth(growth("")).await.unwrap().into_inner();
    assert_eq!(whole.types[0].messages, 400);
    assert_eq!(
        client.growth(growth("a")).await.unwrap().into_inner().types[0].messages,
        200
    );
    assert_eq!(
        client.growth(growth("nope")).await.unwrap_err().code(),
        Code::NotFound
    );
    let stages = client
        .budget(proto::BudgetRequest {})
        .await
        .unwrap()
        .into_inner()
        .stages;
    assert!(
        stages
            .iter()
            .any(|s| s.stage == "answer" && s.count == 2 && s.budget_ms == 50.0)
    );
    let mut levels = client
        .watch_levels(proto::WatchLevelsRequest {})
        .await
        .unwrap()
        .into_inner();
    let level = |answer: proto::WatchLevelsResponse| {
        answer
            .levels
            .into_iter()
            .find(|l| l.resource == "sqlite_size")
            .map(|l| l.level)
    };
    let mut told = level(within(levels.message()).await.unwrap().unwrap());
    while told.as_deref() != Some("ok") {
        told = level(within(levels.message()).await.unwrap().unwrap());
    }
    // What SIGHUP does with a lower limit. So many lines of noise do not fit under the least one: compaction
    // begins at once when the limit is near, and may be done before anybody looks.
    let mut history = served.history().await;
    let mut appender = Appender::open(&mut history).await;
    let mut random = Random::new(seed());
    let mut noise = || -> String { (0..60).map(|_| format!("{:016x}", random.bits())).collect() };
    let lines: Vec<String> = (0..3000).map(|_| noise()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    appender.send(batch("c", &lines)).await.unwrap();
    let mut lower = served.settings.clone();
    lower.max_db_bytes = 1_000_000;
    served.daemon.reload(&lower).unwrap();
    while told.as_deref() == Some("ok") {
        told = level(within(levels.message()).await.unwrap().unwrap());
    }
}

#[tokio::test]
async fn every_level_is_known_as_soon_as_the_daemon_serves() {
    let served = serve(&[]).await;
    let mut client = CapacityServiceClient::new(served.channel().await);
    let request = proto::WatchLevelsRequest {};
    let mut levels = client.watch_levels(request).await.unwrap().into_inner();
    let levels = within(levels.message()).await.unwrap().unwrap().levels;
    let names: Vec<_> = levels.iter().map(|level| level.resource.as_str()).collect();
    assert_eq!(names, ["sessions", "memory", "cpu", "sqlite_size", "disk"]);
    let processor = &levels[2];
    assert_eq!(processor.unit, "milliprocessors");
    assert!(processor.limit >= 1000, "{processor:?}");
}

#[tokio::test]
async fn the_plan_is_computed_for_examples_for_a_load_and_for_this_store() {
    let served = filled().await;
    let mut client = CapacityServiceClient::new(served.channel().await);
    let example = client.plan(proto::PlanRequest::default()).await.unwrap();
    let example = example.into_inner();
    assert_eq!(example.daemon_memory.unwrap().total_bytes, 300_000_000);
    assert_eq!(example.relay_memory.unwrap().total_bytes, 850_000_000);
    let growth = example.storage_growth.unwrap();
    assert_eq!(growth.monthly_bytes, 1_760_000_000);
    assert_eq!(example.relays.unwrap().relays, 3);
    assert_eq!(example.memory_budget.unwrap().headroom_bytes, 112_000_000);
    assert!(example.text.contains("Storage growth"));
    let json: serde_json::Value = serde_json::from_str(&example.json).unwrap();
    assert_eq!(json["daemon_memory"]["total_bytes"], 300_000_000);
    let input = |name: &str, value| proto::PlanInput {
        name: name.into(),
        value,
    };
    let request = proto::PlanRequest {
        inputs: vec![input("daemon_memory.sessions", 40.0)],
        ..proto::PlanRequest::default()
    };
    let given = client.plan(request).await.unwrap().into_inner();
    assert_eq!(given.daemon_memory.unwrap().sessions_bytes, 200_000_000);
    let row = &given.inputs[0];
    assert_eq!(
        (row.name.as_str(), row.value, row.source.as_str()),
        ("daemon_memory.sessions", 40.0, "given")
    );
    let request = proto::PlanRequest {
        measured: true,
        ..proto::PlanRequest::default()
    };
    let measured = client.plan(request).await.unwrap().into_inner();
    let named = |name: &str| {
        let row = measured.inputs.iter().find(|row| row.name == name);
        row.unwrap().source.clone()
    };
    assert_eq!(named("storage_growth.limit_bytes"), "given");
    let daemon = &measured.latency[3];
    assert_eq!(
        (daemon.component.as_str(), daemon.budget_ms),
        ("Daemon processing", 50)
    );
    assert!(daemon.measured_p95_ms.unwrap() > 0.0);
    assert!(measured.text.contains("Scaling thresholds"));
    let json: serde_json::Value = serde_json::from_str(&measured.json).unwrap();
    let used = |metric: &str| {
        let mut rows = json["thresholds"].as_array().unwrap().iter();
        let row = rows.find(|row| row["metric"] == metric).unwrap();
        (row["used"].is_number(), row["limit"].clone())
    };
    let sessions_max = served.settings.max_sessions;
    assert_eq!(used("sessions"), (true, sessions_max.into()));
    assert_eq!(used("sqlite_size"), (true, 1_000_000_000_u64.into()));
    assert_eq!(used("tunnels"), (false, serde_json::Value::Null));
    for (name, value) in [("nothing.at_all", 1.0), ("daemon_memory.sessions", -1.0)] {
        let request = proto::PlanRequest {
            inputs: vec![input(name, value)],
            ..proto::PlanRequest::default()
        };
        let refused = client.plan(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
}

#[tokio::test]
async fn every_table_of_the_plan_stands_in_fields_as_well() {
    let served = filled().await;
    let mut client = CapacityServiceClient::new(served.channel().await);
    let request = proto::PlanRequest {
        measured: true,
        users: 50,
        ..proto::PlanRequest::default()
    };
    let plan = client.plan(request).await.unwrap().into_inner();
    let asked: Vec<_> = plan.machines.iter().filter(|row| row.asked).collect();
    assert_eq!((plan.machines.len(), asked.len()), (4, 1));
    assert_eq!(
        (asked[0].users_max, asked[0].daemon.as_str()),
        (Some(100), "4 CPU, 4 GB RAM")
    );
    let names: Vec<_> = plan.thresholds.iter().map(|row| &row.metric).collect();
    let expected = [
        "sessions",
        "memory",
        "cpu",
        "tunnels",
        "buffer_size",
        "sqlite_size",
    ];
    assert_eq!(names, expected);
    let sessions = &plan.thresholds[0];
    assert_eq!(
        (sessions.warning_percent, sessions.critical_percent),
        (80, 95)
    );
    assert!(sessions.used.is_some() && sessions.level == "ok");
    assert_eq!(plan.thresholds[3].used, None, "tunnels are the relay's");
    let rates: Vec<_> = plan
        .bandwidth
        .iter()
        .map(|row| row.bytes_per_second)
        .collect();
    assert_eq!(rates, [17, 100_000, 1_000_000, 500_000]);
    assert_eq!(plan.peak_bytes_per_second, rates.iter().sum::<u64>());
    assert_eq!(plan.latency_budget_ms, 200);
    let within = plan.latency_estimate_ms <= 200.0;
    assert_eq!(
        (plan.latency_within, plan.latency[0].within),
        (within, None)
    );
    let budget = plan.memory_budget.unwrap();
    assert!(budget.resident_bytes > budget.above_base_bytes);
    let report = client.report(proto::CapacityReportRequest {}).await;
    let report = report.unwrap().into_inner();
    assert!(report.planned.iter().all(|row| !row.unit.is_empty()));
    let by_type: u64 = report.by_type.iter().map(|row| row.messages).sum();
    assert_eq!(by_type, report.messages);
}

#[tokio::test]
async fn health_is_told_until_and_while_the_daemon_stops() {
    let served = serve(&[]).await;
    let mut details = BetCodeHealthClient::new(served.channel().await);
    let health = details
        .get_health_details(HealthDetailsRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(health.overall_status(), ServingStatus::Serving);
    let names: Vec<_> = health.components.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names[..3], ["store", "compaction", "capacity"]);
    let mut client = HealthClient::new(served.channel().await);
    let request = HealthCheckRequest {
        service: "betcode.history.v1.HistoryService".into(),
    };
    let mut watch = client.watch(request).await.unwrap().into_inner();
    let mut status = within(watch.message()).await.unwrap().unwrap().status;
    while status != 1 {
        status = within(watch.message()).await.unwrap().unwrap().status;
    }
    drop(details);
    let stopping = tokio::spawn(served.daemon.stop());
    while status == 1 {
        status = within(watch.message()).await.unwrap().unwrap().status;
    }
    assert_eq!(status, 2);
    drop((watch, client));
    assert!(within(stopping).await.unwrap());
}

#[tokio::test]
async fn reflection_describes_every_service() {
    let served = serve(&[]).await;
    let mut client = ServerReflectionClient::new(served.channel().await);
    let ask = |message| ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message),
    };
    let asked = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(
            "betcode.history.v1.HistoryService".into(),
        )),
    ];
    let answers = client
        .server_reflection_info(tokio_stream::iter(asked))
        .await
        .unwrap();
    let mut answers = answers.into_inner();
    let ServerReflectionResponse {
        message_response, ..
    } = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = message_response else {
        panic!()
    };
    let names: Vec<_> = list
        .service
        .into_iter()
        .map(|service| service.name)
        .collect();
    for service in betcode_daemon::server::SERVICES {
        assert!(
            names.iter().any(|name| name == service),
            "{service} in {names:?}"
        );
    }
    assert!(!names.iter().any(|name| name.contains("TunnelService")));
    let answer = answers.message().await.unwrap().unwrap().message_response;
    assert!(matches!(
        answer,
        Some(MessageResponse::FileDescriptorResponse(_))
    ));
}
