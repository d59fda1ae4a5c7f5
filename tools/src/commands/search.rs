//! `search`: text in messages, compacted or not.

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
    /// Upper and lower case are the same
    #[arg(long, short)]
    ignore_case: bool,
    /// Only this session (an id, a part of it, or a name)
    #[arg(long, short, value_name = "ID")]
    session: Option<String>,
    /// Only messages of this type, such as user or assistant, as `report` names them
    #[arg(long = "type", short = 't', value_name = "TYPE")]
    message_type: Option<String>,
    /// Stop after N matches
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
    let sessions = match &args.session {
        Some(text) => vec![resolve(&store, text)?],
        None => {
            let list = store.sessions(&SessionFilter::default())?;
            // What stands in those whose row is damaged may be whole.
            let damaged = list.damaged.into_iter().filter_map(|session| session.id);
            list.sessions
                .into_iter()
                .map(|s| s.id)
                .chain(damaged)
                .collect()
        }
    };
    let mut matches: Vec<Value> = Vec::new();
    let (mut found, mut searched, mut failed) = (0_u64, 0_u64, Vec::new());
    'sessions: for session in &sessions {
        let replay = match store.read(session, ReadRange::all()) {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                failed.push(not_searched(context.out, session, error.into()));
                continue 'sessions;
            }
            // Deleted since the sessions were listed.
            Err(StoreError::SessionNotFound { .. }) if args.session.is_none() => continue,
            replay => replay?,
        };
        let mut is_damaged = false;
        for message in replay {
            if context.interrupt.raised() || context.out.reader_gone() || found >= args.limit {
                break 'sessions;
            }
            let message = match message {
                Ok(message) => message,
                // Behind the damage it goes on.
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    if !is_damaged {
                        failed.push(not_searched(context.out, session, error.into()));
                    }
                    is_damaged = true;
                    continue;
                }
                Err(StoreError::SessionNotFound { .. }) if args.session.is_none() => {
                    continue 'sessions;
                }
                // What goes wrong with one session does not hide what the others hold.
                Err(error) => {
                    failed.push(not_searched(context.out, session, error.into()));
                    continue 'sessions;
                }
            };
            searched += 1;
            let Some(at) = pattern.find(&message.payload) else {
                continue;
            };
            let message_type = classify(&message.payload).message_type;
            let wanted = args.message_type.as_deref();
            if wanted.is_some_and(|wanted| wanted != message_type) {
                continue;
            }
            found += 1;
            let excerpt = excerpt(&message.payload, at.start(), at.end());
            if context.global.json {
                let mut document = document(session, &message, &excerpt);
                document["type"] = json!(message_type);
                matches.push(document);
            }
            context
                .out
                .line(format!("{session}:{}: {excerpt}", message.sequence));
        }
    }
    context.out.json(&json!({
        "matches": matches, "searched_messages": searched, "limited": found >= args.limit,
        "failed": failed, "interrupted": context.interrupt.raised(),
    }));
    if context.interrupt.raised() {
        context.out.trouble(format!(
            "interrupted: {} searched, not all",
            format::counted(searched, "message")
        ));
        return Ok(Exit::Interrupted);
    }
    if found >= args.limit {
        context.out.remark(format!(
            "stopped after {}; --limit takes more",
            format::counted_es(args.limit, "match")
        ));
    }
    if found == 0 {
        context.out.remark(format!(
            "nothing in {} matches",
            format::counted(searched, "message")
        ));
        if let Some(wanted) = &args.message_type {
            tell_types(&store, wanted, context.out)?;
        }
    }
    Ok(match (found, failed.is_empty()) {
        (_, false) => Exit::Problems,
        (0, true) => Exit::NotFound,
        (_, true) => Exit::Ok,
    })
}

/// Says which types there are when no message has the one that was asked for.
fn tell_types(store: &Store, wanted: &str, out: &mut Out) -> Result<()> {
    let types = store.capacity_report()?.by_type;
    if types.iter().all(|known| known.message_type != wanted) {
        let known: Vec<_> = types.iter().map(|t| t.message_type.as_str()).collect();
        out.remark(format!(
            "no message has the type {wanted:?}; there are {}",
            format::on_one_line(&known.join(", "))
        ));
    }
    Ok(())
}

/// Tells of a session that could not be read, or not all of it; what a document says of it.
fn not_searched(out: &mut Out, session: &SessionId, failure: Failure) -> Value {
    out.trouble(format!(
        "not all of it searched: {session}\n  why: {failure}"
    ));
    json!({"session": session.as_str(), "why": failure.to_string()})
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

/// The match with what stands around it, on one line.
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
