//! Agent lines as the events that existing clients know: pure, bytes in, events out.
//!
//! # Sequences
//!
//! An event's `sequence` is the sequence of the line it comes from. A line gives any number of
//! events, mostly none or one; all of one line carry its sequence, in order. `from_sequence` N means
//! "I have everything up to and including line N", so that a replay from N begins with the first
//! event of the first later line that gives one. Lines that give no event are skipped by nobody:
//! they are there when the session is read with `betcode.history.v1`.
//!
//! # Context
//!
//! What a line gives depends on lines before it in little: text and tool calls that partial
//! output has given already are not given again by the whole message. A tool call that partial output
//! begins without what the tool is given, as it mostly does, is given by the whole message. A
//! [`Translator`] remembers that much, and forgets it when the message or the turn is over. Of a turn it
//! remembers whether the agent has said anything, for its `result` says that again, and whether the prompt
//! was the first one of a process. Before a replay resumes, it is shown the lines of the message or the turn
//! under way ([`Translator::matters`] finds them), and told whether the session's agent had begun before
//! (`Translator::began_before`). So the events of a line are the same wherever a replay begins.
//!
//! What an agent has to do, if it keeps that by single calls, depends on all of these calls. A translator that comes
//! to one and has not seen those before it is told of them first (`Translator::lacks_tasks`).
//!
//! # Lines in pieces
//!
//! A line that was too long for a message stands in several. The first of them ends within a value,
//! as does a line that was torn by its agent's end. What follows such a line gives events only if all
//! of it can be read, which the rest of a value never can: the brackets that it closes are open in the
//! piece before it. So no bound has to be known, which may have been another when it was recorded.
//! Before a replay resumes, a translator is shown such a line too, and the whole one that ends it.

mod blocks;
mod derived;
mod fit;
mod json;
mod readable;
mod tasks;
mod turn_end;

use std::collections::{HashMap, HashSet};

use betcode_schema_grpc::v1::agent_event::Event;
use betcode_schema_grpc::v1::{
    AgentEvent, PermissionRequest, QuestionOption, SessionInfo, TextDelta, ToolCallStart,
    UserQuestion,
};
use prost_types::Timestamp;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::limits::{FIRST_INIT_LINES_MAX, TRANSLATE_OBJECTS_PER_LINE_MAX};
pub(crate) use derived::plan_mode_of;
pub(crate) use fit::is_sent_whole;
use json::{flag, object, text};
pub(crate) use json::{from_struct, timestamp as timestamp_of, value_of};
pub(crate) use readable::readable;
pub(crate) use tasks::TaskChange;
use tasks::Tasks;

/// What agents call the permission mode in which they plan only.
pub(crate) const PLAN_MODE: &str = "plan";

/// Streams under way that are remembered: the agent and its sub-agents.
const STREAMS_MAX: usize = 64;

/// A line as the store has it.
#[derive(Debug, Clone, Copy)]
pub struct Line<'a> {
    /// Its sequence.
    pub sequence: u64,
    /// When the store received it, Unix milliseconds.
    pub received_ms: i64,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Turns lines of one session into events, in order.
#[derive(Debug)]
pub struct Translator {
    session_id: String,
    worktree_id: String,
    is_compacted: bool,
    /// The line with which the session's first agent began.
    began: Option<u64>,
    /// The line before ended within a value, and may go on.
    torn: bool,
    /// The turn has text of the agent's, which its `result` says again.
    spoken: bool,
    /// What is known of the process that prints the lines.
    process: Process,
    /// What the agent has to do, kept by single calls.
    tasks: Tasks,
    /// Messages under way, by the tool call of the sub-agent that writes them (`""`: the agent).
    streams: HashMap<String, Streamed>,
}

/// What is known of the process whose lines come next. Agents that read prompts from a stream print
/// `init` again at each turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Process {
    /// Nothing.
    Unknown,
    /// It was started for the prompt that came last.
    Started,
    /// It has printed something before.
    Running,
}

/// What a line matters to the events of the lines after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Matters {
    /// Nothing: the translator need not have seen it.
    Nothing,
    /// Relevant only behind a torn line: it shows that the torn line was not continued.
    IsWhole,
    /// The translator must have seen it.
    Something,
    /// The same, for what follows may be the rest of it.
    IsTorn,
    /// The translator must have seen it, and nothing before it matters any more.
    Begins,
}

/// What partial output has given of a message.
#[derive(Debug, Default)]
struct Streamed {
    message_id: String,
    text: bool,
    tools: HashSet<String>,
}

impl Translator {
    /// A translator for a session, before its first line.
    #[must_use]
    pub fn new(session_id: impl Into<String>) -> Self {
        Self {
            session_id: session_id.into(),
            worktree_id: String::new(),
            is_compacted: false,
            began: None,
            torn: false,
            spoken: false,
            process: Process::Unknown,
            tasks: Tasks::default(),
            streams: HashMap::new(),
        }
    }

    /// The same, of a session that belongs to a worktree.
    #[must_use]
    pub fn in_worktree(mut self, worktree_id: impl Into<String>) -> Self {
        self.worktree_id = worktree_id.into();
        self
    }

    /// Has `SessionInfo` say whether the session was compacted.
    pub(crate) fn say_compacted(&mut self, is_compacted: bool) {
        self.is_compacted = is_compacted;
    }

    /// The session's first agent began with this line, among its first [`FIRST_INIT_LINES_MAX`].
    pub(crate) fn began_before(&mut self, sequence: u64) {
        self.began = Some(sequence);
    }

    /// The line with which the session's first agent began, of those that were seen.
    pub(crate) fn began(&self) -> Option<u64> {
        self.began
    }

    /// Whether a line changes things to do of which the list is not known: then what the lines before it say of them
    /// ([`task_changes`], from the last one that [begins](TaskChange::begins) a list) has to be told first.
    pub(crate) fn lacks_tasks(&self, bytes: &[u8]) -> bool {
        let changes = task_changes(bytes);
        let first = changes.first();
        first.is_some_and(|change| self.tasks.lack_what_is_before(change))
    }

    /// What the lines before the next one say of things to do, from the beginning of the list on.
    pub(crate) fn begin_tasks(&mut self, changes: Vec<TaskChange>) {
        self.tasks.begin_with(changes);
    }

    /// Forgets what the agent has to do: not all lines before the next one were seen.
    pub(crate) fn forget_tasks(&mut self) {
        self.tasks = Tasks::default();
    }

    /// What a line matters to the lines after it.
    #[must_use]
    pub fn matters(bytes: &[u8]) -> Matters {
        let Objects { objects, ending } = read(&readable(bytes));
        let begins = |value: &Value| match text(value, "type") {
            "result" => true,
            "system" => is_init(value),
            "stream_event" => {
                parent(value).is_empty() && text(object(value, "event"), "type") == "message_start"
            }
            _ => false,
        };
        let matter = |value: &Value| match text(value, "type") {
            "stream_event" => true,
            "assistant" => speaks(value),
            "user" => process_of_prompt(value).is_some() || blocks::prints(value),
            "system" => is_init(value) || is_command_output(value),
            _ => begins(value),
        };
        match ending {
            Ending::Torn => Matters::IsTorn,
            // One that cannot be read to its end begins nothing behind a torn one.
            Ending::Whole if objects.first().is_some_and(begins) => Matters::Begins,
            _ if objects.iter().any(matter) => Matters::Something,
            Ending::Whole => Matters::IsWhole,
            Ending::Broken => Matters::Nothing,
        }
    }

    /// The events of the next line. What cannot be read gives none.
    pub fn translate(&mut self, line: Line<'_>) -> Vec<AgentEvent> {
        let mut events = Vec::new();
        let Objects { objects, ending } = read(&readable(line.bytes));
        if self.torn && ending != Ending::Whole {
            return events;
        }
        self.torn = ending == Ending::Torn;
        let may_change_tasks = ending == Ending::Whole && mentions_tasks(line.bytes);
        for value in objects {
            let mut whole = self.object(&value, line.sequence);
            if may_change_tasks {
                let change = task_change(&value);
                whole.extend(change.and_then(|change| self.tasks.apply(change)));
            }
            let timestamp = timestamp(&value, line.received_ms);
            let parts = whole.into_iter().flat_map(fit::parts);
            events.extend(parts.map(|event| AgentEvent {
                sequence: line.sequence,
                timestamp: Some(timestamp),
                parent_tool_use_id: fit::cut(parent(&value)),
                event: Some(event),
            }));
        }
        events
    }

    fn object(&mut self, value: &Value, sequence: u64) -> Vec<Event> {
        match text(value, "type") {
            "system" if is_init(value) => {
                self.streams.clear();
                self.spoken = false;
                let info = self.session_info(value, sequence);
                self.process = Process::Running;
                let mode = derived::permission_mode(value);
                [info].into_iter().chain(mode).collect()
            }
            "system" if is_command_output(value) => {
                self.spoken = true;
                let output = blocks::command_output(text(value, "content"));
                output.into_iter().collect()
            }
            "system" => derived::of_system(value),
            "stream_event" => self.partial(value).into_iter().collect(),
            "assistant" => self.assistant(value),
            "user" => self.user(value),
            "control_request" => control_request(value),
            "control_response" => derived::answered(value).into_iter().collect(),
            "control_cancel_request" => vec![derived::withdrawn(value)],
            "result" => {
                self.streams.clear();
                self.process = Process::Unknown;
                turn_end::events(value, std::mem::take(&mut self.spoken))
            }
            _ => Vec::new(),
        }
    }

    fn session_info(&mut self, value: &Value, sequence: u64) -> Event {
        let began = *self.began.get_or_insert(sequence);
        Event::SessionInfo(SessionInfo {
            // The id that the other calls take, not the agent's own.
            session_id: self.session_id.clone(),
            model: text(value, "model").to_owned(),
            working_directory: text(value, "cwd").to_owned(),
            message_count: sequence,
            // A later process of the agent goes on with the session.
            is_resumed: self.process != Process::Running
                && (began < sequence || sequence > FIRST_INIT_LINES_MAX),
            worktree_id: self.worktree_id.clone(),
            is_compacted: self.is_compacted,
            context_usage_percent: 0.0,
        })
    }

    fn partial(&mut self, value: &Value) -> Option<Event> {
        let event = object(value, "event");
        let key = parent(value);
        match text(event, "type") {
            "message_start" => {
                if self.streams.len() >= STREAMS_MAX {
                    self.streams.clear();
                }
                let message_id = text(object(event, "message"), "id").to_owned();
                let streamed = Streamed {
                    message_id,
                    ..Streamed::default()
                };
                if key.is_empty() {
                    (self.spoken, self.process) = (true, Process::Running);
                }
                self.streams.insert(key.to_owned(), streamed);
                None
            }
            "content_block_start" => {
                let block = object(event, "content_block");
                // What the tool is given comes piece by piece behind it, mostly: the whole message tells.
                if text(block, "type") != "tool_use" || !has_input(block) {
                    return None;
                }
                let start = tool_call_start(block);
                if let Some(streamed) = self.streams.get_mut(key) {
                    streamed.tools.insert(start.tool_id.clone());
                }
                Some(Event::ToolCallStart(start))
            }
            "content_block_delta" => {
                let delta = object(event, "delta");
                if text(delta, "type") != "text_delta" {
                    return None;
                }
                if let Some(streamed) = self.streams.get_mut(key) {
                    streamed.text = true;
                }
                self.spoken |= key.is_empty();
                let text = text(delta, "text").to_owned();
                Some(Event::TextDelta(TextDelta {
                    text,
                    is_complete: false,
                }))
            }
            _ => None,
        }
    }

    fn user(&mut self, value: &Value) -> Vec<Event> {
        let events = blocks::user(value);
        let prints = |event: &Event| matches!(event, Event::TextDelta(_));
        self.spoken |= events.iter().any(prints);
        if let Some(process) = process_of_prompt(value) {
            self.process = process;
        }
        events
    }

    fn assistant(&mut self, value: &Value) -> Vec<Event> {
        self.spoken |= speaks(value);
        let message = object(value, "message");
        let id = text(message, "id");
        let streamed = self
            .streams
            .get(parent(value))
            .filter(|s| s.message_id == id);
        let mut events = Vec::new();
        for block in blocks::of(object(message, "content")) {
            match text(&block, "type") {
                "text" => {
                    // Told already as it was written: this says only that it is complete.
                    let was_streamed = streamed.is_some_and(|s| s.text);
                    let text = if was_streamed {
                        ""
                    } else {
                        text(&block, "text")
                    }
                    .to_owned();
                    events.push(Event::TextDelta(TextDelta {
                        text,
                        is_complete: true,
                    }));
                }
                "tool_use" => {
                    let start = tool_call_start(&block);
                    if !streamed.is_some_and(|s| s.tools.contains(&start.tool_id)) {
                        events.push(Event::ToolCallStart(start));
                    }
                    let derived = derived::of_tool_call(&block);
                    events.extend(derived.filter(|event| {
                        // A sub-agent may have things of its own to do, but no mode.
                        parent(value).is_empty() || matches!(event, Event::TodoUpdate(_))
                    }));
                }
                _ => {}
            }
        }
        events
    }
}

/// How what stands on a line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// All of it can be read.
    Whole,
    /// Within a value.
    Torn,
    /// With what is no JSON.
    Broken,
}

/// The JSON objects on a line: one, mostly; two when the agent's writes ran together.
struct Objects {
    objects: Vec<Value>,
    ending: Ending,
}

fn read(line: &str) -> Objects {
    let mut objects = Vec::new();
    let mut ending = Ending::Whole;
    for value in serde_json::Deserializer::from_str(line).into_iter::<&RawValue>() {
        match value {
            Ok(value) if value.get().starts_with('{') => {
                if objects.len() < TRANSLATE_OBJECTS_PER_LINE_MAX {
                    objects.push(value_of(value.get()));
                }
            }
            Ok(_) => {}
            Err(error) if error.is_eof() => ending = Ending::Torn,
            Err(_) => ending = Ending::Broken,
        }
    }
    Objects { objects, ending }
}

/// What a line says of things to do.
pub(crate) fn task_changes(bytes: &[u8]) -> Vec<TaskChange> {
    if !mentions_tasks(bytes) {
        return Vec::new();
    }
    match read(&readable(bytes)) {
        Objects {
            objects,
            ending: Ending::Whole,
        } => objects.iter().filter_map(task_change).collect(),
        _ => Vec::new(),
    }
}

/// Whether a line can say something of things to do. Most do not, and need not be read for that.
fn mentions_tasks(bytes: &[u8]) -> bool {
    const NAME: &[u8] = br#""task"#;
    bytes.windows(NAME.len()).any(|part| part == NAME)
}

fn task_change(value: &Value) -> Option<TaskChange> {
    match text(value, "type") {
        "user" => blocks::task_change(value),
        _ => None,
    }
}

fn is_init(value: &Value) -> bool {
    text(value, "type") == "system" && text(value, "subtype") == "init"
}

/// What a command of the agent's own printed, such as `/cost`.
fn is_command_output(value: &Value) -> bool {
    text(value, "subtype") == "local_command_output"
}

/// Whether the agent itself, and no sub-agent, says something in a whole message.
fn speaks(value: &Value) -> bool {
    let content = object(object(value, "message"), "content");
    parent(value).is_empty() && blocks::any_text(content, |text| !text.is_empty())
}

/// Whether this is what the daemon wrote to the agent for the user. Lines that the agent prints have more
/// to say of themselves.
fn is_prompt(value: &Value) -> bool {
    let printed = ["uuid", "parent_tool_use_id"];
    value.get("session_id").is_some() && printed.iter().all(|name| value.get(name).is_none())
}

/// For which process a prompt is: the first one of each names no session (`prompt::line`).
fn process_of_prompt(value: &Value) -> Option<Process> {
    let session_id = object(value, "session_id").as_str()?;
    is_prompt(value).then_some(match session_id {
        "" => Process::Started,
        _ => Process::Running,
    })
}

fn parent(value: &Value) -> &str {
    text(value, "parent_tool_use_id")
}

/// The line's own time, else its arrival.
fn timestamp(value: &Value, received_ms: i64) -> Timestamp {
    text(value, "timestamp")
        .parse()
        .unwrap_or_else(|_| timestamp_of(received_ms))
}

fn has_input(block: &Value) -> bool {
    let input = object(block, "input").as_object();
    input.is_some_and(|input| !input.is_empty())
}

fn tool_call_start(block: &Value) -> ToolCallStart {
    let input = object(block, "input");
    ToolCallStart {
        tool_id: text(block, "id").to_owned(),
        tool_name: text(block, "name").to_owned(),
        description: fit::description(input),
        input: fit::input(input),
    }
}

/// What an agent asks, as events that fit.
pub(crate) fn asked(value: &Value) -> Vec<Event> {
    let events = control_request(value).into_iter();
    events.flat_map(fit::parts).collect()
}

fn control_request(value: &Value) -> Vec<Event> {
    let request = object(value, "request");
    if text(request, "subtype") != "can_use_tool" {
        return Vec::new();
    }
    let request_id = text(value, "request_id").to_owned();
    let (tool_name, input) = (text(request, "tool_name"), object(request, "input"));
    if tool_name == "AskUserQuestion" {
        let questions = object(input, "questions")
            .as_array()
            .cloned()
            .unwrap_or_default();
        return questions
            .iter()
            .filter(|question| !question_text(question).is_empty())
            .map(|question| user_question(&request_id, question))
            .collect();
    }
    vec![Event::PermissionRequest(PermissionRequest {
        request_id,
        tool_name: tool_name.to_owned(),
        description: fit::description(input),
        input: fit::input(input),
    })]
}

/// What a question asks; some agents write it without an object around it.
pub(crate) fn question_text(question: &Value) -> &str {
    let text = |question| text(question, "question");
    question.as_str().unwrap_or_else(|| text(question))
}

fn user_question(request_id: &str, question: &Value) -> Event {
    let options = object(question, "options")
        .as_array()
        .cloned()
        .unwrap_or_default();
    Event::UserQuestion(UserQuestion {
        question_id: request_id.to_owned(),
        question: question_text(question).to_owned(),
        options: options
            .iter()
            .map(|option| QuestionOption {
                // The agent takes the label itself as the answer.
                value: option
                    .as_str()
                    .unwrap_or_else(|| text(option, "label"))
                    .to_owned(),
                label: option
                    .as_str()
                    .unwrap_or_else(|| text(option, "label"))
                    .to_owned(),
                description: text(option, "description").to_owned(),
            })
            .collect(),
        multi_select: flag(question, "multiSelect") || flag(question, "multi_select"),
    })
}

#[cfg(test)]
mod tests;
