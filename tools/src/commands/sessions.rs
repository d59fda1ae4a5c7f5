//! `sessions`: what is recorded.

use std::path::Path;

use betcode_storage::capacity::text::elide_middle;
use betcode_storage::{Session, SessionFilter, SessionList, Store};
use clap::ValueEnum;
use serde_json::{Value, json};

use super::{Context, damaged_documents, show_damaged};
use crate::error::{Exit, Result};
use crate::limits::ABOUT_CELLS_MAX;
use crate::output::{Out, format};

/// List sessions
#[derive(Debug, clap::Args)]
#[command(after_help = "\
STORED is what the session takes in the database, also as a share of RAW. Wherever a session \
is asked for, a part of its id that no other has will do, and so will its name.")]
pub struct Args {
    /// Only sessions whose id, name, model, directory or last text contains this
    filter: Option<String>,
    /// Only sessions of this working directory
    #[arg(long, value_name = "DIR")]
    working_directory: Option<String>,
    /// At most N sessions
    #[arg(long, short = 'n', value_name = "N")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Order of the list
    #[arg(long, value_enum, default_value_t = Sort::Updated)]
    sort: Sort,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Sort {
    /// By the time of the last message, newest first; sessions without times come last
    Updated,
    /// By RAW, the bytes of their messages, biggest first
    Size,
    /// Most messages first
    Messages,
    /// By id
    Id,
}

/// Runs the command.
pub(super) fn run(args: &Args, context: Context<'_>) -> Result<Exit> {
    let store = context.open_read_only()?;
    let list = of_directory(&store, args.working_directory.as_deref())?;
    let mut sessions = list.sessions;
    if let Some(text) = &args.filter {
        sessions.retain(|s| mentions(s, text));
    }
    match args.sort {
        // By their messages' times: imported sessions were all updated today. Those without times come last.
        Sort::Updated => sessions.sort_by_key(|s| std::cmp::Reverse(s.last_time_ms)),
        Sort::Size => sessions.sort_by_key(|s| std::cmp::Reverse(s.raw_bytes)),
        Sort::Messages => sessions.sort_by_key(|s| std::cmp::Reverse(s.messages)),
        Sort::Id => sessions.sort_by(|a, b| a.id.cmp(&b.id)),
    }
    let total = sessions.len();
    let limit = args.limit.and_then(|limit| usize::try_from(limit).ok());
    sessions.truncate(limit.unwrap_or(usize::MAX));
    if context.global.json {
        let documents: Vec<Value> = sessions.iter().map(document).collect();
        let damaged = damaged_documents(&list.damaged);
        context
            .out
            .json(&json!({"total": total, "sessions": documents, "damaged": damaged}));
    }
    let filtered = args.filter.is_some() || args.working_directory.is_some();
    if sessions.is_empty() && filtered {
        context.out.line("No session matches.");
    } else {
        show(context.out, &sessions, total);
    }
    show_damaged(context.out, &list.damaged);
    Ok(if list.damaged.is_empty() {
        Exit::Ok
    } else {
        Exit::Damaged
    })
}

/// Sessions of a working directory: as agents name it, or as people do, with a slash at its end or
/// as seen from here.
fn of_directory(store: &Store, directory: Option<&str>) -> Result<SessionList> {
    let list = |working_directory: Option<String>| {
        let filter = SessionFilter {
            working_directory,
            ..SessionFilter::default()
        };
        store.sessions(&filter)
    };
    let as_given = list(directory.map(str::to_owned))?;
    let absolute = directory.and_then(|directory| std::path::absolute(directory).ok());
    match absolute.as_deref().and_then(Path::to_str) {
        Some(absolute) if as_given.sessions.is_empty() => {
            let bare = absolute.trim_end_matches('/');
            let bare = if bare.is_empty() { "/" } else { bare };
            Ok(list(Some(bare.to_owned()))?)
        }
        _ => Ok(as_given),
    }
}

fn mentions(session: &Session, text: &str) -> bool {
    let meta = &session.meta;
    let text = text.to_lowercase();
    [
        session.id.as_str(),
        &meta.name,
        &meta.model,
        &meta.working_directory,
        &session.last_preview,
    ]
    .iter()
    .any(|field| field.to_lowercase().contains(&text))
}

fn show(out: &mut Out, sessions: &[Session], total: usize) {
    if sessions.is_empty() {
        out.line("No sessions. Record some with `betcode-db import PATH`.");
        return;
    }
    out.line(format!(
        "{:<36} {:>9} {:>8} {:>8} {:>6} {:>6}",
        "SESSION", "MESSAGES", "RAW", "STORED", "", "ACTIVE"
    ));
    for session in sessions {
        for line in rows(session) {
            out.line(line);
        }
    }
    if sessions.len() < total {
        out.line(format!(
            "{} of {} shown",
            sessions.len(),
            format::counted(total as u64, "session")
        ));
    }
}

/// A session's lines. An id is never cut: a long one gets a line of its own.
fn rows(session: &Session) -> Vec<String> {
    let id = session.id.as_str();
    let mut rows = Vec::with_capacity(3);
    let id = if id.len() > 36 {
        rows.push(id.to_owned());
        ""
    } else {
        id
    };
    rows.push(format!(
        "{id:<36} {:>9} {:>8} {:>8} {:>6} {:>6}",
        format::count(session.messages),
        format::bytes(session.raw_bytes),
        format::bytes(session.stored_bytes()),
        format::share(session.stored_bytes(), session.raw_bytes).replace(' ', ""),
        format::hours(session.active_ms as f64 / 3_600_000.0).replace(' ', ""),
    ));
    let last_time = session.last_time_ms.map_or_else(
        || format!("{:<20}", "no time known"),
        |time| format!("{} UTC", format::date_time(time)),
    );
    rows.push(format!("  {last_time}  {}", about(session)));
    rows
}

/// The session's name, else its preview, else its directory.
fn about(session: &Session) -> String {
    let (name, preview) = (&session.meta.name, &session.last_preview);
    if !name.is_empty() {
        elide_middle(name, ABOUT_CELLS_MAX)
    } else if !preview.is_empty() {
        format::cut(preview, ABOUT_CELLS_MAX)
    } else {
        elide_middle(&session.meta.working_directory, ABOUT_CELLS_MAX)
    }
}

/// A session as in JSON.
pub(super) fn document(session: &Session) -> Value {
    let tokens = session.usage.tokens();
    json!({
        "session": session.id.as_str(),
        "name": session.meta.name,
        "model": session.meta.model,
        "working_directory": session.meta.working_directory,
        "worktree_id": session.meta.worktree_id,
        "agent_session_id": session.meta.agent_session_id,
        "preview": session.last_preview,
        "messages": session.messages,
        "raw_bytes": session.raw_bytes,
        "uncompacted_bytes": session.uncompacted_bytes,
        "stored_bytes": session.stored_bytes(),
        "hot_messages": session.hot_messages,
        "segments": session.segments,
        "active_hours": session.active_ms as f64 / 3_600_000.0,
        "created_ms": session.created_ms,
        "updated_ms": session.updated_ms,
        "first_time_ms": session.first_time_ms,
        "last_time_ms": session.last_time_ms,
        "usage": {
            "input_tokens": tokens.input,
            "output_tokens": tokens.output,
            "cache_read_tokens": tokens.cache_read,
            "cache_creation_tokens": tokens.cache_creation,
            "cost_usd": session.usage.cost_usd(),
        },
    })
}
