//! What the agent asks: open requests, standing grants, and answers. Pure.
//!
//! * A request stays open until it has an answer, the agent withdraws it, its turn is over, or the
//!   agent is to end. The first valid answer wins; a later one finds no open request.
//! * A grant answers every request for its tool, those that are open already as well: with yes when
//!   it is given, with no when it is refused. Questions to the user are never answered by grants.
//! * Each answer is a line of history, and must fit one. What an agent asks in a line so long that no
//!   answer would fit is denied without asking anybody, and so are questions without a question.
//! * The questions of one request may be answered together or one by one, by anybody; the agent
//!   hears of it when all have an answer.

use std::collections::{BTreeMap, HashMap};

use betcode_schema_grpc::v1::PermissionDecision as Decision;
use betcode_schema_grpc::v1::agent_event::Event;
use betcode_storage::capacity::text;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::prompt::{Verdict, answer};
use super::refusal::Refusal;
use super::signals::Ask;
use crate::limits::{
    GRANTS_MAX, LARGE_INPUT_TEXT_BYTES_MAX, OPEN_REQUESTS_MAX, TOOL_NAME_BYTES_MAX,
};
use crate::translate::{self, is_sent_whole, question_text, readable, value_of};

/// The tool by which the agent asks the user something.
const ASK_USER: &str = "AskUserQuestion";

/// A request without an answer.
#[derive(Debug)]
struct Open {
    ask: Ask,
    /// The line that brought it.
    sequence: u64,
    since_ms: u64,
    /// Answers so far, by question.
    answers: Map<String, Value>,
}

impl Open {
    fn is_question(&self) -> bool {
        self.ask.tool_name == ASK_USER
    }

    fn is_sent_whole(&self) -> bool {
        is_sent_whole(&value_of(&readable(self.ask.input.as_bytes())))
    }

    /// What is still asked.
    fn events(&self) -> Vec<Event> {
        let asked = translate::asked(&value_of(&readable(self.ask.object.as_bytes())));
        let unanswered = asked.into_iter().filter(|event| !self.has_answer(event));
        unanswered.collect()
    }

    /// What is still asked before the last question that has an answer.
    fn skipped(&self) -> Vec<Event> {
        let asked = translate::asked(&value_of(&readable(self.ask.object.as_bytes())));
        let last = asked.iter().rposition(|event| self.has_answer(event));
        let before = asked.into_iter().take(last.unwrap_or_default());
        before.filter(|event| !self.has_answer(event)).collect()
    }

    fn has_answer(&self, event: &Event) -> bool {
        matches!(event, Event::UserQuestion(ask) if self.answers.contains_key(&ask.question))
    }

    fn input(&self) -> Map<String, Value> {
        match value_of(&readable(self.ask.input.as_bytes())) {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    fn questions(&self) -> Vec<String> {
        let input = self.input();
        let questions = input.get("questions").and_then(Value::as_array);
        let texts = questions.into_iter().flatten().map(question_text);
        texts
            .filter(|text| !text.is_empty())
            .map(str::to_owned)
            .collect()
    }
}

/// Open requests and grants of a session.
#[derive(Debug)]
pub(crate) struct Requests {
    open: Vec<Open>,
    grants: BTreeMap<String, bool>,
    line_bytes_max: usize,
}

/// What follows from a decision.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    /// Answers for the agent.
    pub(crate) answers: Vec<Bytes>,
    /// Whether the turn is to be interrupted.
    pub(crate) interrupts: bool,
}

impl Requests {
    /// None yet. Their answers are lines of at most `line_bytes_max`.
    pub(crate) fn new(line_bytes_max: usize) -> Self {
        Self {
            open: Vec::new(),
            grants: BTreeMap::new(),
            line_bytes_max,
        }
    }

    fn check_fits(&self, request_id: &str, line: &Bytes) -> Result<(), Refusal> {
        // One byte less: a line of just so many is one that goes on in the next message.
        let (bytes, max) = (line.len(), self.line_bytes_max.saturating_sub(1));
        if bytes <= max {
            return Ok(());
        }
        let (takes, most) = text::bytes_apart(bytes as u64, max as u64);
        let message = format!(
            "the answer takes {takes}, and a line of history at most {most}; say less, or deny"
        );
        Err(Refusal::new("TOO_LONG", message).with("request_id", request_id))
    }

    /// Takes in a request. The answer, when there is one without asking anybody.
    pub(crate) fn asked(&mut self, now_ms: u64, sequence: u64, ask: Ask) -> Option<Bytes> {
        let open = Open {
            ask,
            sequence,
            since_ms: now_ms,
            answers: Map::new(),
        };
        let request_id = &open.ask.request_id;
        if request_id.len() > LARGE_INPUT_TEXT_BYTES_MAX {
            let why = format!(
                "the request's id is longer than {LARGE_INPUT_TEXT_BYTES_MAX} bytes, and nobody could \
                 answer it; use a shorter one"
            );
            return Some(answer(request_id, &Verdict::Deny(&why)));
        }
        if open.is_question() && open.questions().is_empty() {
            let why = "there is no question in it that anybody could answer; write `questions`, each \
                       with its text as `question`";
            return Some(answer(request_id, &Verdict::Deny(why)));
        }
        // It has the input in it, and more around it.
        let yes = answer(request_id, &Verdict::Allow(&open.ask.input));
        if self.check_fits(request_id, &yes).is_err() {
            let why =
                "the request is too long: its answer would not fit a line of history; ask for less";
            return Some(answer(request_id, &Verdict::Deny(why)));
        }
        if let Some(answer) = self.by_grant(&open) {
            return Some(answer);
        }
        // The agent's own mistake, should it use an id twice: the later request counts.
        self.open
            .retain(|other| other.ask.request_id != open.ask.request_id);
        if self.open.len() >= OPEN_REQUESTS_MAX {
            let why =
                format!("{OPEN_REQUESTS_MAX} requests are open; ask again when some are answered");
            return Some(answer(&open.ask.request_id, &Verdict::Deny(&why)));
        }
        self.open.push(open);
        None
    }

    fn by_grant(&self, open: &Open) -> Option<Bytes> {
        if open.is_question() {
            return None;
        }
        let verdict = match self.grants.get(&open.ask.tool_name)? {
            true => Verdict::Allow(&open.ask.input),
            false => Verdict::Deny("this tool is refused for the session"),
        };
        Some(answer(&open.ask.request_id, &verdict))
    }

    /// Closes what the agent withdraws; whether it was open.
    pub(crate) fn withdrawn(&mut self, request_id: &str) -> bool {
        self.take(request_id).is_some()
    }

    /// Closes all: their turn is over, or their agent.
    pub(crate) fn close(&mut self) {
        self.open.clear();
    }

    /// Whether a request is open, and so the agent waits for somebody.
    pub(crate) fn waits(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether a request is open.
    pub(crate) fn is_open(&self, request_id: &str) -> bool {
        self.position(request_id).is_some()
    }

    /// The line that brought an open request.
    pub(crate) fn sequence_of(&self, request_id: &str) -> Option<u64> {
        let open = self.open.get(self.position(request_id)?)?;
        Some(open.sequence)
    }

    /// Open requests from lines up to `sequence`, as events.
    pub(crate) fn events_up_to(&self, sequence: u64) -> Vec<Event> {
        self.events_where(|open| open.sequence <= sequence)
    }

    /// Open requests from lines before `sequence`, as events.
    pub(crate) fn events_before(&self, sequence: u64) -> Vec<Event> {
        self.events_where(|open| open.sequence < sequence)
    }

    /// The open requests of one line, as events.
    pub(crate) fn events_of(&self, sequence: u64) -> Vec<Event> {
        self.events_where(|open| open.sequence == sequence)
    }

    /// A request, if it is open, as events.
    pub(crate) fn events_of_request(&self, request_id: &str) -> Vec<Event> {
        self.events_where(|open| open.ask.request_id == request_id)
    }

    /// Questions of an open request that have no answer, though later ones of it have.
    pub(crate) fn skipped_questions(&self, request_id: &str) -> Vec<Event> {
        let open = self.open.iter();
        let of_it = open.filter(|open| open.ask.request_id == request_id);
        of_it.flat_map(Open::skipped).collect()
    }

    fn events_where(&self, is_wanted: impl Fn(&Open) -> bool) -> Vec<Event> {
        let open = self.open.iter().filter(|open| is_wanted(open));
        open.flat_map(Open::events).collect()
    }

    fn take(&mut self, request_id: &str) -> Option<Open> {
        let at = self.position(request_id)?;
        Some(self.open.remove(at))
    }

    fn position(&self, request_id: &str) -> Option<usize> {
        self.open
            .iter()
            .position(|open| open.ask.request_id == request_id)
    }

    fn find(&mut self, request_id: &str) -> Result<&mut Open, Refusal> {
        match self
            .position(request_id)
            .and_then(|at| self.open.get_mut(at))
        {
            Some(open) => Ok(open),
            None => {
                let message = "there is no such open request: it has an answer already, or its turn is over, \
                     or its agent ends";
                Err(Refusal::new("UNKNOWN_REQUEST", message).with("request_id", request_id))
            }
        }
    }

    /// Answers a request for permission.
    ///
    /// # Errors
    /// No such open request; a decision that says nothing, or cannot be meant.
    pub(crate) fn decide(
        &mut self,
        request_id: &str,
        decision: Decision,
        updated_input: Option<&str>,
        message: &str,
    ) -> Result<Decided, Refusal> {
        let open = self.find(request_id)?;
        let (question, tool) = (open.is_question(), open.ask.tool_name.clone());
        let why = match message {
            "" => "the user said no",
            message => message,
        };
        let allows = !matches!(
            decision,
            Decision::Deny | Decision::DenyNoInterrupt | Decision::DenyWithInterrupt
        );
        if question && allows {
            let message = "this is a question: answer it with question_response, or deny it";
            return Err(Refusal::invalid(message).with("request_id", request_id));
        }
        let line = match decision {
            Decision::AllowOnce | Decision::AllowSession => {
                answer(request_id, &Verdict::Allow(&open.ask.input))
            }
            Decision::AllowWithEdit if !open.is_sent_whole() => {
                let message =
                    "its input is too large to be told whole: allow it as it is, or deny it";
                return Err(Refusal::invalid(message).with("request_id", request_id));
            }
            Decision::AllowWithEdit => match updated_input {
                Some(input) => answer(request_id, &Verdict::Allow(input)),
                None => {
                    let message = "updated_input is missing: say what the tool is to be given";
                    return Err(Refusal::invalid(message).with("request_id", request_id));
                }
            },
            Decision::Deny | Decision::DenyNoInterrupt | Decision::DenyWithInterrupt => {
                answer(request_id, &Verdict::Deny(why))
            }
            Decision::Unspecified => {
                let message =
                    "the decision is missing, or one that this daemon does not know: allow or deny";
                return Err(Refusal::invalid(message).with("request_id", request_id));
            }
        };
        // Before the request is closed: what cannot be done leaves it open.
        self.check_fits(request_id, &line)?;
        if decision == Decision::AllowSession {
            self.check_grant(&tool)?;
        }
        self.take(request_id);
        let mut answers = vec![line];
        if decision == Decision::AllowSession {
            answers.extend(self.set_grant(&tool, true)?);
        }
        Ok(Decided {
            answers,
            interrupts: decision == Decision::DenyWithInterrupt,
        })
    }

    /// Answers questions; the line for the agent when all of the request have an answer.
    ///
    /// # Errors
    /// No such open question; answers to what was not asked.
    pub(crate) fn answer(
        &mut self,
        question_id: &str,
        answers: HashMap<String, String>,
    ) -> Result<Option<Bytes>, Refusal> {
        let open = self.find(question_id)?;
        if !open.is_question() {
            let message = "this is no question: answer it with permission";
            return Err(Refusal::invalid(message).with("request_id", question_id));
        }
        let questions = open.questions();
        let mut given = Map::new();
        let alone = answers.len() == 1;
        for (name, text) in answers {
            // The only answer to the only question, whatever it is called.
            let question = match questions.as_slice() {
                [only] if alone => only.clone(),
                all if all.contains(&name) => name,
                _ => {
                    let message = format!("{name:?} is not among the questions {questions:?}");
                    return Err(Refusal::invalid(message).with("request_id", question_id));
                }
            };
            given.insert(question, Value::String(text));
        }
        if given.is_empty() && !questions.is_empty() {
            let message = "there is no answer in it; to decline, deny the request by permission";
            return Err(Refusal::invalid(message).with("request_id", question_id));
        }
        let mut answers = open.answers.clone();
        for (question, text) in given {
            // The first answer counts.
            answers.entry(question).or_insert(text);
        }
        let mut input = open.input();
        input.insert("answers".to_owned(), json!(answers));
        let input = Value::Object(input).to_string();
        let line = answer(question_id, &Verdict::Allow(&input));
        self.check_fits(question_id, &line)?;
        if questions.iter().any(|q| !answers.contains_key(q)) {
            self.find(question_id)?.answers = answers;
            return Ok(None);
        }
        self.take(question_id);
        Ok(Some(line))
    }

    /// Denies what has been open since before `since_ms`.
    pub(crate) fn expire(&mut self, opened_before_ms: u64, why: &str) -> Vec<Bytes> {
        let late = |open: &mut Open| open.since_ms < opened_before_ms;
        self.open
            .extract_if(.., late)
            .map(|open| answer(&open.ask.request_id, &Verdict::Deny(why)))
            .collect()
    }

    /// When the oldest was opened.
    pub(crate) fn oldest_ms(&self) -> Option<u64> {
        self.open.iter().map(|open| open.since_ms).min()
    }

    /// All grants.
    pub(crate) fn grants(&self) -> &BTreeMap<String, bool> {
        &self.grants
    }

    fn check_grant(&self, tool: &str) -> Result<(), Refusal> {
        if tool.is_empty() || tool.len() > TOOL_NAME_BYTES_MAX {
            let message = format!("tool_name has 1 to {TOOL_NAME_BYTES_MAX} bytes");
            return Err(Refusal::invalid(message));
        }
        if self.grants.len() >= GRANTS_MAX && !self.grants.contains_key(tool) {
            let message = format!("the session has {GRANTS_MAX} grants; clear some");
            return Err(Refusal::new("RESOURCE_EXHAUSTED", message).with("limit", "grants"));
        }
        Ok(())
    }

    /// Answers a tool's requests from now on; the answers to those that are open.
    ///
    /// # Errors
    /// A name that is none; too many grants.
    pub(crate) fn set_grant(&mut self, tool: &str, granted: bool) -> Result<Vec<Bytes>, Refusal> {
        self.check_grant(tool)?;
        self.grants.insert(tool.to_owned(), granted);
        let open = std::mem::take(&mut self.open);
        let mut answers = Vec::new();
        for open in open {
            match self.by_grant(&open) {
                Some(answer) => answers.push(answer),
                None => self.open.push(open),
            }
        }
        Ok(answers)
    }

    /// Forgets a tool's grant; all of them for an empty name.
    pub(crate) fn clear_grants(&mut self, tool: &str) {
        match tool {
            "" => self.grants.clear(),
            tool => {
                self.grants.remove(tool);
            }
        }
    }
}

#[cfg(test)]
mod tests;
