//! The way through a relay. Compiled as a part of the relay's tests, [`super::serve`] enrols the
//! daemon at a relay process, and its clients call it there with a token; the tests do not notice.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use betcode_daemon::server::Daemon;
use betcode_daemon::settings::Settings;
use betcode_daemon::tunnel::{Enrolment, EnrolmentFolder, TunnelState, enrol};
use http::{Request, header};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, version};
use tonic::transport::{Channel, Endpoint};

/// The relay's program, when this is a part of its tests.
const PROGRAM: Option<&str> = option_env!("CARGO_BIN_EXE_betcode-relay");
/// Whether this is a part of the relay's tests.
pub(crate) const HERE: bool = PROGRAM.is_some();
const NAME: &str = "relay.test";
const MACHINE: &str = "m-1";

/// A relay in a process of its own; killed when this goes.
pub(crate) struct Through {
    child: Child,
    clients: SocketAddr,
    state: PathBuf,
    users: AtomicU64,
}

impl Through {
    /// A relay at which a daemon with these settings is enrolled; `None` in the daemon's own tests.
    pub(crate) async fn start(folder: &Path, settings: &Settings) -> Option<Self> {
        let state = folder.join("relay");
        run(&state, &["init", NAME, "127.0.0.1"])?;
        let code = run(&state, &["enrol", MACHINE])?;
        let mut command = command(&state)?;
        let mut child = command
            .args(["serve", "--client-listen", "127.0.0.1:0"])
            .args(["--tunnel-listen", "127.0.0.1:0"])
            .env("BETCODE_RELAY_LOG_FILTER", "error")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut address = |name: &str| -> SocketAddr {
            let line = lines.next().expect("the relay did not start").unwrap();
            line.strip_prefix(name).unwrap().trim().parse().unwrap()
        };
        let (clients, tunnels) = (address("clients"), address("tunnels"));
        let about = Enrolment {
            machine: MACHINE.parse().unwrap(),
            relay_address: tunnels.to_string(),
            relay_name: NAME.to_owned(),
        };
        let enrolled = enrol(&about.relay_address, NAME, &about.machine, &code);
        EnrolmentFolder::at(&settings.relay_folder)
            .save(&about, &enrolled.await.unwrap())
            .unwrap();
        Some(Self {
            child,
            clients,
            state,
            users: AtomicU64::new(0),
        })
    }

    /// Waits until clients reach the daemon.
    pub(crate) async fn opened(&self, daemon: &Daemon) {
        let mut tunnel = daemon.core().tunnel.clone();
        let open = tunnel.wait_for(|state| matches!(state, TunnelState::Open { .. }));
        super::within(open).await.unwrap();
    }

    /// kill -9 of the relay.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// A connection of a user of its own.
    pub(crate) async fn channel(&self) -> Channel {
        self.device(&self.token()).await
    }

    /// A token of another user.
    pub(crate) fn token(&self) -> String {
        let user = format!("user-{}", self.users.fetch_add(1, Ordering::Relaxed));
        let asked = ["token", "issue", "--user", &user, "--machine", MACHINE];
        run(&self.state, &asked).unwrap()
    }

    /// Another connection of a token's user.
    pub(crate) async fn device(&self, token: &str) -> Channel {
        let token = token.to_owned();
        let relay = self.dial().await;
        let connector = tower::service_fn(move |_| {
            let (client, server) = tokio::io::duplex(1 << 20);
            tokio::spawn(forward(server, relay.clone(), token.clone()));
            async move { Ok::<_, std::io::Error>(TokioIo::new(client)) }
        });
        let endpoint = super::windows(Endpoint::from_static("http://daemon"));
        endpoint.connect_with_connector(connector).await.unwrap()
    }

    async fn dial(&self) -> SendRequest<Incoming> {
        let authority = CertificateDer::from_pem_file(self.state.join("authority.pem")).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let tcp = TcpStream::connect(self.clients).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let tls = TlsConnector::from(Arc::new(config)).connect(NAME.try_into().unwrap(), tcp);
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(TokioIo::new(tls.await.unwrap()))
            .await
            .unwrap();
        tokio::spawn(connection);
        sender
    }
}

/// Adds to each call what a client of a relay sends besides.
async fn forward(calls: tokio::io::DuplexStream, relay: SendRequest<Incoming>, token: String) {
    let forwarding = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        let headers = request.headers_mut();
        let bearer = format!("Bearer {token}").parse().unwrap();
        headers.insert(header::AUTHORIZATION, bearer);
        headers.insert("x-machine-id", MACHINE.parse().unwrap());
        relay.clone().send_request(request)
    });
    // Ends with the client's connection.
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(4 << 20)
        .serve_connection(TokioIo::new(calls), forwarding)
        .await;
}

fn command(state: &Path) -> Option<Command> {
    let mut command = Command::new(PROGRAM?);
    command.arg("--state-folder").arg(state);
    Some(command)
}

/// Runs a command of the relay that must succeed, and returns what it printed.
fn run(state: &Path, arguments: &[&str]) -> Option<String> {
    let output = command(state)?.args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {errors}");
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

impl Drop for Through {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
