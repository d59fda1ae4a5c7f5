//! The program under test, in a folder of its own.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// A home without sessions, a database path, and the program.
pub(crate) struct Tool {
    folder: TempDir,
}

/// How a run ended.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Tool {
    pub(crate) fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn db(&self) -> PathBuf {
        self.path("store/history.db")
    }

    /// Writes a file below the folder, and what folders it needs.
    pub(crate) fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    pub(crate) fn command(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_betcode-db"));
        command
            .args(args)
            .env_remove("BETCODE_LIMIT_BYTES")
            .env("BETCODE_DB", self.db())
            .env("HOME", self.folder.path())
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        Ran::of(self.command(args).output().unwrap())
    }

    /// Runs and expects success.
    pub(crate) fn ok(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{}{}", ran.text(), ran.stderr);
        ran
    }

    /// The document of a run with `--json`, and its exit code.
    pub(crate) fn json(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> (Value, i32) {
        let ran = Ran::of(self.command(args).arg("--json").output().unwrap());
        let document = serde_json::from_slice(&ran.stdout)
            .unwrap_or_else(|e| panic!("{e}: {}{}", ran.text(), ran.stderr));
        (document, ran.code)
    }

    /// Damages the one message with this payload, which is not compacted yet.
    pub(crate) fn damage(&self, payload: &str) {
        let connection = rusqlite::Connection::open(self.db()).unwrap();
        let damage = "UPDATE hot_messages SET digest = digest + 1 WHERE payload = CAST(?1 AS BLOB)";
        assert_eq!(connection.execute(damage, [payload]).unwrap(), 1);
    }

    /// Exports everything into a new folder.
    pub(crate) fn export(&self, name: &str) -> PathBuf {
        let out = self.path(name);
        self.ok([OsStr::new("export"), OsStr::new("--out"), out.as_os_str()]);
        out
    }
}

impl Ran {
    pub(crate) fn of(output: Output) -> Self {
        let code = output
            .status
            .code()
            .unwrap_or_else(|| -output.status.signal().unwrap());
        let stderr = String::from_utf8(output.stderr).unwrap();
        Self {
            code,
            stdout: output.stdout,
            stderr,
        }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Whether what these tests start ignores a signal, as all do with SIGHUP under `nohup`, and with SIGINT in the
/// background of a shell without job control.
pub(crate) fn is_ignored(signal: Signal) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = u64::from_str_radix(mask.unwrap().trim(), 16).unwrap();
    mask & (1 << (signal.as_raw() - 1)) != 0
}

/// Sends Ctrl-C to a run, or where that is ignored what else asks it to stop.
pub(crate) fn interrupt(child: &Child) {
    let signal = match is_ignored(Signal::INT) {
        true => Signal::TERM,
        false => Signal::INT,
    };
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Files below a folder with their bytes, by relative path.
pub(crate) fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let relative = path.strip_prefix(folder).unwrap().to_path_buf();
                found.push((relative, fs::read(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// Fails when the folders differ, without printing megabytes.
pub(crate) fn assert_same(left: &Path, right: &Path) {
    let (left, right) = (files(left), files(right));
    let names =
        |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|f| f.0.clone()).collect::<Vec<_>>();
    assert_eq!(names(&left), names(&right));
    for (a, b) in left.iter().zip(&right) {
        assert!(
            a.1 == b.1,
            "{} differs: {} and {} bytes",
            a.0.display(),
            a.1.len(),
            b.1.len()
        );
    }
}
