//! How HTTP/2's tasks of a tunnel are spawned, so that the sending of a request ends with its call.
//!
//! hyper sends a request's body in a task of its own. While the daemon's window is closed, that task
//! waits for the window and nothing else: it does not ask the body, and so does not learn that the
//! call is over, and the daemon keeps a call that nobody is behind. So the task is dropped then,
//! which resets the stream.

use std::cell::RefCell;

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;

thread_local! {
    /// The end of the call whose body was asked for the first time just now.
    static BEGUN: RefCell<Option<CancellationToken>> = const { RefCell::new(None) };
}

/// Says that a body is asked for the first time. hyper does that itself, on the same thread and
/// immediately before it hands over the task that sends the rest: `hyper::proto::h2::client`,
/// `ClientTask::poll_pipe`, in hyper 1.12. If a later hyper does it otherwise, the test
/// `a_client_that_goes_while_its_request_stands_still_leaves_nothing_at_the_daemon` fails.
pub(crate) fn register_body_start(over: &CancellationToken) {
    BEGUN.replace(Some(over.clone()));
}

/// Spawns on Tokio.
#[derive(Debug, Clone, Copy)]
pub(super) struct TunnelExecutor;

impl<F> Executor<F> for TunnelExecutor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        match BEGUN.take() {
            Some(over) => tokio::spawn(async move {
                tokio::select! {
                    () = task => {}
                    () = over.cancelled() => {}
                }
            }),
            None => tokio::spawn(task),
        };
    }
}
