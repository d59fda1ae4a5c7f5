//! `HistoryService` over a real socket: append, read, sessions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use std::time::Duration;

use betcode_daemon::limits::WARM_REPLAYS_MAX;
use betcode_schema_grpc::history::{
    AppendRequest, DeleteSessionRequest, GetSessionRequest, ListSessionsRequest, ReadRequest,
    RenameSessionRequest, SessionMeta,
};
use betcode_schema_grpc::v1;
use betcode_schema_grpc::v1::agent_service_client::AgentServiceClient;
use bytes::Bytes;
use support::{Appender, batch, read_all, serve, within};
use tonic::Code;

#[tokio::test]
async fn appended_bytes_come_back_as_they_were() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    let lines: Vec<Bytes> = vec![
        Bytes::from_static(b"{\"type\":\"user\"}"),
        Bytes::new(),
        Bytes::from_static(b"\xff\x00 not utf-8"),
        Bytes::from(vec![b'x'; 3 << 20]),
    ];
    let request = AppendRequest {
        request_id: 42,
        session_id: "s".into(),
        payloads: lines.clone(),
        meta: Some(SessionMeta {
            name: "n".into(),
            model: "m".into(),
            ..SessionMeta::default()
        }),
        ..AppendRequest::default()
    };
    let done = appender.send(request).await.unwrap();
    assert_eq!(
        (done.first_sequence, done.last_sequence, done.duplicates),
        (1, 4, 0)
    );
    let read = read_all(&mut client, "s", 0).await.unwrap();
    assert_eq!(read, (1..).zip(lines).collect::<Vec<_>>());
    assert_eq!(read_all(&mut client, "s", 4).await.unwrap().len(), 1);
    assert!(read_all(&mut client, "s", 5).await.unwrap().is_empty());
    assert_eq!(
        read_all(&mut client, "s", 6).await.unwrap_err().code(),
        Code::OutOfRange
    );
    let get = GetSessionRequest {
        session_id: "s".into(),
    };
    let session = client
        .get_session(get)
        .await
        .unwrap()
        .into_inner()
        .session
        .unwrap();
    assert_eq!(
        (session.messages, session.meta.unwrap().model.as_str()),
        (4, "m")
    );
}

#[tokio::test]
async fn a_retry_is_recognised_and_other_bytes_are_refused() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    let expecting = |at, lines: &[&str]| AppendRequest {
        expected_sequence: Some(at),
        ..batch("s", lines)
    };
    appender.send(expecting(1, &["a", "b"])).await.unwrap();
    let again = appender.send(expecting(1, &["a", "b", "c"])).await.unwrap();
    assert_eq!((again.last_sequence, again.duplicates), (3, 2));
    let other = appender.send(expecting(3, &["x"])).await.unwrap_err();
    assert_eq!(
        (other.code, other.next_sequence),
        (Code::AlreadyExists.into(), 4)
    );
    assert_eq!(other.reason, "CONFLICT");
    // The stream goes on.
    appender.send(expecting(4, &["d"])).await.unwrap();
    assert_eq!(read_all(&mut client, "s", 1).await.unwrap().len(), 4);
}

#[tokio::test]
async fn batches_sent_ahead_are_answered_in_order() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    for at in 1..=500u64 {
        let expected_sequence = (at % 2 == 0).then_some(at);
        let request = AppendRequest {
            request_id: at,
            expected_sequence,
            ..batch("s", &[&format!("line {at}")])
        };
        appender.requests.send(request).await.unwrap();
    }
    for at in 1..=500 {
        assert_eq!(within(appender.answer()).await.unwrap().first_sequence, at);
    }
}

#[tokio::test]
async fn a_refused_batch_lets_none_take_its_place() {
    let served = serve(&[("max_payload_bytes", "10")]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    appender.send(batch("s", &["one"])).await.unwrap();
    let big = appender
        .send(batch("s", &["longer than ten bytes"]))
        .await
        .unwrap_err();
    assert_eq!(big.code, i32::from(Code::InvalidArgument));
    let next = appender.send(batch("s", &["two"])).await.unwrap_err();
    assert_eq!(next.code, i32::from(Code::Aborted));
    // Other sessions, and a new stream, go on.
    appender.send(batch("t", &["one"])).await.unwrap();
    let mut again = Appender::open(&mut client).await;
    assert_eq!(
        again
            .send(batch("s", &["two"]))
            .await
            .unwrap()
            .first_sequence,
        2
    );
}

#[tokio::test]
async fn bad_batches_are_refused_and_the_stream_goes_on() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    for (request, what) in [
        (batch("../../etc/passwd", &["x"]), "list the sessions"),
        (batch("", &["x"]), "list the sessions"),
        (batch("s", &[]), "at least one"),
        (
            AppendRequest {
                expected_sequence: Some(0),
                ..batch("s", &["x"])
            },
            "begin at 1",
        ),
    ] {
        let refused = within(appender.send(request)).await.unwrap_err();
        assert_eq!(
            refused.code,
            i32::from(Code::InvalidArgument),
            "{}",
            refused.message
        );
        assert!(refused.message.contains(what), "{}", refused.message);
    }
    let ahead = AppendRequest {
        expected_sequence: Some(9),
        ..batch("t", &["x"])
    };
    let refused = appender.send(ahead).await.unwrap_err();
    assert_eq!(
        (refused.reason.as_str(), refused.next_sequence),
        ("CONFLICT", 1)
    );
    appender.send(batch("t", &["fine"])).await.unwrap();
}

#[tokio::test]
async fn sessions_are_listed_renamed_and_deleted() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    for at in 0..5 {
        let meta = SessionMeta {
            working_directory: format!("/w/{}", at % 2),
            ..SessionMeta::default()
        };
        let request = AppendRequest {
            meta: Some(meta),
            ..batch(&format!("s{at}"), &["x"])
        };
        appender.send(request).await.unwrap();
    }
    let list = ListSessionsRequest {
        working_directory: "/w/0".into(),
        limit: 2,
        ..ListSessionsRequest::default()
    };
    let page = client.list_sessions(list).await.unwrap().into_inner();
    assert_eq!((page.sessions.len(), page.total), (2, 3));
    let rename = |id: &str| RenameSessionRequest {
        session_id: id.into(),
        name: "new".into(),
    };
    client.rename_session(rename("s1")).await.unwrap();
    assert_eq!(
        client
            .rename_session(rename("nope"))
            .await
            .unwrap_err()
            .code(),
        Code::NotFound
    );
    let delete = |id: &str| DeleteSessionRequest {
        session_id: id.into(),
    };
    assert!(
        client
            .delete_session(delete("s1"))
            .await
            .unwrap()
            .into_inner()
            .deleted
    );
    assert!(
        !client
            .delete_session(delete("s1"))
            .await
            .unwrap()
            .into_inner()
            .deleted
    );
    assert_eq!(
        read_all(&mut client, "s1", 1).await.unwrap_err().code(),
        Code::NotFound
    );
}

#[tokio::test]
async fn a_session_made_anew_while_it_is_read_does_not_end_the_reading_as_if_it_were_whole() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    let line = "of the session that goes ".repeat(20_000);
    for _ in 0..60 {
        appender.send(batch("s", &[&line])).await.unwrap();
    }
    let read = ReadRequest {
        session_id: "s".into(),
        ..ReadRequest::default()
    };
    let mut answers = client.read(read).await.unwrap().into_inner();
    within(answers.message()).await.unwrap().unwrap();
    // The client is slow, its place goes to others, and its session goes as well.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let delete = DeleteSessionRequest {
        session_id: "s".into(),
    };
    client.delete_session(delete).await.unwrap();
    appender.send(batch("s", &["of another"])).await.unwrap();
    let ended = loop {
        match within(answers.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the reading ended as if it were whole"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::NotFound, "{ended}");
}

#[tokio::test]
async fn a_read_does_not_go_on_in_another_session_of_the_same_name() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let old = "o".repeat(50_000);
    let new = "n".repeat(50_000);
    let mut appender = Appender::open(&mut client).await;
    for _ in 0..100 {
        appender.send(batch("s", &[&old])).await.unwrap();
    }
    // More than goes out without being read.
    let mut slow = served.history().await;
    let request = ReadRequest {
        session_id: "s".into(),
        from_sequence: 1,
        ..ReadRequest::default()
    };
    let mut answers = slow.read(request).await.unwrap().into_inner();
    within(answers.message()).await.unwrap().unwrap();
    let delete = DeleteSessionRequest {
        session_id: "s".into(),
    };
    client.delete_session(delete).await.unwrap();
    for _ in 0..100 {
        appender.send(batch("s", &[&new])).await.unwrap();
    }
    let status = loop {
        match within(answers.message()).await {
            Ok(answer) => {
                let messages = answer
                    .expect("it is said that the session is gone")
                    .messages;
                assert!(messages.iter().all(|m| m.payload.starts_with(b"o")));
            }
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn replays_that_rest_to_keep_their_pace_keep_no_other_from_its_turn() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    // Several pages: a replay has more to read when it has answered.
    for _ in 0..4 {
        let payloads = vec![Bytes::from(vec![b'x'; 100_000]); 20];
        let request = AppendRequest {
            payloads,
            ..batch("s", &[])
        };
        appender.send(request).await.unwrap();
    }
    let mut resting = Vec::new();
    for _ in 0..WARM_REPLAYS_MAX {
        let read = ReadRequest {
            session_id: "s".into(),
            bytes_per_second_max: 1,
            ..ReadRequest::default()
        };
        let mut answers = client.read(read).await.unwrap().into_inner();
        within(answers.message()).await.unwrap().unwrap();
        resting.push(answers);
    }
    let all = within(read_all(&mut client, "s", 1)).await.unwrap();
    assert_eq!(all.len(), 80);
}

#[tokio::test]
async fn a_session_whose_row_is_damaged_is_named_and_each_page_tells_the_same_total() {
    let served = serve(&[]).await;
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    for session in ["a", "b", "c"] {
        appender.send(batch(session, &["x"])).await.unwrap();
    }
    let store = rusqlite::Connection::open(&served.settings.db).unwrap();
    let lie = "UPDATE sessions SET raw_bytes = -1 WHERE session_id = 'b'";
    store.execute(lie, ()).unwrap();
    let mut damaged = Vec::new();
    for offset in 0..3 {
        let page = ListSessionsRequest {
            limit: 1,
            offset,
            ..ListSessionsRequest::default()
        };
        let page = client.list_sessions(page).await.unwrap().into_inner();
        assert_eq!(
            (page.sessions.len() + page.damaged.len(), page.total),
            (1, 3)
        );
        damaged.extend(page.damaged.into_iter().map(|session| session.session_id));
    }
    assert_eq!(damaged, ["b"]);
    let mut older = AgentServiceClient::new(served.channel().await);
    for limit in [0, 1] {
        let list = v1::ListSessionsRequest {
            limit,
            ..v1::ListSessionsRequest::default()
        };
        let list = older.list_sessions(list).await.unwrap().into_inner();
        assert_eq!(list.total, 3);
    }
}
