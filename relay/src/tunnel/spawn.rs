//! How HTTP/2's tasks of a tunnel are spawned, so that the sending of a request ends with its call.
//!
//! hyper sends a request's body in a task of its own. While the daemon's window is closed, that task waits for the
//! window only. It does not poll the body, so it does not learn that the call is over, and the daemon would keep a
//! call whose client has left. So the task is dropped when the call is over, which resets the stream.

use std::cell::RefCell;

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;

thread_local! {
    /// The end of the call whose body was polled for the first time just now.
    static CALL_OVER: RefCell<Option<CancellationToken>> = const { RefCell::new(None) };
}

/// To be called when a body is polled for the first time, with the token that is cancelled when its call is over.
///
/// hyper polls a body first on the thread on which it then spawns the task that sends the rest, immediately before
/// that (`hyper::proto::h2::client`, `ClientTask::poll_pipe`, in hyper 1.12). So the next task that is spawned on
/// this thread is the one of this call. If a later hyper does it otherwise, the test
/// `a_client_that_goes_while_its_request_stands_still_leaves_nothing_at_the_daemon` fails.
pub(crate) fn register_body_start(call_over: &CancellationToken) {
    CALL_OVER.replace(Some(call_over.clone()));
}

/// Spawns on Tokio.
#[derive(Debug, Clone, Copy)]
pub(super) struct TunnelExecutor;

impl<F> Executor<F> for TunnelExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        match CALL_OVER.take() {
            Some(call_over) => tokio::spawn(async move {
                tokio::select! {
                    () = task => {}
                    () = call_over.cancelled() => {}
                }
            }),
            None => tokio::spawn(task),
        };
    }
}
