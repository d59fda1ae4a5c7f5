//! A daemon with a relay: limits, health, metrics, traces, stopping.

use std::time::Duration;

use betcode_daemon::server::Daemon;
use betcode_schema_grpc::history::history_service_client::HistoryServiceClient;
use betcode_schema_grpc::history::{FollowRequest, ListSessionsRequest};
use betcode_schema_grpc::v1::bet_code_health_client::BetCodeHealthClient;
use betcode_schema_grpc::v1::{HealthDetailsRequest, HealthDetailsResponse, ServingStatus};
use tonic::Code;
use tonic_types::StatusExt;

use super::support::talk::{Talk, resume, said, start};
use super::support::{
    Appender, Served, batch, connect, followed, read_all, serve, settings_in, within,
};

fn follow() -> FollowRequest {
    FollowRequest {
        session_id: "s".into(),
        from_sequence: 1,
    }
}

async fn with_a_line(served: &Served) {
    let mut appender = Appender::open(&mut served.history().await).await;
    appender.send(batch("s", &["x"])).await.unwrap();
}

#[tokio::test]
async fn users_count_as_clients_while_they_have_calls_under_way() {
    let served = serve(&[("max_clients", "2")]).await;
    with_a_line(&served).await;
    let list = ListSessionsRequest::default;
    let mut following = Vec::new();
    for _ in 0..2 {
        let mut client = served.history().await;
        let mut answers = client.follow(follow()).await.unwrap().into_inner();
        followed(&mut answers).await;
        following.push((client, answers));
    }
    // A user who is counted already may do more.
    following[0].0.list_sessions(list()).await.unwrap();
    let mut third = served.history().await;
    let refused = third.list_sessions(list()).await.unwrap_err();
    let details = refused.get_error_details();
    let limit = &details.quota_failure().unwrap().violations[0].subject;
    assert_eq!(limit, "clients", "{refused}");
    assert_eq!(served.daemon.core().admission.clients.used(), 2);
    following.pop();
    for _ in 0..200 {
        if third.list_sessions(list()).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody was let in again");
}

/// Health as a client of the daemon's socket sees it, when it is as wanted.
async fn health(served: &Served, wanted: impl Fn(&HealthDetailsResponse) -> bool) {
    let channel = connect(&served.settings.socket).await.unwrap();
    let mut client = BetCodeHealthClient::new(channel);
    let mut last = None;
    for _ in 0..500 {
        let told = client.get_health_details(HealthDetailsRequest {}).await;
        let told = told.unwrap().into_inner();
        if wanted(&told) {
            return;
        }
        last = Some(told);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("health stays {last:?}");
}

#[tokio::test]
async fn a_relay_that_is_gone_degrades_health_and_stops_nobody_on_the_machine() {
    let mut served = serve(&[]).await;
    with_a_line(&served).await;
    let metrics = || betcode_daemon::observe::prometheus::render(served.daemon.core());
    assert!(metrics().await.contains("betcode_tunnel_open 1\n"));
    assert!(metrics().await.contains("betcode_tunnels_opened_total 1\n"));
    let round_trip = "betcode_stage_seconds{stage=\"relay_round_trip\",quantile=\"0.95\"} ";
    assert!(metrics().await.contains(round_trip));
    for empty in ["received", "sent"] {
        let empty = format!("betcode_tunnel_{empty}_bytes_total 0\n");
        assert!(!metrics().await.contains(&empty));
    }
    assert!(
        !metrics()
            .await
            .contains("betcode_tunnel_requests_total 0\n")
    );
    let of_relay = |told: &HealthDetailsResponse| {
        let component = told.components.iter().find(|c| c.name == "relay").unwrap();
        (component.status(), component.message.clone())
    };
    health(&served, |told| {
        of_relay(told).0 == ServingStatus::Serving && !told.degraded
    })
    .await;
    served.through.as_mut().unwrap().kill();
    health(&served, |told| {
        let (status, message) = of_relay(told);
        status == ServingStatus::NotServing
            && message.contains("relay")
            && told.degraded
            && told.overall_status() == ServingStatus::Serving
    })
    .await;
    let metrics = betcode_daemon::observe::prometheus::render(served.daemon.core()).await;
    assert!(metrics.contains("betcode_tunnel_open 0\n"));
    let channel = connect(&served.settings.socket).await.unwrap();
    let mut local = HistoryServiceClient::new(channel);
    assert_eq!(read_all(&mut local, "s", 1).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_daemon_that_stops_ends_calls_through_the_tunnel_and_leaves_in_time() {
    let served = serve(&[("max_drain_ms", "10000")]).await;
    with_a_line(&served).await;
    let mut client = served.history().await;
    let mut answers = client.follow(follow()).await.unwrap().into_inner();
    followed(&mut answers).await;
    let Served {
        daemon, through, ..
    } = served;
    let stopping = tokio::spawn(daemon.stop());
    let ended = loop {
        match within(answers.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a follower ended without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    assert!(within(stopping).await.unwrap(), "somebody was cut off");
    // The machine is away now.
    let list = ListSessionsRequest::default();
    let away = within(client.list_sessions(list)).await.unwrap_err();
    assert_eq!(away.code(), Code::Unavailable, "{away}");
    drop(through);
}

#[tokio::test]
async fn a_daemon_without_usable_credentials_serves_its_machine_and_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let settings = settings_in(folder.path(), &[("relay_address", "127.0.0.1:1")]);
    let daemon = Daemon::start(settings.clone()).await.unwrap();
    let channel = connect(&settings.socket).await.unwrap();
    let mut health = BetCodeHealthClient::new(channel.clone());
    // The first look at health may have come before the one for credentials.
    let told = within(async {
        loop {
            let told = health.get_health_details(HealthDetailsRequest {}).await;
            let told = told.unwrap().into_inner();
            if told.degraded {
                return told;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(told.degraded_reason.contains("betcode-daemon enrol"));
    assert_eq!(told.overall_status(), ServingStatus::Serving);
    let mut history = HistoryServiceClient::new(channel);
    let list = ListSessionsRequest::default();
    history.list_sessions(list).await.unwrap();
    assert!(daemon.stop().await);
}

fn text(text: &str) -> String {
    format!(
        r#"{{"type":"assistant","message":{{"id":"{text}","content":[{{"type":"text","text":"{text}"}}]}}}}"#
    )
}

#[tokio::test]
async fn each_of_two_devices_of_a_user_goes_on_where_its_own_replay_ended() {
    let served = serve(&[]).await;
    let mut appender = Appender::open(&mut served.history().await).await;
    let through = served.through.as_ref().unwrap();
    let token = through.token();
    let (phone, laptop) = (through.device(&token).await, through.device(&token).await);
    let start = || start("s", &std::env::temp_dir());
    let mut append = async |line: &str| appender.send(batch("s", &[&text(line)])).await.unwrap();
    append("one ").await;
    assert_eq!(said(&resume(&phone, "s", 0).await), "one ");
    append("two ").await;
    assert_eq!(said(&resume(&laptop, "s", 0).await), "one two ");
    append("three ").await;
    let mut on_laptop = Talk::open(&laptop, start()).await;
    on_laptop.hears("three").await;
    assert_eq!(said(&on_laptop.told), "three ");
    let mut on_phone = Talk::open(&phone, start()).await;
    on_phone.hears("three").await;
    assert_eq!(said(&on_phone.told), "two three ");
    // A replay's end counts for one stream.
    append("four ").await;
    let mut again = Talk::open(&phone, start()).await;
    append("five ").await;
    again.hears("five").await;
    assert_eq!(said(&again.told), "five ");
}

#[tokio::test]
async fn a_device_that_connects_again_between_replay_and_conversation_misses_nothing() {
    let served = serve(&[]).await;
    let mut appender = Appender::open(&mut served.history().await).await;
    let through = served.through.as_ref().unwrap();
    let token = through.token();
    let start = || start("s", &std::env::temp_dir());
    let mut append = async |line: &str| appender.send(batch("s", &[&text(line)])).await.unwrap();
    append("one ").await;
    let laptop = through.device(&token).await;
    assert_eq!(said(&resume(&laptop, "s", 0).await), "one ");
    append("two ").await;
    let phone = through.device(&token).await;
    assert_eq!(said(&resume(&phone, "s", 0).await), "one two ");
    append("three ").await;
    drop(phone);
    // Which of the two it is cannot be known: it gets what either could miss.
    let mut on_phone = Talk::open(&through.device(&token).await, start()).await;
    on_phone.hears("three").await;
    assert_eq!(said(&on_phone.told), "two three ");
    let mut on_laptop = Talk::open(&laptop, start()).await;
    on_laptop.hears("three").await;
    assert_eq!(said(&on_laptop.told), "two three ");
}
