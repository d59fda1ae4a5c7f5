//! Checks the dependencies between crates: they point down, and some must not exist.

// A failed unwrap is a failed test, in helpers as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// What each crate of the workspace may depend on directly, in any way but for its own tests.
const ALLOWED: &[(&str, &[&str])] = &[
    ("betcode-schema-sql", &[]),
    ("betcode-schema-grpc", &[]),
    ("betcode-schema-tunnel", &[]),
    ("betcode-storage", &["betcode-schema-sql"]),
    ("betcode-service", &[]),
    ("betcode-db", &["betcode-storage", "betcode-schema-grpc"]),
    (
        "betcode-daemon",
        &[
            "betcode-storage",
            "betcode-service",
            "betcode-schema-grpc",
            "betcode-schema-tunnel",
        ],
    ),
    (
        "betcode-relay",
        &[
            "betcode-storage",
            "betcode-service",
            "betcode-schema-grpc",
            "betcode-schema-tunnel",
        ],
    ),
    (
        "betcode-tests",
        &[
            "betcode-storage",
            "betcode-db",
            "betcode-daemon",
            "betcode-relay",
            "betcode-schema-grpc",
            "betcode-test-support",
        ],
    ),
    ("betcode-test-support", &[]),
    (
        "betcode-benches",
        &[
            "betcode-storage",
            "betcode-db",
            "betcode-daemon",
            "betcode-relay",
            "betcode-schema-grpc",
        ],
    ),
];

/// What the engine must not depend on, directly or not.
const NOT_IN_STORAGE: &[&str] = &[
    "tokio",
    "tonic",
    "prost",
    "hyper",
    "async-trait",
    "clap",
    "indicatif",
    "directories",
];

fn metadata(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--offline", "--locked"])
        // What other platforms need is not on a machine that has only built for its own.
        .arg("--filter-platform=host-tuple")
        .args(arguments)
        .arg("--manifest-path")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap()
}

/// Direct dependencies of each crate, tests' own left out.
fn crates() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = metadata(&["--no-deps"]);
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| {
            let dependencies = package["dependencies"]
                .as_array()
                .unwrap()
                .iter()
                .filter(|dependency| dependency["kind"] != "dev")
                .map(|dependency| text(&dependency["name"]).to_owned())
                .collect();
            (text(&package["name"]).to_owned(), dependencies)
        })
        .collect()
}

#[test]
fn dependencies_between_crates_point_down() {
    let crates = crates();
    for (name, dependencies) in &crates {
        let Some((_, allowed)) = ALLOWED.iter().find(|(known, _)| known == name) else {
            panic!("{name} is new: say here what it may depend on");
        };
        for dependency in dependencies {
            if crates.contains_key(dependency) {
                assert!(
                    allowed.contains(&dependency.as_str()),
                    "{name} must not depend on {dependency}"
                );
            }
        }
    }
}

#[test]
fn nothing_depends_on_tests_and_benches() {
    let metadata = metadata(&["--no-deps"]);
    for package in metadata["packages"].as_array().unwrap() {
        for dependency in package["dependencies"].as_array().unwrap() {
            let name = text(&dependency["name"]);
            assert!(
                !["betcode-tests", "betcode-benches"].contains(&name),
                "{} depends on {name}",
                package["name"]
            );
        }
    }
}

/// All that a crate is built with, directly or not.
fn closure(metadata: &serde_json::Value, name: &str) -> BTreeSet<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().unwrap();
    let names: BTreeMap<&str, &str> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|package| (text(&package["id"]), text(&package["name"])))
        .collect();
    let root = names.iter().find(|(_, known)| **known == name).unwrap().0;
    let mut found = BTreeSet::from([*root]);
    let mut open = vec![*root];
    while let Some(id) = open.pop() {
        let node = nodes.iter().find(|node| text(&node["id"]) == id).unwrap();
        for dependency in node["deps"].as_array().unwrap() {
            let only_for_tests = dependency["dep_kinds"]
                .as_array()
                .unwrap()
                .iter()
                .all(|kind| kind["kind"] == "dev");
            let id = text(&dependency["pkg"]);
            if !only_for_tests && found.insert(id) {
                open.push(id);
            }
        }
    }
    found.into_iter().map(|id| names[id].to_owned()).collect()
}

#[test]
fn the_engine_knows_no_network_no_terminal_and_no_async_runtime() {
    let metadata = metadata(&[]);
    for name in ["betcode-storage", "betcode-schema-sql"] {
        let closure = closure(&metadata, name);
        for unwanted in NOT_IN_STORAGE {
            assert!(
                !closure.contains(*unwanted),
                "{name} is built with {unwanted}"
            );
        }
    }
    let storage = closure(&metadata, "betcode-storage");
    assert!(storage.contains("rusqlite") && storage.contains("betcode-schema-sql"));
}

#[test]
fn one_sqlite_is_linked_and_it_is_past_the_wal_reset_bug() {
    assert!(rusqlite::version_number() >= 3_051_003);
    let metadata = metadata(&[]);
    let copies = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| package["name"] == "libsqlite3-sys")
        .count();
    assert_eq!(copies, 1);
}
