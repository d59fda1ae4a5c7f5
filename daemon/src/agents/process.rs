//! An agent's process: started in a group of its own, ended with it.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use betcode_service::sync::lock;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::limits::{STDERR_LINE_BYTES_MAX, STDERR_LINES_MAX};

/// Signals for a running agent and what it started. A terminal sends them the same way.
#[derive(Debug, Clone)]
pub(crate) struct Group {
    pid: Option<Pid>,
    alive: Arc<AtomicBool>,
}

impl Group {
    /// Sends a signal to all of the group; nothing once the agent has been waited for.
    pub(crate) fn signal(&self, signal: Signal) {
        if let (Some(pid), true) = (self.pid, self.alive.load(Ordering::Acquire)) {
            // It fails when the group is gone, which is as good.
            let _ = kill_process_group(pid, signal);
        }
    }
}

/// A process and its pipes.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) child: Child,
    pub(crate) group: Group,
    pub(crate) stdin: ChildStdin,
    pub(crate) stdout: ChildStdout,
    pub(crate) stderr: ChildStderr,
}

/// Starts an agent in a process group of its own.
///
/// # Errors
/// Those of the system.
pub(crate) fn start(
    executable: &Path,
    arguments: &[OsString],
    folder: &Path,
) -> io::Result<Started> {
    let mut child = Command::new(executable)
        .args(arguments)
        .current_dir(folder)
        .env("PWD", folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let missing = || io::Error::other("a pipe is missing");
    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
    Ok(Started {
        group: Group {
            pid,
            alive: Arc::new(AtomicBool::new(true)),
        },
        stdin: child.stdin.take().ok_or_else(missing)?,
        stdout: child.stdout.take().ok_or_else(missing)?,
        stderr: child.stderr.take().ok_or_else(missing)?,
        child,
    })
}

/// Waits for the end of the process, and kills what it left behind in its group.
pub(crate) async fn ended(child: &mut Child, group: &Group) -> io::Result<ExitStatus> {
    let status = child.wait().await;
    // At once: a group's number is free for others when its last process is gone.
    group.signal(Signal::KILL);
    group.alive.store(false, Ordering::Release);
    status
}

/// Keeps the last lines of standard error, each cut to its bound. Diagnostics, not history.
pub(crate) async fn tail(mut stderr: ChildStderr, tail: Arc<Mutex<Tail>>) {
    let mut buffer = vec![0; 4096];
    while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
        lock(&tail).push(buffer.get(..count).unwrap_or_default());
    }
}

/// The lines that were kept.
pub(crate) fn lines_of(tail: &Mutex<Tail>) -> Vec<String> {
    std::mem::take(&mut *lock(tail)).lines()
}

/// The end of a text, bounded.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    lines: VecDeque<Vec<u8>>,
    line: Vec<u8>,
}

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                self.complete();
            } else if self.line.len() < STDERR_LINE_BYTES_MAX {
                self.line.push(byte);
            }
        }
    }

    fn complete(&mut self) {
        let line = std::mem::take(&mut self.line);
        if self.lines.len() >= STDERR_LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
    }

    fn lines(mut self) -> Vec<String> {
        if !self.line.is_empty() {
            self.complete();
        }
        let text = |line: &Vec<u8>| String::from_utf8_lossy(line).into_owned();
        self.lines.iter().map(text).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_last_lines_and_the_beginning_of_each() {
        let mut tail = Tail::default();
        for at in 0..3 * STDERR_LINES_MAX {
            tail.push(format!("line {at}\n").as_bytes());
        }
        tail.push(&vec![b'x'; 10 * STDERR_LINE_BYTES_MAX]);
        let lines = tail.lines();
        assert_eq!(lines.len(), STDERR_LINES_MAX);
        assert_eq!(lines[0], format!("line {}", 2 * STDERR_LINES_MAX + 1));
        assert_eq!(lines[STDERR_LINES_MAX - 1].len(), STDERR_LINE_BYTES_MAX);
    }
}
