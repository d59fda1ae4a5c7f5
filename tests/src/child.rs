//! Child processes: the tests' own `worker`, killed at a moment of the test's choosing.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// A running `worker`. It is killed when the handle goes, so that no test leaves one behind.
pub struct Worker {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Taken by whoever reads it to the end.
    stdout: Option<BufReader<ChildStdout>>,
}

/// Builds the arguments of a `worker`: a role, then `key=value`.
#[derive(Debug)]
pub struct Role {
    command: Command,
}

impl Role {
    /// The worker at `program` (`env!("CARGO_BIN_EXE_worker")`), in `role`, on the store at `db`.
    #[must_use]
    pub fn new(program: &str, role: &str, db: &Path) -> Self {
        let mut command = Command::new(program);
        command.arg(role).arg(db);
        Self { command }
    }

    /// Sets a parameter of the role.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        let mut argument = std::ffi::OsString::from(key);
        argument.push("=");
        argument.push(value);
        self.command.arg(argument);
        self
    }

    /// Starts it.
    #[must_use]
    pub fn start(mut self) -> Worker {
        let mut child = self
            .command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().map(BufReader::new);
        Worker {
            child,
            stdin,
            stdout,
        }
    }
}

impl Worker {
    /// SIGKILL: no handler, no destructor, no goodbye.
    pub fn kill(&mut self) {
        // Fails only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints; `None` when it has ended.
    pub fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.stdout.as_mut()?.read_line(&mut line).unwrap();
        (read > 0).then(|| line.trim_end().to_owned())
    }

    /// Gives it a line of input.
    ///
    /// # Panics
    /// When it has ended.
    pub fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Lets it end what it is at (it ends when its input does), and waits for that.
    ///
    /// # Panics
    /// When it takes longer than `wait_max`.
    pub fn finish(mut self, wait_max: Duration) -> (ExitStatus, Vec<String>) {
        drop(self.stdin.take());
        let deadline = Instant::now() + wait_max;
        // Its output fits the pipe or is read here; a worker that hangs is killed by the drop.
        let stdout = self.stdout.take().unwrap();
        let reader =
            std::thread::spawn(move || stdout.lines().map_while(Result::ok).collect::<Vec<_>>());
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(
                Instant::now() < deadline,
                "worker {} did not end within {wait_max:?}",
                self.child.id()
            );
            std::thread::sleep(Duration::from_millis(5));
        };
        (status, reader.join().unwrap())
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}
