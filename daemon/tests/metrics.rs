//! What `/metrics` and health say of the store, of limits and of compaction.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use betcode_schema_grpc::history::capacity_service_client::CapacityServiceClient;
use betcode_schema_grpc::history::{AppendRequest, BudgetRequest, FollowRequest};
use betcode_schema_grpc::v1::HealthDetailsRequest;
use betcode_schema_grpc::v1::bet_code_health_client::BetCodeHealthClient;
use bytes::Bytes;
use support::{Appender, Served, batch, eventually, read_all, serve, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const LISTEN: (&str, &str) = ("prometheus_listen", "127.0.0.1:0");

async fn scrape(served: &Served) -> String {
    let address = served.daemon.prometheus_address().unwrap();
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = "GET /metrics HTTP/1.1\r\nhost: daemon\r\nconnection: close\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The value of a sample, by its name and labels.
fn sample(metrics: &str, name: &str) -> Option<f64> {
    let values = metrics.lines().filter_map(|line| line.strip_prefix(name));
    let values: Vec<_> = values.filter_map(|value| value.strip_prefix(' ')).collect();
    assert!(values.len() <= 1, "{name} occurs more than once");
    values.first().map(|value| value.parse().unwrap())
}

async fn degraded_reason(served: &Served) -> String {
    let mut client = BetCodeHealthClient::new(served.channel().await);
    let told = client.get_health_details(HealthDetailsRequest {}).await;
    told.unwrap().into_inner().degraded_reason
}

fn of_20_kb(session: &str) -> AppendRequest {
    AppendRequest {
        payloads: vec![Bytes::from(vec![b'x'; 20_000])],
        ..batch(session, &[])
    }
}

/// Appends batches of 20 KB until one is refused: the limit that refused it.
async fn fill(served: &Served, session: &str) -> String {
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    loop {
        if let Err(refused) = within(appender.send(of_20_kb(session))).await {
            return refused.limit;
        }
    }
}

#[tokio::test]
async fn a_failed_run_of_compaction_is_in_the_metrics_and_so_are_the_stores_figures() {
    let served = serve(&[
        LISTEN,
        ("compaction_interval_ms", "1000"),
        ("quick_idle_ms", "0"),
        ("deep_idle_ms", "0"),
    ])
    .await;
    let mut history = served.history().await;
    let mut appender = Appender::open(&mut history).await;
    appender.send(batch("good", &["one", "two"])).await.unwrap();
    let metric = async |name: &str| sample(&scrape(&served).await, name);
    eventually(async || {
        metric("betcode_compaction_runs_total{outcome=\"done\"}").await > Some(0.0)
    })
    .await;
    let failed = "betcode_compaction_runs_total{outcome=\"failed\"}";
    assert_eq!(metric(failed).await, Some(0.0));
    let last_failure = "betcode_compaction_last_failure_timestamp_seconds";
    assert_eq!(metric(last_failure).await, None);
    let degraded = "betcode_degraded{component=\"compaction\"}";
    assert_eq!(metric(degraded).await, Some(0.0));

    let core = served.daemon.core();
    core.compaction().as_ref().unwrap().pause();
    appender.send(batch("bad", &["one", "two"])).await.unwrap();
    let store = rusqlite::Connection::open(&served.settings.db).unwrap();
    let flip = "UPDATE hot_messages SET payload = x'00' WHERE message_key & 4294967295 = 2";
    assert_eq!(store.execute(flip, ()).unwrap(), 1);
    drop(store);
    core.compaction().as_ref().unwrap().resume();
    eventually(async || metric(degraded).await == Some(1.0)).await;
    let metrics = scrape(&served).await;
    assert!(sample(&metrics, failed) > Some(0.0), "{metrics}");
    assert!(sample(&metrics, last_failure) > Some(1e9), "{metrics}");
    assert_eq!(
        sample(&metrics, "betcode_store_last_compaction_failed"),
        Some(1.0)
    );
    for name in [
        "betcode_store_wal_bytes",
        "betcode_store_free_bytes",
        "betcode_store_disk_free_bytes",
        "betcode_store_busy_waits_total",
        "betcode_degraded{component=\"store\"}",
    ] {
        assert!(sample(&metrics, name).is_some(), "{name}\n{metrics}");
    }
    assert_eq!(sample(&metrics, "betcode_tunnel_open_seconds"), None);
}

#[tokio::test]
async fn a_stage_has_its_budget_and_no_quantile_before_the_first_event() {
    let served = serve(&[LISTEN]).await;
    let quantile = "betcode_stage_seconds{stage=\"answer\",quantile=\"0.95\"}";
    let metrics = scrape(&served).await;
    assert_eq!(sample(&metrics, quantile), None);
    let budget = "betcode_stage_budget_seconds{stage=\"answer\"}";
    assert_eq!(sample(&metrics, budget), Some(0.05));
    let count = "betcode_stage_seconds_count{stage=\"answer\"}";
    assert_eq!(sample(&metrics, count), Some(0.0));
    let mut history = served.history().await;
    let mut appender = Appender::open(&mut history).await;
    appender.send(batch("a", &["x"])).await.unwrap();
    assert!(sample(&scrape(&served).await, quantile) > Some(0.0));
}

#[tokio::test]
async fn each_limit_counts_what_it_refuses() {
    let values = [
        LISTEN,
        ("max_session_bytes", "1000000"),
        ("max_db_bytes", "10000000"),
        ("compaction", "false"),
    ];
    let served = serve(&values).await;
    let _connected = served.channel().await;
    assert_eq!(fill(&served, "s0").await, "max_session_bytes");
    let metrics = scrape(&served).await;
    let of = |metrics: &str, family: &str, limit: &str| {
        sample(
            metrics,
            &format!("betcode_limit_{family}{{limit=\"{limit}\"}}"),
        )
    };
    assert_eq!(
        of(&metrics, "refused_total", "max_session_bytes"),
        Some(1.0)
    );
    assert_eq!(of(&metrics, "max", "max_session_bytes"), Some(1e6));
    assert_eq!(of(&metrics, "max", "long_jobs"), Some(4.0));
    for limit in [
        "max_db_bytes",
        "disk",
        "writer_queue",
        "conversations",
        "long_lines_bytes",
        "max_connections",
    ] {
        assert_eq!(of(&metrics, "refused_total", limit), Some(0.0), "{limit}");
    }
    assert!(
        of(&metrics, "used", "max_connections") > Some(0.0),
        "{metrics}"
    );
    // One session at its limit stops no other.
    assert_eq!(degraded_reason(&served).await, "");
    let mut session = 0;
    while fill(&served, &format!("s{session}")).await != "max_db_bytes" {
        session += 1;
    }
    assert_eq!(
        of(&scrape(&served).await, "refused_total", "max_db_bytes"),
        Some(1.0)
    );
    let refused = "appends are refused for want of space (max_db_bytes)";
    eventually(async || degraded_reason(&served).await.contains(refused)).await;
    let mut raised = served.settings.clone();
    raised.max_db_bytes = 100_000_000;
    served.daemon.reload(&raised).unwrap();
    let mut history = served.history().await;
    let mut appender = Appender::open(&mut history).await;
    appender.send(of_20_kb("new")).await.unwrap();
    eventually(async || degraded_reason(&served).await.is_empty()).await;
}

#[tokio::test]
async fn health_names_a_measure_that_is_critical() {
    let served = serve(&[("max_sessions", "1")]).await;
    let mut history = served.history().await;
    let mut appender = Appender::open(&mut history).await;
    appender.send(batch("a", &["x"])).await.unwrap();
    let critical = "sessions is at level critical (1 of 1)";
    eventually(async || degraded_reason(&served).await.contains(critical)).await;
}

#[tokio::test]
async fn metrics_have_the_level_use_and_limit_of_each_measure() {
    let served = serve(&[LISTEN, ("max_sessions", "1")]).await;
    let mut history = served.history().await;
    let mut appender = Appender::open(&mut history).await;
    appender.send(batch("a", &["x"])).await.unwrap();
    eventually(async || {
        let metrics = scrape(&served).await;
        let has = |line: &str| metrics.lines().any(|l| l == line);
        has("betcode_level{metric=\"sessions\"} 2")
    })
    .await;
    let metrics = scrape(&served).await;
    for line in [
        "betcode_level_used{metric=\"sessions\"} 1",
        "betcode_level_limit{metric=\"sessions\"} 1",
        "betcode_level{metric=\"sqlite_size\"} 0",
        "betcode_level{metric=\"memory\"} 0",
        "betcode_level{metric=\"cpu\"} 0",
        "betcode_level_limit{metric=\"sqlite_size\"} 1000000000",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line}\n{metrics}");
    }
}

/// The plan's kinds of traffic as they were measured: name and bytes a second.
async fn traffic(served: &Served) -> Vec<(String, Option<f64>)> {
    let mut capacity = CapacityServiceClient::new(served.channel().await);
    let budget = capacity.budget(BudgetRequest {}).await.unwrap();
    let rates = budget.into_inner().traffic.into_iter();
    rates
        .map(|rate| (rate.traffic, rate.measured_bytes_per_second))
        .collect()
}

#[tokio::test]
async fn bytes_that_clients_are_sent_are_counted_by_kind_and_stand_beside_the_plans_rates() {
    let served = serve(&[LISTEN]).await;
    let names = [
        "idle_keepalive",
        "active_streaming",
        "large_file_read",
        "history_replay",
    ];
    let unmeasured = |(traffic, rate): (String, Option<f64>)| (traffic, rate.is_none());
    let before: Vec<_> = traffic(&served).await.into_iter().map(unmeasured).collect();
    assert_eq!(before, names.map(|name| (name.to_owned(), true)));

    let mut history = served.history().await;
    let mut appender = Appender::open(&mut history).await;
    appender.send(of_20_kb("s")).await.unwrap();
    // Caught up on 20 KB of history, and then sent 20 KB as they are recorded.
    let follow = FollowRequest {
        session_id: "s".into(),
        from_sequence: 1,
    };
    let mut following = history.follow(follow).await.unwrap().into_inner();
    let mut followed = 0;
    while followed < 20_000 {
        let answer = within(following.message()).await.unwrap().unwrap();
        followed += answer
            .messages
            .iter()
            .map(|m| m.payload.len())
            .sum::<usize>();
    }
    within(following.message()).await.unwrap();
    appender.send(of_20_kb("s")).await.unwrap();
    within(following.message()).await.unwrap();
    drop(following);
    assert_eq!(read_all(&mut history, "s", 1).await.unwrap().len(), 2);
    let metric = async |name: &str| sample(&scrape(&served).await, name);
    eventually(async || metric("betcode_bytes_read_total").await == Some(40_000.0)).await;
    eventually(async || {
        let rates = traffic(&served).await;
        let rate = |name: &str| rates.iter().find(|(n, _)| n == name).unwrap().1;
        // A second in which a stream had 20 KB, and one in which one had 40 KB.
        let near =
            |rate: Option<f64>, bytes: f64| rate.is_some_and(|r| (r / bytes - 1.0).abs() < 0.1);
        near(rate("active_streaming"), 20_000.0)
            && rate("large_file_read") == Some(20_000.0)
            && near(rate("history_replay"), 40_000.0)
    })
    .await;
    assert_eq!(metric("betcode_bytes_followed_total").await, Some(40_000.0));
    assert_eq!(metric("betcode_bytes_replayed_total").await, Some(60_000.0));
    assert_eq!(traffic(&served).await[0].1, None, "there is no tunnel");
    let burst = "betcode_traffic_bytes_per_second{traffic=\"large_file_read\"}";
    assert_eq!(metric(burst).await, Some(20_000.0));
    let idle = "betcode_traffic_bytes_per_second{traffic=\"idle_keepalive\"}";
    assert_eq!(metric(idle).await, None);
    let planned = "betcode_traffic_planned_bytes_per_second{traffic=\"history_replay\"}";
    assert_eq!(metric(planned).await, Some(500_000.0));
    assert!(metric("betcode_base_bytes").await > Some(0.0));
    assert!(metric("betcode_planned_bytes").await >= Some(50_000_000.0));
}

#[tokio::test]
async fn a_level_is_of_the_moment_at_which_it_is_asked_for() {
    let served = serve(&[
        LISTEN,
        ("max_sessions", "5"),
        ("health_interval_ms", "60000"),
    ])
    .await;
    let mut history = served.history().await;
    let mut appender = Appender::open(&mut history).await;
    for session in ["a", "b", "c", "d", "e"] {
        appender.send(batch(session, &["x"])).await.unwrap();
    }
    let metrics = scrape(&served).await;
    for name in [
        "limit_used{limit=\"sessions\"}",
        "level_used{metric=\"sessions\"}",
    ] {
        assert_eq!(sample(&metrics, &format!("betcode_{name}")), Some(5.0));
    }
    let level = sample(&metrics, "betcode_level{metric=\"sessions\"}");
    assert_eq!(level, Some(2.0), "{metrics}");
}
