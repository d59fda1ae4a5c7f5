//! Growth per session-hour by folder is what an independent count of the files gives, to the byte
//! and to the millisecond.

use std::path::{Path, PathBuf};
use std::process::Command;

use betcode_db::generator;

use crate::tool::Tool;

/// Counts the folders below `top` twice and fails when the counts differ.
fn compare(tool: &Tool, top: &Path) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts/growth_by_folder.py");
    let output = Command::new("python3")
        .arg(script)
        .arg(env!("CARGO_BIN_EXE_betcode-db"))
        .arg(top)
        .env("TMPDIR", tool.path(""))
        .env_remove("BETCODE_LIMIT_BYTES")
        .output()
        .unwrap();
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{table}{errors}");
    println!("{table}");
    table
}

/// Folders of real sessions, where they are at hand: `BETCODE_CORPUS` names the folder itself, or
/// the one with the archive; else the archive is looked for beside the project.
fn corpus(tool: &Tool) -> Option<PathBuf> {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let folder = std::env::var_os("BETCODE_CORPUS").map_or(beside, PathBuf::from);
    let archive = folder.join("sessions.tar.zst");
    if !archive.is_file() {
        return folder.is_dir().then_some(folder);
    }
    let tar = zstd::decode_all(std::fs::File::open(archive).unwrap()).unwrap();
    let tar = tool.write("sessions.tar", tar);
    let unpacked = Command::new("tar")
        .arg("-xf")
        .arg(&tar)
        .arg("-C")
        .arg(tool.path(""))
        .status()
        .unwrap();
    assert!(unpacked.success());
    Some(tool.path("sessions"))
}

#[test]
fn growth_of_generated_sessions_equals_an_independent_count() {
    let tool = Tool::new();
    for seed in 0..3 {
        let transcript = generator::transcript(seed, 300_000);
        tool.write(format!("top/transcripts/{seed}.jsonl"), transcript);
        let stream = generator::stream(seed, 300_000);
        tool.write(format!("top/streams/{seed}.jsonl"), stream);
    }
    // Gaps over five minutes, disorder, the same time twice, zones, blank lines, no last newline.
    let times = [
        "2026-02-14T09:00:00.000Z",
        "2026-02-14T09:00:01.999Z",
        "2026-02-14T10:00:00.000Z",
        "2026-02-14T09:30:00.000Z",
        "2026-02-14T10:00:00.000Z",
        "2026-02-14T12:04:59.500+02:00",
        "2026-02-14T10:10:00.250000Z",
    ];
    let lines: Vec<String> = times
        .iter()
        .map(|time| format!(r#"{{"type":"user","timestamp":"{time}"}}"#))
        .collect();
    let odd = format!(
        "{}\n\nnot json\n{{\"timestamp\":\"nonsense\"}}",
        lines.join("\n")
    );
    tool.write("top/odd/odd.jsonl", odd);
    // Turns without times, with a few, with one each, that took no time, long, and that are none.
    let turns = [
        r#"{"type":"system","subtype":"init"}"#,
        r#"{"type":"result","duration_ms":135384}"#,
        r#"{"type":"result","duration_ms":1.9e3}"#,
        r#"{"type":"user","timestamp":"2026-02-14T09:00:00.000Z"}"#,
        r#"{"type":"user","timestamp":"2026-02-14T09:00:00.004Z"}"#,
        r#"{"type":"result","duration_ms":7200000}"#,
        r#"{"type":"user","timestamp":"2026-02-14T10:59:59.000Z"}"#,
        r#"{"type":"user","timestamp":"2026-02-14T11:01:00.000Z"}"#,
        r#"{"type":"result","duration_ms":90000}"#,
        r#"{"type":"user","timestamp":"2026-02-14T12:00:00.000Z"}"#,
        r#"{"type":"result","timestamp":"2026-02-14T12:01:00.000Z","duration_ms":90000}"#,
        r#"{"type":"result","duration_ms":86400001}"#,
        r#"{"type":"result","duration_ms":0}"#,
        r#"{"type":"result","duration_ms":-5}"#,
        r#"{"type":"result","duration_ms":4294967296}"#,
        r#"{"type":"result","duration_ms":"60000"}"#,
        r#"{"type":"result"}"#,
        r#"{"type":"user","duration_ms":60000}"#,
    ];
    tool.write("top/turns/turns.jsonl", turns.join("\n"));
    tool.write("top/turns/timeless.jsonl", turns[..3].join("\n"));
    tool.write(
        "top/timeless/lines.jsonl",
        "{\"type\":\"user\"}\n".repeat(50),
    );
    let table = compare(&tool, &tool.path("top"));
    assert!(table.contains("no timestamps"), "{table}");
}

#[test]
fn growth_of_the_corpus_equals_an_independent_count() {
    let tool = Tool::new();
    let Some(corpus) = corpus(&tool) else {
        println!("no corpus here: generated sessions are counted by the test beside this one");
        return;
    };
    compare(&tool, &corpus);
}
