//! `betcode-relay budget`: the running relay beside the capacity plan.

use std::io::{Read, Write};

use bytes::Bytes;
use serde_json::{Value, json};

use super::harness::until;
use super::program::{Folder, Running, client, daemon};
use super::waiting;

fn budget(folder: &Folder) -> Value {
    serde_json::from_str(&folder.run(&["budget", "--json"])).unwrap()
}

fn threshold<'a>(budget: &'a Value, metric: &str) -> &'a Value {
    let rows = budget["thresholds"].as_array().unwrap();
    let found = rows.iter().find(|row| row["metric"] == metric);
    found.unwrap_or_else(|| panic!("no {metric} in {budget}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_relay_says_how_busy_it_is_beside_the_plan() {
    let folder = Folder::init();
    let settings = folder.file("relay.json");
    let limits = json!({"tunnels_max": 10, "buffer_requests_per_machine_max": 4});
    std::fs::write(&settings, limits.to_string()).unwrap();
    let settings = settings.to_str().unwrap().to_owned();
    let mut command = folder.command();
    command.args(["--settings", &settings, "serve"]);
    command.env("BETCODE_RELAY_LOG_FILTER", "error");
    let relay = Running::spawn(command, (0, 0));
    let before = budget(&folder);
    assert_eq!(before["pid"], relay.id());
    assert_eq!(before["routing"]["within"], Value::Null, "no call yet");
    assert_eq!(before["memory"]["planned_bytes"], 100_000_000);

    let (_tunnel, _) = daemon(folder.enrolled(&relay, "m-1").await).await;
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1", "away"]);
    let caller = client(&relay, &authority, "m-1", Some(&token)).await;
    for _ in 0..20 {
        let payload = Bytes::from(vec![7; 1_000]);
        caller.unary("Unary", payload).await.unwrap();
    }
    let away = client(&relay, &authority, "away", Some(&token)).await;
    for key in ["1", "2", "3", "4"] {
        let asked = waiting::request(key, None, b"later");
        away.unary("Record", asked).await.unwrap_err();
    }

    is_beside_the_plan(&budget(&folder));
    let text = folder.run(&["budget"]);
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "1 tunnels x 0.05",
        "2 clients x 0.02",
        "4 waiting requests x 0.01",
        "4 of 4 requests of one machine (100 %): CRITICAL",
        "Tunnels 70 % 90 % 1 of 10 (10 %): ok",
        "Relays needed by the plan 1 (tunnels 1, clients 1, calls/s at most",
    ] {
        assert!(words.contains(expected), "{expected} is missing in\n{text}");
    }
    for private in ["ann", "m-1", "away", &token] {
        assert!(!text.contains(private), "{private} in the budget");
    }
}

/// Of a relay with a tunnel, two clients, twenty calls that it routed, and four requests that wait.
fn is_beside_the_plan(now: &Value) {
    let memory = &now["memory"];
    // Of the plan's formula: a tunnel, two clients, and four requests that wait.
    assert_eq!(memory["tunnels"], 1);
    assert_eq!(memory["clients"], 2);
    assert_eq!(memory["waiting_requests"], 4);
    assert_eq!(
        memory["planned_bytes"],
        100_000_000 + 50_000 + 2 * 20_000 + 4 * 10_000
    );
    let base = memory["base_bytes"].as_u64().unwrap();
    assert!(base > 0 && memory["resident_bytes"].as_u64().unwrap() > 0);
    let routing = &now["routing"];
    assert_eq!(
        (&routing["count"], &routing["budget_ms"]),
        (&json!(20), &json!(10))
    );
    let within = routing["p95_ms"].as_f64().unwrap() <= 10.0;
    assert_eq!(routing["within"], within);
    let tunnels = threshold(now, "tunnels");
    assert_eq!(
        (&tunnels["used"], &tunnels["limit"]),
        (&json!(1), &json!(10))
    );
    assert_eq!(tunnels["level"], "ok");
    // Four of 10,000 in all, and four of four for the machine: the latter refuses first.
    let buffer = threshold(now, "buffer_size");
    assert_eq!(buffer["bound"], "requests_of_one_machine");
    assert_eq!((&buffer["used"], &buffer["limit"]), (&json!(4), &json!(4)));
    assert_eq!(buffer["level"], "critical");
    assert_eq!(now["relays"]["relays"], 1);
    let bytes = &now["tunnel_bytes"];
    for direction in ["received", "sent"] {
        assert!(bytes[direction].as_u64().unwrap() > 20_000, "{bytes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_relay_its_budget_is_an_error_that_says_so() {
    let folder = Folder::init();
    let refused = folder.try_run(&["budget"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains("no relay serves from"), "{said}");
    // A killed one leaves its socket, which says the same, and which the next one replaces.
    Running::start(&folder, (0, 0), &[]).kill();
    assert!(folder.file("budget.sock").exists());
    let refused = folder.try_run(&["budget"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("no relay serves from"), "{said}");
    let _relay = Running::start(&folder, (0, 0), &[]);
    folder.run(&["budget"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_whose_folder_has_too_long_a_name_for_a_socket_serves_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let long = folder.path().join("x".repeat(120));
    let command = || {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_betcode-relay"));
        command.arg("--state-folder").arg(&long);
        command
    };
    assert!(
        command()
            .args(["init", "127.0.0.1"])
            .status()
            .unwrap()
            .success()
    );
    let _relay = Running::start_in(&long, (0, 0), &[]);
    let refused = command().arg("budget").output().unwrap();
    assert_eq!(refused.status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_metrics_have_each_level_beside_what_is_used_and_what_may_be() {
    let folder = Folder::init();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = free.local_addr().unwrap().to_string();
    drop(free);
    let _relay = Running::start(&folder, (0, 0), &["--metrics-listen", &listen]);
    let mut text = String::new();
    until("the levels were sampled", || {
        let mut stream = std::net::TcpStream::connect(&listen).unwrap();
        let asked = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n";
        stream.write_all(asked).unwrap();
        text.clear();
        stream.read_to_string(&mut text).unwrap();
        text.contains("betcode_relay_level_used{metric=\"memory\"}")
    })
    .await;
    for line in [
        "betcode_relay_level_used{metric=\"tunnels\"} 0\n",
        "betcode_relay_level_limit{metric=\"tunnels\"} 10000\n",
        "betcode_relay_level_limit{metric=\"memory\"} ",
        "betcode_relay_level_limit{metric=\"cpu\"} ",
        "betcode_relay_waiting_requests_per_machine_max 1000\n",
        "betcode_relay_waiting_requests_of_fullest_machine 0\n",
        "betcode_relay_planned_bytes 100000000\n",
        "betcode_relay_clients_max ",
        "betcode_relay_calls_max ",
        "betcode_relay_waiting_bytes_max ",
        "betcode_relay_base_bytes ",
        "betcode_relay_routing_budget_seconds 0.01\n",
        "betcode_relay_tunnel_bytes_total{direction=\"from_daemons\"} 0\n",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_learns_from_its_relay_how_fast_it_routes_and_how_far_it_is() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let mut options = folder.enrolled(&relay, "m-1").await;
    options.probe_interval = std::time::Duration::from_millis(50);
    let figures = options.figures.clone();
    let (_tunnel, _) = daemon(options).await;
    assert!(figures.round_trip.count() > 0);
    assert_eq!(figures.routing(), None, "nothing was routed");
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1"]);
    let caller = client(&relay, &authority, "m-1", Some(&token)).await;
    for _ in 0..20 {
        caller.unary("Unary", Bytes::new()).await.unwrap();
    }
    until("a probe brings it", || {
        figures.routing().is_some_and(|routing| routing.calls == 20)
    })
    .await;
    let routing = figures.routing().unwrap();
    assert!(routing.p50_us > 0 && routing.p50_us <= routing.p99_us);
    assert!(figures.bytes.sent() > 0 && figures.bytes.received() > 0);
}
