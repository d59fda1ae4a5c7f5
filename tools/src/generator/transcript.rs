//! Transcripts: the files that the agent keeps of its conversations.

use std::collections::VecDeque;

use super::Told;
use super::parts::{Scene, ToolCall, quoted};

/// The lines of a transcript, without end; each without its newline.
#[derive(Debug, Clone)]
pub struct TranscriptLines {
    scene: Scene,
    parent: Option<String>,
    ready: VecDeque<String>,
}

impl TranscriptLines {
    /// The transcript of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut scene = Scene::new(seed ^ 0x7472_616e);
        let summary = {
            let words = scene.rng.range(4, 8);
            scene.writer.sentence(&mut scene.rng, words)
        };
        let leaf = scene.rng.uuid();
        let first = format!(
            r#"{{"type":"summary","summary":{},"leafUuid":"{leaf}"}}"#,
            quoted(&summary)
        );
        Self {
            scene,
            parent: None,
            ready: [first].into(),
        }
    }

    /// The session's id, which is also the stem of the file's name.
    #[must_use]
    pub fn session_id(&self) -> &str {
        &self.scene.session_id
    }

    /// A question, and all that follows until it is answered.
    fn turn(&mut self) {
        // Most questions follow soon; some the next morning.
        if self.scene.rng.chance(5) {
            self.scene.wait(1_800_000, 40_000_000);
        } else {
            self.scene.wait(4_000, 240_000);
        }
        let length = self.scene.rng.range(40, 500);
        let question = self.scene.writer.prose(&mut self.scene.rng, length);
        let message = format!(r#"{{"role":"user","content":{}}}"#, quoted(&question));
        self.line("user", &message, "");
        for _ in 0..self.scene.rng.range(2, 14) {
            self.step();
        }
        let length = self.scene.rng.range(150, 1600);
        let answer = self.scene.writer.prose(&mut self.scene.rng, length);
        let content = format!(r#"{{"type":"text","text":{}}}"#, quoted(&answer));
        let id = self.scene.rng.id("msg_01", 22);
        self.assistant(&id, &content, length / 4);
    }

    /// A thought or a word, a call of a tool, its result.
    fn step(&mut self) {
        let id = self.scene.rng.id("msg_01", 22);
        if self.scene.rng.chance(50) {
            let length = self.scene.rng.range(60, 400);
            let text = self.scene.writer.prose(&mut self.scene.rng, length);
            let content = if self.scene.rng.chance(18) {
                let signature = self.scene.image(240);
                format!(
                    r#"{{"type":"thinking","thinking":{},"signature":"{signature}"}}"#,
                    quoted(&text)
                )
            } else {
                format!(r#"{{"type":"text","text":{}}}"#, quoted(&text))
            };
            self.assistant(&id, &content, length / 4);
        }
        let mut call = self.scene.tool_call();
        if self.scene.rng.below(400) == 0 {
            let bytes = self.scene.rng.range(4_000, 60_000);
            call.image = Some(self.scene.image(bytes));
        }
        let content = format!(
            r#"{{"type":"tool_use","id":"{}","name":"{}","input":{}}}"#,
            call.id, call.name, call.input
        );
        self.assistant(&id, &content, call.input.len() / 4);
        self.result(&call);
    }

    fn assistant(&mut self, id: &str, content: &str, tokens: usize) {
        self.scene.wait(900, 16_000);
        let usage = self.scene.usage(tokens);
        let message = format!(
            r#"{{"model":"{}","id":"{id}","type":"message","role":"assistant","content":[{content}],"stop_reason":null,"stop_sequence":null,"usage":{usage}}}"#,
            self.scene.model
        );
        let request = format!(r#","requestId":"{}""#, self.scene.rng.id("req_011C", 20));
        self.line("assistant", &message, &request);
    }

    fn result(&mut self, call: &ToolCall) {
        self.scene.wait(20, 5_000);
        let (content, detail) = match &call.image {
            Some(image) => {
                let picture = format!(
                    r#"[{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{image}"}}}}]"#
                );
                let detail = format!(r#"{{"type":"image","file":{{"base64":"{image}"}}}}"#);
                (picture, detail)
            }
            None => (quoted(&call.output), call.detail.clone()),
        };
        let message = format!(
            r#"{{"role":"user","content":[{{"tool_use_id":"{}","type":"tool_result","content":{content}}}]}}"#,
            call.id
        );
        self.line("user", &message, &format!(r#","toolUseResult":{detail}"#));
    }

    fn line(&mut self, kind: &str, message: &str, more: &str) {
        let uuid = self.scene.rng.uuid();
        let parent = self
            .parent
            .as_ref()
            .map_or("null".to_owned(), |p| format!("\"{p}\""));
        self.ready.push_back(format!(
            r#"{{"parentUuid":{parent},"isSidechain":false,"userType":"external","cwd":{},"sessionId":"{}","version":"2.1.50","gitBranch":"main","type":"{kind}","message":{message},"uuid":"{uuid}","timestamp":"{}"{more}}}"#,
            quoted(&self.scene.project.directory),
            self.scene.session_id,
            self.scene.timestamp()
        ));
        self.parent = Some(uuid);
    }
}

impl Told for TranscriptLines {
    fn now_ms(&self) -> i64 {
        self.scene.now_ms
    }

    fn later(mut self, ms: i64) -> Self {
        self.scene.now_ms += ms;
        self
    }
}

impl Iterator for TranscriptLines {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.ready.is_empty() {
            self.turn();
        }
        self.ready.pop_front().map(String::into_bytes)
    }
}
