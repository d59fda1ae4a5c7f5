//! Generates the types. protox compiles the protos, so that no protoc has to be installed.

use std::path::PathBuf;

use prost::Message;

const FILES: [&str; 10] = [
    "betcode/v1/common.proto",
    "betcode/v1/tunnel.proto",
    "betcode/v1/agent.proto",
    "betcode/v1/machine.proto",
    "betcode/v1/version.proto",
    "betcode/v1/health.proto",
    "betcode/history/v1/history.proto",
    "betcode/history/v1/compaction.proto",
    "betcode/history/v1/maintenance.proto",
    "betcode/history/v1/capacity.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure()
        // Payloads are shared with the store, not copied.
        .bytes(".betcode.history.v1")
        .build_transport(false)
        .compile_fds(descriptors)?;
    Ok(())
}
