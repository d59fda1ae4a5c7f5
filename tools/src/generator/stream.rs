//! Streams: what the agent prints while it works, with partial messages.

use std::collections::VecDeque;

use super::Told;
use super::parts::{Scene, quoted};

/// The lines of a stream, without end; each without its newline.
#[derive(Debug, Clone)]
pub struct StreamLines {
    scene: Scene,
    ready: VecDeque<String>,
    turns: usize,
    cost_usd: f64,
}

impl StreamLines {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut lines = Self {
            scene: Scene::new(seed ^ 0x7374_7265),
            ready: VecDeque::new(),
            turns: 0,
            cost_usd: 0.0,
        };
        lines.init();
        lines
    }

    /// The session's id.
    #[must_use]
    pub fn session_id(&self) -> &str {
        &self.scene.session_id
    }

    fn init(&mut self) {
        let line = format!(
            r#"{{"type":"system","subtype":"init","cwd":{},"session_id":"{}","tools":["Task","Bash","Glob","Grep","Read","Edit","Write","WebFetch","TodoWrite"],"mcp_servers":[],"model":"{}","permissionMode":"default","slash_commands":["compact","context","cost","review"],"apiKeySource":"none","claude_code_version":"2.1.50","output_style":"default","uuid":"{}"}}"#,
            quoted(&self.scene.project.directory),
            self.scene.session_id,
            self.scene.model,
            self.scene.rng.uuid()
        );
        self.ready.push_back(line);
    }

    /// A prompt answered: messages with tools, then the result.
    fn turn(&mut self) {
        let steps = self.scene.rng.range(3, 24);
        for _ in 0..steps {
            self.message(true);
        }
        let text = self.message(false);
        self.turns += 1;
        self.cost_usd += steps as f64 * 0.01 + self.scene.rng.unit();
        let usage = self.scene.usage(text.len() / 4);
        self.ready.push_back(format!(
            r#"{{"type":"result","subtype":"success","is_error":false,"duration_ms":{},"duration_api_ms":{},"num_turns":{steps},"result":{},"stop_reason":null,"session_id":"{}","total_cost_usd":{:.6},"usage":{usage},"permission_denials":[],"uuid":"{}"}}"#,
            self.scene.rng.range(20_000, 400_000),
            self.scene.rng.range(20_000, 400_000),
            quoted(&text),
            self.scene.session_id,
            self.cost_usd,
            self.scene.rng.uuid()
        ));
    }

    /// One message of the model: its events, the whole of each block, the tool's result. Returns
    /// its text.
    fn message(&mut self, with_tool: bool) -> String {
        let id = self.scene.rng.id("msg_01", 22);
        let usage = self.scene.usage(2);
        let head = format!(
            r#""model":"{}","id":"{id}","type":"message","role":"assistant""#,
            self.scene.model
        );
        let tail = format!(r#""stop_reason":null,"stop_sequence":null,"usage":{usage}"#);
        self.event(&format!(
            r#"{{"type":"message_start","message":{{{head},"content":[],{tail}}}}}"#
        ));
        let mut index = 0;
        let mut text = String::new();
        if !with_tool || self.scene.rng.chance(50) {
            let thinks = with_tool && self.scene.rng.chance(40);
            let length = self.scene.rng.range(50, if with_tool { 300 } else { 1200 });
            text = self.scene.writer.prose(&mut self.scene.rng, length);
            let kind = if thinks { "thinking" } else { "text" };
            self.event(&format!(
                r#"{{"type":"content_block_start","index":{index},"content_block":{{"type":"{kind}","{kind}":""}}}}"#
            ));
            self.deltas(index, &format!("{kind}_delta"), kind, &text);
            let content = format!(r#"{{"type":"{kind}","{kind}":{}}}"#, quoted(&text));
            self.whole(&head, &content, &tail);
            self.event(&format!(
                r#"{{"type":"content_block_stop","index":{index}}}"#
            ));
            index += 1;
        }
        let mut result = None;
        if with_tool {
            let call = self.scene.tool_call();
            self.event(&format!(
                r#"{{"type":"content_block_start","index":{index},"content_block":{{"type":"tool_use","id":"{}","name":"{}","input":{{}}}}}}"#,
                call.id, call.name
            ));
            self.deltas(index, "input_json_delta", "partial_json", &call.input);
            let content = format!(
                r#"{{"type":"tool_use","id":"{}","name":"{}","input":{}}}"#,
                call.id, call.name, call.input
            );
            self.whole(&head, &content, &tail);
            self.event(&format!(
                r#"{{"type":"content_block_stop","index":{index}}}"#
            ));
            result = Some(call);
        }
        let reason = if with_tool { "tool_use" } else { "end_turn" };
        self.event(&format!(
            r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}","stop_sequence":null}},"usage":{usage},"context_management":{{"applied_edits":[]}}}}"#
        ));
        self.event(r#"{"type":"message_stop"}"#);
        if let Some(call) = result {
            self.scene.wait(30, 6_000);
            let line = format!(
                r#"{{"type":"user","message":{{"role":"user","content":[{{"tool_use_id":"{}","type":"tool_result","content":{},"is_error":false}}]}},"parent_tool_use_id":null,"session_id":"{}","uuid":"{}","timestamp":"{}","tool_use_result":{}}}"#,
                call.id,
                quoted(&call.output),
                self.scene.session_id,
                self.scene.rng.uuid(),
                self.scene.timestamp(),
                call.detail
            );
            self.ready.push_back(line);
        }
        text
    }

    /// `text` in pieces, as it is printed while the model writes: they add up to the whole.
    fn deltas(&mut self, index: usize, kind: &str, field: &str, text: &str) {
        let mut rest = text;
        while !rest.is_empty() {
            let wanted = self.scene.rng.range(6, 60);
            let cut = rest
                .char_indices()
                .map(|(at, _)| at)
                .find(|&at| at >= wanted);
            let (piece, after) = rest.split_at(cut.unwrap_or(rest.len()));
            self.event(&format!(
                r#"{{"type":"content_block_delta","index":{index},"delta":{{"type":"{kind}","{field}":{}}}}}"#,
                quoted(piece)
            ));
            rest = after;
        }
    }

    fn event(&mut self, event: &str) {
        self.scene.wait(5, 90);
        self.ready.push_back(format!(
            r#"{{"type":"stream_event","event":{event},"session_id":"{}","parent_tool_use_id":null,"uuid":"{}"}}"#,
            self.scene.session_id,
            self.scene.rng.uuid()
        ));
    }

    fn whole(&mut self, head: &str, content: &str, tail: &str) {
        self.ready.push_back(format!(
            r#"{{"type":"assistant","message":{{{head},"content":[{content}],{tail}}},"parent_tool_use_id":null,"session_id":"{}","uuid":"{}"}}"#,
            self.scene.session_id,
            self.scene.rng.uuid()
        ));
    }
}

impl Told for StreamLines {
    fn now_ms(&self) -> i64 {
        self.scene.now_ms
    }

    fn later(mut self, ms: i64) -> Self {
        self.scene.now_ms += ms;
        self
    }
}

impl Iterator for StreamLines {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        if self.ready.is_empty() {
            self.turn();
        }
        self.ready.pop_front().map(String::into_bytes)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn deltas_add_up_to_the_message_that_follows_them() {
        let mut partial = String::new();
        let mut compared = 0;
        for line in StreamLines::new(7).take(3000) {
            let line: Value = serde_json::from_slice(&line).unwrap();
            let delta = &line["event"]["delta"];
            match line["type"].as_str().unwrap() {
                "stream_event" => {
                    for field in ["text", "thinking", "partial_json"] {
                        partial.push_str(delta[field].as_str().unwrap_or_default());
                    }
                }
                "assistant" => {
                    let block = &line["message"]["content"][0];
                    match block["type"].as_str().unwrap() {
                        "tool_use" => {
                            let input: Value = serde_json::from_str(&partial).unwrap();
                            assert_eq!(input, block["input"]);
                        }
                        kind => assert_eq!(partial, block[kind].as_str().unwrap()),
                    }
                    partial.clear();
                    compared += 1;
                }
                _ => {}
            }
        }
        assert!(compared > 10, "{compared}");
    }
}
