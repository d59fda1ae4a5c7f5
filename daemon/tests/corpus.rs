//! What existing clients are told of whole sessions, compared with the lines themselves: of a
//! session shaped as real ones are, and of real ones where they are at hand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]
#![allow(clippy::print_stdout, reason = "what was compared is for people")]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use betcode_schema_grpc::history::AppendRequest;
use betcode_schema_grpc::v1 as proto;
use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::agent_service_client::AgentServiceClient;
use bytes::Bytes;
use serde_json::Value;
use support::{Appender, Served, batch, read_all, serve};
use tonic::transport::Channel;

/// Lines of one batch.
const BATCH_LINES: usize = 500;

/// A session with all that real ones have: partial output, thinking, tools and their results,
/// a sub-agent, images, hooks, retries, torn and doubled lines, prose. Written for this test.
const SHAPED: &str = include_str!("shaped.jsonl");

/// What a session's lines say, found without the translator.
#[derive(Debug, Default, PartialEq)]
struct Said {
    /// Text of whole messages, by the tool call of the sub-agent that wrote them.
    text: BTreeMap<String, String>,
    /// Ids of tool calls, each once.
    tools: Vec<String>,
    /// Ids of tool calls that have a result.
    results: Vec<String>,
    inputs: usize,
    turns: usize,
    begins: usize,
}

impl Said {
    fn of_lines(lines: &[Bytes]) -> Self {
        let mut said = Self::default();
        for line in lines {
            let objects = serde_json::Deserializer::from_slice(line).into_iter::<Value>();
            for value in objects.map_while(Result::ok) {
                said.line(&value);
            }
        }
        said.tools.sort();
        said.tools.dedup();
        said
    }

    fn line(&mut self, value: &Value) {
        let content = &value["message"]["content"];
        let text = |block: &Value, name: &str| block[name].as_str().unwrap_or("").to_owned();
        let parent = text(value, "parent_tool_use_id");
        let empty = Vec::new();
        let blocks = content.as_array().unwrap_or(&empty);
        match (value["type"].as_str(), value["subtype"].as_str()) {
            (Some("assistant"), _) => {
                for block in blocks {
                    match block["type"].as_str() {
                        Some("text") => self
                            .text
                            .entry(parent.clone())
                            .or_default()
                            .push_str(&text(block, "text")),
                        Some("tool_use") => self.tools.push(text(block, "id")),
                        _ => {}
                    }
                }
            }
            (Some("user"), _) if content.is_string() => {
                self.user_text(value, content.as_str().unwrap_or_default());
            }
            (Some("user"), _) => {
                for block in blocks {
                    match block["type"].as_str() {
                        Some("tool_result") => self.results.push(text(block, "tool_use_id")),
                        Some("text") => self.user_text(value, &text(block, "text")),
                        Some("image") if !is_for_sub_agent(value) => self.inputs += 1,
                        _ => {}
                    }
                }
            }
            (Some("result"), _) => self.turns += 1,
            (Some("system"), Some("init")) => self.begins += 1,
            _ => {}
        }
    }

    /// A text of a `user` line: what a command of the agent's own printed, what the agent says to itself, or
    /// what somebody typed.
    fn user_text(&mut self, line: &Value, text: &str) {
        let text = text.trim_start();
        let begins = |tag: &str| text.starts_with(tag);
        if let Some(printed) = text.strip_prefix("<local-command-stdout>") {
            let end = printed.find("</local-command-").unwrap_or(printed.len());
            let said = self.text.entry(String::new()).or_default();
            said.push_str(printed[..end].trim());
        } else if !is_for_sub_agent(line)
            && !["isMeta", "isSynthetic", "isCompactSummary"]
                .iter()
                .any(|mark| line[mark] == true)
            && ![
                "<local-command-",
                "<command-",
                "<system-reminder>",
                "<task-notification>",
            ]
            .into_iter()
            .any(begins)
        {
            self.inputs += 1;
        }
    }

    fn of_events(events: &[proto::AgentEvent]) -> Self {
        let mut said = Self::default();
        for told in events {
            match told.event.as_ref().unwrap() {
                Event::TextDelta(delta) => said
                    .text
                    .entry(told.parent_tool_use_id.clone())
                    .or_default()
                    .push_str(&delta.text),
                Event::ToolCallStart(start) => said.tools.push(start.tool_id.clone()),
                Event::ToolCallResult(result) => said.results.push(result.tool_id.clone()),
                Event::UserInput(_) => said.inputs += 1,
                Event::TurnComplete(_) => said.turns += 1,
                Event::SessionInfo(_) => said.begins += 1,
                _ => {}
            }
        }
        said.tools.sort();
        said
    }
}

/// Whether an agent tells its sub-agent this, in output or in a transcript that has both of them.
fn is_for_sub_agent(line: &Value) -> bool {
    let among_others = line["isSidechain"] == true && line["agentId"].is_null();
    line["parent_tool_use_id"].is_string() || among_others
}

async fn record(served: &Served, session: &str, lines: &[Bytes]) {
    let mut client = served.history().await;
    let mut appender = Appender::open(&mut client).await;
    for lines in lines.chunks(BATCH_LINES) {
        let request = AppendRequest {
            payloads: lines.to_vec(),
            ..batch(session, &[])
        };
        appender.send(request).await.unwrap();
    }
}

async fn resume(
    client: &mut AgentServiceClient<Channel>,
    session: &str,
    from_sequence: u64,
) -> Vec<proto::AgentEvent> {
    let request = proto::ResumeSessionRequest {
        session_id: session.into(),
        from_sequence,
    };
    let mut answers = client.resume_session(request).await.unwrap().into_inner();
    let mut events = Vec::new();
    while let Some(event) = answers.message().await.unwrap() {
        events.push(event);
    }
    events
}

/// Resumes from these sequences give what a whole replay gives after them; compacted as well.
async fn resumes_exactly(served: &Served, session: &str, from: &[u64]) -> Vec<proto::AgentEvent> {
    let channel = served.channel().await;
    let mut client = AgentServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let whole = resume(&mut client, session, 0).await;
    for compacted in [false, true] {
        if compacted {
            let session_id = session.to_owned();
            let request = proto::CompactSessionRequest { session_id };
            client.compact_session(request).await.unwrap();
        }
        for &from in from {
            let rest = whole.iter().filter(|event| event.sequence > from);
            let resumed = resume(&mut client, session, from).await;
            assert!(
                resumed.iter().eq(rest),
                "{session} from {from}, compacted: {compacted}"
            );
        }
    }
    whole
}

fn lines_of(text: &[u8]) -> Vec<Bytes> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let lines = text.split(|byte| *byte == b'\n');
    lines.map(Bytes::copy_from_slice).collect()
}

#[tokio::test]
async fn every_line_of_a_session_is_told_once_wherever_a_replay_begins() {
    let served = serve(&[]).await;
    let lines = lines_of(SHAPED.as_bytes());
    record(&served, "shaped", &lines).await;
    let all: Vec<u64> = (0..=lines.len() as u64).collect();
    let events = resumes_exactly(&served, "shaped", &all).await;
    let (told, said) = (Said::of_events(&events), Said::of_lines(&lines));
    assert_eq!(told, said);
    assert!(
        said.text.len() == 2 && said.results.len() == 4 && said.turns == 2,
        "{said:?}"
    );
    // Lines that clients are not told of are history all the same.
    let read = read_all(&mut served.history().await, "shaped", 1).await;
    let read: Vec<Bytes> = read.unwrap().into_iter().map(|(_, line)| line).collect();
    assert_eq!(read, lines);
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|end| end == "jsonl") {
            found.push(path);
        }
    }
}

#[tokio::test]
#[ignore = "needs real sessions: the folder that BETCODE_CORPUS names"]
async fn every_line_of_real_sessions_is_told_once_wherever_a_replay_begins() {
    let folder = std::env::var_os("BETCODE_CORPUS").expect("BETCODE_CORPUS names no folder");
    let mut paths = Vec::new();
    files(Path::new(&folder), &mut paths);
    paths.sort();
    assert!(!paths.is_empty(), "no *.jsonl below {folder:?}");
    let served = serve(&[
        ("max_db_bytes", "1000000000"),
        ("max_sessions", "90"),
        ("max_memory_bytes", "1000000000"),
        ("max_clients", "10"),
        ("compaction", "false"),
    ])
    .await;
    let (mut total, mut events_total) = (0, 0);
    for (at, path) in paths.iter().enumerate() {
        let lines = lines_of(&std::fs::read(path).unwrap());
        let session = format!("real-{at}");
        record(&served, &session, &lines).await;
        let last = lines.len() as u64;
        let some: Vec<u64> = (0..12).map(|n| last * n / 11).collect();
        let events = resumes_exactly(&served, &session, &some).await;
        let (told, said) = (Said::of_events(&events), Said::of_lines(&lines));
        assert_eq!(told, said, "{}", path.display());
        total += lines.len();
        events_total += events.len();
    }
    println!(
        "{} sessions, {total} lines, {events_total} events",
        paths.len()
    );
}
