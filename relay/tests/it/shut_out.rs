//! Addresses that come too often to the door for daemons.

use std::io::ErrorKind;
use std::net::TcpStream;

use super::harness::until;
use super::program::{Folder, Running};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_comes_too_often_is_turned_away_at_the_door_for_daemons() {
    let folder = Folder::init();
    let settings = folder.file("relay.json");
    let slow = r#"{"address_calls_per_s": 1, "address_calls_burst": 10}"#;
    std::fs::write(&settings, slow).unwrap();
    let log = folder.file("relay.log");
    let mut command = folder.command();
    command
        .args(["serve", "--settings", settings.to_str().unwrap()])
        .env("RUST_LOG", "info")
        .stderr(std::fs::File::create(&log).unwrap());
    let relay = Running::spawn(command, (0, 0));
    let connect = |_| {
        let stream = TcpStream::connect(relay.tunnels).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let connected: Vec<_> = (0..40).map(connect).collect();
    until("most of them are turned away before TLS", || {
        let logged = std::fs::read_to_string(&log).unwrap();
        logged.matches("this address calls too often").count() >= 20
    })
    .await;
    let is_open = |stream: &&TcpStream| {
        stream
            .peek(&mut [0; 1])
            .is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    };
    let open = connected.iter().filter(is_open).count();
    assert!((1..=20).contains(&open), "{open} are let in");
}
