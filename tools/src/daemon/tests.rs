use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Duration;

use betcode_schema_grpc::history::RenameSessionRequest;
use betcode_schema_grpc::locate::{Holder, lock_path, write_holder};
use betcode_storage::SessionId;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tonic::Status;

use super::Daemon;
use crate::error::Exit;

/// Longer than any test waits for an answer.
const NEVER: Duration = Duration::from_secs(600);

/// A daemon that accepts every call, reports it, and answers it after `after` with "not found".
struct SlowDaemon {
    folder: TempDir,
    calls: mpsc::Receiver<()>,
    _lock: File,
}

impl SlowDaemon {
    fn start(after: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("grpc.sock");
        let (call, calls) = mpsc::channel();
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(serve(listener, after, call)).unwrap();
        });
        let mut lock = File::create(lock_path(&folder.path().join("h.db"))).unwrap();
        lock.lock().unwrap();
        write_holder(&mut lock, &Holder { pid: 4242, socket }).unwrap();
        Self {
            folder,
            calls,
            _lock: lock,
        }
    }

    fn connect(&self) -> Daemon {
        let db = self.folder.path().join("h.db");
        Daemon::find(&db).unwrap().unwrap()
    }
}

async fn serve(
    listener: std::os::unix::net::UnixListener,
    after: Duration,
    call: mpsc::Sender<()>,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::UnixListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let call = call.clone();
        let service = service_fn(move |_| {
            let _ = call.send(());
            async move {
                tokio::time::sleep(after).await;
                let answer = Status::not_found("there is no such session");
                Ok::<_, hyper::Error>(answer.into_http::<tonic::body::Body>())
            }
        });
        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(connection);
    }
}

fn session() -> SessionId {
    SessionId::new("a-session").unwrap()
}

#[test]
fn a_deletion_that_takes_long_is_not_called_a_daemon_that_cannot_be_reached() {
    let server = SlowDaemon::start(NEVER);
    let daemon = server.connect();
    let wait = Duration::from_millis(200);
    let failure = daemon
        .delete_within(wait, &session(), &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    server.calls.try_recv().expect("the call was accepted");
    assert_eq!(failure.exit, Exit::Busy);
    let text = failure.to_json().to_string();
    assert!(
        text.contains("still deleting session a-session") && text.contains("goes on by itself"),
        "{text}"
    );
    assert!(
        !text.contains("kill") && !text.contains("reached"),
        "{text}"
    );
}

#[test]
fn a_wait_for_a_deletion_ends_when_the_user_wants_to_stop_and_says_that_it_goes_on() {
    let server = SlowDaemon::start(NEVER);
    let daemon = server.connect();
    let mut looks = 0;
    let failure = daemon
        .delete_within(NEVER, &session(), &mut |_| {
            looks += 1;
            match looks {
                0..3 => ControlFlow::Continue(()),
                _ => ControlFlow::Break(()),
            }
        })
        .unwrap_err();
    assert_eq!(failure.exit, Exit::Interrupted);
    let text = failure.to_json().to_string();
    assert!(text.contains("goes on by itself"), "{text}");
}

#[test]
fn a_call_that_was_accepted_and_is_not_answered_in_time_is_reported_as_such() {
    let server = SlowDaemon::start(NEVER);
    let daemon = server.connect();
    let mut client = daemon.history();
    let failure = daemon
        .answer_within(
            Duration::from_millis(200),
            client.rename_session(RenameSessionRequest::default()),
        )
        .unwrap_err();
    assert_eq!(failure.exit, Exit::Busy);
    let text = failure.to_json().to_string();
    assert!(text.contains("4242") && text.contains("200ms"), "{text}");
    assert!(!text.contains("cannot be reached"), "{text}");
}

#[test]
fn a_daemon_that_is_restarted_again_and_again_is_waited_for_once() {
    let folder = tempfile::tempdir().unwrap();
    let db = folder.path().join("h.db");
    let mut lock = File::create(lock_path(&db)).unwrap();
    lock.lock().unwrap();
    let no_socket = folder.path().join("no.sock");
    let (ended, tool_ended) = mpsc::channel();
    let tool = std::thread::spawn(move || {
        let found = Daemon::find_within(&db, Duration::from_millis(500));
        let _ = ended.send(());
        found.map(|daemon| daemon.is_some())
    });
    // Each look at the store finds another process that does not listen.
    let mut is_over = Err(mpsc::RecvTimeoutError::Timeout);
    for pid in 1..2_000 {
        let socket = no_socket.clone();
        write_holder(&mut lock, &Holder { pid, socket }).unwrap();
        is_over = tool_ended.recv_timeout(Duration::from_millis(5));
        if is_over.is_ok() {
            break;
        }
    }
    assert!(is_over.is_ok(), "it still waits");
    assert_eq!(tool.join().unwrap().unwrap_err().exit, Exit::Busy);
}

#[test]
fn an_answer_that_comes_in_time_is_the_answer() {
    let server = SlowDaemon::start(Duration::from_millis(200));
    let daemon = server.connect();
    let failure = daemon
        .delete(&session(), &mut |_| ControlFlow::Continue(()))
        .unwrap_err();
    assert_eq!(failure.exit, Exit::NotFound);
}
