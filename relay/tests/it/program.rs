//! The program itself: its commands, its state folder, and a running relay that can be killed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use betcode_daemon::tunnel::{Tunnel, TunnelOptions, TunnelTls, enrol};
use betcode_schema_tunnel::MachineId;
use tonic::service::Routes;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use super::echo::Echo;
use super::harness::{Client, open};

/// Name of the relay in its certificate.
pub(crate) const NAME: &str = "relay.test";

/// A state folder and what is done with it.
pub(crate) struct Folder {
    pub(crate) path: tempfile::TempDir,
}

impl Folder {
    pub(crate) fn init() -> Self {
        let path = tempfile::tempdir().unwrap();
        let folder = Self { path };
        folder.run(&["init", NAME, "127.0.0.1"]);
        folder
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.path().join(name)
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_betcode-relay"));
        command.arg("--state-folder").arg(self.path.path());
        command
    }

    pub(crate) fn try_run(&self, arguments: &[&str]) -> Output {
        self.command().args(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, and returns what it printed.
    pub(crate) fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {errors}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub(crate) fn token(&self, user: &str, machines: &[&str]) -> String {
        let mut arguments = vec!["token", "issue", "--user", user];
        for machine in machines {
            arguments.extend(["--machine", machine]);
        }
        self.run(&arguments)
    }

    /// A token of ann's and what it claims.
    pub(crate) fn issued(&self, machine: &str) -> serde_json::Value {
        let arguments = [
            "token",
            "issue",
            "--user",
            "ann",
            "--machine",
            machine,
            "--json",
        ];
        serde_json::from_str(&self.run(&arguments)).unwrap()
    }

    /// A token with the shortest life.
    pub(crate) fn short_token(&self, user: &str, machine: &str) -> String {
        let who = ["token", "issue", "--user", user, "--machine", machine];
        self.run(&[&who[..], &["--life-s", "1"]].concat())
    }

    /// Enrols a machine and returns options for its tunnel, with TLS.
    pub(crate) async fn enrolled(&self, relay: &Running, machine: &str) -> TunnelOptions {
        let id: MachineId = machine.parse().unwrap();
        let code = self.run(&["enrol", machine]);
        let address = relay.tunnels.to_string();
        let enrolled = enrol(&address, NAME, &id, &code).await.unwrap();
        let files = [
            ("ca", enrolled.authority),
            ("crt", enrolled.certificate),
            ("key", enrolled.key),
        ]
        .map(|(ending, text)| {
            let path = self.file(&format!("{machine}.{ending}"));
            std::fs::write(&path, text).unwrap();
            path
        });
        self.options(relay, machine, &files)
    }

    pub(crate) fn options(
        &self,
        relay: &Running,
        machine: &str,
        files: &[PathBuf; 3],
    ) -> TunnelOptions {
        let id: MachineId = machine.parse().unwrap();
        let [authority, certificate, key] = files;
        let tls = TunnelTls::load(authority, certificate, key, NAME, &id).unwrap();
        let mut options = TunnelOptions::new(relay.tunnels.to_string(), id);
        options.tls = Some(tls);
        options.backoff.first = std::time::Duration::from_millis(20);
        options.backoff.last = std::time::Duration::from_millis(200);
        options
    }
}

/// A relay in a process of its own, killed when dropped.
pub(crate) struct Running {
    child: Child,
    pub(crate) clients: SocketAddr,
    pub(crate) tunnels: SocketAddr,
}

impl Running {
    /// Starts a relay; `ports` are those of an earlier one, or 0.
    pub(crate) fn start(folder: &Folder, ports: (u16, u16), flags: &[&str]) -> Self {
        Self::start_in(folder.path.path(), ports, flags)
    }

    pub(crate) fn start_in(state: &Path, ports: (u16, u16), flags: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_betcode-relay"));
        command
            .arg("--state-folder")
            .arg(state)
            .arg("serve")
            .args(flags);
        command.env("BETCODE_RELAY_LOG_FILTER", "error");
        Self::spawn(command, ports)
    }

    pub(crate) fn logging_to(folder: &Folder, log: &Path, level: &str) -> Self {
        let mut command = folder.command();
        command.arg("serve").env("BETCODE_RELAY_LOG_FILTER", level);
        command.stderr(std::fs::File::create(log).unwrap());
        Self::spawn(command, (0, 0))
    }

    /// Starts what `command` says, with listeners at these ports.
    pub(crate) fn spawn(mut command: Command, ports: (u16, u16)) -> Self {
        command
            .args(["--client-listen", &format!("127.0.0.1:{}", ports.0)])
            .args(["--tunnel-listen", &format!("127.0.0.1:{}", ports.1)]);
        Self::spawn_as_told(command)
    }

    /// Starts what `command` says, with the listeners that it says.
    pub(crate) fn spawn_as_told(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |name: &str| -> SocketAddr {
            let line = lines.next().expect("the relay did not start").unwrap();
            line.strip_prefix(name).unwrap().trim().parse().unwrap()
        };
        // One that listens everywhere is reached here.
        let mut reached = |name: &str| -> SocketAddr {
            let listens = address(name);
            match listens.ip().is_unspecified() {
                true => SocketAddr::from(([127, 0, 0, 1], listens.port())),
                false => listens,
            }
        };
        Self {
            clients: reached("clients"),
            tunnels: reached("tunnels"),
            child,
        }
    }

    pub(crate) fn ports(&self) -> (u16, u16) {
        (self.clients.port(), self.tunnels.port())
    }

    /// kill -9.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status();
        assert!(sent.unwrap().success());
    }

    pub(crate) fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn echo_routes(echo: &Echo) -> Routes {
    Routes::new(echo.clone()).prepare()
}

/// A daemon with TLS and its own certificate, with its tunnel open.
pub(crate) async fn daemon(options: TunnelOptions) -> (Tunnel, Echo) {
    let echo = Echo::default();
    let tunnel = Tunnel::hold(options, echo_routes(&echo));
    open(&tunnel).await;
    (tunnel, echo)
}

/// A client with TLS and a token.
pub(crate) async fn client(
    relay: &Running,
    authority: &Path,
    machine: &str,
    token: Option<&str>,
) -> Client {
    Client::over(channel(relay, authority), Some(machine)).with_token(token)
}

/// A connection to a relay's clients' port.
pub(crate) fn channel(relay: &Running, authority: &Path) -> Channel {
    let trusted = Certificate::from_pem(std::fs::read(authority).unwrap());
    let tls = ClientTlsConfig::new()
        .ca_certificate(trusted)
        .domain_name(NAME);
    let endpoint = Endpoint::from_shared(format!("https://{}", relay.clients)).unwrap();
    endpoint.tls_config(tls).unwrap().connect_lazy()
}
