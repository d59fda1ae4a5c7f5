//! Mutual TLS: who is let in, certificates that are replaced, connections that grow old.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod support;

use std::path::Path;
use std::time::Duration;

use betcode_schema_grpc::history::ListSessionsRequest;
use betcode_schema_grpc::history::history_service_client::HistoryServiceClient;
use support::{Served, serve, within};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

/// The daemon's files, in a folder.
fn write(folder: &Path, authority: &Authority) {
    let (cert, key) = authority.issue("localhost");
    for (name, text) in [("c.pem", &cert), ("k.pem", &key), ("a.pem", &authority.pem)] {
        std::fs::write(folder.join(name), text).unwrap();
    }
}

async fn serve_tls(folder: &Path, values: &[(&str, &str)]) -> Served {
    let [cert, key, authorities] =
        ["c.pem", "k.pem", "a.pem"].map(|name| folder.join(name).display().to_string());
    let mut all = vec![
        ("tls_listen", "127.0.0.1:0"),
        ("tls_cert", &cert),
        ("tls_key", &key),
        ("tls_client_ca", &authorities),
    ];
    all.extend(values);
    serve(&all).await
}

type Identified = Option<(String, String)>;

async fn connect(
    served: &Served,
    authority: &Authority,
    identity: Identified,
) -> Result<HistoryServiceClient<Channel>, String> {
    let mut tls = ClientTlsConfig::new()
        .domain_name("localhost")
        .ca_certificate(Certificate::from_pem(&authority.pem));
    if let Some((cert, key)) = identity {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    let address = served.daemon.tls_address().unwrap();
    let endpoint = Endpoint::from_shared(format!("https://{address}")).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await;
    channel
        .map(HistoryServiceClient::new)
        .map_err(|error| error.to_string())
}

async fn list(served: &Served, authority: &Authority, identity: Identified) -> Result<(), String> {
    let mut client = within(connect(served, authority, identity)).await?;
    let listed = within(client.list_sessions(ListSessionsRequest::default())).await;
    listed.map(|_| ()).map_err(|status| status.to_string())
}

#[tokio::test]
async fn beyond_loopback_only_known_certificates_are_let_in() {
    let folder = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    write(folder.path(), &authority);
    let served = serve_tls(folder.path(), &[]).await;
    list(&served, &authority, Some(authority.issue("client")))
        .await
        .unwrap();
    let refused = list(&served, &authority, None).await;
    assert!(refused.is_err());
    let refused = list(&served, &authority, Some(stranger.issue("client"))).await;
    assert!(refused.is_err());
    let address = served.daemon.tls_address().unwrap();
    let plain = Endpoint::from_shared(format!("http://{address}")).unwrap();
    if let Ok(channel) = plain.connect().await {
        let mut client = HistoryServiceClient::new(channel);
        let listed = client.list_sessions(ListSessionsRequest::default()).await;
        assert!(listed.is_err());
    }
    // One that connects and says nothing holds up nobody.
    let silent = tokio::net::TcpStream::connect(address).await.unwrap();
    list(&served, &authority, Some(authority.issue("client")))
        .await
        .unwrap();
    drop(silent);
}

#[tokio::test]
async fn replaced_certificates_are_used_without_a_restart_and_broken_ones_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let (old, new) = (Authority::new(), Authority::new());
    write(folder.path(), &old);
    let served = serve_tls(folder.path(), &[]).await;
    let mut open = connect(&served, &old, Some(old.issue("client")))
        .await
        .unwrap();
    open.list_sessions(ListSessionsRequest::default())
        .await
        .unwrap();
    write(folder.path(), &new);
    std::fs::write(folder.path().join("k.pem"), "not a key").unwrap();
    let error = served
        .daemon
        .reload(&served.settings)
        .unwrap_err()
        .to_string();
    assert!(error.contains("k.pem"), "{error}");
    list(&served, &old, Some(old.issue("client")))
        .await
        .unwrap();
    write(folder.path(), &new);
    served.daemon.reload(&served.settings).unwrap();
    list(&served, &new, Some(new.issue("client")))
        .await
        .unwrap();
    assert!(
        list(&served, &old, Some(old.issue("client")))
            .await
            .is_err()
    );
    // Who was in stays in.
    open.list_sessions(ListSessionsRequest::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn an_old_connection_is_asked_to_begin_anew_and_no_request_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    write(folder.path(), &authority);
    let served = serve_tls(folder.path(), &[("max_connection_age_ms", "50")]).await;
    let identity = Some(authority.issue("client"));
    let mut client = connect(&served, &authority, identity).await.unwrap();
    for _ in 0..20 {
        client
            .list_sessions(ListSessionsRequest::default())
            .await
            .unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

struct Authority {
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self {
            pem,
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    fn issue(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        (
            params.signed_by(&key, &self.issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }
}
