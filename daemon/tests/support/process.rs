//! The daemon as a process of its own.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use betcode_schema_grpc::history::history_service_client::HistoryServiceClient;
use betcode_test_support::proc::resident_bytes_of;
use tonic::transport::Channel;

use super::connect;

/// A running `betcode-daemon`; killed when this goes.
pub(crate) struct Process {
    child: Child,
    pub(crate) socket: std::path::PathBuf,
}

pub(crate) fn command(folder: &Path, verb: &str, flags: &[&str]) -> Command {
    let mut command = Command::new(program());
    command
        .arg(verb)
        .arg("--db")
        .arg(folder.join("history.db"))
        .args(flags);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("BETCODE_") {
            command.env_remove(name);
        }
    }
    command
}

/// The daemon's program: beside the tests' own where another crate runs them.
fn program() -> PathBuf {
    let own = option_env!("CARGO_BIN_EXE_betcode-daemon").map(PathBuf::from);
    own.unwrap_or_else(|| {
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(2).unwrap().join("betcode-daemon")
    })
}

impl Process {
    pub(crate) async fn start(folder: &Path, flags: &[&str]) -> Self {
        Self::start_logging(folder, flags, Stdio::null()).await
    }

    /// The same with its log in `log`.
    pub(crate) async fn start_logging(folder: &Path, flags: &[&str], log: Stdio) -> Self {
        Self::run(command(folder, "serve", flags).stderr(log), folder).await
    }

    /// Runs a command that serves the store in `folder`.
    pub(crate) async fn run(command: &mut Command, folder: &Path) -> Self {
        let child = command.spawn().unwrap();
        let socket = betcode_daemon::settings::socket_beside(&folder.join("history.db"));
        let process = Self { child, socket };
        let deadline = Instant::now() + Duration::from_secs(30);
        while connect(&process.socket).await.is_err() {
            assert!(Instant::now() < deadline, "the daemon did not start");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) async fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the daemon did not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn history(&self) -> HistoryServiceClient<Channel> {
        let channel = connect(&self.socket).await.unwrap();
        HistoryServiceClient::new(channel).max_decoding_message_size(32 << 20)
    }

    /// Memory in RAM, bytes: now, and the most it ever was.
    pub(crate) fn resident_bytes(&self) -> (u64, u64) {
        resident_bytes_of(self.pid())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
