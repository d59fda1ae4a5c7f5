//! `search`: text in messages, compacted or not.

use std::ops::ControlFlow;

use betcode_storage::classify::classify;
use betcode_storage::{ErrorKind, Message, ReadRange, SessionFilter, SessionId, Store, StoreError};
use regex::bytes::{Regex, RegexBuilder};
use serde_json::{Value, json};

use super::{Context, resolve};
use crate::error::{Exit, Failure, Result};
use crate::limits::EXCERPT_CHARS_MAX;
use crate::output::{Out, format};

/// Find text in messages, compacted or not
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prints SESSION:SEQUENCE: and an excerpt for each message that matches. Every message is \
read, so it takes as long as a replay. Exit code 3 when nothing matches.")]
pub struct Args {
    /// The text, as it stands in the JSON line; not empty
    pattern: String,
    /// The text is a regular expression
    #[arg(long, short = 'e')]
    regex: bool,
    /// Ignore case
    #[arg(long, short)]
    ignore_case: bool,
    /// Search only this session: its id, unique part of it, or name
    #[arg(long, short, value_name = "ID")]
    session: Option<String>,
    /// Only messages of this type, such as user or assistant, as `report` names them
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    message_type: Option<String>,
    /// Stop after this many matches
    #[arg(long, short = 'n', value_name = "N", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    if args.pattern.is_empty() {
        return Err(Failure::new(Exit::Usage, "there is no text to search for")
            .why("every message has the empty text in it")
            .hint("give some text; `betcode-db cat SESSION` writes all lines of a session"));
    }
    let pattern = compile(args)?;
    let store = context.open_read_only()?;
    let mut search = Search {
        store: &store,
        args,
        pattern,
        context,
        matches: Vec::new(),
        found: 0,
        searched: 0,
        failed: Vec::new(),
    };
    for session in sessions_to_search(&store, args)? {
        if search.session(&session)?.is_break() {
            break;
        }
    }
    search.finish()
}

fn sessions_to_search(store: &Store, args: &Args) -> Result<Vec<SessionId>> {
    if let Some(text) = &args.session {
        return Ok(vec![resolve(store, text)?]);
    }
    let list = store.sessions(&SessionFilter::default())?;
    // The messages of sessions whose rows are damaged may be whole.
    let damaged = list.damaged.into_iter().filter_map(|session| session.id);
    let ids = list.sessions.into_iter().map(|session| session.id);
    Ok(ids.chain(damaged).collect())
}

/// A search under way.
struct Search<'a, 'c> {
    store: &'a Store,
    args: &'a Args,
    pattern: Regex,
    context: Context<'c>,
    /// Documents of the matches, for JSON.
    matches: Vec<Value>,
    found: u64,
    /// Messages looked at.
    searched: u64,
    /// Documents of the sessions that could not be read, or not all of them.
    failed: Vec<Value>,
}

impl Search<'_, '_> {
    /// Searches a session. A failure is noted and does not end the search of the others.
    fn session(&mut self, session: &SessionId) -> Result<ControlFlow<()>> {
        // A session that was deleted since the listing is skipped.
        let is_listed = self.args.session.is_none();
        let replay = match self.store.read(session, ReadRange::all()) {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                self.not_searched(session, error.into());
                return Ok(ControlFlow::Continue(()));
            }
            Err(StoreError::SessionNotFound { .. }) if is_listed => {
                return Ok(ControlFlow::Continue(()));
            }
            replay => replay?,
        };
        let mut is_damaged = false;
        for message in replay {
            if self.is_over() {
                return Ok(ControlFlow::Break(()));
            }
            match message {
                Ok(message) => self.message(session, &message),
                // The replay continues after the damage.
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    if !is_damaged {
                        self.not_searched(session, error.into());
                    }
                    is_damaged = true;
                }
                Err(StoreError::SessionNotFound { .. }) if is_listed => break,
                Err(error) => {
                    self.not_searched(session, error.into());
                    break;
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn is_over(&self) -> bool {
        self.context.interrupt.raised() || self.context.out.reader_gone() || self.is_limited()
    }

    fn is_limited(&self) -> bool {
        self.found >= self.args.limit
    }

    fn message(&mut self, session: &SessionId, message: &Message) {
        self.searched += 1;
        let Some(at) = self.pattern.find(&message.payload) else {
            return;
        };
        let message_type = classify(&message.payload).message_type;
        let wanted = self.args.message_type.as_deref();
        if wanted.is_some_and(|wanted| wanted != message_type) {
            return;
        }
        self.found += 1;
        let excerpt = excerpt(&message.payload, at.start(), at.end());
        if self.context.global.json {
            let mut document = document(session, message, &excerpt);
            document["type"] = json!(message_type);
            self.matches.push(document);
        }
        let line = format!("{session}:{}: {excerpt}", message.sequence);
        self.context.out.line(line);
    }

    /// Reports a session that could not be read, or not completely.
    fn not_searched(&mut self, session: &SessionId, failure: Failure) {
        let what = format!("not all of it searched: {session}");
        let why = failure.to_string();
        self.context.out.warn(what, Some(&why), None);
        let document = json!({"session": session.as_str(), "why": failure.to_string()});
        self.failed.push(document);
    }

    fn finish(self) -> Result<Exit> {
        let is_limited = self.is_limited();
        let out = self.context.out;
        let is_interrupted = self.context.interrupt.raised();
        out.json(&json!({
            "matches": self.matches, "searched_messages": self.searched, "limited": is_limited,
            "failed": self.failed, "interrupted": is_interrupted,
        }));
        let searched = format::counted(self.searched, "message");
        if is_interrupted {
            let what = format!("interrupted: {searched} searched, not all");
            out.warn(what, None, None);
            return Ok(Exit::Interrupted);
        }
        if is_limited {
            let matches = format::counted_es(self.args.limit, "match");
            out.remark(format!("stopped after {matches}; --limit takes more"));
        }
        if self.found == 0 {
            out.remark(format!("nothing in {searched} matches"));
            if let Some(wanted) = &self.args.message_type {
                show_known_types(self.store, wanted, out)?;
            }
        }
        Ok(match (self.found, self.failed.is_empty()) {
            (_, false) => Exit::Problems,
            (0, true) => Exit::NotFound,
            (_, true) => Exit::Ok,
        })
    }
}

/// If no message has the type that was asked for, shows the types that exist.
fn show_known_types(store: &Store, wanted: &str, out: &mut Out) -> Result<()> {
    let types = store.capacity_report()?.by_type;
    if types.iter().all(|known| known.message_type != wanted) {
        let known: Vec<_> = types.iter().map(|t| t.message_type.as_str()).collect();
        out.remark(format!(
            "no message has the type {wanted:?}; there are {}",
            known.join(", ")
        ));
    }
    Ok(())
}

fn compile(args: &Args) -> Result<Regex> {
    let pattern = if args.regex {
        args.pattern.clone()
    } else {
        regex::escape(&args.pattern)
    };
    RegexBuilder::new(&pattern)
        .case_insensitive(args.ignore_case)
        .build()
        .map_err(|error| {
            Failure::new(
                Exit::Usage,
                format!("{:?} is not a regular expression", args.pattern),
            )
            .why(one_line(&error.to_string()))
            .hint("leave out --regex to search for the text as it is")
        })
}

/// The last line says what is wrong, those before it point at the place.
fn one_line(text: &str) -> String {
    let last = text.lines().last().unwrap_or(text);
    last.trim_start_matches("error: ").to_owned()
}

fn document(session: &SessionId, message: &Message, excerpt: &str) -> Value {
    json!({
        "session": session.as_str(),
        "sequence": message.sequence,
        "received_ms": message.received_ms,
        "excerpt": excerpt,
    })
}

/// The match with the text around it, on one line.
fn excerpt(payload: &[u8], start: usize, end: usize) -> String {
    let around = EXCERPT_CHARS_MAX.saturating_sub(end - start) / 2;
    let (from, to) = (
        start.saturating_sub(around),
        (end + around).min(payload.len()),
    );
    let text = String::from_utf8_lossy(payload.get(from..to).unwrap_or_default());
    format::cut(text.trim_matches('\u{fffd}'), EXCERPT_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_shows_the_match_within_its_bounds() {
        let payload = [vec![b'a'; 500], b"needle".to_vec(), vec![b'b'; 500]].concat();
        let shown = excerpt(&payload, 500, 506);
        assert!(
            shown.contains("needle") && shown.chars().count() <= EXCERPT_CHARS_MAX,
            "{shown}"
        );
        assert_eq!(excerpt(b"needle", 0, 6), "needle");
    }

    #[test]
    fn an_excerpt_cut_within_a_character_stays_readable() {
        let payload = "ä".repeat(300);
        assert!(!excerpt(payload.as_bytes(), 300, 302).contains('\u{fffd}'));
    }
}
