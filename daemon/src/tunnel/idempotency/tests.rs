use super::*;
use crate::limits::IDEMPOTENT_PIECE_BYTES;
use bytes::Bytes;
use http_body::{Body as _, Frame};
use http_body_util::StreamBody;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

#[tokio::test]
async fn a_repeat_gets_the_end_of_the_first() {
    let calls = IdempotentCalls::default();
    let Claim::New(done) = calls.claim("k", 1) else {
        panic!()
    };
    let Claim::Duplicate(first) = calls.claim("k", 1) else {
        panic!()
    };
    done.complete(Code::AlreadyExists, "there");
    let status = repeat(first).await;
    assert_eq!(
        (status.code(), status.message()),
        (Code::AlreadyExists, "there")
    );
    assert!(matches!(calls.claim("k", 1), Claim::Duplicate(_)));
    assert!(matches!(calls.claim("k", 2), Claim::KeyReused));
}

#[tokio::test]
async fn what_came_to_nothing_may_be_tried_again() {
    let calls = IdempotentCalls::default();
    for code in [None, Some(Code::Unavailable)] {
        let Claim::New(done) = calls.claim("k", 1) else {
            panic!()
        };
        let Claim::Duplicate(first) = calls.claim("k", 1) else {
            panic!()
        };
        match code {
            Some(code) => done.complete(code, ""),
            None => drop(done),
        }
        assert_eq!(repeat(first).await.code(), Code::Unavailable);
    }
    assert!(matches!(calls.claim("k", 1), Claim::New(_)));
}

/// Answers each request with what is sent to it next.
type Sent = mpsc::Sender<Result<Frame<Bytes>, Status>>;

/// Sends a request of a key; its answer comes from `body`.
async fn ask(
    calls: &IdempotentCalls,
    key: &str,
    body: Option<mpsc::Receiver<Result<Frame<Bytes>, Status>>>,
) -> Code {
    let status = ask_for_status(calls, key, body).await;
    status.map_or(Code::Ok, |status| status.code())
}

async fn ask_for_status(
    calls: &IdempotentCalls,
    key: &str,
    body: Option<mpsc::Receiver<Result<Frame<Bytes>, Status>>>,
) -> Option<Status> {
    let body = std::sync::Mutex::new(body);
    let service = tower::service_fn(move |_: Request<Body>| {
        let body = body.lock().unwrap().take();
        async move {
            match body {
                Some(body) => {
                    let body = Body::new(StreamBody::new(ReceiverStream::new(body)));
                    Ok::<_, Infallible>(Response::new(body))
                }
                None => std::future::pending().await,
            }
        }
    });
    let request = Request::new(Body::empty());
    let answered = calls.answer(key.to_owned(), request, service).await;
    Status::from_header_map(answered.headers())
}

fn in_a_hurry() -> IdempotentCalls {
    let soon = Duration::from_millis(20);
    IdempotentCalls {
        execution_slots: Arc::new(Semaphore::new(1)),
        timeouts: CallTimeouts {
            first_byte: soon,
            whole_response: soon,
        },
        ..IdempotentCalls::default()
    }
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(Duration::from_secs(30), work).await;
    done.expect("it never ends")
}

#[tokio::test]
async fn what_does_not_end_is_given_up_and_may_be_tried_again() {
    let calls = in_a_hurry();
    for round in 0..2 {
        let (sent, body): (Sent, _) = mpsc::channel(1);
        let stream = in_time(ask(&calls, "stream", Some(body))).await;
        assert_eq!(stream, Code::DeadlineExceeded, "{round}");
        in_time(sent.closed()).await;
        let mute = in_time(ask(&calls, "mute", None)).await;
        assert_eq!(mute, Code::DeadlineExceeded, "{round}");
    }
    let (sent, body): (Sent, _) = mpsc::channel(1);
    drop(sent);
    assert_eq!(in_time(ask(&calls, "ends", Some(body))).await, Code::Ok);
}

#[tokio::test]
async fn what_is_given_up_says_for_what_it_waited() {
    let calls = in_a_hurry();
    let (_sent, body): (Sent, _) = mpsc::channel(1);
    for (key, body, expected) in [
        ("stream", Some(body), "its answer was not complete after"),
        ("mute", None, "its answer had not begun after"),
    ] {
        let given_up = in_time(ask_for_status(&calls, key, body)).await.unwrap();
        let message = given_up.message();
        assert!(message.starts_with(expected), "{message}");
    }
}

#[tokio::test]
async fn a_stream_whose_caller_has_left_keeps_nothing_for_ever() {
    let calls = in_a_hurry();
    let (sent, body): (Sent, _) = mpsc::channel(1);
    let asking = ask(&calls, "left", Some(body));
    let left = tokio::time::timeout(Duration::from_millis(1), asking).await;
    assert!(left.is_err());
    in_time(sent.closed()).await;
}

#[tokio::test]
async fn only_so_many_are_carried_out_at_once_and_others_wait_their_turn() {
    let calls = IdempotentCalls {
        execution_slots: Arc::new(Semaphore::new(1)),
        ..IdempotentCalls::default()
    };
    let (first, body): (Sent, _) = mpsc::channel(1);
    let other = calls.clone();
    let slow = tokio::spawn(async move { ask(&other, "slow", Some(body)).await });
    in_time(async {
        while calls.execution_slots.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (sent, body): (Sent, _) = mpsc::channel(1);
    drop(sent);
    let mut next = std::pin::pin!(ask(&calls, "next", Some(body)));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut next).await;
    assert!(early.is_err());
    drop(first);
    assert_eq!(in_time(slow).await.unwrap(), Code::Ok);
    assert_eq!(in_time(next).await, Code::Ok);
}

/// An answer of so many bytes, as the caller gets it.
async fn answer_of(calls: &IdempotentCalls, key: &str, bytes: usize) -> Response<Body> {
    let service = tower::service_fn(move |_: Request<Body>| async move {
        let body = Full::new(Bytes::from(vec![0; bytes]));
        Ok::<_, Infallible>(Response::new(Body::new(body)))
    });
    let request = Request::new(Body::empty());
    calls.answer(key.to_owned(), request, service).await
}

#[tokio::test]
async fn an_error_ends_with_its_head() {
    let calls = IdempotentCalls::default();
    let service = tower::service_fn(|_: Request<Body>| async {
        Ok::<_, Infallible>(
            crate::status::with_reason(Code::NotFound, "NOT_FOUND", "no").into_http::<Body>(),
        )
    });
    let request = Request::new(Body::empty());
    let answered = calls.answer("k".to_owned(), request, service).await;
    assert!(answered.body().is_end_stream());
    let some = answer_of(&calls, "some", 1).await;
    assert!(!some.body().is_end_stream());
}

#[tokio::test]
async fn only_so_many_large_answers_are_there_until_they_are_taken_and_small_ones_pass() {
    let calls = IdempotentCalls::default();
    let mut unread = Vec::new();
    for n in 0..IDEMPOTENT_LARGE_MAX {
        unread.push(answer_of(&calls, &format!("{n}"), 1 << 20).await);
    }
    let mut next = std::pin::pin!(answer_of(&calls, "next", 1 << 20));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut next).await;
    assert!(early.is_err());
    in_time(answer_of(&calls, "small", 1000)).await;
    unread.pop();
    let next = in_time(next).await.into_body().collect().await.unwrap();
    assert_eq!(next.to_bytes().len(), 1 << 20);
}

/// With all slots of large answers taken by some that nobody reads.
async fn unread(calls: &IdempotentCalls) -> Vec<Response<Body>> {
    let mut unread = Vec::new();
    for n in 0..IDEMPOTENT_LARGE_MAX {
        unread.push(in_time(answer_of(calls, &format!("unread {n}"), 1 << 20)).await);
    }
    unread
}

#[tokio::test]
async fn a_large_answer_that_nobody_reads_gives_its_place_away_and_says_so() {
    let mut calls = IdempotentCalls::default();
    calls.large.timeouts.unread = Duration::from_millis(50);
    let mut unread = unread(&calls).await;
    let next = in_time(answer_of(&calls, "next", 1 << 20)).await;
    assert_eq!(
        Status::from_header_map(next.headers()).map(|s| s.code()),
        None
    );
    let given_up = unread.remove(0).into_body();
    let given_up = in_time(given_up.collect()).await.unwrap();
    let told = given_up.trailers().and_then(Status::from_header_map);
    assert_eq!(told.unwrap().code(), Code::DeadlineExceeded);
    assert!(given_up.to_bytes().is_empty());
}

#[tokio::test]
async fn what_waits_for_a_place_lets_small_answers_pass() {
    let mut calls = IdempotentCalls {
        execution_slots: Arc::new(Semaphore::new(1)),
        ..IdempotentCalls::default()
    };
    calls.large.timeouts.unread = Duration::from_secs(600);
    let _unread = unread(&calls).await;
    let mut waits = std::pin::pin!(answer_of(&calls, "waits", 1 << 20));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut waits).await;
    assert!(early.is_err());
    in_time(answer_of(&calls, "small", 1000)).await;
}

#[tokio::test]
async fn what_waits_for_a_place_in_vain_is_told_what_it_waited_for() {
    let mut calls = IdempotentCalls::default();
    calls.large.timeouts.slot = Duration::from_millis(1);
    let _unread = unread(&calls).await;
    let told = in_time(answer_of(&calls, "waits", 1 << 20)).await;
    let told = Status::from_header_map(told.headers()).unwrap();
    assert_eq!(told.code(), Code::ResourceExhausted);
    assert!(told.message().contains("large_answers: 4 of 4"), "{told}");
}

#[tokio::test]
async fn a_large_answer_goes_out_in_small_pieces() {
    let mut body = answer_of(&IdempotentCalls::default(), "k", 1 << 20)
        .await
        .into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap();
        assert!(data.len() <= IDEMPOTENT_PIECE_BYTES);
        bytes += data.len();
    }
    assert_eq!(bytes, 1 << 20);
}

#[tokio::test]
async fn an_answer_that_is_too_large_says_what_to_do() {
    let told = answer_of(
        &IdempotentCalls::default(),
        "k",
        IDEMPOTENT_ANSWER_BYTES_MAX + 1,
    )
    .await;
    let told = Status::from_header_map(told.headers()).unwrap();
    assert_eq!(told.code(), Code::OutOfRange);
    assert!(told.message().contains("call without"), "{told}");
}

#[test]
fn a_request_under_way_is_not_forgotten_however_many_end_meanwhile() {
    let calls = IdempotentCalls::default();
    let Claim::New(slow) = calls.claim("slow", 1) else {
        panic!()
    };
    for key in 0..IDEMPOTENCY_KEYS_MAX + 10 {
        if let Claim::New(done) = calls.claim(&key.to_string(), 1) {
            done.complete(Code::Ok, "");
        }
    }
    assert!(matches!(calls.claim("slow", 1), Claim::Duplicate(_)));
    slow.complete(Code::Ok, "");
    assert!(matches!(calls.claim("slow", 1), Claim::Duplicate(_)));
}

#[test]
fn keys_are_bounded() {
    let calls = IdempotentCalls::default();
    for key in 0..IDEMPOTENCY_KEYS_MAX + 10 {
        if let Claim::New(done) = calls.claim(&key.to_string(), 1) {
            done.complete(Code::Ok, "");
        }
    }
    assert_eq!(calls.lock().by_key.len(), IDEMPOTENCY_KEYS_MAX);
}
