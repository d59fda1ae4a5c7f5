//! Which sessions are written, and where.

use std::path::{Path, PathBuf};

use betcode_storage::{SessionFilter, SessionId, Store};

use super::{NotExported, explain_damage, paths};
use crate::error::{Exit, Failure, Result};

/// A session, and where it is written below the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) session: SessionId,
    /// About as many bytes as its file has.
    pub(super) bytes: u64,
    /// All of it, unless it is damaged where that is kept.
    pub(super) path: Result<PathBuf>,
    /// What can be read of it, if it is damaged.
    pub(super) salvaged: PathBuf,
}

/// Where each session is written, oldest session first, so that an older one keeps its path when a
/// newer one wants the same; and what of the sessions cannot even be named.
pub(super) fn plan(store: &Store) -> Result<(Vec<Planned>, Vec<NotExported>)> {
    let list = store.sessions(&SessionFilter::default())?;
    let mut sessions = list.sessions;
    sessions.sort_by_key(|s| s.key);
    let mut paths = paths::Paths::default();
    let mut plan = Vec::with_capacity(sessions.len());
    for session in sessions {
        let of_its_own = PathBuf::from(format!("{}.jsonl", session.id));
        let path = match store.import_of(&session.id) {
            // A session that cannot be looked up keeps no other from being written.
            Err(error) => Err(damaged_at(error.into(), &of_its_own)),
            Ok(None) => Ok(of_its_own),
            Ok(Some(record)) => paths::checked(&record.mark.relative_path).map_err(|unsafe_path| {
                let recorded = String::from_utf8_lossy(&record.mark.relative_path).into_owned();
                Failure::new(
                    Exit::Damaged,
                    format!("the recorded path {recorded:?} is not used"),
                )
                .why(unsafe_path.to_string())
                .hint("write it under a name of its own with --salvage")
            }),
        };
        let bytes = session.raw_bytes + session.messages;
        plan.push((session.id, bytes, path.map(|p| paths.claim(&p))));
    }
    let mut nameless = Vec::new();
    for damaged in list.damaged {
        let failure = Failure::from(damaged.error());
        match damaged.id {
            Some(id) => {
                let path = PathBuf::from(format!("{id}.jsonl"));
                plan.push((id, 0, Err(damaged_at(failure, &path))));
            }
            None => nameless.push(NotExported::of("(its id is damaged)".into(), failure)),
        }
    }
    // Behind all that is whole: no part of a session takes the place of another session.
    let with_salvaged = |(session, bytes, path): (SessionId, u64, Result<PathBuf>)| {
        let wanted = match &path {
            Ok(path) => paths::of_salvaged(path, &session),
            Err(_) => PathBuf::from(format!("{session}.salvaged.jsonl")),
        };
        Planned {
            salvaged: paths.claim(&wanted),
            session,
            bytes,
            path,
        }
    };
    Ok((plan.into_iter().map(with_salvaged).collect(), nameless))
}

/// A session that would stand at `path`, and whose rows are damaged.
fn damaged_at(failure: Failure, path: &Path) -> Failure {
    explain_damage(failure.during(path.display().to_string()))
}
