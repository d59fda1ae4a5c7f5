//! What programs decide by: the details of the relay's own statuses.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::harness::{Client, Relay, RelayOptions};
use super::program::{Folder, Running, client, daemon};
use super::waiting;

const DOMAIN: &str = "betcode.relay";

/// The reason, what to try, and after how long a retry is worth it.
fn details_of(status: &Status) -> (String, Option<String>, Option<Duration>) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{status:?}"));
    assert_eq!(info.domain, DOMAIN, "{status:?}");
    let retry = details.retry_info().and_then(|retry| retry.retry_delay);
    let hint = info.metadata.get("try").cloned();
    if let Some(hint) = &hint {
        assert!(status.message().ends_with(hint.as_str()), "{status:?}");
    }
    (info.reason.clone(), hint, retry)
}

async fn refused(client: &Client, method: &str) -> Status {
    client.unary(method, Bytes::new()).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_token_is_told_apart() {
    let folder = Folder::init();
    let relay = Running::start(&folder, (0, 0), &[]);
    let authority = folder.file("authority.pem");
    let short = folder.short_token("cat", "m-1");
    let stolen = folder.issued("m-1");
    let stolen = stolen["token"].as_str().unwrap();
    folder.run(&["token", "revoke", stolen]);
    let other = folder.token("ann", &["m-2"]);
    // Until the one is in force and the other has expired, clocks that differ included.
    tokio::time::sleep(Duration::from_millis(7_500)).await;
    for (token, code, reason) in [
        (None, Code::Unauthenticated, "TOKEN_MISSING"),
        (Some("nonsense"), Code::Unauthenticated, "TOKEN_INVALID"),
        (Some(short.as_str()), Code::Unauthenticated, "TOKEN_EXPIRED"),
        (Some(stolen), Code::Unauthenticated, "TOKEN_REVOKED"),
        (
            Some(other.as_str()),
            Code::PermissionDenied,
            "MACHINE_NOT_ALLOWED",
        ),
    ] {
        let caller = client(&relay, &authority, "m-1", token).await;
        let status = refused(&caller, "Unary").await;
        assert_eq!(status.code(), code, "{status:?}");
        let (told, hint, retry) = details_of(&status);
        assert_eq!((told.as_str(), retry), (reason, None), "{status:?}");
        assert!(hint.is_some(), "{status:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_that_is_away_and_a_tunnel_that_breaks_are_told_apart() {
    let relay = Relay::start(RelayOptions::default()).await;
    let caller = relay.client("m-1").await;
    let status = refused(&caller, "Unary").await;
    assert_eq!(status.code(), Code::Unavailable);
    let (reason, hint, retry) = details_of(&status);
    assert_eq!(reason, "NO_TUNNEL");
    assert!(hint.is_some() && retry.is_some(), "{status:?}");

    let (_tunnel, _) = relay.daemon("m-1").await;
    let open = caller.stream("HangOpen", tokio_stream::pending()).await;
    let mut open = open.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    relay.table.find(&"m-1".parse().unwrap()).unwrap().cut();
    let status = open.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let (reason, _, retry) = details_of(&status);
    assert_eq!(reason, "TUNNEL_BROKE");
    assert!(retry.is_some(), "{status:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_wait_and_refused_ones_have_their_reasons() {
    let relay = Relay::start(RelayOptions {
        message_bytes_max: 1_000,
        calls_max: 1,
        ..RelayOptions::default()
    })
    .await;
    let caller = relay.client("m-1").await;
    let asked = |key: &str, body: &[u8]| waiting::request(key, None, body);
    let status = caller.unary("Record", asked("a", b"one")).await;
    let (reason, _, retry) = details_of(&status.unwrap_err());
    assert_eq!((reason.as_str(), retry), ("BUFFERED", None));
    let status = caller.unary("Record", asked("a", b"other")).await;
    assert_eq!(details_of(&status.unwrap_err()).0, "CONFLICT");
    let mut no_key = Request::new(Bytes::new());
    let metadata = no_key.metadata_mut();
    metadata.insert("x-betcode-may-wait", "true".parse().unwrap());
    let status = caller.unary("Record", no_key).await.unwrap_err();
    assert_eq!(details_of(&status).0, "INVALID");
    let details = status.get_error_details();
    let field = &details.bad_request().unwrap().field_violations[0].field;
    assert_eq!(field, "x-betcode-idempotency-key");

    let (_tunnel, _) = relay.daemon("m-1").await;
    let long = Bytes::from(vec![b'x'; 1_001]);
    let status = caller.unary("Unary", long).await.unwrap_err();
    assert_eq!(details_of(&status).0, "TOO_LARGE");
    let held = caller.many(1_000_000, 1, 1_000).await.unwrap();
    let status = refused(&caller, "Unary").await;
    let (reason, _, retry) = details_of(&status);
    assert_eq!(reason, "OVERLOADED");
    assert!(retry.is_some());
    let details = status.get_error_details();
    let subject = &details.quota_failure().unwrap().violations[0].subject;
    assert_eq!(subject, "calls_max");
    drop(held);
    let nameless = Client::connect(relay.clients, None).await;
    assert_eq!(details_of(&refused(&nameless, "Unary").await).0, "INVALID");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_says_nothing_does_not_hold_up_the_relays_stop() {
    let folder = Folder::init();
    let mut relay = Running::start(&folder, (0, 0), &[]);
    let options = folder.enrolled(&relay, "m-1").await;
    let (_tunnel, _) = daemon(options).await;
    let authority = folder.file("authority.pem");
    let token = folder.token("ann", &["m-1"]);
    let caller = client(&relay, &authority, "m-1", Some(&token)).await;
    let open = caller.stream("HangOpen", tokio_stream::pending()).await;
    let mut open = open.unwrap().into_inner();
    open.message().await.unwrap().unwrap();
    let told = std::time::Instant::now();
    relay.signal("TERM");
    let status = open.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let (reason, _, retry) = details_of(&status);
    assert_eq!(reason, "DRAINING");
    assert!(retry.is_some(), "{status:?}");
    let ended = tokio::task::spawn_blocking(move || relay.wait()).await;
    assert!(ended.unwrap().success());
    let took = told.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
}
