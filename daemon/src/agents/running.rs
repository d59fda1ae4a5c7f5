//! A running agent: started, with tasks for its pipes, until all that it printed is on disk.

use std::sync::{Arc, Mutex};
use std::time::Instant;

use bytes::Bytes;
use rustix::process::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::command::{self, Options};
use super::conversation::{Exit, InputKind};
use super::inbox::Command;
use super::process::{self, Group, Started};
use super::recorder::Recorder;
use super::refusal::Refusal;
use crate::admission::LimitGuard;
use crate::limits::{AGENT_END_MS_MAX, OUTPUT_REST_MS};
use crate::observe::ms;

/// A line for an agent.
#[derive(Debug)]
pub(crate) struct InputLine {
    pub(crate) line: Bytes,
    pub(crate) what: InputKind,
    /// Of an answer: when what it answers with was heard.
    pub(crate) heard: Option<Instant>,
}

/// A running agent, as its conversation holds it.
#[derive(Debug)]
pub(crate) struct Running {
    group: Group,
    /// `None` once its input is closed.
    input: Option<mpsc::UnboundedSender<InputLine>>,
    _place: LimitGuard,
}

impl Running {
    /// Starts the agent of a session.
    ///
    /// # Errors
    /// A limit, a directory or an executable that is not there, the system's refusal.
    pub(crate) async fn start(
        recorder: Recorder,
        options: &Options,
        agent_session_id: &str,
    ) -> Result<Self, Refusal> {
        let core = Arc::clone(&recorder.core);
        let refused = |status: &tonic::Status| Refusal::from_status(status);
        core.admission.memory.check().map_err(|s| refused(&s))?;
        let place = core.admission.subprocesses.acquire(1);
        let _place = place.map_err(|s| refused(&s))?;
        let admitted = core.admission.admit_session(&recorder.session);
        admitted.map_err(|s| refused(&s))?.recorded();
        let folder = options.working_directory.as_path();
        let settings = &core.settings;
        let executable = {
            let (folder, command) = (folder.to_owned(), settings.agent_command.clone());
            let find = move || {
                command::working_directory(&folder).map_err(|why| {
                    let message = format!(
                        "the agent cannot work in {why}; make it, or start a session elsewhere"
                    );
                    Refusal::new("WORKING_DIRECTORY", message)
                })?;
                command::executable(&command)
            };
            let found = core.blocking.files(find).await;
            found.map_err(|status| refused(&status))??
        };
        let arguments = command::arguments(&settings.agent_arguments, options, agent_session_id);
        let started = process::start(&executable, &arguments, folder).map_err(|error| {
            let message = format!("start the agent {}: {error}", executable.display());
            Refusal::new("AGENT_NOT_STARTED", message)
        })?;
        tracing::info!(session = %recorder.session, pid = started.child.id(), "agent started");
        let (input, lines) = mpsc::unbounded_channel();
        let group = started.group.clone();
        tokio::spawn(supervise(recorder, started, lines));
        Ok(Self {
            group,
            input: Some(input),
            _place,
        })
    }

    /// Records a line, then writes it to the agent; whether it is there to get it.
    pub(crate) fn write(&self, line: InputLine) -> bool {
        // Unbounded, and holds little: one prompt, and answers to open requests.
        let input = self.input.as_ref();
        input.is_some_and(|input| input.send(line).is_ok())
    }

    /// Closes its input, once it has all that was written.
    pub(crate) fn end_input(&mut self) {
        self.input = None;
    }

    /// Sends its group a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.group.signal(signal);
    }
}

impl Drop for Running {
    /// An agent does not outlive its conversation, should that end by a panic.
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// Supervises a process until all that it printed is on disk, then reports how it ended.
async fn supervise(
    recorder: Recorder,
    started: Started,
    lines: mpsc::UnboundedReceiver<InputLine>,
) {
    let Started {
        mut child,
        group,
        stdin,
        stdout,
        stderr,
    } = started;
    let (inbox, session) = (recorder.inbox.clone(), recorder.session.clone());
    let (tell_ended, is_ended) = oneshot::channel();
    let mut output = tokio::spawn(recorder.clone().output(stdout, is_ended));
    let exited = CancellationToken::new();
    let input = tokio::spawn(recorder.input(stdin, lines, exited.clone()));
    let tail = Arc::new(Mutex::default());
    let mut stderr = tokio::spawn(process::tail(stderr, Arc::clone(&tail)));
    let mut recorded = None;
    let status = tokio::select! {
        status = process::ended(&mut child, &group) => status,
        () = outlived(&mut output, &mut recorded) => {
            // It has closed its output and still runs: no more lines can come.
            group.signal(Signal::KILL);
            process::ended(&mut child, &group).await
        }
    };
    // A child that inherited its input must not receive what is meant for the agent.
    exited.cancel();
    // A line that is being recorded is recorded, and reported before the end is.
    let _ = input.await;
    let _ = tell_ended.send(());
    let recorded = match recorded {
        Some(recorded) => recorded,
        None => output.await,
    };
    if let Err(error) = recorded {
        tracing::error!(%error, %session, "recording an agent's lines ended by a panic");
    }
    // A process that left its group may hold the pipe open: clients get what came until now.
    let _ = timeout(ms(OUTPUT_REST_MS), &mut stderr).await;
    stderr.abort();
    let exit = Exit {
        success: status.as_ref().is_ok_and(std::process::ExitStatus::success),
        how: status.map_or_else(|error| error.to_string(), |status| status.to_string()),
        stderr: process::lines_of(&tail),
    };
    tracing::info!(%session, how = exit.how, "agent ended");
    let _ = inbox.send(Command::Exited(exit)).await;
}

/// Returns when the process has had time to end after its output did. The result of recording is in `recorded` as
/// soon as it is known.
async fn outlived(output: &mut JoinHandle<()>, recorded: &mut Option<Result<(), JoinError>>) {
    *recorded = Some(output.await);
    sleep(ms(AGENT_END_MS_MAX)).await;
}
