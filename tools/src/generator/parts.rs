//! What both kinds of sessions are made of.

use chrono::{DateTime, SecondsFormat, Utc};

use super::project::Project;
use super::rng::Rng;
use super::text::Writer;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// When generated sessions begin: a fixed time, so that a seed means the same bytes for ever.
const BEGIN_MS: i64 = 1_757_320_000_000;

/// A JSON string.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string()
}

/// What stays the same over a session, and what moves on.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    /// Random numbers.
    pub(super) rng: Rng,
    /// Prose.
    pub(super) writer: Writer,
    /// Files.
    pub(super) project: Project,
    /// The agent's id of the session.
    pub(super) session_id: String,
    /// The model.
    pub(super) model: &'static str,
    /// Unix milliseconds.
    pub(super) now_ms: i64,
    /// Tokens read from the cache so far.
    pub(super) cached_tokens: usize,
}

/// What a tool was asked for, and what it answered.
struct Call {
    name: &'static str,
    input: String,
    output: String,
    detail: String,
}

/// One thing that the agent does with a tool.
#[derive(Debug, Clone)]
pub(super) struct ToolCall {
    /// Id that call and result share.
    pub(super) id: String,
    /// The tool.
    pub(super) name: &'static str,
    /// Its input as JSON.
    pub(super) input: String,
    /// What it answers, as text.
    pub(super) output: String,
    /// What the transcript keeps beside the text, as JSON.
    pub(super) detail: String,
    /// An image in base64, for the tool that takes pictures.
    pub(super) image: Option<String>,
}

impl Scene {
    /// The scene of a seed.
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let writer = Writer::new(&mut rng);
        let project = Project::new(&mut rng, &writer);
        let model = *rng.pick(&[
            "claude-opus-4-6",
            "claude-sonnet-4-5-20250929",
            "claude-opus-4-6",
        ]);
        let session_id = rng.uuid();
        let now_ms = BEGIN_MS + (seed % 5000) as i64 * 7_200_000;
        Self {
            rng,
            writer,
            project,
            session_id,
            model,
            now_ms,
            cached_tokens: 14_000,
        }
    }

    /// Time goes on: seconds between messages, sometimes minutes or a night.
    pub(super) fn wait(&mut self, low_ms: usize, high_ms: usize) {
        self.now_ms += self.rng.range(low_ms, high_ms) as i64;
    }

    /// Now, as transcripts write it.
    pub(super) fn timestamp(&self) -> String {
        DateTime::<Utc>::from_timestamp_millis(self.now_ms)
            .unwrap_or_default()
            .to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    /// `usage` of a message that wrote `output_tokens`.
    pub(super) fn usage(&mut self, output_tokens: usize) -> String {
        let created = self.rng.range(120, 4000);
        let read = self.cached_tokens;
        self.cached_tokens = (self.cached_tokens + created) % 180_000;
        format!(
            r#"{{"input_tokens":{},"cache_creation_input_tokens":{created},"cache_read_input_tokens":{read},"cache_creation":{{"ephemeral_5m_input_tokens":0,"ephemeral_1h_input_tokens":{created}}},"output_tokens":{output_tokens},"service_tier":"standard"}}"#,
            self.rng.range(1, 9)
        )
    }

    /// The next thing the agent does.
    pub(super) fn tool_call(&mut self) -> ToolCall {
        self.writer.drift(&mut self.rng);
        let id = self.rng.id("toolu_01", 22);
        let call = match self.rng.below(100) {
            0..36 => self.read_file(),
            36..60 => self.edit_file(),
            60..68 => self.write_file(),
            _ => self.run_command(),
        };
        ToolCall {
            id,
            name: call.name,
            input: call.input,
            output: call.output,
            detail: call.detail,
            image: None,
        }
    }

    /// The agent reads a file, or a part of it.
    fn read_file(&mut self) -> Call {
        let file = self.project.open(&mut self.rng, &self.writer);
        let first = if self.rng.chance(70) {
            0
        } else {
            self.rng.below(file.lines.len())
        };
        let count = if self.rng.chance(60) {
            2000
        } else {
            self.rng.range(20, 80)
        };
        let shown = file
            .lines
            .iter()
            .skip(first)
            .take(count)
            .cloned()
            .collect::<Vec<_>>();
        let detail = format!(
            r#"{{"type":"text","file":{{"filePath":{},"content":{},"numLines":{},"startLine":{},"totalLines":{}}}}}"#,
            quoted(&file.path),
            quoted(&shown.join("\n")),
            shown.len(),
            first + 1,
            file.lines.len()
        );
        let input = format!(r#"{{"file_path":{}}}"#, quoted(&file.path));
        Call {
            name: "Read",
            input,
            output: file.numbered(first, count),
            detail,
        }
    }

    /// The agent changes a line.
    fn edit_file(&mut self) -> Call {
        let edit = self.project.edit(&mut self.rng, &self.writer);
        let input = format!(
            r#"{{"replace_all":false,"file_path":{},"old_string":{},"new_string":{}}}"#,
            quoted(&edit.path),
            quoted(&edit.old),
            quoted(&edit.new)
        );
        let output = format!("The file {} has been updated successfully.", edit.path);
        let detail = format!(
            r#"{{"filePath":{},"oldString":{},"newString":{},"structuredPatch":[{{"oldStart":{},"lines":[{},{}]}}],"userModified":false,"replaceAll":false}}"#,
            quoted(&edit.path),
            quoted(&edit.old),
            quoted(&edit.new),
            edit.line,
            quoted(&format!("-{}", edit.old)),
            quoted(&format!("+{}", edit.new))
        );
        Call {
            name: "Edit",
            input,
            output,
            detail,
        }
    }

    /// The agent makes a file.
    fn write_file(&mut self) -> Call {
        let file = self.project.create(&mut self.rng, &self.writer);
        let content = quoted(&file.content());
        let input = format!(
            r#"{{"file_path":{},"content":{content}}}"#,
            quoted(&file.path)
        );
        let output = format!("File created successfully at: {}", file.path);
        let detail = format!(
            r#"{{"type":"create","filePath":{},"content":{content},"structuredPatch":[]}}"#,
            quoted(&file.path)
        );
        Call {
            name: "Write",
            input,
            output,
            detail,
        }
    }

    /// The agent runs a command.
    fn run_command(&mut self) -> Call {
        let (command, output) = self.shell();
        let words = self.rng.range(3, 7);
        let input = format!(
            r#"{{"command":{},"description":{}}}"#,
            quoted(&command),
            quoted(&self.writer.sentence(&mut self.rng, words))
        );
        let detail = format!(
            r#"{{"stdout":{},"stderr":"","interrupted":false,"isImage":false}}"#,
            quoted(&output)
        );
        Call {
            name: "Bash",
            input,
            output,
            detail,
        }
    }

    /// A picture: bytes that do not compress, as images are.
    pub(super) fn image(&mut self, bytes: usize) -> String {
        let mut picture = b"\x89PNG\r\n\x1a\n".to_vec();
        picture.extend(self.rng.bytes(bytes));
        STANDARD.encode(&picture)
    }

    fn shell(&mut self) -> (String, String) {
        let rng = &mut self.rng;
        let writer = &self.writer;
        let mut output = String::new();
        let command = match rng.below(4) {
            0 => {
                let name = writer.name(rng).to_owned();
                for _ in 0..rng.range(1, 40) {
                    output.push_str(&format!(
                        "src/{}.ts:{}:    {}.{name}({}, '{}');\n",
                        writer.name(rng),
                        rng.range(1, 400),
                        writer.name(rng),
                        writer.name(rng),
                        writer.word(rng)
                    ));
                }
                format!("grep -rn \"{name}\" src/")
            }
            1 => {
                let tests = rng.range(5, 60);
                for number in 0..tests {
                    let words = rng.range(3, 8);
                    output.push_str(&format!(
                        "  {} {} {} ({} ms)\n",
                        if rng.chance(96) { "✓" } else { "✗" },
                        writer.name(rng),
                        writer.sentence(rng, words),
                        number % 7 + rng.below(40)
                    ));
                }
                output.push_str(&format!(
                    "\nTests: {tests} passed, {tests} total\nTime: {}.{} s\n",
                    rng.below(20),
                    rng.below(999)
                ));
                "npm test 2>&1 | tail -80".to_owned()
            }
            2 => {
                for _ in 0..rng.range(2, 12) {
                    let words = rng.range(4, 9);
                    output.push_str(&format!(
                        "{:07x} {}\n",
                        rng.bits() >> 36,
                        writer.sentence(rng, words)
                    ));
                }
                "git log --oneline | head -12".to_owned()
            }
            _ => {
                for _ in 0..rng.range(1, 30) {
                    output.push_str(&format!(
                        "-rw-r--r-- 1 dev dev {:>6} Sep {:>2} {:02}:{:02} {}.ts\n",
                        rng.below(40_000),
                        rng.range(1, 30),
                        rng.below(24),
                        rng.below(60),
                        writer.name(rng)
                    ));
                }
                format!("ls -la {}", self.project.directory)
            }
        };
        (command, output)
    }
}
